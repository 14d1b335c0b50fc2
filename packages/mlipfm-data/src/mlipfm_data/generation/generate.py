"""`generate_molecules`: a training set of random or given molecules at one or more levels of theory, in stores of some molecules each, resumable.

    OUT/settings.json          what was asked; other settings are refused, a larger count continues
    OUT/molecules.smi          the molecules, one a line; shard k has those from line k · per_shard on
    OUT/gfn2-xtb/0000/ ...     stores: all geometries
    OUT/gfn1-xtb/0000/ ...     every `1 / share`-th geometry again at the second level

No molecule is in two shards, so that whole shards make training, validation and test sets without leakage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from mlipfm_interfaces.errors import RefusedFileError, SamplingError
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.structure import Structure

from ..labeling import RECORD, label_all
from ..parallel import InThisProcess, worker_pool
from .geometries import Shares, cluster_geometries, electron_removed, molecule_geometries
from .molecules import connectivity, identified, random_molecules

SETTINGS, MOLECULES = "settings.json", "molecules.smi"
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What makes a set.

    Attributes:
        seed: of molecules and geometries. heavy: largest number of atoms besides hydrogen. per_shard: molecules of a shard.
        every: each so many-th geometry is labelled at the second level too; 0: none. geometries: about so many of each molecule, clusters included.
        clusters: of each molecule; None: 5 of 33 geometries. cluster_size: largest number of molecules in one. relaxed_clusters: part of them that
            the force field relaxes and moves, see `cluster_geometries`.
        radical_cations: each so many-th neutral singlet is there again with an electron less; 0: none.
    """

    seed: int = 0
    heavy: int = 10
    per_shard: int = 100
    every: int = 10
    geometries: int = 33
    clusters: int | None = None
    cluster_size: int = 3
    relaxed_clusters: float = 0.0
    radical_cations: int = 0

    @property
    def shares(self) -> Shares:
        """Kinds of geometries in the proportions of `Shares`, at least one of each."""
        usual = Shares()
        whole = sum(asdict(usual).values())
        found = {f.name: max(1, round(getattr(usual, f.name) * self.geometries / whole)) for f in fields(Shares)}
        return Shares(**found | ({} if self.clusters is None else {"clusters": self.clusters}))


@dataclass(frozen=True)
class Shard:
    """One shard as it is on disk: labelled structures of each level, and how many were refused, by reason."""

    index: int
    labelled: dict[str, int]
    refused: Counter[str]


