"""Labelled data sets from stores and from files that `mlipfm_data.read` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_interfaces.benchmark import LabelledSet as LabelledSet, Split
from mlipfm_interfaces.errors import MissingLabelsError, RefusedFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level


def open_sets(stores: Sequence[Path | str], ood: Sequence[Path | str] = (), level: str | None = None, **reading: Any) -> list[LabelledSet]:
    """Open stores, or read files as `mlipfm_data.read` does; those of `ood` are out of distribution.

    Args:
        level: take the labels that overlays of this level give, where the store itself is of another.
        reading: options of readers, for files: `energy_key`, `energy_unit`, ...; values may be text, as on a command line.

    Frames of a file that cannot be used are left out, and the set says so in its notes. Labels of a file are checked as by `mlipfm data import`.

    Raises:
        what `Store` and `read` raise, and the first refusal of a file without a frame that can be used; RefusedFileError: one data set twice;
            MissingLabelsError: an empty one.
    """
    from mlipfm_data.store.manifest import is_store

    found: list[LabelledSet] = []
    wanted: list[tuple[Path, Split]] = [*((Path(path), "id") for path in stores), *((Path(path), "ood") for path in ood)]
    for path, split in wanted:
        structures, digest, notes, errors = _open_store(path, level) if is_store(path) else _read_file(path, reading)
        if not len(structures):
            raise MissingLabelsError("there are no structures", where=str(path))
        if digest in {known.digest for known in found}:
            raise RefusedFileError("the same data are given twice", where=str(path), hint="a set is either in or out of distribution")
        names = {known.name for known in found}
        name = path.name if path.name not in names else str(path)
        found.append(LabelledSet(name, digest, split, structures, notes, path, errors))
    return found


#: Structures, digest, notes and label errors of a `LabelledSet`.
_Opened = tuple[Sequence[Structure], str, tuple[str, ...], tuple[str, ...]]


def _open_store(path: Path, level: str | None) -> _Opened:
    from mlipfm_data.store.store import Store

    store = Store(path)
    structures = (
        store if level is None else [s if find_level(level, [s.level or ""]) else store.at_level(k, level) for k, s in enumerate(store)]
    )
    return structures, sha256(path / "manifest.json"), (), ()


def _read_file(path: Path, reading: Mapping[str, Any]) -> _Opened:
    from mlipfm_data.label_checks.checks import inspect
    from mlipfm_data.label_checks.declared_units import read_option, with_advice_for
    from mlipfm_data.readers.option_text import typed_options
    from mlipfm_data.readers.registry import read
    from mlipfm_data.readers.report import ReadReport

    report = ReadReport()
    found = list(read(path, require=(), report=report, **typed_options(path, reading)))
    structures = [item for item in found if isinstance(item, Structure)]
    refused = [item.error for item in found if not isinstance(item, Structure)]
    if refused and not structures:
        raise refused[0]
    parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if len(parts) == 1:
        digest = sha256(parts[0])
    else:
        digest = hashlib.sha256("".join(f"{p.relative_to(path)} {sha256(p)}\n" for p in parts).encode()).hexdigest()
    left_out = [f"{len(refused)} of {len(found)} frames are left out, the first: {refused[0]}"] if refused else []
    findings = with_advice_for(inspect(structures), report)
    errors = tuple(f"{f.code}: {f.words} ({f.numbers}); {read_option(f.hint)}" for f in findings if f.severity == "fault")
    doubts = [read_option(str(f)) for f in findings if f.severity == "doubt"]
    return structures, digest, (*left_out, *report.lines(), *doubts), errors
