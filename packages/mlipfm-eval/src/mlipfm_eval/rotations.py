"""Rotation errors: how far forces are from rotating with the structure, which unconstrained models learn and others have built in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mlipfm_interfaces.metrics import Metric, group_of, mean, rotation_error
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import turned, turned_back
from mlipfm_interfaces.testing.structures import random_rotation

from ._check_model_input import ask


def rotation_metrics(
    model: Potential | Teacher, structures: Sequence[Structure], orientations: int = 32, seed: int = 0
) -> dict[str, Metric]:
    """Return `rotation_error` of forces (relative, see `metrics.rotation_error`) and `energy_spread`, its standard deviation in meV/atom.

    Args:
        orientations: of each structure, uniform over rotations and mirror images, half of each, the same for all structures.
    """
    turns = [random_rotation(seed + k, improper=bool(k % 2)) for k in range(orientations)]
    upright, back, spread = [], [], []
    for s in structures:
        here, *rows = ask(model, [s, *turned(s, turns)], ("energy", "forces"))
        upright.append(here["forces"])
        back.append(turned_back(rows, turns))
        spread.append(1000 * float(np.std([float(row["energy"]) for row in rows])) / len(s))
    groups = [group_of(s) for s in structures]
    return {
        "rotation_error": rotation_error(back, upright, groups),
        "energy_spread": mean(spread, groups, name="energy spread over orientations", unit="meV/atom"),
    }
