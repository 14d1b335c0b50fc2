"""Which charges and multiplicities a model was trained on, and the warning or error for any other.

A model with the condition `total_charge` or `spin_multiplicity` has weights for each kind of state: not given, positive, negative, open-shell.
Those that no training structure has reached are random numbers. `extra["trained_states"]` of a checkpoint therefore lists by condition the values
that training showed, null for structures that give none: `{"total_charge": [null, 0, 1], "spin_multiplicity": [1]}`. Under `pairs` it lists which
charge was there with which multiplicity, `[[0, 1], [0, 2], [1, 1]]`: a model that knows cations and radicals need not know radical cations.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import DamagedFileError, InvalidStructureError, UntrainedStateWarning
from .lattice import in_one_piece

if TYPE_CHECKING:
    from .potential import Potential
    from .structure import Structure

States = Mapping[str, Sequence[Any]]

#: The value of a condition that needs no weights of its own, and its name: its embedding is zero by construction.
DEFAULT_STATES = {"total_charge": (0, "neutral"), "spin_multiplicity": (1, "a singlet")}
#: Key of the pairs of charge and multiplicity.
PAIRS = "pairs"
_PERIODIC = "the model was trained on free molecules: its predictions for periodic structures are extrapolated"
_NOUNS = {"total_charge": "charge", "spin_multiplicity": "spin multiplicity"}


def states_of(extra: Any, where: str = "the checkpoint") -> dict[str, tuple[Any, ...]] | None:
    """Return the states in `extra` of a manifest; None if it has none, as models of earlier versions.

    Raises:
        DamagedFileError: an entry that is no list of whole numbers and nulls.
    """
    entries = extra.get("trained_states") if isinstance(extra, Mapping) else None
    if entries is None:
        return None
    if not isinstance(entries, dict) or not all(_is_list(entries.get(name, [])) for name in DEFAULT_STATES):
        raise DamagedFileError("`trained_states` of the manifest is no table of whole numbers", where=where)
    pairs = entries.get(PAIRS, [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and _is_list(pair) and None not in pair for pair in pairs
    ):
        raise DamagedFileError("`trained_states.pairs` of the manifest is no table of pairs of whole numbers", where=where)
    return {name: tuple(entries[name]) for name in DEFAULT_STATES if entries.get(name)} | (
        {PAIRS: tuple((charge, multiplicity) for charge, multiplicity in pairs)} if pairs else {}
    )


def merge_states(first: States, second: States) -> dict[str, list[Any]]:
    """Return the values that one of two trainings showed: null first, then ascending."""
    both = {name: {*first.get(name, ()), *second.get(name, ())} for name in DEFAULT_STATES}
    found: dict[str, list[Any]] = {
        name: [*([None] if None in some else []), *sorted(v for v in some if v is not None)] for name, some in both.items()
    }
    if all(PAIRS in states for states in (first, second) if states):  # of a model that does not say, nothing is known
        found[PAIRS] = sorted([list(pair) for pair in {tuple(pair) for states in (first, second) for pair in states.get(PAIRS, ())}])
    return found


def check_states(potential: Potential, structures: Iterable[Structure], *, stacklevel: int = 2) -> None:
    """Refuse states for which the model has untrained weights; warn of those that are assumed or extrapolated, once in the life of a potential.

    Warns:
        UntrainedStateWarning: a structure gives no charge where all training structures do, and is taken as neutral (or a singlet); a charge beyond
            those that were trained; a periodic structure where the training structures that came with the model are all free molecules.

    Raises:
        InvalidStructureError: training never showed this sign of the charge, an open shell, or structures that give neither.
    """
    molecules = bool(potential.examples) and not any(s.pbc.any() for s in potential.examples)
    if not potential.trained_states and not molecules:
        return
    reach = max((graph.cutoff for graph in potential.spec.graphs), default=0.0)
    said: set[str] = vars(potential).setdefault("_states_said", set())
    for k, s in enumerate(structures):
        for text in [*state_remarks(potential, s, f"structure {k}"), *([_PERIODIC] if molecules and not _isolated(s, reach) else [])]:
            if text not in said:
                said.add(text)
                warnings.warn(text, UntrainedStateWarning, stacklevel=stacklevel + 1)


def state_remarks(potential: Potential, s: Structure, where: str | None = None) -> list[str]:
    """What is to be said of the charge and multiplicity of a structure; nothing where training showed them. Raises what `check_states` raises."""
    trained, texts = potential.trained_states or {}, []
    for name in trained:
        if name in potential.spec.conditions:
            texts.append(condition_remark(name, getattr(s, name), trained[name], where))
            if name == "spin_multiplicity" and s.spin_multiplicity is None and None not in trained[name] and _odd(s):
                raise InvalidStructureError(
                    f"{s.formula} gives no spin multiplicity; its number of electrons is odd, so it is not the singlet that it would be taken for",
                    where=where,
                    hint=f"give it (2 for a doublet); training showed this model {_listed(name, trained[name])}",
                )
    _refuse_parity(s, trained, where)
    texts = [text for text in texts if text]
    return texts or ([remark] if (remark := _pair_remark(potential, s, trained)) else [])


def _pair_remark(potential: Potential, s: Structure, trained: States) -> str:
    """Return what is to be said of a charge and a multiplicity that training showed, but never together; "" for nothing."""
    pair = (s.total_charge or 0, s.spin_multiplicity or 1)
    pairs = trained.get(PAIRS, ())
    if not pairs or pair in pairs or not set(DEFAULT_STATES) <= set(potential.spec.conditions):
        return ""
    shown = ", ".join(f"{_value('total_charge', charge)} with {multiplicity}" for charge, multiplicity in pairs)
    return (
        f"charge {_value('total_charge', pair[0])} with spin multiplicity {pair[1]} was not trained, the prediction is extrapolated "
        f"and may be off by electronvolts: training showed this model {shown}"
    )


def _refuse_parity(s: Structure, trained: States, where: str | None) -> None:
    """A structure that gives a multiplicity and no charge is taken as neutral, and may then not have the multiplicity."""
    charges = trained.get("total_charge")
    if (
        charges
        and None not in charges
        and s.total_charge is None
        and s.spin_multiplicity is not None
        and (s.spin_multiplicity - 1) % 2 != _odd(s)
    ):
        raise InvalidStructureError(
            f"{s.formula} gives no charge and is taken as neutral: its number of electrons is then {'odd' if _odd(s) else 'even'}, "
            f"which multiplicity {s.spin_multiplicity} cannot pair",
            where=where,
            hint="give the charge, or the right multiplicity",
        )


def condition_remark(name: str, value: int | None, trained: Sequence[int | None], where: str | None = None) -> str:
    """Return what is to be said of a value of the condition `name` where training showed the values `trained`; "" for nothing.

    Raises:
        InvalidStructureError: the weights for it were never trained.
    """
    (usual, word), noun = DEFAULT_STATES[name], _NOUNS[name]
    if value in trained or not trained:
        return ""
    if value is None and usual in trained:
        return (
            f"structures that give no {noun} are taken as {word}: all training structures of this model give theirs "
            f"({_listed(name, trained)})"
        )
    if value == usual and None in trained:  # it is predicted as if it were not given, see `settle_states` of assembled potentials
        return ""
    if value is not None and value != usual and any(v is not None and v != usual and (v > usual) == (value > usual) for v in trained):
        return f"{noun} {_value(name, value)} was not trained, the prediction is extrapolated: training showed this model {_listed(name, trained)}"
    said = f"gives no {noun}" if value is None else f"has {noun} {_value(name, value)}"
    raise InvalidStructureError(
        f"the structure {said}, for which this model has untrained weights: training showed it {_listed(name, trained)}",
        where=where,
        hint=f"give the {noun}" if value is None else "train on such structures, or ask another model",
    )


def _isolated(s: Structure, reach: float) -> bool:
    """Return whether the images of a structure are farther from it than `reach` Å along every axis along which it is periodic."""
    return bool((in_one_piece(s.positions, s.cell, s.pbc)[1] > reach).all())


def _is_list(values: object) -> bool:
    return isinstance(values, list) and all(v is None or type(v) is int for v in values)


def _odd(s: Structure) -> bool:
    return bool((int(s.atomic_numbers.sum()) - (s.total_charge or 0)) % 2)


def _value(name: str, value: int) -> str:
    return f"{value:+d}" if name == "total_charge" and value else str(value)


def _listed(name: str, trained: Sequence[int | None]) -> str:
    stated = [_value(name, v) for v in trained if v is not None]
    noun = _NOUNS[name]
    shown = f"{noun} {', '.join(stated)}" if stated else f"no structure that gives a {noun}"
    return f"{shown} and structures that give none" if stated and None in trained else shown
