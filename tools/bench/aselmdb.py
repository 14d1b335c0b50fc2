"""The peer of the store: an `.aselmdb` file, written and read as the published layout of ase-db-backends 0.11 says.

It is our own reading of that layout and not that library: an LMDB file without sub-folder, key the ascii number of the row, value the row as ASE's
JSON (numpy arrays included, `ase.io.jsonio`), compressed by zlib; reading makes an `AtomsRow` and from it Atoms with a calculator.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.row import AtomsRow
from ase.io.jsonio import decode, encode
from mlipfm_interfaces.structure import Structure

_RESULTS = ("energy", "forces")


def write(path: Path, structures: Iterable[Structure]) -> None:
    """Write structures with energy and forces, in one transaction."""
    with (
        lmdb.open(str(path), map_size=2**34, subdir=False, meminit=False, map_async=True) as database,
        database.begin(write=True) as change,
    ):
        last = 0
        for last, structure in enumerate(structures, 1):
            change.put(str(last).encode("ascii"), _packed(_row(structure)))
        change.put(b"nextid", _packed(last + 1))


class Reader:
    """Rows by their place in the file, from 0."""

    def __init__(self, path: Path) -> None:
        self._database = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)

    def atoms(self, index: int) -> Atoms:
        """Row `index` as Atoms that know their energy and forces."""
        with self._database.begin() as view:
            value = view.get(str(index + 1).encode("ascii"))
        if value is None:
            raise KeyError(f"row {index + 1}")
        row = decode(zlib.decompress(value).decode())
        for key in _RESULTS:
            if isinstance(row.get(key), list):
                row[key] = np.array(row[key])
        row["id"] = index + 1
        return AtomsRow(row).toatoms()

    def arrays(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, ...]:
        """Atomic numbers, positions, forces and energies of rows end to end: what a batch takes."""
        rows = [self.atoms(int(k)) for k in indices]
        return (
            np.concatenate([a.numbers for a in rows]),
            np.concatenate([a.positions for a in rows]),
            np.concatenate([a.calc.results["forces"] for a in rows]),
            np.array([a.calc.results["energy"] for a in rows]),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _row(s: Structure) -> dict[str, Any]:
    atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc)
    atoms.calc = SinglePointCalculator(atoms, energy=float(s.labels["energy"]), forces=np.array(s.labels["forces"]))
    row = AtomsRow(atoms)
    vars(row).update(ctime=0.0, user="bench")
    kept = {key: row[key] for key in row.__dict__ if not key.startswith("_") and key not in (*row._keys, "id")}
    return kept | {"mtime": 0.0, "data": {}, "cell": np.asarray(row.cell)}


def _packed(value: Any) -> bytes:
    return zlib.compress(encode(value).encode())
