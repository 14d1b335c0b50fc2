"""Reader of JSON files of structures: pymatgen (mlearn, SNAP, Alexandria, MPtrj, Matbench), JARVIS (ALIGNN), ASE's own, and tables of dimers.

Which layout an entry has is seen from the entry (`json_layouts`). The file is walked through: lists are taken element by element and dictionaries
of entries member by member, so that memory is that of the largest entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .file_kinds import refuse_pickle
from .framed import checked, opened, placed
from .frames_in import RawFrame, ReadOptions, ReadReport, options_from
from .json_layouts import LAYOUTS, Entry, Layout
from .json_stream import JsonStream

#: Members of a dictionary that make it an entry, although the first of them is a dictionary itself.
_OF_ENTRIES = {"structure", "atoms", "lattice", "composition", "cell", "numbers", "positions", "data", "parameters", "params", "outputs"}
#: Members beside the rows of an ASE database that are no rows.
_NO_ENTRIES = {"ids", "nextid", "metadata", "index", "columns"}


class JsonReader:
    """Streams Structures from .json files, plain or compressed. Options: `frames_in.ReadOptions`, and `report`.

    Layouts bring their units, signs and orders with them (`json_layouts.LAYOUTS`); options that are given count more.
    """

    suffixes = (".json", ".json.gz", ".json.bz2", ".json.xz")

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the file's order; entries without a structure are refused.

        Raises:
            UnreadableFileError: missing, cut off, no JSON, or nothing in it. RefusedFileError: a pickle.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        refuse_pickle(path)
        with opened(path) as stream:
            yield from checked(_frames(JsonStream(stream, path, header=True), path, options), options_from(options), report, path)


def _frames(stream: JsonStream, path: Path, options: Mapping[str, Any]) -> Iterator[MlipfmError | tuple[RawFrame, ReadOptions]]:
    known = {layout.name: options_from(options, layout=layout.options, name=layout.name) for layout in LAYOUTS}
    index = 0
    for names, value in entries(stream):
        where = f"{path}: entry {'/'.join(names)}"
        frames: list[RawFrame | MlipfmError]
        try:
            layout = _layout(value)
            frames = layout.frames(Entry(value, names, where, path.name, index))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            frames = [InvalidStructureError(f"the entry is damaged: {type(error).__name__} {str(error)[:80]}", where=where)]
        except MlipfmError as error:
            frames = [placed(error, where)]
        for frame in frames:
            yield frame if isinstance(frame, MlipfmError) else (frame, known[layout.name])
            index += 1


def _layout(value: Any) -> Layout:
    if isinstance(value, Mapping):
        for layout in LAYOUTS:
            if layout.fits(value):
                return layout
    keys = ", ".join(map(str, list(value)[:8])) if isinstance(value, Mapping) else type(value).__name__
    raise UnreadableFileError(f"no structure in this entry; it holds {keys}", mend="is this a file of structures?")


def entries(stream: JsonStream) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names of the places, value) of every entry, wherever in the file entries are kept."""
    if stream.peek() == "[":
        for k in stream.elements():
            yield (str(k),), stream.value()
    elif stream.ahead(_is_entry):
        yield ("0",), stream.value()
    else:
        yield from _members(stream, ())
    if stream.peek():
        raise stream.fail("text behind the end of the JSON")


def _members(stream: JsonStream, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    columns: list[str] = []
    for key in stream.members():
        first = stream.peek()
        if key == "columns" and first == "[":
            columns = list(map(str, stream.value()))
        elif first == "[" and key not in _NO_ENTRIES:
            for k in stream.elements():
                value = stream.value()
                yield (*names, key, str(k)), dict(zip(columns, value, strict=False)) if columns and isinstance(value, list) else value
        elif first == "{" and key not in _NO_ENTRIES:
            if len(names) < 3 and not stream.ahead(_is_entry):
                yield from _members(stream, (*names, key))
            else:
                yield (*names, key), stream.value()
        elif first == "[":
            for _ in stream.elements():
                stream.value()
        else:
            stream.value()


def _is_entry(stream: JsonStream) -> bool:
    """Whether the dictionary that begins here is one entry, and not a dictionary of entries: by its first member."""
    for key in stream.members():
        return key in _OF_ENTRIES or stream.peek() not in "{[" or (stream.peek() == "[" and key not in ("entries", "index"))
    return True
