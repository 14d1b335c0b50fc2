"""Extended XYZ, plain or gzipped, both ways: reading streams and names lines; what is written reads back equal, labels and provenance included."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TextIO

import numpy as np
from mlipfm_interfaces.atomic import file_in_place
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import MlipfmError, UnknownQuantityError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame
from mlipfm_interfaces.structure import Structure

from .compressed import opened
from .interpret import FIELD_KEY, LEVEL_KEY, PROVENANCE_KEY
from .label_names import as_numbers, layout_of, placed

# The grammar of extended XYZ: the comment line's `key=value` pairs and the `Properties` of the atom columns, both ways.
#
# Follows github.com/libAtoms/extxyz (values unquoted, in quotes, in braces or brackets; `Lattice` holds the vectors one after the other) and what
# ASE writes (`_JSON` values). Values stay text until something asks for them: most keys of a file are never used.

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = re.compile(
    rf"(?P<key>{_QUOTED}|[^\s=\"'{{}}\[\],]+)"
    rf"(?:\s*=\s*(?P<value>(?:{_QUOTED}|'[^']*'|\{{[^{{}}]*\}}|\[(?:[^\[\]]|\[[^\[\]]*\])*\])(?=\s|$)|[^\s\"'{{}}][^\s\"]*(?=\s|$)))?\s*"
)
_ESCAPE = re.compile(r"\\(.)")
_KINDS = {"S": str, "R": np.float64, "I": np.int64, "L": bool}


@dataclass(frozen=True)
class Column:
    """One entry of `Properties`: name, kind (S, R, I or L), first text column and number of columns."""

    name: str
    kind: str
    first: int
    width: int


def parse_comment(text: str) -> dict[str, str]:
    """Keys and their values as text (quotes removed, escapes undone); a bare key has the value `T`.

    Raises:
        UnreadableFileError: at the first character that is no pair, or for a key given twice with different values.
    """
    values: dict[str, str] = {}
    position = 0
    text = text.strip()
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None or match.end() == position:
            raise UnreadableFileError(f"cannot read the comment line from character {position + 1}: {text[position : position + 30]!r}")
        key, value = _plain(match["key"]), "T" if match["value"] is None else _plain(match["value"])
        if values.get(key, value) != value:
            raise UnreadableFileError(f"the comment line gives {key!r} twice, with different values", hint="keep one of them")
        values[key] = value
        position = match.end()
    return values


def _plain(word: str) -> str:
    if word.startswith('"') and "\\" in word:
        return _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], word[1:-1])
    return word[1:-1] if word[0] in "\"'{" else word


@lru_cache(64)
def parse_properties(text: str) -> Sequence[Column]:
    """Columns of `species:S:1:pos:R:3:...`.

    Raises:
        UnreadableFileError: if the text is not triples of name, kind and width.
    """
    words = text.split(":")
    columns: list[Column] = []
    first = 0
    for k in range(0, len(words), 3):
        triple = words[k : k + 3]
        if len(triple) < 3 or triple[1].upper() not in _KINDS or not triple[2].isdecimal() or int(triple[2]) < 1:
            raise UnreadableFileError(
                f"`Properties` is malformed at {':'.join(triple)!r}", hint="triples of name:kind:width, kind one of S, R, I, L"
            )
        if any(column.name.lower() == triple[0].lower() for column in columns):
            raise UnreadableFileError(f"`Properties` names {triple[0]!r} twice", hint="keep one of them")
        columns.append(Column(triple[0], triple[1].upper(), first, int(triple[2])))
        first += int(triple[2])
    return tuple(columns)


def _column_values(rows: Sequence[Sequence[str]], column: Column) -> np.ndarray:
    """Values of one column from the words of each atom: [N] for width 1, else [N, width].

    Raises:
        UnreadableFileError: naming the atom and the word that is not of the column's kind.
    """
    first, end = column.first, column.first + column.width
    shape = (len(rows),) if column.width == 1 else (len(rows), column.width)
    words = chain.from_iterable(row[first:end] for row in rows)
    if column.kind == "R":
        try:
            return np.fromiter(map(float, words), np.float64, len(rows) * column.width).reshape(shape)
        except ValueError:  # exponents of Fortran, 1.0D-03, or a word that is no number, which is named below
            rows = [[_FORTRAN.sub(r"\1e\2", word) for word in row] for row in rows]
            words = chain.from_iterable(row[first:end] for row in rows)
    block = np.array(list(words), dtype=str).reshape(shape)
    if column.kind == "S":
        return block
    if column.kind == "L":
        return _logical(block, column.name)
    try:
        return block.astype(_KINDS[column.kind])
    except (ValueError, OverflowError):
        atom, word = next(
            (k, str(w)) for k, row in enumerate(block.reshape(len(block), -1)) for w in row if not _is_number(str(w), column.kind)
        )
        raise UnreadableFileError(f"{word!r} in column {column.name!r} is not a number", where=f"atom {atom}") from None


#: Fortran's exponent of double precision.
_FORTRAN = re.compile(r"^([+-]?[\d.]+)[dD]([+-]?\d+)$")


def _logical(block: np.ndarray, name: str) -> np.ndarray:
    upper = np.char.upper(block)
    true, false = (np.isin(upper, (word, f"{word[:1]}", f".{word}.", number)) for word, number in (("TRUE", "1"), ("FALSE", "0")))
    if not (true | false).all():
        word = block[~(true | false)].reshape(-1)[0]
        raise UnreadableFileError(f"{str(word)!r} in column {name!r} is neither true nor false")
    return np.asarray(true)


def _is_number(word: str, kind: str) -> bool:
    try:
        np.asarray([word]).astype(_KINDS[kind])
    except (ValueError, OverflowError):
        return False
    return True


def quote(value: str) -> str:
    """Return a value as it is written: in quotes unless it is a plain word."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# Reader of (extended) XYZ, plain or gzipped: streams, names lines, and never guesses where a frame begins.
