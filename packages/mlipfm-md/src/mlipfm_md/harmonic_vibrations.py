"""Harmonic vibrations and thermochemistry of molecules and adsorbates: the Hessian by the model, the rest by ASE."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from ase.vibrations import VibrationsData
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.state_keys import charge_and_multiplicity

from .initial_files import constrained_axes
from .relaxation import check_relaxed

__all__ = ["Vibrations", "free_hessian", "thermochemistry", "vibrations"]

Array = np.ndarray
#: cm-1 in one eV.
PER_CM = 1 / units.invcm
#: Constraints of ASE that hold atoms along axes.
_OF_AXES = ("FixAtoms", "FixCartesian", "FixScaled", "FixedLine", "FixedPlane")
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Vibrations:
    """Harmonic vibrations at a stationary point.

    Attributes:
        data: ASE's VibrationsData (Hessian, energies, modes, files of modes). frequencies: [modes] cm⁻¹, ascending, imaginary ones negative, without
            rigid motions. rigid: [0, 3, 5 or 6] cm⁻¹, those of translations and rotations, zero for an exact model and geometry.
        order: indices of the modes of `data`: those of `frequencies`, then those of `rigid`.
    """

    data: VibrationsData
    frequencies: Array
    rigid: Array
    order: Array

    @property
    def imaginary(self) -> list[float]:
        """cm⁻¹, as negative numbers."""
        return [float(f) for f in self.frequencies if f < 0]

    @property
    def energies(self) -> Array:
        """[modes] eV, of the modes that are not imaginary."""
        return self.frequencies[self.frequencies >= 0] / PER_CM

    @property
    def zero_point_energy(self) -> float:
        """Half the sum of the energies of real modes, eV."""
        return float(self.energies.sum() / 2)


def free_hessian(atoms: Atoms, *, delta: float = 0.005, on_step: OnStep | None = None) -> tuple[Array, Array]:
    """Return second derivatives of the energy of the atoms that may move: indices [n], and [3n, 3n] eV/Å².

    By the calculator's own `get_hessian` where it has one (exact), else central differences of its forces with displacements `delta`, Å.
    Atoms that are fixed along some axes only count as fixed along none.
    """
    fixed = {int(k) for c in atoms.constraints if type(c).__name__ == "FixAtoms" for k in c.get_indices()}
    free = np.array([k for k in range(len(atoms)) if k not in fixed])
    if not len(free):
        raise SimulationError("every atom is fixed: nothing vibrates", hint="free some atoms")
    if hasattr(atoms.calc, "get_hessian"):
        rows = (3 * free[:, None] + np.arange(3)).ravel()
        with suppress(PropertyNotImplementedError):  # direct forces
            return free, atoms.calc.get_hessian(atoms)[np.ix_(rows, rows)]
    moved = atoms.copy()
    moved.set_constraint()
    moved.calc = atoms.calc
    hessian = np.zeros((3 * len(free), 3 * len(free)))
    for row, (atom, axis) in enumerate((a, x) for a in free for x in range(3)):
        for sign in (1, -1):
            moved.positions[atom, axis] = atoms.positions[atom, axis] + sign * delta
            hessian[row] -= sign * moved.get_forces()[free].ravel() / (2 * delta)
        moved.positions[atom, axis] = atoms.positions[atom, axis]
        if on_step is not None:
            on_step(row + 1, len(hessian), f"atom {atom} along {'xyz'[axis]}")
    return free, (hessian + hessian.T) / 2


def vibrations(atoms: Atoms, *, fmax: float = 0.02, on_step: OnStep | None = None) -> Vibrations:
    """Return harmonic frequencies at a stationary point, a minimum or a saddle, in the coordinates that may move: of all atoms, or those that
    constraints leave (`_OF_AXES`).

    Raises:
        SimulationError: a force above `fmax`, eV/Å, no atom that may move, or bonds of fixed length.
    """
    if any(type(c).__name__ == "FixBondLengths" for c in atoms.constraints):
        raise SimulationError(
            "bonds of fixed length have no harmonic vibrations here", hint="free them: remove the constraint, or --ignore-constraints"
        )
    check_relaxed(atoms, fmax, "vibrations")
    free, hessian = free_hessian(atoms, on_step=on_step)
    held = fixed_axes(atoms)[free].ravel()
    hessian[held], hessian[:, held] = 0.0, 0.0  # modes of exactly zero, apart from all others
    bare = atoms.copy()
    data = VibrationsData.from_2d(bare, hessian, indices=free.tolist())
    energies = data.get_energies()  # complex, eV
    signed = np.where(np.abs(energies.imag) > np.abs(energies.real), -np.abs(energies.imag), energies.real) * PER_CM
    n = rigid_motions(atoms) if len(free) == len(atoms) and not held.any() else 0
    by_size = np.argsort(np.abs(signed))[int(held.sum()) :]
    rigid, moving = (part[np.argsort(signed[part])] for part in (by_size[:n], by_size[n:]))
    return Vibrations(data, signed[moving], signed[rigid], np.concatenate([moving, rigid]))


def fixed_axes(atoms: Atoms) -> Array:
    """[N, 3] bool: the Cartesian axes along which `_OF_AXES` hold each atom."""
    held = [constrained_axes(c, atoms) for c in atoms.constraints if type(c).__name__ in _OF_AXES]
    return np.any(held, axis=0) if held else np.zeros((len(atoms), 3), dtype=bool)


def rigid_motions(atoms: Atoms) -> int:
    """Return how many motions of free atoms cost no energy: 6 of a molecule (5 if linear, 3 of an atom), 3 of a crystal, a slab or a chain (a chain
    may also turn; it counts as a vibration)."""
    if atoms.pbc.any():
        return 3
    return {"monatomic": 3, "linear": 5, "nonlinear": 6}[shape_of(atoms)]


def shape_of(atoms: Atoms) -> Literal["linear", "nonlinear", "monatomic"]:
    """`monatomic`, `linear` or `nonlinear`."""
    if len(atoms) == 1:
        return "monatomic"
    moments = atoms.get_moments_of_inertia()
    return "linear" if moments[0] < 1e-3 * moments[-1] else "nonlinear"


def multiplicity_of(atoms: Atoms) -> int:
    """Return the spin multiplicity that is given, else the lowest that the number of electrons has."""
    charge, multiplicity = charge_and_multiplicity(atoms.info)
    return multiplicity or 1 + (int(atoms.numbers.sum()) - (charge or 0)) % 2


def thermochemistry(
    atoms: Atoms, found: Vibrations, *, temperature: float = 298.15, pressure: float = 101325.0, symmetry_number: int = 1
) -> dict[str, Any]:
    """Return enthalpy, entropy and Gibbs energy of a molecule as ideal gas, or internal and Helmholtz energy of an adsorbate or solid, by ASE.

    The electronic entropy is that of the spin multiplicity; where none is given, of a singlet, or of a doublet if the number of electrons is odd.

    Args:
        temperature: K. pressure: Pa. symmetry_number: of rotations of the molecule (12 for benzene).

    Raises:
        SimulationError: imaginary modes, and settings that cannot be.
    """
    if found.imaginary:
        raise SimulationError(
            f"thermochemistry needs a minimum; there are imaginary modes: {', '.join(f'{-f:.1f}i' for f in found.imaginary)} cm⁻¹",
            hint="relax further, or move along the mode",
        )
    if not 0 < temperature <= 1e4 or not 0 < pressure <= 1e10 or symmetry_number < 1:
        raise SimulationError("temperature must be up to 10,000 K, pressure positive (Pa) and the symmetry number at least 1")
    energy = float(atoms.get_potential_energy())
    if atoms.pbc.any() or len(found.energies) == 3 * len(atoms) or len(found.rigid) == 0:
        harmonic = HarmonicThermo(found.energies.tolist(), potentialenergy=energy)
        return {
            "model": "harmonic",
            "internal_energy": float(harmonic.get_internal_energy(temperature, verbose=False)),
            "entropy": float(harmonic.get_entropy(temperature, verbose=False)),
            "helmholtz_energy": float(harmonic.get_helmholtz_energy(temperature, verbose=False)),
        }
    gas = IdealGasThermo(
        found.energies.tolist(),
        shape_of(atoms),
        potentialenergy=energy,
        atoms=atoms,
        symmetrynumber=symmetry_number,
        spin=(multiplicity_of(atoms) - 1) / 2,
    )
    return {
        "model": "ideal gas",
        "enthalpy": float(gas.get_enthalpy(temperature, verbose=False)),
        "entropy": float(gas.get_entropy(temperature, pressure, verbose=False)),
        "gibbs_energy": float(gas.get_gibbs_energy(temperature, pressure, verbose=False)),
    }
