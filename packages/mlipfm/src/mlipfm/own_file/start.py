"""What a fine-tuning starts from: the level of theory of the model that is nearest to the labels, found by its errors on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import MlipfmError, PropertyNotAvailableError, UnitError, UnknownElementError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level
from mlipfm_interfaces.units import factor, known_units

from .request import Request

#: Structures on which the levels of the model are compared.
COMPARED = 40
#: Correlation of predicted and labelled forces from which on the slope between them is that of units and signs, and not of errors.
CORRELATED = 0.8
#: A slope within this factor of that of a unit is explained by it.
WITHIN = 1.2


@dataclass(frozen=True)
class Start:
    """Where a fine-tuning starts.

    Attributes:
        keys: of the recipe. level: of the model that it starts from. lines: for people.
    """

    keys: dict[str, Any]
    level: str
    lines: tuple[str, ...]


def start_from_model(request: Request, structures: Sequence[Structure], level: str, keep_levels: bool = False) -> Start:
    """Compare the model with some of the labels at each of its levels, and say which one is nearest.

    Args:
        structures: training structures. level: of their labels. keep_levels: also of the model, for replay.

    Raises:
        UnknownElementError: elements that the model does not support, unless they shall be new. UnitError: forces that are those of the model in
        another unit or with the other sign. What `load_model` raises.
    """
    potential, manifest = load_model(str(request.model))
    _check_elements(request, potential, structures)
    known = [s for s in structures if set(s.atomic_numbers.tolist()) <= set(potential.spec.elements)]
    picks = [known[k] for k in sorted({int(k) for k in np.linspace(0, len(known) - 1, COMPARED)})] if known else []
    errors = {name: _force_error(potential, picks, name) for name in potential.spec.levels}
    same = find_level(level, potential.spec.levels)
    nearest = same or min(errors, key=lambda name: errors[name])
    shown = ", ".join(f"{name} {1000 * error:.0f} meV/Å" for name, error in errors.items() if np.isfinite(error))
    lines = [f"starts from {request.model} ({potential.plugin}, digest {str(manifest['digest'])[:12]})"]
    if shown:
        lines.append(f"mean force error of the model on these labels, by its level of theory: {shown}")
    if same is None:
        lines.append(
            f"level {level!r} is new to the model: it starts from {nearest!r}, with atomic reference energies fitted to your energies"
        )
    if picks and not request.accept_label_errors:
        _check_scale(request, potential, picks, nearest)
    levels = (
        [*potential.spec.levels, level] if keep_levels and same is None else list(potential.spec.levels) if keep_levels else [same or level]
    )
    heads = {} if request.quantity is None else {"heads": {**potential.config.get("heads", {}), request.quantity: {}}}
    keys: dict[str, Any] = {"init_from": str(request.model), "potential": {"forces": "conservative", **heads}}
    if "levels" in potential.config:
        keys["potential"]["levels"] = levels
    if same is None:
        keys["level_starts"] = {level: nearest}
    return Start(keys, nearest, tuple(lines))


def _check_elements(request: Request, potential: Potential, structures: Sequence[Structure]) -> None:
    unknown = sorted({int(z) for s in structures for z in np.unique(s.atomic_numbers)} - set(potential.spec.elements))
    if unknown and not request.new_elements:
        names = " ".join(map(symbol, potential.spec.elements))
        raise UnknownElementError(
            f"the file has {' '.join(map(symbol, unknown))}, which the model does not support",
            where=str(request.file),
            hint=f"it supports {names}; --new-elements learns them from your data alone, `mlipfm train FILE` trains without the model",
        )


def _force_error(potential: Potential, structures: Sequence[Structure], level: str) -> float:
    """Mean absolute error of the force components, eV/Å; infinite where nothing can be compared."""
    pairs = _forces(potential, structures, level)
    return float(np.mean(np.abs(pairs[0] - pairs[1]))) if pairs[0].size else float("inf")


def _forces(potential: Potential, structures: Sequence[Structure], level: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and labelled force components of the structures that have forces."""
    labelled = [s for s in structures if "forces" in s.labels]
    if "forces" not in potential.spec.outputs:
        raise PropertyNotAvailableError("the model predicts no forces", hint="start from another model")
    try:
        predicted = [evaluate(potential, [s], ("forces",), level=level)[0]["forces"] for s in labelled]
    except MlipfmError:
        return np.zeros(0), np.zeros(0)
    empty = [np.zeros(0)]
    return np.concatenate(empty + [p.ravel() for p in predicted]), np.concatenate(empty + [s.labels["forces"].ravel() for s in labelled])


def _check_scale(request: Request, potential: Potential, structures: Sequence[Structure], level: str) -> None:
    """Compare the size of the labels with that of the predictions: what differs by the factor of a unit is in that unit."""
    predicted, labels = _forces(potential, structures, level)
    if predicted.size < 9 or not predicted.any() or not labels.any():
        return
    correlation = float(np.corrcoef(predicted, labels)[0, 1])
    if abs(correlation) < CORRELATED:
        return
    slope = float(np.sqrt(np.mean(labels**2) / np.mean(predicted**2))) * float(np.sign(correlation))
    figures = f"the forces are {slope:.3g} times those that the model predicts, correlation {correlation:.2f}"
    accept = "--accept-label-errors trains on them as they are"
    if slope < 0:
        raise UnitError(
            f"forces-sign: {figures}", where=str(request.file), hint=f"they look like gradients: --read forces_sign=-1; {accept}"
        )
    for unit in known_units("forces"):
        if unit not in ("eV/Angstrom", "eV/bohr") and abs(np.log(slope * factor(unit, "forces"))) < np.log(WITHIN):
            raise UnitError(
                f"forces-unit: {figures}", where=str(request.file), hint=f"--read forces_unit={unit}, and see the energies; {accept}"
            )
