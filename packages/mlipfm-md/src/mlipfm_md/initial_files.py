"""Starting structures from files: what a frame says about motion (constraints, velocities, masses) is used, named, or refused by name.

Units in files: `momenta` are ASE's (amu Å over ASE's unit of time); columns `velo`, `vel`, `velocities` (QUIP, GPUMD) are in Å/fs unless
another unit is chosen; VASP and GROMACS files give theirs, and ASE converts them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import ISOTOPES, MASSES, symbol
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, ShapeError, SimulationError, UnreadableFileError
from mlipfm_interfaces.fixed_atoms import fixed_axes, marks_fixed
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Provenance, Structure

from ._other_programs import espresso_state, gromacs_ions, readable_mdl, readable_pdb, refuse_dump_without_elements
from ._start_text import Beside, readable_poscar, readable_xyz
from .initial_state import InitialState

__all__ = ["read_initial_states"]

Array = np.ndarray

#: Å/fs in one unit of velocity. ASE's unit of time is Å sqrt(amu/eV) = 10.18 fs.
VELOCITY_UNITS = {"A/fs": 1.0, "A/ps": 1e-3, "nm/ps": 1e-2, "ase": 0.09822694788464063}

_COMPRESSED = (".gz", ".bz2", ".xz")
#: Bytes in which the columns of a dump are named.
_HEADER = 1 << 16
_VELOCITIES = ("velo", "vel", "velocities", "velocity")
#: Arrays that say nothing about motion, or are used elsewhere.
_KNOWN = {"numbers", "positions", "momenta", "masses"}


@dataclass(frozen=True)
class FrameOptions:
    """What the user says about a file. Those that are None or False leave it to the file.

    Attributes:
        level: of theory. charge, multiplicity: of frames that give none. frame: only this one (-1 is the last).
        new_velocities: draw velocities where the file has some. free_all: let atoms move that the file fixes.
        velocity_unit: of columns of velocities, a key of `VELOCITY_UNITS`.
    """

    level: str | None = None
    charge: int | None = None
    multiplicity: int | None = None
    frame: int | None = None
    new_velocities: bool = False
    free_all: bool = False
    velocity_unit: str | None = None


@dataclass
class FrameReport:
    """How one frame was read: `taken` from the file (or drawn instead), and `unused` columns, in words; the column that gave the velocities."""

    taken: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    velocity_column: str | None = None


def read_initial_states(path: Path | str, wanted: FrameOptions | None = None) -> list[tuple[InitialState, FrameReport]]:
    """Read the frames of a file that ASE reads, each a system of its own, and what was taken from each.

    Raises:
        UnreadableFileError: missing, empty or not readable. InvalidStructureError: for a frame that cannot exist, naming it.
        SimulationError: for a constraint, a mass or velocities that cannot be honoured.
    """
    path, wanted = Path(path), wanted or FrameOptions()
    if wanted.velocity_unit not in (None, *VELOCITY_UNITS):
        raise SimulationError(f"no unit of velocity is named {wanted.velocity_unit!r}", hint=f"one of {', '.join(VELOCITY_UNITS)}")
    frames = list(enumerate(_atoms(path)))
    if not frames:
        raise UnreadableFileError("the file holds no structure", where=str(path))
    if wanted.frame is not None:
        if not -len(frames) <= wanted.frame < len(frames):
            raise SimulationError(f"there is no frame {wanted.frame}: the file has {len(frames)}", where=str(path), hint="-1 is the last")
        others, frames = len(frames) - 1, [frames[wanted.frame]]
        if others:
            frames[0][1][1].unread.append(f"{others} other frame{'s' if others > 1 else ''} of the file")
    starts = [_start(atoms, beside, f"{path}, frame {k}", wanted, Provenance(source=path.name, index=k)) for k, (atoms, beside) in frames]
    if wanted.velocity_unit is not None and not any(said.velocity_column for _, said in starts):
        raise SimulationError(
            "no column of velocities was used", where="--velocity-unit", hint=f"leave it out; it is for {', '.join(_VELOCITIES)}"
        )
    return starts


def _atoms(path: Path) -> list[tuple[Any, Beside]]:
    """ASE's Atoms of each frame, with what it does not read."""
    import ase.io

    kind = _suffix(path)
    if kind in (".pkl", ".pickle", ".pt", ".pth"):
        raise UnreadableFileError("pickle files are never read", where=str(path), hint="convert it to extxyz where it comes from")
    if not path.is_file():
        what = "is a folder, a file is wanted" if path.is_dir() else "there is no such file"
        raise UnreadableFileError(what, where=str(path), hint="check the path")
    try:
        if kind == ".db":  # with its columns, which ase.io leaves out
            from ase.db import connect

            return [(row.toatoms(add_additional_information=True), Beside()) for row in connect(path).select()]
        if kind in (".com", ".gjf"):
            return [_gaussian_input(path)]
        if kind in (".mol", ".sdf"):  # of which ASE reads the first molecule, and no charge
            return [(ase.io.read(io.StringIO(text), format="sdf"), beside) for text, beside in readable_mdl(_text(path), str(path))]
        source, name, beside = _source(path, kind)
        frames: list[Any] = list(ase.io.iread(source, ":", format=name, do_not_split_by_at_sign=True))
        if kind in (".pdb", ".ent"):  # END behind the last ENDMDL makes a frame without atoms
            frames = [atoms for atoms in frames if len(atoms)]
    except MlipfmError:
        raise
    except Exception as error:
        raise unreadable_by_ase(path, error) from error
    for atoms in frames:
        _refuse_partly_occupied(atoms, path)
    if len(beside) != len(frames):
        beside = [Beside() for _ in frames]
    return list(zip(frames, beside, strict=True))


