"""Contracts of the interfaces that make data: Reader, Sampler, Labeler, Teacher. A case is the thing and what is needed to try it."""

from __future__ import annotations

import pickle
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Format, Labeler, Refusal, Sampler, Teacher
from mlipfm_interfaces.quantities import QUANTITIES, quantity
from mlipfm_interfaces.structure import Structure

from .probes import STENCIL, moved
from .rules import Rule, RuleResult, refused, require, rule, same

# Reader


@dataclass
class UnusedNames:
    """The least that a report is: names of fields that a reader found and did not use, with the number of frames."""

    unused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class ReaderCase:
    """A format and ways to write files of it.

    Attributes:
        read: what interprets the frames: `mlipfm_data.read`.
        write: writes a file of n good frames.
        write_damaged: writes a file in which some frames cannot be used; returns the number of frames and the indices of the bad ones.
        write_unknown: writes a file of good frames with one field that the reader does not know, and returns the name of the field; None for
            formats that have no place for one.
        report: makes what `read` takes as its option `report`, on which `unused` counts the names of fields that were found and not used.
    """

    reader: Format
    read: Callable[..., Iterator[Structure | Refusal]]
    write: Callable[[Path, int], None]
    write_damaged: Callable[[Path], tuple[int, tuple[int, ...]]]
    write_unknown: Callable[[Path], str] | None = None
    report: Callable[[], Any] = UnusedNames


READER_RULES: list[Rule[ReaderCase]] = []


def _read(case: ReaderCase, n: int) -> list[Structure | Refusal]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"frames{case.reader.suffixes[0]}"
        case.write(path, n)
        return list(case.read(path, case.reader))


@rule(READER_RULES, "reader-order", "Every frame is read, in the file's order, with its source and index.")
def _reader_order(case: ReaderCase) -> None:
    frames = _read(case, 7)
    require(len(frames) == 7, f"7 frames were written, {len(frames)} read")
    for k, s in enumerate(frames):
        require(isinstance(s, Structure), f"frame {k} is good, but was refused")
        require(isinstance(s, Structure) and s.provenance.index == k, f"frame {k} says it is frame {getattr(s, 'provenance', None)}")
        require(isinstance(s, Structure) and bool(s.provenance.source), f"frame {k} does not say where it comes from")


@rule(READER_RULES, "reader-deterministic", "Reading twice gives the same structures and labels, to the bit.")
def _reader_deterministic(case: ReaderCase) -> None:
    for k, (a, b) in enumerate(zip(_read(case, 4), _read(case, 4), strict=True)):
        require(isinstance(a, Structure) and isinstance(b, Structure) and _identical(a, b), f"frame {k} differs between two readings")


def _identical(a: Structure, b: Structure) -> bool:
    same_labels = set(a.labels) == set(b.labels) and all(np.array_equal(a.labels[key], b.labels[key]) for key in a.labels)
    same_geometry = a.key == b.key and np.array_equal(a.positions, b.positions) and np.array_equal(a.cell, b.cell)
    return same_labels and same_geometry and a.level == b.level


@rule(READER_RULES, "reader-streams", "Memory does not grow with the file.")
def _reader_streams(case: ReaderCase) -> None:
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (20, 20, 400):  # the first warms caches up
            path = Path(folder) / f"frames{case.reader.suffixes[0]}"
            case.write(path, n)
            stream = case.read(path, case.reader)
            require(isinstance(stream, Iterator), f"read gives a {type(stream).__name__}, wanted an iterator")
            tracemalloc.start()
            try:
                for _ in stream:
                    pass
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    require(peaks[2] <= 3 * peaks[1] + 64_000, f"20 frames need {peaks[1] / 1000:.0f} kB, 400 need {peaks[2] / 1000:.0f} kB")


