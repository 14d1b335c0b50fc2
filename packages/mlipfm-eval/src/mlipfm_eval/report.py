"""`mlipfm report`: result records and training runs as one HTML page, complete in itself: no script, no request, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.html_page import chart_grid, document, paragraphs, section, table
from mlipfm_interfaces.model_card import model_card
from mlipfm_interfaces.result_records import Record

from ._charts import Bar, bar_chart, legend, line_chart, parity_chart, point_chart
from ._moving_molecule import moving_molecule
from ._report_html import card_html, figure_cell, short
from .report_data import Found, _benchmark_of, read_folder

#: Figures of an evaluation, in the order of tables.
_FIGURES = {"energy_mae": "energy MAE, meV/atom", "energy_rmse": "energy RMSE, meV/atom",
           "energy_mae_shifted": "energy MAE less constants of elements, meV/atom", "force_mae": "force MAE, meV/Å",
           "force_rmse": "force RMSE, meV/Å", "force_p99": "force error P99, meV/Å", "force_cosine": "force cosine",
           "stress_mae": "stress MAE, meV/Å³", "stress_rmse": "stress RMSE, meV/Å³"}  # fmt: skip

#: Figures by data set, model, and key of `_FIGURES`.
_Errors = dict[str, dict[str, dict[str, Mapping[str, Any]]]]


def write_report(folder: Path | str, out: Path | str | None = None, *, first: str = "") -> Path:
    """Write the report of a folder to `out` (FOLDER/report.html) and return its path.

    Args:
        first: HTML that stands under the heading, before everything else.

    Raises:
        UnreadableFileError: the folder holds neither a result record nor a training run.
    """
    folder = Path(folder)
    path = Path(out) if out is not None else folder / "report.html"
    atomic_write(path, report_html(read_folder(folder), first).encode())
    return path


def report_html(found: Found, first: str = "") -> str:
    """Return the page of what was found; sections without content are left out."""
    models = dict.fromkeys([*found.manifests, *(run.name for run in found.runs), *map(found.model, found.records)])
    colours = {name: k for k, name in enumerate(models)}
    others = dict.fromkeys(name for name in map(_benchmark_of, found.records) if name not in ("accuracy", "check", "result"))
    sections = [
        f'<h1>{escape(found.name)}</h1><p class="soft">Models: {escape(", ".join(models) or "none")}</p>',
        first,
        _result(found, colours),
        section("Errors", _errors(found, colours), "95 % intervals: whole molecules, trajectories or blocks of time are drawn anew."),
        section("Speed and accuracy", _speed(found, colours)),
        *(section(name.capitalize(), _benchmark(found, name, colours)) for name in others),
        section("Checks", _checks(found)),
        section("Parity", _parity(found, colours), "Predicted against reference; a perfect model lies on the dashed line."),
        section("Worst structures", _worst(found), _worst_order(found)),
        section("Learning curves", _curves(found, colours)),
        section("Model cards", _cards(found)),
        section("Notes", paragraphs(_notes(found), "")),
    ]
    return document(f"Report: {found.name}", sections)


def _result(found: Found, colours: Mapping[str, int]) -> str:
    """Return what records of a result show: sentences, a molecule that moves, the parity of that model, and lines of code that use it."""
    parts = []
    for record in found.benchmark("result"):
        details, charts = record["details"], []
        if frames := details.get("frames"):
            charts.append((moving_molecule(frames["symbols"], frames["positions"], frames["caption"]), frames["caption"]))
        own = Found(found.name, [r for r in found.benchmark("accuracy") if r["model"] == record["model"]], manifests=found.manifests)
        inside = next((m["set"] for r in own.records for m in r["metrics"] if m.get("split") == "id" and "set" in m), "")
        charts += [chart for chart in _parity_charts(own, colours) if f", {inside}: " in chart[1]][:2]
        parts.append(paragraphs(details.get("statements", []), "verdict") + chart_grid(charts))
        parts.append(f"<pre>{escape(details['code'])}</pre>" if "code" in details else "")
    return "".join(parts)


# Errors


def _errors_of(found: Found) -> _Errors:
    """Return the figures of all evaluations: data set -> model -> key -> figure, the last record of a model counting."""
    errors: _Errors = {}
    for record in found.benchmark("accuracy"):
        for metric in record["metrics"]:
            if "set" in metric and "key" in metric and "element" not in metric:
                errors.setdefault(str(metric["set"]), {}).setdefault(found.model(record), {})[metric["key"]] = metric
    return errors


def _errors(found: Found, colours: Mapping[str, int]) -> str:
    """Return for each data set a table of models and figures and one of elements, then a chart of force errors on all sets."""
    errors, parts = _errors_of(found), []
    for name, models in errors.items():
        records = {
            found.model(record): record for record in found.benchmark("accuracy") if name in {m.get("set") for m in record["metrics"]}
        }
        keys = [key for key in _FIGURES if any(key in row for row in models.values())]
        rows = [[escape(model), *(figure_cell(row.get(key)) for key in keys)] for model, row in models.items()]
        parts.append(f"<h3>{escape(_set_title(name, models, records))}</h3>" + table(["model", *(escape(_FIGURES[k]) for k in keys)], rows))
        for kind in ("known", "label_errors", "zero_of_energy"):
            parts += [
                paragraphs([f"{m}: {text}"], "verdict bad") for m in models if (text := records[m]["details"].get(kind, {}).get(name))
            ]
        parts.append(_elements(name, models, records))
    if not errors:
        return paragraphs(f"{found.model(r)}: {len(r['metrics'])} figures of no named data set" for r in found.benchmark("accuracy"))
    marks = {m: [_bar(errors[s].get(m, {}).get("force_mae")) for s in errors] for models in errors.values() for m in models}
    if len(errors) * len(marks) > 1 and any(any(row) for row in marks.values()):
        chosen = {m: colours[m] for m in marks}
        picture = bar_chart("force errors on every set", _FIGURES["force_mae"], list(errors), marks, chosen)
        without = [name for name, row in errors.items() if not any(m["force_mae"]["ci95"] for m in row.values() if "force_mae" in m)]
        why = {name: _interval_words(name, errors[name], found) for name in without}
        caption = (
            "Force MAE" + " with 95 % intervals" * (len(without) < len(errors)) + "".join(f"; {name}: {why[name]}" for name in without)
        )
        parts.append(legend(chosen) + chart_grid([(picture, caption)]))
    return "".join(parts)


def _interval_words(name: str, models: Iterable[str], found: Found) -> str:
    """Return why there is no interval, with the number of structures."""
    details = [
        r["details"] for r in found.benchmark("accuracy") if found.model(r) in set(models) and name in r["details"].get("structures", {})
    ]
    if not details:
        return "no intervals"
    return f"{details[0]['structures'][name]} structures, {details[0].get('intervals', {}).get(name, 'no intervals')}"


def _set_title(name: str, models: Mapping[str, Mapping[str, Any]], records: Mapping[str, Record]) -> str:
    model, row = next(iter(models.items()))
    details = records[model]["details"]
    count = details.get("structures", {}).get(name)
    parts = [f"{count} structures" if count else "", str(details.get("intervals", {}).get(name, ""))]
    split = " (out of distribution)" if any(metric.get("split") == "ood" for metric in row.values()) else ""
    return f"{name}{split}" + "".join(f", {part}" for part in parts if part)


def _elements(name: str, models: Iterable[str], records: Mapping[str, Record]) -> str:
    rows = {m: {x["element"]: x for x in records[m]["metrics"] if x.get("set") == name and "element" in x} for m in models}
    symbols = sorted({symbol for row in rows.values() for symbol in row})
    if not symbols:
        return ""
    cells = [[escape(model), *(figure_cell(row.get(symbol)) for symbol in symbols)] for model, row in rows.items()]
    return table(["force MAE by element, meV/Å", *map(escape, symbols)], cells)


def _bar(figure: Mapping[str, Any] | None) -> Bar | None:
    if figure is None or figure["value"] is None:
        return None
    low, high = figure["ci95"] or (None, None)
    return figure["value"], low, high


def _speed(found: Found, colours: Mapping[str, int]) -> str:
    """Return charts of the force error against time: steps of dynamics where a record has them, and batches of the evaluation."""
    errors = _errors_of(found)
    first = next(iter(errors), "")
    force = {model: bar for model, row in errors.get(first, {}).items() if (bar := _bar(row.get("force_mae")))}
    steps = {found.model(r): m["value"] for r in found.records for m in r["metrics"] if m["unit"] == "steps/s" and m["value"]}
    times = {found.model(r): r["details"].get("microseconds_per_atom", {}).get(first) for r in found.benchmark("accuracy")}
    charts = []
    for label, values in (("steps of dynamics per second", steps), ("evaluation in batches, µs per atom", times)):
        points = {model: (float(x), force[model]) for model, x in values.items() if x and model in force}
        if len(points) > 1:
            charts.append((point_chart(label, label, _FIGURES["force_mae"], points, colours), f"{label}; force MAE on {first}"))
    return legend({m: colours[m] for m in force}) + chart_grid(charts) if charts else ""


# Other benchmarks, and checks


def _benchmark(found: Found, name: str, colours: Mapping[str, int]) -> str:
    """Return the sentences of a benchmark, a table of its figures by model, and a chart of the first."""
    records = found.benchmark(name)
    rows = {str(r["details"].get("title") or found.model(r)): {_column(m): m for m in r["metrics"]} for r in records}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    said = paragraphs(dict.fromkeys(line for r in records for line in r["details"].get("statements", [])))
    if not columns:
        return said
    cells = [[escape(label), *(figure_cell(row.get(column)) for column in columns)] for label, row in rows.items()]
    bars = {label: [_bar(row.get(columns[0]))] for label, row in rows.items() if _bar(row.get(columns[0]))}
    charts = []
    if len(bars) > 1:
        shown = {label: colours.get(label, k) for k, label in enumerate(bars)}
        charts = [(bar_chart(columns[0], columns[0], [""], bars, shown), columns[0])]
        said += legend(shown)
    return said + table(["model", *map(escape, columns)], cells) + chart_grid(charts)


def _column(metric: Mapping[str, Any]) -> str:
    unit = "" if metric["unit"] == "1" else f", {metric['unit']}"
    return f"{metric['name']}{unit}" + (f", {metric['set']}" if metric.get("set") else "")


def _checks(found: Found) -> str:
    rows = []
    for record in found.benchmark("check"):
        broken = record["details"].get("broken", [])
        rules = len(record["details"].get("rules", record["metrics"]))
        said = f"breaks {', '.join(_broken(record, str(rule)) for rule in broken)}" if broken else f"{rules} rules"
        passed = '<span class="good">passed</span>' if record["passed"] else '<span class="bad">failed</span>'
        rows.append([escape(found.model(record)), passed, f'<div class="left">{escape(said)}</div>'])
    return table(["model", "verdict", ""], rows) if rows else ""


def _broken(record: Record, rule: str) -> str:
    """Return the rule, with its figure and limit if it has them."""
    for m in record["metrics"]:
        if m["name"] == rule and m.get("status") == "broken" and m["value"] is not None and m.get("limit") is not None:
            return f"{rule} ({short(m['value'])} {m['unit']}, limit {short(m['limit'])})"
    return rule


# Structures


def _parity(found: Found, colours: Mapping[str, int]) -> str:
    """Return the charts of each model, folded where there are many."""
    charts = _parity_charts(found, colours)
    if len(charts) <= 6:
        return chart_grid(charts)
    models = dict.fromkeys(map(found.model, found.benchmark("accuracy")))
    own = {model: [chart for chart in charts if chart[1].startswith(f"{model}, ")] for model in models}
    return "".join(f"<details><summary>{escape(model)}</summary>{chart_grid(own[model])}</details>" for model in models)


def _parity_charts(found: Found, colours: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return charts with their captions, in the order of records, data sets and quantities; what two records hold is shown once."""
    charts: dict[tuple[str, str], None] = {}
    for record in found.benchmark("accuracy"):
        model = found.model(record)
        for name, quantities in record["details"].get("parity", {}).items():
            for key, p in quantities.items():
                notes = [f"{m['name']} {short(m['value'])} {m['unit']}" for m in record["metrics"] if _is_error(m, name, key)]
                picture = parity_chart(f"{model}, {name}: {p['what']}", p["unit"], p["reference"], p["predicted"], notes, colours[model])
                shown = len(p["reference"])
                charts[picture, f"{model}, {name}: {p['what']}, {f'{shown} of ' * (shown < p['of'])}{p['of']} points"] = None
    return list(charts)


