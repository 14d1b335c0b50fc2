"""Charts as inline SVG, without any library: lines, points and intervals on linear or logarithmic axes.

Colours are CSS variables (`--c0`, `--c1`, ...), so that a page decides how they look on light and dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 14, 12, 46


@dataclass(frozen=True)
class Series:
    """One thing that is drawn in colour number `colour`.

    Attributes:
        x, y: [points]; those that are not finite are left out. low, high: [points] ends of intervals, or None.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: int = 0


@dataclass(frozen=True)
class Axis:
    """Label and scale of an axis; `ticks` False where its numbers mean nothing. names: of the places 0, 1, 2, ... of a horizontal one."""

    label: str
    log: bool = False
    ticks: bool = True
    names: tuple[str, ...] = ()


def chart(series: Sequence[Series], x: Axis, y: Axis, *, kind: str, title: str, equal: bool = False, notes: Sequence[str] = ()) -> str:
    """An SVG of series.

    Args:
        kind: `line`, `points` (small and faint, for many) or `marks` (large, named, with intervals).
        title: what it shows, for readers that cannot see it.
        equal: both axes have one range, and the diagonal is drawn. notes: lines of text in the upper left corner.
    """
    scale_x, scale_y = (
        _Scale.of([s.x for s in series], x.log, _LEFT, WIDTH - _RIGHT),
        _Scale.of(_with_ends(series), y.log, HEIGHT - _BOTTOM, _TOP),
    )
    if x.names:
        scale_x = scale_x.over(-0.5, len(x.names) - 0.5)
    if equal:
        low, high = min(scale_x.low, scale_y.low), max(scale_x.high, scale_y.high)
        scale_x, scale_y = scale_x.over(low, high), scale_y.over(low, high)
    parts = [_axes(scale_x, scale_y, x, y)]
    if equal:
        parts.append(_line(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, _TOP, "diagonal"))
    draw = {"line": _polyline, "points": _points, "marks": _marks}[kind]
    parts += [draw(s, scale_x, scale_y) for s in series]
    parts += [_text(_LEFT + 10, _TOP + 18 * (k + 1), note, "start") for k, note in enumerate(notes)]
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">{inside}</svg>'


def legend(colours: Mapping[str, int]) -> str:
    """Names beside their colours."""
    return (
        '<p class="legend">'
        + "".join(f'<span><i style="background:{_colour(k)}"></i>{escape(n)}</span>' for n, k in colours.items())
        + "</p>"
    )


def _colour(k: int) -> str:
    return f"var(--c{k % 7})"


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[Sequence[float] | np.ndarray], log: bool, start: float, end: float) -> _Scale:
        """Covers all finite values (positive ones on a logarithmic axis) with a margin."""
        numbers = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
        numbers = numbers[np.isfinite(numbers)]
        if log:
            numbers = np.log10(numbers[numbers > 0])
        if not len(numbers):
            numbers = np.array([0.0, 1.0])
        low, high = float(numbers.min()), float(numbers.max())
        margin = max(0.05 * (high - low), 0.2 if log else 0.0) or 0.5
        return cls(low - margin, high + margin, log, start, end)

    def over(self, low: float, high: float) -> _Scale:
        return _Scale(low, high, self.log, self.start, self.end)

    def __call__(self, value: float) -> float:
        v = math.log10(value) if self.log else value
        return self.start + (v - self.low) / (self.high - self.low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self) -> list[float]:
        """Round numbers within the range, about five."""
        if self.log:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            narrow = self.high - self.low < 0.9
            steps = (1.0,) if len(decades) > 3 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if narrow else (1.0, 2.0, 5.0)
            every = max(1, len(decades) // 6)
            found = [m * 10.0**k for k in range(math.floor(self.low), math.ceil(self.high) + 1) if k % every == 0 for m in steps]
            return [t for t in found if self.low <= math.log10(t) <= self.high]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _with_ends(series: Sequence[Series]) -> list[Sequence[float] | np.ndarray]:
    return [values for s in series for values in (s.y, s.low, s.high) if values is not None]


def _axes(sx: _Scale, sy: _Scale, x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in sx.ticks() if x.ticks else ():
        at = sx(value)
        parts.append(_line(at, _TOP, at, bottom, "grid") + _text(at, bottom + 17, _number(value), "middle"))
    for k, name in enumerate(x.names):
        parts.append(_text(sx(k), bottom + 17, name, "middle"))
    for value in sy.ticks() if y.ticks else ():
        at = sy(value)
        parts.append(_line(_LEFT, at, right, at, "grid") + _text(_LEFT - 6, at + 4, _number(value), "end"))
    parts.append(_line(_LEFT, bottom, right, bottom, "axis") + _line(_LEFT, _TOP, _LEFT, bottom, "axis"))
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 8, x.label, "middle"))
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">{escape(y.label)}</text>')
    return "".join(parts)


def _polyline(s: Series, sx: _Scale, sy: _Scale) -> str:
    points = " ".join(f"{sx(a):.1f},{sy(b):.1f}" for a, b in _shown(s, sx, sy))
    return (
        f'<polyline points="{points}" fill="none" stroke="{_colour(s.colour)}" stroke-width="2"><title>{escape(s.name)}</title></polyline>'
    )


def _points(s: Series, sx: _Scale, sy: _Scale) -> str:
    path = "".join(f"M{sx(a):.1f} {sy(b):.1f}h0" for a, b in _shown(s, sx, sy))  # a line of no length with round ends is a dot
    return f'<path d="{path}" stroke="{_colour(s.colour)}" stroke-width="4" stroke-linecap="round" stroke-opacity="0.45"/>'


def _marks(s: Series, sx: _Scale, sy: _Scale) -> str:
    parts = []
    for n, (a, b) in enumerate(zip(s.x, s.y, strict=True)):
        if not (sx.shows(a) and sy.shows(b)):
            continue
        at, colour = sx(a), _colour(s.colour)
        if s.low is not None and s.high is not None and sy.shows(s.low[n]) and sy.shows(s.high[n]):
            parts.append(f'<path d="M{at:.1f} {sy(s.low[n]):.1f}V{sy(s.high[n]):.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<circle cx="{at:.1f}" cy="{sy(b):.1f}" r="6" fill="{colour}"><title>{escape(s.name)}</title></circle>')
    return "".join(parts)


def _shown(s: Series, sx: _Scale, sy: _Scale) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(s.x, s.y, strict=True) if sx.shows(float(a)) and sy.shows(float(b))]


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<path class="{name}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.6g}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.0e}"
