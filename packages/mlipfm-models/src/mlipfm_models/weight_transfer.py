"""Taking over what another potential has learned: direct -> conservative, new elements, new levels.

Rows of tables belong to elements and levels, not to positions in a table: they are matched by what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import LevelError, RecipeError
from mlipfm_interfaces.potential import Potential
from torch import Tensor

from .configuration import HEADS, parts_of

if TYPE_CHECKING:
    from .assembly import AssembledPotential

__all__ = ["TransferReport", "transfer_weights"]

ELEMENTS, LEVELS = "conditioning.element.weight", "conditioning.level.weight"
#: Readouts of levels, if they are stacked.
READOUTS = ("heads.energy.outer.weight", "heads.energy.outer.bias")


@dataclass(frozen=True)
class TransferReport:
    """Names of parameters (rows of tables as `name[row]`).

    Attributes:
        copied: taken from the source.
        dropped: in the source only.
        fresh: in the target only; they keep their initial values, but a level starts from known ones (`name[level] from ...`).
    """

    copied: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]


@torch.no_grad()
def transfer_weights(source: Potential, target: Potential, level_starts: Mapping[str, str] | None = None) -> TransferReport:
    """Copy every parameter of `source` that means the same in `target`, which is changed in place.

    Elements and levels are matched by identity. A level that the source does not have starts from the mean of the source's levels, or from
    the one that `level_starts` names. If the energy scales differ, heads are rescaled, so that the energies stay what they were. The
    target's references stay, but a level without any takes those of the source. A condition that the source did not have starts without
    effect where it is not given.

    Raises:
        RecipeError: if the two are not of one kind, or their backbones have different options: the weights would mean something else.
        LevelError: if `level_starts` names a level that is not there.
    """
    old, new = _assembled(source), _assembled(target)
    _check_backbones(old, new)
    _check_heads(old, new)
    theirs, ours = dict(old.named_parameters()), dict(new.named_parameters())
    outputs = {f"heads.{name}": key for name, key in new.heads.last_layers().items()}
    tables = (LEVELS, *(READOUTS if new.config["level_readout"] == "stacked" else ()))
    copied = [name for name in ours if name in theirs and name not in (ELEMENTS, *tables)]
    for name in copied:
        ours[name].copy_(theirs[name] * _factors(old, new, outputs[name], theirs[name]) if name in outputs else theirs[name])
    dropped = [name for name in theirs if name not in ours]
    fresh = [name for name in ours if name not in theirs]
    parts = [_elements(old, new, ours[ELEMENTS], theirs[ELEMENTS])]
    for table in tables:
        rows = theirs[table].expand(len(old.spec.levels), *theirs[table].shape[1:])  # a shared readout is that of every level
        rows = rows * _factors(old, new, outputs[table], rows) if table in outputs else rows
        parts.append(_levels(table, old.spec.levels, new.spec.levels, ours[table], rows, level_starts or {}))
    for rows_of in parts:
        copied, dropped, fresh = copied + rows_of.copied, dropped + rows_of.dropped, fresh + rows_of.fresh
    for name in new.conditioning.electronic.keys() - old.conditioning.electronic.keys():
        new.conditioning.electronic[name].unknown.weight.zero_()  # type: ignore[union-attr,operator]  # an ElectronicEmbedding
    for level in set(new.spec.levels) & set(old.spec.levels):
        if level not in new.config["references"] and level in old.config["references"]:
            new.set_references(level, old.config["references"][level])
            new.config |= _open_at(level, old.config, new.config)
    return TransferReport(tuple(sorted(copied)), tuple(sorted(dropped)), tuple(sorted(fresh)))


@dataclass(frozen=True)
class _Rows:
    copied: list[str]
    dropped: list[str]
    fresh: list[str]


def _open_at(level: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the source's data left open of the references that are taken over."""
    left = old.get("undetermined", {})
    return {"undetermined": {**new.get("undetermined", {}), level: left[level]}} if level in left else {}


