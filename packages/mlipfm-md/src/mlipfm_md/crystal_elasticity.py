"""Equation of state and elastic tensor of crystals, by energies and stresses of deformed cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState
from mlipfm_interfaces.errors import SimulationError

from .relaxation import check_relaxed, check_stress, relax

__all__ = ["EOS_FORMS", "Elasticity", "StateEquation", "elastic_tensor", "equation_of_state"]

Array = np.ndarray
#: Forms of ASE that give a pressure derivative and a curve.
EOS_FORMS = ("birchmurnaghan", "murnaghan", "vinet", "sj")
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class StateEquation:
    """Energies of isotropic deformations and the fitted curve.

    Attributes:
        volumes, energies: [points], Å³ and eV. volume, energy: of the minimum. bulk_modulus: GPa. form: see `EOS_FORMS`.
        atoms: the structure at the minimum: the start scaled. fit: ASE's object, which evaluates the curve.
    """

    volumes: Array
    energies: Array
    volume: float
    energy: float
    bulk_modulus: float
    form: str
    atoms: Atoms
    fit: EquationOfState


@dataclass(frozen=True)
class Elasticity:
    """Elastic constants C_ij = d sigma_i / d epsilon_j, [6, 6] GPa, in the order xx, yy, zz, yz, xz, xy (engineering shear).

    Attributes:
        tensor: with the symmetry of the crystal. asymmetry: GPa, largest change that symmetry made: the numerical error. space_group: its symbol.
        stress: [6] GPa of the start.
    """

    tensor: Array
    asymmetry: float
    space_group: str
    stress: Array

    @property
    def stable(self) -> bool:
        """Born's criterion: all eigenvalues are positive (Mouhat and Coudert, Phys. Rev. B 90, 224104 (2014))."""
        return bool(np.linalg.eigvalsh(self.tensor).min() > 0)

    def averages(self) -> dict[str, float]:
        """Return Voigt, Reuss and Hill averages of bulk and shear modulus, Young's modulus in GPa, Poisson's ratio
        (Hill, Proc. Phys. Soc. A 65, 349 (1952))."""
        c, s = self.tensor, np.linalg.inv(self.tensor)
        kv = (c[:3, :3].sum()) / 9
        gv = (np.trace(c[:3, :3]) - (c[0, 1] + c[1, 2] + c[0, 2]) + 3 * (c[3, 3] + c[4, 4] + c[5, 5])) / 15
        kr = 1 / s[:3, :3].sum()
        gr = 15 / (4 * np.trace(s[:3, :3]) - 4 * (s[0, 1] + s[1, 2] + s[0, 2]) + 3 * (s[3, 3] + s[4, 4] + s[5, 5]))
        k, g = (kv + kr) / 2, (gv + gr) / 2
        names = ("bulk_voigt", "bulk_reuss", "bulk_hill", "shear_voigt", "shear_reuss", "shear_hill", "young", "poisson")
        values = (kv, kr, k, gv, gr, g, 9 * k * g / (3 * k + g), (3 * k - 2 * g) / (2 * (3 * k + g)))
        return {name: float(value) for name, value in zip(names, values, strict=True)}


