"""Evaluation of potentials: benchmarks, model checks, comparisons, uncertainty and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from ._model_checks import MODEL_CHECKS, ModelCheck
    from .accuracy import evaluate_sets
    from .benchmarks import InstalledBenchmark, list_benchmarks, run_by_name
    from .check import Outcome, broken, check_model, check_record, held_to, rules_of
    from .comparison import Difference, compare_models, compared, differences
    from .data_sets import LabelledSet, open_sets
    from .energy_drift import Conservation, nve_drift
    from .evaluation import Evaluation, evaluate_set, evaluation_record, ood_ratio, penalised
    from .prediction_errors import Cases, Predictions, error_metrics, force_error_ratio, predict
    from .report import report_html, write_report
    from .report_data import Found, TrainingRun, read_folder
    from .rotations import rotation_metrics
    from .uncertainty import Calibration, calibration, fit_uncertainty

__all__ = [
    "MODEL_CHECKS",
    "Calibration",
    "Cases",
    "Conservation",
    "Difference",
    "Evaluation",
    "Found",
    "InstalledBenchmark",
    "LabelledSet",
    "ModelCheck",
    "Outcome",
    "Predictions",
    "TrainingRun",
    "broken",
    "calibration",
    "check_model",
    "check_record",
    "compare_models",
    "compared",
    "differences",
    "error_metrics",
    "evaluate_set",
    "evaluate_sets",
    "evaluation_record",
    "fit_uncertainty",
    "force_error_ratio",
    "held_to",
    "list_benchmarks",
    "nve_drift",
    "ood_ratio",
    "open_sets",
    "penalised",
    "predict",
    "read_folder",
    "report_html",
    "rotation_metrics",
    "rules_of",
    "run_by_name",
    "write_report",
]

_OLD = {
    "Evaluated": (".evaluation", "Evaluation"),
    "Opened": ("mlipfm_interfaces.benchmark", "mlipfm_interfaces.benchmark.OpenModel"),
    "opened": ("mlipfm_interfaces.benchmark", "mlipfm_interfaces.benchmark.open_model"),
    "write_evaluation_page": ("._deprecated", "report_html"),
}
__getattr__, __dir__ = lazy_imports(__name__, _OLD)
