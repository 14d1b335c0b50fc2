"""`alarms`: how often `mlipfm data check-labels` finds something wrong in right sets, and how often it names faults planted into them.

Right sets: those of `right_sets` (kinds times seeds), and public sets whole, in random parts and in a few random frames, in their order and shuffled,
and the parts that `mlipfm data split` and `filter` make of them. A third of the kinds and of the public sets was held out while thresholds were
chosen, and has rates of its own. Records are kept, one line of JSON for each set, so that a run that was ended goes on.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlipfm_data import Store, StoreWriter
from mlipfm_data.label_checks.checks import inspect
from mlipfm_interfaces.structure import Structure
from scipy.stats import beta
from sets.archives import unpacked
from sets.planted_labels import FAULTS, facts, named
from sets.public_sets import labelled_names, right_set

from bench.right_sets import SETS, made

#: Structures of a public set at most. Seeds of each kind.
CAP, SEEDS = 200, 4
#: Kinds that take long.
SLOW = {"liquid water": 1}
#: Not counted as alarm: forces of fixed atoms that were written as zero are no right labels.
TRUE = {"constrained-forces"}
#: Faults planted into sets of `right_sets`: of units, signs, orders and bookkeeping that any set with energies and forces can have.
PLANTED = ("gradients", "energies in Hartree", "energies in kcal/mol", "energies per atom", "forces in Hartree/bohr", "forces in kcal/mol/Angstrom",
           "atomic units", "energies permuted among frames", "forces permuted among frames", "two levels under one name",
           "unconverged energies", "forces filled with zeros")  # fmt: skip
#: Kinds into which they are planted.
HOSTS = (
    "rattled crystals",
    "slabs",
    "alloys of one order",
    "clusters",
    "rattled molecules",
    "silicon",
    "crystal dynamics",
    "slabs with resting atoms",
)


@dataclass(frozen=True)
class Record:
    """One set: what it is, whether it was held out, its size, and the codes found, or whether a planted fault was named."""

    kind: str
    name: str
    held_out: bool
    frames: int
    faults: list[str]
    doubts: list[str]
    named: bool | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name


def held_out(names: Iterable[str]) -> set[str]:
    """Every third in alphabetical order."""
    return set(sorted(names)[2::3])


def judged(kind: str, name: str, held: bool, structures: list[Structure]) -> Record:
    found = [item for item in inspect(structures) if item.code not in TRUE]
    codes = {severity: sorted({item.code for item in found if item.severity == severity}) for severity in ("fault", "doubt")}
    return Record(kind, name, held, len(structures), codes["fault"], codes["doubt"])


def parts(name: str, structures: list[Structure], first: int = 0) -> Iterator[tuple[str, list[Structure]]]:
    """A public set whole, in random parts, and a few random frames of it; `first` draws other ones."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + first)

    def drawn(count: int) -> np.ndarray:
        return rng.choice(len(structures), count, replace=False)

    yield "whole", structures
    for words, part in (("a fifth", 0.2), ("half", 0.5)):
        yield words, [structures[k] for k in np.sort(drawn(max(1, int(part * len(structures)))))]
    for count in (5, 10, 20, 50):
        if len(structures) >= count:
            yield f"{count} frames, shuffled", [structures[k] for k in drawn(count)]
            yield f"{count} frames, in order", [structures[k] for k in np.sort(drawn(count))]


def commanded(structures: list[Structure]) -> Iterator[tuple[str, list[Structure]]]:
    """What our own commands make of a set: parts of a random split, and what a filter keeps."""
    from mlipfm_interfaces.cli import main

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with StoreWriter(folder / "all", name="all") as writer:
            for s in structures:
                writer.add(s)
        source = str(folder / "all")
        for command in (
            ["split", source, "--by", "random", "--out", str(folder / "split"), "--no-check"],
            ["filter", source, "--out", str(folder / "kept"), "--max-force", "4"],
        ):
            with suppress(SystemExit):  # how the command line ends
                main(["data", *command])
        for place, words in (("split/train", "split, train"), ("split/valid", "split, valid"), ("kept", "filter by force")):
            if (folder / place / "manifest.json").exists():
                with Store(folder / place) as store:
                    yield words, list(store)


def of_kind(kind: str, seed: int) -> list[Record]:
    return [judged(kind, str(seed), kind in held_out(SETS), made(kind, seed))]


