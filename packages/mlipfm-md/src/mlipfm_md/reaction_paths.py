"""Minimum energy paths and saddle points: ASE's nudged elastic band with a climbing image, and its dimer method."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.geometry import find_mic
from ase.mep import NEB, DimerControl, MinModeAtoms, MinModeTranslate, idpp_interpolate
from ase.optimize import FIRE
from ase.utils.forcecurve import fit_images
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.state_keys import charge_and_multiplicity

from .atoms_and_models import frozen, largest_force
from .harmonic_vibrations import fixed_axes, free_hessian
from .relaxation import check_relaxed

__all__ = ["Path", "Saddle", "minimum_energy_path", "saddle_point"]

Array = np.ndarray
OnStep = Callable[[int, float, float], None]

#: eV/Å², eigenvalues of the Hessian nearer to zero are those of translations and rotations.
NO_MOTION = 1e-2
#: Å, differences of positions that are of the digits of a file.
SAME_PLACE = 1e-3
#: Å. Where atoms of a straight path come nearer to each other than this they pass through each other, and the start is bent by as much.
TOO_NEAR = 0.5
#: Distances of neighbouring images above this many times their median are jumps, across which the path is not known.
JUMP = 3.0


@dataclass(frozen=True)
class Path:
    """A minimum energy path.

    Attributes:
        images: with energies and forces. distances: [images] Å along the path. energies: [images] eV.
        converged: the largest force is below the limit and the highest image is none of the ends.
        largest_force: eV/Å, perpendicular to the path. fit: ASE's interpolation: distances and energies [points].
    """

    images: list[Atoms]
    distances: Array
    energies: Array
    converged: bool
    largest_force: float
    fit: tuple[Array, Array]

    @property
    def saddle(self) -> int | None:
        """Index of the highest image; None if that is an end, and then the path has shown no saddle."""
        top = int(self.energies.argmax())
        return top if 0 < top < len(self.energies) - 1 else None

    @property
    def jumps(self) -> list[int]:
        """Images after which the next is `JUMP` times farther away than the median of neighbours."""
        steps = np.diff(self.distances)
        return [int(k) for k in np.flatnonzero(steps > JUMP * np.median(steps))]

    @property
    def barrier(self) -> float:
        """Energy of the highest image above the first, eV; of a path with a `saddle`, that of the reaction."""
        return float(self.energies.max() - self.energies[0])

    @property
    def reaction_energy(self) -> float:
        """Energy of the last image above the first, eV."""
        return float(self.energies[-1] - self.energies[0])


@dataclass(frozen=True)
class Saddle:
    """A stationary point that the dimer method reached.

    Attributes:
        atoms: with their calculator. converged: largest force below the limit. energy: eV. largest_force: eV/Å.
        negative: eigenvalues of the Hessian below zero, eV/Å²; a transition state has one. mode: [N, 3] its direction, of length 1, or None.
    """

    atoms: Atoms
    converged: bool
    energy: float
    largest_force: float
    negative: list[float]
    mode: Array | None


def minimum_energy_path(
    first: Atoms, last: Atoms, *, images: int = 7, fmax: float = 0.05, steps: int = 500, climb: bool = True, on_step: OnStep | None = None
) -> Path:
    """Relax a chain of `images` structures, ends included, between two relaxed ones with the calculator of `first`.

    The start is ASE's image dependent pair potential (periodic: the nearest images are joined). Once forces are below 5 fmax the highest image
    climbs. Of free molecules without constraints every image is superimposed on the one before it: turning and shifting is no part of a path.

    Raises:
        SimulationError: ends that differ in more than positions, that are the same, or that are not relaxed; settings that cannot be.
    """
    _check_ends(first, last, images, fmax)
    last, free = _joined(first, last), not first.pbc.any() and not first.constraints
    chain = [first.copy(), *(first.copy() for _ in range(images - 2)), last.copy()]
    for image in chain:
        image.calc = first.calc
    for end, name in ((chain[0], "first"), (chain[-1], "last")):
        check_relaxed(end, max(fmax, 0.05), f"the {name} end of a path")
    band = NEB(chain, climb=False, method="improvedtangent", allow_shared_calculator=True, remove_rotation_and_translation=free)
    band.interpolate(mic=bool(first.pbc.any()), apply_constraint=True)
    _bend(chain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a default that ASE takes itself, for the pair potential alone
        idpp_interpolate(chain, traj=None, log=None, mic=bool(first.pbc.any()), fmax=0.1)
    for image in chain:
        image.calc = first.calc
    done = 0
    for climbing, limit in ((False, 5 * fmax), (True, fmax)) if climb else ((False, fmax),):
        band.climb = climbing
        optimizer = FIRE(band, logfile=None)
        for _ in optimizer.irun(fmax=limit, steps=steps - done):
            if on_step is not None:
                on_step(done + optimizer.nsteps, _highest(band), _residual(band))
        done += optimizer.nsteps
    energies = np.array([image.get_potential_energy() for image in chain])
    fit = fit_images(chain)
    residual = _residual(band)
    kept = [frozen(image) for image in chain]
    return Path(
        kept,
        np.array(fit.path),
        energies,
        residual < fmax and bool(0 < energies.argmax() < images - 1),
        residual,
        (np.array(fit.fit_path), np.array(fit.fit_energies) + energies[0]),
    )


def saddle_point(
    atoms: Atoms,
    *,
    fmax: float = 0.02,
    steps: int = 500,
    push: float = 0.1,
    seed: int = 0,
    mode: Array | None = None,
    on_step: OnStep | None = None,
) -> Saddle:
    """Follow the softest mode uphill from near a saddle (dimer method, Henkelman and Jonsson, J. Chem. Phys. 111, 7010 (1999)); check the Hessian.

    Args:
        push: Å, size of the displacement that breaks the symmetry of the start: along the mode, and a tenth at random, drawn with `seed`.
        mode: [N, 3] first guess of the direction; by default the eigenvector of the Hessian with the most negative eigenvalue,
            or else the softest.

    Raises:
        SimulationError: settings that cannot be, or no atom that may move.
    """
    if not 0 < fmax < 10 or not 0 < steps <= 10**6 or not 0 <= push <= 1:
        raise SimulationError("fmax must be 0 to 10 eV/Å, steps 1 to 10^6 and push 0 to 1 Å", where=f"{fmax:g}, {steps}, {push:g}")
    found, calculator = atoms.copy(), atoms.calc
    found.calc = calculator
    fixed = {int(k) for c in atoms.constraints if type(c).__name__ == "FixAtoms" for k in c.get_indices()}
    mask = [k not in fixed for k in range(len(atoms))]
    if not any(mask):
        raise SimulationError("every atom is fixed: nothing can move", hint="free some atoms")
    rng = np.random.default_rng(seed)
    control = DimerControl(
        initial_eigenmode_method="displacement", displacement_method="vector", logfile=None, eigenmode_logfile=None, mask=mask
    )
    dimer = MinModeAtoms(found, control, random_seed=seed)
    vector = _softest(found) * rng.choice((-1.0, 1.0)) if mode is None else np.array(mode, dtype=np.float64)
    noise = rng.normal(size=vector.shape)
    vector = vector / np.linalg.norm(vector) + (0.1 * noise / np.linalg.norm(noise) if mode is None else 0.0)
    vector[~np.array(mask)] = 0.0
    dimer.displace(displacement_vector=push * vector / np.linalg.norm(vector))
    moves = MinModeTranslate(dimer, logfile=None)
    for _ in moves.irun(fmax=fmax, steps=steps):
        if on_step is not None:
            on_step(moves.nsteps, float(found.get_potential_energy()), largest_force(found))
    free, hessian = free_hessian(found)
    values, vectors = np.linalg.eigh(hessian)
    negative = [float(v) for v in values if v < -NO_MOTION]
    direction = None
    if negative:
        direction = np.zeros((len(atoms), 3))
        direction[free] = vectors[:, 0].reshape(-1, 3)
    return Saddle(found, largest_force(found) < fmax, float(found.get_potential_energy()), largest_force(found), negative, direction)


def _softest(atoms: Atoms) -> Array:
    """Return the eigenvector [N, 3] of the Hessian with the most negative eigenvalue, else of the lowest that is no translation or rotation."""
    free, hessian = free_hessian(atoms)
    values, vectors = np.linalg.eigh(hessian)
    k = 0 if values[0] < -NO_MOTION else int(np.argmax(values > NO_MOTION))
    direction = np.zeros((len(atoms), 3))
    direction[free] = vectors[:, k].reshape(-1, 3)
    return direction


def share_constraints(first: Atoms, last: Atoms) -> str | None:
    """Give the constraints of one end to the other, in place, where that has none: files of products often lose them. Return what was done, in words.

    Raises:
        SimulationError: both have some, and others; or atoms that one end fixes lie elsewhere in the other.
    """
    if _constraints(first) == _constraints(last):
        return None
    if first.constraints and last.constraints:
        hint = "give both files the same constraints, or --ignore-constraints"
        raise SimulationError("reactant and product have different constraints", hint=hint)
    has, lacks, names = (first, last, ("first", "last")) if first.constraints else (last, first, ("last", "first"))
    steps, _ = find_mic(last.positions - first.positions, first.cell, first.pbc)
    moved = float(np.abs(np.where(fixed_axes(has), steps, 0.0)).max())
    if moved > SAME_PLACE:
        hint = "relax the ends with the same atoms fixed, or --ignore-constraints"
        raise SimulationError(f"atoms that the {names[0]} end fixes lie up to {moved:.3f} Å elsewhere in the {names[1]} end", hint=hint)
    lacks.set_constraint([constraint.copy() for constraint in has.constraints])
    return f"the {names[1]} end gives no constraints and gets those of the {names[0]} end"


def _constraints(atoms: Atoms) -> list[str]:
    """What is constrained, in words that can be compared."""
    return sorted(repr(constraint.todict()) for constraint in atoms.constraints)


def _check_ends(first: Atoms, last: Atoms, images: int, fmax: float) -> None:
    if not 3 <= images <= 100 or not 0 < fmax < 10:
        raise SimulationError(f"a path has 3 to 100 images and fmax is 0 to 10 eV/Å, got {images} and {fmax:g}")
    if len(first) != len(last) or (first.numbers != last.numbers).any():
        raise SimulationError(
            f"the ends are {first.get_chemical_formula()} and {last.get_chemical_formula()}, or their atoms stand in another order",
            hint="give both ends with the same atoms in the same order",
        )
    if not np.allclose(first.cell, last.cell, atol=1e-6) or (first.pbc != last.pbc).any():
        raise SimulationError("the ends have different cells", hint="a path runs at one cell: relax both ends with --cell fixed")
    if charge_and_multiplicity(first.info) != charge_and_multiplicity(last.info):
        raise SimulationError("the ends have different charges or multiplicities", hint="a path runs on one potential energy surface")
    if _constraints(first) != _constraints(last):
        hint = "a path has the same atoms fixed everywhere: give both ends the same constraints"
        raise SimulationError("the ends have different constraints", hint=hint)
    if np.abs(first.positions - last.positions).max() < SAME_PLACE:
        raise SimulationError("the two ends are the same structure", hint="give the product as the last frame")


def _joined(first: Atoms, last: Atoms) -> Atoms:
    """`last` with each atom at its periodic image nearest to where it is in `first`; a free molecule turned and shifted onto `first`."""
    moved = last.copy()
    moved.set_constraint()
    if not first.pbc.any() and not last.constraints:
        minimize_rotation_and_translation(first, moved)
        return moved
    moved.positions = first.positions + find_mic(last.positions - first.positions, first.cell, first.pbc)[0]
    moved.set_constraint(last.constraints)
    return moved


def _bend(chain: list[Atoms]) -> None:
    """Move the images of a path, in place, off the line on which atoms would meet: at random, the more the farther from the ends."""
    n = len(chain[0])
    if n < 2 or min(image.get_all_distances(mic=True)[np.triu_indices(n, 1)].min() for image in chain) > TOO_NEAR:
        return
    aside = TOO_NEAR * np.random.default_rng(0).normal(size=(n, 3))
    for k, image in enumerate(chain[1:-1], 1):
        image.set_positions(image.positions + np.sin(np.pi * k / (len(chain) - 1)) * aside)


def _residual(band: NEB) -> float:
    return float(np.linalg.norm(band.get_forces().reshape(-1, 3), axis=1).max())


def _highest(band: NEB) -> float:
    return float(max(image.get_potential_energy() for image in band.images))
