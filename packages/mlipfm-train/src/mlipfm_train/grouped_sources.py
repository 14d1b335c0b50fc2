"""Sources that take batches from one group of structures at a time: `curriculum` (stages with shares of the groups) and `tasks` (for Reptile).

Groups are the stores of the recipe, its levels of theory, the samplings of structures (`langevin-300K`, `langevin-600K`: temperatures), or structures
by their largest force. Each group yields its structures as the source
`store` does, once an epoch of its own; which group comes next depends on the seed and the number of batches taken, so that resumed runs are exact.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from mlipfm_data.parallel import Chosen
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .sources import SourceContext, StoreSource

By = Literal["store", "level", "sampling", "force"]


def groups_of(frames: Sequence[Structure], by: By, bounds: Sequence[float] = ()) -> dict[str, np.ndarray]:
    """Return the places of the structures of each group, by its name, in order: of stores, of levels and samplings by their names
    (numbers in them by size), or of growing largest forces.

    Args:
        bounds: eV/Å, between the groups of `by: force`; a group reaches up to its bound and has none beyond the last.

    Raises:
        RecipeError: bounds that cannot be, forces that are missing, or fewer than two groups with structures.
    """
    if by not in get_args(By) or (by == "force") != bool(bounds) or list(bounds) != sorted({float(b) for b in bounds if b > 0}):
        hint = "bounds: growing eV/Å above 0, with by: force and only there; by: store, level, sampling or force"
        raise RecipeError(f"by={by!r}, bounds={list(bounds)} cannot be", where="data.source", hint=hint)
    if by == "store":
        of, names = getattr(frames, "set_of", np.zeros(len(frames), dtype=np.int64)), [str(s.path) for s in getattr(frames, "stores", [])]
    elif by in ("level", "sampling"):
        said = [str(s.level if by == "level" else s.provenance.sampling) for s in frames]
        names = sorted(set(said), key=_by_number)
        of = np.array([names.index(name) for name in said])
    else:
        of = np.searchsorted(bounds, [_largest_force(s) for s in frames])
        names = [f"force up to {b:g} eV/A" for b in bounds] + [f"force above {bounds[-1]:g} eV/A"]
    found = {name: np.flatnonzero(of == k) for k, name in enumerate(names)}
    if len(found) < 2 or not all(len(places) for places in found.values()):
        sizes = ", ".join(f"{name}: {len(places)}" for name, places in found.items()) or "one"
        raise RecipeError(
            f"at least two groups with structures are wanted, by {by} there are {sizes}",
            where="data.source",
            hint="name several stores in data.train, or choose other groups",
        )
    return found


def _by_number(name: str) -> list[tuple[float, str]]:
    """Key by which `langevin-90K` comes before `langevin-300K`."""
    return [(float(number or 0), text) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _largest_force(s: Structure) -> float:
    if "forces" not in s.labels:
        raise RecipeError("by: force needs forces, and a structure has none", where="data.source", hint="by: store or by: level")
    return float(np.linalg.norm(s.labels["forces"], axis=1).max())


class GroupedSource(ABC):
    """Batches of one group at a time; see the module.

    Attributes:
        names: of the groups. epoch: of the group of the last batch. taken: batches so far.
    """

    uses_potential = False

    def __init__(self, context: SourceContext, by: By, bounds: Sequence[float]) -> None:
        groups = groups_of(context.frames, by, bounds)
        self.names, self.sizes = list(groups), [len(places) for places in groups.values()]
        self.seed, self.taken, self._last = context.seed, 0, 0
        self._sources = [
            StoreSource(replace(context, frames=Chosen(context.frames, places.tolist()), seed=context.seed + k))
            for k, places in enumerate(groups.values())
        ]

    @abstractmethod
    def group(self, taken: int) -> int:
        """Return the group of the batch after `taken` batches: the same for all ranks."""

    @property
    def epoch(self) -> int:
        """Times that the group of the last batch was gone through; with its place, so that no two groups have the same."""
        return self._sources[self._last].epoch * len(self._sources) + self._last

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """Return this rank's structures of the next step; `potential` is not used."""
        self._last = self.group(self.taken)
        self.taken += 1
        return self._sources[self._last].next_batch(None)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact continuation needs."""
        return {"taken": self.taken, "last": self._last, "groups": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.taken, self._last = int(state["taken"]), int(state["last"])
        for source, own in zip(self._sources, state["groups"], strict=True):
            source.load_state_dict(own)


class Curriculum(GroupedSource):
    """Stages one after the other, each with the shares in which batches are drawn from the groups; one stage is a mixture.

    Args:
        stages: each `{steps: N, shares: [one number for each group]}`; the last has no `steps` and lasts to the end of the run.
        by: what groups are: `store`, `level`, `sampling` or `force`. bounds: eV/Å; see `groups_of`.

    Raises:
        RecipeError: stages or groups that cannot be, a group that is never shown, or a last stage that the run does not reach.
    """

    def __init__(self, context: SourceContext, stages: Sequence[Mapping[str, Any]], by: By = "store", bounds: Sequence[float] = ()) -> None:
        super().__init__(context, by, bounds)
        self.ends, self.shares = _stages(stages, self.names)
        if context.steps is not None and len(self.ends) > 1 and self.ends[-2] >= context.steps:
            what = f"the last stage begins after {self.ends[-2]:g} steps, the run has {context.steps}"
            raise RecipeError(what, where="data.source.stages", hint="fewer steps in the stages before, or a longer run")

    def group(self, taken: int) -> int:
        """Return a group drawn by the shares of the stage."""
        stage = int(np.searchsorted(self.ends, taken, side="right"))
        return int(stream(self.seed, "curriculum", taken).choice(len(self.names), p=self.shares[stage]))

    def describe(self) -> list[str]:
        """Return what preflight says: each stage with its shares."""
        starts = [0, *(int(end) for end in self.ends[:-1])]
        sizes = ", ".join(f"{name} ({size} structures)" for name, size in zip(self.names, self.sizes, strict=True))
        told = [
            f"curriculum from step {start}: " + ", ".join(f"{100 * p:.0f} %" for p in shares)
            for start, shares in zip(starts, self.shares, strict=True)
        ]
        return [f"batches of one group each: {sizes}", *told]


def _stages(stages: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """[stages] steps after which each ends, the last at infinity, and [stages, groups] shares that add up to 1."""
    where, hint = "data.source.stages", "for instance [{steps: 1000, shares: [1, 0]}, {shares: [1, 1]}]"
    for n, stage in enumerate(stages):
        steps, shares = stage.get("steps"), stage.get("shares")
        last = n + 1 == len(stages)
        if (
            set(stage) - {"steps", "shares"}
            or (steps is None) != last
            or (steps is not None and not (isinstance(steps, int) and steps > 0))
        ):
            raise RecipeError(f"stage {n + 1} has the keys {sorted(stage)}: every stage but the last has `steps`", where=where, hint=hint)
        numbers = isinstance(shares, list | tuple) and len(shares) == len(names) and all(isinstance(p, int | float) for p in shares)
        if not numbers or not all(0 <= p < 1e9 for p in shares) or not sum(shares) > 0:  # type: ignore[union-attr,arg-type]  # numbers
            raise RecipeError(f"stage {n + 1} has the shares {shares}, and the groups are {', '.join(names)}", where=where, hint=hint)
    if not stages:
        raise RecipeError("there are no stages", where=where, hint=hint)
    shares = np.array([stage["shares"] for stage in stages], dtype=float)
    unseen = [name for name, own in zip(names, shares.T, strict=True) if not own.any()]
    if unseen:
        raise RecipeError(f"{', '.join(unseen)} is in no stage", where=where, hint="leave the store out, or give it a share")
    ends = np.cumsum([float(stage.get("steps") or np.inf) for stage in stages])
    return ends, shares / shares.sum(axis=1, keepdims=True)


class Tasks(GroupedSource):
    """The groups in turn, `inner` batches from each: what the weight rule `reptile` needs. A task is a level of theory, a store or a range of forces.

    Args:
        inner: batches of one task before the next. by, bounds: see `groups_of`.

    Raises:
        RecipeError: an `inner` below 1, or groups that cannot be.
    """

    def __init__(self, context: SourceContext, inner: int = 5, by: By = "level", bounds: Sequence[float] = ()) -> None:
        if inner < 1:
            raise RecipeError(f"inner must be at least 1, got {inner}", where="data.source", hint="for instance 5")
        super().__init__(context, by, bounds)
        self.inner = inner

    def group(self, taken: int) -> int:
        """Return the task of a step: each `inner` times, then the next."""
        return taken // self.inner % len(self.names)

    def describe(self) -> list[str]:
        """Return what preflight says."""
        sizes = ", ".join(f"{name} ({size} structures)" for name, size in zip(self.names, self.sizes, strict=True))
        return [f"tasks in turn, {self.inner} batches each: {sizes}"]
