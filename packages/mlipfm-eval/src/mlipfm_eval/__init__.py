"""Evaluation of potentials: errors with intervals, energy conservation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy import Cases, Predictions, error_metrics, force_error_ratio, predict
    from .check import Outcome, broken, check_model, check_record, held_to
    from .comparison import Difference, compared, differences
    from .conservation import Conservation, nve_drift
    from .evaluation import Evaluated, LabelledSet, evaluate_set, evaluation_record, ood_ratio, open_sets, penalised
    from .evaluation_page import write_evaluation_page
    from .opening import Opened, opened
    from .report import write_report
    from .rotations import rotation_metrics

__all__ = [
    "Cases", "Conservation", "Difference", "Evaluated", "LabelledSet", "Opened", "Outcome", "Predictions", "broken", "check_model",
    "check_record", "compared", "differences", "error_metrics", "evaluate_set", "evaluation_record", "force_error_ratio", "held_to",
    "nve_drift", "ood_ratio", "open_sets", "opened", "penalised", "predict", "rotation_metrics", "write_evaluation_page", "write_report",
]  # fmt: skip

_HOMES = {
    "accuracy": ("Cases", "Predictions", "error_metrics", "force_error_ratio", "predict"),
    "check": ("Outcome", "broken", "check_model", "check_record", "held_to"),
    "comparison": ("Difference", "compared", "differences"),
    "conservation": ("Conservation", "nve_drift"),
    "evaluation": ("Evaluated", "LabelledSet", "evaluate_set", "evaluation_record", "ood_ratio", "open_sets", "penalised"),
    "evaluation_page": ("write_evaluation_page",),
    "opening": ("Opened", "opened"),
    "report": ("write_report",),
    "rotations": ("rotation_metrics",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import public names when they are used: `import mlipfm_eval` alone stays light."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
