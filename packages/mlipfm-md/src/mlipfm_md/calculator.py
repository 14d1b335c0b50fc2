"""ASE calculator for every mlipfm potential.

Charge and multiplicity are read from `atoms.info` under all usual names (see `state_keys`); results are cached on everything that was used,
`info` included, and the user's Atoms are never written to. It is a plain class with ASE's mixin instead of `ase.calculators.calculator.Calculator`:
for small molecules that base class costs more time than the model (copies and comparisons).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress
from mlipfm_interfaces.batch import Batch, at_positions, collate
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.plausibility import warn_if_implausible
from mlipfm_interfaces.potential import Potential, check_elements, device_of
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.undetermined import warn_if_undetermined

__all__ = ["MlipfmCalculator"]

#: ASE's names of the outputs of a model, and which of these belong to the system and not to its atoms.
_ASE_NAMES = {"energy": "energy", "free_energy": "energy", "forces": "forces", "stress": "stress", "energies": "atomic_energies",
              "dipole": "dipole", "charges": "charges", "magmoms": "magnetic_moments"}  # fmt: skip
_OF_THE_SYSTEM = ("energy", "stress", "dipole")

#: What an answer depends on, in the order of `MlipfmCalculator._state`.
_STATE = ("numbers", "positions", "cell", "pbc", "info", "parameters")


@dataclass(frozen=True)
class _Answer:
    """Results (never changed once made), what they are the results of, and what the next calculation can use again.

    Attributes:
        used: see `_STATE`. outputs: that were computed; the next calculation gives them again, so that a stress that is asked after the forces in
            each step of a simulation costs no second calculation.
    """

    used: tuple[np.ndarray, ...]
    atoms: Atoms
    results: dict[str, Any]
    batch: Batch
    outputs: frozenset[str]


class MlipfmCalculator(GetPropertiesMixin):
    """Energy, forces and stress of Atoms from a potential.

    Args:
        model: a Potential, or the path or address of a model checkpoint.
        level: level of theory to predict; needed if the model has several.
        charge, multiplicity: used where `atoms.info` states none.
        strict: refuse structures that look like a mistake (atoms pushed into each other or all alone, a charge that the model does not know)
            instead of warning.

    Results: `energy` and `free_energy` eV, `forces` eV/Å, `stress` eV/Å³ in Voigt order xx, yy, zz, yz, xz, xy (ASE's sign), and `energies`
    (per atom), `dipole`, `charges`, `magmoms` where the model has them.
    """

    name = "mlipfm"

    def __init__(
        self,
        model: Potential | str | Path,
        *,
        level: str | None = None,
        charge: int | None = None,
        multiplicity: int | None = None,
        strict: bool = False,
    ) -> None:
        if not isinstance(model, Potential):
            from mlipfm_interfaces.checkpoint import load_potential

            model = load_potential(model)
        self.potential = model.eval()
        self.level, self.charge, self.multiplicity, self.strict = level, charge, multiplicity, strict
        self.implemented_properties = [ase for ase, key in _ASE_NAMES.items() if key in model.spec.outputs]
        self._answer: _Answer | None = None

    @property
    def results(self) -> dict[str, Any]:
        """Of the last calculation, under ASE's names."""
        return {} if self._answer is None else self._answer.results

    @property
    def atoms(self) -> Atoms | None:
        """A copy of the Atoms of the last calculation."""
        return None if self._answer is None else self._answer.atoms

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return one property of `atoms`, computed if something it depends on has changed. Threads may share a calculator.

        Raises:
            PropertyNotImplementedError: as ASE expects, for a property this model or this system does not have.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"{name} is not predicted by this model; it predicts {', '.join(self.implemented_properties)}"
            )
        answer = self._answer  # read once: another thread may replace it, but never changes it
        atoms = answer.atoms if atoms is None and answer is not None else atoms
        if atoms is None:
            raise PropertyNotImplementedError("no atoms were given")
        if answer is None or name not in answer.results or self._changed(answer, atoms):
            if not allow_calculation:
                return None
            answer = self._answer = self._calculated(atoms, [name])
        value = answer.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculation_required(self, atoms: Atoms, properties: list[str], system_changes: list[str] | None = None) -> bool:
        """Say whether `atoms`, or the charge or multiplicity in its info, differ from those of the cached results."""
        return bool(self.check_state(atoms)) or any(name not in self.results for name in properties)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Name what changed since the last calculation; every value the model reads is compared, `info` included."""
        return list(_STATE) if self._answer is None else self._changed(self._answer, atoms)

    def calculate(self, atoms: Atoms, properties: list[str] | None = None, system_changes: list[str] | None = None) -> None:
        """Compute what is asked and what was asked of the same system before, with energy and forces always."""
        self._answer = self._calculated(atoms, properties or [])

    def _changed(self, answer: _Answer, atoms: Atoms) -> list[str]:
        return [name for name, old, new in zip(_STATE, answer.used, self._state(atoms), strict=True) if not np.array_equal(old, new)]

    def _calculated(self, atoms: Atoms, properties: list[str]) -> _Answer:
        before = self._answer
        changed = list(_STATE) if before is None else self._changed(before, atoms)
        same = before if not set(changed) - {"positions", "cell"} else None  # the system of the last calculation, if it is still that
        outputs = self._outputs(atoms, properties, same)
        if same is None or "cell" in changed or same.batch.positions.device != device_of(self.potential):
            batch = self._collated(self.to_structure(atoms))
        elif changed:
            if not np.isfinite(atoms.positions).all():
                self.to_structure(atoms)  # refuses it, naming the atom
            batch = at_positions(same.batch, atoms.positions)
        else:
            batch = same.batch
        return _Answer(self._copied_state(atoms), atoms.copy(), self._predicted(batch, outputs), batch, outputs)

    def _outputs(self, atoms: Atoms, properties: list[str], same: _Answer | None) -> frozenset[str]:
        """What to compute: what is asked, and what was asked of the same system before."""
        if "stress" in properties and not atoms.pbc.all():
            raise PropertyNotImplementedError("the stress needs three periodic directions")
        wanted = {"energy", "forces"} | {_ASE_NAMES[name] for name in properties} | (same.outputs if same is not None else frozenset())
        return frozenset(wanted & set(self.potential.spec.outputs))

    def _collated(self, structure: Structure) -> Batch:
        """The batch of a system that is new to the calculator, with the warnings that a simulation gives once."""
        spec = self.potential.spec
        check_elements(spec, [structure])
        batch = collate([structure], spec.graphs, spec.torch_dtype, device_of(self.potential))
        widest = max(spec.graphs, key=lambda graph: graph.cutoff)
        pairs = batch.views[widest].pairs()
        warn_if_implausible(structure, widest.cutoff, spec.conditions, pairs=pairs, strict=self.strict, stacklevel=5)
        if self.potential.config.get("undetermined"):
            warn_if_undetermined(self.potential, [structure], stacklevel=5)
        return batch

    def _predicted(self, batch: Batch, outputs: frozenset[str]) -> dict[str, Any]:
        """Results under ASE's names."""
        training = self.potential.training
        try:
            prediction = self.potential.eval()(batch, sorted(outputs))
        except PropertyNotAvailableError as error:
            raise PropertyNotImplementedError(str(error)) from error
        finally:
            self.potential.train(training)
        row = {key: prediction[key].detach().to("cpu", torch.float64).numpy() for key in outputs}
        row |= {key: row[key][0] for key in _OF_THE_SYSTEM if key in row}
        results: dict[str, Any] = {name: row[key] if row[key].ndim else float(row[key]) for name, key in _ASE_NAMES.items() if key in row}
        return results | ({"stress": full_3x3_to_voigt_6_stress(row["stress"])} if "stress" in row else {})

    def to_structure(self, atoms: Atoms) -> Structure:
        """Return the Structure the model sees: charge and multiplicity from `atoms.info`, else those given to the calculator."""
        charge, multiplicity = charge_and_multiplicity(atoms.info) if atoms.info else (None, None)
        return Structure(
            atoms.numbers,
            atoms.positions,
            np.asarray(atoms.cell),
            atoms.pbc,
            self.charge if charge is None else charge,
            self.multiplicity if multiplicity is None else multiplicity,
            level=self.level,
        )

    def reset(self) -> None:
        """Forget cached results."""
        self._answer = None

    def todict(self) -> dict[str, Any]:
        """Return what ASE databases write beside the results."""
        return {"level": self.level, "charge": self.charge, "multiplicity": self.multiplicity}

    @property
    def parameters(self) -> dict[str, Any]:
        """ASE's name for the settings of a calculator."""
        return self.todict()

    def _state(self, atoms: Atoms) -> tuple[Any, ...]:
        charge, multiplicity = charge_and_multiplicity(atoms.info) if atoms.info else (None, None)
        said = [np.nan if value is None else float(value) for value in (charge, multiplicity)]
        chosen = np.array([str(self.level), str(self.charge), str(self.multiplicity)])
        return atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, np.nan_to_num(said, nan=-1e9), chosen

    def _copied_state(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return tuple(np.copy(part) for part in self._state(atoms))
