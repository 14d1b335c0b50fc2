"""What a SMILES with atom numbers says without a chemistry library: elements in the order of the numbers, and the total charge."""

from __future__ import annotations

import re

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError

_ATOM = re.compile(r"\[\d*(?P<symbol>[A-Z][a-z]?|[a-z]{1,2})@*(?P<hydrogens>H\d*)?(?P<charge>\++\d*|-+\d*)?(?::(?P<number>\d+))?\]")


def total_charge(smiles: str) -> int:
    """Sum of the formal charges in e: `[N+:9]`, `[Ca+2]`, `[O--]`."""
    return sum(_charge(match["charge"] or "") for match in _ATOM.finditer(smiles))


def _charge(text: str) -> int:
    signs = text.rstrip("0123456789")
    size = int(text[len(signs) :] or 1) if len(signs) <= 1 else len(signs)
    return size * (text.startswith("+") - text.startswith("-"))


def elements(smiles: str) -> np.ndarray:
    """Atomic numbers [N] in the order of the atom numbers 1..N of a SMILES in which every atom, hydrogens too, has one.

    Raises:
        InvalidStructureError: an atom without a number, a number twice or left out, or hydrogens that are not written as atoms.
    """
    found: dict[int, int] = {}
    for match in _ATOM.finditer(smiles):
        if match["number"] is None or match["hydrogens"] or int(match["number"]) in found:
            raise InvalidStructureError(f"atom {match[0]!r} of the SMILES has no number of its own or hides hydrogens", hint=_MAP)
        found[int(match["number"])] = number(match["symbol"].capitalize())
    if not found or sorted(found) != list(range(1, len(found) + 1)) or re.search(r"[A-Za-z]", _ATOM.sub("", smiles)):
        raise InvalidStructureError("the atoms of the SMILES are not numbered 1 to N", hint=_MAP)
    return np.array([found[k] for k in sorted(found)], dtype=np.int64)


_MAP = "elements can be read only from a SMILES with numbered atoms"
