"""The grammar of extended XYZ: the comment line's `key=value` pairs and the `Properties` of the atom columns, both ways.

Follows github.com/libAtoms/extxyz (values unquoted, in quotes, in braces or brackets; `Lattice` holds the vectors one after the other) and what
ASE writes (`_JSON` values). Values stay text until something asks for them: most keys of a file are never used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import UnreadableFileError

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
            raise UnreadableFileError(f"the comment line gives {key!r} twice, with different values", mend="keep one of them")
        values[key] = value
        position = match.end()
    return values


def _plain(word: str) -> str:
    if word.startswith('"'):
        return _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], word[1:-1])
    return word[1:-1] if word[0] in "'{" else word


def parse_properties(text: str) -> list[Column]:
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
                f"`Properties` is malformed at {':'.join(triple)!r}", mend="triples of name:kind:width, kind one of S, R, I, L"
            )
        if any(column.name.lower() == triple[0].lower() for column in columns):
            raise UnreadableFileError(f"`Properties` names {triple[0]!r} twice", mend="keep one of them")
        columns.append(Column(triple[0], triple[1].upper(), first, int(triple[2])))
        first += int(triple[2])
    return columns


def column_values(words: np.ndarray, column: Column) -> np.ndarray:
    """Values of one column from `words` [N, all columns] of text: [N] for width 1, else [N, width].

    Raises:
        UnreadableFileError: naming the atom and the word that is not of the column's kind.
    """
    block = words[:, column.first : column.first + column.width]
    if column.width == 1:
        block = block[:, 0]
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
    """A value as it is written: in quotes unless it is a plain word."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
