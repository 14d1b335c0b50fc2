"""How sure a potential is: train one on geometries at 300 K, calibrate it on others, count how often its 90 % intervals hold, at 300 K and at 600 K.

    python packages/mlipfm/examples/uncertainty.py FOLDER

makes 4,100 labels (GFN2-xTB), trains a small model (together about two minutes), and shows the two commands that it then runs:
`mlipfm uncertainty fit` and `mlipfm uncertainty evaluate`. What is finished is kept: started again, it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mlipfm_interfaces.seeds import stream

MOLECULES = {"methanol": "CO", "formic acid": "OC=O", "acetaldehyde": "CC=O", "glycolaldehyde": "OCC=O"}

#: Set -> (temperature in K, structures of each molecule).
SETS = {"train": (300.0, 150), "valid": (300.0, 25), "calibrate": (300.0, 300), "test": (300.0, 300), "hot": (600.0, 250)}


def make_stores(folder: Path) -> None:
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
            drawn[name] += sample_modes(start, modes, temperature, count, stream(0, name, molecule))
    for name, structures in drawn.items():
        label_all(structures, labeler, folder / name)


def train(folder: Path) -> Path:
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
            "steps": 1500,
            "evaluate_every": 300,
            "checkpoint_every": 300,
        }
    )
    result = fit(recipe, folder / "run")
    return Path(str(result.best or result.last))


def command(*words: str) -> None:
    """Show and run one `mlipfm` command."""
    from mlipfm_interfaces.cli import app

    print("$ mlipfm", *words, flush=True)
    app(args=list(words), prog_name="mlipfm", standalone_mode=False)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "uncertainty")
    folder.mkdir(parents=True, exist_ok=True)
    make_stores(folder)
    model, file = str(train(folder)), str(folder / "uncertainty.safetensors")
    command("uncertainty", "fit", model, "--train", str(folder / "train"), "--calibrate", str(folder / "calibrate"), "--out", file)
    command("uncertainty", "judge", model, file, str(folder / "test"), "--ood", str(folder / "hot"))
