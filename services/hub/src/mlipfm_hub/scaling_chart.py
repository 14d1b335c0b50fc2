"""The picture of a sweep: losses of runs against an axis, both logarithmic, with the laws as lines and held-out runs as bars.

Coordinates are computed here and `scaling_chart.html` draws them: points are links to the models of the hub, and colours follow the page,
which a picture made by matplotlib does not do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .sweeps import GroupFit, Law, Point, Prediction, Sweep

AXES = {
    "parameters": "parameters",
    "atoms": "atoms seen in training",
    "flops": "floating-point operations of matrix products",
    "core_seconds": "core-seconds of training",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 420, 64, 16, 14, 52
LINES = 8  # of a law, at most: one for each value of the other axis


@dataclass
class Chart:
    """What is drawn, in pixels of a picture of `WIDTH` x `HEIGHT`.

    Attributes:
        points: x, y, colour, text, address. lines: points of a polyline and colour. bars: of held-out runs: x, y of the prediction, ends of its
            interval, y observed or None, colour, text. x_ticks, y_ticks: place and label.
    """

    label: str
    loss: str
    points: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(sweep: Sweep, loss: str, axis: str, groups: Sequence[str], addresses: dict[str, str]) -> Chart | None:
    """Return the picture of one loss against one of `AXES`; None where no run has both.

    Args:
        groups: names in the order of their colours; all of them or some. addresses: digest -> page of the model in this hub.
    """
    colours = {group: k % 7 for k, group in enumerate(dict.fromkeys(point.group for point in sweep.points))}
    runs = [p for p in sweep.points if p.group in groups and p.losses.get(loss, 0) > 0 and getattr(p, axis) > 0]
    if not runs:
        return None
    fits = {group: found[loss] for group, found in sweep.fit.groups.items() if group in groups and loss in found}
    held_out = [(group, p) for group, fit in fits.items() for p in fit.predictions if getattr(p, axis, 0) > 0]
    x_scale = Scale([getattr(p, axis) for p in runs] + [getattr(p, axis) for _, p in held_out], LEFT, WIDTH - RIGHT)
    values = [p.losses[loss] for p in runs] + [v for _, p in held_out for v in (*p.ci95, p.predicted, p.observed) if v and v > 0]
    y_scale = Scale(values, HEIGHT - BOTTOM, TOP)
    chart = Chart(AXES[axis], loss, x_ticks=x_scale.ticks(), y_ticks=y_scale.ticks())
    chart.points = [_point(p, loss, axis, x_scale, y_scale, colours[p.group], addresses.get(p.digest, "")) for p in runs]
    chart.bars = [_bar(p, axis, x_scale, y_scale, colours.get(group, 0)) for group, p in held_out]
    for group, fit in fits.items():
        own = [p for p in runs if p.group == group]
        chart.lines += [{"colour": colours.get(group, 0), "points": line} for line in _curves(fit, own, axis, x_scale, y_scale)]
    return chart


class Scale:
    """A logarithmic scale from the values to pixels between `start` and `end`, with a margin of 5 % on both sides."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.05 * (high - low), 0.05)
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        """Return the place of a value, within the picture."""
        share = (math.log10(max(value, 1e-300)) - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and labels: powers of ten, and 2 and 5 times these where fewer than two powers are in sight; at most 8 or so."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        whole = [10.0**k for k in decades if self.low <= k <= self.high]
        step = -(-len(whole) // 8) or 1
        chosen = whole[::step] if len(whole) > 2 else [m * 10.0**k for k in decades for m in (1, 2, 5) if self._in(m * 10.0**k)]
        if len(chosen) < 2:
            chosen = [10**x for x in np.linspace(self.low, self.high, 4)[1:-1]]
        return [(self(value), short(value)) for value in chosen]

    def _in(self, value: float) -> bool:
        return self.low <= math.log10(value) <= self.high


def short(value: float) -> str:
    """Return a number as axes show it: 5, 200, 20k, 1M, 10^12."""
    if value >= 1e12 or value < 1e-3:
        return f"{value:.0e}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}"


def _point(p: Point, loss: str, axis: str, x: Scale, y: Scale, colour: int, address: str) -> dict[str, Any]:
    text = f"{p.run}: {loss} {p.losses[loss]:.4g}, {p.parameters:,} parameters, {p.atoms:,} atoms"
    return {"x": x(getattr(p, axis)), "y": y(p.losses[loss]), "colour": colour, "text": text, "at": address}


def _bar(p: Prediction, axis: str, x: Scale, y: Scale, colour: int) -> dict[str, Any]:
    low, high = p.ci95
    text = f"{p.run}, held out: predicted {p.predicted:.4g} ({low:.4g} to {high:.4g})"
    text += f", observed {p.observed:.4g}" if p.observed is not None else ", not run yet"
    place = {"x": x(getattr(p, axis)), "y": y(p.predicted), "low": y(low), "high": y(high), "colour": colour, "text": text}
    return place | {"observed": y(p.observed) if p.observed is not None and p.observed > 0 else None}


def _curves(fit: GroupFit, runs: Sequence[Point], axis: str, x: Scale, y: Scale) -> list[str]:
    """Return polylines of the law against the axis, one for each value of its other axis; none where the law does not have the axis."""
    if fit.law is None or axis not in fit.law.axes or not runs:
        return []
    other = next((name for name in fit.law.axes if name != axis), None)
    others = sorted({float(getattr(p, other)) for p in runs}) if other else [1.0]
    if len(others) > LINES:
        others = [others[round(k)] for k in np.linspace(0, len(others) - 1, LINES)]
    along = 10 ** np.linspace(x.low, x.high, 60)
    curves = [zip(along, _law(fit.law, {axis: along, other or "": value}), strict=True) for value in others]
    return [" ".join(f"{x(a):g},{y(b):g}" for a, b in curve if y.low <= math.log10(b) <= y.high) for curve in curves]


def _law(law: Law, at: dict[str, Any]) -> Any:
    """Return the losses that a law gives, at least 1e-300."""
    terms = sum(c * np.asarray(at[axis], dtype=float) ** -e for axis, c, e in zip(law.axes, law.coefficients, law.exponents, strict=True))
    return np.maximum(law.floor + terms, 1e-300)
