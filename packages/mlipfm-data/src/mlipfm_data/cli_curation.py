"""`mlipfm data coverage|duplicates|leakage|weights|references|split`: what a set holds and shares, and how it is divided."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from .curation.splits import Split
    from .store.store import Store


def coverage(
    store: Path = typer.Argument(..., help="Folder of a store."),
    out: Path = typer.Option(..., "--out", "-o", help="HTML file to write; the overview goes beside it as PNG."),
) -> None:
    """What a set covers, as a page and a picture: elements, states, forces, contacts, levels, and what most sets lack.

    Example: mlipfm data coverage store --out coverage.html
    """
    from mlipfm_interfaces.files import atomic_write

    from .curation.coverage import cover, gaps
    from .curation.coverage_figures import overview, page
    from .store.store import Store

    with Store(store) as opened:
        found, name = cover(opened), opened.name
    picture = out.with_suffix(".png")
    atomic_write(picture, overview(found, name))
    atomic_write(out, page(found, name).encode())
    for gap in gaps(found):
        typer.echo(f"{gap.letter}  {gap.name:36s} {gap.seen}")
    typer.echo(f"{out}, {picture}")


class Leak(enum.StrEnum):
    """What makes `leakage` exit with 1."""

    geometry = "geometry"
    group = "group"
    molecule = "molecule"
    composition = "composition"


def duplicates(
    store: Path = typer.Argument(..., help="Folder of a store."),
    tolerance: float = typer.Option(
        0.01, min=0, max=5, help="Noise on each coordinate, Angstrom, below which two structures are the same."
    ),
    mirrors: bool = typer.Option(False, "--mirrors", help="Mirror images are duplicates too."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with every pair."),
) -> None:
    """Structures that are the same up to motion, order, cell, supercell and noise; neighbours within a trajectory are counted apart.

    Example: mlipfm data duplicates store --tolerance 0.02 --workers 4
    """
    from .duplicates.report import find_duplicates
    from .parallel import processes
    from .store.store import Store

    with Store(store) as opened, processes(workers) as executor:
        report = find_duplicates(opened, tolerance=tolerance, mirrors=mirrors, executor=executor)
    _print(report.as_json() if as_json else None, report.lines())


def leakage(
    train: Path = typer.Argument(..., help="Folder of the training store."),
    test: Path = typer.Argument(..., help="Folder of the test store."),
    tolerance: float = typer.Option(
        0.01, min=0, max=5, help="Noise on each coordinate, Angstrom, below which two structures are the same."
    ),
    mirrors: bool = typer.Option(False, "--mirrors", help="Mirror images leak too."),
    fail_on: Leak = typer.Option(Leak.geometry, help="Exit with 1 if test structures share this, or more, with the training set."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with every pair."),
) -> None:
    """What a test set shares with a training set. Exits 1 if anything leaks.

    Examples:

        mlipfm data leakage parts/train parts/test

        mlipfm data leakage parts/train parts/test --fail-on molecule
    """
    from .duplicates.leakage import find_leakage
    from .parallel import processes
    from .store.store import Store

    with Store(train) as first, Store(test) as second, processes(workers) as executor:
        report = find_leakage(first, second, tolerance=tolerance, mirrors=mirrors, executor=executor)
    _print(report.as_json() if as_json else None, report.lines())
    if report.leaks(fail_on.value):
        raise typer.Exit(1)


def _print(document: object, lines: object) -> None:
    import json
    from collections.abc import Iterable
    from typing import cast

    if document is not None:
        typer.echo(json.dumps(document, indent=1))
    else:
        typer.echo("\n".join(cast("Iterable[str]", lines)))


def weights(
    store: Path = typer.Argument(..., help="Folder of a store; the weights are added to it as the label `weight`."),
    kt: float = typer.Option(0.2, min=1e-6, max=math.inf, help="Width of the Boltzmann weights, eV per atom^gamma; `inf` for none."),
    gamma: float = typer.Option(1.0, min=0, max=10, help="Power of the number of atoms that an energy is divided by."),
    floor: float = typer.Option(0.05, min=0, max=1, help="Least weight: 0 forgets, 1 weighs nothing."),
    force_cap: float = typer.Option(
        50.0, min=1e-6, max=math.inf, help="eV/Angstrom: structures with a larger force get weight 0; `inf` for no cap."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only print what the weights would be."),
) -> None:
    """Weigh structures by energy and forces, for training. A second call replaces the weights of the first.

    Example: mlipfm data weights store --kt 0.2 --force-cap 50
    """
    import numpy as np
    from mlipfm_interfaces.errors import LevelError

    from .curation.weights import weigh
    from .store.store import Store
    from .store.writer import StoreWriter

    with Store(store) as opened:
        found = weigh(
            opened, kT=kt if np.isfinite(kt) else None, gamma=gamma, floor=floor, force_cap=force_cap if np.isfinite(force_cap) else None
        )
        places = [(opened.key(k), level) for k, level in enumerate(opened.levels)]
    typer.echo("\n".join(found.lines()))
    if dry_run:
        return
    if any(level is None for _, level in places):
        raise LevelError(
            "a structure has no level of theory, by which its weight is stored", where=str(store), hint="set --level on import"
        )
    with StoreWriter(store) as writer:
        for (key, level), value in zip(places, found.values.tolist(), strict=True):
            writer.add_overlay(key, str(level), {"weight": value})
    typer.echo(f"{store}: {len(places)} weights stored")


def references(
    store: Path = typer.Argument(..., help="Folder of a store."),
    given: str = typer.Option("", "--given", "--e0", help="Energies of atoms that are not fitted: H=-13.6,O=-2041.3 (eV)."),
    isolated: bool = typer.Option(True, help="Take isolated atoms in the store, in large periodic boxes too, as they are."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Atomic reference energies of every level, as training finds them: where they come from, rank, residual, what is left open.

    Given energies and isolated atoms are kept; the rest is fitted by least squares, weighted by the label `weight`.

    Example: mlipfm data references store --e0 H=-13.6,O=-2041.3
    """
    import json

    from .curation.references import parse_given, report_references
    from .store.store import Store

    with Store(store) as opened:
        reports = report_references(opened, given=parse_given(given), isolated=isolated)
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports.values()], indent=1))
    else:
        typer.echo("\n".join(line for report in reports.values() for line in report.lines()))