def planted(kind: str, seed: int) -> list[Record]:
    """Whether the faults that a set can have are named, one after the other."""
    structures = made(kind, seed)
    known, out = facts(structures), []
    for fault in [fault for fault in FAULTS if fault.name in PLANTED and fault.fits(known)]:
        found = inspect(fault.plant(structures, np.random.default_rng(seed)))
        codes = sorted({item.code for item in found if item.severity == "fault"})
        out.append(
            Record(f"planted: {fault.name}", f"{kind} {seed}", kind in held_out(SETS), len(structures), codes, [], named(fault, found))
        )
    return out


def of_public_set(folder: Path, name: str, first: int = 0) -> list[Record]:
    structures, held = right_set(name, unpacked(folder, name), CAP), name in held_out(labelled_names())
    out = [judged(f"public set, {words}", name, held, some) for words, some in parts(name, structures, first)]
    if len(structures) >= 40 and zlib.crc32(name.encode()) % 4 == 0:
        out += [judged(f"public set, {words}", name, held, some) for words, some in commanded(structures)]
    return out


def measure(records: Path, folder: Path | None, seeds: int = SEEDS, workers: int = 2, first: int = 0) -> list[Record]:
    """Judge what is not yet in the file of records, append it, and return all records. Sets of each kind have the seeds `first` and above."""
    known = read(records)
    there, hosts = {record.key for record in known}, {record.name for record in known if record.named is not None}
    todo: list[tuple[Callable[..., list[Record]], tuple[Any, ...]]] = [
        (of_kind, (kind, seed))
        for seed in range(first, first + seeds)
        for kind in SETS
        if seed < first + SLOW.get(kind, seeds) and (kind, str(seed)) not in there
    ]
    if folder is not None:
        todo += [(of_public_set, (folder, name, first)) for name in labelled_names() if ("public set, whole", name) not in there]
    np.random.default_rng(0).shuffle(todo)  # whenever it ends, some of everything was measured
    todo += [(planted, (kind, first)) for kind in HOSTS if f"{kind} {first}" not in hosts]
    with ProcessPoolExecutor(workers) as pool, records.open("a") as file:
        for done in map(Future.result, as_completed([pool.submit(_called, task) for task in todo])):
            known += done
            file.writelines(json.dumps(asdict(record)) + "\n" for record in done)
            file.flush()
    return known


def _called(task: tuple[Callable[..., list[Record]], tuple[Any, ...]]) -> list[Record]:
    return task[0](*task[1])


def read(records: Path) -> list[Record]:
    return [Record(**json.loads(line)) for line in records.read_text().splitlines()] if records.exists() else []


def interval(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a rate (Biometrika 26, 404, 1934)."""
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, of - count + 1))
    return low, 1.0 if count == of else float(beta.ppf(0.975, count + 1, of - count))


def table(records: list[Record]) -> Iterator[str]:
    """Markdown: right sets by kind, then planted faults, with sums of what was tuned on and held out."""
    right = [record for record in records if record.named is None]
    yield "| right sets | held out | sets | with a fault | with a doubt |"
    yield "|---|---|---|---|---|"
    for kind in sorted({record.kind for record in right}):
        mine = [record for record in right if record.kind == kind]
        held = {record.held_out for record in mine}
        yield _row(kind, "a third" if len(held) > 1 else "yes" if held.pop() else "", mine)
    for words, some in _shares(right):
        yield _row(f"**{words}**", "", some)
    planted = [record for record in records if record.named is not None]
    yield ""
    yield "| planted into made sets | sets | named |"
    yield "|---|---|---|"
    for kind in sorted({record.kind for record in planted}):
        mine = [record for record in planted if record.kind == kind]
        yield f"| {kind.removeprefix('planted: ')} | {len(mine)} | {_rate(sum(bool(r.named) for r in mine), len(mine))} |"
    for words, some in _shares(planted):
        yield f"| **{words}** | {len(some)} | {_rate(sum(bool(r.named) for r in some), len(some))} |"


def _shares(records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    yield "all", records
    yield "tuned on", [record for record in records if not record.held_out]
    yield "held out", [record for record in records if record.held_out]


def _row(kind: str, held: str, mine: list[Record]) -> str:
    faults, doubts = (
        _rate(sum(bool(codes) for codes in found), len(mine)) for found in ([r.faults for r in mine], [r.doubts for r in mine])
    )
    return f"| {kind} | {held} | {len(mine)} | {faults} | {doubts} |"


def _rate(count: int, of: int) -> str:
    if not of:
        return "-"
    low, high = interval(count, of)
    return f"{count} ({100 * count / of:.1f} %, {100 * low:.1f} to {100 * high:.1f})"
