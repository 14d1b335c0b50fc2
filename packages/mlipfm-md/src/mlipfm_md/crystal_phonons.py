"""Phonons of crystals by finite displacements in a supercell: phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)) with forces of a model."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from mlipfm_interfaces.errors import SimulationError

from .relaxation import check_relaxed

__all__ = ["Phonons", "phonons", "supercell_for"]

Array = np.ndarray
#: Å. A supercell narrower than this is refused, one of WIDTH is made.
NARROWEST, WIDTH = 7.5, 12.0
#: THz. Frequencies nearer to zero are numerical noise of acoustic modes.
NOISE = 0.05
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Phonons:
    """Phonons of a crystal.

    Attributes:
        phonopy: the object of phonopy, with force constants and all that it can do. supercell: repeats along the cell vectors.
        paths: segments of the band structure: distances [n], frequencies [n, modes] THz. labels: of special points, at the ends of segments.
        dos: frequencies [n] THz and density of states [n].
        sum_rule: eV/Å², largest net force of a translation before the acoustic sum rule was imposed: the numerical error.
        imaginary: (fractional wave vector, THz as a negative number), the most unstable first, on the path.
        thermal: at a few temperatures: free energy kJ/mol, entropy and heat capacity J/K/mol, of the primitive cell, without imaginary modes.
            Empty where all are imaginary.
    """

    phonopy: Any
    supercell: tuple[int, int, int]
    paths: list[tuple[Array, Array]]
    labels: list[tuple[str, str]]
    dos: tuple[Array, Array]
    sum_rule: float
    imaginary: list[tuple[tuple[float, float, float], float]]
    thermal: list[dict[str, float]]

    @property
    def highest(self) -> float | None:
        """THz, on the path; None if all modes are imaginary."""
        top = max(float(f.max()) for _, f in self.paths)
        return top if top > NOISE else None

    def frequencies(self, q: Sequence[float]) -> Array:
        """Return [modes] THz at a fractional wave vector of the primitive cell; imaginary ones are negative."""
        return np.asarray(self.phonopy.run_qpoints([q]).frequencies[0])


def phonons(
    atoms: Atoms,
    *,
    supercell: Sequence[int] | None = None,
    displacement: float = 0.01,
    fmax: float = 0.01,
    mesh: float = 60.0,
    on_step: OnStep | None = None,
) -> Phonons:
    """Compute force constants by displacements of inequivalent atoms, bands along ASE's path, density of states and thermal properties.

    Args:
        supercell: repeats of the cell; by default as many as make it 12 Å wide. displacement: Å. fmax: eV/Å, largest force that a start may have.
        mesh: Å, length that sets the density of wave vectors (phonopy's `mesh`).

    Raises:
        SimulationError: no crystal, forces on the start, a supercell narrower than 7.5 Å, fixed atoms, an absurd displacement, no phonopy.
    """
    if not atoms.pbc.all():
        raise SimulationError("phonons need a crystal that is periodic in three directions", hint="for molecules: mlipfm vibrations")
    if atoms.constraints:
        raise SimulationError("phonons of a crystal with fixed atoms mean nothing", hint="use --ignore-constraints")
    if not 1e-4 <= displacement <= 0.2:
        raise SimulationError(f"a displacement of {displacement:g} Å is outside of 0.0001 to 0.2", hint="0.01 is usual")
    check_relaxed(atoms, fmax, "phonons")
    made, repeats = _phonopy(atoms, supercell_for(atoms) if supercell is None else supercell)
    made.generate_displacements(distance=displacement)
    made.forces = _forces(atoms, made.supercells_with_displacements, on_step)
    made.produce_force_constants()
    sum_rule = float(np.abs(made.force_constants.sum(axis=1)).max())
    made.symmetrize_force_constants()
    paths, labels = _bands(made)
    made.run_mesh(mesh)
    made.run_total_dos()
    thermal = _thermal(made) if max(float(f.max()) for _, f in paths) > NOISE else []
    dos = made.total_dos
    return Phonons(made, repeats, paths, labels, (np.array(dos.frequency_points), np.array(dos.dos)), sum_rule, _imaginary(made), thermal)


def supercell_for(atoms: Atoms, width: float = WIDTH) -> tuple[int, int, int]:
    """Return the repeats that make every direction at least `width` Å wide."""
    return tuple(int(np.ceil(width / h - 1e-6)) for h in _heights(atoms))  # type: ignore[return-value]  # three


def _phonopy(atoms: Atoms, supercell: Sequence[int]) -> tuple[Any, tuple[int, int, int]]:
    if atoms.cell.handedness < 0:
        raise SimulationError(
            "the lattice vectors are left-handed, which phonopy cannot use", hint="swap two of them: atoms.set_cell(atoms.cell[[1, 0, 2]])"
        )
    repeats = tuple(int(k) for k in supercell)
    if len(repeats) != 3 or min(repeats) < 1:
        raise SimulationError(f"a supercell is three positive numbers, got {supercell}", hint="--supercell 2 2 2")
    heights = np.array(repeats) * _heights(atoms)
    if heights.min() < NARROWEST:
        axis, enough = int(heights.argmin()), " ".join(str(k) for k in supercell_for(atoms))
        raise SimulationError(
            f"the supercell is {heights[axis]:.1f} Å wide along vector {axis + 1}: forces would act on images of the displaced atom",
            hint=f"--supercell {enough} is {WIDTH:g} Å wide",
        )
    if int(np.prod(repeats)) * len(atoms) > 20_000:
        raise SimulationError(f"a supercell of {int(np.prod(repeats)) * len(atoms)} atoms is more than 20,000", hint="use fewer repeats")
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise SimulationError("phonons need phonopy", hint="pip install 'mlipfm-md[phonons]'") from error
    cell = PhonopyAtoms(
        numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions(), masses=atoms.get_masses()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy 4 says that it looks for the primitive cell, as requested
        return Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix="auto"), repeats


def _forces(atoms: Atoms, supercells: Sequence[Any], on_step: OnStep | None) -> Array:
    found = []
    for k, cell in enumerate(supercells):
        moved = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True, info=dict(atoms.info))
        moved.calc = atoms.calc
        found.append(moved.get_forces())
        if on_step is not None:
            on_step(k + 1, len(supercells), f"displacement in {len(moved)} atoms")
    return np.array(found)


def _bands(made: Any) -> tuple[list[tuple[Array, Array]], list[tuple[str, str]]]:
    primitive = made.primitive
    path = Atoms(primitive.symbols, cell=primitive.cell, scaled_positions=primitive.scaled_positions, pbc=True).cell.bandpath(npoints=0)
    qpoints, labels = [], []
    for line in path.path.split(","):
        names = _special_names(line)
        for a, b in itertools.pairwise(names):
            qpoints.append(np.linspace(path.special_points[a], path.special_points[b], 51))
            labels.append((a, b))
    made.run_band_structure(qpoints)
    bands = made.band_structure
    return [(np.array(d), np.array(f)) for d, f in zip(bands.distances, bands.frequencies, strict=True)], labels


def _special_names(line: str) -> list[str]:
    """`GX1U` -> G, X1, U."""
    names: list[str] = []
    for letter in line:
        if letter.isdigit():
            names[-1] += letter
        else:
            names.append(letter)
    return names


def _imaginary(made: Any) -> list[tuple[tuple[float, float, float], float]]:
    """Return those on the path of the band structure, the lowest of each wave vector."""
    bands = made.band_structure
    points: dict[tuple[float, float, float], float] = {}
    for qs, frequencies in zip(bands.qpoints, bands.frequencies, strict=True):
        for q, f in zip(qs, frequencies, strict=True):
            if min(f) < -NOISE:
                a, b, c = (round(float(x), 4) for x in q)
                points[a, b, c] = float(min(f))
    return sorted(points.items(), key=lambda item: item[1])


def _thermal(made: Any) -> list[dict[str, float]]:
    made.run_thermal_properties(t_min=0, t_max=1000, t_step=100, exclude_gamma_acoustic=True)
    found = made.thermal_properties
    keys = ("temperatures", "free_energy", "entropy", "heat_capacity")
    return [dict(zip(keys, map(float, row), strict=True)) for row in zip(*(getattr(found, key) for key in keys), strict=True)]


def _heights(atoms: Atoms) -> Array:
    """[3] Å, distances of opposite faces of the cell."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0))
