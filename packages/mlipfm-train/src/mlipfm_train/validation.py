"""Errors on held-out structures, with units, counts and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.label_weights import force_weights, is_defined, structure_weight
from mlipfm_interfaces.metrics import Metric, mae
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.quantities import QUANTITIES, quantity
from mlipfm_interfaces.structure import Structure

#: Structure -> quantity -> errors and their weights.
Errors = dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]

#: What is validated first: key, name of the figure, unit, factor to it. Other quantities of systems and atoms follow in their own units.
FIGURES = (
    ("forces", "force MAE", "meV/A", 1000.0),
    ("energy", "energy MAE", "meV/atom", 1000.0),
    ("stress", "stress MAE", "meV/A^3", 1000.0),
)


def validated(outputs: Sequence[str]) -> list[str]:
    """Return those of `outputs` that have a figure."""
    return [key for key in outputs if quantity(key).layout in ("system", "atom")]


def validation_errors(potential: Potential, frames: Sequence[Structure], runs: Sequence[slice], outputs: Sequence[str]) -> Errors:
    """Prediction minus label of every structure in `runs` of `frames`, by index, with its weight as the loss has it (one number, or one for each
    atom); energies per atom. What a structure has no label for, or cannot have (stress of a molecule), is left out."""
    errors: Errors = {}
    for run in runs:
        for keys, members in _askable(frames, range(run.start, run.stop), outputs).items():
            structures = [frames[k] for k in members]
            asked = [key for key in keys if any(key in s.labels for s in structures)]
            predicted = evaluate(potential, structures, asked) if asked else [{} for _ in structures]
            errors |= {k: _errors(s, values) for k, s, values in zip(members, structures, predicted, strict=True)}
    return errors


def _askable(frames: Sequence[Structure], run: Sequence[int], outputs: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Return those of `outputs` that structures can have -> their places."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for k in run:
        groups.setdefault(tuple(key for key in outputs if is_defined(frames[k], key)), []).append(k)
    return groups


def _errors(s: Structure, values: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for key in values.keys() & s.labels.keys():
        weight = structure_weight(s) * (force_weights(s) if key == "forces" else np.ones(()))
        found[key] = (values[key] - s.labels[key]) / (len(s) if key == "energy" else 1), weight
    return found


def validation_metrics(errors: Errors, groups: Sequence[Any]) -> list[Metric]:
    """Mean absolute errors, weighted as losses are, with 95 % intervals over groups; `groups` has one entry per structure."""
    metrics = []
    named = {key for key, *_ in FIGURES}
    others = [(q.key, f"{q.key} MAE", q.unit, 1.0) for q in QUANTITIES.values() if q.key not in named]
    for key, name, unit, factor in (*FIGURES, *others):
        having = [k for k in sorted(errors) if key in errors[k] and errors[k][key][1].any()]
        if having:
            scaled, weights = [factor * errors[k][key][0] for k in having], [errors[k][key][1] for k in having]
            zeros = [np.zeros_like(e) for e in scaled]
            metrics.append(mae(scaled, zeros, [groups[k] for k in having], name=name, unit=unit, weights=weights))
    return metrics


def score(metrics: Sequence[Metric]) -> float:
    """Return what the best model is best in: the force error, or the energy error where there are no forces; infinite if anything failed."""
    first = metrics[0]
    return first.value if first.failed == 0 and np.isfinite(first.value) else float("inf")
