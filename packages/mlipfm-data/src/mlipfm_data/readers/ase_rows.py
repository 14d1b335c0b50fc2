"""A row of an ASE database as a dictionary (JSON, `.aselmdb`): geometry, calculator results, key-value pairs and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError

from .frames_in import RawFrame
from .label_places import split_by_atoms, whole_entry
from .marks import fixed_by

#: Calculator results that rows keep under their own names.
RESULTS = ("energy", "free_energy", "forces", "stress", "dipole", "charges", "magmoms")
_PER_ATOM = ("initial_magmoms", "initial_charges", "tags", "masses", "momenta")
#: What else ASE keeps in a row: geometry, and its own books (ase/db/row.py).
_KNOWN = ("numbers", "positions", "cell", "pbc", "key_value_pairs", "data", "constraints", "id", "unique_id", "ctime", "mtime", "user", "username",
          "calculator", "calculator_parameters", "natoms", "mass", "volume", "fmax", "smax", "age", "formula", "constrained_forces")  # fmt: skip


def row_frame(row: Mapping[str, Any], index: int, where: str, source: str) -> RawFrame:
    """The frame of a row; ASE's spelling of arrays (`__ndarray__`) is undone.

    Raises:
        UnreadableFileError: it has no atoms. InvalidStructureError: arrays that do not fit each other.
    """
    try:
        numbers = np.asarray(_value(row["numbers"]), dtype=np.int64)
        positions = np.asarray(_value(row["positions"]), dtype=np.float64).reshape(len(numbers), 3)
        cell = np.asarray(_value(row.get("cell", np.zeros((3, 3)))), dtype=np.float64).reshape(3, 3)
        pbc = np.broadcast_to(np.asarray(_value(row.get("pbc", False)), dtype=bool), 3)
    except KeyError as error:
        raise UnreadableFileError(f"the row has no {error}", where=where, mend="is this a database of structures?") from None
    except (TypeError, ValueError) as error:
        raise InvalidStructureError(f"the row is damaged: {error}", where=where) from None
    results = {key: _value(row[key]) for key in RESULTS if row.get(key) is not None}
    info: dict[str, Any] = {}
    arrays = {key: _value(row[key]) for key in _PER_ATOM if row.get(key) is not None}
    for inner in ("key_value_pairs", "data"):
        system, atoms = split_by_atoms({key: _value(value) for key, value in _inner(row.get(inner)).items()}, len(numbers))
        info |= system
        arrays |= atoms
    rest = {key: value for key, value in row.items() if key not in (*RESULTS, *_PER_ATOM, *_KNOWN)}
    system, atoms, more = whole_entry({key: _value(value) for key, value in rest.items()}, len(numbers))
    info, arrays = {**system, **info}, {**atoms, **arrays}
    held, unread = fixed_by(_value(row.get("constraints")), len(numbers))
    return RawFrame(index, where, source, numbers, positions, cell, pbc, info, arrays | held, results, unread=(*unread, *more))


def _inner(value: Any) -> Mapping[str, Any]:
    value = _value(value)
    return value if isinstance(value, Mapping) else {}


def _value(value: Any) -> Any:
    """ASE writes arrays as {"__ndarray__": [shape, type, numbers]}, cells as {"array": ..., "__ase_objtype__": "cell"}."""
    if isinstance(value, Mapping) and "__ndarray__" in value:
        try:
            shape, kind, numbers = value["__ndarray__"]
            if kind not in ("float64", "float32", "int64", "int32", "bool"):
                raise InvalidStructureError(f"the row holds an array of type {str(kind)[:20]!r}")
            return np.asarray(numbers, dtype=kind).reshape(shape)
        except MlipfmError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidStructureError(f"the row holds a damaged array: {error}") from None
    if isinstance(value, Mapping) and value.get("__ase_objtype__") == "cell":
        return _value(value.get("array"))
    return value
