"""Export to extended XYZ, exactly: reading it back gives equal Structures, labels, deviations and provenance included.

Labels are written as `REF_<quantity>` in internal units (eV, Å): the spelling that ASE leaves where it is and that other trainers look for.
Charge and multiplicity are `charge` and `spin` (2S+1), and are left out where they are not stated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import UnknownQuantityError
from mlipfm_interfaces.structure import Structure

from .conventions import FIELD_KEY, LEVEL_KEY, PROVENANCE_KEY
from .extxyz_text import quote
from .label_places import layout_of, placed

Predicted = Mapping[str, np.ndarray]


def export_extxyz(structures: Iterable[Structure], path: Path | str, predicted: Iterable[Predicted] | None = None) -> int:
    """Write structures to `path` and return how many. The file appears only when it is complete.

    Args:
        predicted: for each structure, values by quantity key in internal units, written beside its labels as `pred_<key>`.

    Raises:
        UnknownQuantityError: for a label of pairs, which the format cannot hold.
    """
    path = Path(path)
    part, count = path.with_name(path.name + ".part"), 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            for structure, values in zip(structures, predicted if predicted is not None else repeat({}), strict=predicted is not None):
                write_frame(structure, stream, values)
                count += 1
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def write_frame(structure: Structure, stream: TextIO, predicted: Predicted = MappingProxyType({})) -> None:
    """One frame. Raises `UnknownQuantityError` as `export_extxyz` does."""
    s, n = structure, len(structure)
    columns: list[tuple[str, np.ndarray]] = [("pos", s.positions)]
    info: dict[str, str] = {}
    if s.cell.any() or s.pbc.any():
        info["Lattice"] = f'"{_numbers(s.cell)}"'
    for prefix, values in (("REF_", s.labels), ("STD_", s.label_std), ("pred_", predicted)):
        for key, value in values.items():
            _place(prefix + key, key, value, n, columns, info)
    info |= {
        key: quote(str(value))
        for key, value in (("charge", s.total_charge), ("spin", s.spin_multiplicity), (LEVEL_KEY, s.level))
        if value is not None
    }
    if s.external_field is not None:
        info[FIELD_KEY] = f'"{_numbers(s.external_field)}"'
    info[PROVENANCE_KEY] = quote("_JSON " + json.dumps(provenance_values(s)))
    info["pbc"] = '"' + " ".join("T" if value else "F" for value in s.pbc) + '"'
    properties = "species:S:1:" + ":".join(f"{name}:R:{_width(value, n)}" for name, value in columns)
    stream.write(f"{n}\nProperties={properties} {' '.join(f'{key}={value}' for key, value in info.items())}\n")
    rows = np.concatenate([np.asarray(value).reshape(n, _width(value, n)) for _, value in columns], axis=1)
    for z, row in zip(s.atomic_numbers.tolist(), rows.tolist(), strict=True):
        stream.write(f"{symbol(z):2s} {' '.join(map(repr, row))}\n")


def provenance_values(structure: Structure) -> dict[str, Any]:
    """Stated fields of the provenance, ready for JSON."""
    return {key: value for key, value in asdict(structure.provenance).items() if value is not None}


def _place(name: str, key: str, value: np.ndarray, n: int, columns: list[tuple[str, np.ndarray]], info: dict[str, str]) -> None:
    if layout_of(key) == "pair":
        raise UnknownQuantityError(
            f"label {key!r} belongs to pairs, and extended XYZ holds systems and atoms only", mend="drop it before the export"
        )
    per_atom, value = placed(key, value)
    if not per_atom:
        info[name] = f'"{_numbers(value)}"'
    elif value.size:
        columns.append((name, value.reshape(n, -1)))


def _width(value: np.ndarray, n: int) -> int:
    return int(np.size(value)) // n


def _numbers(values: np.ndarray) -> str:
    return " ".join(map(repr, np.asarray(values, dtype=np.float64).reshape(-1).tolist()))
