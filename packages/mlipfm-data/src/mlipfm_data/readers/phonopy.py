"""Reader of phonopy's displaced supercells: `phonopy_params.yaml`, or `phonopy_disp.yaml` with the `FORCE_SETS` beside it.

Every displacement is a frame: the supercell with one atom (type 1) or all atoms (type 2) moved, and the forces. phonopy keeps what its calculator
wrote in that calculator's units: eV and Å for VASP, others as its page "Physical unit conversion" lists them; a file that gives others is refused.
Energies are there for some files only (`supercell_energies`), and are read where the calculator's energies are in eV.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import MlipfmError, PluginError, RefusedFileError, UnitError, UnreadableFileError
from mlipfm_interfaces.raw_frame import Conventions, Note, RawFrame

from .compressed import opened
from .interpret import located

#: Bytes of a file after unpacking: files of supercells have some megabytes.
LARGEST = 1 << 26


def _load_yaml(path: Path) -> Any:
    """Return the content of a file, also compressed, as plain numbers, texts, lists and dictionaries.

    Raises:
        UnreadableFileError: missing, cut, or no YAML. RefusedFileError: too large, or refused by `parse_yaml`. PluginError: no pyyaml.
    """
    try:
        from ..strict_yaml import parse_yaml
    except ImportError:
        raise PluginError("pyyaml is not installed", hint="pip install 'mlipfm-data[yaml]'") from None
    return parse_yaml(_text(path), str(path), invalid=UnreadableFileError, refused=RefusedFileError)


def _text(path: Path) -> bytes:
    with opened(path) as stream:
        try:
            text = stream.read(LARGEST + 1)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise UnreadableFileError(f"cannot be unpacked: {error}", where=str(path), hint="is the file complete?") from None
    if len(text) > LARGEST:
        raise RefusedFileError(f"the file has more than {LARGEST} bytes", where=str(path))
    return text


FORCE_SETS = "FORCE_SETS"
_NAMES = ("phonopy_params.yaml", "phonopy_disp.yaml", "phonopy.yaml")
#: In the order in which they are asked what was displaced for a FORCE_SETS.
_BESIDE_SETS = ("phonopy_disp.yaml", "phonopy_params.yaml", "phonopy.yaml")
#: What a file holds for the displacements themselves, and what follows from the supercell.
_READ = ("phonopy", "physical_unit", "supercell", "dataset", "displacements", "supercell_energies", "space_group", "primitive_matrix",
         "supercell_matrix", "primitive_cell", "unit_cell", "displacement_pair_info")  # fmt: skip
_ENDS = (".yaml", ".yaml.gz", ".yaml.bz2", ".yaml.xz")
#: Decimals of displacements and forces in FORCE_SETS are 8 or more.
_AGREE = 2e-6


class Units(NamedTuple):
    """Of a calculator, as phonopy spells them; `force`: the same unit as `forces_unit` spells it; `electronvolts`: whether its energies are eV."""

    length_name: str
    force_name: str
    force: str
    electronvolts: bool


_ELECTRONVOLT, _ATOMIC = Units("angstrom", "eV/angstrom", "eV/Angstrom", True), Units("au", "hartree/au", "Hartree/bohr", False)
_MIXED, _RYDBERG = Units("au", "eV/angstrom", "eV/Angstrom", False), Units("au", "Ry/au", "Ry/bohr", False)
UNITS = {
    "vasp": _ELECTRONVOLT, "aims": _ELECTRONVOLT, "castep": _ELECTRONVOLT, "crystal": _ELECTRONVOLT, "lammps": _ELECTRONVOLT,
    "pwmat": _ELECTRONVOLT, "elk": _ATOMIC, "dftbp": _ATOMIC, "turbomole": _ATOMIC, "fleur": _ATOMIC, "abinit": _MIXED, "siesta": _MIXED,
    "abacus": _MIXED, "qe": _RYDBERG, "qlm": _RYDBERG, "wien2k": Units("au", "mRy/au", "mRy/bohr", False),
    "cp2k": Units("angstrom", "hartree/au", "Hartree/bohr", False),
}  # fmt: skip


@dataclass(frozen=True)
class Displaced:
    """Displacements [frames, N, 3] in the file's length unit, with forces [frames, N, 3] and energies [frames], where they are there."""

    moves: np.ndarray
    forces: np.ndarray | None
    energies: np.ndarray | None = None


