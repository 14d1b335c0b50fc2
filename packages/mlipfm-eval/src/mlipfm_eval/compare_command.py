"""The work behind `mlipfm compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write
from rich.markup import escape
from rich.table import Table

from .comparison import Difference, compared
from .evaluate_command import evaluated, figure
from .evaluation import Evaluated, open_sets, seen_text
from .evaluation_page import FIGURES
from .opening import opened


def run(models: Sequence[str], data: Sequence[Path], level: str | None, out: Path | None, reading: Mapping[str, Any]) -> None:
    """Evaluate every model on the same data and print paired differences from the first."""
    if len(models) < 2:
        raise MlipfmError("a comparison needs two models or more", mend="mlipfm compare A B --data STORE")
    sets, console = open_sets(data, [], level, **reading), open_console()
    results: list[list[Evaluated]] = []
    for address in models:
        with opened(address) as model:
            results.append(evaluated(model, sets, level, console))
    rows = compared(results)
    for k, data_set in enumerate(sets):
        base = results[0][k]
        shown = Table(title=f"{data_set.name}: {len(data_set.structures)} structures; {base.predictions.interval_over}")
        for name in ("error", escape(str(models[0])), *(f"{escape(str(m))}\nless the first: verdict" for m in models[1:])):
            shown.add_column(name, justify="left" if name == "error" else "right")
        for key in [key for key in FIGURES if key in base.figures]:
            cells = [_cell(results[m][k], next((d for d in rows[m - 1][k] if d.key == key), None), key) for m in range(1, len(models))]
            if key.endswith(("_mae", "_rmse")):
                shown.add_row(FIGURES[key], figure(base.figures[key]), *cells)
        console.print(shown)
        for address, model_results in zip(models, results, strict=True):
            if model_results[k].seen:
                console.print(f"{escape(str(address))}: {escape(seen_text(model_results[k]))}", style="bold red")
            for reason, n in model_results[k].reasons.items():
                console.print(
                    f"{escape(str(address))}: {n} structures without an answer, which count for no model: {escape(reason)}", style="yellow"
                )
    if out is not None:
        atomic_write(out, (json.dumps(_document(models, results, rows), indent=1) + "\n").encode())
        console.print(f"written: {escape(str(out))}")


def _cell(result: Evaluated, difference: Difference | None, key: str) -> str:
    own = figure(result.figures[key]) if key in result.figures else "-"
    return own if difference is None else f"{own}\n{figure(difference.metric)}: {difference.verdict}"


def _document(
    models: Sequence[str], results: Sequence[Sequence[Evaluated]], rows: Sequence[Sequence[Sequence[Difference]]]
) -> list[dict[str, Any]]:
    return [
        difference.metric.as_dict()
        | {"key": difference.key, "set": result.set.name, "model": str(model), "baseline": str(models[0]), "verdict": difference.verdict}
        for model, own, per_set in zip(models[1:], results[1:], rows, strict=True)
        for result, found in zip(own, per_set, strict=True)
        for difference in found
    ]
