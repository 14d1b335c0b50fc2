"""What a model does not have built in and learns from its data: that forces rotate with the structure, and that they are a gradient.

Both are errors of a run beside those of its energies and forces, and scale with its size and data: `rotation error (%)` of models that are not
invariant, `asymmetry of the force Jacobian (%)` of direct forces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.derivatives import jacobian_asymmetry
from mlipfm_interfaces.metrics import rotation_error
from mlipfm_interfaces.potential import Potential, device_of, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import turned, turned_back
from mlipfm_interfaces.testing.structures import random_rotation

#: Structures at most, and orientations of each, half of them mirror images. The Jacobian has 3 N rows: of few and small structures.
STRUCTURES, ORIENTATIONS = 32, 8
JACOBIANS, LARGEST = 8, 30


def learned_symmetries(potential: Potential, structures: Sequence[Structure]) -> dict[str, float]:
    """Return the errors in percent, of a model that is invariant and conservative by construction none.

    Args:
        structures: at levels of the model; the first `STRUCTURES` of them count.
    """
    found: dict[str, float] = {}
    chosen = [s for s in structures[:STRUCTURES] if len(s) > 1]
    if not potential.spec.invariant and chosen:
        found["rotation error (%)"] = 100 * _rotation_error(potential, chosen)
    small = [s for s in chosen if 2 < len(s) <= LARGEST][:JACOBIANS]
    if potential.spec.kind != "conservative" and small:
        found["asymmetry of the force Jacobian (%)"] = 100 * float(np.mean([_asymmetry(potential, s) for s in small]))
    return found


def _rotation_error(potential: Potential, structures: Sequence[Structure]) -> float:
    turns = [random_rotation(k, improper=bool(k % 2)) for k in range(ORIENTATIONS)]
    upright, back = [], []
    for s in structures:
        here, *rows = evaluate(potential, [s, *turned(s, turns)], ("forces",))
        upright.append(here["forces"])
        back.append(turned_back(rows, turns))
    return rotation_error(back, upright).value


def _asymmetry(potential: Potential, s: Structure) -> float:
    batch = collate([s], potential.spec.graphs, potential.spec.torch_dtype, device_of(potential)).with_leaves()
    return jacobian_asymmetry(potential.eval()(batch, ("forces",))["forces"], batch.positions)
