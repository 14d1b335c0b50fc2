"""The benchmark `accuracy`, which `mlipfm evaluate` runs unless another is named: errors of energies, forces and stress against labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel, benchmark_record
from mlipfm_interfaces.console import progress_bar
from mlipfm_interfaces.errors import MissingLabelsError, PropertyNotAvailableError
from mlipfm_interfaces.files import atomic_write
from rich.markup import escape
from rich.table import Table

from ._training_overlap import overlap_text
from .evaluation import Evaluation, _evaluation_result, evaluate_set, figure_text, ood_ratio
from .report import _FIGURES, report_html
from .report_data import Found


def accuracy(
    model: OpenModel, data: Sequence[LabelledSet], *, level: str | None = None, out: str | None = None, page: str | None = None
) -> BenchmarkResult:
    """Errors of energies, forces and stress against labels, with 95 % intervals.

    Args:
        level: level of theory to ask a model of several levels for. out: write labels and predictions of all structures to this file (extended XYZ).
        page: write the report of this evaluation to this file (HTML).

    Raises:
        MissingLabelsError: no data, or no labels; and what `predict` raises.
    """
    if not data:
        raise MissingLabelsError("there are no data to compare with", hint="mlipfm evaluate MODEL DATA: a store or a file with labels")
    results = evaluate_sets(model, data, level)
    result = _evaluation_result(results, level)
    if out is not None:
        _write_predictions(Path(out), results)
    if page is not None:
        found = Found(f"Evaluation of {model.address}", [benchmark_record("accuracy", result, model, data)])
        atomic_write(page, report_html(found).encode())
    silent = [r for r in results if _silent(r)]
    error = PropertyNotAvailableError(
        f"no structure was predicted: {'; '.join(dict.fromkeys(f'{reason} ({n} structures)' for r in silent for reason, n in r.reasons.items()))}",
        where=", ".join(r.set.name for r in silent),
        hint="evaluate another model, or other structures",
    )
    written = [f"written: {escape(path)}" for path in (out, page) if path is not None]
    return replace(result, printed=[*_printed(results), *written], error=error if silent else None)


def _silent(r: Evaluation) -> bool:
    """Whether nothing of a set was predicted."""
    return sum(r.reasons.values()) >= len(r.set.structures)


def evaluate_sets(model: OpenModel, data: Sequence[LabelledSet], level: str | None = None) -> list[Evaluation]:
    """Evaluate one model on all data sets, with a progress bar."""
    done, results = 0, []
    with progress_bar("structures", sum(len(one.structures) for one in data)) as advance:

        def shown(before: int) -> Callable[[int], None]:
            return lambda n: advance(before + n)

        for one in data:
            results.append(evaluate_set(model.model, one, level=level, progress=shown(done), manifest=model.manifest))
            done += len(one.structures)
    return results


def _write_predictions(path: Path, results: Sequence[Evaluation]) -> None:
    """All structures with their labels (`REF_...`) and predictions (`pred_...`) as extended XYZ; those without a prediction have labels only."""
    from mlipfm_data import export_extxyz

    structures = [s for r in results for s in r.predictions.structures]
    export_extxyz(structures, path, [_predicted(r, k) for r in results for k in range(len(r.predictions.structures))])


def _predicted(result: Evaluation, k: int) -> dict[str, np.ndarray]:
    p = result.predictions
    if k in p.failures:
        return {}
    values = {"energy": np.array(p.energies[k]), "forces": p.forces[k]}
    return values | ({"stress": p.stresses[k]} if np.isfinite(p.stresses[k]).all() else {})


def _printed(results: Sequence[Evaluation]) -> Iterator[Any]:
    """Tables and lines for the terminal, of the sets of which something was predicted."""
    splits = {r.set.split for r in results}
    results = [r for r in results if not _silent(r)]
    if not results:
        return
    for r in results:
        yield from (f"[dim]{escape(r.set.name)}: {escape(note)}[/]" for note in r.set.notes)
    shown = Table(title="Errors with 95 % intervals")
    shown.add_column("", no_wrap=True)
    for r in results:
        known = "\nKNOWN FROM TRAINING" if r.seen else ""
        head = f"{escape(r.set.name)}{split_line(r.set.split, splits)}\n{len(r.set.structures)} structures{known}"
        shown.add_column(head, justify="right")
    for key in ("energy", "forces", "stress"):
        if any(key in r.predictions.cases for r in results):
            shown.add_row(f"structures with {key}", *(str(len(r.predictions.cases.get(key, ()))) for r in results))
    for key, name in _FIGURES.items():
        if any(key in r.figures for r in results):
            shown.add_row(name, *(figure_text(r.figures.get(key)) for r in results))
    yield shown
    elements = sorted({symbol for r in results for symbol in r.elements})
    if elements:
        by_element = Table(title="Force MAE by element, meV/Å")
        for name in ("element", *(escape(r.set.name) for r in results)):
            by_element.add_column(name, justify="left" if name == "element" else "right")
        for e in elements:
            by_element.add_row(e, *(figure_text(r.elements.get(e)) for r in results))
        yield by_element
    for r in results:
        yield from _remarks(r)
    ratio = ood_ratio(results)
    if ratio is not None:
        yield f"{ratio.name}: {figure_text(ratio)}"


def split_line(split: str, splits: Collection[str]) -> str:
    """A line of a table's head that says what a set is; empty where the user has not given sets of both kinds, and so nothing is known of it."""
    if len(set(splits)) < 2:
        return ""
    return "\nin distribution" if split == "id" else "\nout of distribution"


def label_error_lines(data: LabelledSet) -> Iterator[str]:
    """Lines for the terminal on labels of a file that contradict physics: errors on them are not those of a model."""
    yield from (f"[bold red]{escape(data.name)}: label error {escape(text)}[/]" for text in data.label_errors)


def _remarks(r: Evaluation) -> Iterator[str]:
    name = escape(r.set.name)
    if r.seen:
        yield f"[bold red]{name}: {escape(overlap_text(r.seen, len(r.set.structures)))}[/]"
    yield f"{name}: {r.predictions.interval_over}"
    yield from label_error_lines(r.set)
    if r.zero_of_energy:
        yield f"[yellow]{name}: {escape(r.zero_of_energy)}[/]"
    if r.left_out:
        yield f"{name}: {r.left_out} structures of weight 0 are left out"
    if r.masked_atoms:
        yield f"{name}: forces of {r.masked_atoms} atoms are left out (forces_weight 0)"
    if any("stress" in s.labels for s in r.predictions.structures) and "stress" not in r.predictions.cases:
        yield f"{name}: labels of stress are not compared: the model has no stress, or the structures are not periodic in three directions"
    for reason, n in r.reasons.items():
        yield f"[yellow]{name}: {n} of {len(r.set.structures)} structures without a prediction: {escape(reason)}[/]"
    if r.reasons and r.penalised:
        yield f"{name}, failures penalised: " + "; ".join(f"{_FIGURES[key]} {value:.4g}" for key, value in r.penalised.items())
