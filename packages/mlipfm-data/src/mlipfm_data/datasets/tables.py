"""The catalogue as text: a table that fits 80 columns, and one set with everything that is known and where it was read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .catalogue import sources
from .schema import FACTS, DataSet, Fact, plain

WIDTH = 80
_HEAD = f"{'set':<14}{'size':>6} {'elements':<13}{'level':<21}{'labels':<7}{'licence':<10}{'reader':<8}"


def overview(entries: Sequence[DataSet]) -> Iterator[str]:
    """Yield one line for each set. `E F S`: energies, forces, stress; `q`, `s`: charged, open shells; `*`: sources contradict each other."""
    yield _HEAD.rstrip()
    for entry in entries:
        yield _line(entry)
    yield ""
    yield "E F S: energy, forces, stress; q s: ions, open shells; *: sources differ;"
    yield "-: not in the sources read. `mlipfm data list NAME` shows one set."


def _line(entry: DataSet) -> str:
    mark = "*" if entry.differing() else ""
    readers = sorted({fact.reader for fact in entry.layouts if fact.reader and fact.reader != "none"})
    cells = (
        f"{entry.id + mark:<14}", f"{_size(entry):>6} ", f"{_elements(entry):<13}", f"{_level(entry):<21}", f"{_letters(entry):<7}",
        f"{_cut(_licence(entry), 9):<10}", _cut(readers[0] if readers else "none", 8),
    )  # fmt: skip
    return "".join(cells).rstrip()


def _size(entry: DataSet) -> str:
    """Return the most exact count, of all of the set if there is one."""
    return short_count(min(entry.structures, key=lambda fact: (fact.of is not None, fact.step)).value) if entry.structures else "-"


def short_count(value: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.1f}{name}" if value < 100 * unit else f"{value / unit:.0f}{name}"
    return str(value)


def _elements(entry: DataSet) -> str:
    if entry.elements:
        symbols = max((fact.value for fact in entry.elements), key=len)
        whole = not any(fact.at_least for fact in entry.elements)
        if len("".join(symbols)) <= 12 and whole:
            return "".join(symbols)
        return str(len(symbols)) if whole else str(entry.element_count[0].value if entry.element_count else f">={len(symbols)}")
    return str(entry.element_count[0].value) if entry.element_count else "-"


def _level(entry: DataSet) -> str:
    levels = {plain(level): level for fact in reversed(entry.levels) for level in reversed(fact.value)}
    first = entry.levels[0].value[0] if entry.levels else "-"
    return _cut(first, 20) if len(levels) < 2 else f"{_cut(first, 17)} +{len(levels) - 1}"


def _letters(entry: DataSet) -> str:
    named = {name for fact in entry.labels for name in fact.value}
    found = "".join(letter for letter, name in (("E", "energy"), ("F", "forces"), ("S", "stress")) if name in named)
    found += "q" if any(fact.value == "charged" for fact in entry.charges) else ""
    return (found + ("s" if any(fact.value == "open" for fact in entry.spins) else "")) or "-"


def _licence(entry: DataSet) -> str:
    if entry.status != "released":
        return "unreleased"
    return entry.licences[0].value if entry.licences else "-"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def one_set(entry: DataSet) -> Iterator[str]:
    """Everything about one set, with numbers of sources and the list of them."""
    used: list[str] = []

    def mark(name: str) -> str:
        if name not in used:
            used.append(name)
        return f"[{used.index(name) + 1}]"

    yield f"{entry.name} ({entry.id}), {entry.kind}, {entry.status}"
    differing = entry.differing()
    for name in FACTS:
        title = name.replace("_", " ") + (" (sources differ)" if name in differing else "")
        facts: Sequence[Fact] = getattr(entry, name)
        yield f"{title}:" + ("" if facts else " not in the sources read")
        for fact in facts:
            text = f"{mark(fact.source)} {_shown(fact)}"
            yield from [f"  {text}"] if name == "pages" else _wrapped(text)
    yield f"files:{'' if entry.files else ' no address in the sources read'}"
    for file in entry.files:
        digest = f"; md5 {file.md5}" if file.md5 else f"; sha256 {file.sha256}" if file.sha256 else "; no digest is published"
        size = f"; {file.size} bytes" if file.size else ""
        yield from _wrapped(f"{mark(file.source)} {file.name}{size}{digest}{f'; {file.note}' if file.note else ''}")
        yield f"      {file.url}"
    for files in entry.imports:
        said = [f"level {files.level}" if files.level else "", *(f"{key} {value}" for key, value in files.options.items())]
        yield from _wrapped(f"`mlipfm data get` reads {files.path} by {', '.join([files.reader or 'its name', *filter(None, said)])}")
    yield "sources:"
    for k, name in enumerate(used, 1):
        source = sources()[name]
        yield from _wrapped(f"[{k}] {source.what} ({source.kind})")
        if source.where not in source.what:
            yield f"      {source.where}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)


def _shown(fact: Fact) -> str:
    value = ", ".join(fact.value) if isinstance(fact.value, tuple) else f"{fact.value:,}" if isinstance(fact.value, int) else fact.value
    if fact.step:
        value = f"about {value}"
    if fact.of:
        value += f", {fact.of}"
    if fact.at_least:
        value = f"at least {value}"
    if fact.reader is not None:
        value += " -> " + ("no reader" if fact.reader == "none" else f"reader {fact.reader}" + (f", {fact.layout}" if fact.layout else ""))
    return value + (f" ({fact.note})" if fact.note else "")


def as_json(entry: DataSet) -> dict[str, Any]:
    """Return an entry as JSON-ready data; a field without facts is null."""
    told: dict[str, Any] = {key: getattr(entry, key) for key in ("id", "name", "kind", "status")}
    for name in FACTS:
        told[name] = [{k: v for k, v in asdict(fact).items() if v not in (None, False, 0)} for fact in getattr(entry, name)] or None
    told["files"] = [{k: v for k, v in asdict(file).items() if v is not None} for file in entry.files] or None
    told["imports"] = [asdict(files) for files in entry.imports] or None
    told["differing"] = entry.differing()
    return told