#
# What can be known about a truncated file: a cut inside a frame is always an error; a cut inside the last number shows as a last line without
# newline that is shorter than its neighbours, and the frame is refused; a cut exactly between two frames leaves a valid file and cannot be seen
# (compare the number of frames that is reported with the one you expect, or keep a checksum).

#: Longest line that is read, in bytes: a file without newlines must not fill the memory.
LONGEST_LINE = 1 << 24

_PLAIN: Sequence[Column] = (Column("species", "S", 0, 1), Column("pos", "R", 1, 3))
_GEOMETRY = ("species", "pos", "z", "numbers")
#: Programs write these keys in any letter case (GPUMD in lower case).
_PROPERTIES, _LATTICE = (re.compile(rf"\b{key}\s*=", re.IGNORECASE) for key in ("Properties", "Lattice"))


class ExtxyzReader:
    """Extended and plain XYZ, gzipped or not. Memory is that of one frame."""

    suffixes = tuple(f"{end}{packed}" for end in (".xyz", ".extxyz") for packed in ("", ".gz", ".bz2", ".xz"))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the frames.

        Raises:
            UnreadableFileError: from the line on at which no frame begins or the file ends inside a frame; the frames before it were yielded.
        """
        with opened(path) as stream:
            lines, index = _Lines(stream, path), 0
            while (header := lines.next()) is not None:
                if header.strip():
                    place = f"line {lines.number}"
                    yield At(place, _frame, *_raw_lines(lines, header, index))
                    index += 1


class _Lines:
    """Lines of a file with their numbers; `open_end` is True if the last line read has no newline."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path, self.number, self.open_end = stream, path, 0, False

    def next(self) -> str | None:
        lines = self.several(1)
        if lines and self.number == 1:  # some editors begin a file with a mark
            return lines[0].removeprefix("\ufeff")
        return lines[0] if lines else None

    def several(self, count: int) -> list[str]:
        """Return the next lines, fewer than `count` if the file ends."""
        lines: list[str] = []
        raw = b""
        try:
            for _ in range(count):
                raw = self.stream.readline(LONGEST_LINE + 1)
                if not raw:
                    break
                self.number += 1
                if len(raw) > LONGEST_LINE:
                    raise self.fail(f"a line is longer than {LONGEST_LINE} bytes", "is it text?")
                lines.append(raw.rstrip(b"\r\n").decode())
        except (EOFError, OSError, zlib.error) as error:
            raise UnreadableFileError(f"the file breaks off: {error}", where=f"{self.path}: line {self.number + 1}") from None
        except UnicodeDecodeError:
            raise self.fail("not text: bytes that are no UTF-8", "is it an xyz file?") from None
        self.open_end = not raw.endswith(b"\n")
        return lines

    def fail(self, what: str, hint: str | None = None) -> UnreadableFileError:
        return UnreadableFileError(what, where=f"{self.path}: line {self.number}", hint=hint)


