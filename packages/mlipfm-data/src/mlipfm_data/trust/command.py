"""`mlipfm data trust`: likely faults of labelled data, with their likely causes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .findings import Finding


def trust(
    sources: list[Path] = typer.Argument(..., help="Stores, or files of any format that `import` reads."),
    level: str = typer.Option(None, help="Level of theory of files that do not state it."),
    reader: str = typer.Option(None, help="Reader of the files [default: by their names]."),
    options: list[str] = typer.Option(
        [], "--option", help="Another option of the reader, KEY=VALUE: forces_unit=Hartree/bohr, forces_sign=-1."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with all figures."),
) -> None:
    """Name likely faults of labels from physics alone: units, signs, orders, mixed levels, copies, outliers. Exits 1 if there are faults."""
    import json

    found = {str(source): findings_of(source, reader, _settings(source, reader, level, options)) for source in sources}
    if as_json:
        typer.echo(json.dumps({name: [item.as_dict() for item in items] for name, items in found.items()}, indent=1))
    else:
        for name, items in found.items():
            typer.echo("\n".join([f"{name}: {_summary(items)}", *(f"  {item}" for item in items)]))
    if any(item.severity == "fault" for items in found.values() for item in items):
        raise typer.Exit(1)


def findings_of(source: Path, reader: str | None = None, options: dict[str, object] | None = None) -> list[Finding]:
    """Findings about a store or a file.

    Raises:
        MlipfmError: if it cannot be read.
    """
    from ..importing import shown
    from ..layout_faults import with_advice_for
    from ..readers.frames_in import ReadReport
    from .columns import inspect_file
    from .findings import ordered
    from .inspecting import Inspector

    inspector = Inspector()
    if (source / "manifest.json").exists():
        from ..store import Store

        with Store(source) as store:
            for structure in shown(iter(store), source.name):
                inspector.add(structure)
        return inspector.findings()
    decisions = ReadReport()
    beside = inspect_file(source, inspector, reader, decisions=decisions, **(options or {}))
    return ordered([*beside, *with_advice_for(inspector.findings(), decisions)])


def store_lines(store: Path) -> list[str]:
    """The table of faults of a store, for reports of imports."""
    items = [item for item in findings_of(store) if item.severity != "note"]
    return [f"faults: {_summary(items)}", *(f"  {item}" for item in items)]


def _settings(source: Path, reader: str | None, level: str | None, texts: list[str]) -> dict[str, object]:
    """Options for the reader of a file. Raises `UnknownQuantityError` for a store with options: they would do nothing."""
    from mlipfm_interfaces.errors import UnknownQuantityError

    from ..readers.option_text import options_for

    if (source / "manifest.json").exists():
        given = [name for name, value in (("--level", level), ("--reader", reader), ("--option", texts)) if value]
        if given:
            raise UnknownQuantityError(f"{', '.join(given)} is for files, and {source} is a store", mend="leave it out")
        return {}
    return options_for(source, reader, texts, {"level": level})


def _summary(items: list[Finding]) -> str:
    counts = {name: sum(item.severity == name for item in items) for name in ("fault", "doubt", "note")}
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items()) if items else "nothing wrong was found"
