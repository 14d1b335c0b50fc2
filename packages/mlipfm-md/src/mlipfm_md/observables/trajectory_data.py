"""`TrajectoryData`: the arrays of one trajectory of one system, from a folder of `mlipfm md run` or from any file that ASE reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.console import counter
from mlipfm_interfaces.elements import MASSES, symbol
from mlipfm_interfaces.errors import MlipfmError, ObservableError, UnreadableFileError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.lattice import reduced
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.units import ACCELERATION, KB

from ..initial_files import VELOCITY_UNITS, unreadable_by_ase

__all__ = ["TrajectoryData", "read_run", "read_trajectory", "unwrapped"]

Array = np.ndarray

#: Whole frames from which on a file that breaks off is read as far as it goes.
FEWEST_WHOLE = 2
#: Å/fs in ASE's unit of velocity.
_ASE_VELOCITY = 0.09822694788464063
#: The largest step between frames, in half shortest lattice vectors, that is taken for motion and not for a wrong image.
_LARGEST_STEP = 0.9


@dataclass(frozen=True, eq=False)
class TrajectoryData:
    """F frames of N atoms, evenly spaced in time.

    Attributes:
        times: [F] fs. atomic_numbers: [N]. positions: [F, N, 3] Å, continuous: never wrapped into the cell (see `unwrapped`).
        cells: [F, 3, 3] Å, lattice vectors as rows, zero without a cell. pbc: [3] bool. masses: [N] amu, those of the elements by default.
        velocities: [F, N, 3] Å/fs, or None. energies: [F] potential energy, eV, or None.
        stress: [F, 3, 3] eV/Å³ of the potential alone, negative under compression (ASE's sign), or None. dipoles: [F, 3] e Å, or None.
        conserved: [F] eV, the energy that exact dynamics of the ensemble conserve, or None.
        degrees_of_freedom: along which atoms move, for temperatures; 3N by default.
        ensemble: `nve`, `nvt` or `npt`, None if not known. pressure: eV/Å³ of the barostat, None without one.
        total_charge, spin_multiplicity: as in `Structure`, for models that predict what the trajectory lacks.
        broken: why the positions are no paths of atoms (frames too far apart in time), "" if they are.
        source: where it comes from. notes: what a reader of the numbers should know.

    Raises:
        ObservableError: for shapes that do not fit, times that are not evenly spaced, numbers that are not finite.
    """

    times: Array
    atomic_numbers: Array
    positions: Array
    cells: Array = field(default_factory=lambda: np.zeros(0))
    pbc: Array = field(default_factory=lambda: np.zeros(3, dtype=bool))
    masses: Array = field(default_factory=lambda: np.zeros(0))
    velocities: Array | None = None
    energies: Array | None = None
    stress: Array | None = None
    dipoles: Array | None = None
    conserved: Array | None = None
    degrees_of_freedom: int = 0
    ensemble: str | None = None
    pressure: float | None = None
    total_charge: int | None = None
    spin_multiplicity: int | None = None
    broken: str = ""
    source: str = "trajectory"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        frames, atoms = len(self.times), len(self.atomic_numbers)
        if not np.size(self.masses):
            put(self, "masses", MASSES[self.atomic_numbers])
        if not np.size(self.cells):
            put(self, "cells", np.zeros((frames, 3, 3)))
        if np.shape(self.cells) == (3, 3):
            put(self, "cells", np.broadcast_to(self.cells, (frames, 3, 3)))
        put(self, "degrees_of_freedom", self.degrees_of_freedom or 3 * atoms)
        shapes = {"positions": (frames, atoms, 3), "cells": (frames, 3, 3), "masses": (atoms,), "velocities": (frames, atoms, 3),
                  "energies": (frames,), "conserved": (frames,), "stress": (frames, 3, 3), "dipoles": (frames, 3)}  # fmt: skip
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != shape:
                raise ObservableError(f"`{name}` must have shape {list(shape)}, got {list(np.shape(values))}")
            if values is not None and not np.isfinite(values).all():
                raise ObservableError(f"`{name}` holds numbers that are not finite", where=self.source)
        steps = np.diff(self.times)
        if frames > 1 and not (steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)):
            raise ObservableError("the frames are not evenly spaced in time", where=self.source, hint="analyse one run, written regularly")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def interval(self) -> float:
        """fs between frames."""
        return float(self.times[-1] - self.times[0]) / (len(self) - 1) if len(self) > 1 else 1.0

    @property
    def volumes(self) -> Array | None:
        """[F] Å³; None if the system is not periodic along three axes."""
        return np.abs(np.linalg.det(self.cells)) if self.pbc.all() else None

    @property
    def kinetic(self) -> Array | None:
        """[F] kinetic energy, eV; None without velocities."""
        if self.velocities is None:
            return None
        return 0.5 / ACCELERATION * np.einsum("fnk,fnk,n->f", self.velocities, self.velocities, self.masses)

    @property
    def temperatures(self) -> Array | None:
        """[F] K, 2 E / (n k_B) with n `degrees_of_freedom`; None without velocities."""
        kinetic = self.kinetic
        return None if kinetic is None else 2 * kinetic / (self.degrees_of_freedom * KB)

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements, each once, by atomic number."""
        return [symbol(int(z)) for z in np.unique(self.atomic_numbers)]

    def atoms_of(self, element: str) -> Array:
        """Return the indices of the atoms of an element.

        Raises:
            ObservableError: there are none.
        """
        chosen = np.flatnonzero([symbol(int(z)) == element for z in self.atomic_numbers])
        if not len(chosen):
            raise ObservableError(f"there is no {element} in {self.source}", hint=f"its elements are {' '.join(self.elements)}")
        return chosen

    def frames(self, keep: slice) -> TrajectoryData:
        """Return the data of some frames."""
        parts = ("times", "positions", "cells", "velocities", "energies", "conserved", "stress", "dipoles")
        return replace(self, **{name: values[keep] for name in parts if (values := getattr(self, name)) is not None})

    def check_paths(self) -> None:
        """Raise `ObservableError` if the positions are no paths of atoms."""
        if self.broken:
            raise ObservableError(self.broken, where=self.source, hint="write frames more often")

    def longest_radius(self) -> float:
        """Return half the shortest lattice vector over all frames, Å: within it no atom meets two images of another."""
        cells = self.cells if (self.cells != self.cells[0]).any() else self.cells[:1]
        return min(float(np.linalg.norm(reduced(np.array(cell))[0], axis=1).min()) for cell in cells) / 2


def unwrapped(positions: Array, cells: Array, pbc: Array, source: str = "trajectory") -> Array:
    """Return continuous positions [F, N, 3] of positions that may be wrapped into the cell.

    Every step is the shortest of its images in the cell of the later frame and is added to the path before it, which keeps displacements right in
    cells that change (von Bülow, Bullerjahn and Hummer, J. Chem. Phys. 153, 021101, 2020). Positions that are continuous stay as they are.

    Raises:
        ObservableError: an atom moves by about half a lattice vector between two frames: its image is not known.
    """
    vectors = np.flatnonzero(pbc)
    if not len(vectors) or len(positions) < 2:
        return positions
    path = np.array(positions, dtype=np.float64)
    for k in range(1, len(path)):
        basis = reduced(np.array(cells[k][vectors]))[0]
        step = positions[k] - positions[k - 1]
        step -= np.round(step @ np.linalg.pinv(basis)) @ basis
        farthest = float(np.linalg.norm(step, axis=1).max())
        if farthest > _LARGEST_STEP * np.linalg.norm(basis, axis=1).min() / 2:
            raise ObservableError(
                f"an atom moves by {farthest:.2g} Angstrom from frame {k - 1} to {k}, about half the cell: its path cannot be followed",
                where=source,
                hint="write frames more often",
            )
        path[k] = path[k - 1] + step
    return path


def read_run(folder: Path | str, structure: int = 0) -> TrajectoryData:
    """Read one structure of a run of `mlipfm md run`.

    Raises:
        UnreadableFileError: no such folder, or no trajectory in it. ObservableError: there is no such structure.
    """
    folder = Path(folder)
    log, run = folder / "trajectory.frames", folder / "run.json"
    if not log.is_file() or not run.is_file():
        raise UnreadableFileError("holds no run of `mlipfm md run`", where=str(folder), hint="give its --out folder, or a trajectory file")
    origin = json.loads(run.read_bytes())
    count = len(origin["structures"])
    if not 0 <= structure < count:
        raise ObservableError(f"there is no structure {structure}: the run has {count}, from 0", where=str(folder))
    rows, times = [], []
    with counter("reading frames", len(FrameLog(log)) // count) as show:
        for k, (frame, dynamics) in enumerate(FrameLog(log)):
            if k % count == structure and dynamics is not None:
                rows.append((frame, dynamics.velocities))
                times.append(dynamics.time)
                masses = dynamics.masses
                show(1)
    if not rows:
        raise ObservableError("the run has no frame yet", where=str(folder))
    first = rows[0][0]
    ensemble, target = _ensemble(origin, structure)
    table = _energy_table(folder / "energies.csv", structure, times)
    degrees = table.pop("degrees_of_freedom", None) or _degrees_of_freedom(origin, structure, len(first), ensemble)
    return TrajectoryData(
        np.array(times),
        first.atomic_numbers,
        np.stack([frame.positions for frame, _ in rows]),
        np.stack([frame.cell for frame, _ in rows]),
        first.pbc,
        masses,
        np.stack([velocities for _, velocities in rows]),
        np.array([float(frame.labels["energy"]) for frame, _ in rows]),
        _labels(rows, "stress"),
        _labels(rows, "dipole"),
        degrees_of_freedom=degrees,
        ensemble=ensemble,
        pressure=target,
        total_charge=first.total_charge,
        spin_multiplicity=first.spin_multiplicity,
        source=str(folder) + (f", structure {structure}" if count > 1 else ""),
        **table,
    )


def sampled(folder: Path, structure: int, atoms: int) -> tuple[str, int]:
    """(`nve`, `nvt` or `npt`, degrees of freedom) of one structure of a run: what its temperature and heat capacity need.

    Args:
        folder: of `mlipfm md run` or `md exchange`. atoms: of the structure.
    """
    origin = json.loads((folder / "run.json").read_bytes())
    ensemble, _ = _ensemble(origin, structure)
    found = _energy_table(folder / "energies.csv", structure, None)
    return ensemble, found.get("degrees_of_freedom") or _degrees_of_freedom(origin, structure, atoms, ensemble)


def _energy_table(path: Path, structure: int, times: Sequence[float] | None) -> dict[str, Any]:
    """`conserved` [F] eV and `degrees_of_freedom` from `energies.csv` of a run at these times (None: all); empty where there is none or it lacks a
    frame."""
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        rows = {float(row["time/fs"]): row for row in csv.DictReader(stream) if row["system"] == str(structure)}
    lines = [rows.get(time) for time in (rows if times is None else times)]
    found: dict[str, Any] = {}
    if all(line is not None and line["conserved/eV"] for line in lines):
        found["conserved"] = np.array([float(line["conserved/eV"]) for line in lines if line is not None])
    warm = [(float(line["kinetic/eV"]), float(line["temperature/K"])) for line in lines if line is not None and line["temperature/K"]]
    ratios = [2 * kinetic / (KB * kelvin) for kinetic, kelvin in warm if kelvin > 0]
    if ratios:
        found["degrees_of_freedom"] = round(float(np.median(ratios)))
    return found


def _labels(rows: Sequence[tuple[Any, Array]], key: str) -> Array | None:
    if any(key not in frame.labels for frame, _ in rows):
        return None
    return np.stack([frame.labels[key] for frame, _ in rows])


def _ensemble(origin: dict[str, Any], structure: int) -> tuple[str, float | None]:
    """(`nve`, `nvt` or `npt`, pressure of the barostat in eV/Å³) of what run.json says."""
    name, options = origin["ensemble"]
    if name == "Respa":  # steps between the forces of the model; what is sampled is what it wraps
        name, options = options["ensemble"]
    if name == "NVE":
        return "nve", None
    pressure = options.get("pressure") if isinstance(options, dict) else None
    if pressure is None:
        return "nvt", None
    return "npt", float(pressure[structure] if isinstance(pressure, list) else pressure)


def _degrees_of_freedom(origin: dict[str, Any], structure: int, n: int, ensemble: str) -> int:
    """Axes along which atoms move, less those of a centre of mass that keeps its momentum (see `ensembles`)."""
    motion = (origin.get("motion") or [None] * (structure + 1))[structure] or {}
    fixed = motion.get("fixed") or {}
    still = sum(len(atoms) for atoms in fixed.values())
    free_axes = 3 - len(fixed)
    return 3 * n - still - (free_axes if ensemble == "nve" and n > 1 else 0)


def read_trajectory(
    path: Path | str,
    interval: float | None = None,
    *,
    ensemble: str | None = None,
    elements: Sequence[str] = (),
    structure: int = 0,
    velocity_unit: str | None = None,
) -> TrajectoryData:
    """Read a trajectory file that ASE reads: extended XYZ, LAMMPS dump, .traj, XDATCAR, vasprun.xml ...

    Args:
        interval: fs between frames; not needed where frames state `time_fs`.
        ensemble: `nve`, `nvt` or `npt`, if known.
        elements: of the types 1, 2, ... of a LAMMPS dump without a column of elements.
        structure: which one of a file that tells several by `system` in its comment lines.
        velocity_unit: of a LAMMPS dump, a key of `VELOCITY_UNITS`; Å/ps (`units metal`) by default.

    Energies, velocities, stress and dipoles are used where every frame has them. Positions are made continuous (`unwrapped`).

    Raises:
        UnreadableFileError: a file that is missing or that ASE cannot read. ObservableError: frames of different atoms, no interval.
    """
    path = Path(path)
    frames, cut = _atoms(path, elements)
    frames = _of_system(frames, structure, path)
    first = frames[0]
    for k, atoms in enumerate(frames):
        if len(atoms) != len(first) or (atoms.numbers != first.numbers).any() or (atoms.pbc != first.pbc).any():
            raise ObservableError(f"frame {k} has other atoms than frame 0", where=str(path), hint="a trajectory keeps its atoms in order")
    cells = np.stack([np.asarray(atoms.cell) for atoms in frames])
    positions = np.stack([atoms.positions for atoms in frames])
    masses = first.get_masses()
    charge, multiplicity = charge_and_multiplicity(first.info)
    momenta = [atoms.arrays.get("momenta") for atoms in frames]
    moving = all(p is not None and np.any(p) for p in momenta)
    per_ase = _velocity_scale(path, velocity_unit)
    positions, broken = _paths(positions, cells, first.pbc)
    degrees, notes = _given(frames, "degrees_of_freedom"), [cut] if cut else []
    if not isinstance(degrees, int | np.integer):
        degrees = max(1, 3 * len(first) - 3)
        notes.append("3N - 3 degrees of freedom are taken: the file does not say whether the centre of mass moves or atoms were fixed")
    spelled = str(_given(frames, "ensemble")).lower()
    said = spelled if spelled in ("nve", "nvt", "npt") else None
    if None not in (said, ensemble) and said != ensemble:
        raise ObservableError(f"the file gives the ensemble {said}, not {ensemble}", where="--ensemble", hint="leave it out")
    return TrajectoryData(
        _times(frames, interval, path),
        first.numbers,
        positions,
        cells,
        np.array(first.pbc),
        masses,
        np.stack([p / masses[:, None] * per_ase for p in momenta]) if moving else None,
        _results(frames, "energy"),
        _stress(frames),
        _results(frames, "dipole"),
        degrees_of_freedom=int(degrees),
        ensemble=ensemble or said,
        total_charge=charge,
        spin_multiplicity=multiplicity,
        broken=broken,
        source=str(path),
        notes=tuple(notes),
    )


def _velocity_scale(path: Path, unit: str | None) -> float:
    """Å/fs in one unit of the velocities that ASE makes of a file: it takes those of a LAMMPS dump for Å/ps."""
    if unit is None:
        return _ASE_VELOCITY
    if unit not in VELOCITY_UNITS:
        raise ObservableError(f"no unit of velocity is named {unit!r}", where="--velocity-unit", hint=f"one of {', '.join(VELOCITY_UNITS)}")
    if not _is_lammps_dump(path):
        raise ObservableError("only a LAMMPS dump does not say the unit of its velocities", where="--velocity-unit", hint="leave it out")
    return _ASE_VELOCITY * VELOCITY_UNITS[unit] / VELOCITY_UNITS["A/ps"]


def _of_system(frames: list[Any], structure: int, path: Path) -> list[Any]:
    """Frames of one structure, where the comment lines tell several by `system`."""
    told = [atoms.info.get("system") for atoms in frames]
    systems = sorted(set(told)) if all(isinstance(k, int | np.integer) for k in told) else []  # others may call a molecule so
    if not systems and structure != 0:
        raise ObservableError("the trajectory has one structure", where="--structure", hint="leave it out")
    if not systems:
        return frames
    if structure not in systems:
        raise ObservableError(f"there is no structure {structure}; the file has {', '.join(map(str, systems))}", where=str(path))
    return [atoms for atoms in frames if atoms.info.get("system") == structure]


def _given(frames: Sequence[Any], key: str) -> Any:
    """Return what the comment lines of all frames give alike under a key, None if they give none or differ."""
    values = {str(atoms.info.get(key)): atoms.info.get(key) for atoms in frames}
    return next(iter(values.values())) if len(values) == 1 else None


def _paths(positions: Array, cells: Array, pbc: Array) -> tuple[Array, str]:
    """Continuous positions, or those given and why they cannot be made so."""
    try:
        return unwrapped(positions, cells, pbc), ""
    except ObservableError as error:
        return positions, error.what


def _atoms(path: Path, elements: Sequence[str]) -> tuple[list[Any], str]:
    """Return the frames, and what to say of an incomplete last one: a run that is going on or was killed leaves it."""
    import ase.io

    if path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UnreadableFileError("pickle files are never read", where=str(path), hint="convert it to extxyz where it comes from")
    if not path.is_file():
        raise UnreadableFileError("there is no such file", where=str(path), hint="check the path")
    dump = _is_lammps_dump(path)
    if elements and not dump:
        raise ObservableError("only a LAMMPS dump has types instead of elements", where="--elements", hint="leave it out")
    if dump and not elements and "element" not in dump:
        raise ObservableError(
            "the dump has types and no column of elements",
            where=str(path),
            hint="--elements O H names types 1 and 2; or `dump_modify element`",
        )
    options: dict[str, Any] = {"format": "lammps-dump-text", "specorder": list(elements) or None} if dump else {}
    frames: list[Any] = []
    cut = ""
    try:
        for atoms in ase.io.iread(str(path), ":", do_not_split_by_at_sign=True, **options):
            frames.append(atoms)
    except MlipfmError:
        raise
    except Exception as error:
        if len(frames) < FEWEST_WHOLE:
            raise unreadable_by_ase(path, error) from error
        cut = f"what follows frame {len(frames) - 1} is incomplete and left out ({' '.join(str(error).split())[:100]})"
    if not frames:
        raise UnreadableFileError("the file holds no frame", where=str(path))
    return frames, cut


def _is_lammps_dump(path: Path) -> list[str]:
    """Columns of a LAMMPS text dump; empty for another file."""
    with path.open("rb") as stream:
        if not stream.readline(64).startswith(b"ITEM: TIMESTEP"):
            return []
        for line in stream:
            if line.startswith(b"ITEM: ATOMS"):
                return line.decode().split()[2:]
    return []


def _times(frames: Sequence[Any], interval: float | None, path: Path) -> Array:
    stated = [atoms.info.get("time_fs") for atoms in frames]
    if interval is None and all(time is not None for time in stated):
        return np.array(stated, dtype=np.float64)
    if interval is None:
        raise ObservableError("the file does not say how far its frames are apart", where=str(path), hint="give --dt, in fs between frames")
    if all(time is not None for time in stated) and len(stated) > 1 and not np.isclose(stated[1] - stated[0], interval, rtol=1e-6):
        what = f"the file says that its frames are {stated[1] - stated[0]:g} fs apart, not {interval:g}"
        raise ObservableError(what, where="--dt", hint="leave it out")
    if not 0 < interval <= 1e6:
        raise ObservableError(f"frames must be above 0 and at most 1e6 fs apart, got {interval}", where="--dt")
    return np.arange(len(frames)) * interval


def _results(frames: Sequence[Any], key: str) -> Array | None:
    values = [None if atoms.calc is None else atoms.calc.results.get(key) for atoms in frames]
    return None if any(value is None for value in values) else np.stack([np.asarray(value, dtype=np.float64) for value in values])


def _stress(frames: Sequence[Any]) -> Array | None:
    from ase.stress import voigt_6_to_full_3x3_stress

    values = _results(frames, "stress")
    if values is None or values.shape[1:] == (3, 3):
        return values
    return np.stack([voigt_6_to_full_3x3_stress(value) for value in values])