_CUT = "if the file is complete, end it with a newline"


def _raw_lines(lines: _Lines, header: str, index: int) -> tuple[str, list[str], bool]:
    """Comment, atom lines and whether the last line may be cut, of the frame whose count line is `header`."""
    if not header.strip().isdecimal():
        raise lines.fail(
            f"the number of atoms of frame {index} was expected, got {header[:40]!r}",
            "its lines end with \\r alone, as on old Macs: write \\n"
            if "\r" in header
            else "does the frame before have as many lines as it says?",
        )
    count = int(header)
    comment = lines.next()
    atoms = [] if comment is None else lines.several(count)
    if comment is None or len(atoms) < count:
        raise lines.fail(
            f"the file ends inside frame {index}: {len(atoms)} of {count} atoms are there", "the file is truncated; frames before are good"
        )
    return comment, atoms, lines.open_end and count > 0 and _uneven(atoms)


def _uneven(atoms: list[str]) -> bool:
    """Return whether the last line is shorter than all others, or lines have different lengths."""
    lengths = [len(line.rstrip()) for line in atoms]
    return len(set(lengths)) > 1 or (len(atoms) > 1 and lengths[-1] < min(lengths[:-1]))


def _frame(comment: str, atoms: list[str], cut: bool) -> RawFrame:
    if cut:
        raise UnreadableFileError("the last line has no newline and is shorter than the others: the file looks truncated", hint=_CUT)
    extended = _PROPERTIES.search(comment) is not None
    info = _info(comment, extended)
    columns = parse_properties(_special(info, "Properties")) if extended else _PLAIN
    rows, unread = _words(atoms, columns, exact=extended)
    if not extended and rows and len(rows[0]) > 4:
        columns = [*_PLAIN, _unnamed(rows)]
    arrays = {column.name: _column_values(rows, column) for column in columns}
    lower = {name.lower(): name for name in arrays}
    numbers = _column_numbers({key: arrays[lower[key]] for key in ("species", "z", "numbers") if key in lower})
    if "pos" not in lower or arrays[lower["pos"]].shape != (len(numbers), 3):
        raise UnreadableFileError("`Properties` has no pos:R:3 column")
    lattice, periodic = _special(info, "Lattice"), _special(info, "pbc")
    cell = None if lattice is None else as_numbers(lattice, "Lattice")
    if cell is not None and cell.size != 9:
        raise UnreadableFileError(f"`Lattice` has {cell.size} numbers, nine are needed")
    others = {name: value for name, value in arrays.items() if name.lower() not in _GEOMETRY}
    pbc = None if periodic is None else _is_logical(periodic)
    cell = None if cell is None else cell.reshape(3, 3)
    return RawFrame(numbers, arrays[lower["pos"]], cell, pbc, info, others, unread=unread, stated=_units(info))


def _units(info: dict[str, str]) -> dict[str, str]:
    """Take the units out of `info` that the comment line gives, `energy_unit=kcal/mol`, `force_units=eV/A`, as they are spelled here."""
    found = {key: _UNIT.fullmatch(key) for key in info}
    return {f"{_DIMENSIONS[match[1].lower()]}_unit": _spelled(info.pop(key)) for key, match in found.items() if match}


