"""Rows of NumPy arrays in files, one after the other: memory is that of a row. Objects (pickles inside .npy) are refused."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError

#: Bytes of a row (or of an array that is wanted as a whole) beyond which a header is not believed.
LARGEST_ROW = 1 << 28
_BROKEN = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyRows:
    """An array in a stream: `shape`, `dtype`, and its rows by `row()` in order.

    Raises:
        RefusedFileError: an array of Python objects. UnreadableFileError: no .npy, or rows too large to be true.
    """

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self.stream, self.where = stream, where
        try:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise ValueError(f"version {version} of the format")
            self.shape, fortran, self.dtype = _HEADERS[version](stream)
        except _BROKEN as error:
            raise UnreadableFileError(f"not an array of NumPy: {' '.join(str(error).split())[:120]}", where=where) from None
        if self.dtype.hasobject:
            raise RefusedFileError(
                "the array holds Python objects, which are pickles, and pickles are never read: they can run code",
                where=where,
                mend="save it again as an array of numbers",
            )
        self.fortran = fortran and len(self.shape) > 1
        if self._bytes(self.shape[1:]) > LARGEST_ROW or (self.fortran and self._bytes(self.shape) > LARGEST_ROW):
            raise UnreadableFileError(f"an array of shape {list(self.shape)} is not believable", where=where)
        self._done = 0
        self._all: np.ndarray | None = None

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.float64)) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Number of rows; a scalar has none."""
        return self.shape[0] if self.shape else 0

    def row(self) -> np.ndarray:
        """The next row. Raises `UnreadableFileError` if the file ends before it does or is damaged."""
        if self.fortran:  # then a row lies scattered over the file
            if self._all is None:
                self._all = self._read(self.shape[::-1], "the array").T
            value = self._all[self._done]
        else:
            value = self._read(self.shape[1:], f"row {self._done}")
        self._done += 1
        return value

    def whole(self) -> np.ndarray:
        """All of it, for small arrays. Raises `UnreadableFileError` if it is large, cut or damaged."""
        if self._bytes(self.shape) > LARGEST_ROW:
            raise UnreadableFileError(f"an array of shape {list(self.shape)} is not believable here", where=self.where)
        return self._read(self.shape[::-1], "the array").T if self.fortran else self._read(self.shape, "the array")

    def _read(self, shape: tuple[int, ...], what: str) -> np.ndarray:
        wanted = self._bytes(shape)
        parts: list[bytes] = []
        while wanted:
            try:
                part = self.stream.read(wanted)
            except _BROKEN as error:
                raise UnreadableFileError(f"damaged in {what}: {error}", where=self.where) from None
            if not part:
                raise UnreadableFileError(f"the file ends in {what} of {self.rows}", where=self.where, mend="the file is truncated")
            parts.append(part)
            wanted -= len(part)
        return np.frombuffer(b"".join(parts), dtype=self.dtype).reshape(shape)


def rows_of(columns: dict[str, NpyRows], count: int) -> Iterator[dict[str, np.ndarray]]:
    """`count` times one row of every column.

    Raises:
        UnreadableFileError: a column of another length, before anything is read.
    """
    for key, column in columns.items():
        if column.rows != count:
            raise UnreadableFileError(f"{key!r} has {column.rows} rows, {count} were expected", where=column.where)
    for _ in range(count):
        yield {key: column.row() for key, column in columns.items()}