def unreadable_by_ase(path: Path, error: Exception) -> UnreadableFileError:
    """Return the user's error for a file that ASE does not read."""
    from ase.io.formats import UnknownFileTypeError

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnknownFileTypeError):
        hint = "give XYZ, CIF, POSCAR, ... with their usual names; `ase info --formats` lists all"
        return UnreadableFileError(f"ASE does not know this kind of file ({reason})", where=str(path), hint=hint)
    isotope = str(error).strip("'\"") in ISOTOPES
    hint = "write H and a column of masses; D and T are read in XYZ and POSCAR files" if isotope else "check its name and content"
    return UnreadableFileError(f"ASE cannot read it: {reason}", where=str(path), hint=hint)


def _suffix(path: Path) -> str:
    """In lower case, without that of a compression."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in _COMPRESSED else name.suffix


def _text(path: Path, size: int = -1) -> str:
    """Of a file that may be compressed; its first `size` bytes."""
    opened: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    with opened(path, "rb") as stream:
        return str(stream.read(size).decode("utf-8-sig", errors="replace"))


def _source(path: Path, kind: str) -> tuple[Any, str | None, list[Beside]]:
    """Return what ASE is given: text that it can read, or the file."""
    if kind in (".xyz", ".extxyz"):
        text, beside = readable_xyz(_text(path))
        return io.StringIO(text), "extxyz", beside
    stem = path.name.removesuffix(path.suffix) if path.suffix.lower() in _COMPRESSED else path.name
    if kind in (".vasp", ".poscar") or stem.startswith(("POSCAR", "CONTCAR")) or stem.endswith(("POSCAR", "CONTCAR")):
        text, beside = readable_poscar(_text(path), str(path))
        if beside:
            return io.StringIO(text), "vasp", beside
    if kind in (".pdb", ".ent"):
        text, beside = readable_pdb(_text(path), str(path))
        return io.StringIO(text), "proteindatabank", beside
    if kind == ".pwi":
        text = _text(path)
        return io.StringIO(text), "espresso-in", [espresso_state(text)]
    if kind == ".gro":
        text = _text(path)
        return io.StringIO(text), "gromacs", [gromacs_ions(text)]
    if kind in (".lammpstrj", ".dump"):
        refuse_dump_without_elements(_text(path, _HEADER), str(path))
    elif kind in (".data", ".lmp", ".lammps") or path.name.lower().startswith("data."):
        return _lammps_data(path)
    return str(path), None, []


def _lammps_data(path: Path) -> tuple[Any, str | None, list[Beside]]:
    """A data file of LAMMPS, whose masses tell the elements. Its velocities are in units that it does not say."""
    text = _text(path)
    sections = {line.split("#")[0].strip() for line in text.splitlines()}
    if "Masses" not in sections:
        raise UnreadableFileError(
            "this data file of LAMMPS has types and no masses, which would tell the elements",
            where=str(path),
            hint="write it with masses (`write_data`), or as .xyz: ase.io.read(FILE, format='lammps-data', Z_of_type={1: 8, 2: 1})",
        )
    if "Velocities" in sections:
        raise UnreadableFileError(
            "this data file of LAMMPS has velocities and does not say their units",
            where=str(path),
            hint="remove its section Velocities, or write it as .xyz",
        )
    return io.StringIO(text), "lammps-data", []


def _gaussian_input(path: Path) -> tuple[Any, Beside]:
    """Charge, multiplicity and isotopes of hydrogen with it."""
    import ase.io

    atoms: Any = ase.io.read(io.StringIO(_text(path)), format="gaussian-in", attach_calculator=True)
    stated, atoms.calc = atoms.calc.parameters, None
    beside = Beside(charge=stated.get("charge"), multiplicity=stated.get("mult"))
    masses = stated.get("isolist")
    for k, mass in enumerate([] if masses is None else masses):
        if mass is not None and atoms.symbols[k] == "H" and round(float(mass)) in (2, 3):
            beside.isotopes[k] = "D" if round(float(mass)) == 2 else "T"
        elif mass is not None and round(float(mass)) not in (0, round(MASSES[atoms.numbers[k]])):
            beside.unread.append(f"the isotope {round(float(mass))}{atoms.symbols[k]}")
    return atoms, beside


def _refuse_partly_occupied(atoms: Any, path: Path) -> None:
    """Sites of a CIF file that several elements share, or that are empty in part: ASE takes the most frequent one for all."""
    for site in (atoms.info.get("occupancy") or {}).values():
        if len(site) > 1 or min(site.values(), default=1.0) < 0.999:
            raise InvalidStructureError(
                f"a site is occupied in part: {', '.join(f'{name} {part:g}' for name, part in site.items())}",
                where=str(path),
                hint="make an ordered cell of it first",
            )


def _start(atoms: Any, beside: Beside, where: str, wanted: FrameOptions, origin: Provenance) -> tuple[InitialState, FrameReport]:
    said = FrameReport(unused=list(beside.unread))
    for k, name in beside.elements.items():
        atoms.symbols[k] = name
    used: set[str] = set()
    try:
        masses = _masses(atoms, beside, said, used)
        fixed, bonds, lengths = _constraints(atoms, wanted, said, used)
        velocities = _velocities(atoms, beside, masses, fixed, wanted, said, used)
        start = InitialState(_structure(atoms, beside, wanted, origin, said), velocities, masses, fixed, bonds, lengths)
    except (InvalidStructureError, SimulationError) as error:
        error.where = where + (f", {error.where}" if error.where else "")
        raise
    if atoms.info.keys() & {"time", "time_fs", "step"}:
        said.unused.append("the time of the frame (the run begins at 0)")
    said.unused += sorted(key for key in atoms.arrays if key not in _KNOWN | used and not key.startswith(("REF_", "STD_")))
    return start, said


def _structure(atoms: Any, beside: Beside, wanted: FrameOptions, origin: Provenance, said: FrameReport) -> Structure:
    columns = atoms.info.get("key_value_pairs")  # of a row of an ASE database
    charge, multiplicity = charge_and_multiplicity({**(columns if isinstance(columns, dict) else {}), **atoms.info})
    charge = beside.charge if charge is None else charge
    multiplicity = beside.multiplicity if multiplicity is None else multiplicity
    for name, own, option in (("charge", charge, wanted.charge), ("multiplicity", multiplicity, wanted.multiplicity)):
        if own is not None and option is not None and own != option:
            said.taken.append(f"{name} {own} of the file, not --{name} {option}, which is for structures that give none")
    external = atoms.info.get("external_field")
    return Structure(
        atoms.numbers,
        atoms.positions,
        np.asarray(atoms.cell),
        atoms.pbc,
        wanted.charge if charge is None else charge,
        wanted.multiplicity if multiplicity is None else multiplicity,
        external_field=None if external is None else np.asarray(external, dtype=np.float64).reshape(-1),
        level=wanted.level,
        provenance=origin,
    )


def _masses(atoms: Any, beside: Beside, said: FrameReport, used: set[str]) -> Array:
    """[N] amu: of the file, of isotopes, of the elements; said where they differ from those of the elements."""
    from ase.data import atomic_masses

    standard = MASSES[atoms.numbers]
    masses = np.array(standard)
    column = next((key for key in ("masses", "mass") if key in atoms.arrays), None)
    if column is not None:
        used.add(column)
        masses = np.asarray(atoms.arrays[column], dtype=np.float64)
        table = np.isclose(masses, atomic_masses[atoms.numbers], rtol=1e-7, atol=0)  # ASE's standard weights are no statement
        masses = np.where(table, standard, masses)
    elif beside.isotopes:
        for k, name in beside.isotopes.items():
            masses[k] = ISOTOPES[name][1]
    changed = masses != standard
    if changed.any():
        kinds = sorted({(symbol(int(z)), f"{m:.6g}") for z, m in zip(atoms.numbers[changed], masses[changed], strict=True)})
        said.taken.append("masses of the file: " + ", ".join(f"{name} {mass}" for name, mass in kinds[:6]) + (" ..." if kinds[6:] else ""))
    return masses


def _constraints(atoms: Any, wanted: FrameOptions, said: FrameReport, used: set[str]) -> tuple[Array, Array | None, Array | None]:
    """Fixed axes [N, 3] bool, from ASE's constraints and from columns, and bonds of fixed length [M, 2] with their lengths [M] Å, if any.

    Raises:
        SimulationError: a constraint that these dynamics cannot keep, by name.
    """
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    names, bonds = [], []
    for constraint in [] if wanted.free_all else atoms.constraints:
        if type(constraint).__name__ == "FixBondLengths":
            bonds.append(constraint)
            continue
        fixed |= constrained_axes(constraint, atoms)
        names.append(type(constraint).__name__)
    for key, values in atoms.arrays.items():
        sense = marks_fixed(key)
        if sense is None:
            continue
        used.add(key)
        if wanted.free_all:
            continue
        try:
            fixed |= fixed_axes(values, key, len(atoms), sense)
        except ShapeError as error:
            hint = "write a column move_mask (T: the atom moves), or use --ignore-constraints"
            raise SimulationError(f"the column {key!r} seems to say which atoms are fixed: {error.what}", hint=hint) from None
        names.append(key)
    if fixed.any():
        said.taken.append(f"fixed: {_places(fixed)} ({', '.join(dict.fromkeys(names))})")
    elif wanted.free_all and atoms.constraints:
        said.taken.append("the constraints of the file are ignored: every atom may move")
    return fixed, *_bonds(bonds, atoms, said)


def _bonds(constraints: list[Any], atoms: Any, said: FrameReport) -> tuple[Array | None, Array | None]:
    """Pairs [M, 2] and lengths [M] Å of ASE's FixBondLengths; lengths that it does not give are those of the file."""
    if not constraints:
        return None, None
    pairs = np.concatenate([np.asarray(c.pairs, dtype=np.int64).reshape(-1, 2) for c in constraints])
    present = [np.array([atoms.get_distance(a, b, mic=True) for a, b in c.pairs]) for c in constraints]
    lengths = [
        here if c.bondlengths is None else np.asarray(c.bondlengths, dtype=float) for c, here in zip(constraints, present, strict=True)
    ]
    few = ", ".join(f"{a}-{b}" for a, b in pairs[:6].tolist()) + (" ..." if len(pairs) > 6 else "")
    said.taken.append(f"{len(pairs)} bond{'s' if len(pairs) > 1 else ''} of fixed length: {few} (FixBondLengths)")
    return pairs, np.concatenate(lengths)