def equation_of_state(
    atoms: Atoms, *, strain: float = 0.03, points: int = 9, form: str = "birchmurnaghan", fmax: float = 0.01, on_step: OnStep | None = None
) -> StateEquation:
    """Fit energies of cells that are scaled by up to `strain` of their length in either direction; positions are relaxed at each volume.

    Raises:
        SimulationError: a system that is not periodic in three directions, settings that cannot be, or energies without a minimum in the range.
    """
    _check_crystal(atoms, "an equation of state")
    if not 0.001 <= strain <= 0.2 or not 5 <= points <= 101 or form not in EOS_FORMS:
        raise SimulationError(
            f"strain must be 0.001 to 0.2, points 5 to 101 and form one of {', '.join(EOS_FORMS)}", where=f"{strain:g}, {points}, {form}"
        )
    volumes, energies = [], []
    for k, scale in enumerate(np.linspace(1 - strain, 1 + strain, points)):
        scaled = _deformed(atoms, scale * np.eye(3))
        energies.append(_relaxed(scaled, fmax).get_potential_energy())
        volumes.append(scaled.get_volume())
        if on_step is not None:
            on_step(k + 1, points, f"volume {volumes[-1]:.3f} Å³, energy {energies[-1]:.6f} eV")
    lowest = int(np.argmin(energies))
    if lowest in (0, points - 1):
        side = "smaller" if lowest == 0 else "larger"
        raise SimulationError(
            f"the energy has no minimum within {strain:.1%} of the cell's length: it falls towards {side} cells",
            hint="relax the cell first",
        )
    fit = EquationOfState(volumes, energies, eos=form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's on the covariance, which is not used
        v0, e0, b = fit.fit()
    best = _deformed(atoms, (v0 / atoms.get_volume()) ** (1 / 3) * np.eye(3))
    return StateEquation(np.array(volumes), np.array(energies), float(v0), float(e0), float(b / units.GPa), form, best, fit)


def elastic_tensor(atoms: Atoms, *, strain: float = 0.005, fmax: float = 0.001, on_step: OnStep | None = None) -> Elasticity:
    """Compute central differences of the stress for six strains; positions are relaxed at each, and the crystal's symmetry is imposed.

    Raises:
        SimulationError: a system that is not periodic in three directions, forces on the start above 10 times `fmax`, an absurd strain, no spglib.
    """
    _check_crystal(atoms, "an elastic tensor")
    if not 1e-5 <= strain <= 0.05:
        raise SimulationError(f"a strain of {strain:g} is outside of 0.00001 to 0.05", hint="0.005 is usual")
    check_stress(atoms)
    check_relaxed(atoms, 10 * fmax, "elastic constants")
    raw = np.zeros((6, 6))
    for k in range(6):
        for sign in (1, -1):
            size = np.zeros(6)
            size[k] = sign * strain
            stress = _relaxed(_deformed(atoms, np.eye(3) + _strain_matrix(size)), fmax).get_stress()
            raw[:, k] += sign * stress / (2 * strain) / units.GPa
            if on_step is not None:
                on_step(2 * k + (3 - sign) // 2, 12, f"strain {size[k]:+g} along {('xx', 'yy', 'zz', 'yz', 'xz', 'xy')[k]}")
    rotations, name = _rotations(atoms)
    tensor = symmetrized((raw + raw.T) / 2, rotations)
    return Elasticity(tensor, float(np.abs(tensor - raw).max()), name, atoms.get_stress() / units.GPa)


def symmetrized(tensor: Array, rotations: Array) -> Array:
    """Return the mean of a [6, 6] elastic tensor over rotations [n, 3, 3] (Cartesian)."""
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    full = np.zeros((3, 3, 3, 3))
    for m, (i, j) in enumerate(pairs):
        for n, (k, el) in enumerate(pairs):
            for a, b in {(i, j), (j, i)}:
                for c, d in {(k, el), (el, k)}:
                    full[a, b, c, d] = tensor[m, n]
    mean = np.mean([np.einsum("ia,jb,kc,ld,abcd->ijkl", r, r, r, r, full, optimize=True) for r in rotations], axis=0)
    return np.array([[mean[i, j, k, el] for k, el in pairs] for i, j in pairs])


def _rotations(atoms: Atoms) -> tuple[Array, str]:
    """Cartesian rotations of the crystal's point group, and the symbol of its space group."""
    try:
        import spglib
    except ImportError as error:
        raise SimulationError("the symmetry of the crystal needs spglib", hint="pip install 'mlipfm-md[phonons]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib 2.8 says that its errors will change
        found: Any = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-3)
    basis = atoms.cell.array.T
    rotations = np.array([basis @ r @ np.linalg.inv(basis) for r in found.rotations])
    return rotations, str(found.international)


def _strain_matrix(voigt: Array) -> Array:
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])


def _deformed(atoms: Atoms, matrix: Array) -> Atoms:
    """Return a copy with the same calculator and deformed cell and positions."""
    new = atoms.copy()
    new.calc = atoms.calc
    constraints, _ = new.constraints, new.set_constraint()
    new.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
    new.set_constraint(constraints)
    return new


def _relaxed(atoms: Atoms, fmax: float) -> Atoms:
    return relax(atoms, fmax=fmax).atoms


def _check_crystal(atoms: Atoms, what: str) -> None:
    if atoms.constraints:
        raise SimulationError(f"{what} of a crystal with fixed atoms means nothing", hint="use --ignore-constraints")
    if not atoms.pbc.all():
        kind = "a molecule" if not atoms.pbc.any() else f"periodic along {int(atoms.pbc.sum())} of 3 directions"
        raise SimulationError(
            f"{what} needs a crystal that is periodic in three directions; this is {kind}", hint="give a file with a cell and pbc T T T"
        )
