"""A handful of structures of a model's own data, kept in its checkpoint: what it can be checked on where the data are not at hand.

Geometry and state alone, without labels: `extra["examples"]` of the manifest is a list of objects with `numbers`,
`positions`, `cell`, `pbc`, `charge`, `multiplicity` and `level`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import DamagedFileError, MlipfmError
from .structure import Structure

#: Structures, and atoms in all of them, that a checkpoint keeps at most: about 20 kB.
MAX_EXAMPLES, MAX_ATOMS = 6, 600


def examples_json(structures: Iterable[Structure]) -> list[dict[str, Any]]:
    """Structures as the manifest holds them; positions and cells in Å, to 1e-6 Å."""
    return [
        {
            "numbers": s.atomic_numbers.tolist(),
            "positions": s.positions.round(6).tolist(),
            "cell": s.cell.round(6).tolist() if s.pbc.any() else None,
            "pbc": s.pbc.tolist(),
            "charge": s.total_charge,
            "multiplicity": s.spin_multiplicity,
            "level": s.level,
        }
        for s in structures
    ]


def examples_of(extra: Any, where: str = "the checkpoint") -> tuple[Structure, ...]:
    """Return the structures in `extra` of a manifest; none if it has none, as models of earlier versions.

    Raises:
        DamagedFileError: an entry that is no structure.
    """
    entries = extra.get("examples", []) if isinstance(extra, Mapping) else []
    if not isinstance(entries, list):
        raise DamagedFileError("`examples` of the manifest is no list", where=where)
    return tuple(_structure(entry, where) for entry in entries[:MAX_EXAMPLES])


def chosen(structures: Sequence[Structure], tried: int = 200) -> list[Structure]:
    """Up to `MAX_EXAMPLES` of them, evenly spread, those first that bring elements the others lack. The same structures give the same choice."""
    step = max(len(structures) // tried, 1)
    pool = [s for k in range(0, len(structures), step) if len(s := structures[k]) <= MAX_ATOMS][:tried]
    picked: list[Structure] = []
    seen: set[int] = set()
    while pool and len(picked) < MAX_EXAMPLES:
        room = MAX_ATOMS - sum(map(len, picked))
        pool = [s for s in pool if len(s) <= room]
        new = [len(set(s.atomic_numbers.tolist()) - seen) for s in pool]
        if not pool:
            break
        best = int(np.argmax(new)) if max(new) > 0 else len(pool) * len(picked) // MAX_EXAMPLES
        picked.append(pool.pop(best))
        seen |= set(picked[-1].atomic_numbers.tolist())
    return picked


def _structure(entry: Any, where: str) -> Structure:
    try:
        pbc = np.asarray(entry["pbc"], dtype=bool)
        cell = np.zeros((3, 3)) if entry["cell"] is None else np.asarray(entry["cell"], dtype=np.float64)
        return Structure(
            np.asarray(entry["numbers"]), np.asarray(entry["positions"], dtype=np.float64), cell=cell, pbc=pbc, total_charge=entry["charge"],
            spin_multiplicity=entry["multiplicity"], level=entry["level"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, MlipfmError) as error:
        raise DamagedFileError(f"an example structure of the manifest is damaged: {error}", where=where) from error
