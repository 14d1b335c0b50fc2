"""A user's files with labels and the commands on them: what tests of `mlipfm train FILE` and `mlipfm finetune FILE` share."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from mlipfm_interfaces.cli import main

#: Changes of the recipe that make training a matter of seconds.
TINY = ("potential.backbone={channels: 8, layers: 1, cutoff: 4.0, radial: 4, degree: 2}", "data.budget=100")


def labelled(n: int, seed: int = 0, element: str = "Cu", periodic: bool = False) -> list[Atoms]:
    """Rattled clusters, or crystals, with energy, forces and stress of ASE's effective-medium potential."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk(element, cubic=True) if periodic else Atoms(f"{element}4", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [1.2, 1.2, 2.0]])
        if periodic:
            atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
        elif k % 2:
            atoms = atoms[:3]
        atoms.positions += rng.normal(scale=0.2 if not periodic else 0.08, size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if periodic:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run `mlipfm WORDS`; its exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err
