"""Reader of `.aselmdb` files, the layout of OMat24, OC20/22, ODAC23 and OMol25: LMDB whose key is a number and whose value is a row of an ASE
database as compressed JSON. `nextid`, `deleted_ids` and `metadata` are no rows."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .ase_rows import row_frame
from .framed import checked
from .frames_in import RawFrame, ReadReport, options_from
from .lmdb_containers import entries

#: Bytes of one row when it is unpacked: compressed zeros must not fill the memory.
LARGEST_ROW = 1 << 28
_NO_ROWS = (b"nextid", b"deleted_ids", b"metadata")


class AseLmdbReader:
    """Streams Structures from `.aselmdb` files in the order of their ids. Options: `frames_in.ReadOptions`, and `report`."""

    suffixes = (".aselmdb",)

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals; a row that is damaged or deleted does not end the reading (deleted rows are left out).

        Raises:
            UnreadableFileError, DamagedFileError: missing, cut off, no LMDB file. PluginError: lmdb is not installed.
        """
        path, chosen, report = Path(path), options_from(options), report if report is not None else ReadReport()
        yield from checked(_frames(path), chosen, report, path)


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    index = 0
    for key, value in entries(path):
        if key in _NO_ROWS:
            continue
        where = f"{path}: frame {index} (id {key.decode(errors='replace')[:40]})"
        try:
            yield row_frame(unpacked(value, where), index, where, path.name)
        except MlipfmError as error:
            yield error
        index += 1


def unpacked(value: bytes, where: str) -> dict[str, Any]:
    """A row from compressed JSON. Raises `UnreadableFileError`: not compressed, not JSON, no dictionary, or too large."""
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(value, LARGEST_ROW)
        if inflate.unconsumed_tail:
            raise UnreadableFileError(f"the row has more than {LARGEST_ROW} bytes when it is unpacked", where=where)
        row = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise UnreadableFileError(f"the row is no compressed JSON: {str(error)[:80]}", where=where, mend="is the file complete?") from None
    if not isinstance(row, dict):
        raise UnreadableFileError(f"the row is a {type(row).__name__}, not a dictionary", where=where)
    return row
