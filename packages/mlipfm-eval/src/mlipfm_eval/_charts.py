"""Charts as inline SVG, drawn by matplotlib in the colours of the page (`--c0` ... `--c6` of page.css), for light and dark ground."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

#: Value, low and high end of its interval (None without one).
Bar = tuple[float, float | None, float | None]

COLOURS = 7
# matplotlib draws in these colours, and the page replaces them by its own.
_STAND_INS = {f"#10000{k}": f"var(--c{k})" for k in range(COLOURS)} | {"#00000a": "var(--soft)", "#00000b": "var(--line)"}
_SOFT, _LINE = "#00000a", "#00000b"
# What a page has already (its own style and font) or does not need: metadata, names of groups, turns by nothing, more than two decimals of places
# (not of the text at an axis).
_CLEANED = {
    r"<metadata>.*?</metadata>": "",
    r"<style.*?</style>": "",
    r" font-family: [^;]*;": "",
    r' id="(?:figure|axes|patch|[xy]tick|line2d|text|matplotlib\.axis)_\d+"': "",
    r' transform="rotate\(-?0 [^"]*\)"': "",
    r"(>[^<]+<)|(\d\.\d\d)\d+": r"\1\2",
    r"\s*\n\s*": " ",
}
# Styles of all charts, which page.css has under these names.
_CLASSES = {"fill: none; stroke: var(--line); stroke-width: 0.8; stroke-linecap: square": "gridline",
            "fill: var(--soft); stroke: var(--soft); stroke-width: 0.8": "tick"}  # fmt: skip
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "mlipfm", "path.simplify": False, "font.size": 10, "axes.edgecolor": _SOFT,
          "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT, "text.color": _SOFT, "axes.grid": True, "grid.color": _LINE,
          "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}  # fmt: skip


def parity_chart(
    title: str, unit: str, reference: Sequence[float], predicted: Sequence[float], notes: Sequence[str] = (), colour: int = 0
) -> str:
    """Draw predicted against reference values over one range, with the diagonal; notes: lines of text in the upper left corner."""

    def draw(axes: Any) -> None:
        both = np.concatenate([np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float), [0.0] * (not len(reference))])
        margin = 0.05 * float(np.ptp(both)) or 0.5
        ends = (float(both.min()) - margin, float(both.max()) + margin)
        axes.plot(ends, ends, "--", color=_SOFT, linewidth=1, gid="diagonal")
        # a line of no length with round ends is a dot: one path for all points keeps the page small
        gap = np.full(len(reference), np.nan)
        dots = [np.stack([v, v, gap], axis=1).ravel() for v in (np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float))]
        axes.plot(*dots, color=_colour(colour), linewidth=3, alpha=0.5, solid_capstyle="round", gid="points")
        axes.set(xlim=ends, ylim=ends, xlabel=f"reference, {unit}", ylabel=f"predicted, {unit}")
        axes.text(0.03, 0.97, "\n".join(notes), transform=axes.transAxes, va="top")

    return _svg(title, draw)


def line_chart(
    title: str, x_label: str, y_label: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], colours: Mapping[str, int]
) -> str:
    """Draw curves (name -> x and y); points that are not positive are left out. The vertical axis is logarithmic if they differ by much."""

    def draw(axes: Any) -> None:
        for name, (x, y) in lines.items():
            values = np.asarray(y, dtype=float)
            known = np.isfinite(values) & (values > 0)
            axes.plot(np.asarray(x, dtype=float)[known], values[known], color=_colour(colours[name]), linewidth=2)
        axes.set(xlabel=x_label, ylabel=y_label)
        _scale(axes, "y", [v for _, y in lines.values() for v in y])

    return _svg(title, draw)


def bar_chart(title: str, y_label: str, places: Sequence[str], bars: Mapping[str, Sequence[Bar | None]], colours: Mapping[str, int]) -> str:
    """Draw one mark with its interval for each model (name -> a figure for each place, None where there is none), side by side at each place."""

    def draw(axes: Any) -> None:
        for k, (name, figures) in enumerate(bars.items()):
            for at, bar in enumerate(figures):
                _mark(axes, at + (k - (len(bars) - 1) / 2) * 0.12, bar, colours[name])
        axes.set_xticks(range(len(places)), places)
        axes.set(xlim=(-0.5, len(places) - 0.5), ylabel=y_label)
        _scale(axes, "y", [end for figures in bars.values() for bar in figures if bar for end in bar if end is not None])

    return _svg(title, draw)


def point_chart(title: str, x_label: str, y_label: str, points: Mapping[str, tuple[float, Bar]], colours: Mapping[str, int]) -> str:
    """Draw one mark with its interval for each model (name -> x and a figure); the horizontal axis is logarithmic if they differ by much."""

    def draw(axes: Any) -> None:
        axes.set(xlabel=x_label, ylabel=y_label)
        _scale(axes, "x", [x for x, _ in points.values()])
        for name, (x, bar) in points.items():
            _mark(axes, x, bar, colours[name])

    return _svg(title, draw)


def legend(colours: Mapping[str, int]) -> str:
    """Return the HTML of names beside their colours."""
    items = "".join(f'<span><i style="background:var(--c{k % COLOURS})"></i>{escape(name)}</span>' for name, k in colours.items())
    return f'<p class="legend">{items}</p>'


def _scale(axes: Any, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic if its values are positive and the largest is more than ten times the smallest; write numbers without powers."""
    finite = [v for v in values if np.isfinite(v)]
    if finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set(**{f"{which}scale": "log"})
        axis = getattr(axes, f"{which}axis")
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def _mark(axes: Any, x: float, bar: Bar | None, colour: int) -> None:
    if bar is None or not np.isfinite(bar[0]):
        return
    value, low, high = bar
    if low is not None and high is not None:
        axes.plot([x, x], [low, high], color=_colour(colour), linewidth=2)
    axes.plot([x], [value], "o", color=_colour(colour), markersize=8)


def _colour(k: int) -> str:
    return f"#10000{k % COLOURS}"  # not of black, which matplotlib leaves out where it fills


def _svg(title: str, draw: Callable[[Any], None]) -> str:
    """Return the SVG of one pair of axes, as part of a page: without prolog, metadata and size, in the colours of the page."""
    from matplotlib import rc_context  # the one place of this library
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True)
    body = text.getvalue().partition("<svg")[2].partition(">")[2]
    for pattern, instead in _CLEANED.items():
        body = re.sub(pattern, instead, body, flags=re.DOTALL)
    for stand_in, colour in _STAND_INS.items():
        body = body.replace(stand_in, colour)
    for style, name in _CLASSES.items():
        body = body.replace(f'style="{style}"', f'class="{name}"')
    return f'<svg viewBox="0 0 331.2 230.4" role="img" aria-label="{escape(title, quote=True)}">{body}'
