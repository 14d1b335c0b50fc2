"""How sure a potential is: train one on geometries at 300 K, calibrate it on others, count how often its 90 % intervals hold, at 300 K and at 600 K.

    python packages/mlipfm/examples/uncertainty.py FOLDER [--full]

makes 820 labels (GFN2-xTB; 4,100 with --full), trains a small model (half a minute; two with --full), and shows the two commands that it then runs:
`mlipfm uncertainty fit` and `mlipfm uncertainty evaluate`. What is finished is kept: started again, it goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlipfm_interfaces.seeds import stream

MOLECULES = {"methanol": "CO", "formic acid": "OC=O", "acetaldehyde": "CC=O", "glycolaldehyde": "OCC=O"}

#: Set -> (temperature in K, structures of each molecule with --full; without it a fifth).
SETS = {"train": (300.0, 150), "valid": (300.0, 25), "calibrate": (300.0, 300), "test": (300.0, 300), "hot": (600.0, 250)}


def make_stores(folder: Path, part: int) -> None:
    """One store for each set: displacements of a conformer along its normal modes, labelled."""
    from mlipfm_data.conformers import conformers
    from mlipfm_data.labeling import label_all
    from mlipfm_data.normal_modes import forces_of, hessian_by_differences, normal_modes, sample_modes
    from mlipfm_data.tblite_labeler import TbliteLabeler

    labeler = TbliteLabeler("GFN2-xTB")
    drawn: dict[str, list[Any]] = {name: [] for name in SETS}
    for molecule, smiles in MOLECULES.items():
        start = conformers(smiles, 1, 0)[0]
        modes = normal_modes(start, hessian_by_differences(start, forces_of(labeler)))
        for name, (temperature, count) in SETS.items():
            drawn[name] += sample_modes(start, modes, temperature, count // part, stream(0, name, molecule))
    for name, structures in drawn.items():
        label_all(structures, labeler, folder / name)


def train(folder: Path, part: int) -> Path:
    """The best checkpoint of a small run."""
    from mlipfm_train.loop import fit
    from mlipfm_train.recipe import make_recipe

    recipe = make_recipe(
        {
            "potential": {"name": "painn", "forces": "conservative", "backbone": {"channels": 32, "layers": 2, "cutoff": 4.0}},
            "data": {"train": [str(folder / "train")], "valid": [str(folder / "valid")], "budget": 150},
            "objectives": [{"name": "energy-force", "energy_weight": 10.0, "forces_weight": 20.0}],
            "optimizer": {"lr": 5e-3},
            "schedule": {"name": "cosine", "warmup": 50},
            "weight_rule": {"name": "ema", "decay": 0.99},
            "steps": 1500 // part,
            "evaluate_every": 300 // part,
            "checkpoint_every": 300 // part,
        }
    )
    result = fit(recipe, folder / "run")
    return Path(str(result.best or result.last))


def command(*words: str) -> None:
    """Show and run one `mlipfm` command."""
    from mlipfm_interfaces.cli import main

    print("$ mlipfm", *words, flush=True)
    try:
        main(list(words))
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("uncertainty"))
    parser.add_argument(
        "--full", action="store_true", help="as many structures and steps as the figures in the README of mlipfm-eval come from"
    )
    arguments = parser.parse_args()
    folder, part = arguments.folder, 1 if arguments.full else 5
    folder.mkdir(parents=True, exist_ok=True)
    make_stores(folder, part)
    model, file = str(train(folder, part)), str(folder / "uncertainty.safetensors")
    command("uncertainty", "fit", model, "--train", str(folder / "train"), "--calibrate", str(folder / "calibrate"), "--out", file)
    command("uncertainty", "judge", model, file, str(folder / "test"), "--ood", str(folder / "hot"))
