"""Columns of a file beside the labels: predictions of a model, another level of theory. Read again under their names and compared."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError, MlipfmWarning, MultiplicityError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from ..readers.registry import read
from ..readers.report import ReadReport
from ..store.manifest import is_store
from ..store.store import Store
from .checks import Inspector
from .declared_units import with_advice_for, with_advice_for_store
from .findings import Figures, Finding, doubt, fault, ordered

#: Frames of a file whose other columns are compared.
COMPARED = 200
#: Words in the name of a column that say who wrote it.
_MODEL = re.compile(
    r"(?:^|[_\W])(mace|nequip|allegro|chgnet|m3gnet|sevennet|7net|mattersim|orb|painn|schnet|aimnet|ani|tensornet|uma|esen|escn|gemnet|equiformer|"
    r"pet|grace|deepmd|dp|nnp?|ml|mlp|mlip|model|pred|predicted|prediction|gap|snap)(?:$|[_\W\d])",
    re.IGNORECASE,
)
_KINDS = {"energy": re.compile(r"energ|(?:^|_)e(?:$|_)", re.IGNORECASE), "forces": re.compile(r"forc|grad", re.IGNORECASE)}


@dataclass
class FileReading:
    """What reading one file for `inspect` brought: its structures went to the inspector.

    Attributes:
        decisions: which key was read as what. refused: refusals by code. multiplicity: whether states were refused.
    """

    decisions: ReadReport = field(default_factory=ReadReport)
    refused: dict[str, int] = field(default_factory=dict)
    not_finite: list[int] = field(default_factory=list)
    multiplicity: list[int] = field(default_factory=list)
    accepted: int = 0


def inspect_file(
    path: Path | str, inspector: Inspector, reader: str | None = None, *, decisions: ReadReport | None = None, **options: Any
) -> list[Finding]:
    """Add the structures of a file to an inspector; findings about what the reader refused and about other columns are returned.

    Raises:
        MlipfmError: as `readers.reading.read`, if nothing can be read.
    """
    reading = FileReading() if decisions is None else FileReading(decisions)
    refusal: Refusal | None = None
    for item in read(path, reader, **{"report": reading.decisions} | options):
        if isinstance(item, Structure):
            reading.accepted += 1
            inspector.add(item)
        else:
            refusal = refusal or item
            _refused(item, reading)
    if refusal is not None and not (reading.multiplicity or reading.not_finite):
        _say_refused(path, refusal, reading)
    return [*_states(path, reader, reading, options), *_nan(path, reading), *_other_columns(path, reader, reading.decisions, **options)]


def _say_refused(path: Path | str, first: Refusal, reading: FileReading) -> None:
    """Raise if not one frame was read, else warn that some were not."""
    refused = sum(reading.refused.values())
    counts = f"{refused} of {refused + reading.accepted} frames cannot be read; the first, frame {first.index}: {first.error.what}"
    if not reading.accepted:
        raise UnreadableFileError(counts, where=str(path), hint=first.error.hint)
    warnings.warn(f"{path}: {counts}; their labels are not checked", MlipfmWarning, stacklevel=3)


def _refused(item: Refusal, reading: FileReading) -> None:
    reading.refused[item.error.code] = reading.refused.get(item.error.code, 0) + 1
    if isinstance(item.error, MultiplicityError):
        reading.multiplicity.append(item.index)
    elif "NaN" in item.error.what:
        reading.not_finite.append(item.index)


def _states(path: Path | str, reader: str | None, reading: FileReading, options: dict[str, Any]) -> Iterator[Finding]:
    """Frames refused for their multiplicity: are they right if it counts unpaired electrons?"""
    if not reading.multiplicity:
        return
    figures = {"refused": len(reading.multiplicity), "read": reading.accepted}
    if options.get("spin_meaning", "multiplicity") == "multiplicity":
        again = list(islice(read(path, reader, **options | {"spin_meaning": "unpaired"}), max(reading.multiplicity[:50]) + 1))
        if all(isinstance(again[k], Structure) for k in reading.multiplicity[:50] if k < len(again)):
            words = "multiplicities count unpaired electrons: with one more, charge and electrons fit"
            hint = "import with --spin-meaning unpaired"
            yield fault("multiplicity-counts-unpaired", words, hint, None, figures, reading.multiplicity)
            return
    words = "charge and multiplicity contradict the number of electrons"
    yield fault("impossible-state", words, "correct charge or multiplicity", None, figures, reading.multiplicity)


def _nan(path: Path | str, reading: FileReading) -> Iterator[Finding]:
    if reading.not_finite:
        words, figures = f"labels of {path} are NaN or infinite", {"refused": len(reading.not_finite)}
        yield fault("labels-not-finite", words, "drop these labels or frames", None, figures, reading.not_finite)


def _other_columns(path: Path | str, reader: str | None, decisions: ReadReport, **options: Any) -> Iterator[Finding]:
    """Columns of energies and forces that were not read, against those that were; and labels whose own name is a model's."""
    for quantity in ("energy", "forces"):
        for key in decisions.used.get(quantity, {}):
            if _MODEL.search(key):
                others = [name for name in decisions.unused if _KINDS[quantity].search(name)]
                words = f"{quantity} is read from {key!r}, by its name the prediction of a model" + (
                    f"; beside it: {', '.join(others)}" if others else ""
                )
                yield fault("model-labels", words, f"choose the reference with --{quantity}-key", None, {"column": key})
    for key in sorted(decisions.unused):
        for quantity, pattern in _KINDS.items():
            if pattern.search(key) and quantity in decisions.used:
                found = _compared(path, reader, key, quantity, options)
                if found is not None:
                    yield found


