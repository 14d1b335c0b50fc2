"""Import every known set of a folder into one store with many levels of theory.

Sets are read by worker processes, each into a store of its own beside the large one, and joined to it in the order of their names. What is done is
recorded in the store (`sets.json`), so that an interrupted import goes on with the set at which it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import MlipfmError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.structure import Structure

from ..store.store import Store
from ..store.writer import StoreWriter
from .finding import digest, found_sets, jobs, unpacked
from .schema import KnownSet

#: In the store's folder: a row for each set that is in it, and the positions of the structures that were there already, from it or another set.
RECORD, THERE = "sets.json", "there"


@dataclass
class SetRow:
    """What became of one set: frames = stored + duplicates + refused.

    Attributes:
        name: of the set. files: read. frames: seen. stored: new in the store. duplicates: were there already, with the same level.
        refused: code -> number. first: code -> the first error in words. levels: level -> frames that were accepted.
        slope, correlation, pairs: energy differences against forces, of the file with the most neighbouring frames.
        reason: why nothing of it, or what of it, is not imported.
        before: the whole set was in the store when the run began, so that nothing of it is new.
    """

    name: str
    files: int = 0
    frames: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    slope: float | None = None
    correlation: float | None = None
    pairs: int = 0
    reason: str | None = None
    before: bool = False

    @property
    def imported(self) -> bool:
        """Whether anything of the set is in the store."""
        return self.stored + self.duplicates > 0


def import_sets(
    folder: Path | str, out: Path | str, *, only: Sequence[str] = (), workers: int = 1, done: Callable[[SetRow], None] | None = None
) -> list[SetRow]:
    """Import the known sets in `folder` into the store `out`, new or old, and return a row for each: what this run found of it, and what is new.

    Args:
        only: names of sets; all that are found if empty. workers: processes that read. done: called with each row as it is complete.

    Raises:
        UnreadableFileError: no such folder, no known set in it, or a set of `only` that is not there. RefusedFileError: `out` holds a set that was
            imported from other files or with other settings.
    """
    folder, out = Path(folder), Path(out)
    wanted = _wanted(folder, only)
    rows = []
    with _pool(workers) as pool, _Joined(out) as joined:
        todo = [known for known in wanted if known.files and not joined.has(known.name)]
        running = {known.name: pool.submit(_read_set, known.name, folder, _part(out, known.name)) for known in todo} if workers > 1 else {}
        for known in wanted:
            rows.append(_finish(known, folder, out, joined, running.get(known.name)))
            if done:
                done(rows[-1])
    shutil.rmtree(_parts(out), ignore_errors=True)
    return rows


def _wanted(folder: Path, only: Sequence[str]) -> list[KnownSet]:
    found = found_sets(folder)
    missing = sorted(set(only) - {known.name for known in found})
    if missing or not found:
        names = ", ".join(known.name for known in found) or "none of the known sets"
        what = f"no known set named {', '.join(missing)} is in this folder" if missing else "no known set is in this folder"
        raise UnreadableFileError(what, where=str(folder), mend=f"it holds {names}")
    return [known for known in found if not only or known.name in only]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn"))


def _finish(known: KnownSet, folder: Path, out: Path, joined: _Joined, running: Future[dict[str, Any]] | None) -> SetRow:
    """The row of one set, which is then in the store and in the record."""
    if not known.files:
        return SetRow(known.name, reason=known.not_imported)
    mark = digest(known, unpacked(folder, known.name))
    if joined.has(known.name):
        return joined.row(known.name, mark)
    part = _part(out, known.name)
    row = SetRow(**(running.result() if running else _read_set(known.name, folder, part)))
    joined.add(row, part, mark)
    shutil.rmtree(part, ignore_errors=True)
    return row


def _read_set(name: str, folder: Path, part: Path) -> dict[str, Any]:
    """Read one set into a store of its own; runs in a worker process."""
    from ..importing import Importer
    from . import KNOWN

    known, row = KNOWN[name], SetRow(name, reason=KNOWN[name].not_imported)
    where = unpacked(folder, name)
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    refused: Counter[str] = Counter()
    with Importer(part, name=name, recorded=False) as importer:
        for path, reader, options in jobs(known, where):
            row.files += 1
            try:
                report = importer.add(path, reader, **options)
            except MlipfmError as error:  # the file as a whole
                refused[error.code] += 1
                row.frames += 1
                row.first.setdefault(error.code, str(error))
                continue
            row.frames += report.frames
            row.stored += report.stored
            row.duplicates += report.duplicates
            refused += report.refused
            for code, first in report.first.items():
                row.first.setdefault(code, str(first))
            slope = report.slope
            if slope is not None and slope.pairs > max(row.pairs, 2) and abs(slope.correlation) >= 0.5:
                row.slope, row.correlation, row.pairs = slope.slope, slope.correlation, slope.pairs
    row.refused = dict(refused)
    return asdict(row)


class _Joined:
    """The large store and the record of the sets in it."""

    def __init__(self, out: Path) -> None:
        self.out, self.rows = out, _load(out)
        self._open = ExitStack()
        self._writer: StoreWriter | None = None
        self._places: dict[tuple[str, str | None], int] = {}  # (key, level) -> position in the store

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def has(self, name: str) -> bool:
        """Whether the whole set is in the store."""
        return bool(self.rows.get(name, {}).get("complete"))

    def row(self, name: str, mark: str) -> SetRow:
        """The row of a set that is there, nothing of it new. Raises `RefusedFileError` if it was another set of that name."""
        if self.rows[name]["digest"] != mark:
            what = f"holds the set {name} from other files, or imported with other settings"
            raise RefusedFileError(what, where=str(self.out), mend="import into a new store")
        first = SetRow(**self.rows[name]["row"])
        return replace(first, stored=0, duplicates=first.stored + first.duplicates, before=True)

    def add(self, row: SetRow, part: Path, mark: str) -> None:
        """Add the structures of one set. What an interrupted run has added of this set counts as stored."""
        writer = self._opened()
        begun = self.rows.setdefault(row.name, {"complete": False, "from": len(writer)})
        _save(self.out, self.rows)
        mine = _since(self.out, int(begun["from"]), row.name) if len(writer) > begun["from"] else set()
        levels: Counter[str] = Counter()
        there: set[int] = set()
        row.stored = 0
        for structure in _structures(part):
            levels[structure.level or "none"] += 1
            known_as = (writer.key(structure), structure.level)
            if known_as in mine:
                mine.discard(known_as)
                row.stored += 1
            elif known_as in self._places:
                there.add(self._places[known_as])
                row.duplicates += 1
            else:
                self._places[known_as] = len(writer)
                writer.add(structure)
                row.stored += 1
        writer.commit()
        row.levels = dict(levels)
        self.rows[row.name] = {"complete": True, "digest": mark, "row": asdict(row), THERE: sorted(there)}
        _save(self.out, self.rows)

    def _opened(self) -> StoreWriter:
        if self._writer is None:
            new = not (self.out / "manifest.json").exists()
            self._writer = self._open.enter_context(StoreWriter(self.out, name=self.out.resolve().name if new else None))
            self._writer.commit()  # what a killed run left is then seen by readers
            with Store(self.out) as store:
                self._places = {(store.key(i), level): i for i, level in enumerate(store.levels)}
        return self._writer


def _since(out: Path, first: int, name: str) -> set[tuple[str, str | None]]:
    """(key, level) of the structures of the set `name` from position `first` on."""
    with Store(out) as store:
        return {(s.key, s.level) for s in map(store.__getitem__, range(first, len(store))) if set_of(s.provenance.source) == name}


def set_of(source: str | None) -> str:
    """The known set that a structure in a store of several sets comes from."""
    return (source or "").partition("/")[0]


def holders(out: Path) -> Callable[[int, Structure], list[str]]:
    """The sets that hold a structure of the store `out`, from its position and itself: the one that brought it, then those that had it too."""
    also: dict[int, list[str]] = {}
    for name, entry in _load(out).items():
        for position in entry.get(THERE, ()):
            also.setdefault(position, []).append(name)

    def named(position: int, structure: Structure) -> list[str]:
        return list(dict.fromkeys((set_of(structure.provenance.source), *also.get(position, ()))))

    return named


def unrecorded(out: Path) -> dict[str, int]:
    """Sets of which an earlier version did not record which of their structures were there already -> how many these are."""
    whole = {name: entry for name, entry in _load(out).items() if entry.get("complete") and THERE not in entry}
    return {name: entry["row"]["duplicates"] for name, entry in whole.items() if entry["row"]["duplicates"]}


def _structures(part: Path) -> Iterator[Any]:
    if (part / "manifest.json").exists():
        with Store(part) as store:
            yield from store


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.sets")


def _part(out: Path, name: str) -> Path:
    return _parts(out) / name


def _load(out: Path) -> dict[str, dict[str, Any]]:
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError:
        raise UnreadableFileError("the record of imported sets is no JSON", where=str(path), mend="import into a new store") from None


def _save(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / RECORD, json.dumps(rows, indent=1, sort_keys=True).encode())
