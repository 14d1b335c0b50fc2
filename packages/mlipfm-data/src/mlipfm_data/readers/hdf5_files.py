"""HDF5 files: opening, walking, and reading rows in blocks, with one kind of error for whatever is wrong. One of the modules that import h5py.

Links and storage that lead to other files (external links, external raw storage, virtual data sets) are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import PluginError, RefusedFileError, UnreadableFileError

#: Bytes of one data set that are read at once, and the largest row that is read at all.
BLOCK, LARGEST_ROW = 1 << 18, 1 << 28
_DEEPEST = 6


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open file.

    Raises:
        UnreadableFileError: missing, truncated, or no HDF5 file. PluginError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise PluginError("h5py is not installed", hint="pip install 'mlipfm-data[hdf5]'") from None
    if not path.is_file():
        raise UnreadableFileError("no such file", where=str(path))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened as HDF5: {error}", where=str(path), hint="is the file complete?") from None
    with file:
        yield file


def datasets(group: Any) -> dict[str, Any]:
    """Data sets directly in a group, by name."""
    return {name: item for name, item in _members(group) if _is_dataset(item)}


def subgroups(group: Any) -> list[str]:
    """Names of the groups directly in a group."""
    return [name for name, item in _members(group) if not _is_dataset(item)]


def walk(group: Any, depth: int = 0) -> Iterator[Any]:
    """Groups that hold data sets, in the file's order, without those inside them."""
    if datasets(group):
        yield group
        return
    if depth == _DEEPEST:
        raise UnreadableFileError(f"groups are nested more than {_DEEPEST} deep", where=f"{group.file.filename}: {group.name}")
    for _, item in _members(group):
        yield from walk(item, depth + 1)


def _members(group: Any) -> Iterator[tuple[str, Any]]:
    import h5py

    where = f"{group.file.filename}: {group.name}"
    try:
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise RefusedFileError(f"{name!r} links to another file", where=where, hint="copy the data into one file")
            yield name, group[name]
    except (OSError, RuntimeError, KeyError) as error:
        raise UnreadableFileError(f"the group is damaged: {error}", where=where) from None


def _is_dataset(item: Any) -> bool:
    import h5py

    if not isinstance(item, h5py.Dataset):
        return False
    if item.is_virtual or item.external:
        raise RefusedFileError("the data lie in another file", where=f"{item.file.filename}: {item.name}", hint="copy them into one file")
    return True


def whole(dataset: Any) -> np.ndarray:
    """Return all of a small data set. Raises `UnreadableFileError` if it is damaged or large."""
    if dataset.size * dataset.dtype.itemsize > LARGEST_ROW:
        raise UnreadableFileError(f"a row of {dataset.size} numbers is not believable", where=_where(dataset))
    return _rows(dataset, ())


def rows(dataset: Any, start: int, stop: int) -> np.ndarray:
    """Rows start..stop. Raises `UnreadableFileError` naming the data set if it is damaged."""
    return _rows(dataset, slice(start, stop))


def _rows(dataset: Any, selection: Any) -> np.ndarray:
    try:
        return np.asarray(dataset[selection])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UnreadableFileError(f"the data set is damaged: {' '.join(str(error).split())}", where=_where(dataset)) from None


def rows_at_once(dataset: Any) -> int:
    """Number of rows that make up about `BLOCK` bytes. Raises `UnreadableFileError` for rows too large to be true."""
    size = int(np.prod(dataset.shape[1:], dtype=np.float64)) * dataset.dtype.itemsize
    if size > LARGEST_ROW:
        raise UnreadableFileError(f"a row of {size} bytes is not believable", where=_where(dataset))
    return max(1, BLOCK // max(size, 1))


def _where(dataset: Any) -> str:
    return f"{dataset.file.filename}: {dataset.name}"


def text(value: Any) -> str:
    """Return a name in a file: bytes, text, a character array or the first entry of an array, as text."""
    if isinstance(value, np.ndarray):
        items = value.reshape(-1).tolist()
        value = b"".join(items) if value.dtype.kind == "S" and value.dtype.itemsize == 1 else (items[0] if items else "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
