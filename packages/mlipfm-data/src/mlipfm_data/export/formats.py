"""The formats a store is written in, and how the end of a file name chooses one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlipfm_interfaces.errors import UnwritableFileError
from mlipfm_interfaces.files import unwritable
from mlipfm_interfaces.structure import Structure

from ..importing import shown
from ..readers.deepmd import FRAMES_FILE
from ..readers.extxyz import export_extxyz
from .ase_db import export_ase_db
from .deepmd import export_deepmd
from .report import ExportReport, held, not_read_again


class Format(NamedTuple):
    """A format: the ends of its files' names, whether it is a folder, and what writes it."""

    suffixes: tuple[str, ...]
    folder: bool
    write: Callable[[Sequence[Structure], Path], ExportReport]


def _write_extxyz(structures: Sequence[Structure], out: Path) -> ExportReport:
    report = ExportReport()
    frames = (held(s, report, not_read_again) for s in shown(iter(structures), out.name))
    report.structures = export_extxyz(frames, out)
    return report


def _write_ase_db(structures: Sequence[Structure], out: Path) -> ExportReport:
    return export_ase_db(shown(iter(structures), out.name), out)


FORMATS = {
    "extxyz": Format((".xyz", ".extxyz"), False, _write_extxyz),
    "ase-db": Format((".db",), False, _write_ase_db),
    "deepmd": Format((".deepmd",), True, export_deepmd),
}


def export(structures: Sequence[Structure], out: Path | str, format: str | None = None, *, replace: bool = False) -> ExportReport:
    """Write structures in a format of others, and say what it could not hold.

    Args:
        structures: a store, or any sequence. out: file, or folder of DeePMD systems. format: one of `FORMATS` [by the end of the name].
        replace: what is there; a folder only if it holds nothing but such an export.

    Raises:
        UnwritableFileError: unknown format, `out` is there and not to be replaced, disk full, ...; what was there is intact.
    """
    out = Path(out)
    chosen = FORMATS[format_of(out, format)]
    _check_free(out, chosen, replace)
    try:
        return chosen.write(structures, out)
    except OSError as error:
        raise unwritable(out, error) from error


def format_of(out: Path, format: str | None = None) -> str:
    """Return the requested format, or the one that the end of the name tells.

    Raises:
        UnwritableFileError: neither is known, or they contradict each other.
    """
    known = ", ".join(f"{name} ({', '.join(kind.suffixes)}{', a folder' if kind.folder else ''})" for name, kind in FORMATS.items())
    if format is not None and format not in FORMATS:
        raise UnwritableFileError(f"no export is named {format!r}", where=str(out), hint=f"choose one of {known}")
    told = next((name for name, kind in FORMATS.items() if out.suffix in kind.suffixes), None)
    if format is None and told is None:
        what = f"the name ends in {out.suffix!r}, which no export writes" if out.suffix else "the name does not show the format"
        raise UnwritableFileError(what, where=str(out), hint=f"name it, or set --format (in Python `format`), for one of {known}")
    if format is not None and told not in (None, format):
        raise UnwritableFileError(f"the name says {told}, the format {format}", where=str(out), hint="change one of them")
    return format or str(told)


def _check_free(out: Path, chosen: Format, replace: bool) -> None:
    """Raises `UnwritableFileError` if `out` may not be replaced."""
    if not out.exists():
        return
    if not replace:
        raise UnwritableFileError("is there already", where=str(out), hint="choose another name, or --force")
    if out.is_dir() != chosen.folder:
        kinds = ("file", "folder") if chosen.folder else ("folder", "file")
        raise UnwritableFileError(f"is a {kinds[0]}, and this format is a {kinds[1]}", where=str(out), hint="choose another name")
    foreign = next((path for path in out.rglob("*") if not path.is_dir() and not _ours(path)), None) if chosen.folder else None
    if foreign is not None:
        raise UnwritableFileError(f"holds {foreign.relative_to(out)}, which no export wrote", where=str(out), hint="choose another name")
    beside = next((path for end in ("-wal", "-journal") if (path := out.with_name(out.name + end)).exists()), None)
    if beside is not None:
        raise UnwritableFileError(f"is in use: {beside.name} is beside it", where=str(out), hint="close the program, or remove both files")


def _ours(path: Path) -> bool:
    """Return whether a file of an old export: nothing else is ever removed."""
    in_set = re.fullmatch(r"set\.\d+", path.parent.name)
    return path.suffix == ".npy" or path.name == FRAMES_FILE if in_set else path.name in ("type.raw", "type_map.raw", "nopbc")
