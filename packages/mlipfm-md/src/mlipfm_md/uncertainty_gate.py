"""`UncertaintyGate`: stop a simulation where its model is too uncertain, or collect the frames where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlipfm_interfaces import plugins
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import PropertyNotAvailableError, SimulationError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertainty

from .state import State

__all__ = ["UncertaintyGate"]

Array = np.ndarray


@dataclass(frozen=True)
class UncertaintyGate:
    """Limits of the largest standard deviation of a force in a structure, eV/Å (root of the summed variances of its three components).

    Attributes:
        uncertainty: fitted for `potential`, see `open_gate`. stop_above, collect_above: eV/Å; None for no limit.
    """

    potential: Potential
    uncertainty: Uncertainty
    stop_above: float | None = None
    collect_above: float | None = None

    def __post_init__(self) -> None:
        for name in ("stop_above", "collect_above"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < 1e6:
                raise SimulationError(f"the limit of the uncertainty must be positive (eV/Å), got {limit}", where=name.replace("_", "-"))
        if "forces" not in self.uncertainty.quantities:
            raise PropertyNotAvailableError(
                "this uncertainty is one of energies alone", hint="fit one for a model whose forces are the gradient of its energy"
            )

    def sigma(self, structures: Sequence[Structure], state: State) -> Array:
        """Return the largest standard deviation of a force [systems], eV/Å, at the positions of `state`."""
        spans = zip(structures, state.first[:-1], state.first[1:], state.cells, strict=True)
        here = [s.replace_trusted(positions=state.positions[a:b], cell=cell, labels={}, label_std={}) for s, a, b, cell in spans]
        return np.array([float(seen.atom_sigma.max()) for seen in self.uncertainty.predict(self.potential, here)])

    def reason(self, sigma: Array, step: int) -> str | None:
        """Return why the run must stop, if so."""
        if self.stop_above is None or not (sigma > self.stop_above).any():
            return None
        worst = int(np.argmax(sigma))
        return f"the forces of structure {worst} are uncertain by {sigma[worst]:.3g} eV/Å at step {step}, above {self.stop_above:g} eV/Å"


def open_gate(
    model: str, path: Path | str, stop_above: float | None, collect_above: float | None, method: str = "llpr"
) -> tuple[Potential, UncertaintyGate]:
    """Load a model and the uncertainty that `mlipfm uncertainty fit` wrote for it.

    Raises:
        RefusedFileError: the file is of another model. SimulationError: no limit is given.
    """
    if stop_above is None and collect_above is None:
        raise SimulationError(
            "an uncertainty without a limit changes nothing", where="--uncertainty", hint="give --stop-above or --collect-above"
        )
    potential, manifest = load_model(model)
    found = plugins.load("uncertainties", method).load(path, manifest["digest"])
    return potential, UncertaintyGate(potential, found, stop_above, collect_above)
