"""Pages of HTML that hold everything they show: one file without scripts and addresses. Callers escape text, unless a docstring says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

__all__ = ["chart_grid", "document", "paragraphs", "section", "table"]

#: Pictures in colours of their own stay on white where the reader prefers a dark page.
LIGHT_FIGURES = "figure{background:#fff;--soft:#5b6675}"


def document(title: str, sections: Sequence[str], *, light_figures: bool = False) -> str:
    """Return a whole page of sections, with the style sheet `page.css` in it and without permission for anything else."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8") + (LIGHT_FIGURES if light_figures else "")
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{style}</style></head><body>{"".join(sections)}</body></html>\n'


def section(title: str, body: str, text: str = "") -> str:
    """Return a headed section (title and text are escaped); nothing if there is nothing to show."""
    intro = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Return a table that scrolls sideways where the screen is narrow. Cells are HTML already; style `words`: they are words and not numbers."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    return f'<div class="{f"wide {style}".rstrip()}"><table>{top}<tbody>{body}</tbody></table></div>'


def paragraphs(lines: Iterable[str], style: str = "soft") -> str:
    """Return each line as a paragraph, escaped."""
    return "".join(f'<p class="{style}">{escape(str(line))}</p>' for line in lines)


def chart_grid(charts: Iterable[tuple[str, str]]) -> str:
    """Return charts (SVG or image, and caption, which is escaped) side by side; nothing without any."""
    figures = "".join(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>" for picture, caption in charts)
    return f'<div class="grid">{figures}</div>' if figures else ""