def _compared(path: Path | str, reader: str | None, key: str, quantity: str, options: dict[str, Any]) -> Finding | None:
    ours, theirs = [], []
    plain = {name: value for name, value in options.items() if name not in ("report", "require", f"{quantity}_key", "keys", "ignore")}
    try:
        first = islice(read(path, reader, **options), COMPARED)
        second = islice(read(path, reader, **plain | {f"{quantity}_key": key}), COMPARED)
        for a, b in zip(first, second, strict=False):
            if isinstance(a, Structure) and isinstance(b, Structure) and quantity in a.labels and quantity in b.labels:
                ours.append(a.labels[quantity].ravel())
                theirs.append(b.labels[quantity].ravel())
    except MlipfmError:
        return None
    if len(ours) < 2:
        return None
    x, y = np.concatenate(ours), np.concatenate(theirs)
    if not np.isfinite(y).all() or np.allclose(x, y, rtol=1e-6, atol=1e-6):
        return None
    a, b = (x - x.mean(), y - y.mean())
    correlation = float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-300))
    far = float(np.abs(x - y).max())
    figures: Figures = {"column": key, "correlation": correlation, "largest_difference": far, "frames": len(ours)}
    whose = "a model's, or another level of theory" if correlation > 0.9 else "something else"
    whose = "by its name the prediction of a model" if _MODEL.search(key) else whose
    words = f"a second column of {quantity}, {key!r}, differs from the one that is read: {whose}"
    return doubt("model-column", words, "check that the right one is read", None, figures)


def findings_of(source: Path, reader: str | None = None, options: dict[str, object] | None = None) -> list[Finding]:
    """Return the findings about the labels of a store or a file, most severe first.

    Raises:
        MlipfmError: if it cannot be read.
    """
    from ..importing import shown  # which imports label checks

    inspector = Inspector()
    if is_store(source):
        with Store(source) as store:
            for structure in shown(iter(store), source.name):
                inspector.add(structure)
        return with_advice_for_store(inspector.findings())
    decisions = ReadReport()
    beside = inspect_file(source, inspector, reader, decisions=decisions, **(options or {}))
    return ordered([*beside, *with_advice_for(inspector.findings(), decisions)])


def store_lines(store: Path) -> list[str]:
    """Return the findings about a store as text, without notes."""
    items = [item for item in findings_of(store) if item.severity != "note"]
    return [f"faults: {counted(items)}", *(f"  {item}" for item in items)]


def counted(items: list[Finding]) -> str:
    """Return how many findings of each severity there are, in words."""
    if items and all(item.severity == "note" for item in items):
        return f"nothing wrong was found; {len(items)} note{'s' if len(items) > 1 else ''}"
    counts = {name: sum(item.severity == name for item in items) for name in ("fault", "doubt", "note")}
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items()) if items else "nothing wrong was found"
