"""Sections of a report on dynamics: energy and temperature, and how fast a model of which accuracy is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

from .report_data import Content
from .report_html import OTHER, colours, figure_cell, short, table
from .svg import Axis, Series, chart, legend


def dynamics(content: Content) -> str:
    """Drift at constant energy and temperature under a thermostat, from the summary of the quickstart."""
    rows_of = content.summary.get("dynamics")
    if not isinstance(rows_of, Mapping) or not rows_of:
        return ""
    rows = [
        [escape(name), figure_cell(row.get("drift")), _broke_off(row.get("drift")), figure_cell(row.get("temperature"))]
        for name, row in rows_of.items()
    ]
    shown = {name: row["drift"] for name, row in rows_of.items() if row.get("drift", {}).get("value")}
    chosen = {name: colours(content)[name] for name in shown}
    series = []
    for k, (name, m) in enumerate(shown.items()):
        low, high = _sizes(m)
        series.append(Series(name, [float(k)], [abs(m["value"])], low, high, chosen[name]))
    axis = Axis("", ticks=False, names=tuple(shown))
    picture = chart(series, axis, Axis("|drift|, meV/atom/ps", log=True), kind="marks", title="energy drift of each model")
    caption = "Size of the drift, logarithmic; bars: intervals that do not contain zero."
    figure = f"<figure>{picture}<figcaption>{caption}</figcaption></figure>" if series else ""
    head = ["model", "energy drift, meV/atom/ps", "broke off", "temperature with thermostat, K"]
    return f'<div class="grid"><div>{table(head, rows)}</div>{figure}</div>'


def _broke_off(figure: Mapping[str, Any] | None) -> str:
    return "-" if figure is None else f"{figure['n_total'] - figure['n_ok']} of {figure['n_total']}"


def _sizes(figure: Mapping[str, Any]) -> tuple[list[float], list[float]] | tuple[None, None]:
    ci95 = figure.get("ci95")
    if not ci95 or ci95[0] * ci95[1] <= 0:
        return None, None
    low, high = sorted(abs(end) for end in ci95)
    return [low], [high]


def speed(content: Content) -> str:
    """Force error against time: of dynamics where the quickstart timed them, of batches for all models."""
    return _dynamics_speed(content) + _batch_speed(content)


def _dynamics_speed(content: Content) -> str:
    timed = content.summary.get("steps_per_second")
    if not isinstance(timed, Mapping) or not timed:
        return ""
    errors = content.summary.get("accuracy", {})
    rows, series, chosen = [], [], {}
    for name, values in timed.items():
        middle = statistics.median(values)
        error = errors.get(name, {}).get("force_mae")
        if error is None:  # what made the labels has no error against them
            error, name = {"value": 0.0, "ci95": None, "n_ok": 1, "n_total": 1}, f"{name}, the labels"
        low, high = ([error["ci95"][0]], [error["ci95"][1]]) if error["ci95"] else (None, None)
        chosen[name] = colours(content).get(name, OTHER)
        series.append(Series(name, [middle], [error["value"]], low, high, chosen[name]))
        rows.append([escape(name), f"{short(middle)}<small>{short(min(values))} to {short(max(values))}</small>", figure_cell(error)])
    axes = Axis("steps per second", log=True), Axis("force MAE, meV/Å")
    picture = chart(series, *axes, kind="marks", title="steps per second and force error of each model")
    said = '<p class="soft">Errors on held-out molecules; steps of dynamics of all of them at once, one thread; median and range of the timings.</p>'
    head = ["model", "steps per second", "force MAE, meV/Å"]
    return f'<div class="grid"><div>{table(head, rows)}{said}</div><figure>{legend(chosen)}{picture}</figure></div>'


def _batch_speed(content: Content) -> str:
    if not content.tried:
        return ""
    chosen, series, rows = {t.name: colours(content)[t.name] for t in content.tried}, [], []
    for t in content.tried:
        m = t.figures["force_mae"]
        low, high = ([m.ci95[0]], [m.ci95[1]]) if m.ci95 else (None, None)
        series.append(Series(t.name, [t.microseconds], [m.value], low, high, chosen[t.name]))
        rows.append([escape(t.name), f"{t.microseconds:.0f}", figure_cell(m.as_dict())])
    axes = Axis("µs per atom", log=True), Axis("force MAE, meV/Å")
    picture = chart(series, *axes, kind="marks", title="time and force error of each model")
    said = '<p class="soft">Energies and forces of the test set in batches, on the machine that wrote this page.</p>'
    head = ["model", "µs per atom", "force MAE, meV/Å"]
    return f'<div class="grid"><div>{table(head, rows)}{said}</div><figure>{legend(chosen)}{picture}</figure></div>'
