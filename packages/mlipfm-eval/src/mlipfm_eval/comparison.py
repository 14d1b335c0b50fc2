"""`mlipfm compare`: errors of two models or more on the same data, by paired differences with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlipfm_interfaces import metrics
from mlipfm_interfaces.benchmark import open_model
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import MlipfmError, OptionError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.metrics import Metric
from rich.markup import escape
from rich.table import Table

from ._training_overlap import overlap_text
from .accuracy import evaluate_sets, label_error_lines
from .data_sets import open_sets
from .evaluation import Evaluation, figure_text
from .prediction_errors import LESS_CONSTANTS, Predictions, _Quantity, error_less_constants
from .report import _FIGURES

_Verdict = Literal["better", "worse", "no difference seen", "no interval", "zeros differ"]

_NAMES: dict[_Quantity, tuple[str, str]] = {"energy": ("energy", "meV/atom"), "forces": ("force", "meV/Å"), "stress": ("stress", "meV/Å³")}


@dataclass(frozen=True)
class Difference:
    """An error of one model less that of the first model, on the structures that both predicted.

    Attributes:
        key: `force_mae`, `energy_rmse`, ... metric: of the difference; negative is better. cases: [predicted by both, with the label].
        other_zero: energies of a model have another zero than those of the labels, and the difference is that of zeros.
    """

    key: str
    metric: Metric
    other_zero: bool = False

    @property
    def verdict(self) -> _Verdict:
        """Compare by the 95 % interval: `no difference seen` if it holds zero."""
        if self.other_zero:
            return "zeros differ"
        if self.metric.ci95 is None:
            return "no interval"
        low, high = self.metric.ci95
        return "better" if high < 0 else "worse" if low > 0 else "no difference seen"


def differences(one: Predictions, base: Predictions) -> list[Difference]:
    """Return errors of `one` less those of `base` on the same structures, MAE and RMSE of every label that is there.

    Where the energies of a model have another zero than those of the labels, also of energies less fitted constants of the
    elements, which decides.

    Groups are drawn for both at once (paired bootstrap), so that what is hard for both cancels. A structure counts where both gave a prediction.

    Raises:
        MlipfmError: if they are not of the same structures.
    """
    if [s.key for s in one.structures] != [s.key for s in base.structures]:
        raise MlipfmError("two models are compared on the same structures", hint="evaluate both on one set")
    found = []
    for key, cases in base.cases.items():
        other = one.cases.get(key)
        if other is None or other.rows != cases.rows:
            continue  # one of them has no stress
        name, unit = _NAMES[key]
        groups = [base.resampled[k] for k in cases.rows]
        other_zero = key == "energy" and any(p.energies_less_constants is not None for p in (one, base))
        for error in ("mae", "rmse"):
            options: dict[str, Any] = {"error": error, "how": "difference", "name": f"{name} {error.upper()}", "unit": unit}
            compared = metrics.compare(other.predicted, cases.predicted, cases.reference, groups, **options)
            found.append(Difference(f"{name}_{error}", compared, other_zero))
        if other_zero and one.energies_less_fit is not None and base.energies_less_fit is not None:
            options = {"error": "mae", "how": "difference", "name": LESS_CONSTANTS, "unit": unit}
            compared = metrics.compare(one.energies_less_fit, base.energies_less_fit, cases.reference, groups, **options)
            found.append(Difference("energy_mae_shifted", compared))
    return found


def compared(results: Sequence[Sequence[Evaluation]]) -> list[list[list[Difference]]]:
    """Return for each model after the first, for each set, its differences from the first model. `results` [models][sets]."""
    first = results[0]
    return [[differences(r.predictions, base.predictions) for r, base in zip(row, first, strict=True)] for row in results[1:]]


def compare_models(
    models: Sequence[str], data: Sequence[Path | str], level: str | None, out: Path | str | None, reading: Mapping[str, Any]
) -> None:
    """Evaluate every model on the same data, print paired differences from the first, and write them to `out` (JSON)."""
    if len(models) < 2:
        raise OptionError("a comparison needs two models or more", hint="mlipfm compare A B --data STORE")
    sets, console = open_sets(data, (), level, **reading), open_console()
    results: list[list[Evaluation]] = []
    for address in models:
        with open_model(address) as model:
            results.append(evaluate_sets(model, sets, level))
    rows = compared(results)
    for k, data_set in enumerate(sets):
        base = results[0][k]
        shown = Table(title=f"{data_set.name}: {len(data_set.structures)} structures; {base.predictions.interval_over}")
        for name in ("error", escape(str(models[0])), *(f"{escape(str(m))}\nless the first: outcome" for m in models[1:])):
            shown.add_column(name, justify="left" if name == "error" else "right")
        for key in [key for key in _FIGURES if any(d.key == key for row in rows for d in row[k])]:
            cells = [_cell(results[m][k], next((d for d in rows[m - 1][k] if d.key == key), None), key) for m in range(1, len(models))]
            shown.add_row(_FIGURES[key].replace(" less", "\nless"), figure_text(_error(base, key)), *cells)
        console.print(shown)
        for line in label_error_lines(data_set):
            console.print(line, soft_wrap=True)
        for address, model_results in zip(models, results, strict=True):
            if model_results[k].seen:
                console.print(
                    f"{escape(str(address))}: {escape(overlap_text(model_results[k].seen, len(data_set.structures)))}", style="bold red"
                )
            for reason, n in model_results[k].reasons.items():
                console.print(
                    f"{escape(str(address))}: {n} structures without a prediction, which count for no model: {escape(reason)}",
                    style="yellow",
                )
    if out is not None:
        atomic_write(out, (json.dumps(_document(models, results, rows), indent=1) + "\n").encode())
        console.print(f"written: {escape(str(out))}")


def _error(result: Evaluation, key: str) -> Metric | None:
    return error_less_constants(result.predictions) if key == "energy_mae_shifted" else result.figures.get(key)


def _cell(result: Evaluation, difference: Difference | None, key: str) -> str:
    own = figure_text(_error(result, key))
    return own if difference is None else f"{own}\n{figure_text(difference.metric)}: {difference.verdict}"


def _document(
    models: Sequence[str], results: Sequence[Sequence[Evaluation]], rows: Sequence[Sequence[Sequence[Difference]]]
) -> list[dict[str, Any]]:
    return [
        difference.metric.as_dict()
        | {"key": difference.key, "set": result.set.name, "model": str(model), "baseline": str(models[0]), "verdict": difference.verdict}
        for model, own, per_set in zip(models[1:], results[1:], rows, strict=True)
        for result, found in zip(own, per_set, strict=True)
        for difference in found
    ]
