"""`mlipfm data split`: a store for every part, as `mlipfm train` takes them, and a record of what was done."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..store import Store
    from .splits import Split


SHARES, RANDOM_SHARES, TIME_SHARES = "train=0.8,valid=0.1,id=0.05,ood=0.05", "train=0.8,valid=0.1,id=0.1", "train=0.8,valid=0.1,test=0.1"


#: Structures of a part that are looked at for neighbours in time.
MOST = 20_000


class By(enum.StrEnum):
    """What is never divided."""

    random = "random"
    group = "group"
    molecule = "molecule"
    composition = "composition"
    element = "element"
    size = "size"
    temperature = "temperature"
    charge = "charge"
    time = "time"


def split(
    store: Path = typer.Argument(..., help="Folder of a store."),
    by: By = typer.Option(..., "--by", help="What the part `ood` holds out; `time` cuts every trajectory into one block for each part."),
    out: Path = typer.Option(..., "--out", "-o", help="New folder: a store for every part, and split.json."),
    fractions: str = typer.Option(
        None,
        help=f"Shares of the parts. `ood` is of classes no other part has. [default: {SHARES}; of random: {RANDOM_SHARES}; of time: {TIME_SHARES}]",
    ),
    hold_out: str = typer.Option("", help="Classes to hold out, comma separated: elements, formulas, charges, K; of sizes: the least."),
    seed: int = typer.Option(
        None, min=0, max=2**63 - 1, help="Another seed, another split; the order of the store does not matter. [default: 0]"
    ),
    gap: int = typer.Option(None, min=0, max=10**9, help="With `--by time`: frames dropped between two blocks. [default: 0]"),
    check: bool = typer.Option(True, help="Keep near-duplicates in one part, and look at what the parts share afterwards."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes of the check."),
) -> None:
    """Split a store into parts that share no geometry; prints what the others share with the first part, and exits 1 if geometries do."""
    from mlipfm_interfaces.errors import UnwritableFileError

    from ..store import Store
    from .duplicates import near_clusters
    from .pool import processes
    from .splits import make_split
    from .trajectories import time_split

    if out.exists() and any(out.iterdir()):
        raise UnwritableFileError("the folder is not empty", where=str(out), mend="choose a new one")
    if by is By.time and (hold_out or seed is not None):
        raise typer.BadParameter("blocks of time hold out no classes and know no chance: leave out --hold-out and --seed")
    if by is not By.time and gap is not None:
        raise typer.BadParameter("--gap belongs to `--by time`")
    usual = {By.random: RANDOM_SHARES, By.time: TIME_SHARES}
    shares, seed = _shares(fractions or usual.get(by, SHARES)), seed or 0
    wanted = [word.strip() for word in hold_out.split(",") if word.strip()]
    with Store(store) as opened:
        opened.require_complete("finish it first: run again what wrote it; parts of a growing store would not stay apart")
        if by is By.time:
            made, dropped = time_split(opened, shares, gap or 0)
        else:
            make_split(opened, by.value, shares, seed=seed, hold_out=wanted)  # what cannot be is refused before anything long
            with processes(workers if check else 1) as executor:
                together = near_clusters(opened, executor=executor) if check else []
            made, dropped = make_split(opened, by.value, shares, seed=seed, hold_out=wanted, together=together), []
        warnings = list(_beside(opened, made)) if by is By.random else []
        _write(opened, made, out)
    leaks = _checked(out, made, workers) if check else {}
    _record(store, out, made, shares, leaks, dropped)
    for line in [*_lines(made, leaks, dropped), *warnings]:
        typer.echo(line)
    if any(report["geometry"] for report in leaks.values()):
        raise typer.Exit(1)


def _shares(text: str) -> dict[str, float]:
    from mlipfm_interfaces.errors import MlipfmError

    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            raise MlipfmError(f"{part!r} is not NAME=SHARE", where="--fractions", mend="train=0.8,valid=0.1,ood=0.1") from None
    return shares


def _write(store: Store, made: Split, out: Path) -> None:
    from ..store_writer import StoreWriter

    for name, positions in made.parts.items():
        with StoreWriter(out / name, name=f"{store.name} {name}") as writer:
            for k in positions:
                writer.add(store[k])


def _beside(store: Store, made: Split) -> Iterator[str]:
    """Warnings of parts whose frames lie beside those of the first part in time."""
    from .trajectories import beside_line, beside_training

    first, *others = made.parts
    train = [store[k] for k in made.parts[first][:MOST]]
    for name in others:
        beside = beside_training(train, [store[k] for k in made.parts[name][:MOST]])
        if beside.matters:
            yield beside_line(beside, f"structures of {name!r}")


def _checked(out: Path, made: Split, workers: int) -> dict[str, dict[str, int]]:
    """Part -> level of leakage -> structures that share it with the first part."""
    from ..store import Store
    from .leakage import LEAKS, find_leakage
    from .pool import processes

    first, *others = (name for name, positions in made.parts.items() if positions)
    leaks = {}
    with processes(workers) as executor, Store(out / first) as train:
        for name in others:
            with Store(out / name) as part:
                report = find_leakage(train, part, executor=executor)
            leaks[name] = {level: len(report.leaking(level)) for level in LEAKS}
    return leaks


def _record(
    store: Path, out: Path, made: Split, shares: dict[str, float], leaks: dict[str, dict[str, int]], dropped: Sequence[int]
) -> None:
    from mlipfm_interfaces.files import atomic_write, canonical_json

    document: dict[str, Any] = {
        "store": store.name,
        "by": made.by,
        "seed": made.seed,
        "fractions": shares,
        "held_out": list(made.held_out),
        "classes": made.classes,
        "parts": dict(made.parts),
        "shared_with_the_first": leaks,
    }
    if made.by == "time":
        document["dropped"] = list(dropped)
    atomic_write(out / "split.json", canonical_json(document))


def _lines(made: Split, leaks: dict[str, dict[str, int]], dropped: Sequence[int]) -> list[str]:
    total = sum(map(len, made.parts.values())) + len(dropped)
    lines = [f"by {made.by}, seed {made.seed}: {made.classes} classes"]
    if made.by == "time":
        lines = [f"by time: {made.classes} trajectories, {len(dropped)} frames in gaps are in no part"]
    if made.held_out:
        shown = ", ".join(map(str, made.held_out[:8])) + (f" and {len(made.held_out) - 8} more" if len(made.held_out) > 8 else "")
        lines.append(f"held out: {shown}")
    for name, positions in made.parts.items():
        shared = leaks.get(name)
        more = "; shares with the first part: " + ", ".join(f"{level} {count}" for level, count in shared.items()) if shared else ""
        lines.append(f"{name:8s} {len(positions):8d} structures ({len(positions) / max(total, 1):.1%}){more}")
    return lines