class PhonopyReader:
    """Displaced supercells of phonopy. The path is the YAML file, the FORCE_SETS beside one, or the folder of both.

    Forces are those of the file that the path names: of a YAML file its own, if it has any. A folder in which the two differ is refused.
    They carry no energy in most files: `require=("forces",)`. Memory is about 40 times the unpacked YAML file.
    """

    suffixes = (*_ENDS, FORCE_SETS)

    def recognises(self, path: Path) -> bool:
        file = _yaml_of(path)
        with opened(file) as stream:
            return file.name.endswith(_ENDS) and stream.read(4096).lstrip().startswith(b"phonopy:")

    def frames(self, path: Path) -> Iterator[RawFrame | Note]:
        """Yield the supercells in the order of the displacements.

        Raises:
            UnreadableFileError: damaged, no phonopy file, without forces, FORCE_SETS of other displacements, or in a folder of other forces.
                UnitError: units that are not those of the calculator, or a calculator whose units are not known. UnknownElementError.
                RefusedFileError: see `_load_yaml`.
        """
        file = _yaml_of(path)
        content = _load_yaml(file)
        if not isinstance(content, dict) or not isinstance(content.get("phonopy"), dict):
            raise UnreadableFileError("no file of phonopy: it does not begin with `phonopy:`", where=str(file))
        try:
            yield from _frames(content, _units(content, file), file, path)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UnreadableFileError(f"not as phonopy writes it: {type(error).__name__}: {error}", where=str(file)) from None


def _yaml_of(path: Path) -> Path:
    """Return the YAML file that a path stands for."""
    if path.is_file() and path.name != FORCE_SETS:
        return path
    folder, names = (path, _NAMES) if path.is_dir() else (path.parent, _BESIDE_SETS)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UnreadableFileError(f"there is none of {', '.join(_NAMES)}, which say what was displaced", where=str(folder))
    return found


def _units(content: Mapping[str, Any], file: Path) -> Units:
    """Those of the calculator, which the file must not contradict."""
    calculator = content["phonopy"].get("calculator") or "vasp"
    if calculator not in UNITS:
        raise UnitError(f"the units of the calculator {calculator!r} are not known", where=str(file), hint=f"known: {', '.join(UNITS)}")
    units, stated = UNITS[calculator], content.get("physical_unit") or {}
    for name, wanted in (("length", units.length_name), ("force", units.force_name)):
        if name in stated and stated[name] != wanted:
            raise UnitError(f"states {name} in {stated[name]!r}, but phonopy keeps that of {calculator} in {wanted!r}", where=str(file))
    return units


def _frames(content: Mapping[str, Any], units: Units, file: Path, path: Path) -> Iterator[RawFrame | Note]:
    cell = content.get("supercell")
    if not isinstance(cell, dict):
        raise UnreadableFileError("there is no supercell", where=str(file), hint="phonopy writes it since version 2")
    lattice = _numbers(cell["lattice"], (3, 3))
    numbers = np.array(
        [_element(point["symbol"], f"{file}: supercell, atom {k}") for k, point in enumerate(cell["points"], 1)], dtype=np.int64
    )
    places = _numbers([point["coordinates"] for point in cell["points"]], (len(numbers), 3)) @ lattice
    found = _displaced(content, len(numbers), file, path)
    energies = found.energies if units.electronvolts else None
    if found.energies is not None and energies is None:
        yield Note("energies not read: not known to be in eV", len(found.energies))
    length = "bohr" if units.length_name == "au" else "Angstrom"
    conventions = Conventions("phonopy", {"length_unit": length, "energy_unit": "eV", "forces_unit": units.force, "forces_sign": 1})
    unread = tuple(str(key) for key, value in content.items() if key not in _READ and value is not None)
    for k, move in enumerate(found.moves):
        yield RawFrame(
            numbers, places + move, lattice, np.ones(3, bool),
            info={} if energies is None else {"energy": float(energies[k])},
            arrays={} if found.forces is None else {"forces": found.forces[k]},
            group=_group(file), unread=unread, conventions=conventions, source=file.name,
        )  # fmt: skip


def _element(symbol: Any, where: str) -> int:
    """Atomic number; phonopy tells atoms of an element apart by a number behind the symbol (`Fe1`)."""
    try:
        return number(str(symbol).rstrip("0123456789") or str(symbol))
    except MlipfmError as error:
        raise located(error, where) from None


def _group(file: Path) -> str:
    """Return the folder, which is one run; with the name of the file if that is not one of phonopy's own."""
    stem = next((file.name.removesuffix(end) for end in _ENDS if file.name.endswith(end)), file.name)
    folder = file.resolve().parent.name
    return folder if f"{stem}.yaml" in _NAMES else f"{folder}/{stem}"