def _spelled(unit: str) -> str:
    for pattern, name in _SPELLINGS.items():
        unit = re.sub(rf"(?i)(?<![a-z]){pattern}(?![a-z])", name, unit)
    return unit.replace("**", "^").strip()


_DIMENSIONS = {"energy": "energy", "force": "forces", "forces": "forces", "stress": "stress", "length": "length"}
#: What units are called elsewhere, letter case apart -> here.
_SPELLINGS = {"(a|å|ang|angstroms?)": "Angstrom", "(ha|hartrees?)": "Hartree", "ev": "eV", "(bohr|a0)": "bohr"}
_UNIT = re.compile(rf"({'|'.join(_DIMENSIONS)})_units?", re.IGNORECASE)


def _info(comment: str, extended: bool) -> dict[str, str]:
    """Keys and values of the comment line. In plain XYZ it is free text: words that are no `key=value` are kept as `comment`."""
    try:
        info = parse_comment(comment)
    except UnreadableFileError:
        if extended or _LATTICE.search(comment):
            raise
        return {"comment": comment.strip()}
    if extended:
        return info
    pairs = {key: value for key, value in info.items() if value != "T" or re.search(rf"{re.escape(key)}\s*=", comment)}
    return pairs if len(pairs) == len(info) else {**pairs, "comment": comment.strip()}


def _special(info: dict[str, str], name: str) -> Any:
    """Take `name` out of `info`, in whatever letter case it is written. Raises `UnreadableFileError` for two that differ."""
    lowered = name.lower()
    keys = [key for key in info if key.lower() == lowered]
    values = {info.pop(key) for key in keys}
    if len(values) > 1:
        raise UnreadableFileError(f"the comment line has {' and '.join(map(repr, keys))}, which differ", hint="keep one of them")
    return values.pop() if values else None


def _unnamed(rows: Sequence[Sequence[str]]) -> Column:
    """Return the columns behind the fourth of a plain XYZ file: numbers if all are, else text."""
    width = len(rows[0])
    name = f"columns_5-{width}" if width > 5 else "column_5"
    try:
        [float(word) for row in rows for word in row[4:]]
    except ValueError:
        return Column(name, "S", 4, width - 4)
    return Column(name, "R", 4, width - 4)


def _words(atoms: list[str], columns: Sequence[Column], exact: bool) -> tuple[list[list[str]], tuple[str, ...]]:
    """Words of each atom, as many for all, and what is left over: if not `exact`, further columns are kept where every atom has them."""
    width = columns[-1].first + columns[-1].width
    rows = [line.split() for line in atoms]
    widths = set(map(len, rows))
    for k, row in enumerate(rows) if widths != {width} else ():
        if len(row) < width or (exact and len(row) != width):
            raise UnreadableFileError(f"{len(row)} columns, {width} are needed: {atoms[k][:50]!r}", where=f"atom {k}")
    ragged = len(widths) > 1
    if not exact and len(widths) == 1:
        width = widths.pop()
    unread = (f"columns behind {width} of some atoms",) if ragged else ()
    return [row[:width] for row in rows] if ragged else rows, unread


