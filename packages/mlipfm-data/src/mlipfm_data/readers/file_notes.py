"""What a file says of a frame beside its labels: atoms that a constraint fixes, weights of the frame and of forces, states that nobody gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MissingLabelsError, ShapeError
from mlipfm_interfaces.fixed_atoms import fixed_axes, marks_fixed, truths
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .interpret import Decisions

Array = NDArray[Any]

#: Names of columns that are true for atoms that are fixed, and for atoms (or their axes) that move: they are refused if they hold anything else.
#: A column with another name that `marks_fixed` recognises is read where it is true or false for each atom.
_HELD = ("REF_fixed", "fixed", "fixed_atoms", "fixed_mask", "is_fixed")
_MOVE = ("move_mask", "movable", "selective_dynamics")
#: Columns that weigh the force on each atom.
FORCE_WEIGHTS = ("REF_forces_weight", "forces_weight", "force_weight", "forces_mask", "force_mask", "forces_weights", "force_weights")
#: Weights of a whole frame. MACE multiplies `config_weight` with that of each label (mace/data/utils.py).
FRAME_WEIGHT = ("REF_weight", "config_weight")
#: Names that may mean such a weight, and others.
_OTHER_WEIGHTS = ("weight", "weights", "sample_weight", "frame_weight", "structure_weight", "energy_weight")
_OF_FRAME = _OTHER_WEIGHTS[:-1]
_OF_LABEL = {"energy": ("config_energy_weight",), "forces": ("config_forces_weight",),
             "stress": ("config_stress_weight", "config_virials_weight")}  # fmt: skip


def _stated(seen: Decisions, quantity: str, names: tuple[str, ...], per_atom: bool) -> Iterator[tuple[str, Any]]:
    """(key, value) of a mark: of the key that the user named, else of its usual names. Raises `MissingLabelsError` if the named key is not there."""
    named = seen.options.keys.get(quantity)
    if named is None:
        yield from seen.spelt(names, per_atom)
    elif seen.frame.find(named) is None:
        raise MissingLabelsError(
            f"no key {named!r} for {quantity}; keys found: {', '.join(seen.frame.found())}", hint="change --option keys=..."
        )
    else:
        yield named, seen.frame.find(named)


def _fixed_atoms(seen: Decisions) -> Array | None:
    """[N], 1 where the file holds the atom in place along all axes; None where it says nothing, or holds none (`REF_fixed` is kept as it is).

    An atom that is fixed along some axes only cannot be kept as such: it is counted as free, and a remark says so.

    Raises:
        ShapeError: a column that is not true or false for each atom. InvalidStructureError: two columns that disagree.
    """
    n = len(seen.frame.numbers)
    found: dict[str, Array] = {}
    for names, held in ((_HELD, True), (_MOVE, False)):
        if not held and "fixed" in seen.options.keys:
            continue
        others = sorted(key for key in seen.frame.arrays if marks_fixed(key) is held and key.lower() not in names)
        for key, value in _stated(seen, "fixed", (*names, *others), per_atom=True):
            try:
                axes = fixed_axes(value, key, n, held)
            except ShapeError:
                if key not in others:
                    raise
                continue  # by its values, such as `fixed_charges`, it says something else
            partly = int((axes.any(axis=1) & ~axes.all(axis=1)).sum())
            if partly:
                seen.notes.append(f"warning: {key!r} fixes atoms along some axes only, which is not kept: they count as free")
            found[key] = np.asarray(axes.all(axis=1))
            seen.take("fixed", key)
    keys = list(found)
    for other in keys[1:]:
        if not np.array_equal(found[keys[0]], found[other]):
            raise InvalidStructureError(f"{keys[0]!r} and {other!r} fix different atoms", hint=f"leave one out: --option ignore={other}")
    if not keys or not (found[keys[0]].any() or _HELD[0] in keys):
        return None
    return found[keys[0]].astype(np.float64)


def fixed_by(constraints: Any, n: int) -> tuple[dict[str, Array], tuple[str, ...]]:
    """From ASE's constraints as dictionaries: a column `fixed_mask` [N, 3] of what `FixAtoms`, `FixCartesian` and `FixScaled` hold, and the names
    of other constraints, which are not kept.

    Raises:
        InvalidStructureError: a constraint of atoms that are not there.
    """
    held = np.zeros((n, 3), dtype=bool)
    others: list[str] = []
    for constraint in constraints if isinstance(constraints, list | tuple) else ():
        name = str(constraint.get("name")) if isinstance(constraint, Mapping) else "?"
        values = constraint.get("kwargs", {}) if isinstance(constraint, Mapping) else {}
        if name not in ("FixAtoms", "FixCartesian", "FixScaled"):
            others.append(f"constraint {name}")
            continue
        try:
            atoms = np.atleast_1d(np.asarray(values.get("indices", values.get("a")))).astype(np.int64)
            mask = np.asarray(values.get("mask", True), dtype=bool)
            held[atoms] |= mask
        except (IndexError, TypeError, ValueError) as error:
            raise InvalidStructureError(f"the constraint {name} is damaged: {error}") from None
    return ({"fixed_mask": held} if held.any() else {}), tuple(others)


def force_weights(seen: Decisions, labels: Mapping[str, Array], mask_zero: bool) -> Array | None:
    """[N] weights of the forces: of the file's column; 0 for fixed atoms whose force is written as exactly zero; None if all are 1.

    Args:
        mask_zero: 0 also for every other atom whose force is exactly zero, as the user asked, in frames where some force is not.
    """
    n = len(seen.frame.numbers)
    weights = np.ones(n)
    for key, value in _stated(seen, "forces_weight", FORCE_WEIGHTS, per_atom=True):
        column = _weight_of_atoms(value, key, n)
        if column is None:
            seen.notes.append(f"warning: {key!r} weighs the components of a force differently, which is not kept")
            continue
        weights = column
        seen.take("forces_weight", key)
    stated = seen.used.get("forces_weight") == FORCE_WEIGHTS[0]
    if "forces" not in labels or labels["forces"].all():
        return weights if stated or (weights != 1).any() else None
    zero = np.asarray((labels["forces"] == 0).all(axis=1))
    held = labels.get("fixed")
    if zero.any() and not zero.all():
        zeroed = np.zeros(n, dtype=bool) if held is None else zero & np.asarray(held == 1)
        if zeroed.any():
            seen.notes.append("forces of fixed atoms are exactly zero, which they are not: left out of loss and errors (forces_weight 0)")
        if mask_zero and (zero & ~zeroed).any():
            seen.effective.add("mask_zero_forces")
            seen.notes.append("forces that are exactly zero are left out of loss and errors, as asked (forces_weight 0)")
        weights = np.where(zeroed | (zero & mask_zero), 0.0, weights)
    return weights if stated or (weights != 1).any() else None


def _weight_of_atoms(value: Any, key: str, n: int) -> Array | None:
    """[N], of one number or of one for each atom; None if the three components of an atom have different weights."""
    array = np.asarray(value)
    if array.size == 1 and n > 1 and array.dtype.kind != "b":  # one for all atoms
        return np.full(n, _one(value, key))
    numbers = truths(value, key).astype(np.float64) if array.dtype.kind in "bSU" else array.astype(np.float64)
    if numbers.size not in (n, 3 * n):
        raise ShapeError(f"{key!r} has shape {list(numbers.shape)}, [{n}] is needed")
    rows = numbers.reshape(n, -1)
    return rows[:, 0].copy() if (rows == rows[:, :1]).all() else None


def _frame_weight(seen: Decisions, labels: dict[str, Array]) -> None:
    """Set the label `weight` from the weights that a file gives to a frame, and drop labels to which it gives the weight 0.

    Under a name that may mean something else (`weight`: a molar mass, a degeneracy), only 0 and 1 are taken: 0 can only mean that the frame does
    not count, as GPUMD's `weight`, and 1 changes nothing. Other values are named and not used.

    MACE's weights of energy, forces and stress are kept where they are equal; where they differ otherwise than by 0, a remark says that they
    are not kept.

    Raises:
        ShapeError: a weight that is not one number.
    """
    weight = counts = 1.0
    for key, value in seen.spelt(_OTHER_WEIGHTS, one_place=True):
        if seen.options.keys.get("weight") == key:
            continue
        if key.lower() in _OF_FRAME and _zero_or_one(value):
            counts *= _one(value, key)
            seen.take("weight", key)
        else:
            seen.notes.append(f"warning: {key!r} is not honoured: if it is the weight of a frame in training, --option keys=weight={key}")
    for key, value in _stated(seen, "weight", FRAME_WEIGHT, per_atom=False):
        weight = _one(value, key)
        seen.take("weight", key)
    weight *= counts
    own: dict[str, float] = {}
    for quantity, names in _OF_LABEL.items():
        for key, value in seen.spelt(names):
            seen.touched.add(key)
            if quantity in labels:
                own[quantity] = _one(value, key)
                if own[quantity] == 0:
                    del labels[quantity]
                    seen.used.pop(quantity, None)
                    seen.weightless[quantity] = key
                    seen.notes.append(f"{quantity} left out: {key} is 0")
                break
    left = {own.get(quantity, 1.0) for quantity in _OF_LABEL if quantity in labels} if own else {1.0}
    if len(left) > 1:
        seen.notes.append("warning: weights of the energy, forces and stress of a frame differ, which is not kept: all count alike")
    elif left:
        weight *= left.pop()
    if weight != 1.0 or "weight" in seen.used:
        labels["weight"] = np.asarray(weight)


def _one(value: Any, key: str) -> float:
    try:
        return float(np.asarray(value, dtype=np.float64).reshape(()))
    except (TypeError, ValueError):
        raise ShapeError(f"{key!r} must be one number, got {str(value)[:40]!r}") from None


def _zero_or_one(value: Any) -> bool:
    try:
        return _one(value, "") in (0.0, 1.0)
    except ShapeError:
        return False


def set_marks(seen: Decisions, labels: dict[str, Array], mask_zero: bool) -> None:
    """Add `fixed`, `forces_weight` and `weight` to the labels where the file says so; see the functions above for what is refused."""
    fixed = _fixed_atoms(seen)
    if fixed is not None:
        labels["fixed"] = fixed
    _frame_weight(seen, labels)
    weights = force_weights(seen, labels, mask_zero)
    if weights is not None:
        labels["forces_weight"] = weights


def unstated_state(seen: Decisions, charge: int | None, multiplicity: int | None) -> None:
    """Warn of initial charges and moments that add up to a charge or a spin which nobody gave. They are a start for a calculation, no labels."""
    for key, stated, meaning, option in (
        ("initial_charges", charge, "a total charge", "charge"),
        ("initial_magmoms", multiplicity, "a number of unpaired electrons", "spin"),
    ):
        for name, value in seen.spelt((key,), per_atom=True, one_place=True):
            try:
                total = float(np.asarray(value, dtype=np.float64).sum())
            except (TypeError, ValueError):
                continue
            whole = round(total)
            if key == "initial_magmoms" and seen.frame.pbc.any():
                continue  # a usual start for magnetic crystals
            if stated is None and np.asarray(value).ndim == 1 and whole and abs(total - whole) < 0.05:
                seen.notes.append(
                    f"warning: {name!r} add up to {whole:+d}, and no {meaning.removeprefix('a ')} is given: {name!r} are not read; "
                    f"say it with --{option}-key or --option {'total_charge' if option == 'charge' else 'spin_multiplicity'}=N"
                )
