"""What commands on one structure start from: Atoms of a file with everything that it has, and an ASE calculator of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian
from ase.stress import full_3x3_to_voigt_6_stress
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.foreign import ForeignModel, is_foreign, open_foreign
from mlipfm_interfaces.lattice import in_one_piece
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Structure

from ._options import refuse_level
from .calculator import MlipfmCalculator
from .initial_files import FrameOptions, FrameReport, read_initial_states
from .initial_state import InitialState

#: Å, beyond which molecules are apart for models that tell no cutoff, those of other packages.
APART = 6.0

__all__ = [
    "ForeignCalculator",
    "atoms_of",
    "frozen",
    "largest_force",
    "open_calculator",
    "read_atoms",
    "start_words",
]


class ForeignCalculator(Calculator):
    """ASE calculator of a model of another package, such as `tblite:GFN2`; charge and multiplicity are read as in `MlipfmCalculator`."""

    name = "mlipfm-foreign"

    def __init__(self, model: ForeignModel, *, charge: int | None = None, multiplicity: int | None = None) -> None:
        super().__init__()
        self.model, self.charge, self.multiplicity = model, charge, multiplicity
        self.implemented_properties = [key for key in ("energy", "forces", "stress", "dipole", "charges") if key in model.outputs]
        self._info: tuple[int | None, int | None] | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return the names of what changed since the last calculation, charge and multiplicity of `atoms.info` included."""
        changed: list[str] = super().check_state(atoms, tol)
        return changed if charge_and_multiplicity(atoms.info) == self._info else [*changed, "info"]

    def calculate(self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Compute energy and forces, and what else is asked."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        assert atoms is not None
        self._info = charge_and_multiplicity(atoms.info)
        charge, multiplicity = (a if a is not None else b for a, b in zip(self._info, (self.charge, self.multiplicity), strict=True))
        structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge, multiplicity)
        wanted = tuple(dict.fromkeys(("energy", "forces", *properties)))
        row: dict[str, Any] = self.model.evaluate([structure], tuple(key for key in wanted if key in self.implemented_properties))[0]
        row = {key: float(value) if np.ndim(value) == 0 else value for key, value in row.items()}
        if "stress" in row:
            row["stress"] = full_3x3_to_voigt_6_stress(row["stress"])
        self.results = {**row, "free_energy": row["energy"]}


def open_calculator(
    model: Potential | str | Path, *, level: str | None = None, charge: int | None = None, multiplicity: int | None = None
) -> MlipfmCalculator | ForeignCalculator:
    """Return the ASE calculator of a model: a checkpoint (path or NAME@ALIAS), or a model of another package (`tblite:GFN2`).

    Weights of checkpoints are converted to float64: relaxations and second derivatives need the digits.

    Raises:
        SimulationError: a level of theory for a model of another package. What opening the model raises.
    """
    if not isinstance(model, Potential) and is_foreign(model):
        refuse_level(model, level)
        return ForeignCalculator(open_foreign(str(model)), charge=charge, multiplicity=multiplicity)
    calculator = MlipfmCalculator(model, level=level, charge=charge, multiplicity=multiplicity)
    calculator.potential = in_float64(calculator.potential)
    return calculator


def in_float64(potential: Potential) -> Potential:
    """Return the same model computing in float64, or the model itself if it does, or has no choice."""
    from mlipfm_interfaces.checkpoint import build

    if potential.spec.dtype == "float64" or "dtype" not in potential.config:
        return potential
    wide = build(potential.plugin, potential.config | {"dtype": "float64"})
    wide.load_state_dict(potential.state_dict())
    wide.examples, wide.default_level, wide.trained_states = potential.examples, potential.default_level, potential.trained_states
    return wide.eval()


def read_atoms(
    path: Path | str, *, charge: int | None = None, multiplicity: int | None = None, frame: int | None = None, free_all: bool = False
) -> list[tuple[Atoms, list[str]]]:
    """Read the frames of a file that ASE reads, with constraints, masses, charge and multiplicity, and words on what was taken and what was not.

    Raises:
        what `read_initial_states` raises: columns that cannot be honoured are refused by name.
    """
    found = read_initial_states(path, FrameOptions(None, charge, multiplicity, frame, free_all=free_all))
    return [(atoms_of(start), start_words(start, said)) for start, said in found]


def atoms_of(start: InitialState) -> Atoms:
    """Return ASE's Atoms of a start: fixed axes as constraints, charge and multiplicity in `info`.

    Raises:
        SimulationError: an external field, which ASE's Atoms do not have.
    """
    s = start.structure
    if s.external_field is not None and s.external_field.any():
        raise SimulationError(
            f"an external field, {s.external_field.tolist()} V/Å, acts in dynamics only (mlipfm md run)",
            hint="remove `external_field` from the file",
        )
    info = {"charge": s.total_charge, "spin": s.spin_multiplicity}
    atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc, info={k: v for k, v in info.items() if v is not None})
    if not np.array_equal(start.amu, MASSES[s.atomic_numbers]):
        atoms.set_masses(start.amu)
    fixed = start.axes_fixed
    whole = np.flatnonzero(fixed.all(axis=1))
    partly = np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
    bonds = [] if start.bonds is None else [FixBondLengths(start.bonds)]
    atoms.set_constraint([*([FixAtoms(whole)] if len(whole) else []), *(FixCartesian([k], fixed[k]) for k in partly), *bonds])
    return atoms


def frozen(atoms: Atoms) -> Atoms:
    """Return a copy that keeps its energy and forces (of all atoms, fixed ones too), whatever its calculator computes next."""
    kept = atoms.copy()
    forces = atoms.get_forces(apply_constraint=False)
    kept.calc = SinglePointCalculator(kept, energy=float(atoms.get_potential_energy()), forces=forces)
    return kept


def free_molecule(atoms: Atoms) -> Atoms | None:
    """Return a molecule in a periodic box, whose images its calculator cannot reach, as the free molecule that it is: whole and not periodic.

    None if atoms and images are nearer to each other than the cutoff of the model (`APART` if that is not known) or nothing is periodic.
    """
    if not atoms.pbc.any():
        return None
    positions, widths = in_one_piece(atoms.positions, atoms.cell.array, atoms.pbc)
    if not (widths > reach_of(atoms)).all():
        return None
    free, constraints = atoms.copy(), atoms.constraints
    free.set_constraint()
    free.positions, free.pbc, free.calc = positions, False, atoms.calc
    free.set_constraint(constraints)
    return free


def reach_of(atoms: Atoms) -> float:
    """Return the cutoff of the model of the calculator, Å; `APART` if it tells none."""
    graphs = atoms.calc.potential.spec.graphs if isinstance(atoms.calc, MlipfmCalculator) else ()
    return max((graph.cutoff for graph in graphs), default=APART)


def largest_force(atoms: Atoms) -> float:
    """Return the largest force on an atom in eV/Å; constraints count."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def start_words(start: InitialState, said: FrameReport) -> list[str]:
    """Return what a command that moves no atoms by itself takes from a start, and what it does not."""
    s = start.structure
    words = [w for w in said.taken if not w.startswith("velocities")]
    if s.total_charge is not None or s.spin_multiplicity is not None:
        words.append(
            f"charge {s.total_charge if s.total_charge is not None else 'not given'}, multiplicity {s.spin_multiplicity or 'not given'}"
        )
    unused = [*said.unused, *(["velocities"] if start.velocities is not None else [])]
    return words + (["not used: " + ", ".join(unused)] if unused else [])