def constrained_axes(constraint: Any, atoms: Any) -> Array:
    """[N, 3] bool: the Cartesian axes along which one constraint of ASE holds each atom.

    Raises:
        SimulationError: a constraint that is none of axes, by name.
    """
    name = type(constraint).__name__
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    if name == "FixAtoms":
        fixed[constraint.index] = True
        return fixed
    if name == "FixCartesian":
        fixed[constraint.index] = constraint.mask
        return fixed
    free = {
        "FixScaled": lambda: np.asarray(atoms.cell)[~constraint.mask],
        "FixedLine": lambda: np.asarray(constraint.dir).reshape(1, 3),
        "FixedPlane": lambda: np.eye(3) - np.outer(constraint.dir, constraint.dir),
    }.get(name)
    if free is None:
        raise SimulationError(
            f"the constraint {name} cannot be kept here",
            hint="remove it from the file, or let every atom move with --ignore-constraints",
        )
    axes = _spanned_axes(free())
    if axes is None:
        raise SimulationError(
            f"the constraint {name} fixes atoms along a direction that is no axis x, y or z",
            hint="turn the cell so that it is, or let every atom move with --ignore-constraints",
        )
    fixed[constraint.index] = ~axes
    return fixed


def _spanned_axes(directions: Array) -> Array | None:
    """[3] bool: the Cartesian axes that `directions` [n, 3] span; None if they span anything else."""
    scale = np.abs(directions).max(initial=0)
    axes: Array = (np.abs(directions) > 1e-6 * scale).any(axis=0)
    rank = np.linalg.matrix_rank(directions, tol=1e-6 * scale) if len(directions) else 0
    return axes if axes.sum() == rank else None


