"""The user's file as a store with a report of how it was read, and its parts for training, validation and test, which share nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlipfm_data.curation.classes import group_class
from mlipfm_data.curation.splits import Split, make_split
from mlipfm_data.curation.trajectories import beside_training, time_split
from mlipfm_data.duplicates.leakage import find_leakage
from mlipfm_data.duplicates.report import near_clusters
from mlipfm_data.importing import Importer, ImportReport
from mlipfm_data.label_checks.declared_units import label_error, read_option
from mlipfm_data.licensing import checked_licence
from mlipfm_data.parallel import processes
from mlipfm_data.readers.registry import format_of, read
from mlipfm_data.store.manifest import is_store
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.errors import (
    InvalidStructureError,
    LevelError,
    MissingLabelsError,
    MlipfmError,
    RecipeError,
    UnreadableFileError,
)
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.reference_fit import is_lone_atom
from mlipfm_interfaces.structure import Structure

from .request import Request

Say = Callable[[str], None]

#: Fewer structures cannot be divided into something to learn from, something to choose the best model by, and something to test it on.
FEWEST = 10
#: Shares of the parts, and the most structures of the last two: more of them cost time and tell nothing new.
SHARES, MOST = {"train": 0.8, "valid": 0.1, "test": 0.1}, {"valid": 200, "test": 1000}
HELD_OUT = ("valid", "test")
#: A held-out part of no more groups than this is told by their names.
FEW_GROUPS = 5
#: Groups from which on whole groups are held out.
GROUPS = 10
#: Structures of which one is looked at to see whether frames lie beside each other in time.
LOOKED_AT = 5000


@dataclass(frozen=True)
class Parts:
    """The three parts of the data.

    Attributes:
        train, valid, test: folders of the stores.
        level: level of theory of the labels.
        how: sentence that says how the file was split.
        sizes: number of structures in each part.
        labels: number of structures with each label.
        notes: lines that import and split printed, for the report.
    """

    train: Path
    valid: Path
    test: Path
    level: str
    how: str
    sizes: Mapping[str, int]
    labels: Mapping[str, int]
    notes: Sequence[str]


def make_parts(request: Request, say: Say) -> Parts:
    """Import and split the file, or find what an earlier command has left.

    Raises:
        what the reader raises; MissingLabelsError: fewer than `FEWEST` structures with an energy; UnitError, InvalidStructureError: labels that
        contradict physics; LevelError: some frames give a level of theory and others none.
    """
    folder = request.out / "data"
    record = folder / "parts.json"
    if record.exists():
        say(f"data: {folder}, imported by an earlier command")
        return _parts(folder, json.loads(record.read_bytes()))
    shutil.rmtree(folder, ignore_errors=True)  # what a killed command has left of it
    folder.mkdir()
    stored = is_store(request.file)
    source = request.file if stored else folder / "all"
    level, notes = _of_store(request) if stored else _imported(request, source, say)
    given = {part: path for part, path in (("valid", request.valid), ("test", request.test)) if path is not None}
    for part, path in given.items():
        say(f"{part}: {path}")
        notes += [f"{part}: {path}", *_given_part(replace(request, file=path, level=level), folder / part, say)]
    with Store(source) as store:
        made, how = divide(store, request.seed, by=request.split, parts=[part for part in HELD_OUT if part not in given])
        for part, places in made.parts.items():
            with StoreWriter(folder / part, name=f"{request.file.stem} {part}") as writer:
                for k in places:
                    writer.add(store[k])
        labels = store.structure_table().count(lambda kind: kind.labels)
    sizes = {part: len(places) for part, places in made.parts.items()} | {part: _size(folder / part) for part in given}
    say(f"split: {how}: " + ", ".join(f"{part} {sizes[part]}" for part in SHARES))
    for part, path in given.items():
        notes += _shared_with_training(folder / "train", folder / part, part, path, say)
    document = {"level": level, "how": how, "sizes": sizes, "labels": dict(labels), "notes": notes}
    atomic_write(record, json.dumps(document, indent=1).encode())
    return _parts(folder, document)


def _parts(folder: Path, document: Mapping[str, Any]) -> Parts:
    return Parts(folder / "train", folder / "valid", folder / "test", **document)


def _imported(request: Request, out: Path, say: Say, fewest: int = FEWEST) -> tuple[str, list[str]]:
    """Import the file; its level of theory and the lines of the report."""
    if request.file.is_dir():
        _refuse_folder(request.file, request.reading)
    options: dict[str, Any] = dict(request.reading)
    if request.licence is not None:
        options["licence"] = checked_licence(request.licence)
    if request.quantity is not None:
        options["require"] = (request.quantity,)
    stated = request.level or _first_level(request.file, options)
    level = stated or re.sub(r"[^a-z0-9.+-]+", "-", request.file.name.partition(".")[0].lower()).strip("-") or "data"
    with Importer(out, name=request.file.stem, inspected=True, accept_label_errors=True) as importer:  # `_check` refuses them, by --read
        report = importer.add(request.file, options.pop("reader", None), **options, level=request.level or (None if stated else level))
    lines = report.lines()
    if stated is None:
        lines.append(f"  level of theory: not given; the labels are kept under the name {level!r} (--level names it)")
    for line in lines:
        say(line)
    _check(report, request, fewest)
    return _only_level(out), lines


def _of_store(request: Request) -> tuple[str, list[str]]:
    """Return the level of a store that the user gives; how it was imported was reported when it was.

    Raises:
        RecipeError: options that only an import uses.
    """
    given = {"--level": request.level, "--licence": request.licence, "--read": request.reading or None}
    idle = [option for option, value in given.items() if value is not None]
    if idle:
        raise RecipeError(f"{', '.join(idle)} tell how a file is read; this is a store", where=str(request.file), hint="leave them out")
    return _only_level(request.file), []


def _given_part(request: Request, out: Path, say: Say) -> list[str]:
    """Write the part that the user gives, a file or a store, as a store; the lines of its import.

    Raises:
        LevelError: labels of another level than those to train on.
    """
    stored = is_store(request.file)
    level, lines = (_only_level(request.file), list[str]()) if stored else _imported(request, out, say, fewest=1)
    if level != request.level:
        raise LevelError(
            f"has labels of {level}, the structures to train on have those of {request.level}",
            where=str(request.file),
            hint="give parts of one level",
        )
    if stored:
        with Store(request.file) as store, StoreWriter(out, name=request.file.stem) as writer:
            for structure in store:
                writer.add(structure)
    return lines


def _size(path: Path) -> int:
    with Store(path) as store:
        return len(store)


def _shared_with_training(train: Path, other: Path, part: str, path: Path, say: Say) -> list[str]:
    """Return, and print, a warning if geometries of a given part are also in the training data; [] if there are none."""
    with Store(train) as known, Store(other) as store, processes(1) as executor:
        shared = len(find_leakage(known, store, executor=executor).leaking("geometry"))
        if not shared:
            return []
        line = f"{shared} of {len(store)} structures of {path} are trained on too: errors of the {part} part are too small (`mlipfm data leakage`)"
    say(line)
    return [line]


def _only_level(path: Path) -> str:
    with Store(path) as store:
        store.require_complete()
        levels = sorted({str(one) for one in store.levels})
    if len(levels) != 1 or levels == ["None"]:
        raise LevelError(
            f"the structures have {len(levels)} levels of theory: {', '.join(levels)}",
            where=str(path),
            hint="give one level by --level, or import them with `mlipfm data import` and train by a recipe (`mlipfm train --example`)",
        )
    return levels[0]


def _first_level(path: Path, options: Mapping[str, Any]) -> str | None:
    """Return the level of theory that the first usable frame gives."""
    named = {key: value for key, value in options.items() if key != "reader"}
    frames = read(path, options.get("reader"), **{**named, "require": ()})
    return next((item.level for item in frames if isinstance(item, Structure)), None)


def _refuse_folder(path: Path, options: Mapping[str, Any]) -> None:
    try:
        format_of(path, options.get("reader"))
    except MlipfmError as error:
        inside = sorted(item.name for item in path.iterdir())[:5]
        raise UnreadableFileError(
            f"is a folder of no format that is read ({', '.join(inside) or 'empty'})",
            where=str(path),
            hint="give one file, or import several with `mlipfm data import FILES --out STORE` and give the store",
        ) from error


def _check(report: ImportReport, request: Request, fewest: int) -> None:
    """Refuse a file of which nothing can be learned, or whose labels contradict physics."""
    usable = report.stored + report.duplicates
    if not usable and report.refused:
        error = report.first[report.refused.most_common(1)[0][0]]
        raise type(error)(f"none of {report.frames} frames can be used: {error.what}", where=error.where, hint=error.hint)
    faults = [item for item in report.findings if item.severity == "fault"]
    if faults and not request.accept_label_errors:
        raise label_error(faults[0], request.file, f"{read_option(faults[0].hint)}; --accept-label-errors trains on them as they are")
    if usable < fewest:
        raise MissingLabelsError(
            f"holds {usable} structures with labels; {fewest} are the least that can be divided into train, valid and test",
            where=str(request.file),
            hint="label more structures, or evaluate a model on these: `mlipfm evaluate MODEL FILE`",
        )


def divide(structures: Sequence[Structure], seed: int, *, by: str = "auto", parts: Sequence[str] = HELD_OUT) -> tuple[Split, str]:
    """Return a split and why it is as it is.

    Structures of one geometry, and near-duplicates, stay in one part; blocks of time may part them, and then the reason says how many. Isolated atoms
    are trained on: references are theirs.

    Args:
        by: `auto`: whole groups where there are many, blocks of time of a trajectory, and else at random; or `random`, `group`, `time`.
        parts: of `HELD_OUT`, what is held out.
    """
    if not parts:
        return Split("given", seed, {"train": list(range(len(structures)))}, (), 1), "as given"
    alone = {k for k, s in enumerate(structures) if is_lone_atom(s)}
    others = [k for k in range(len(structures)) if k not in alone]
    if not alone or not others:
        return _divided(structures, seed, by, parts)
    made, why = _divided([structures[k] for k in others], seed, by, parts)
    found = {part: [others[k] for k in places] for part, places in made.parts.items()}
    return replace(made, parts=found | {"train": sorted([*found["train"], *alone])}), f"{why}; isolated atoms are trained on"


def _divided(structures: Sequence[Structure], seed: int, by: str, held_out: Sequence[str]) -> tuple[Split, str]:
    n = len(structures)
    shares = {part: min(SHARES[part], MOST[part] / n) for part in held_out}
    shares = {"train": 1 - sum(shares.values()), **shares}
    groups = Counter(group_class(s) for s in structures)
    with processes(1) as executor:
        together = near_clusters(structures, executor=executor)
    copies = sum(len(cluster) - 1 for cluster in together)
    kept = f"; {copies} near-duplicates stay with what they are like" if copies else ""
    many = None not in groups and len(groups) >= GROUPS and max(groups.values()) < n / 3
    if by == "group" or (by == "auto" and many):
        if None in groups:
            raise InvalidStructureError(
                f"{groups[None]} of {n} structures give no group",
                hint="--read group_key=KEY names what tells the groups, or --split random",
            )
        made = _by_group(structures, shares, seed, together)
        return made, f"whole groups are held out ({_groups_in_words(structures, made)}){kept}"
    if by == "time":
        made = time_split(structures, shares)[0]
        return made, f"blocks of time, since --split time asks for it{_parted(made, together)}"
    made = make_split(structures, "random", shares, seed=seed, together=together)
    if not all(made.parts[part] for part in held_out):
        raise MissingLabelsError(
            f"all {n} structures are near-duplicates of each other: nothing independent is left to test on",
            hint="label more varied structures, or train on all of them with a recipe: mlipfm train density --data STORE",
        )
    if by == "random":
        return made, f"at random, since --split random asks for it{kept}"
    first = [structures[k] for k in made.parts["train"][:LOOKED_AT]]
    if beside_training(first, [structures[k] for part in held_out for k in made.parts[part]]).matters:
        blocks, _ = time_split(structures, shares)
        if all(blocks.parts[part] for part in shares):
            trajectories = "1 trajectory" if blocks.classes == 1 else f"{blocks.classes} trajectories"
            return blocks, f"blocks of time of {trajectories}, since neighbouring frames are alike{_parted(blocks, together)}"
    return made, f"at random{kept}"


def _parted(made: Split, together: Sequence[Sequence[int]]) -> str:
    """Say how many held-out frames of blocks of time are near-duplicates of training frames: a trajectory may come back to where it was."""
    trained = set(made.parts["train"])
    held_out = {k for part, places in made.parts.items() if part != "train" for k in places}
    alike = sum(len(held_out.intersection(cluster)) for cluster in together if trained.intersection(cluster))
    return (
        f"; {alike} held-out frames are near-duplicates of training frames, or linked to them by others: errors are too small"
        if alike
        else ""
    )


def _by_group(structures: Sequence[Structure], shares: Mapping[str, float], seed: int, together: Sequence[Sequence[int]]) -> Split:
    """Hold out whole groups: for one part after the other, of those that are left."""
    rest, left = list(range(len(structures))), 1.0
    parts: dict[str, list[int]] = {}
    for part in reversed(HELD_OUT):
        if part not in shares:
            continue
        place = {k: position for position, k in enumerate(rest)}
        near = [[place[k] for k in cluster if k in place] for cluster in together]
        share = shares[part] / left
        made = make_split(
            [structures[k] for k in rest],
            "group",
            {"train": 1 - share, "ood": share},
            seed=seed,
            together=[some for some in near if len(some) > 1],
        )
        parts[part] = [rest[k] for k in made.parts["ood"]]
        rest, left = [rest[k] for k in made.parts["train"]], left - shares[part]
    return Split("group", seed, {"train": rest, **parts}, made.held_out, made.classes)


def _groups_in_words(structures: Sequence[Structure], made: Split) -> str:
    """`136 groups`; where the test part has few of them, which: errors on these say little about others."""
    held = {part: sorted({str(structures[k].provenance.group) for k in made.parts[part]}) for part in HELD_OUT if part in made.parts}
    total = len({structures[k].provenance.group for k in range(len(structures))})
    few = [f"{part}: {', '.join(names)}" for part, names in held.items() if len(names) <= FEW_GROUPS]
    if not few:
        return f"{total} groups"
    return f"{total} groups; {'; '.join(few)}. Errors are those of a few new kinds; --split random tests on more of the same kinds"
