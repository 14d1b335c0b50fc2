"""Read any supported file: `read` streams, `read_all` collects. The format is found by the file's name among the plug-ins `mlipfm.readers`.

The way of a frame: a format yields raw frames, `read` merges the options that apply to each (`options`, `levels`), `interpret` makes the Structure.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, PluginError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.protocols import Format, Refusal
from mlipfm_interfaces.raw_frame import At, Note, RawFrame
from mlipfm_interfaces.structure import Structure

from .ase import vasp_name
from .interpret import located, structure_from
from .levels import FramesOfLevels
from .option_text import split_options
from .options import options_from
from .report import ReadReport

#: Names and first bytes of pickles. Binary ones begin with PROTO and a FRAME, a mark, an opcode of an empty container, or a global; text pickles
#: with a mark or a global.
_PICKLES = (".pkl", ".pickle", ".pckl", ".pckl.gzip", ".pkl.gz", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
_BINARY = re.compile(rb"\x80[\x02-\x05][\x95(}\]\)cXKJMGN\x8a\x8c]", re.DOTALL)
_TEXT = re.compile(rb"(\(?[cild]\w*(copy_reg|copyreg|builtins|__builtin__|posix|os|nt|numpy|torch)[\w.]*\n)|\((lp|dp|i)\d*\n")


def read(path: Path | str, reader: str | Format | None = None, **options: Any) -> Iterator[Structure | Refusal]:
    """Yield the structures of a file in its order, and a `Refusal` for each frame that cannot be used, in bounded memory.

    Args:
        path: the file, or the folder of a format that is one (DeePMD, PWdata).
        reader: name of a format (`extxyz`, `ase`, ...), or a format; left out, it is found by the file's name and, where several fit, its content.
        options: those of `ReadOptions`, the format's own, and `report=ReadReport()`, which then counts every
            decision. None leaves the choice to the file, its format, or the default.

    Raises:
        UnreadableFileError: the file as a whole cannot be read. RefusedFileError: it is a pickle. PluginError: unknown format.
        OptionError: an option that this format does not have. UnitError: an unknown unit.
    """
    path = Path(path)
    found = format_of(path, reader)
    report = options.pop("report", None) or ReadReport()
    own, common = split_options(found, {name: value for name, value in options.items() if value is not None})
    options_from(common)  # an impossible option is refused before the first frame
    if not hasattr(found, "frames"):
        warnings.warn(
            f"{type(found).__name__} interprets its frames itself: give it `frames` (protocols.Format)", DeprecationWarning, stacklevel=2
        )
        old: Any = found
        return cast("Iterator[Structure | Refusal]", old.read(path, report=report, **own, **common))
    return _structures(found, path, own, common, report)


def read_all(path: Path | str, reader: str | Format | None = None, **options: Any) -> list[Structure]:
    """Return all structures of a file.

    Raises:
        MlipfmError: the first refusal, and as `read`.
    """
    structures = []
    for item in read(path, reader, **options):
        if isinstance(item, Refusal):
            raise item.error
        structures.append(item)
    return structures


def _structures(
    found: Format, path: Path, own: Mapping[str, Any], user: Mapping[str, Any], report: ReadReport
) -> Iterator[Structure | Refusal]:
    """Interpret every frame, count it, and refuse those that cannot be used."""
    levels, index = FramesOfLevels(getattr(found, "conventions", None), user, report), -1
    try:
        for place, item in _places(found.frames(path, **own), report):
            for frame, options, words in levels.frames(item, place):
                index += 1
                report.frames += 1
                where = f"{path}: frame {index}{f' ({words})' if words else ''}"
                try:
                    if isinstance(frame, MlipfmError):
                        raise located(frame, where)
                    frame.index = index if frame.index is None else frame.index
                    frame.source = path.name if frame.source is None else frame.source
                    yield structure_from(frame, options, report, where)
                except MlipfmError as error:
                    report.refuse(error)
                    yield Refusal(index, error)
    except MlipfmError as error:
        raise error if error.where and str(path) in error.where else located(error, str(path)) from error.__cause__
    except Exception as error:  # whatever a format meets in a damaged file
        reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())[:200]
        place = f"{path}: frame {index + 1}" if index >= 0 else str(path)
        raise UnreadableFileError(f"cannot be read: {reason}", where=place, hint="is the file complete, and of this format?") from error
    if index < 0:
        raise UnreadableFileError("the file holds no frame", where=str(path))


def _places(items: Iterator[RawFrame | At | MlipfmError | Note], report: ReadReport) -> Iterator[tuple[str, RawFrame | MlipfmError]]:
    """Yield the place of each frame in words, and the frame or the error that stands for it."""
    for item in items:
        if isinstance(item, Note):
            report.notes[item.text] += item.frames
        elif isinstance(item, At):
            yield from ((item.place, made) for made in _made(item))
        else:
            yield "", item


def _made(item: At) -> Sequence[RawFrame | MlipfmError]:
    try:
        made = item.make(*item.arguments)
    except MlipfmError as error:
        return [error]
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        return [InvalidStructureError(f"the frame is damaged: {type(error).__name__}: {' '.join(str(error).split())[:120]}")]
    return [made] if isinstance(made, RawFrame) else made


def format_of(path: Path, wanted: str | Format | None = None) -> Format:
    """Return the format of a file that exists and is no pickle; raises as `read` and `find_reader`."""
    _refuse_pickle(path)
    if not path.exists():
        raise UnreadableFileError("no such file", where=str(path))
    return find_reader(path, wanted) if wanted is None or isinstance(wanted, str) else wanted


def _refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by name or by its first bytes (torch archives are zip files with a `data.pkl`).

    Raises:
        RefusedFileError: always for pickles, however harmless they may be.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError:
        head = b""
    zipped = head.startswith(b"PK\x03\x04") and b"data.pkl" in head
    if path.name.lower().endswith(_PICKLES) or zipped or _BINARY.match(head) or _TEXT.match(head):
        raise RefusedFileError(
            "this is a pickle, and pickles are never read: they can run code",
            where=str(path),
            hint="export it as extxyz with the program that wrote it",
        )


def find_reader(path: Path, name: str | None = None) -> Format:
    """Return the format `name`; or one that recognises the content of the file or folder; or the one whose suffix fits the file's name best.

    Raises:
        PluginError: for an unknown name. UnreadableFileError: if no format knows the suffix or the folder.
    """
    if name is not None:
        return _instance(plugins.load("readers", name))
    best = _best_format(path, path.name) or _best_format(path, vasp_name(path.name))
    if best is None:
        kind = "folder" if path.is_dir() else "file"
        names = ", ".join(plugins.names("readers"))
        hint = f"name one: {names} (`mlipfm data import --reader NAME`); other formats: convert to extended XYZ, for instance by ASE"
        inside = (
            next((file for file in islice(path.rglob("*"), 200) if file.is_file() and _best_format(file, file.name)), None)
            if path.is_dir()
            else None
        )
        if inside is not None:
            hint = f"give its files, not the folder, for instance {inside.parent}/*{inside.suffix}"
        raise UnreadableFileError(f"no reader reads this kind of {kind}", where=str(path), hint=hint)
    return best


def _best_format(path: Path, name: str) -> Format | None:
    """Return the format whose suffix fits this name best, or that recognises the file; None if there is none."""
    best: tuple[bool, int, Format] | None = None
    for found in _formats():
        fit = max((len(end) for end in found.suffixes if name.endswith(end)), default=0)
        recognises = getattr(found, "recognises", None)
        if not fit and not (path.is_dir() and recognises):
            continue
        known = recognises is not None and _recognised(recognises, path)
        if (known or recognises is None) and (best is None or (known, fit) > best[:2]):
            best = (known, fit, found)
    return None if best is None else best[2]


def _recognised(recognises: Callable[[Path], bool], path: Path) -> bool:
    """Ask a format whether a file is its own; a file that it cannot open is not."""
    try:
        return recognises(path)
    except Exception:  # of any library, on a file of any content
        return False


@lru_cache(1)
def _formats() -> tuple[Format, ...]:
    """Load all installed formats; cached, because looking through the installed packages takes longer than reading a small file.

    A reader that cannot be loaded is left out with a warning: files of other formats are read without it, and its name as `reader` raises its error.
    """
    found = []
    for name in plugins.names("readers"):
        try:
            found.append(_instance(plugins.load("readers", name)))
        except PluginError as error:
            warnings.warn(f"the reader {name!r} is left out: {error}", stacklevel=2)
    return tuple(found)


def _instance(plugin: Any) -> Format:
    found: Format = plugin() if isinstance(plugin, type) else plugin
    return found
