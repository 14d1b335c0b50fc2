"""The same atoms in the same places, another charge or spin, another energy: with and without conditioning on the state.

`python charge_and_spin.py ase_carbene_2200.db --steps 3000`: singlet and triplet carbene, or Ag3+ and Ag3-, of SpookyNet (Unke et al., Nat. Commun.
12, 7273 (2021)) as SchNetPack keeps them in ASE databases. What these files call `spin_multiplicity`, 0 and 2, is the number of unpaired electrons.
Their level of theory is not written in them. Without a file, singlet and triplet carbene are labelled here, by GFN2-xTB.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlipfm_data import StoreWriter, read
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.metrics import Metric, mae
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_train import fit, make_recipe

BOTH = ("total_charge", "spin_multiplicity")
TRAIN, VALID = 0.7, 0.1  # shares of the geometries; the rest is the test set


def geometry(s: Structure) -> str:
    """What is the same for two states of the same atoms in the same places."""
    return s.replace(total_charge=None, spin_multiplicity=None, labels={}).key


def structures_of(database: Path) -> list[Structure]:
    """All frames, by the public reader. A frame that is refused stops the example: none of these is."""
    return [s for s in read(database, level="not-stated", spin_meaning="unpaired") if isinstance(s, Structure)]


def split(structures: Sequence[Structure], seed: int = 0) -> tuple[list[Structure], list[Structure], list[Structure]]:
    """Training, validation and test structures. All states of a geometry are on one side: the other state tells where its energy lies."""
    groups: dict[str, list[Structure]] = defaultdict(list)
    for s in structures:
        groups[geometry(s)].append(s)
    order = np.random.default_rng(seed).permutation(sorted(groups))
    ends = [int(TRAIN * len(order)), int((TRAIN + VALID) * len(order))]
    first, second, third = ([s for key in part for s in groups[str(key)]] for part in np.split(order, ends))
    return first, second, third


def write(path: Path, structures: Sequence[Structure]) -> str:
    with StoreWriter(path, name=path.name) as writer:
        for s in structures:
            writer.add(s)
    return str(path)


def train(train_store: str, valid_store: str, out: Path, conditions: Sequence[str], steps: int) -> Path:
    """The checkpoint of a small painn; `conditions` is the only thing that differs between the two."""
    recipe: dict[str, Any] = {
        "potential": {"name": "painn", "conditions": list(conditions), "backbone": {"channels": 32, "layers": 2, "cutoff": 6.0}},
        "data": {"train": [train_store], "valid": [valid_store], "budget": 120},
        "objectives": [{"name": "energy-force", "energy_weight": 1.0, "forces_weight": 10.0}],
        "optimizer": {"lr": 3e-3},
        "schedule": {"name": "cosine", "warmup": 50},
        "weight_rule": {"name": "ema", "decay": 0.99},
        "steps": steps,
        "evaluate_every": max(1, steps // 5),
        "checkpoint_every": steps,
    }
    result = fit(make_recipe(recipe), out)
    return result.best or result.last


def force_error(checkpoint: Path, structures: Sequence[Structure], name: str) -> Metric:
    """Force MAE in meV/Å with its 95 % interval over geometries."""
    answers = evaluate(load_potential(checkpoint), structures, ("forces",))
    found, wanted = ([1000 * row["forces"] for row in rows] for rows in (answers, [s.labels for s in structures]))
    return mae(found, wanted, [geometry(s) for s in structures], name=name, unit="meV/A")


def carbene(n: int, seed: int = 0) -> list[Structure]:
    """CH2 in `n` bent geometries, each as singlet and as triplet, labelled by GFN2-xTB."""
    from mlipfm_data.tblite_labeler import TbliteLabeler

    labeler, rng, states = TbliteLabeler("GFN2-xTB"), np.random.default_rng(seed), []
    for a, b, angle in zip(*rng.uniform(0.95, 1.3, (2, n)), np.radians(rng.uniform(85, 150, n)), strict=True):
        positions = [[0.0, 0, 0], [a, 0, 0], [b * np.cos(angle), b * np.sin(angle), 0]]
        states += [Structure(np.array([6, 1, 1]), np.array(positions), total_charge=0, spin_multiplicity=m) for m in (1, 3)]
    return [labeler.label(s) for s in states]


def compare(structures: Sequence[Structure], folder: Path, steps: int) -> tuple[Metric, Metric]:
    """Force errors on geometries that neither model has seen, with and without conditioning."""
    training, validation, test = split(structures)
    stores = write(folder / "train", training), write(folder / "valid", validation)
    errors = []
    for name, conditions in (("conditioned", BOTH), ("without", ())):
        checkpoint = train(*stores, folder / name, conditions, steps)
        errors.append(force_error(checkpoint, test, f"{name}: force MAE"))
        print(errors[-1], flush=True)
    return errors[0], errors[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--keep", type=Path, help="keep stores and checkpoints in this folder")
    arguments = parser.parse_args()
    structures = structures_of(arguments.database) if arguments.database else carbene(200)
    with TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        conditioned, without = compare(structures, folder, arguments.steps)
        print(f"{conditioned.value / without.value:.3f} of the error without conditioning")


if __name__ == "__main__":
    main()
