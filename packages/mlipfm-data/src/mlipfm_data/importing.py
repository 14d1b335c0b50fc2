"""Import native files into a store: every frame is stored, already there, or refused with a reason, and the counts add up."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, RefusedFileError, UnitError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .label_checks.checks import Inspector
from .label_checks.declared_units import contradiction, with_advice_for
from .label_checks.findings import Finding
from .label_checks.work import Slope, energy_against_forces
from .licensing import checked_licence
from .readers.options import ASSUMED
from .readers.registry import read
from .readers.report import ReadReport
from .store.manifest import is_store
from .store.store import Store
from .store.writer import StoreWriter

# Which files were imported into a store, and how: the same file with other options is refused, since it would double or silently keep frames.

#: In the store's folder.
FILE = "imports.json"
_PART = 1 << 20
#: Options that do not change what is stored.
_IDLE = ("report", "require")


class ImportRecord:
    """`imports.json` of a store: fingerprint of a file -> its name and the options it was imported with.

    Args:
        store: folder of the store; nothing is written before `add`.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / FILE
        self.known: dict[str, dict[str, Any]] = {}
        self._assumed: dict[str, Any] = {}  # recorded for the file that is checked, and not given now
        if self.path.exists():
            self.known = json.loads(self.path.read_bytes())

    def check(self, file: Path, options: Mapping[str, Any]) -> None:
        """Raise if the file is in the store already, imported with other options.

        Raises:
            RefusedFileError: naming the options that differ.
        """
        self._assumed = {}
        entry = self.known.get(fingerprint(file)) if file.exists() else None
        if entry is None:
            return
        before, now = entry["options"], _plain(options)
        differ = {key for key in {*before, *now} if before.get(key) != now.get(key)}
        self._assumed = {key: before[key] for key in sorted(differ) if key not in now and before[key] == ASSUMED.get(key)}
        self._refuse(file, {key: (before.get(key), now.get(key)) for key in sorted(differ - set(self._assumed))})

    def check_applied(self, file: Path, report: ReadReport) -> None:
        """Refuse, at the first frame, a file that an earlier version imported with conventions that are not those which apply to it.

        Earlier versions recorded `energy_unit` eV and so on although nobody had given it.

        Raises:
            RefusedFileError: naming the conventions that differ.
        """
        applied = {key: next(iter(report.applied(key)), value) for key, value in self._assumed.items()}
        self._refuse(file, {key: (value, applied[key]) for key, value in self._assumed.items() if applied[key] != value})

    def _refuse(self, file: Path, differ: Mapping[str, tuple[Any, Any]]) -> None:
        if differ:
            said = ", ".join(f"{key} {before!r}, now {now!r}" for key, (before, now) in differ.items())
            raise RefusedFileError(
                f"this file is in the store already, imported with {said}",
                where=str(file),
                hint="give the same options, or import it into a new store",
            )

    def add(self, file: Path, options: Mapping[str, Any]) -> None:
        """Remember a file."""
        mark = fingerprint(file)
        if mark not in self.known:
            self.known[mark] = {"file": file.name, "options": _plain(options)}
            atomic_write(self.path, json.dumps(self.known, indent=1, sort_keys=True).encode())