def _column_numbers(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Atomic numbers from `species` (symbols, or numbers as some programs write them), `Z` or `numbers`. What is there twice must agree."""
    found = [arrays[key].astype(np.int64) for key in ("z", "numbers") if key in arrays]
    found = [_from_names(arrays["species"]), *found] if "species" in arrays else found
    if not found:
        raise UnreadableFileError("`Properties` has no species column")
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise UnreadableFileError("`Properties` names elements twice, by `species` and by numbers, and they differ")
    return found[0]


def _from_names(names: np.ndarray) -> np.ndarray:
    known = {name: int(name) if name.isdecimal() else _symbol(name, names) for name in dict.fromkeys(names.tolist())}
    return np.array([known[name] for name in names.tolist()], dtype=np.int64)


def _symbol(name: str, names: np.ndarray) -> int:
    try:
        return number(name)
    except MlipfmError as error:
        raise type(error)(error.what, where=f"atom {int(np.argmax(names == name))}", hint=error.hint) from None


def _is_logical(text: str) -> np.ndarray:
    words = text.strip("[]").replace(",", " ").split()
    values = [{"T": True, "F": False, "1": True, "0": False}.get(word[:1].upper()) for word in words]
    if len(values) not in (1, 3) or None in values:
        raise UnreadableFileError(f"`pbc` must be three of T and F, got {text!r}")
    return np.array(values * (3 // len(values)), dtype=bool)


Predicted = Mapping[str, np.ndarray]


def export_extxyz(structures: Iterable[Structure], path: Path | str, predicted: Iterable[Predicted] | None = None) -> int:
    """Write structures to `path` and return how many. The file appears only when it is complete.

    Args:
        predicted: for each structure, values by quantity key in internal units, written beside its labels as `pred_<key>`.

    Raises:
        UnknownQuantityError: for a label of pairs, which the format cannot hold. UnwritableFileError: disk full, missing folder, ...
    """
    count = 0
    with file_in_place(Path(path)) as part, part.open("w", encoding="utf-8", newline="\n") as stream:
        for structure, values in zip(structures, predicted if predicted is not None else repeat({}), strict=predicted is not None):
            _write_frame(structure, stream, values)
            count += 1
    return count


def _write_frame(structure: Structure, stream: TextIO, predicted: Predicted = MappingProxyType({})) -> None:
    """One frame. Raises `UnknownQuantityError` as `export_extxyz` does."""
    s, n = structure, len(structure)
    columns: list[tuple[str, np.ndarray]] = [("pos", s.positions)]
    info: dict[str, str] = {}
    if s.cell.any() or s.pbc.any():
        info["Lattice"] = f'"{_written_numbers(s.cell)}"'
    for prefix, values in (("REF_", s.labels), ("STD_", s.label_std), ("pred_", predicted)):
        for key, value in values.items():
            _place(prefix + key, key, value, n, columns, info)
    info |= {
        key: quote(str(value))
        for key, value in (("charge", s.total_charge), ("spin", s.spin_multiplicity), (LEVEL_KEY, s.level))
        if value is not None
    }
    if s.external_field is not None:
        info[FIELD_KEY] = f'"{_written_numbers(s.external_field)}"'
    info[PROVENANCE_KEY] = quote("_JSON " + json.dumps(provenance_values(s)))
    info["pbc"] = '"' + " ".join("T" if value else "F" for value in s.pbc) + '"'
    properties = "species:S:1:" + ":".join(f"{name}:R:{_width(value, n)}" for name, value in columns)
    stream.write(f"{n}\nProperties={properties} {' '.join(f'{key}={value}' for key, value in info.items())}\n")
    rows = np.concatenate([np.asarray(value).reshape(n, _width(value, n)) for _, value in columns], axis=1)
    for z, row in zip(s.atomic_numbers.tolist(), rows.tolist(), strict=True):
        stream.write(f"{symbol(z):2s} {' '.join(map(repr, row))}\n")


def provenance_values(structure: Structure) -> dict[str, Any]:
    """Given fields of the provenance, ready for JSON."""
    return {key: value for key, value in asdict(structure.provenance).items() if value is not None}


def _place(name: str, key: str, value: np.ndarray, n: int, columns: list[tuple[str, np.ndarray]], info: dict[str, str]) -> None:
    if layout_of(key) == "pair":
        raise UnknownQuantityError(
            f"label {key!r} belongs to pairs, and extended XYZ holds systems and atoms only", hint="drop it before the export"
        )
    per_atom, value = placed(key, value)
    if not per_atom:
        info[name] = f'"{_written_numbers(value)}"'
    elif value.size:
        columns.append((name, value.reshape(n, -1)))


def _width(value: np.ndarray, n: int) -> int:
    return int(np.size(value)) // n


def _written_numbers(values: np.ndarray) -> str:
    return " ".join(map(repr, np.asarray(values, dtype=np.float64).reshape(-1).tolist()))
