"""Reader of JSON files of structures: pymatgen (mlearn, SNAP, Alexandria, MPtrj, Matbench), JARVIS (ALIGNN), ASE's own, and tables of dimers.

Which layout an entry has is seen from the entry (`json_layouts`). The file is walked through: lists are taken element by element and dictionaries
of entries member by member, so that memory is that of the largest entry.
"""

from __future__ import annotations

import codecs
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame

from .compressed import opened
from .json_layouts import LAYOUTS, Entry, JsonLayout

# JSON read piece by piece: the parts of a large file one after the other, in the memory of the largest part.
#
# Built on the scanner of the standard library: a part is decoded whole by `json`, and what lies between parts is walked through.

_CHUNK = 1 << 16
#: Characters of one part.
LARGEST = 1 << 28
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"[-+0-9.eEa-zA-Z]*")  # with NaN, Infinity, true, false, null


class JsonStream:
    """A position in a JSON text.

    Args:
        stream: bytes in UTF-8. path: for messages. header: lines that begin with `#` before the first brace are left out.

    Raises:
        UnreadableFileError: from every method, with the place, when the text is cut off or no JSON.
    """

    def __init__(self, stream: BinaryIO, path: Path, header: bool = False) -> None:
        self.stream, self.path = stream, path
        self.text, self.here, self.passed, self.ended = "", 0, 0, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()
        self._kept, self._floor = 0, 0  # looks ahead that are under way, and where the first of them began
        while header and self.peek() == "#":
            while (end := self.text.find("\n", self.here)) < 0 and not self.ended:
                self._more()
            self.here = end if end >= 0 else len(self.text)

    def peek(self) -> str:
        """Return the next character that is no space; "" at the end."""
        while True:
            found = _SPACE.match(self.text, self.here)
            self.here = found.end() if found else self.here
            if self.here < len(self.text) or self.ended:
                return self.text[self.here : self.here + 1]
            self._more()

    def take(self, wanted: str) -> str:
        """Return the next character, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.fail(f"{' or '.join(wanted)} was expected, got {found!r}" if found else "the text ends too early")
        self.here += 1
        return found

    def value(self) -> Any:
        """Return the next value, whole."""
        first = self.peek()
        size = _CHUNK
        while True:
            try:
                if first not in '"[{':
                    return self._scalar()
                value, end = self._json.raw_decode(self.text, self.here)
                self.here = end
                return value
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.fail(f"no JSON: {error.msg}", error.pos) from None
            except RecursionError:
                raise self.fail("nested too deep") from None
            self._more(size)
            size *= 2

    def _scalar(self) -> Any:
        while (found := _NUMBER.match(self.text, self.here)) and found.end() == len(self.text) and not self.ended:
            self._more()
        value, end = self._json.raw_decode(self.text, self.here)
        self.here = end
        return value

    def elements(self) -> Iterator[int]:
        """Stands before each element of the list that begins here, which must be taken with `value` or walked through before the next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        k = 0
        while True:
            yield k
            k += 1
            if self.take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """Yield the key of each member of the dictionary that begins here, standing before its value."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise self.fail("a key was expected")
            key = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def ahead(self, look: Callable[[JsonStream], Any]) -> Any:
        """Return what `look` finds from here on, without moving."""
        self._kept, start = self._kept + 1, self.passed + self.here
        self._floor = start if self._kept == 1 else self._floor
        try:
            return look(self)
        finally:
            self._kept -= 1
            self.here = start - self.passed

    def fail(self, what: str, place: int | None = None) -> UnreadableFileError:
        place = self.passed + (self.here if place is None else place)
        return UnreadableFileError(what, where=f"{self.path}: character {place}", hint="is the file complete?")

    def _more(self, size: int = _CHUNK) -> None:
        """Read on, and drop what lies behind us and behind a look ahead."""
        if len(self.text) - self.here > LARGEST:
            raise self.fail(f"a part of the file is longer than {LARGEST} characters", self.here)
        try:
            raw = self.stream.read(size)
            more = self._decode(raw, final=not raw)
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise self.fail(f"the file breaks off: {error}", len(self.text)) from None
        self.ended = not raw
        drop = min(self.here, self._floor - self.passed) if self._kept else self.here
        self.text, self.passed, self.here = self.text[drop:] + more, self.passed + drop, self.here - drop


#: Members of a dictionary that make it an entry, although the first of them is a dictionary itself.
_OF_ENTRIES = {"structure", "atoms", "lattice", "composition", "cell", "numbers", "positions", "data", "parameters", "params", "outputs"}
#: Members beside the rows of an ASE database that are no rows.
_NO_ENTRIES = {"ids", "nextid", "metadata", "index", "columns"}


class JsonReader:
    """.json files, plain or compressed, in the arrangements of `json_layouts.LAYOUTS`; entries without a structure are refused."""

    suffixes = (".json", ".json.gz", ".json.bz2", ".json.xz")

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the entries. Raises `UnreadableFileError`: cut off, or no JSON."""
        with opened(path) as stream:
            for names, value in entries(JsonStream(stream, path, header=True)):
                yield At(f"entry {'/'.join(names)}", _frames, value, names)


def _frames(value: Any, names: tuple[str, ...]) -> list[RawFrame | MlipfmError]:
    layout = _layout(value)
    frames = layout.frames(Entry(value, names))
    for frame in frames:
        if isinstance(frame, RawFrame):
            frame.conventions = layout.conventions
    return frames


def _layout(value: Any) -> JsonLayout:
    if isinstance(value, Mapping):
        for layout in LAYOUTS:
            if layout.fits(value):
                return layout
    keys = ", ".join(map(str, list(value)[:8])) if isinstance(value, Mapping) else type(value).__name__
    raise UnreadableFileError(f"no structure in this entry; it holds {keys}", hint="is this a file of structures?")


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
    """Return whether the dictionary that begins here is one entry, and not a dictionary of entries: by its first member."""
    for key in stream.members():
        return key in _OF_ENTRIES or stream.peek() not in "{[" or (stream.peek() == "[" and key not in ("entries", "index"))
    return True
