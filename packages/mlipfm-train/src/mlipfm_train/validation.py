"""Errors on held-out structures, with units, counts and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.metrics import Metric, mae
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.quantities import QUANTITIES, quantity
from mlipfm_interfaces.structure import Structure

Errors = dict[int, dict[str, np.ndarray]]

#: What is validated first: key, name of the figure, unit, factor to it. Other quantities of systems and atoms follow in their own units.
FIGURES = (
    ("forces", "force MAE", "meV/A", 1000.0),
    ("energy", "energy MAE", "meV/atom", 1000.0),
    ("stress", "stress MAE", "meV/A^3", 1000.0),
)


def validated(outputs: Sequence[str]) -> list[str]:
    """Those of `outputs` that have a figure."""
    return [key for key in outputs if quantity(key).layout in ("system", "atom")]


def validation_errors(potential: Potential, frames: Sequence[Structure], runs: Sequence[slice], outputs: Sequence[str]) -> Errors:
    """Prediction minus label of every structure in `runs` of `frames`, by index; energies per atom. Structures without a label are left out."""
    errors: Errors = {}
    for run in runs:
        structures = [frames[k] for k in range(run.start, run.stop)]
        asked = [key for key in outputs if any(key in s.labels for s in structures)]
        predicted = evaluate(potential, structures, asked) if asked else [{} for _ in structures]
        for k, (s, values) in enumerate(zip(structures, predicted, strict=True), start=run.start):
            errors[k] = {key: (values[key] - s.labels[key]) / (len(s) if key == "energy" else 1) for key in asked if key in s.labels}
    return errors


def validation_metrics(errors: Errors, groups: Sequence[Any]) -> list[Metric]:
    """Mean absolute errors with 95 % intervals over groups; `groups` has one entry per structure."""
    metrics = []
    named = {key for key, *_ in FIGURES}
    others = [(q.key, f"{q.key} MAE", q.unit, 1.0) for q in QUANTITIES.values() if q.key not in named]
    for key, name, unit, factor in (*FIGURES, *others):
        having = [k for k in sorted(errors) if key in errors[k]]
        if having:
            scaled = [factor * errors[k][key] for k in having]
            metrics.append(mae(scaled, [np.zeros_like(e) for e in scaled], [groups[k] for k in having], name=name, unit=unit))
    return metrics


def score(metrics: Sequence[Metric]) -> float:
    """What the best model is best in: the force error, or the energy error where there are no forces; infinite if anything failed."""
    first = metrics[0]
    return first.value if first.failed == 0 and np.isfinite(first.value) else float("inf")