def _velocities(
    atoms: Any, beside: Beside, masses: Array, fixed: Array, wanted: FrameOptions, said: FrameReport, used: set[str]
) -> Array | None:
    """[N, 3] Å/fs, None to draw them.

    Raises:
        SimulationError: two columns with different velocities.
    """
    found: dict[str, Array] = {}
    if "momenta" in atoms.arrays:
        found["momenta"] = _from_momenta(atoms, beside, masses)
    for key in _VELOCITIES:
        if key in atoms.arrays:
            used.add(key)
            found[key] = np.asarray(atoms.arrays[key], dtype=np.float64) * VELOCITY_UNITS[wanted.velocity_unit or "A/fs"]
    if not found:
        return None
    first = next(iter(found))
    for key, values in found.items():
        if values.shape != (len(atoms), 3):
            raise SimulationError(f"the column {key!r} must hold three numbers for each atom")
        if not np.allclose(values, found[first], rtol=1e-3, atol=1e-6):
            raise SimulationError(
                f"the columns {first!r} and {key!r} state different velocities", hint="remove one, or name the unit with --velocity-unit"
            )
    velocities = found[first]
    if wanted.new_velocities or not velocities.any():
        why = "as --new-velocities asks" if wanted.new_velocities else "those of the file are all zero"
        said.taken.append(f"velocities drawn: {why}")
        return None
    said.velocity_column = first if first != "momenta" else None
    source = "momenta" if first == "momenta" else f"column {first}, read in {wanted.velocity_unit or 'A/fs'}"
    said.taken.append(f"velocities of the file ({source})" + (", zero on fixed axes" if velocities[fixed].any() else ""))
    return np.where(fixed, 0.0, velocities)


