"""How many of our files a reader passes: from structures to a loss, from a checkpoint to the first ASE force, and to each further force.

A file is passed if a function of it runs (module bodies, which imports run, do not count). `python tools/walks.py` prints the three walks, with
`--files` their files and functions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGES = Path(__file__).resolve().parents[1] / "packages"


class Walk:
    """Files of this project, and the functions of each, that run inside `with Walk() as walk`."""

    def __init__(self) -> None:
        self.passed: dict[str, list[str]] = {}

    def __enter__(self) -> Walk:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(str(PACKAGES)):
            functions = self.passed.setdefault(code.co_filename.partition("/src/")[2], [])
            if code.co_qualname not in functions:
                functions.append(code.co_qualname)


def walks() -> dict[str, Walk]:
    """Return the three walks of a small PaiNN and two molecules."""
    import numpy as np
    import torch
    from ase.build import molecule
    from mlipfm_interfaces.checkpoint import build, save_potential
    from mlipfm_interfaces.structure import Structure
    from mlipfm_md import MlipfmCalculator
    from mlipfm_train import EnergyForce, Step, collate_step

    potential = build("painn", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": 8, "layers": 1}})
    water = molecule("H2O")
    labels = {"energy": np.array(0.0), "forces": np.zeros((3, 3))}
    structures = [Structure(water.numbers, water.positions, labels=labels) for _ in range(2)]
    spec, step = potential.spec, Step(potential, {"energy_force": EnergyForce()})

    def loss() -> object:
        batch = collate_step(step.objectives, structures, spec.graphs, spec.torch_dtype, torch.device("cpu"), seed=0, epoch=0)
        return step(batch)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_potential(path, potential)

        def first() -> object:
            water.calc = MlipfmCalculator(path)
            return water.get_forces()

        def further() -> object:
            water.positions[0] += 0.01
            return water.get_forces()

        return {
            name: _walked(go)
            for name, go in {"structures to loss": loss, "checkpoint to first force": first, "further force": further}.items()
        }


def _walked(go: Callable[[], object]) -> Walk:
    with Walk() as walk:
        go()
    return walk


def main() -> None:
    """Print the walks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--files", action="store_true", help="also print the files and their functions")
    files = parser.parse_args().files
    for name, walk in walks().items():
        print(f"{name}: {len(walk.passed)} files, {sum(map(len, walk.passed.values()))} functions")
        for file, functions in walk.passed.items() if files else ():
            print(f"  {file}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
