"""Pieces of HTML that a report is made of; text is escaped by whoever puts it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any


def document(title: str, sections: Sequence[str]) -> str:
    """Return a whole page of sections, with the style sheet in it and without permission for anything else."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{style}</style></head><body>{"".join(sections)}</body></html>\n'


def section(title: str, body: str, text: str = "") -> str:
    """Return a headed section; nothing if there is nothing to show."""
    intro = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls sideways where the screen is narrow. Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead><tbody>{body}</tbody></table></div>'


def paragraphs(lines: Iterable[str], style: str = "soft") -> str:
    """Return each line as a paragraph, escaped."""
    return "".join(f'<p class="{style}">{escape(str(line))}</p>' for line in lines)


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


def chart_grid(charts: Iterable[tuple[str, str]]) -> str:
    """Return charts (SVG and caption) side by side; nothing without any."""
    figures = "".join(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>" for picture, caption in charts)
    return f'<div class="grid">{figures}</div>' if figures else ""


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
