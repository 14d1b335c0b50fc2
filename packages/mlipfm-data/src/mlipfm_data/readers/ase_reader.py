"""Reader of everything that ASE reads and that is data: trajectories, databases, crystal and output files. The only module that imports ase.io.

ASE's formats are on an allow-list: some of them run code or unpickle when they are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlipfm_interfaces.errors import MlipfmError, UnitError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .ase_bridge import raw_frame, require_ase
from .ase_db_reader import metadata_units
from .conventions import structure_from
from .convergence import flags
from .file_kinds import refuse_pickle
from .frames_in import ASSUMED, ReadOptions, ReadReport, option_words, options_from

if TYPE_CHECKING:
    from ase import Atoms

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
_BY_NAME_ONLY = ("aims-output", "castep-castep", "gaussian-out", "orca-output", "xyz")


_UNCLEAR = "a calculation of this file did not converge ({}), and which frame it belongs to cannot be told"


class AseReader:
    """Structures from the files of `FORMATS`; option `format` names one where the file's name does not. Others: `frames_in.ReadOptions`."""

    suffixes = tuple(end for end in FORMATS if end not in _OWN_READERS)

    def read(
        self, path: Path, *, report: ReadReport | None = None, format: str | None = None, **options: Any
    ) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the file's order.

        Raises:
            UnreadableFileError: missing, damaged, or not in the format; frames before the damage have been yielded. RefusedFileError: a pickle.
        """
        require_ase()
        path = Path(path)
        refuse_pickle(path)
        name = _format(path, format)
        report, chosen = report if report is not None else ReadReport(), _options(path, name, options)
        frames = _atoms(path, name)
        said = flags(path, name) if path.is_file() else []
        index = 0
        if any(said):  # then each has to be told apart
            frames = iter(whole := list(frames))
            said = said if len(said) == len(whole) else [_UNCLEAR.format(next(filter(None, said)))] * len(whole)
        while (atoms := _next(frames, path, index, report)) is not None:
            report.frames += 1
            where = f"{path}: frame {index}"
            try:
                frame = raw_frame(atoms, index, where, path.name)
                frame.unconverged = said[index] if index < len(said) else None
                yield structure_from(frame, chosen, report)
            except MlipfmError as error:
                report.refuse(error)
                yield Refusal(index, error)
            index += 1
        if index == 0:
            raise UnreadableFileError("the file holds no frame", where=str(path))


def _options(path: Path, name: str, options: dict[str, Any]) -> ReadOptions:
    """Options for a format of ASE. Raises `UnitError` for units and signs of a format whose values ASE has converted already."""
    if name in _AS_THEY_ARE:
        return options_from(options, file=metadata_units(path, options) if name == "db" else {})
    for option in _CONVERTED.keys() & options.keys():
        if options[option] not in (None, _CONVERTED[option]):
            raise UnitError(
                f"{option_words(option)} {options[option]!r}: ASE has converted the values of {name!r} to {_CONVERTED[option]}",
                where=str(path),
                mend="leave it out",
            )
    return options_from(options, layout=_CONVERTED, name=f"{name} as ASE reads it")


def _format(path: Path, wanted: str | None) -> str:
    known = sorted({*FORMATS.values(), *_BY_NAME_ONLY})
    found = wanted or next((name for end, name in FORMATS.items() if path.name.endswith(end)), None)
    if found not in known:
        what = f"format {wanted!r} is not read" if wanted else "the name of the file does not tell its format"
        raise UnreadableFileError(what, where=str(path), mend=f"set format to one of {', '.join(known)} (--option format=NAME)")
    return found


def _atoms(path: Path, name: str) -> Iterator[Atoms]:
    if not path.is_file():
        raise UnreadableFileError("no such file", where=str(path))
    if name in ("db", "json"):
        from ase.db import connect

        with path.open("rb") as stream:
            is_sqlite = stream.read(16).startswith(b"SQLite format 3")
        if name == "db" and not is_sqlite:
            raise UnreadableFileError("this is no sqlite database", where=str(path), mend="other formats: --option format=NAME")
        database = connect(str(path), type=name, use_lock_file=False)
        return (row.toatoms(add_additional_information=True) for row in database.select())
    from ase.io import iread

    iterator: Iterator[Atoms] = iread(str(path), index=":", format=name, do_not_split_by_at_sign=True)
    return iterator


def _next(frames: Iterator[Atoms], path: Path, index: int, report: ReadReport) -> Atoms | None:
    """The next frame; whatever ASE raises on a bad file becomes one readable error, and its warnings become notes."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            atoms = next(frames, None)
    except MlipfmError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UnreadableFileError(f"ASE cannot read frame {index} ({reason})", where=str(path), mend="is the file complete?") from error
    report.notes.update(f"ASE says: {' '.join(str(item.message).split())[:120]}" for item in caught)
    return atoms
