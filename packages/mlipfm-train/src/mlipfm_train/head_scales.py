"""Scale and shift of heads from the labels they are to learn: a network that starts near zero then starts near the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.label_weights import structure_weight
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

#: Structures that are looked at.
SAMPLE = 5_000
#: What these add up to is given, so they have no shift.
_CONSTRAINED = ("charges", "spin_charges")


def with_scales(
    heads: Mapping[str, Mapping[str, Any]], frames: Sequence[Structure], elements: Sequence[str | int], seed: int
) -> dict[str, dict[str, Any]]:
    """Options of heads with `scale` and `shift` filled in where they are left out and labels exist.

    Numbers of systems: mean and standard deviation. Numbers of atoms: mean of each element (of all, for elements without a label), and the
    deviation from it. Vectors, tensors and charges: root mean square. Heads of a potential plug-in are understood to have these options.
    """
    picks = np.sort(stream(seed, "heads").permutation(len(frames))[:SAMPLE])
    seen = [frames[int(k)] for k in picks]
    return {key: {**_found(key, seen, elements), **options} for key, options in heads.items()}


def _found(key: str, seen: Sequence[Structure], elements: Sequence[str | int]) -> dict[str, Any]:
    labelled = [s for s in seen if key in s.labels and structure_weight(s) > 0]
    if not labelled or key not in QUANTITIES:
        return {}
    kind = QUANTITIES[key]
    shift: Any = None
    weights = np.array([structure_weight(s) for s in labelled])
    if kind.layout == "atom":
        values = np.concatenate([s.labels[key] for s in labelled])
        weights = np.repeat(weights, [len(s) for s in labelled])
        if kind.shape == () and key not in _CONSTRAINED:
            numbers = np.concatenate([s.atomic_numbers for s in labelled])
            means = {int(z): float(np.average(values[numbers == z], weights=weights[numbers == z])) for z in np.unique(numbers)}
            known = [number(e) if isinstance(e, str) else e for e in elements]
            shift = {symbol(z): means.get(z, float(np.mean(list(means.values())))) for z in known}
            values = values - [means[int(z)] for z in numbers]
    else:
        values = np.stack([s.labels[key] for s in labelled])
        if kind.shape == ():
            shift = float(np.average(values, weights=weights))
            values = values - shift
    size = float(np.sqrt(np.average(np.square(values).reshape(len(values), -1).mean(axis=1), weights=weights)))
    return ({"scale": size} if size > 0 else {}) | ({} if shift is None else {"shift": shift})
