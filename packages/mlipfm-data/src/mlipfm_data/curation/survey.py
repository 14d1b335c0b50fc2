"""What the search knows of each structure of one or two sets: fingerprint, key, where it comes from, its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from .classes import molecule_class
from .fingerprints import fingerprint
from .pool import blocks, over


class Row(NamedTuple):
    """Of one structure. `vector` is None if it has no fingerprint (atoms on top of each other); `why` says so."""

    key: str
    bucket: str
    vector: NDArray[np.float32] | None
    source: str | None
    group: str | None
    level: str | None
    state: tuple[Any, ...]
    molecule: str | None
    why: str | None


@dataclass
class Survey:
    """Of all structures of a set, in order.

    Attributes:
        rows: one each. unfit: Counter of error codes of structures that cannot be compared.
    """

    rows: list[Row] = field(default_factory=list)
    unfit: Counter[str] = field(default_factory=Counter)


def survey(structures: Sequence[Structure], executor: Executor | None, molecules: bool = False) -> Survey:
    """Look at every structure once. `molecules`: also tell molecules by their bonds."""
    result = Survey()
    parts = blocks(len(structures))
    for rows in over(_rows, structures, parts, executor, [molecules] * len(parts), title="fingerprints"):
        result.rows += rows
    result.unfit.update(row.why for row in result.rows if row.why is not None)
    return result


def _rows(structures: list[Structure], molecules: bool) -> list[Row]:
    return [_row(s, molecules) for s in structures]


def _row(s: Structure, molecules: bool) -> Row:
    where, why, vector = s.provenance, None, None
    bucket = ""
    try:
        found = fingerprint(s)
        bucket, vector = found.bucket, found.vector
    except MlipfmError as error:
        why = error.code
    molecule = molecule_class(s) if molecules else None
    return Row(s.key, bucket, vector, where.source, where.group, s.level, state_of(s), molecule, why)


def state_of(s: Structure) -> tuple[Any, ...]:
    """Charge, multiplicity and field, None where not stated."""
    electric = None if s.external_field is None else tuple(np.round(s.external_field, 9).tolist())
    return s.total_charge, s.spin_multiplicity, electric
