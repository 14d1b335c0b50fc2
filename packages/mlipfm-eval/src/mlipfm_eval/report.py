"""One self-contained HTML of a quickstart: no script, no request, readable on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.model_card import model_card

from .report_data import Content, collect
from .svg import Axis, Series, chart, legend

#: Points of a parity plot; more only make the file large.
POINTS = 1500

_FIGURES = {"energy_mae": "energy MAE, meV/atom", "energy_rmse": "energy RMSE, meV/atom", "force_mae": "force MAE, meV/Å",
            "force_rmse": "force RMSE, meV/Å", "force_p99": "force error P99, meV/Å", "force_cosine": "force cosine"}  # fmt: skip


def write_report(folder: Path, out: Path | None = None, progress: Callable[[str], None] = lambda what: None) -> Path:
    """Write the report of a quickstart's folder; returns the path of the file.

    Raises:
        UnreadableFileError: if the folder holds no training run.
    """
    path = out if out is not None else folder / "report.html"
    atomic_write(path, page(collect(folder, progress)).encode())
    return path


def page(content: Content) -> str:
    """The whole page."""
    verdict = content.summary.get("verdict")
    sections = [
        "<h1>Quickstart report</h1>",
        f'<p class="soft">{escape(_origin(content))}</p>',
        f'<p class="verdict">{escape(str(verdict))}</p>' if verdict else "",
        _section("Errors on the test set", "95 % intervals from resampling whole molecules.", _accuracy(content)),
        _section("Parity", "Predicted against reference; a perfect model lies on the dashed line.", _parity(content)),
        _section("Learning curves", "", _curves(content)),
        _section("Energy drift", "Change of the total energy in dynamics at constant energy; intervals over molecules.", _drift(content)),
        _section(
            "Speed and accuracy", "Energy and forces of the test set in batches, on the machine that wrote this page.", _speed(content)
        ),
        _section("Checks and evaluations", "Result records found in the folder.", _records(content)),
        _section("Model cards", "", _cards(content)),
        _section("Notes", "", "".join(f"<p>{escape(note)}</p>" for note in content.notes)),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,"><title>Quickstart report</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{_style()}</style></head><body>{"".join(sections)}</body></html>\n'


def _style() -> str:
    return (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def _section(title: str, text: str, body: str) -> str:
    """Left out if there is nothing to show."""
    said = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>" if body else ""


def _origin(content: Content) -> str:
    seconds = content.summary.get("seconds", {})
    total = f", {seconds['total']:.0f} s in all" if isinstance(seconds, Mapping) and "total" in seconds else ""
    return f"{content.folder.name}{total}; models: {', '.join(content.manifests) or 'none'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure_cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure.get("value") is None:
        return "-"
    ci95, failed = figure.get("ci95"), figure["n_total"] - figure["n_ok"]
    interval = f"<small>[{_short(ci95[0])}, {_short(ci95[1])}]</small>" if ci95 else ""
    return f"{_short(figure['value'])}{interval}" + (f'<small class="bad">{failed} of {figure["n_total"]} failed</small>' if failed else "")


def _short(value: float) -> str:
    """Three digits, and no exponent where people need none."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _accuracy(content: Content) -> str:
    """Figures of the quickstart where it has them, else those of this page."""
    measured: dict[str, Mapping[str, Any]] = {t.name: {key: _as_dict(m) for key, m in t.figures.items()} for t in content.tried}
    stated = content.summary.get("accuracy")
    rows = {**measured, **stated} if isinstance(stated, Mapping) else measured
    if not rows:
        return ""
    keys = [key for key in _FIGURES if any(key in row for row in rows.values())]
    return _table(["model", *(escape(_FIGURES[key]) for key in keys)],
                  [[escape(name), *(_figure_cell(row.get(key)) for key in keys)] for name, row in rows.items()])  # fmt: skip


def _as_dict(metric: Metric) -> Mapping[str, Any]:
    return metric.as_dict()