def _is_error(metric: Mapping[str, Any], name: str, quantity: str) -> bool:
    """Return whether a figure is an MAE or the RMSE of a quantity on a data set."""
    short_name = "force" if quantity == "forces" else quantity
    keys = (f"{short_name}_mae", f"{short_name}_rmse", f"{short_name}_mae_shifted")
    wanted = metric.get("set") == name and metric.get("key") in keys
    return wanted and "element" not in metric and metric["value"] is not None


def _worst(found: Found) -> str:
    rows = []
    for record in found.benchmark("accuracy"):
        for name, worst in record["details"].get("worst", {}).items():
            for w in worst:
                place = (found.model(record), name, str(w["frame"]), w["formula"], w["group"])
                rows.append([*map(escape, place), _error(w["energy"]), _error(w["forces"])])
    return table(["model", "set", "frame", "formula", "group", "energy error, meV/atom", "mean force error, meV/Å"], rows) if rows else ""


def _worst_order(found: Found) -> str:
    order = "By mean force error, or by energy error where there are no forces."
    if any(record["details"].get("zero_of_energy") for record in found.benchmark("accuracy")):
        order += " Energy errors are less the fitted constants of the elements where energies of labels and model have different zeros."
    return order


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


# Training runs


def _curves(found: Found, colours: Mapping[str, int]) -> str:
    if not found.runs:
        return ""
    chosen = {run.name: colours[run.name] for run in found.runs}
    loss: dict[str, tuple[Sequence[float], Sequence[float]]] = {run.name: (run.steps, _smoothed(run.loss)) for run in found.runs}  # type: ignore[misc]  # arrays are sequences
    charts = [(line_chart("training loss", "step", "training loss", loss, chosen), "Training loss, smoothed")]
    for key in dict.fromkeys(key for run in found.runs for key in run.validation):
        curves: Any = {run.name: run.validation[key] for run in found.runs if key in run.validation}
        charts.append((line_chart(key, "step", key, curves, chosen), f"Validation: {key}"))
    remark = "Runs of other levels of theory or kinds of forces have other losses; compare shapes, not heights."
    return legend(chosen) + chart_grid(charts) + paragraphs([remark])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the curve."""
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    start = np.maximum(np.arange(len(values)) - width + 1, 0)
    return np.asarray((sums[1:] - sums[start]) / (np.arange(len(values)) - start + 1))


def _cards(found: Found) -> str:
    cards = [
        f'<details class="card"><summary>{escape(name)}</summary>{card_html(model_card(manifest))}</details>'
        for name, manifest in found.manifests.items()
    ]
    return f'<div class="grid cards">{"".join(cards)}</div>' if cards else ""


def _notes(found: Found) -> Iterable[str]:
    """Return how files were read, what records note, and what is missing."""
    for record in found.records:
        notes = record["details"].get("notes", [])
        for name, lines in (notes if isinstance(notes, Mapping) else {"": notes}).items():
            yield from (f"{name}: {line}" if name else str(line) for line in lines)
    yield from found.notes
