"""Augmentation by rotations: what an unconstrained model learns the symmetry of space from (objectives: `augment: rotations`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

import numpy as np
from mlipfm_interfaces.errors import MissingLabelsError, RecipeError
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Augmentation = Literal["none", "rotations"]


def check_augmentation(augment: str, where: str) -> None:
    """Raise `RecipeError` unless the option is known."""
    if augment not in ("none", "rotations"):
        raise RecipeError(f"augment {augment!r} is unknown", where=where, hint="known: none, rotations")


def augmented(structure: Structure, augment: Augmentation, rng: np.random.Generator) -> Structure:
    """Return the structure itself, or in a random orientation (mirrored in half of all cases) with its labels rotated."""
    return turned(structure, random_orthogonal(rng)) if augment == "rotations" else structure


def random_orthogonal(rng: np.random.Generator) -> Floats:
    """[3, 3] uniform over O(3), rotations and mirror images alike: QR of a normal matrix without the signs of R (Mezzadri, math-ph/0609050)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float64)


def turned(structure: Structure, turn: Floats) -> Structure:
    """Return the same matter in another orientation: geometry, field, and labels with their standard deviations, r -> Q r for `turn` Q [3, 3].

    Vectors rotate as Q v, tensors as Q T Q^T, Hessian rows with the three rows of their atom. Standard deviations are those of rotated errors
    whose components were independent.

    Raises:
        MissingLabelsError: for Hessian rows of an atom that has not all three.
    """
    labels = {key: _label(key, value, structure.labels, turn) for key, value in structure.labels.items()}
    changes = {
        "positions": structure.positions @ turn.T,
        "cell": structure.cell @ turn.T,
        "external_field": None if structure.external_field is None else turn @ structure.external_field,
        "labels": labels,
        "label_std": {key: np.sqrt(_label(key, value**2, structure.labels, turn**2)) for key, value in structure.label_std.items()},
    }
    return Structure(**({item.name: getattr(structure, item.name) for item in fields(structure)} | changes))


def _label(key: str, value: Floats, labels: Mapping[str, Floats], turn: Floats) -> Floats:
    if key == "hessian_rows_index":
        return value[_by_atom(value)]
    if key == "hessian_rows":
        order = _by_atom(labels["hessian_rows_index"])
        rows = value[order].reshape(-1, 3, *value.shape[1:])
        return np.einsum("ab,kbnj,cj->kanc", turn, rows, turn).reshape(value.shape)
    if key in ("hvp", "hvp_probe"):
        return value @ turn.T
    return _tensor(quantity(key).shape, value, turn)


def _tensor(shape: tuple[int, ...], value: Floats, turn: Floats) -> Floats:
    """Values whose last axes have this shape: scalars stay, vectors and tensors turn."""
    if shape == (3,):
        return value @ turn.T
    return turn @ value @ turn.T if shape == (3, 3) else value


def _by_atom(index: Floats) -> NDArray[np.intp]:
    """Order of rows by atom, then axis."""
    order = np.lexsort((index[:, 1], index[:, 0]))
    axes, atoms = index[order, 1], index[order, 0]
    if len(index) % 3 or (axes.reshape(-1, 3) != [0, 1, 2]).any() or (atoms[::3] != atoms.reshape(-1, 3).T).any():
        raise MissingLabelsError(
            "Hessian rows turn only with the three rows of their atom",
            where="hessian_rows",
            hint="give all axes of an atom, or do not augment",
        )
    return order
