"""Which frames the teacher labels: those that tell the most beyond what is labelled, by the last layer of the student.

The energy is linear in the last layer f of each atom, so with labelled atoms F the variance of an atom's energy is f (F^T F)^-1 f^T times a constant
(LLPR, Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5 (2024) 045018). Frames are taken one after another: the one with the
largest mean variance, whose atoms then join F (a greedy D-optimal design). So the second of two like frames is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential, device_of
from mlipfm_interfaces.structure import Structure

from .student import TOGETHER

#: Of the largest eigenvalue of F^T F, added to its diagonal.
RIDGE = 1e-8


def last_layers(potential: Potential, structures: Sequence[Structure]) -> list[np.ndarray]:
    """Return the last layer [N, channels] of the atoms of each structure, float64.

    Raises:
        PropertyNotAvailableError: the potential shows no last layer.
    """
    found: list[np.ndarray] = []
    for k in range(0, len(structures), TOGETHER):
        bare = [s.replace(level=None, labels={}, label_std={}) for s in structures[k : k + TOGETHER]]
        batch = collate(bare, potential.spec.graphs, potential.spec.torch_dtype, device_of(potential))
        with torch.no_grad():
            layer = potential(batch, ("energy",)).features.get("last_layer")
        if layer is None:
            raise PropertyNotAvailableError("this student shows no last layer, by which frames are chosen", hint="choose another student")
        values = layer.value.to("cpu", torch.float64).numpy()
        found += np.split(values, np.cumsum(batch.n_atoms.cpu().numpy())[:-1])
    return found


def variances(known: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the atoms of f (F^T F)^-1 f^T for each new frame [frames]."""
    inverse = _inverse(known)
    return np.array([float(np.mean(np.sum((f @ inverse) * f, axis=1))) for f in new])


def most_informative(known: Sequence[np.ndarray], new: Sequence[np.ndarray], count: int) -> list[int]:
    """Return the indices of up to `count` frames of `new`, in the order in which they are taken."""
    inverse, left = _inverse(known), list(range(len(new)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        scores = [float(np.mean(np.sum((new[k] @ inverse) * new[k], axis=1))) for k in left]
        best = left.pop(int(np.argmax(scores)))
        chosen.append(best)
        f = new[best]
        inverse = inverse - inverse @ f.T @ np.linalg.solve(np.eye(len(f)) + f @ inverse @ f.T, f @ inverse)  # Woodbury's identity
    return chosen


def _inverse(known: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.concatenate(list(known))
    gram = stacked.T @ stacked
    ridge = RIDGE * max(float(np.linalg.eigvalsh(gram)[-1]), 1e-300)
    return np.asarray(np.linalg.inv(gram + ridge * np.eye(len(gram))))
