"""How objects show themselves: one line in a terminal, a small table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def line(name: str, *parts: str) -> str:
    """`Name(part, part)`, without empty parts."""
    return f"{name}({', '.join(part for part in parts if part)})"


def html_table(rows: Mapping[str, object]) -> str:
    """Two columns, escaped; rows whose value is None or empty are left out."""
    shown = {key: value for key, value in rows.items() if value is not None and value != ""}
    body = "".join(f"<tr><th style='text-align:left'>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in shown.items())
    return f"<table>{body}</table>"
