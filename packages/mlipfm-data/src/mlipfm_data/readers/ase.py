"""Reader of everything that ASE reads and that is data: trajectories, databases, crystal and output files. The only module that imports ase.io.

ASE's formats are on an allow-list: some of them run code or unpickle when they are read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, PluginError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, Conventions, Note, RawFrame
from mlipfm_interfaces.structure import Structure

from .ase_db import AseDbReader
from .convergence import flags
from .extxyz import provenance_values
from .file_notes import fixed_by
from .interpret import LEVEL_KEY, PROVENANCE_KEY, structure_from
from .label_names import placed, split_by_atoms
from .options import ASSUMED, options_from
from .report import ReadReport

if TYPE_CHECKING:
    from ase import Atoms


# Between ASE's Atoms and Structure, both ways.

_GEOMETRY = ("numbers", "positions")
#: Our labels under the names of ASE's calculator results; other labels go to info and arrays as REF_<key>.
_RESULTS = {"energy": "energy", "forces": "forces", "dipole": "dipole", "charges": "charges", "magnetic_moments": "magmoms"}


def _require_ase() -> None:
    """Raises `PluginError` saying how to install ASE, if it is missing."""
    try:
        import ase  # noqa: F401
    except ImportError:
        raise PluginError("ASE is not installed", hint="pip install 'mlipfm-data[ase]'") from None


def to_ase(structure: Structure) -> Atoms:
    """Return Atoms with `charge` and `spin` (2S+1) in info where given, labels in a SinglePointCalculator (stress as Voigt xx,yy,zz,yz,xz,xy).

    Labels that ASE's calculators do not know go to info or arrays as `REF_<key>`, deviations as `STD_<key>`.
    """
    _require_ase()
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    s = structure
    atoms = Atoms(numbers=s.atomic_numbers, positions=s.positions, cell=s.cell, pbc=s.pbc)
    state = {"charge": s.total_charge, "spin": s.spin_multiplicity, "external_field": s.external_field, LEVEL_KEY: s.level}
    atoms.info.update({key: value for key, value in state.items() if value is not None} | {PROVENANCE_KEY: provenance_values(s)})
    results: dict[str, Any] = {_RESULTS[key]: np.array(value) for key, value in s.labels.items() if key in _RESULTS}
    if "stress" in s.labels:
        results["stress"] = full_3x3_to_voigt_6_stress(s.labels["stress"])
    if "energy" in results:
        results["energy"] = float(results["energy"])
    others = [("REF_", k, v) for k, v in s.labels.items() if k not in _RESULTS and k != "stress"]
    for prefix, key, value in (*others, *(("STD_", k, v) for k, v in s.label_std.items())):
        per_atom, written = placed(key, value)
        place: dict[str, Any] = atoms.arrays if per_atom else atoms.info
        place[prefix + key] = np.array(written)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def from_ase(atoms: Atoms, *, report: ReadReport | None = None, **options: Any) -> Structure:
    """Return the Structure of Atoms, with charge, multiplicity and labels found as `read` finds them; options as `ReadOptions`.

    Raises:
        MlipfmError: whatever a reader would refuse.
    """
    frame = raw_frame(atoms)
    frame.index, frame.source = 0, "Atoms"
    return structure_from(frame, options_from(options), report if report is not None else ReadReport(), "Atoms")


def raw_frame(atoms: Atoms, unconverged: str | None = None) -> RawFrame:
    """Return what Atoms carry, uninterpreted. `data` and `key_value_pairs` of ASE databases count as info and arrays."""
    info: dict[str, Any] = {}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in _GEOMETRY}
    system, per_atom = split_by_atoms(_flat(atoms.info), len(atoms))
    for key, value in per_atom.items():
        (info if key in arrays else arrays)[key] = value
    info |= system
    _check_occupancy(info, arrays)
    held, unread = fixed_by([constraint.todict() for constraint in atoms.constraints], len(atoms))
    arrays |= held
    results = {} if atoms.calc is None else {key: value for key, value in getattr(atoms.calc, "results", {}).items() if value is not None}
    return RawFrame(
        atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, info, arrays, results, unread=unread, unconverged=unconverged
    )


def _check_occupancy(info: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Take the occupancies out of `info`, where ASE keeps those of a CIF: {site: {element: occupancy}}; PDB files have a column.

    Raises:
        InvalidStructureError: a site is partly occupied.
    """
    sites = info.pop("occupancy", None)
    found = [float(x) for site in sites.values() for x in site.values()] if isinstance(sites, Mapping) else []
    shared = isinstance(sites, Mapping) and any(len(site) > 1 for site in sites.values())
    column = np.asarray(arrays.get("occupancy", []), dtype=np.float64)
    if shared or any(abs(x - 1) > 1e-6 for x in found) or ((column > 0) & (column < 1)).any():
        raise InvalidStructureError("a site is partly occupied", hint="disordered structures are not read: write an ordered one")


def _flat(info: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in info.items() if key not in ("data", "key_value_pairs")}
    for inner in ("key_value_pairs", "data"):
        values = info.get(inner)
        out |= values if isinstance(values, dict) else {}
    return out