def _colours(content: Content) -> dict[str, int]:
    """One colour for each model, the same in all charts."""
    drift = content.summary.get("drift")
    names = [*(run.name for run in content.runs), *(t.name for t in content.tried), *(drift if isinstance(drift, Mapping) else ())]
    return {name: k for k, name in enumerate(dict.fromkeys("pre-trained" if name == "direct" else name for name in names))}


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
            drawn = [Series(t.name, x, y, colour=_colours(content)[t.name])]
            picture = chart(
                drawn, Axis(f"reference, {unit}"), Axis(f"predicted, {unit}"), kind="points", title=f"{t.name}: {what}", equal=True
            )
            figures.append(f"<figure>{picture}<figcaption>{escape(t.name)}: {escape(what)}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _curves(content: Content) -> str:
    figures = []
    colours = {run.name: _colours(content)[run.name] for run in content.runs}
    loss = [Series(run.name, run.steps, _smoothed(run.loss), colour=colours[run.name]) for run in content.runs]
    pictures = [(chart(loss, Axis("step"), Axis("training loss", log=True), kind="line", title="training loss"), "Training loss, smoothed")]
    for key in dict.fromkeys(key for run in content.runs for key in run.validation):
        series = [_series(run.name, run.validation.get(key, ([], [])), colours) for run in content.runs]
        pictures.append((chart(series, Axis("step"), Axis(key, log=True), kind="line", title=key), f"Validation: {key}"))
    figures = [f"<figure>{picture}<figcaption>{escape(text)}</figcaption></figure>" for picture, text in pictures]
    remark = '<p class="soft">Runs of other levels of theory or kinds of forces have other losses; compare shapes, not heights.</p>'
    return legend(colours) + f'<div class="grid">{"".join(figures)}</div>' + remark


def _series(name: str, points: tuple[Any, Any], colours: Mapping[str, int]) -> Series:
    return Series(name, points[0], points[1], colour=colours[name])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the curve."""
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    start = np.maximum(np.arange(len(values)) - width + 1, 0)
    return np.asarray((sums[1:] - sums[start]) / (np.arange(len(values)) - start + 1))


def _drift(content: Content) -> str:
    drift = content.summary.get("drift")
    if not isinstance(drift, Mapping) or not drift:
        return ""
    unstable = content.summary.get("unstable_trajectories", {})
    rows = [[escape(name), _figure_cell(m), f"{unstable.get(name, 0)} of {m['n_total']}"] for name, m in drift.items()]
    shown = {name: m for name, m in drift.items() if m.get("value")}
    colours = {name: _colours(content)["pre-trained" if name == "direct" else name] for name in shown}
    series = []
    for k, (name, m) in enumerate(shown.items()):
        low, high = _sizes(m)
        series.append(Series(name, [float(k)], [abs(m["value"])], low, high, colours[name]))
    picture = chart(series, Axis("", ticks=False), Axis("|drift|, meV/atom/ps", log=True), kind="marks", title="energy drift of each model")
    caption = "Size of the drift, logarithmic; bars: intervals that do not contain zero."
    figure = f"<figure>{legend(colours)}{picture}<figcaption>{caption}</figcaption></figure>"
    return f'<div class="grid"><div>{_table(["forces", "drift, meV/atom/ps", "broke off"], rows)}</div>{figure if series else ""}</div>'


def _sizes(figure: Mapping[str, Any]) -> tuple[list[float], list[float]] | tuple[None, None]:
    ci95 = figure.get("ci95")
    if not ci95 or ci95[0] * ci95[1] <= 0:
        return None, None
    low, high = sorted(abs(end) for end in ci95)
    return [low], [high]


def _speed(content: Content) -> str:
    tried, series = content.tried, []
    if not tried:
        return ""
    colours = {t.name: _colours(content)[t.name] for t in tried}
    for t in tried:
        m = t.figures["force_mae"]
        low, high = ([m.ci95[0]], [m.ci95[1]]) if m.ci95 else (None, None)
        series.append(Series(t.name, [t.microseconds], [m.value], low, high, colours[t.name]))
    picture = chart(
        series, Axis("µs per atom", log=True), Axis("force MAE, meV/Å"), kind="marks", title="time and force error of each model"
    )
    rows = [[escape(t.name), f"{t.microseconds:.0f}", _figure_cell(t.figures["force_mae"].as_dict())] for t in tried]
    table = _table(["model", "µs per atom", "force MAE, meV/Å"], rows)
    return f'<div class="grid"><div>{table}</div><figure>{legend(colours)}{picture}</figure></div>'


def _records(content: Content) -> str:
    names = {manifest["digest"]: name for name, manifest in content.manifests.items()}
    rows = []
    for record in content.records:
        broken = record["details"].get("broken", [])
        if record["kind"] == "check":
            said = f"breaks {', '.join(map(str, broken))}" if broken else f"{len(record['details'].get('rules', record['metrics']))} rules"
        else:
            forces = [m for m in record["metrics"] if m["name"] == "force MAE" and "element" not in m and m["value"] is not None]
            said = "; ".join(f"force MAE {_short(m['value'])} {m['unit']}" + (f" on {m['set']}" if "set" in m else "") for m in forces)
            said = said or f"{len(record['metrics'])} figures"
        passed = '<span class="good">passed</span>' if record["passed"] else '<span class="bad">failed</span>'
        rows.append(
            [
                escape(names.get(record["model"], record["model"][:16])),
                escape(record["kind"]),
                passed,
                f'<div style="text-align:left">{escape(said)}</div>',
            ]
        )
    return _table(["model", "kind", "verdict", ""], rows) if rows else ""


def _cards(content: Content) -> str:
    cards = []
    for name, manifest in content.manifests.items():
        cards.append(f'<details class="card"><summary>{escape(name)}</summary>{_card_html(model_card(manifest))}</details>')
    return f'<div class="grid cards">{"".join(cards)}</div>' if cards else ""


def _card_html(markdown: str) -> str:
    """Headings, tables and code of a model card; everything else is text."""
    parts: list[str] = []
    rows: list[str] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            if not set(line) <= set("|- "):
                cells = line.replace("\\|", "\x00").strip("|").split("|")
                rows.append("<tr>" + "".join(f"<td>{_inline(cell.strip())}</td>" for cell in cells) + "</tr>")
            continue
        if rows:
            parts.append(f"<table><tbody>{''.join(rows)}</tbody></table>")
            rows = []
        if line.startswith("## "):
            parts.append(f"<h3>{_inline(line[3:])}</h3>")
        elif line and not line.startswith("# "):
            parts.append(f"<p>{_inline(line)}</p>")
    return "".join(parts)


def _inline(text: str) -> str:
    """Escaped, with `code`."""
    pieces = escape(text.replace("\x00", "|")).split("`")
    return "".join(f"<code>{piece}</code>" if k % 2 else piece for k, piece in enumerate(pieces))
