"""A store in a screenful of text: levels, elements, sizes, labels, periodicity, constraints, weights, and how large the forces are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.structure import Array, Structure

from .store import Store

#: eV/Å, edges of the force histogram.
FORCE_EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, math.inf)
#: Structures that the histogram reads, evenly spread over the store.
SAMPLED = 2000
BAR = 40


def describe(store: Store) -> Iterator[str]:
    """Yield lines for a terminal. Counts are those of the whole store; the histogram says how many structures it sampled."""
    numbers = store.statistics
    state = "" if store.complete else " (not complete: a writer is at work or was killed)"
    yield f"{store.name}: {len(store)} structures, {sum(numbers.elements.values())} atoms{state}"
    yield ""
    yield f"{'level':32s} {'structures':>10s} {'energies':>9s} {'eV/atom':>12s} {'std':>9s} {'forces':>10s} {'rms eV/A':>9s}"
    for name, level in sorted(numbers.levels.items()):
        energy, spread = (_figure(value, level.energies) for value in (level.mean_energy, level.std_energy))
        forces, rms = level.force_components // 3, _figure(level.rms_force, level.force_components)
        yield f"{name or '(not given)':32s} {level.structures:10d} {level.energies:9d} {energy:>12s} {spread:>9s} {forces:10d} {rms:>9s}"
    yield ""
    yield "elements: " + ", ".join(f"{name} {count}" for name, count in numbers.elements.most_common())
    sizes = sorted(numbers.sizes)
    if sizes:
        yield f"atoms per structure: {sizes[0]} to {sizes[-1]}"
    yield "licences: " + ", ".join(f"{name or 'not given'} {count}" for name, count in sorted(numbers.licences.items()))
    yield from _contents(store)
    chosen = np.unique(np.linspace(0, len(store) - 1, min(SAMPLED, len(store))).astype(int)) if len(store) else np.zeros(0, int)
    sampled = [store[int(k)] for k in chosen]
    yield from _precision(sampled)
    yield from _force_histogram(sampled)


def _contents(store: Store) -> Iterator[str]:
    """Labels, periodicity, weights and constraints of the whole store; only structures that have the last two are decoded."""
    table = store.structure_table()
    labels = table.count(lambda kind: (key for key in kind.labels if key not in QUANTITIES or QUANTITIES[key].target))
    yield "labels: " + (
        ", ".join(f"{key} {count}" for key, count in sorted(labels.items(), key=lambda item: (-item[1], item[0]))) or "none"
    )
    axes = table.count(
        lambda kind: ("periodic" if kind.periodic_axes == 3 else "partly periodic" if kind.periodic_axes else "not periodic",)
    )
    yield "periodicity: " + ", ".join(f"{count} {name}" for name, count in axes.most_common())

    def having(key: str) -> Iterator[Array]:
        yield from (store[int(k)].labels[key] for k in np.flatnonzero(table.of_kind(lambda kind: key in kind.labels)))

    weights = np.array([float(value) for value in having("weight")])
    if len(weights):
        yield f"weights: {(weights == 0).sum()} structures of weight 0, {((weights != 0) & (weights != 1)).sum()} of others than 0 and 1"
    for key, words, count in (
        ("fixed", "fixed atoms", lambda value: int((value == 1).sum())),
        ("forces_weight", "forces left out (forces_weight 0)", lambda value: int((value == 0).sum())),
        ("forces_weight", "forces of other weights than 0 and 1", lambda value: int(((value != 0) & (value != 1)).sum())),
    ):
        found = [n for n in map(count, having(key)) if n]
        if found:
            yield f"{words}: {sum(found)} atoms in {len(found)} structures"


def _precision(structures: Sequence[Structure]) -> Iterator[str]:
    """Yield how coarse the energies are, if they have single precision or few decimals."""
    from ..label_checks.energies import rounding, single_precision_step

    energies = np.array([float(s.labels["energy"]) for s in structures if "energy" in s.labels])
    if not len(energies):
        return
    single, step = single_precision_step(energies), rounding(energies)
    if single is not None:
        yield f"precision of energies: single, steps of {single:.2g} eV ({len(energies)} sampled)"
    elif step is not None:
        yield f"precision of energies: whole multiples of {step:g} eV ({len(energies)} sampled)"
    else:
        yield f"precision of energies: finer than 0.0001 eV ({len(energies)} sampled)"


def _figure(value: float, count: int) -> str:
    return f"{value:.4g}" if count else "-"


def _force_histogram(structures: Sequence[Structure]) -> Iterator[str]:
    """Lines of a histogram of |F| over the atoms of `structures` that have forces."""
    sizes = [np.linalg.norm(s.labels["forces"], axis=1) for s in structures if "forces" in s.labels]
    if not sizes:
        return
    counts = np.histogram(np.concatenate(sizes), FORCE_EDGES)[0]
    yield ""
    yield f"|F| in eV/A of {counts.sum()} atoms in {len(sizes)} sampled structures"
    for low, high, count in zip(FORCE_EDGES, FORCE_EDGES[1:], counts, strict=False):
        yield f"{low:6g} to {high:<6g} {count:8d} {'#' * math.ceil(BAR * count / counts.max())}"
