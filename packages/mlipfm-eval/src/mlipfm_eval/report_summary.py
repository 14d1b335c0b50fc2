"""Sections of a report that come from the summary of a quickstart: its verdicts, errors in and out of distribution, and the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .report_data import Content
from .report_html import OTHER, colours, figure_cell, table
from .svg import Axis, Series, chart, legend


def verdicts(content: Content) -> str:
    """What the run allows to say."""
    said = content.summary.get("verdicts")
    lines = (
        [f'<p class="verdict">{escape(str(line))}</p>' for line in said] if isinstance(said, Sequence) and not isinstance(said, str) else []
    )
    return "".join(lines)


def sets(content: Content) -> str:
    """Force and energy errors of every model on every set, with a chart of the force errors."""
    found = content.summary.get("sets")
    if not isinstance(found, Mapping) or not found:
        return ""
    models = list(next(iter(found.values()))["figures"])
    tables = []
    for key, what in (("force_mae", "force MAE, meV/Å"), ("energy_mae", "energy MAE, meV/atom")):
        rows = [[escape(m), *(figure_cell(s["figures"].get(m, {}).get(key)) for s in found.values())] for m in models]
        tables.append(table([what, *(escape(s["what"]) for s in found.values())], rows))
    chosen = {m: colours(content).get(m, OTHER) for m in models}
    series = [_marks(m, k, len(models), list(found.values()), chosen[m]) for k, m in enumerate(models)]
    axis = Axis("", ticks=False, names=tuple(s["what"].split()[0] for s in found.values()))
    picture = chart(series, axis, Axis("force MAE, meV/Å", log=True), kind="marks", title="force errors on every set")
    caption = "; ".join(f"{s['what']}: {s.get('meaning', '')}" for s in found.values())
    figure = f"<figure>{legend(chosen)}{picture}<figcaption>{escape(caption)}</figcaption></figure>"
    return f'{tables[0]}<div class="grid"><div>{tables[1]}</div>{figure}</div>'


def _marks(model: str, k: int, n: int, found: list[Mapping[str, Any]], colour: int) -> Series:
    """One mark for each set, models side by side."""
    figures = [s["figures"][model]["force_mae"] for s in found]
    x = [at + (k - (n - 1) / 2) * 0.12 for at in range(len(found))]
    nan = float("nan")
    low, high = ([m["ci95"][end] if m["ci95"] else nan for m in figures] for end in (0, 1))
    return Series(model, x, [nan if m["value"] is None else m["value"] for m in figures], low, high, colour)


def registry(content: Content) -> str:
    """What was pushed, promoted, pulled back and refused."""
    found = content.summary.get("registry")
    if not isinstance(found, Mapping) or not found:
        return ""
    for key, words in (("skipped", "Left out"), ("failed", "Failed")):
        if key in found:
            return f"<p>{words}: {escape(str(found[key]))}</p>"
    versions, promoted, refused = (found.get(key, {}) for key in ("versions", "promoted", "refused"))
    titles = {name: escape(content.titles.get(name, name)) for name in versions}
    rows = []
    for name, number in versions.items():
        said = "promoted, and pulled back by another process: the same digest" if name == found.get("best") else ""
        if name in refused:
            said = f'<span class="bad">not promoted</span>: {escape(str(refused[name]))}'
        rows.append([titles[name], str(number), f'<div class="left">{said}</div>'])
    line = "; ".join(f"{address} is {digest}" for address, digest in promoted.items())
    return table(["model", "version", ""], rows) + f'<p class="soft wrap">{escape(line)}</p>'