def _displaced(content: Mapping[str, Any], n: int, file: Path, path: Path) -> Displaced:
    """Return what the file says, with the forces of FORCE_SETS if it has none or the path is that of FORCE_SETS."""
    found, beside = _dataset(content, n), file.with_name(FORCE_SETS)
    if found is not None and found.forces is not None and (path == file or not beside.is_file()):
        return found
    if not beside.is_file():
        what = "there are no displacements" if found is None else "there are displacements without forces"
        raise UnreadableFileError(
            f"{what}, and no {FORCE_SETS} is beside it", where=str(file), hint=f"put the {FORCE_SETS} of this run beside it"
        )
    sets = _force_sets(beside, n)
    if found is None:
        return sets
    if not _agree(found.moves, sets.moves):
        what = f"has other displacements than {file.name} ({len(sets.moves)} and {len(found.moves)})"
        raise UnreadableFileError(what, where=str(beside), hint="are both of one run?")
    if found.forces is None or _agree(found.forces, sets.forces):
        forces = sets.forces if found.forces is None or path == beside else found.forces
        return Displaced(found.moves, forces, found.energies)  # the displacements of the YAML have more decimals
    if path == beside:
        return Displaced(found.moves, sets.forces)  # the energies are those of other forces
    raise UnreadableFileError(f"has other forces than {file.name}", where=str(beside), hint="name the one file that is meant")


def _agree(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=_AGREE, equal_nan=True))


def _dataset(content: Mapping[str, Any], n: int) -> Displaced | None:
    """Displacements in one of the three ways that phonopy has written them: by atom, by frame since 2.24, by frame before."""
    if "dataset" in content:
        values = content["dataset"]
        forces = _numbers(values["forces"], (-1, n, 3)) if "forces" in values else None
        return _whole(_numbers(values["displacements"], (-1, n, 3)), forces, values.get("supercell_energies"))
    listed = content.get("displacements")
    if not listed:
        return None
    if isinstance(listed[0], dict):
        moves = _moves([int(one["atom"]) for one in listed], [one["displacement"] for one in listed], n)
        forces = _numbers([one["forces"] for one in listed], (-1, n, 3)) if all("forces" in one for one in listed) else None
        energies = [one["supercell_energy"] for one in listed] if all("supercell_energy" in one for one in listed) else None
        return _whole(moves, forces, energies)
    moves = _numbers([[atom["displacement"] for atom in one] for one in listed], (-1, n, 3))
    forces = _numbers([[atom["force"] for atom in one] for one in listed], (-1, n, 3)) if "force" in listed[0][0] else None
    return _whole(moves, forces, content.get("supercell_energies"))


def _whole(moves: np.ndarray, forces: np.ndarray | None, energies: Any) -> Displaced:
    if forces is not None and len(forces) != len(moves):
        raise ValueError(f"{len(forces)} sets of forces for {len(moves)} displacements")
    return Displaced(moves, forces, None if energies is None else _numbers(energies, (len(moves),)))


def _force_sets(file: Path, n: int) -> Displaced:
    """FORCE_SETS: for each displaced atom its number, displacement and all forces; or rows of displacement and force, frame after frame."""
    try:
        lines = [words for line in file.read_text(encoding="utf-8").splitlines() if (words := line.split())]
        if lines and len(lines[0]) == 6:
            rows = _numbers(lines, (-1, n, 6))
            return Displaced(rows[..., :3], rows[..., 3:])
        count, frames = int(lines[0][0]), int(lines[1][0])
        if count != n:
            raise ValueError(f"forces of {count} atoms for a supercell of {n}")
        if len(lines) != 2 + frames * (n + 2):
            raise ValueError(f"{len(lines)} lines, {frames} displacements of {n} atoms need {2 + frames * (n + 2)}")
        blocks = [lines[start : start + n + 2] for start in range(2, len(lines), n + 2)]
        moves = _moves([int(block[0][0]) for block in blocks], [block[1] for block in blocks], n)
        return Displaced(moves, _numbers([block[2:] for block in blocks], (-1, n, 3)))
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise UnreadableFileError(
            f"not as phonopy writes it: {error}", where=str(file), hint="is it complete, and of this supercell?"
        ) from None


def _moves(atoms: list[int], moved: list[Any], n: int) -> np.ndarray:
    """[frames, N, 3] from the number of the one atom that moves, counted from 1, and its displacement."""
    if any(not 1 <= atom <= n for atom in atoms):
        raise ValueError(f"a displaced atom has a number outside 1 to {n}")
    moves = np.zeros((len(atoms), n, 3))
    moves[np.arange(len(atoms)), np.array(atoms, dtype=np.int64) - 1] = _numbers(moved, (len(atoms), 3))
    return moves


def _numbers(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in a shape; `ValueError` if they do not fit it."""
    return np.array(values, dtype=np.float64).reshape(shape)