def fingerprint(path: Path) -> str:
    """Of a file: its size and its first and last megabyte. Of a folder: the names and sizes in it."""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for item in sorted(path.rglob("*")):
            digest.update(f"{item.relative_to(path)} {item.stat().st_size}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        digest.update(stream.read(_PART))
        stream.seek(max(0, size - _PART))
        digest.update(stream.read(_PART))
    return digest.hexdigest()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON keeps them; what was not given is left out."""
    given = {key: value for key, value in options.items() if value is not None and key not in _IDLE}
    plain: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return plain


# What a store had before an import, and how frames that come again differ from it: nothing is kept or doubled silently.

#: Of the provenance, what an import can be asked to set; the source may differ, since two files may hold one calculation.
_ASKED = ("group", "sampling", "licence")
#: Labels that differ by less are those of one calculation, rounded by a text format or by float32.
_ABSOLUTE, _RELATIVE = 1e-5, 1e-6


@dataclass
class Differences:
    """How frames differ from what the store holds, counted, with the first of each.

    Attributes:
        kept: what differs -> frames that were there already; the store keeps what it has. first: what differs -> (stored, now).
        levels: (levels that the geometry was there at, level now) -> frames that were stored at another level.
    """

    kept: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[object, object]] = field(default_factory=dict)
    levels: Counter[tuple[str, str]] = field(default_factory=Counter)

    def same_frame(self, stored: Structure, now: Structure) -> None:
        """A frame that is there already."""
        for name in _ASKED:
            was, new = getattr(stored.provenance, name), getattr(now.provenance, name)
            if new is not None and was != new:
                self._keep(name, was, new)
        for key, value in now.labels.items():
            if key not in stored.labels:
                self._keep(key, "none", "one")
            elif not np.allclose(value, stored.labels[key], rtol=_RELATIVE, atol=_ABSOLUTE):
                k = int(np.argmax(np.abs(value - stored.labels[key])))
                self._keep(key, float(stored.labels[key].flat[k]), float(value.flat[k]))

    def other_level(self, stored: set[str | None], now: str | None) -> None:
        """A frame whose geometry is there, at other levels only."""
        self.levels[", ".join(sorted(str(level) for level in stored)), str(now)] += 1

    def _keep(self, what: str, was: object, new: object) -> None:
        self.kept[what] += 1
        self.first.setdefault(what, (was, new))

    def lines(self) -> list[str]:
        """Warnings for people."""
        out = []
        for what, count in self.kept.most_common():
            was, new = self.first[what]
            said = f"  warning: {count} frames are there already with another {what} (first: {was!r}, now {new!r})"
            out.append(f"{said}; the store keeps what it has: import into a new store if the new one is right")
        for (stored, now), count in self.levels.most_common():
            said = f"  warning: {count} frames were there at level {stored} and are now stored at {now} too"
            out.append(f"{said}: right for two calculations, wrong if one level was a mistake")
        return out


class Before:
    """The structures of a store when it was opened, by key and level; empty for a store that is not there yet.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[str, dict[str | None, int]] = {}
        self._store = store = Store(path) if is_store(path) else None
        if store is not None:
            for k, level in enumerate(store.levels):
                self._places.setdefault(store.key(k), {}).setdefault(level, k)

    def levels(self, key: str) -> set[str | None]:
        """At which the geometry was there."""
        return set(self._places.get(key, ()))

    def get(self, key: str, level: str | None) -> Structure | None:
        """Return the structure, None if it was not there."""
        place = self._places.get(key, {}).get(level)
        return None if place is None or self._store is None else self._store[place]

    def close(self) -> None:
        """Give back the open files."""
        if self._store is not None:
            self._store.close()


#: Frames of a file whose energies are compared with their forces while they pass.
CHECKED_FRAMES = 200

#: Frames, or atoms of frames, whose labels are checked before the first of them is stored.
WAITING_FRAMES, WAITING_ATOMS = 20_000, 1_000_000


@dataclass
class ImportReport:
    """What became of the frames of one file: frames = stored + duplicates + refused.

    Attributes:
        path: the file. frames: seen. stored: new in the store. duplicates: geometry and level were there already, with the same labels.
        refused: Counter of error codes. first: code -> its first error.
        unreadable: the error that ended the file early (it counts as one refused frame), or None.
        decisions: which key was read as what.
        slope: energy differences against forces over neighbouring frames, where some are near enough to compare.
        unlevelled: frames with labels and no level of theory.
        differences: between frames and what the store had of them before.
        findings: likely label errors, if labels were checked.
    """

    path: Path
    frames: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, MlipfmError] = field(default_factory=dict)
    unreadable: UnreadableFileError | None = None
    decisions: ReadReport = field(default_factory=ReadReport)
    slope: Slope | None = None
    unlevelled: int = 0
    differences: Differences = field(default_factory=Differences)
    findings: list[Finding] = field(default_factory=list)

    def refuse(self, error: MlipfmError) -> None:
        self.refused[error.code] += 1
        self.first.setdefault(error.code, error)

    def lines(self) -> list[str]:
        """Return the report for people."""
        counts = (
            f"{self.path}: {self.frames} frames = {self.stored} stored + {self.duplicates} already there + {self.refused.total()} refused"
        )
        out = [counts, *(f"  {line}" for line in self.decisions.lines())]
        out += [f"  refused: {count} x {code}, first: {self.first[code]}" for code, count in self.refused.most_common()]
        if self.unlevelled:
            said = f"  warning: {self.unlevelled} frames have labels and have no level of theory"
            out.append(f"{said}; training and fits of references need one: --level, into a new store")
        out += self.differences.lines()
        return out + _slope_lines(self.slope) + [f"  {item}" for item in self.findings if item.severity != "note"]


