"""The loop that readers share: frames in, Structures and Refusals out, every one counted; and the opening of plain and compressed files."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .frame import RawFrame, ReadOptions, ReadReport
from .interpret import structure_from

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

#: What reading a damaged compressed file raises.
BROKEN = (EOFError, OSError, lzma.LZMAError, ValueError)


def checked(
    frames: Iterable[RawFrame | MlipfmError | tuple[RawFrame, ReadOptions]], options: ReadOptions, report: ReadReport, path: Path
) -> Iterator[Structure | Refusal]:
    """Structures and refusals in the order of `frames`, where an error stands for a frame that is there and cannot be used.

    A frame may come with options of its own. Raises `UnreadableFileError` if there is no frame at all.
    """
    index = -1
    for index, item in enumerate(frames):
        report.frames += 1
        try:
            if isinstance(item, MlipfmError):
                raise item
            frame, chosen = item if isinstance(item, tuple) else (item, options)
            yield structure_from(frame, chosen, report)
        except MlipfmError as error:
            report.refuse(error)
            yield Refusal(index, error)
    if index < 0:
        raise UnreadableFileError("the file holds no frame", where=str(path))


def opened(path: Path) -> BinaryIO:
    """A file for reading bytes, through gzip, bzip2 or xz by its name. Raises `UnreadableFileError` if it cannot be opened."""
    try:
        if path.suffix in _OPENERS:
            return cast(BinaryIO, _OPENERS[path.suffix](path, "rb"))
        return path.open("rb")
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None


def placed(error: MlipfmError, where: str) -> MlipfmError:
    """The same error with its place."""
    return type(error)(error.what, where=f"{where}, {error.where}" if error.where else where, hint=error.hint)
