"""Files and folders that take their name only when they are complete: a killed export leaves what was there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .files import fsync_folder, unwritable


@contextlib.contextmanager
def file_in_place(out: Path) -> Iterator[Path]:
    """An empty file to write to, which becomes `out` if nothing was raised.

    Raises:
        UnwritableFileError: disk full, missing folder, ...; what `out` was is intact.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(b"")  # a killed export may have left one
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(out)
        fsync_folder(out.absolute().parent)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_in_place(out: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `out` if nothing was raised; what `out` was is removed then.

    Raises:
        UnwritableFileError: as `file_in_place`.
    """
    part, old = (out.with_name(f".{out.name}.{word}") for word in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        os.sync()  # one call for thousands of small files
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        part.rename(out)
        fsync_folder(out.absolute().parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