def _from_momenta(atoms: Any, beside: Beside, masses: Array) -> Array:
    """Velocities in Å/fs from ASE's momenta, which belong to ASE's masses unless the text gave momenta of isotopes or masses beside them."""
    stated = "mass" in atoms.arrays or (beside.isotopes and not beside.velocities)
    divisor = masses if stated else atoms.get_masses()
    return np.asarray(atoms.get_momenta() / divisor[:, None] * VELOCITY_UNITS["ase"])


def _places(fixed: Array) -> str:
    """`atoms 0-3; atom 5 along z`."""
    words = []
    for pattern in sorted({tuple(row) for row in fixed.tolist() if any(row)}, reverse=True):
        atoms = np.flatnonzero((fixed == pattern).all(axis=1)).tolist()
        along = "" if all(pattern) else " along " + ", ".join(axis for axis, held in zip("xyz", pattern, strict=True) if held)
        words.append(f"atom{'s' if len(atoms) > 1 else ''} {ranges(atoms)}{along}")
    return "; ".join(words)


def ranges(numbers: Iterable[int]) -> str:
    """`0-3, 7` of [0, 1, 2, 3, 7]; long lists are cut."""
    runs: list[list[int]] = []
    for k in numbers:
        if runs and k == runs[-1][1] + 1:
            runs[-1][1] = k
        else:
            runs.append([k, k])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(words[:12]) + (f", ... ({len(words) - 12} more)" if len(words) > 12 else "")