def _elements(old: AssembledPotential, new: AssembledPotential, ours: Tensor, theirs: Tensor) -> _Rows:
    a, b = old.spec.elements, new.spec.elements
    for z in set(a) & set(b):
        ours[b.index(z)] = theirs[a.index(z)].to(ours.dtype)
    parts = set(a) & set(b), set(a) - set(b), set(b) - set(a)
    return _Rows(*([f"{ELEMENTS}[{symbol(z)}]" for z in part] for part in parts))


def _levels(table: str, a: Sequence[str], b: Sequence[str], ours: Tensor, theirs: Tensor, starts: Mapping[str, str]) -> _Rows:
    """Rows of levels `b` in `ours`, of levels `a` in `theirs`."""
    for level, origin in starts.items():
        if level not in b or origin not in a:
            raise LevelError(
                f"level {level!r} cannot start from {origin!r}", hint=f"the target has {', '.join(b)}; the source has {', '.join(a)}"
            )
    rows = _Rows([], [f"{table}[{level}]" for level in a if level not in b], [])
    known = {level: level for level in a} | dict(starts)
    for k, level in enumerate(b):
        start = known.get(level)
        ours[k] = (theirs.mean(dim=0) if start is None else theirs[a.index(start)]).to(ours.dtype)
        if start == level:
            rows.copied.append(f"{table}[{level}]")
        else:
            rows.fresh.append(f"{table}[{level}] from {start or 'the mean of the known'}")
    return rows


def _factors(old: AssembledPotential, new: AssembledPotential, output: str, parameter: Tensor) -> Tensor:
    """[rows, 1] or [rows]: what each row of a last layer is multiplied by, so that the output keeps its unit. Of pairs the second number has none."""
    factors = torch.full_like(parameter[:, :1] if parameter.ndim == 2 else parameter, _scale(old, output) / _scale(new, output))
    if output in new.heads.parts and parts_of(new.config["heads"])[output] == "pair":
        factors[1] = 1.0
    return factors


def _scale(potential: AssembledPotential, output: str) -> float:
    """By what an output of the heads is multiplied: its own scale, or that of the model."""
    own = potential.config["heads"].get(output, {}).get("scale", 1.0) if output in HEADS else potential.scale
    return float(own)


def _check_heads(old: AssembledPotential, new: AssembledPotential) -> None:
    """Refuse what no copied weight can keep."""
    if old.config["level_readout"] == "stacked" and new.config["level_readout"] == "shared":
        raise RecipeError(
            "readouts of several levels cannot become one",
            where="level_readout",
            hint="keep `level_readout: stacked` and name fewer levels",
        )
    for key in old.config["heads"].keys() & new.config["heads"].keys():
        a, b = (potential.config["heads"][key].get("shift") for potential in (old, new))
        if a != b:
            raise RecipeError(
                f"the head {key!r} has the shift {b}, the source has {a}",
                where="heads",
                hint="use the source's, its weights mean nothing else",
            )


def _assembled(potential: Potential) -> AssembledPotential:
    from .assembly import AssembledPotential

    if not isinstance(potential, AssembledPotential):
        raise RecipeError(f"weights can be taken over between assembled potentials only, not from or to {type(potential).__name__}")
    return potential


def _check_backbones(old: AssembledPotential, new: AssembledPotential) -> None:
    if old.plugin != new.plugin:
        raise RecipeError(f"a {new.plugin!r} model cannot take over the weights of a {old.plugin!r} model")
    if old.backbone.element_resolved and old.spec.elements != new.spec.elements:
        names = ", ".join(symbol(z) for z in old.spec.elements)
        raise RecipeError(f"a {old.plugin!r} model has parameters for each element and cannot learn others than {names}", where="elements")
    a, b = old.config["backbone"], new.config["backbone"]
    keys = sorted((a.keys() | b.keys()) - {"shortest_distances"})  # of the data, not of the weights
    different = [f"{key} is {b.get(key)}, the source has {a.get(key)}" for key in keys if a.get(key) != b.get(key)]
    if different:
        raise RecipeError(
            f"backbones differ: {'; '.join(different)}", where="backbone", hint="use the source's options, its weights mean nothing else"
        )
