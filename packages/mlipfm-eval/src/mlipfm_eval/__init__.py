"""Evaluation of potentials: benchmarks, model checks, comparisons, uncertainty and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from ._model_checks import MODEL_CHECKS as MODEL_CHECKS, ModelCheck as ModelCheck
    from .accuracy import evaluate_sets as evaluate_sets
    from .benchmarks import InstalledBenchmark as InstalledBenchmark, list_benchmarks as list_benchmarks, run_by_name as run_by_name
    from .check import (
        Outcome as Outcome,
        broken as broken,
        check_model as check_model,
        check_record as check_record,
        require_properties as require_properties,
        rules_of as rules_of,
    )
    from .closed_loops import force_floor as force_floor, loop_work as loop_work
    from .comparison import Difference as Difference, compare_models as compare_models, compared as compared, differences as differences
    from .data_sets import LabelledSet as LabelledSet, open_sets as open_sets
    from .energy_drift import Conservation as Conservation, nve_drift as nve_drift
    from .evaluation import (
        Evaluation as Evaluation,
        evaluate_set as evaluate_set,
        evaluation_record as evaluation_record,
        ood_ratio as ood_ratio,
        penalised as penalised,
    )
    from .prediction_errors import (
        Cases as Cases,
        Predictions as Predictions,
        error_metrics as error_metrics,
        force_error_ratio as force_error_ratio,
        predict as predict,
    )
    from .report import report_html as report_html, write_report as write_report
    from .report_data import Found as Found, TrainingRun as TrainingRun, read_folder as read_folder
    from .rotations import rotation_metrics as rotation_metrics
    from .uncertainty import Calibration as Calibration, calibration as calibration, fit_uncertainty as fit_uncertainty

_OLD = {
    "Evaluated": (".evaluation", "Evaluation"),
    "Opened": ("mlipfm_interfaces.benchmark", "mlipfm_interfaces.benchmark.OpenModel"),
    "held_to": (".check", "require_properties"),
    "opened": ("mlipfm_interfaces.benchmark", "mlipfm_interfaces.benchmark.open_model"),
    "write_evaluation_page": ("._deprecated", "report_html"),
}
__getattr__, __dir__, __all__ = lazy_imports(__name__, _OLD)