def generate_molecules(
    out: Path | str,
    count: int,
    settings: Settings | None = None,
    *,
    labelers: tuple[Labeler, ...],
    exclude: Collection[str] = (),
    given: Sequence[str] = (),
    workers: int = 1,
) -> Iterator[Shard]:
    """Generate at least `count` molecules (whole shards) with their geometries and labels.

    Args:
        labelers: the first labels all geometries, others a part (`Settings.every`). exclude: SMILES that must not occur.
        given: SMILES to make the set of instead of random ones, the first `count` of them, in whole shards.
        workers: processes that compute labels; 1: this one.

    Yields:
        Every shard when it is complete, those of an earlier run too.

    Raises:
        RefusedFileError: `out` holds a set of other settings. What labelling raises.
        SamplingError: there are fewer than `count` random molecules; a given SMILES is not understood, is there twice,
            or is one of `held_out()` or of `exclude`.
    """
    out, settings = Path(out), settings or Settings()
    known = identified(given, [connectivity(s) for s in exclude])
    excluded = _begin(out, settings, exclude, given)
    if given:
        lines = [f"{smiles} {identity}" for smiles, identity in known]
        atomic_write(out / MOLECULES, "".join(f"{line}\n" for line in lines).encode())
        count = min(count, len(lines))
    n = settings.per_shard
    with worker_pool(workers) if workers > 1 else InThisProcess() as executor:
        for index in range(-(-count // n)):
            mine = [smiles for smiles, _ in known[index * n : (index + 1) * n]]
            molecules = mine if given else _molecules(out, index, settings, excluded)
            yield _shard(out, index, molecules, settings, labelers, executor)


def shard_geometries(molecules: Collection[str], seed: int, settings: Settings | None = None) -> tuple[list[Structure], Counter[str]]:
    """Unlabelled geometries of some molecules and of clusters of them, and how many molecules could not be embedded, by reason."""
    settings, rng = settings or Settings(), np.random.default_rng(seed)
    shares = settings.shares
    found: list[Structure] = []
    refused: Counter[str] = Counter()
    for smiles, own in zip(molecules, rng.integers(2**31, size=len(molecules)).tolist(), strict=True):
        try:
            found += molecule_geometries(smiles, own, shares)
        except SamplingError as error:
            refused[error.code] += 1
    clusters = shares.clusters * len(molecules) if found else 0
    found += cluster_geometries(found, clusters, rng, largest=settings.cluster_size, relaxed=settings.relaxed_clusters)
    return found + (electron_removed(found[:: settings.radical_cations]) if settings.radical_cations else []), refused


def _shard(
    out: Path, index: int, molecules: Collection[str], settings: Settings, labelers: tuple[Labeler, ...], executor: Executor
) -> Shard:
    folders = [out / labeler.level / f"{index:04d}" for labeler in labelers]
    done = [(folder / RECORD).exists() for folder in folders]
    structures: list[Structure] = []
    refused: Counter[str] = Counter()
    if not all(done):
        seed = np.random.SeedSequence([settings.seed, index]).generate_state(1)[0]
        structures, refused = shard_geometries(molecules, int(seed), settings)
    labelled = {}
    for k, (labeler, folder) in enumerate(zip(labelers, folders, strict=True)):
        if done[k]:
            record = json.loads((folder / RECORD).read_bytes())
            labelled[labeler.level] = record["job"]["structures"] - len(record["refused"])
            continue
        part = structures if k == 0 else structures[:: settings.every] if settings.every else []
        if part:
            report = label_all(part, labeler, folder, executor=executor)
            refused += report.reasons
            labelled[labeler.level] = report.labelled
    return Shard(index, labelled, refused)


def _begin(out: Path, settings: Settings, exclude: Collection[str], given: Sequence[str]) -> list[str]:
    """Note the settings in `out`, or compare with those there; the excluded connectivities."""
    document = {"format": FORMAT, **asdict(settings), "excluded": sorted({connectivity(s) for s in exclude}), "given": list(given)}
    file = out / SETTINGS
    if file.exists():
        known = {**asdict(Settings()), "given": [], **json.loads(file.read_bytes())}  # folders of earlier versions lack the later settings
        changed = {key: value for key, value in document.items() if known.get(key) != value}
        differences = [
            f"other molecules {key}" if isinstance(v, list) else f"{key} {known.get(key)}, now {v}" for key, v in changed.items()
        ]
        if differences:
            raise RefusedFileError(f"holds a set of other settings: {'; '.join(differences)}", where=str(out), hint="choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(file, canonical_json(document))
    return list(document["excluded"])


def _molecules(out: Path, index: int, settings: Settings, excluded: Collection[str]) -> list[str]:
    """SMILES of one shard, from the lines `SMILES identity` of `OUT/molecules.smi`, which grows by one shard if need be."""
    file, n = out / MOLECULES, settings.per_shard
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    if len(lines) < (index + 1) * n:
        known = [line.split()[1] for line in lines]
        drawn = random_molecules(n, [settings.seed, index], heavy=settings.heavy, exclude=excluded, known=known)
        lines = lines[: index * n] + [f"{smiles} {identity}" for smiles, identity in drawn]
        atomic_write(file, "".join(f"{line}\n" for line in lines).encode())
    return [line.split()[0] for line in lines[index * n : (index + 1) * n]]
