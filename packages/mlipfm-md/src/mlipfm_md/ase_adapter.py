"""Published potentials of other packages by their ASE calculators: `sevennet:7net-0`, `sevennet:7net-mf-0:R2SCAN`, `chgnet:0.3.0`, `mace:PATH`.

One file for three packages, run in a worker whose environment holds one of them. The file name of the installed package says which: the argument that
the worker hands over is tried with the package that is there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Å of vacuum along axes that are not periodic, for packages that know crystals alone.
VACUUM = 40.0


class AseModel:
    """What `load` returns: one calculator, asked anew for every structure."""

    outputs = ("energy", "forces", "stress")

    def __init__(self, calculator: Any, package: str, boxed: bool) -> None:
        self.calculator, self.boxed = calculator, boxed
        self.versions = {name: importlib.metadata.version(name) for name in (package, "ase", "torch")}

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        charge: int | None,
        multiplicity: int | None,
        outputs: Sequence[str],
    ) -> dict[str, np.ndarray]:
        """Quantities of one structure, in eV and Å; charge and multiplicity are nothing that these potentials know.

        Raises:
            ValueError: a charge, or the stress of a system that is not periodic in three directions.
        """
        from ase import Atoms

        if charge:
            raise ValueError(f"this potential supports no total charge, got {charge:+d}")
        if "stress" in outputs and not np.all(pbc):
            raise ValueError("stress needs three periodic directions")
        atoms = Atoms(numbers, positions, cell=cell if np.any(pbc) else None, pbc=pbc)
        if self.boxed and not np.all(pbc):
            atoms = with_vacuum(atoms)
        self.calculator.reset()
        atoms.calc = self.calculator
        found = {"energy": np.array(atoms.get_potential_energy(), dtype=np.float64)}
        found["forces"] = np.array(atoms.get_forces(), dtype=np.float64)
        if "stress" in outputs:
            found["stress"] = np.array(atoms.get_stress(voigt=False), dtype=np.float64)
        return {key: found[key] for key in outputs}


def with_vacuum(atoms: Any) -> Any:
    """Return the same atoms in a crystal whose open axes have `VACUUM` Å of nothing across them."""
    cell, positions = np.array(atoms.cell), atoms.positions
    for axis in np.flatnonzero(~atoms.pbc):
        others = [k for k in range(3) if k != axis]
        normal = np.cross(cell[others[0]], cell[others[1]])
        if np.linalg.norm(normal) < 1e-9:  # no other vector is there yet: an axis of space that they do not span
            rest = np.linalg.svd(cell[others])[2]
            normal = rest[np.linalg.matrix_rank(cell[others])]
        normal = normal / np.linalg.norm(normal)
        cell[axis] = (np.ptp(positions @ normal) + VACUUM) * normal
    new = atoms.copy()
    new.set_cell(cell)
    new.pbc = True
    return new


def load(argument: str) -> AseModel:
    """Return the model of the package that this environment has.

    Raises:
        ValueError: none of the packages is here. What the package raises for a model that it does not know.
    """
    if importlib.util.find_spec("sevenn") is not None:
        return AseModel(_sevennet(argument or "7net-0"), "sevenn", boxed=True)
    if importlib.util.find_spec("chgnet") is not None:
        from chgnet.model import CHGNet, CHGNetCalculator

        model = CHGNet.load(model_name=argument or "0.3.0", use_device="cpu", verbose=False)
        return AseModel(CHGNetCalculator(model, use_device="cpu"), "chgnet", boxed=True)
    if importlib.util.find_spec("mace") is not None:
        from mace.calculators import MACECalculator

        return AseModel(MACECalculator(model_paths=argument, device="cpu"), "mace-torch", boxed=False)
    raise ValueError("this environment has neither sevenn, chgnet nor mace-torch")


def _sevennet(argument: str) -> Any:
    """Return the calculator of a model, or of one level of theory of a model that has several: `7net-mf-0:R2SCAN`."""
    from sevenn.calculator import SevenNetCalculator

    name, _, level = (argument, "", "") if os.path.exists(argument) else argument.partition(":")
    try:
        calculator = SevenNetCalculator(name, device="cpu", modal=level or None)
    except ValueError as error:
        if "modal" not in str(error):
            raise
        raise ValueError(f"{error}: write the level of theory behind the name, sevennet:{name}:LEVEL") from None
    if level and calculator.modal != level:  # SevenNet only warns
        raise ValueError(f"{name} has one level of theory: leave :{level} out")
    return calculator
