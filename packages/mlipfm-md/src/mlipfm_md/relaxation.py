"""Relaxation of atoms and cells: ASE's optimisers, cell filters and symmetry constraint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.lattice import in_one_piece

from .atoms_and_models import frozen, largest_force, reach_of

__all__ = ["CELLS", "OPTIMIZERS", "Relaxation", "check_relaxed", "check_stress", "relax"]

OPTIMIZERS = ("BFGS", "LBFGS", "FIRE", "BFGSLineSearch")
#: What may change of the cell, and the option of `FrechetCellFilter` for it.
CELLS = {"fixed": None, "full": {}, "volume": {"hydrostatic_strain": True}, "shape": {"constant_volume": True}}
#: eV per atom. No relaxation of atoms gains as much: the model has no minimum there.
COLLAPSE = 100.0
OnStep = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Relaxation:
    """The end of a relaxation.

    Attributes:
        atoms: relaxed, with the calculator. converged: whether the largest force came below the limit.
        energies: eV, and largest_forces: eV/Å, of every step, the start first. trajectory: the geometries with energies and forces.
    """

    atoms: Atoms
    converged: bool
    energies: tuple[float, ...]
    largest_forces: tuple[float, ...]
    trajectory: tuple[Atoms, ...]


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: str = "fixed",
    pressure: float = 0.0,
    symmetry: bool = False,
    optimizer: str = "BFGS",
    on_step: OnStep | None = None,
) -> Relaxation:
    """Relax a copy of `atoms` with its calculator; constraints are kept.

    Args:
        fmax: eV/Å, largest force (with a cell that moves, also of the stress times the volume per atom, as ASE's filter has it).
        cell: `fixed`, `full`, `volume` (isotropic) or `shape` (at constant volume). pressure: GPa, on a cell that moves.
            The axis of a slab with vacuum (`open_axes`) keeps its length and direction.
        symmetry: keep the space group of the start (ASE's FixSymmetry). optimizer: one of `OPTIMIZERS`.
        on_step: called with step, energy and largest force.

    Raises:
        SimulationError: settings that cannot be, a moving cell of a system that is not periodic in three directions, energies that are not finite,
            or that fall by more than `COLLAPSE` per atom.
    """
    _check(atoms, fmax, steps, cell, pressure, optimizer)
    atoms, calculator = atoms.copy(), atoms.calc
    atoms.calc = calculator
    if symmetry:
        atoms.set_constraint([*atoms.constraints, _fix_symmetry(atoms)])
    options = CELLS[cell]
    held: list[int] = np.flatnonzero(open_axes(atoms)).tolist() if cell != "fixed" else []
    mask = {"mask": _mask(atoms, held[0], cell, pressure)} if len(held) == 1 else {}
    target = atoms if options is None else FrechetCellFilter(atoms, scalar_pressure=pressure * units.GPa, **options, **mask)
    import ase.optimize

    moves = getattr(ase.optimize, optimizer)(target, logfile=None)
    energies: list[float] = []
    forces: list[float] = []
    trajectory: list[Atoms] = []
    for _ in moves.irun(fmax=fmax, steps=steps):
        energies.append(float(atoms.get_potential_energy()))
        forces.append(float(np.linalg.norm(target.get_forces(), axis=1).max()))
        trajectory.append(frozen(atoms))
        if not np.isfinite([energies[-1], forces[-1]]).all():
            raise SimulationError(
                f"energy or forces are not finite at step {len(energies) - 1}", hint="look at the start, or take another model"
            )
        if (fallen := (energies[0] - energies[-1]) / len(atoms)) > COLLAPSE:
            raise SimulationError(
                f"the energy fell by {fallen:,.3g} eV per atom in {len(energies) - 1} steps: the model collapses, it has no minimum here",
                hint="take a model that was trained on such structures, or look for atoms that meet in the start",
            )
        if on_step is not None:
            on_step(len(energies) - 1, energies[-1], forces[-1])
    if symmetry:
        atoms.set_constraint([c for c in atoms.constraints if not isinstance(c, FixSymmetry)])
    return Relaxation(atoms, forces[-1] < fmax, tuple(energies), tuple(forces), tuple(trajectory))


def open_axes(atoms: Atoms) -> np.ndarray:
    """[3] bool: axes along which images are beyond the reach of the model of the calculator, as across the vacuum of a slab."""
    return np.asarray(in_one_piece(atoms.positions, atoms.cell.array, atoms.pbc)[1] > reach_of(atoms))


def _mask(atoms: Atoms, axis: int, cell: str, pressure: float) -> list[bool]:
    """Voigt components of the strain that may change: those in the plane of a slab that is open along `axis`."""
    if cell == "volume" or pressure:
        what = "a pressure" if pressure else "a change of the volume"
        hint = "--cell full without a pressure relaxes the cell in its plane"
        raise SimulationError(
            f"{what} would act on the vacuum of the slab, along lattice vector {axis + 1}", where=f"--cell {cell}", hint=hint
        )
    lengths = np.abs(atoms.cell.array)
    along = int(lengths[axis].argmax())
    if np.delete(lengths[axis], along).max() > 1e-6 or np.delete(lengths[:, along], axis).max() > 1e-6:
        hint = "turn the cell so that the open axis is x, y or z and the others are normal to it, or keep --cell fixed"
        raise SimulationError(f"lattice vector {axis + 1}, along the vacuum of the slab, is no Cartesian axis", hint=hint)
    return [along not in pair for pair in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]


def check_relaxed(atoms: Atoms, fmax: float, what: str) -> None:
    """Refuse atoms that are not at a stationary point, where second derivatives mean something else.

    Raises:
        SimulationError: a force above `fmax`, eV/Å.
    """
    found = largest_force(atoms)
    if found > fmax:
        raise SimulationError(
            f"{what} need a relaxed structure: the largest force is {found:.3g} eV/Å, above {fmax:g}", hint="relax it first: mlipfm relax"
        )


def check_stress(atoms: Atoms) -> None:
    """Refuse a model without stress where cells are deformed.

    Raises:
        SimulationError: naming what the model predicts.
    """
    known = getattr(atoms.calc, "implemented_properties", ("stress",))
    if "stress" not in known:
        raise SimulationError(f"the model gives no stress, only {', '.join(known)}", hint="keep the cell fixed, or take another model")


def _check(atoms: Atoms, fmax: float, steps: int, cell: str, pressure: float, optimizer: str) -> None:
    if not 0 < fmax < 10 or not 0 < steps <= 10**6:
        raise SimulationError(f"fmax must be between 0 and 10 eV/Å and steps from 1 to 10^6, got {fmax:g} and {steps}")
    if cell not in CELLS or optimizer not in OPTIMIZERS:
        raise SimulationError(
            f"cell is one of {', '.join(CELLS)} and optimizer one of {', '.join(OPTIMIZERS)}, got {cell!r}, {optimizer!r}"
        )
    if cell != "fixed" and not atoms.pbc.all():
        raise SimulationError(
            "a cell can be relaxed if it is periodic in three directions",
            where=f"pbc {atoms.pbc}",
            hint="use --cell fixed; a slab with vacuum may be periodic along it too: that axis is kept",
        )
    if cell != "fixed":
        check_stress(atoms)
    if pressure and cell not in ("full", "volume"):
        raise SimulationError("a pressure acts on a cell whose volume may change", where=f"--cell {cell}", hint="add --cell full")
    if abs(pressure) > 10**4:
        raise SimulationError(f"a pressure of {pressure:g} GPa is beyond matter", hint="pressures are in GPa")


def _fix_symmetry(atoms: Atoms) -> FixSymmetry:
    if not atoms.pbc.all():
        raise SimulationError(
            "the symmetry that is kept is that of a crystal", where=f"pbc {atoms.pbc}", hint="relax it without --symmetry"
        )
    try:
        return FixSymmetry(atoms)
    except ImportError as error:
        raise SimulationError("keeping the symmetry needs spglib", hint="pip install 'mlipfm-md[phonons]'") from error