@rule(READER_RULES, "reader-refuses-frames", "A frame that cannot be used is reported with its index and reason, and reading goes on.")
def _reader_refuses(case: ReaderCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{case.reader.suffixes[0]}"
        n, bad = case.write_damaged(path)
        frames = list(case.read(path, case.reader))
    require(len(frames) == n, f"{n} frames were written, {len(frames)} accounted for")
    found = tuple(f.index for f in frames if isinstance(f, Refusal))
    require(found == bad, f"frames {list(bad)} cannot be used, refused were {list(found)}")
    require(all(isinstance(f.error, MlipfmError) for f in frames if isinstance(f, Refusal)), "a refusal gives no reason")


@rule(READER_RULES, "reader-missing-file", "A file that is not there is an error, also of the format alone, and no empty answer.")
def _reader_missing(case: ReaderCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"missing{case.reader.suffixes[0]}"
        refused("a missing file", lambda: list(case.read(path, case.reader)), UnreadableFileError, path.name)
        try:
            n = len(list(case.reader.frames(path)))
        except Exception:  # `read` turns whatever it is into an UnreadableFileError
            return
        require(False, f"a missing file gives {n} frames, wanted an error")


@rule(READER_RULES, "reader-names-unread", "A field that the reader does not use is named in the report: nothing is dropped in silence.")
def _reader_names_unread(case: ReaderCase) -> None:
    if case.write_unknown is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"unknown{case.reader.suffixes[0]}"
        name, report = case.write_unknown(path), case.report()
        frames = [frame for frame in case.read(path, case.reader, report=report) if isinstance(frame, Structure)]
    require(len(frames) > 0, f"the file with the unknown field {name!r} was not read")
    require(name in report.unused, f"the field {name!r} was neither read nor named; named were {sorted(report.unused)}")


# Sampler


@dataclass(frozen=True)
class SamplerCase:
    """A sampler and a structure to start from (labelled, of a group)."""

    sampler: Sampler
    structure: Structure
    n: int = 3


SAMPLER_RULES: list[Rule[SamplerCase]] = []


def _sampled(case: SamplerCase, seed: int = 0) -> list[Structure]:
    return case.sampler.sample(case.structure, case.n, np.random.default_rng(seed))


@rule(SAMPLER_RULES, "sampler-same-system", "It gives the number of structures requested, of the same atoms and state, at other positions.")
def _sampler_system(case: SamplerCase) -> None:
    made, start = _sampled(case), case.structure
    require(len(made) == case.n, f"{case.n} structures were requested, {len(made)} given")
    for s in made:
        require(np.array_equal(s.atomic_numbers, start.atomic_numbers), "a sample has other atoms")
        require(
            (s.total_charge, s.spin_multiplicity) == (start.total_charge, start.spin_multiplicity),
            "a sample has another charge or multiplicity",
        )
    require(len({s.key for s in made}) > 1 or case.n == 1, "all samples are the same geometry")


def _numpy_state() -> str:
    """Return the global state of numpy, which nobody should use."""
    return repr(np.random.get_state(legacy=True))


@rule(SAMPLER_RULES, "sampler-reproducible", "The same generator gives the same structures, and no other source of randomness is used.")
def _sampler_reproducible(case: SamplerCase) -> None:
    numpy_state, torch_state = _numpy_state(), torch.get_rng_state()
    first, again, other = _sampled(case), _sampled(case), _sampled(case, seed=1)
    require([s.key for s in first] == [s.key for s in again], "the same generator gives other structures")
    require([s.key for s in first] != [s.key for s in other], "another generator gives the same structures")
    untouched = numpy_state == _numpy_state() and torch.equal(torch_state, torch.get_rng_state())
    require(untouched, "a global random state was used")


@rule(SAMPLER_RULES, "sampler-provenance", "Samples stay in the group of their start and say how they were made.")
def _sampler_provenance(case: SamplerCase) -> None:
    for s in _sampled(case):
        require(
            s.provenance.group == case.structure.provenance.group,
            f"group {case.structure.provenance.group!r} became {s.provenance.group!r}",
        )
        require(bool(s.provenance.sampling), "`provenance.sampling` is not set")


@rule(SAMPLER_RULES, "sampler-no-labels", "Labels of the start are not carried over to other geometries.")
def _sampler_labels(case: SamplerCase) -> None:
    require(bool(case.structure.labels), "the case needs a labelled start")
    for s in _sampled(case):
        require(not s.labels and not s.label_std, f"a sample carries labels {sorted(s.labels)} of another geometry")


# Labeler


@dataclass(frozen=True)
class LabelerCase:
    """A labeler, structures it can do, and the accuracy of its forces against differences of its energies (eV/Å)."""

    labeler: Labeler
    structures: Sequence[Structure]
    force_tolerance: float = 1e-4


LABELER_RULES: list[Rule[LabelerCase]] = []


@rule(LABELER_RULES, "labeler-level", "It sets its level and an energy, and leaves geometry, state and provenance as they are.")
def _labeler_level(case: LabelerCase) -> None:
    for s in case.structures:
        done = case.labeler.label(s)
        require(done.level == case.labeler.level, f"level {case.labeler.level!r} was promised, {done.level!r} set")
        require("energy" in done.labels, "there is no energy label")
        require(done.key == s.key and done.provenance == s.provenance, "geometry, state or provenance was changed")
        require(np.array_equal(done.positions, s.positions), "positions were changed")


@rule(
    LABELER_RULES,
    "labeler-same-bits",
    "The same structure gets the same bits, in any order, and from a pickled copy as in another process.",
)
def _labeler_bits(case: LabelerCase) -> None:
    first = [case.labeler.label(s) for s in case.structures]
    copy: Labeler = pickle.loads(pickle.dumps(case.labeler))  # our own object, as a process pool passes it
    for labeler, what in ((case.labeler, "again"), (copy, "by a pickled copy")):
        for before, s in reversed(list(zip(first, case.structures, strict=True))):
            require(_identical(before, labeler.label(s)), f"{s.formula} labelled {what} has other bits")


@rule(LABELER_RULES, "labeler-forces", "Its forces are minus the slope of its energies.")
def _labeler_forces(case: LabelerCase) -> RuleResult | None:
    h = 5e-3
    for s in case.structures:
        labels = case.labeler.label(s).labels
        if "forces" not in labels:
            return RuleResult("skipped", "it gives no forces")
        direction = np.random.default_rng(0).normal(size=s.positions.shape)
        direction /= np.linalg.norm(direction)
        slope = sum(w * float(case.labeler.label(moved(s, s.positions + step * h * direction)).labels["energy"]) / h for step, w in STENCIL)
        same(
            f"forces of {s.formula} along a direction and the slope of its energy",
            (labels["forces"] * direction).sum(),
            -slope,
            case.force_tolerance,
        )
    return None


# Teacher


@dataclass(frozen=True)
class TeacherCase:
    """A teacher and structures it can do; `tolerance` in eV and eV/Å between alone and in a batch."""

    teacher: Teacher
    structures: Sequence[Structure]
    tolerance: float = 1e-6


TEACHER_RULES: list[Rule[TeacherCase]] = []


@rule(TEACHER_RULES, "teacher-outputs", "It gives what it declares, in the shapes of the table of quantities, finite and in float64.")
def _teacher_outputs(case: TeacherCase) -> None:
    keys = [key for key in case.teacher.outputs if quantity(key).layout in ("system", "atom") and key != "stress"]
    require(bool(keys), "it gives no output")
    for s, answer in zip(case.structures, case.teacher.evaluate(case.structures, keys), strict=True):
        for key in keys:
            kind = quantity(key)
            want = kind.shape if kind.layout == "system" else (len(s), *kind.shape)
            value = np.asarray(answer[key])
            require(value.shape == want, f"{key} must have shape {list(want)}, got {list(value.shape)}")
            require(value.dtype == np.float64 and bool(np.isfinite(value).all()), f"{key} is not finite float64")


@rule(TEACHER_RULES, "teacher-order", "The predictions come in the order of the structures, and each is that of the structure alone.")
def _teacher_order(case: TeacherCase) -> None:
    together = case.teacher.evaluate(list(reversed(case.structures)), ("energy",))
    for s, answer in zip(reversed(case.structures), together, strict=True):
        alone = case.teacher.evaluate([s], ("energy",))[0]
        same(f"energies of {s.formula} alone and among others", answer["energy"], alone["energy"], case.tolerance)


@rule(TEACHER_RULES, "teacher-refuses", "An output it does not have is refused by name.")
def _teacher_refuses(case: TeacherCase) -> RuleResult | None:
    lacking = [key for key in QUANTITIES if key not in case.teacher.outputs]
    if not lacking:
        return RuleResult("skipped", "it predicts every quantity")
    refused(f"the output {lacking[0]!r}", lambda: case.teacher.evaluate(case.structures, lacking[:1]), MlipfmError, lacking[0])
    return None
