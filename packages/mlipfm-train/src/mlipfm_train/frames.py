"""`Frames`: several stores read as one list of structures, with the cost of each for planning batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mlipfm_data.batches import CostModel, edge_costs
from mlipfm_data.parallel import View
from mlipfm_data.store.store import Store
from mlipfm_data.store.structure_table import StructureTable
from mlipfm_interfaces.errors import LevelError, MissingLabelsError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level

#: Up to this many structures every cost is counted; beyond it, costs are interpolated in the number of atoms from a sample of this size.
COUNTED = 20_000
PLAIN = CostModel()


class Frames(View):
    """Structures of several stores in the order given, those of `levels` only if any are named. Structures whose label `weight` is 0 are left out,
    so that they enter nothing: neither losses nor references, scales, neighbours, validation.

    Attributes:
        weightless: how many have weight 0.

    Raises:
        LevelError: for a level that no structure has. MissingLabelsError: if there are stores but no structures, or none with a weight.
    """

    def __init__(self, paths: Sequence[str | Path], levels: Sequence[str] = ()) -> None:
        self.stores = [Store(path) for path in paths]
        found = [(k, i, level) for k, store in enumerate(self.stores) for i, level in enumerate(store.levels)]
        known = sorted({level for _, _, level in found if level is not None})
        for level in levels:
            if find_level(level, known) is None:
                raise LevelError(
                    f"no structure has level {level!r}", where=", ".join(map(str, paths)), hint=f"there are: {', '.join(known) or 'none'}"
                )
        wanted = [(k, i) for k, i, level in found if not levels or find_level(level, levels)]
        if paths and not wanted:
            raise MissingLabelsError("there are no structures", where=", ".join(map(str, paths)), hint="fill the store first")
        idle = [store.weightless() for store in self.stores]
        self._place = [(k, i) for k, i in wanted if i not in idle[k]]
        self.weightless = len(wanted) - len(self._place)
        if paths and not self._place:
            raise MissingLabelsError("all structures have weight 0", where=", ".join(map(str, paths)), hint="correct the label `weight`")

    def __len__(self) -> int:
        return len(self._place)

    def at(self, k: int) -> Structure:
        """Return structure `k`."""
        store, i = self._place[k]
        return self.stores[store][i]

    def structure_table(self) -> StructureTable:
        """Return what every structure is, without its geometry and the values of its labels; one pass over the files."""
        whole = StructureTable.joined([store.structure_table() for store in self.stores])
        first = np.cumsum([0, *map(len, self.stores)])
        rows = np.array([first[k] + i for k, i in self._place], dtype=np.int64)
        return whole if len(rows) == len(whole) else whole.take(rows)

    @property
    def natoms(self) -> np.ndarray:
        """[structures] int64."""
        counts = [store.natoms for store in self.stores]
        return np.array([counts[k][i] for k, i in self._place], dtype=np.int64)

    @property
    def set_of(self) -> np.ndarray:
        """[structures] int64, place of each one's store among the paths."""
        return np.array([k for k, _ in self._place], dtype=np.int64)


def frame_costs(frames: Sequence[Structure], cutoff: float, seed: int = 0, model: CostModel = PLAIN) -> np.ndarray:
    """[structures] cost of each by its atoms and pairs within `cutoff` Å: counted, or for large sets interpolated in the number of atoms."""
    if len(frames) <= COUNTED or not isinstance(frames, Frames):
        return edge_costs(frames, cutoff, model.per_atom, model.per_edge)
    atoms = frames.natoms
    sample = np.sort(stream(seed, "costs").choice(len(frames), COUNTED, replace=False))
    costs = edge_costs((frames[int(k)] for k in sample), cutoff, model.per_atom, model.per_edge)
    sizes = np.unique(atoms[sample])
    return np.interp(atoms, sizes, [costs[atoms[sample] == n].mean() for n in sizes])


def in_budget(costs: np.ndarray, budget: float) -> list[slice]:
    """Consecutive runs whose cost stays within `budget` (one item at least): fixed batches for evaluation."""
    runs, start, total = [], 0, 0.0
    for k, cost in enumerate(costs):
        if k > start and total + cost > budget:
            runs.append(slice(start, k))
            start, total = k, 0.0
        total += float(cost)
    return [*runs, slice(start, len(costs))] if len(costs) else []