def _slope_lines(slope: Slope | None) -> list[str]:
    if slope is None or slope.pairs < 3 or not abs(slope.correlation) >= 0.5:
        return []
    line = f"  energies against forces: slope {slope.slope:.3f}, correlation {slope.correlation:.3f} over {slope.pairs} steps"
    hint = " (the forces look like gradients: use --forces-sign -1)" if slope.correlation < 0 else ""
    return [line + hint]


class Importer:
    """Imports files into one store. The store is made when the first structure is accepted; a killed import continues when it is run again.

    Args:
        out: folder of the store, new or old. name: of a new data set (default: the folder's name). single: see `StoreWriter`.
        inspected: look for label errors (`label_checks`), reported with each file; a file whose labels contradict the units or signs
            that it or its layout gives is refused. accept_label_errors: it is not.
        recorded: remember in the store with which options each file was imported, and refuse the same file with others.

    Refused frames are listed in `<out>.refused.jsonl` (file, frame, code, words), rewritten by each import.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        name: str | None = None,
        single: bool = False,
        recorded: bool = True,
        inspected: bool = False,
        accept_label_errors: bool = False,
    ) -> None:
        self.accept_label_errors = accept_label_errors
        self.out, self.name, self.single, self.inspected = Path(out), name, single, inspected
        self._record = ImportRecord(self.out) if recorded else None
        self.quarantine = self.out.with_name(self.out.name + ".refused.jsonl")
        self._writer: StoreWriter | None = None
        self._before: Before | None = None
        self._list: TextIO | None = None
        self._labels: dict[tuple[str, str | None], dict[str, bytes]] = {}
        self._open = contextlib.ExitStack()
        self._options: dict[str, Any] = {}

    def __enter__(self) -> Importer:
        self.quarantine.unlink(missing_ok=True)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, path: Path | str, reader: str | None = None, **options: Any) -> ImportReport:
        """Import one file; options as `reading.read`, where `require` is ("energy",) unless said otherwise.

        A file that ends too early is imported up to there and reported as `unreadable`.

        Raises:
            UnreadableFileError, RefusedFileError, PluginError: nothing could be read at all, or this file is in the store with other options.
            UnitError: labels contradict what the file or its layout gives (`inspected`). It is looked for before the first frame is stored, and
                once more at the end. MlipfmError: impossible options.
        """
        result = ImportReport(Path(path))
        if self._record is not None:
            self._options = options | {"reader": reader}
            self._record.check(result.path, self._options)
        settings: dict[str, Any] = {"require": ("energy",), "report": result.decisions} | options
        near: list[Structure] = []
        inspector = Inspector() if self.inspected else None
        frames = read(path, reader, **settings)
        waiting: list[tuple[int, Structure | Refusal]] = []  # until the labels are known to be as the file or its layout gives
        wait = inspector is not None and not self.accept_label_errors
        for item in shown(self._until_the_end(frames, result), Path(path).name):
            result.frames += 1
            if isinstance(item, Structure):
                if self._record is not None and not near:
                    self._record.check_applied(result.path, result.decisions)
                if len(near) < CHECKED_FRAMES:
                    near.append(item)
                if inspector is not None:
                    inspector.add(item, result.frames - 1)  # the number that refusals of this file have
                result.unlevelled += bool(item.labels) and item.level is None
            waiting.append((result.frames - 1, item))
            if not wait or len(waiting) >= WAITING_FRAMES or _atoms(waiting) >= WAITING_ATOMS:
                if wait and inspector is not None:
                    self._check(inspector, result)
                wait = False
                self._take(waiting, result)
        if inspector is not None:
            self._check(inspector, result)
        self._take(waiting, result)
        result.slope = energy_against_forces(near) if len(near) > 1 else None
        if self._record is not None and result.duplicates:
            self._record.add(result.path, self._options)
        return result

    def _until_the_end(self, frames: Iterator[Structure | Refusal], result: ImportReport) -> Iterator[Structure | Refusal]:
        try:
            yield from frames
        except UnreadableFileError as error:
            if result.frames == 0:
                raise
            result.unreadable = error
            yield Refusal(result.frames, error)

    def _check(self, inspector: Inspector, result: ImportReport) -> None:
        """Check the labels read so far. Raises `UnitError` if they contradict what the file or its layout gives."""
        result.findings = with_advice_for(inspector.findings(), result.decisions)
        error = None if self.accept_label_errors else contradiction(result.findings, result.decisions, result.path)
        if error is not None:
            there = f"; {result.stored} frames of it were stored before this was seen" if result.stored else ""
            raise UnitError(error.what + there, where=error.where, hint=error.hint)

    def _take(self, waiting: list[tuple[int, Structure | Refusal]], result: ImportReport) -> None:
        """Store or refuse what waits, in order, and empty the list."""
        for index, item in waiting:
            refusal = self._store(item, index, result) if isinstance(item, Structure) else item
            if refusal is not None:
                self._refuse(refusal, result)
        waiting.clear()

    def _store(self, structure: Structure, index: int, result: ImportReport) -> Refusal | None:
        """Store a structure unless it is there; contradictory labels of one geometry and level become a refusal."""
        writer = self._opened_writer()
        labels = _digests(structure)
        known = self._labels.setdefault((writer.key(structure), structure.level), labels)
        if any(known.get(key, digest) != digest for key, digest in labels.items()):
            what = "same geometry, state and level as an earlier frame, but other labels"
            where = f"{result.path}: frame {index}"
            return Refusal(
                index, InvalidStructureError(what, where=where, hint="different levels of theory? import them separately with their level")
            )
        there = writer.has(structure)
        self._compare(structure, there, writer, result)
        if there:
            result.duplicates += 1
        else:
            if self._record is not None and not result.stored:
                self._record.add(result.path, self._options)  # before the first: a killed import is one, too
            writer.add(structure)
            result.stored += 1
        return None

    def _compare(self, structure: Structure, there: bool, writer: StoreWriter, result: ImportReport) -> None:
        """Count how a frame differs from what the store had of it before this import."""
        if self._before is None:
            return
        stored = self._before.get(writer.key(structure), structure.level)
        if there and stored is not None:
            result.differences.same_frame(stored, structure)
        levels = set() if there else self._before.levels(writer.key(structure))
        if levels:
            result.differences.other_level(levels, structure.level)

    def _opened_writer(self) -> StoreWriter:
        if self._writer is None:
            self._before = self._open.enter_context(contextlib.closing(Before(self.out)))
            new = not is_store(self.out)
            name = (self.name or self.out.resolve().name) if new else self.name
            self._writer = self._open.enter_context(StoreWriter(self.out, name=name, single=self.single))
        return self._writer

    def _refuse(self, refusal: Refusal, result: ImportReport) -> None:
        result.refuse(refusal.error)
        if self._list is None:
            self._list = self._open.enter_context(self.quarantine.open("w", encoding="utf-8"))
        line = {"file": str(result.path), "frame": refusal.index, "code": refusal.error.code, "error": str(refusal.error)}
        self._list.write(json.dumps(line) + "\n")


def _atoms(waiting: list[tuple[int, Structure | Refusal]]) -> int:
    return sum(len(item) for _, item in waiting if isinstance(item, Structure))


def _digests(structure: Structure) -> dict[str, bytes]:
    """Of each label, rounded as text formats round. Two files of one calculation may hold different labels, but not different values."""
    return {key: hashlib.blake2b((value.round(6) + 0.0).tobytes(), digest_size=8).digest() for key, value in structure.labels.items()}


def import_file(path: Path | str, out: Path | str, reader: str | None = None, *, name: str | None = None, **options: Any) -> ImportReport:
    """Import one file into the store `out`; see `Importer.add`. Raises `MlipfmError` for a `licence` that is not known."""
    if options.get("licence") is not None:
        options["licence"] = checked_licence(options["licence"])
    with Importer(out, name=name) as importer:
        return importer.add(path, reader, **options)


def shown(frames: Iterator[Any], title: str) -> Iterator[Any]:
    """Yield the same items, with a counter on the terminal if there is one."""
    from mlipfm_interfaces.console import counter

    with counter(title) as advance:
        for item in frames:
            advance(1)
            yield item
