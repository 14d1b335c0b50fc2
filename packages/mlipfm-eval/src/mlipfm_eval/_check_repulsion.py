"""Rules of dynamics: a repulsive core, no collapse when it is hot, and a total energy that is kept."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, MASSES, symbol
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure

from . import _check_structures as made
from ._check_model_input import CheckedModel, ask
from ._model_checks import Measured, model_check, worst

#: Pairs of elements that are tried at most.
PAIRS, PAIRS_QUICK = 120, 12
#: Distances of the core, Å, and as fractions of the sum of covalent radii; those of the bond and beyond, fractions.
CORE = (0.1, 0.2, 0.3, 0.4, 0.5)
CORE_FRACTIONS = (0.2, 0.3, 0.4, 0.5, 0.6)
OUTSIDE = tuple(np.arange(0.66, 1.8, 0.06))
#: eV, how far the energy of a molecule may fall when an atom is pushed into its neighbour: it leaves others, whose repulsion it is rid of.
PUSHED = 0.5


def pairs_of(subject: CheckedModel, most: int) -> list[tuple[int, int]]:
    """Return pairs of elements: those of its structures first, then equal ones, then the rest of those it declares, up to `most`."""
    own = sorted({int(z) for s in (*subject.own, *subject.all) for z in s.atomic_numbers})
    first = list(combinations_with_replacement(own, 2))
    rest = [(z, z) for z in subject.stated] + list(combinations_with_replacement(subject.stated, 2))
    return list(dict.fromkeys([*first, *rest]))[:most]


@model_check(
    "repulsive-core",
    "Two atoms pushed into each other lie above their bond, and the energy rises all the way in.",
    "conservative",
    exact=False,
)
def _core(subject: CheckedModel) -> Measured | None:
    pairs = pairs_of(subject, PAIRS_QUICK if subject.quick else PAIRS)
    found = [m for pair in pairs for m in _dimer_core(subject, *pair)]
    found += [m for s in (subject.own or (subject.molecule,))[:3] for m in _squeezed(subject, s)]
    return worst(*found) if found else None


def _dimer_core(subject: CheckedModel, first: int, second: int) -> list[Measured]:
    """Return how far the energy of a pair falls on the way in, eV."""
    reach = float(COVALENT_RADII[first] + COVALENT_RADII[second])
    core = sorted({*(r for r in CORE if r < 0.62 * reach), *(f * reach for f in CORE_FRACTIONS)})
    energies = dict(_curve(subject, [made.dimer(first, second, r) for r in core], core))
    outside = [f * reach for f in OUTSIDE]
    bond = [e for _, e in _curve(subject, [made.dimer(first, second, r) for r in outside], outside)]
    return _fall(f"{symbol(first)}-{symbol(second)}", energies, min(bond)) if bond and energies else []


def _fall(name: str, core: dict[float, float], bond: float) -> list[Measured]:
    """Return how far a curve lies below the bond, and how far it falls from any distance to a smaller one, eV."""
    radii = sorted(core)
    deepest = min(radii, key=lambda r: core[r])
    below = bond - core[deepest]
    found = [Measured(max(below, 0.0), 0.0, "eV", f"{name} at {deepest:.2f} Å lies {below:.2g} eV below its bond" * (below > 0))]
    falls = {r: core[outer] - core[r] for r, outer in pairwise(radii)}
    if falls:
        at = max(falls, key=lambda r: falls[r])
        found.append(
            Measured(max(falls[at], 0.0), 0.0, "eV", f"{name} falls by {falls[at]:.2g} eV on the way in to {at:.2f} Å" * (falls[at] > 0))
        )
    return found


def _squeezed(subject: CheckedModel, s: Structure) -> list[Measured]:
    """For every pair of elements that stand beside each other: one atom pushed into the other, all others where they are."""
    (here,) = subject.ask([s], ("energy",))
    i, j, shifts = neighbor_pairs(s, 3.0)
    vectors = s.positions[j] + shifts @ s.cell - s.positions[i]
    found = []
    lengths = np.linalg.norm(vectors, axis=1)
    seen: set[tuple[int, int]] = set()
    for k in np.argsort(lengths):
        pair = (int(s.atomic_numbers[i[k]]), int(s.atomic_numbers[j[k]]))
        if pair in seen or i[k] == j[k] or len(seen) >= 12:
            continue
        seen.add(pair)
        core = [r for r in (0.1, 0.2, 0.3, 0.4) if r < 0.5 * (COVALENT_RADII[pair[0]] + COVALENT_RADII[pair[1]])]
        moved = []
        for r in core:
            positions = s.positions.copy()
            positions[i[k]] += vectors[k] * (1 - r / lengths[k])
            moved.append(s.replace(positions=positions, labels={}, label_std={}))
        energies = dict(_curve(subject, moved, core))
        if energies:
            at = min(energies, key=lambda r: energies[r])
            remark = f"{symbol(pair[0])} pushed into {symbol(pair[1])} in {s.formula}, {at:.1f} Å"
            found.append(Measured(max(float(here["energy"]) - energies[at], 0.0), PUSHED, "eV", remark))
    return found


def _curve(subject: CheckedModel, structures: list[Structure], distances: list[float]) -> list[tuple[float, float]]:
    """(distance, energy) of those structures that the model predicts: some refuse atoms that are too close."""
    try:
        return list(zip(distances, map(float, subject.energies(structures)), strict=True))
    except MlipfmError as error:
        if "finite" in error.what or "NaN" in error.what:
            raise
    found = []
    for r, s in zip(distances, structures, strict=True):
        try:
            found.append((r, float(ask(subject.model, [s], ("energy",))[0]["energy"])))
        except MlipfmError:
            continue
    return found


# Dynamics


def time_step(s: Structure, temperature: float = 300.0) -> float:
    """Return a time step in fs: 0.25 with hydrogen at 300 K, longer for heavier atoms (root of the lightest mass), shorter when it is hotter."""
    return float(min(0.25 * np.sqrt(MASSES[s.atomic_numbers].min()) * (300.0 / temperature) ** 0.25, 1.5))


def _starts(subject: CheckedModel) -> list[Structure]:
    """Return the smallest of its own structures; without any, what is made of its elements, relaxed by the model."""
    if subject.own:
        return sorted(subject.own, key=len)[:1]
    start = subject.crystal if subject.crystal is not None and _calm(subject, subject.crystal) else subject.small
    return [_relaxed(subject, start)]


def _calm(subject: CheckedModel, s: Structure) -> bool:
    """Return whether a made crystal is nearer to rest than the made molecule."""
    forces = [np.abs(subject.ask([item])[0]["forces"]).max() for item in (s, subject.small)]
    return bool(forces[0] < forces[1])


def _relaxed(subject: CheckedModel, s: Structure, steps: int = 60) -> Structure:
    """Atoms moved downhill in steps of at most 0.05 Å while the energy falls."""
    scale = 0.02
    (row,) = subject.ask([s])
    for _ in range(steps):
        trial = s.replace(positions=s.positions + np.clip(scale * row["forces"], -0.05, 0.05), labels={}, label_std={})
        (new,) = subject.ask([trial])
        if new["energy"] < row["energy"]:
            s, row, scale = trial, new, scale * 1.2
        else:
            scale *= 0.4
        if np.abs(row["forces"]).max() < 0.05:
            break
    return s


@model_check("nve-drift", "The total energy is kept in dynamics at constant energy, 300 K.", "conservative", exact=False)
def _nve(subject: CheckedModel) -> Measured | None:
    from mlipfm_md.simulation import Settings

    from .energy_drift import nve_drift

    (s,) = _starts(subject)
    dt, steps = time_step(s), 200 if subject.quick else 500
    found = nve_drift(subject.model, [s], Settings(dt=dt, steps=steps, temperature=300.0, every=2, seed=1))
    if found.unstable and not subject.own:
        return None  # a structure that was made is no state of matter that the model must hold together
    remark = "; ".join(found.unstable.values()) or f"{steps * dt:.0f} fs of {s.formula}, time step {dt:.2g} fs"
    return Measured(float(found.absolute.value), subject.limits.drift, "meV/atom/ps", remark)


@model_check("no-collapse", "At 1,500 K no two atoms of its own structures fall into each other.", exact=False)
def _collapse(subject: CheckedModel) -> Measured | None:
    from mlipfm_md.ensembles import Langevin
    from mlipfm_md.simulation import Settings, simulate_frames

    if not subject.own:
        return None
    found = []
    for s in sorted(subject.own, key=len)[: 1 if subject.quick else 2]:
        dt, steps = 2 * time_step(s, 1500.0), 80 if subject.quick else 200
        run, frames = simulate_frames(
            subject.model, s, Langevin(1500.0, 0.02), Settings(dt=dt, steps=steps, temperature=1500.0, every=5, seed=2)
        )
        closest = min([_closeness(s)] + [_closeness(s.replace(positions=positions)) for _, positions in frames])
        remark = run.reason or f"{steps * dt:.0f} fs of {s.formula}"
        value = 1 / closest if run.status == "ok" else float("inf")
        found.append(Measured(value, 2.0, "covalent radii over distance", remark))
    return worst(*found)


def _closeness(s: Structure) -> float:
    """Smallest distance of two atoms over the sum of their covalent radii."""
    reach = float(2 * COVALENT_RADII[s.atomic_numbers].max())
    i, j, shifts = neighbor_pairs(s, reach)
    if len(i) == 0:
        return 1.0
    lengths = np.linalg.norm(s.positions[j] + shifts @ s.cell - s.positions[i], axis=1)
    return float((lengths / (COVALENT_RADII[s.atomic_numbers[i]] + COVALENT_RADII[s.atomic_numbers[j]])).min())
