"""Plots of an analysis by matplotlib, each as inline SVG for the page and as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray

_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "mlipfm", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True,
               "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip


def curves(
    path: Path,
    x_label: str,
    y_label: str,
    lines: Mapping[str, tuple[Array, Array, Array | None]],
    *,
    reference: Mapping[str, tuple[Array, Array]] | None = None,
    log: bool = False,
    level: float | None = None,
) -> str:
    """Draw curves (name -> x, y, standard error or None) with bands of two standard errors; return the SVG and write a PNG.

    Args:
        reference: dashed curves from elsewhere. log: both axes logarithmic. level: a horizontal line.
    """

    def draw(axes: Any) -> None:
        for k, (name, (x, y, error)) in enumerate(lines.items()):
            axes.plot(x, y, color=f"C{k}", linewidth=1.3, label=name)
            if error is not None:
                axes.fill_between(x, y - 2 * error, y + 2 * error, color=f"C{k}", alpha=0.25, linewidth=0)
        for name, (x, y) in (reference or {}).items():
            axes.plot(x, y, "--", color="black", linewidth=1, label=name)
        if level is not None:
            axes.axhline(level, color="grey", linewidth=0.8)
        if log:
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(lines) + len(reference or {}) > 1:
            axes.legend(fontsize=8)

    return _save(path, draw)


def panels(path: Path, x_label: str, x: Array, rows: Sequence[tuple[str, Array]]) -> str:
    """Draw time series above each other, with their means; return the SVG and write a PNG."""

    def draw(figure: Any) -> None:
        for axes, (label, y) in zip(figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0], rows, strict=True):
            axes.plot(x, y, linewidth=0.7)
            axes.axhline(float(np.mean(y)), color="black", linewidth=0.8)
            axes.set_ylabel(label)
        figure.axes[-1].set_xlabel(x_label)

    return _save(path, draw, height=1.5 * len(rows) + 0.6, whole=True)


def _save(path: Path, draw: Callable[[Any], None], height: float = 3.4, whole: bool = False) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, height))
        draw(figure if whole else figure.subplots())
        figure.subplots_adjust(left=0.13, right=0.97, top=1 - 0.1 / height, bottom=0.5 / height, hspace=0.1)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        figure.savefig(path, dpi=120)
    return "<svg" + text.getvalue().partition("<svg")[2]
