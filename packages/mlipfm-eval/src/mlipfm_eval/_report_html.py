"""Figures and model cards of a report, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def figure_cell(figure: Mapping[str, Any] | None) -> str:
    """Return the value of a Metric (as a dictionary) above its interval and its failures; `-` where there is none."""
    if figure is None:
        return "-"
    ci95, failed = figure.get("ci95"), figure["n_total"] - figure["n_ok"]
    failures = f'<small class="bad">{failed} of {figure["n_total"]} failed</small>' if failed else ""
    if figure.get("value") is None:
        return failures or "-"
    interval = f"<small>[{short(ci95[0])}, {short(ci95[1])}]</small>" if ci95 else ""
    return f"{short(figure['value'])}{interval}{failures}"


def short(value: float) -> str:
    """Return three digits, without an exponent where people need none."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def card_html(markdown: str) -> str:
    """Return headings, tables and code of a model card as HTML; everything else is text."""
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
    """Escaped text, with `code`."""
    pieces = escape(text.replace("\x00", "|")).split("`")
    return "".join(f"<code>{piece}</code>" if k % 2 else piece for k, piece in enumerate(pieces))
