"""One self-contained HTML page of an evaluation: figures, parity plots, errors by element, the worst structures, how files were read."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from mlipfm_interfaces.files import atomic_write

from .accuracy import Cases
from .evaluation import Evaluated, composition_energies, seen_text
from .opening import Opened
from .report import POINTS, document
from .report_html import figure_cell, section, table
from .svg import Axis, Series, chart

FIGURES = {"energy_mae": "energy MAE, meV/atom", "energy_rmse": "energy RMSE, meV/atom", "force_mae": "force MAE, meV/Å",
           "force_rmse": "force RMSE, meV/Å", "force_p99": "force error P99, meV/Å", "force_cosine": "force cosine",
           "stress_mae": "stress MAE, meV/Å³", "stress_rmse": "stress RMSE, meV/Å³"}  # fmt: skip
WORST = 10
_TITLES = {"energy": ("energy per atom, less a sum over the elements", "eV/atom", "energy"), "forces": ("forces", "eV/Å", "force"),
           "stress": ("stress", "eV/Å³", "stress")}  # fmt: skip


def write_evaluation_page(path: Path | str, model: Opened, results: Sequence[Evaluated]) -> None:
    """Write the page: one file without scripts or requests."""
    atomic_write(path, evaluation_page(model, results).encode())


def evaluation_page(model: Opened, results: Sequence[Evaluated]) -> str:
    """The page as HTML."""
    marks = [f"{r.set.name}: {text}" for r in results if (text := seen_text(r))]
    sections = [
        "<h1>Evaluation</h1>",
        f'<p class="soft">Model {escape(model.address)}, {escape(model.identity[:16])}; '
        + escape(", ".join(f"{r.set.name} ({len(r.set.structures)} structures)" for r in results))
        + "</p>",
        "".join(f'<p class="verdict bad">{escape(mark)}</p>' for mark in marks),
        section("Errors", "95 % intervals; the number of structures with the label stands beside its figures.", _figures(results)),
        section("Parity", "Predicted against reference; a perfect model lies on the dashed line.", _parity(results)),
        section("Force MAE by element, meV/Å", "", _elements(results)),
        section("Worst structures", "By mean force error, or by energy error where there are no forces.", _worst(results)),
        section("How the data were read", "", _notes(results)),
    ]
    return document("Evaluation", sections)


def _figures(results: Sequence[Evaluated]) -> str:
    keys = [key for key in FIGURES if any(key in r.figures for r in results)]
    head = ["set", *(escape(FIGURES[key]) for key in keys)]
    rows = [[_set_cell(r), *(figure_cell(r.figures[key].as_dict() if key in r.figures else None) for key in keys)] for r in results]
    intervals = "".join(f'<p class="soft">{escape(r.set.name)}: {escape(r.predictions.interval_over)}.</p>' for r in results)
    return table(head, rows) + intervals


def _set_cell(result: Evaluated) -> str:
    counts = ", ".join(f"{len(cases)} with {key}" for key, cases in result.predictions.cases.items())
    split = " (out of distribution)" if result.set.split == "ood" else ""
    return f"{escape(result.set.name)}{split}<small>{counts}</small>"


def _parity(results: Sequence[Evaluated]) -> str:
    figures = []
    for r in results:
        for key, cases in r.predictions.cases.items():
            what, unit, name = _TITLES[key]
            reference, predicted = _points(r, key, cases)
            chosen = np.random.default_rng(0).permutation(len(reference))[:POINTS]
            notes = [f"{m.name} {m.value:.3g} {m.unit}" for m in (r.figures[f"{name}_mae"], r.figures[f"{name}_rmse"])]
            drawn = [Series(r.set.name, reference[chosen], predicted[chosen], colour=0 if r.set.split == "id" else 1)]
            axes = Axis(f"reference, {unit}"), Axis(f"predicted, {unit}")
            picture = chart(drawn, *axes, kind="points", title=f"{r.set.name}: {what}", equal=True, notes=notes)
            shown = f", {POINTS} of {len(reference)} points" if len(reference) > POINTS else f", {len(reference)} points"
            figures.append(f"<figure>{picture}<figcaption>{escape(r.set.name)}: {escape(what)}{shown}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _points(result: Evaluated, key: str, cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction of all components that were answered, in eV units."""
    reference, predicted = (np.concatenate([np.ravel(v) for v in values]) / 1000 for values in (cases.reference, cases.predicted))
    if key == "energy":
        structures = [result.predictions.structures[k] for k in cases.rows]
        n = np.array([len(s) for s in structures])
        base = composition_energies(structures, reference * n) / n
        reference, predicted = reference - base, predicted - base
    known = np.isfinite(predicted)
    return reference[known], predicted[known]


def _elements(results: Sequence[Evaluated]) -> str:
    symbols = sorted({symbol for r in results for symbol in r.elements})
    if not symbols:
        return ""
    rows = [[escape(r.set.name), *(figure_cell(r.elements[e].as_dict() if e in r.elements else None) for e in symbols)] for r in results]
    return table(["set", *symbols], rows)


def _worst(results: Sequence[Evaluated]) -> str:
    rows = []
    for r in results:
        energy, forces = (r.predictions.cases.get(key) for key in ("energy", "forces"))
        main = forces or energy
        if main is None:
            continue
        error = main.errors()
        columns = [dict(zip(c.rows, c.errors().tolist(), strict=True)) if c else {} for c in (energy, forces)]
        for k in np.argsort(-np.nan_to_num(error, nan=np.inf), kind="stable")[:WORST].tolist():
            row, s = main.rows[k], r.predictions.structures[main.rows[k]]
            index = s.provenance.index if s.provenance.index is not None else row
            cells = [f"{c[row]:.3g}" if row in c and np.isfinite(c[row]) else "-" for c in columns]
            rows.append([escape(r.set.name), str(index), escape(s.formula), escape(s.provenance.group or ""), *cells])
    return table(["set", "frame", "formula", "group", "energy error, meV/atom", "mean force error, meV/Å"], rows) if rows else ""


def _notes(results: Sequence[Evaluated]) -> str:
    return "".join(f"<h3>{escape(r.set.name)}</h3><p>{'<br>'.join(map(escape, r.set.notes))}</p>" for r in results if r.set.notes)
