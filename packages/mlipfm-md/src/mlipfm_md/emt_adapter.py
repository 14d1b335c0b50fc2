"""ASE's effective medium theory (Jacobsen, Stoltze, Nørskov, Surf. Sci. 366 (1996) 394) as the model `emt:`, for the metals it was fitted to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mlipfm_interfaces.foreign import ForeignPackage

#: Al Ni Cu Pd Ag Pt Au. ASE also has H, C, N and O, with numbers that are made up.
ELEMENTS = (13, 28, 29, 46, 47, 78, 79)


class EmtModel:
    """What `load` returns. Every call is a new calculator, so nothing is kept."""

    outputs = ("energy", "forces", "stress")

    def __init__(self) -> None:
        self.versions = {"ase": importlib.metadata.version("ase")}

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
        """Quantities of one structure, in eV and Å. Charge and multiplicity mean nothing to a metal and are not read, unless they exclude it.

        Raises:
            ValueError: another element, a charge, or the stress of a system that is not periodic in three directions.
        """
        from ase import Atoms
        from ase.calculators.emt import EMT

        strange = sorted({int(z) for z in numbers} - set(ELEMENTS))
        if strange:
            raise ValueError(f"EMT has no parameters for the elements with numbers {strange}; it supports Al Ni Cu Pd Ag Pt Au")
        if charge:
            raise ValueError(f"EMT supports neutral metals only, got the charge {charge:+d}")
        if "stress" in outputs and not np.all(pbc):
            raise ValueError("stress needs three periodic directions")
        atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
        atoms.calc = EMT()
        found = {"energy": np.array(atoms.get_potential_energy()), "forces": atoms.get_forces()}
        if "stress" in outputs:
            found["stress"] = atoms.get_stress(voigt=False)
        return {key: found[key] for key in outputs}


def load(argument: str) -> EmtModel:
    """Return the model; it has no variants. Raises ValueError if one is requested."""
    if argument:
        raise ValueError(f"EMT has no variant {argument!r}; the address is `emt:`")
    return EmtModel()


#: Plug-in `emt` of the group `mlipfm.foreign`.
FOREIGN = ForeignPackage(requirements=(), adapter=Path(__file__), in_process=True)