SHARES, RANDOM_SHARES, TIME_SHARES = (
    "train=0.8,valid=0.1,test=0.05,ood=0.05",
    "train=0.8,valid=0.1,test=0.1",
    "train=0.8,valid=0.1,test=0.1",
)


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
    """Split a store into parts that share no geometry; prints what the others share with the first part, and exits 1 if geometries do.

    Examples:

        mlipfm data split store --by random --out parts

        mlipfm data split store --by time --gap 20 --out parts

        mlipfm data split store --by molecule --fractions train=0.8,valid=0.1,ood=0.1 --out parts
    """
    from mlipfm_interfaces.errors import UnwritableFileError

    from .curation.splits import make_split
    from .curation.trajectories import time_split
    from .duplicates.report import near_clusters
    from .parallel import processes
    from .store.store import Store

    if out.exists() and any(out.iterdir()):
        raise UnwritableFileError("the folder is not empty", where=str(out), hint="choose a new one")
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
            (made, dropped), together = time_split(opened, shares, gap or 0), list[list[int]]()
        else:
            make_split(opened, by.value, shares, seed=seed, hold_out=wanted)  # what cannot be is refused before anything long
            with processes(workers if check else 1) as executor:
                together = near_clusters(opened, executor=executor) if check else []
            made, dropped = make_split(opened, by.value, shares, seed=seed, hold_out=wanted, together=together), []
        warnings = list(_beside(opened, made)) if by is By.random else []
        empty = [name for name, share in shares.items() if share and not made.parts.get(name)]
        if empty:
            warnings.append(f"warning: {', '.join(empty)}: no structure is left for it of {len(opened)}")
        warnings += _missed(made, shares, together, len(opened))
        warnings += _drawn_in(opened, made)
        _write(opened, made, out)
    leaks = _checked(out, made, workers) if check else {}
    _record(store, out, made, shares, leaks, dropped)
    for line in [*_lines(made, leaks, dropped), *warnings]:
        typer.echo(line)
    if any(report["geometry"] for report in leaks.values()):
        raise typer.Exit(1)


def _missed(made: Split, shares: Mapping[str, float], together: Sequence[Sequence[int]], total: int) -> list[str]:
    """A warning where a part is far from its share because structures that stay together are many."""
    off = {
        name: len(made.parts.get(name, ())) / total
        for name, share in shares.items()
        if abs(len(made.parts.get(name, ())) / total - share) > 0.05
    }
    if not off or not together or len(together[0]) < 0.05 * total:
        return []
    found = ", ".join(f"{name} has {got:.0%} of {shares[name]:.0%}" for name, got in off.items())
    return [
        f"warning: {found}: near-duplicates stay together, and {len(together[0])} structures are a chain of them, each like the next; "
        "--no-check divides them too, and the parts then share geometries"
    ]


def _drawn_in(store: Store, made: Split) -> list[str]:
    """Say which structures are held out although their class is not: they are near-duplicates of some that are."""
    if not made.held_out or made.by not in ("charge", "composition", "size", "temperature", "group", "molecule"):
        return []
    from .curation.splits import class_of

    names = set(map(str, made.held_out))
    others = Counter(str(class_of(store[k], made.by)) for k in made.parts.get("ood", ()))
    drawn = {name: count for name, count in others.items() if name not in names}
    shown = ", ".join(f"{count} of {name}" for name, count in list(drawn.items())[:5])
    return [f"ood also has {shown}: their geometries are those of structures that are held out"] if drawn else []


def _shares(text: str) -> dict[str, float]:
    from mlipfm_interfaces.errors import OptionError

    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            raise OptionError(f"{part!r} is not NAME=SHARE", where="--fractions", hint="train=0.8,valid=0.1,ood=0.1") from None
    return shares


def _write(store: Store, made: Split, out: Path) -> None:
    from .store.writer import StoreWriter

    for name, positions in made.parts.items():
        with StoreWriter(out / name, name=f"{store.name} {name}") as writer:
            for k in positions:
                writer.add(store[k])


def _beside(store: Store, made: Split) -> Iterator[str]:
    """Warnings of parts whose frames lie beside those of the first part in time."""
    from .curation.trajectories import beside_training, comparison_line

    first, *others = made.parts
    train = [store[k] for k in made.parts[first][:MOST]]
    for name in others:
        beside = beside_training(train, [store[k] for k in made.parts[name][:MOST]])
        if beside.matters:
            yield comparison_line(beside, f"structures of {name!r}")


def _checked(out: Path, made: Split, workers: int) -> dict[str, dict[str, int]]:
    """Part -> level of leakage -> structures that share it with the first part."""
    from .duplicates.leakage import LEAKS, find_leakage
    from .parallel import processes
    from .store.store import Store

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
    lines = [f"by {made.by}, seed {made.seed}: {made.classes} groups of structures that stay together"]
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


def add_to(app: typer.Typer) -> None:
    """Add these commands to `mlipfm data`."""
    for command in (duplicates, leakage, split, weights, references, coverage):
        app.command()(command)
