"""Import many data sets into one store: those of a manifest, or files of the catalogue.

Sets are read by worker processes, each into a store of its own beside the large one, and joined to it in the order given. What is done is recorded in
the store (`sets.json`), so that an interrupted import goes on with the set at which it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlipfm_interfaces.errors import MlipfmError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.structure import Structure

from ..parallel import processes
from ..store.manifest import is_store
from ..store.store import Store
from ..store.writer import StoreWriter
from .manifest import SetDescription, digest, folder_of, jobs

if TYPE_CHECKING:
    from ..duplicates.report import OverlapReport

#: In the store's folder: a row for each set that is in it, and the positions of the structures that were there already, from it or another set.
RECORD, THERE = "sets.json", "there"

HEAD = f"{'set':<30}{'frames':>8}{'stored':>8}{'there':>7}{'refused':>8}{'slope':>8}  levels"


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

    def lines(self) -> Iterator[str]:
        """Yield the row as text, below `HEAD`."""
        if self.files == 0 and self.reason:
            yield f"{self.name:<30}not imported: {self.reason}"
            return
        slope = "-" if self.slope is None else f"{self.slope:.3f}"
        levels = ", ".join(f"{level} {count}" for level, count in sorted(self.levels.items()))
        yield f"{self.name:<30}{self.frames:>8}{self.stored:>8}{self.duplicates:>7}{sum(self.refused.values()):>8}{slope:>8}  {levels}"
        for code, count in sorted(self.refused.items()):
            yield f"{'':<30}  refused: {count} x {code}, first: {self.first[code]}"
        if self.reason:
            yield f"{'':<30}  left out: {self.reason}"


def import_sets(
    sets: Sequence[SetDescription], root: Path, out: Path | str, *, workers: int = 1, done: Callable[[SetRow], None] | None = None
) -> list[SetRow]:
    """Import data sets into the store `out`, new or old, and return a row for each: what this run found of it, and what is new.

    Args:
        sets: descriptions. root: folder to which their folders are relative. workers: processes that read.
        done: called with each row as it is complete.

    Raises:
        UnreadableFileError: a set has no folder, or none of its files is there. RefusedFileError: `out` holds a set of that name that was
            imported from other files or with other settings.
    """
    out = Path(out)
    for described in sets:
        if described.files and not any(jobs(described, folder_of(described, root))):
            patterns = ", ".join(files.path for files in described.files)
            raise UnreadableFileError(f"the set {described.name} has no file {patterns} here", where=str(folder_of(described, root)))
    rows = []
    with processes(workers) as pool, _Joined(out) as joined:
        todo = [described for described in sets if described.files and not joined.has(described.name)]
        running = {one.name: pool.submit(_read_set, one, root, _part(out, one.name)) for one in todo} if pool is not None else {}
        for described in sets:
            rows.append(_finish(described, root, out, joined, running.get(described.name)))
            if done:
                done(rows[-1])
    shutil.rmtree(_parts(out), ignore_errors=True)
    return rows


def _finish(described: SetDescription, root: Path, out: Path, joined: _Joined, running: Future[dict[str, Any]] | None) -> SetRow:
    """Return the row of one set, which is then in the store and in the record."""
    if not described.files:
        return SetRow(described.name, reason=described.left_out)
    mark = digest(described, folder_of(described, root))
    if joined.has(described.name):
        return joined.row(described.name, mark)
    part = _part(out, described.name)
    row = SetRow(**(running.result() if running else _read_set(described, root, part)))
    joined.add(row, part, mark)
    shutil.rmtree(part, ignore_errors=True)
    return row


def _read_set(described: SetDescription, root: Path, part: Path) -> dict[str, Any]:
    """Read one set into a store of its own; runs in a worker process."""
    from ..importing import Importer

    row = SetRow(described.name, reason=described.left_out)
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    refused: Counter[str] = Counter()
    with Importer(part, name=described.name, recorded=False) as importer:
        for path, reader, options in jobs(described, folder_of(described, root)):
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
        """Return whether the whole set is in the store."""
        return bool(self.rows.get(name, {}).get("complete"))

    def row(self, name: str, mark: str) -> SetRow:
        """Return the row of a set that is there, nothing of it new. Raises `RefusedFileError` if it was another set of that name."""
        if self.rows[name]["digest"] != mark:
            what = f"holds the set {name} from other files, or imported with other settings"
            raise RefusedFileError(what, where=str(self.out), hint="import into a new store")
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
            new = not is_store(self.out)
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
    """Return the set that a structure in a store of several sets comes from."""
    return (source or "").partition("/")[0]


def holders(out: Path) -> Callable[[int, Structure], list[str]]:
    """Return the sets that hold a structure of the store `out`, from its position and itself: the one that brought it, then those that had it too."""
    also: dict[int, list[str]] = {}
    for name, entry in _load(out).items():
        for position in entry.get(THERE, ()):
            also.setdefault(position, []).append(name)

    def named(position: int, structure: Structure) -> list[str]:
        return list(dict.fromkeys((set_of(structure.provenance.source), *also.get(position, ()))))

    return named


def _unrecorded(out: Path) -> dict[str, int]:
    """Sets of which an earlier version did not record which of their structures were there already -> how many these are."""
    whole = {name: entry for name, entry in _load(out).items() if entry.get("complete") and THERE not in entry}
    return {name: entry["row"]["duplicates"] for name, entry in whole.items() if entry["row"]["duplicates"]}


def _structures(part: Path) -> Iterator[Any]:
    if is_store(part):
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
        raise UnreadableFileError("the record of imported sets is no JSON", where=str(path), hint="import into a new store") from None


def _save(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / RECORD, json.dumps(rows, indent=1, sort_keys=True).encode())


def overlaps(store: Path, *, near: bool, workers: int) -> OverlapReport:
    """Compare the sets of a store with each other: near geometries too, or equal coordinates only."""
    from ..duplicates.report import find_overlaps

    with Store(store) as opened, processes(workers) as executor:
        return find_overlaps(opened, holders(store), near=near, executor=executor)


def totals(rows: list[SetRow], store: Path) -> Iterator[str]:
    """Yield the last lines of the table: sums over all sets, and how many were imported before."""
    refused = sum(sum(row.refused.values()) for row in rows)
    frames, stored, there = (sum(getattr(row, key) for row in rows) for key in ("frames", "stored", "duplicates"))
    levels = {level for row in rows for level in row.levels if level != "none"}
    yield f"{'all':<30}{frames:>8}{stored:>8}{there:>7}{refused:>8}{'':>8}  {len(levels)} levels"
    imported = sum(row.imported for row in rows)
    yield f"{store}: {imported} of {len(rows)} sets, {frames} frames = {stored} stored + {there} already there + {refused} refused"
    if before := sum(row.before and row.imported for row in rows):
        fresh = sum(not row.before and row.stored > 0 for row in rows)
        new = f"{fresh} sets with {stored} structures are new" if fresh else "nothing is new"
        yield f"  {before} sets were imported before, {new}"


def tables(store: Path, comparison: str, workers: int) -> Iterator[str]:
    """Yield what is printed about the store after an import: statistics, likely label errors, and which sets share geometries.

    `comparison`: near, exact or none.
    """
    from ..label_checks.columns import store_lines
    from ..store.describe import describe

    with Store(store) as opened:
        yield from ("", *describe(opened), "")
    yield from (*store_lines(store), "")
    if comparison == "none":
        yield "overlap between sets: not compared (--overlap near or exact)"
        return
    yield from overlaps(store, near=comparison == "near", workers=workers).lines()
    for name, count in _unrecorded(store).items():
        yield f"  not counted: which sets had brought the {count} structures of {name} that were there already; imported by an earlier version"
