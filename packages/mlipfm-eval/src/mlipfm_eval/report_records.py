"""Sections of a report that show evidence: result records, and the card of every model."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mlipfm_interfaces.model_card import model_card

from .report_data import Content
from .report_html import short, table


def records(content: Content) -> str:
    """Verdict and figures of every record."""
    names = {manifest["digest"]: name for name, manifest in content.manifests.items()}
    rows = []
    for record in content.records:
        broken = record["details"].get("broken", [])
        if record["kind"] == "check":
            rules = len(record["details"].get("rules", record["metrics"]))
            said = f"breaks {', '.join(_broken(record, str(rule)) for rule in broken)}" if broken else f"{rules} rules"
        else:
            forces = [m for m in record["metrics"] if m["name"] == "force MAE" and "element" not in m and m["value"] is not None]
            listed = ", ".join(f"{short(m['value'])} {m['unit']}" + (f" on {m['set']}" if "set" in m else "") for m in forces)
            said = f"force MAE {listed}" if forces else f"{len(record['metrics'])} figures"
        passed = '<span class="good">passed</span>' if record["passed"] else '<span class="bad">failed</span>'
        rows.append(
            [
                escape(names.get(record["model"], record["model"][:16])),
                escape(record["kind"]),
                passed,
                f'<div class="left">{escape(said)}</div>',
            ]
        )
    return table(["model", "kind", "verdict", ""], rows) if rows else ""


def _broken(record: Mapping[str, Any], rule: str) -> str:
    """The rule, with its figure and limit if it has them."""
    for m in record["metrics"]:
        if m["name"] == rule and m.get("status") == "broken" and m["value"] is not None and m.get("limit") is not None:
            return f"{rule} ({short(m['value'])} {m['unit']}, limit {short(m['limit'])})"
    return rule


def cards(content: Content) -> str:
    """What each manifest says of its model, folded."""
    cards = []
    for name, manifest in content.manifests.items():
        cards.append(f'<details class="card"><summary>{escape(name)}</summary>{_card_html(model_card(manifest))}</details>')
    return f'<div class="grid cards">{"".join(cards)}</div>' if cards else ""


def _card_html(markdown: str) -> str:
    """Headings, tables and code of a model card; everything else is text."""
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
    """Escaped, with `code`."""
    pieces = escape(text.replace("\x00", "|")).split("`")
    return "".join(f"<code>{piece}</code>" if k % 2 else piece for k, piece in enumerate(pieces))