#: End of the file's name -> ASE's format.
FORMATS = {
    ".traj": "traj", ".db": "db", ".json": "json", ".cif": "cif", ".vasp": "vasp", "POSCAR": "vasp", "CONTCAR": "vasp", "OUTCAR": "vasp-out",
    "XDATCAR": "vasp-xdatcar", ".xml": "vasp-xml", ".gen": "gen", ".pdb": "proteindatabank", ".xsf": "xsf", ".res": "res", ".pwo": "espresso-out",
    ".xyz": "extxyz", ".extxyz": "extxyz",
}  # fmt: skip
#: What the readers of this package stream themselves; ASE reads them when `reader` is `ase`.
_OWN_READERS = (".xyz", ".extxyz", ".db", ".json", ".xml")
#: Formats of which ASE passes on numbers as they are; those of all others it has converted to its units.
_AS_THEY_ARE = ("traj", "db", "json", "extxyz", "xyz")
_CONVERTED = {name: value for name, value in ASSUMED.items() if name != "spin_meaning"}
_WHY = "ASE has converted the values of this format"
_BY_NAME_ONLY = ("aims-output", "castep-castep", "gaussian-out", "orca-output", "xyz")


_VASP = re.compile(r"(OUTCAR|CONTCAR|POSCAR|XDATCAR)[._-].+")
_UNCLEAR = "a calculation of this file did not converge ({}), and it is not known which frame it belongs to"


class AseReader:
    """The files of `FORMATS`; the option `format` names one where the file's name does not."""

    suffixes = tuple(end for end in FORMATS if end not in _OWN_READERS)

    def frames(self, path: Path, *, format: str | None = None, keys: Mapping[str, str] = MappingProxyType({})) -> Iterator[At | Note]:
        """Yield the frames.

        Raises:
            UnreadableFileError: damaged, or not in the format; the frames before the damage were yielded.
        """
        _require_ase()
        name = _format(path, format)
        conventions, stated = None, {}
        if name not in _AS_THEY_ARE:
            conventions = Conventions(f"{name} as ASE reads it", _CONVERTED, fixed=dict.fromkeys(_CONVERTED, _WHY))
        elif name == "db":
            stated = AseDbReader().units(path, keys)
        repeated: list[int] = []
        frames, said = _atoms(path, name), flags(path, name)
        if name == "espresso-out":
            frames = _with_last_basis(frames, repeated)
        if any(said):  # then each has to be recognised
            frames = iter(whole := list(frames))
            said = said if len(said) == len(whole) else [_UNCLEAR.format(next(filter(None, said)))] * len(whole)
        for index, words in enumerate(chain(said, repeat(None))):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                atoms = _next(frames, index)
            yield from (Note(f"ASE says: {' '.join(str(item.message).split())[:120]}") for item in caught)
            if atoms is None:
                if repeated:
                    yield Note("the last geometry is calculated twice, and the second, with the basis of its own cell, is taken")
                return
            yield At("", _frame, atoms, words, conventions, stated)


def _with_last_basis(frames: Iterator[Atoms], repeated: list[int]) -> Iterator[Atoms]:
    """The frames of Quantum ESPRESSO. A vc-relax ends with its last geometry again, with plane waves made for that cell: the calculation before is
    left out, and its number goes to `repeated`."""
    held: list[Atoms] = []
    count = 0
    for atoms in frames:
        held.append(atoms)
        if len(held) > 2:
            count += 1
            yield held.pop(0)
    if len(held) == 2 and np.array_equal(held[0].positions, held[1].positions) and np.array_equal(held[0].cell.array, held[1].cell.array):
        held.pop(0)
        repeated.append(count)
    yield from held


def _frame(atoms: Atoms, unconverged: str | None, conventions: Conventions | None, stated: Mapping[str, Any]) -> RawFrame:
    frame = raw_frame(atoms, unconverged)
    frame.conventions, frame.stated = conventions, stated
    return frame


def vasp_name(name: str) -> str:
    """Return the name that VASP gave to a file with one more ending, as people keep them: `OUTCAR` for `OUTCAR.relax`, `OUTCAR_2` or `OUTCAR.gz`."""
    found = _VASP.fullmatch(name)
    return found[1] if found else name


def _format(path: Path, wanted: str | None) -> str:
    known = sorted({*FORMATS.values(), *_BY_NAME_ONLY})
    names = (path.name, vasp_name(path.name))
    found = wanted or next((form for name in names for end, form in FORMATS.items() if name.endswith(end)), None)
    if found not in known:
        what = f"format {wanted!r} is not read" if wanted else "the name of the file does not show its format"
        raise UnreadableFileError(what, where=str(path), hint=f"set format to one of {', '.join(known)} (--option format=NAME)")
    return found


def _atoms(path: Path, name: str) -> Iterator[Atoms]:
    if name in ("db", "json"):
        from ase.db import connect

        with path.open("rb") as stream:
            is_sqlite = stream.read(16).startswith(b"SQLite format 3")
        if name == "db" and not is_sqlite:
            raise UnreadableFileError("this is no sqlite database", where=str(path), hint="other formats: --option format=NAME")
        database = connect(str(path), type=name, use_lock_file=False)
        return (row.toatoms(add_additional_information=True) for row in database.select())
    from ase.io import iread

    iterator: Iterator[Atoms] = iread(str(path), index=":", format=name, do_not_split_by_at_sign=True)
    return iterator


def _next(frames: Iterator[Atoms], index: int) -> Atoms | None:
    """Return the next frame; whatever ASE raises on a bad file becomes one readable error."""
    try:
        return next(frames, None)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UnreadableFileError(f"ASE cannot read frame {index} ({reason})", hint="is the file complete?") from error
