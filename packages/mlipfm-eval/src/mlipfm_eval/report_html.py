"""Pieces of HTML that all sections of a report are made of; text is escaped by who puts it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .report_data import Content

#: Colour of what is no model of the run.
OTHER = 6


def section(title: str, text: str, body: str) -> str:
    """Left out if there is nothing to show."""
    said = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Scrolls sideways where the screen is narrow. Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead><tbody>{body}</tbody></table></div>'


def figure_cell(figure: Mapping[str, Any] | None) -> str:
    """A Metric as a dictionary: its value above its interval and its failures."""
    if figure is None or figure.get("value") is None:
        return "-"
    ci95, failed = figure.get("ci95"), figure["n_total"] - figure["n_ok"]
    interval = f"<small>[{short(ci95[0])}, {short(ci95[1])}]</small>" if ci95 else ""
    return f"{short(figure['value'])}{interval}" + (f'<small class="bad">{failed} of {figure["n_total"]} failed</small>' if failed else "")


def short(value: float) -> str:
    """Three digits, and no exponent where people need none."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def colours(content: Content) -> dict[str, int]:
    """One colour for each model, the same in all charts."""
    simulated = content.summary.get("dynamics")
    names = [*(run.name for run in content.runs), *(t.name for t in content.tried), *(simulated if isinstance(simulated, Mapping) else ())]
    return {name: k for k, name in enumerate(dict.fromkeys(names))}
