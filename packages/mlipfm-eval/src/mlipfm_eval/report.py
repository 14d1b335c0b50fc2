"""One self-contained HTML of a quickstart: no script, no request, readable on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.metrics import Metric

from .report_data import Content, collect
from .report_dynamics import dynamics, speed
from .report_html import colours, figure_cell, section, table
from .report_records import cards, records
from .report_summary import registry, sets, verdicts
from .svg import Axis, Series, chart, legend

#: Points of a parity plot; more only make the file large.
POINTS = 1500

_FIGURES = {"energy_mae": "energy MAE, meV/atom", "energy_rmse": "energy RMSE, meV/atom", "force_mae": "force MAE, meV/Å",
            "force_rmse": "force RMSE, meV/Å", "force_p99": "force error P99, meV/Å", "force_cosine": "force cosine"}  # fmt: skip


def write_report(folder: Path | str, out: Path | str | None = None, progress: Callable[[str], None] = lambda what: None) -> Path:
    """Write the report of a quickstart's folder; returns the path of the file.

    Raises:
        UnreadableFileError: if the folder holds no training run.
    """
    folder = Path(folder)
    path = Path(out) if out is not None else folder / "report.html"
    atomic_write(path, page(collect(folder, progress)).encode())
    return path


def page(content: Content) -> str:
    """The whole page."""
    sections = [
        f"<h1>{'Quickstart' if content.summary else 'Training'} report</h1>",
        f'<p class="soft">{escape(_origin(content))}</p>',
        verdicts(content),
        section("Errors in and out of distribution", "95 % intervals from resampling whole molecules.", sets(content)),
        section("Speed and accuracy", "", speed(content)),
        section("Dynamics", "At constant energy, and with a Langevin thermostat at 300 K; intervals over molecules.", dynamics(content)),
        section("Registry", "", registry(content)),
        section("Checks and evaluations", "Result records found in the folder.", records(content)),
        section("Errors on the test set", "95 % intervals from resampling whole molecules.", _accuracy(content)),
        section("Parity", "Predicted against reference; a perfect model lies on the dashed line.", _parity(content)),
        section("Learning curves", "", _curves(content)),
        section("Model cards", "", cards(content)),
        section("Notes", "", "".join(f"<p>{escape(note)}</p>" for note in content.notes)),
    ]
    return document("Quickstart report" if content.summary else "Training report", sections)


def document(title: str, sections: Sequence[str]) -> str:
    """A whole page of sections, with the style sheet in it and without permission for anything else."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{_style()}</style></head><body>{"".join(sections)}</body></html>\n'


def _style() -> str:
    return (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def _origin(content: Content) -> str:
    seconds = content.summary.get("seconds", {})
    total = f", {seconds['total']:.0f} s in all" if isinstance(seconds, Mapping) and "total" in seconds else ""
    return f"{content.folder.resolve().name}{total}; models: {', '.join(content.manifests) or 'none'}"


def _accuracy(content: Content) -> str:
    """Figures of the quickstart where it has them, else those of this page."""
    measured: dict[str, Mapping[str, Any]] = {t.name: {key: _as_dict(m) for key, m in t.figures.items()} for t in content.tried}
    stated = content.summary.get("accuracy")
    rows = {**measured, **stated} if isinstance(stated, Mapping) else measured
    if not rows:
        return ""
    keys = [key for key in _FIGURES if any(key in row for row in rows.values())]
    return table(["model", *(escape(_FIGURES[key]) for key in keys)],
                  [[escape(name), *(figure_cell(row.get(key)) for key in keys)] for name, row in rows.items()])  # fmt: skip


def _as_dict(metric: Metric) -> Mapping[str, Any]:
    return metric.as_dict()


def _parity(content: Content) -> str:
    figures = []
    for t in content.tried:
        p = t.predictions
        reference, predicted = (np.concatenate([f.ravel() for f in forces]) for forces in (p.reference_forces, p.forces))
        chosen = np.random.default_rng(0).permutation(len(reference))[:POINTS]
        n = np.array([len(s) for s in p.structures])
        centre = {
            g: float(np.mean([e / m for e, m, h in zip(p.reference_energies, n, p.groups, strict=True) if h == g])) for g in set(p.groups)
        }
        shift = np.array([centre[g] for g in p.groups])
        pairs = {
            ("forces", "eV/Å"): (reference[chosen], predicted[chosen]),
            ("energies per atom, less the reference mean of the molecule", "eV/atom"): (
                p.reference_energies / n - shift,
                p.energies / n - shift,
            ),
        }
        for (what, unit), (x, y) in pairs.items():
            drawn = [Series(t.name, x, y, colour=colours(content)[t.name])]
            picture = chart(
                drawn, Axis(f"reference, {unit}"), Axis(f"predicted, {unit}"), kind="points", title=f"{t.name}: {what}", equal=True
            )
            figures.append(f"<figure>{picture}<figcaption>{escape(t.name)}: {escape(what)}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _curves(content: Content) -> str:
    figures = []
    chosen = {run.name: colours(content)[run.name] for run in content.runs}
    loss = [Series(run.name, run.steps, _smoothed(run.loss), colour=chosen[run.name]) for run in content.runs]
    pictures = [(chart(loss, Axis("step"), Axis("training loss", log=True), kind="line", title="training loss"), "Training loss, smoothed")]
    for key in dict.fromkeys(key for run in content.runs for key in run.validation):
        series = [_series(run.name, run.validation.get(key, ([], [])), chosen) for run in content.runs]
        pictures.append((chart(series, Axis("step"), Axis(key, log=True), kind="line", title=key), f"Validation: {key}"))
    figures = [f"<figure>{picture}<figcaption>{escape(text)}</figcaption></figure>" for picture, text in pictures]
    remark = '<p class="soft">Runs of other levels of theory or kinds of forces have other losses; compare shapes, not heights.</p>'
    return legend(chosen) + f'<div class="grid">{"".join(figures)}</div>' + remark


def _series(name: str, points: tuple[Any, Any], chosen: Mapping[str, int]) -> Series:
    return Series(name, points[0], points[1], colour=chosen[name])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the curve."""
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    start = np.maximum(np.arange(len(values)) - width + 1, 0)
    return np.asarray((sums[1:] - sums[start]) / (np.arange(len(values)) - start + 1))
