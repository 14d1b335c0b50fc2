"""The report of a sweep: one HTML page with points, laws, frontiers per operation and per core-second, and the held-out runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from mlipfm_interfaces.html_page import chart_grid, document, paragraphs, section, table

from .laws import Law, at_edge
from .points import Point

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")
_MARKS = "os^Dv<>pP*X"


def page(title: str, points: Sequence[Point], fit: Mapping[str, Any]) -> str:
    """Return the page of a sweep.

    Args:
        fit: as `fits.fit_points` returns it.
    """
    losses = list(dict.fromkeys(loss for group in fit["groups"].values() for loss in group))
    sections = [f"<header><h1>{escape(title)}</h1></header>"]
    good = sum(not point.failed for point in points)
    lines = [f"{good} runs with losses, {len(points) - good} that failed; intervals are 95 %, over runs and seeds."]
    lines += not_made(fit.get("missing", ()))
    sections.append(section("Sweep", paragraphs(lines)))
    sections.append(section("Exponents", _exponents(losses, fit)))
    sections += [_of_loss(loss, points, fit) for loss in losses]
    rows = [[escape(item["run"]), escape(item["reason"])] for item in fit["failed"]]
    sections.append(section("Runs without a loss", table(["run", "reason"], rows, "words") if rows else ""))
    return document(title, sections, light_figures=True)


def _exponents(losses: Sequence[str], fit: Mapping[str, Any]) -> str:
    """One table of all losses: how fast each falls with parameters, with atoms, and with compute that is spent best; and what differs."""
    rows = []
    for loss in losses:
        for group, fits in fit["groups"].items():
            found = fits.get(loss, {})
            if "law" in found:
                values = [*(found["exponents"].get(axis) for axis in ("parameters", "atoms")), found.get("allocation", {}).get("gamma")]
                cells = ["" if value is None else f"{value['value']:.3f} ({_range(value['ci95'])})" for value in values]
                rows.append([escape(loss), escape(group), *cells])
    pairs = [f"{loss}: {gamma_sentence(row)}" for loss, some in fit["gamma_differences"].items() for row in some]
    return table(["loss", "model", "alpha, parameters", "beta, atoms", "gamma, compute"], rows) + paragraphs(pairs)


def gamma_sentence(row: Mapping[str, Any]) -> str:
    """Return what a row of `gamma_differences` says."""
    sign = "its sign is not determined" if row["sign"] == "undetermined" else f"its sign is {row['sign']}"
    return f"gamma of {row['first']} - gamma of {row['second']}: {row['value']:.3f} ({_range(row['interval'])}), {sign}"


def _of_loss(loss: str, points: Sequence[Point], fit: Mapping[str, Any]) -> str:
    own = [point for point in points if loss in point.losses]
    fits = {group: found[loss] for group, found in fit["groups"].items() if loss in found}
    charts = [
        (_svg(lambda axes: _against(axes, own, loss, "parameters", fits)), f"{loss} against parameters; lines are the laws"),
        (_svg(lambda axes: _against(axes, own, loss, "atoms", fits)), f"{loss} against atoms seen; lines are the laws"),
        (_svg(lambda axes: _frontier(axes, own, loss, "flops", fits)), "frontier per floating-point operation of matrix products"),
        (_svg(lambda axes: _frontier(axes, own, loss, "core_seconds", {})), "frontier per core-second on the machine of the sweep"),
    ]
    rows = [row for group, found in fits.items() for row in _rows(group, found)]
    predictions = [row for group, found in fits.items() for row in _held_out(group, found)]
    head = ["held-out run", "parameters", "atoms", "predicted", "observed", "error", "inside"]
    body = table(["model", "quantity", "value", "95 % interval"], rows)
    return section(loss, body + (table(head, predictions) if predictions else "") + chart_grid(charts))


def not_made(names: Sequence[str]) -> list[str]:
    """Return a line on the runs that are not made yet; none where all are."""
    if not names:
        return []
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return [f"not made yet, and not fitted: {', '.join(names[: 4 if more else 5])}{more}"]


def _rows(group: str, found: Mapping[str, Any]) -> list[list[str]]:
    name = escape(group)
    if "refused" in found:
        return [[name, "no law", escape(found["refused"]), ""]]
    shown = {
        f"exponent of {axis}" + ", at the edge of what is searched: not determined" * at_edge(value["value"]): value
        for axis, value in found["exponents"].items()
    } | {"floor": found["floor"]}
    best = found.get("allocation", {})
    shown |= {
        f"{key} (best {what})": best[key]
        for key, what in (("a", "N ~ C^a"), ("b", "D ~ C^b"), ("gamma", "L - E ~ C^-gamma"))
        if key in best
    }
    rows = [[name, escape(key), f"{value['value']:.4g}", _range(value["ci95"])] for key, value in shown.items()]
    check = found["cross_check"]
    rows += [
        [name, f"exponent of {axis}, log-sum-exp", f"{check['log_sum_exp']['exponents'][k]:.4g}", ""]
        for k, axis in enumerate(found["law"]["axes"])
    ]
    if isinstance(check.get("isoflop_a"), float):
        rows.append([name, "a, IsoFLOP (biased)", f"{check['isoflop_a']:.4g}", ""])
    if "refused" in best:
        rows.append([name, "no allocation", escape(best["refused"]), ""])
    return rows


def _held_out(group: str, found: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for item in found.get("predictions", ()):
        outcome = ["not run", "", ""]
        if "observed" in item:
            outcome = [f"{item['observed']:.4g}", f"{100 * item['relative_error']:+.1f} %", "yes" if item["inside"] else "no"]
        size = [f"{item['parameters']:,.0f}", f"{item['atoms']:,.0f}"]
        rows.append([escape(f"{group}: {item['run']}"), *size, f"{item['predicted']:.4g} ({_range(item['ci95'])})", *outcome])
    return rows


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"


def _svg(draw: Callable[[Any], None]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlipfm", "font.size": 9, "axes.grid": True, "grid.color": "#e5e5e5"}):
        figure = Figure(figsize=(4.8, 3.6), layout="constrained")
        draw(figure.subplots())
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "<svg" + text.getvalue().partition("<svg")[2]


def _against(axes: Any, points: Sequence[Point], loss: str, axis: str, fits: Mapping[str, Any]) -> None:
    """Losses against one axis, a line of the law for each value of the other."""
    other = "atoms" if axis == "parameters" else "parameters"
    groups = list(dict.fromkeys(point.group for point in points))
    for k, group in enumerate(groups):
        own = [point for point in points if point.group == group]
        axes.plot([getattr(p, axis) for p in own], [p.losses[loss] for p in own], _MARKS[k % 11], color=_COLOURS[k % 7], ms=4, label=group)
        law = fits.get(group, {}).get("law")
        if law is None or axis not in law["axes"]:
            continue
        x = np.geomspace(min(getattr(p, axis) for p in own), max(getattr(p, axis) for p in own), 60)
        for value in sorted({getattr(point, other) for point in own}) if other in law["axes"] else [1]:
            columns = {axis: x, other: np.full(60, float(value))}
            curve = Law(tuple(law["axes"]), law["floor"], tuple(law["coefficients"]), tuple(law["exponents"]))
            axes.plot(x, curve(np.column_stack([columns[name] for name in law["axes"]])), color=_COLOURS[k % 7], lw=0.7, alpha=0.7)
    axes.set(xscale="log", yscale="log", xlabel=axis, ylabel=loss)
    axes.legend(fontsize=8)


def _frontier(axes: Any, points: Sequence[Point], loss: str, axis: str, fits: Mapping[str, Any]) -> None:
    """Losses against compute, with the points that no cheaper one beats joined, and the held-out runs with their intervals."""
    for k, group in enumerate(dict.fromkeys(point.group for point in points)):
        own = sorted((getattr(p, axis), p.losses[loss]) for p in points if p.group == group and getattr(p, axis) > 0)
        best: Any = np.minimum.accumulate([value for _, value in own]) if own else []
        kept = [pair for pair, low in zip(own, best, strict=True) if pair[1] == low]
        axes.plot([x for x, _ in own], [y for _, y in own], _MARKS[k % 11], color=_COLOURS[k % 7], ms=3, alpha=0.5, label=group)
        axes.plot([x for x, _ in kept], [y for _, y in kept], color=_COLOURS[k % 7], lw=1.2)
        for item in fits.get(group, {}).get("predictions", ()):
            low, high = item["ci95"]
            spread = [[max(item["predicted"] - low, 0.0)], [max(high - item["predicted"], 0.0)]]
            axes.errorbar([item["flops"]], [item["predicted"]], spread, fmt="x", color=_COLOURS[k % 7], capsize=3)
    axes.set(xscale="log", yscale="log", xlabel={"flops": "FLOP", "core_seconds": "core-seconds"}[axis], ylabel=loss)
    axes.legend(fontsize=8)
