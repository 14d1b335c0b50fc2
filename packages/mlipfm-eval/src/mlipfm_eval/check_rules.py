"""Rules for any model, seen from outside: energies, forces and stress in, one figure each out. See `check_subject` for structures and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import ContractError, MlipfmError
from mlipfm_interfaces.metrics import rotation_error
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import STENCIL, moved, strained
from mlipfm_interfaces.testing.rules import deviation
from mlipfm_interfaces.testing.structures import random_rotation, supercell

from .check_subject import Subject, offers, relative


@dataclass(frozen=True)
class Measured:
    """One figure: a rule holds if `value <= limit`. remark: what else is worth knowing."""

    value: float
    limit: float
    unit: str
    remark: str = ""


@dataclass(frozen=True)
class Behaviour:
    """A rule with its name and statement; `check` returns None where it cannot apply. needs: the promise without which it only measures."""

    name: str
    statement: str
    check: Callable[[Subject], Measured | None]
    needs: str | None


BEHAVIOURS: list[Behaviour] = []
Check = Callable[[Subject], Measured | None]


def behaviour(name: str, statement: str, needs: str | None = None) -> Callable[[Check], Check]:
    """Decorator: enter a check."""

    def enter(check: Check) -> Check:
        BEHAVIOURS.append(Behaviour(name, statement, check, needs))
        return check

    return enter


# Symmetry


def _turned(subject: Subject, improper: bool) -> Measured:
    worst, upright, back = 0.0, [], []
    for s in subject.all:
        (here,) = subject.ask([s])
        turns = [random_rotation(seed, improper=improper) for seed in range(3)]
        rows = subject.ask([moved(s, s.positions @ q.T, s.cell @ q.T) for q in turns])
        for turn, row in zip(turns, rows, strict=True):
            forces = here["forces"] @ turn.T
            worst = max(worst, _gap(row["energy"], here["energy"], len(s)), deviation(row["forces"], forces) / relative(forces))
        upright.append(here["forces"])
        back.append(np.stack([row["forces"] @ turn for turn, row in zip(turns, rows, strict=True)]))
    mean = rotation_error(back, upright).value
    return Measured(worst, subject.limits.symmetry, "eV/atom, eV/Å", f"forces are off by {100 * mean:.2g} % on average")


def _gap(first: np.ndarray | float, second: np.ndarray | float, n: int) -> float:
    return deviation(first, second) / n


@behaviour("rotation", "Energies do not change and forces turn when a system is turned.", "invariant")
def _rotation(subject: Subject) -> Measured:
    return _turned(subject, improper=False)


@behaviour("reflection", "A system and its mirror image have the same energy and mirrored forces.", "invariant")
def _reflection(subject: Subject) -> Measured:
    return _turned(subject, improper=True)


@behaviour("translation", "Shifting all atoms, or one atom of a crystal by lattice vectors, changes nothing.")
def _translation(subject: Subject) -> Measured:
    worst = 0.0
    for s in subject.all:
        shifted = [moved(s, s.positions + [7.3, -11.1, 3.7])]
        if s.pbc.any():
            lone = s.positions.copy()
            lone[0] += np.array([1, -2, 1]) @ s.cell
            shifted.append(moved(s, lone))
        (here,) = subject.ask([s])
        for row in subject.ask(shifted):
            gap = deviation(row["forces"], here["forces"]) / relative(here["forces"])
            worst = max(worst, _gap(row["energy"], here["energy"], len(s)), gap)
    return Measured(worst, subject.limits.symmetry, "eV/atom, eV/Å")


@behaviour("permutation", "The order of atoms does not matter.")
def _permutation(subject: Subject) -> Measured:
    worst = 0.0
    for s in subject.all:
        order = np.random.default_rng(1).permutation(len(s))
        other = s.replace(atomic_numbers=s.atomic_numbers[order], positions=s.positions[order])
        (here,), (row,) = subject.ask([s]), subject.ask([other])
        gap = deviation(row["forces"], here["forces"][order]) / relative(here["forces"])
        worst = max(worst, _gap(row["energy"], here["energy"], len(s)), gap)
    return Measured(worst, subject.limits.symmetry, "eV/atom, eV/Å")


@behaviour("extensivity", "Twice the crystal has twice the energy and the same forces.")
def _extensivity(subject: Subject) -> Measured | None:
    s = subject.wide
    if s is None:
        return _far_apart(subject, copies=3)
    (here,) = subject.ask([s])
    worst = 0.0
    for repeats in ((2, 1, 1), (1, 1, 2)):
        (row,) = subject.ask([supercell(s, repeats)])
        worst = max(worst, _gap(row["energy"], 2 * here["energy"], 2 * len(s)))
    return Measured(worst, subject.limits.symmetry, "eV/atom")


@behaviour("size-consistency", "Two molecules far apart have the energies of each alone.")
def _size_consistency(subject: Subject) -> Measured:
    return _far_apart(subject, copies=2)


def _far_apart(subject: Subject, copies: int) -> Measured:
    s, distance = subject.small, 250.0
    positions = np.concatenate([s.positions + [0.0, k * distance, 0.0] for k in range(copies)])
    multiplicity = None if s.spin_multiplicity is None else 1 + copies * (s.spin_multiplicity - 1)
    many = Structure(np.tile(s.atomic_numbers, copies), positions, total_charge=s.total_charge, spin_multiplicity=multiplicity)
    (one,), (all_,) = subject.ask([s]), subject.ask([many])
    gap = deviation(all_["forces"], np.tile(one["forces"], (copies, 1))) / relative(one["forces"])
    worst = max(_gap(all_["energy"], copies * one["energy"], len(many)), gap)
    return Measured(worst, subject.limits.symmetry, "eV/atom, eV/Å", f"{distance:g} Å apart")


@behaviour("charge-stays-home", "A molecule of charge +1 and a neutral one 30 Å apart have the energies of each alone.", "local-charge")
def _charge_stays(subject: Subject) -> Measured | None:
    """Nothing promises it: a total charge says not where it is, and models share it out. The figure is how much that costs."""
    s, distance = subject.small, 30.0
    unpaired = [int(s.atomic_numbers.sum() - charge) % 2 for charge in (1, 0)]
    ion, neutral = (s.replace(total_charge=q, spin_multiplicity=1 + n) for q, n in zip((1, 0), unpaired, strict=True))
    positions = np.concatenate([s.positions, s.positions + [0.0, distance, 0.0]])
    both = Structure(np.tile(s.atomic_numbers, 2), positions, total_charge=1, spin_multiplicity=1 + sum(unpaired))
    try:
        together, alone, other = subject.energies([both, ion, neutral])
    except ContractError:  # it answers, and not with numbers
        raise
    except MlipfmError:  # a model without charges may refuse them
        return None
    remark = f"{s.formula}+ and {s.formula} {distance:g} Å apart: together {together - alone - other:+.4f} eV"
    return Measured(abs(float(together - alone - other)), subject.limits.symmetry * len(both), "eV", remark)


# Derivatives


@behaviour("forces-are-gradient", "Forces are minus the gradient of the energy.", "conservative")
def _gradient(subject: Subject) -> Measured:
    gaps = {h: max(_slope_gap(subject, s, h) for s in subject.all) for h in subject.limits.steps}
    best = min(gaps, key=lambda h: gaps[h])
    return Measured(gaps[best], subject.limits.gradient, "eV/Å", f"step {best:g} Å")


def _slope_gap(subject: Subject, s: Structure, h: float) -> float:
    """Largest difference of forces and slopes of the energy along eight directions, eV/Å."""
    directions = np.random.default_rng(2).normal(size=(8, len(s), 3))
    directions /= np.abs(directions).max(axis=(1, 2), keepdims=True)
    points = [moved(s, s.positions + step * h * d) for d in directions for step, _ in STENCIL]
    slopes = _differences(subject.energies(points).reshape(len(directions), len(STENCIL)), h)
    forces = subject.ask([s])[0]["forces"]
    gaps = np.einsum("kna,na->k", directions, forces) + slopes
    return float(np.abs(gaps / np.linalg.norm(directions, axis=(1, 2))).max()) / relative(forces)


def _differences(values: np.ndarray, h: float) -> np.ndarray:
    """Slopes from values at the points of the stencil, the last axis."""
    return np.asarray(values @ [weight for _, weight in STENCIL] / h)


@behaviour("stress-is-strain-derivative", "The stress is +(1/V) dE/dstrain: negative for a crystal that is compressed.", "conservative")
def _stress(subject: Subject) -> Measured | None:
    s = subject.crystal
    if s is None or not offers(subject, "stress"):
        return None
    stress = subject.ask([s], ("stress",))[0]["stress"]
    slopes = {h: _strain_slopes(subject, s, h) for h in subject.limits.steps}
    best = min(slopes, key=lambda h: deviation(stress, slopes[h]))
    gap, opposite = deviation(stress, slopes[best]), min(deviation(-stress, found) for found in slopes.values())
    size = float(np.abs(slopes[best]).max())
    remark = "it has the opposite sign" if opposite < 0.1 * gap else f"stress up to {size:.2g}, step {best:g}"
    return Measured(gap / max(1.0, 10 * size), subject.limits.stress, "eV/Å³", remark)


def _strain_slopes(subject: Subject, s: Structure, h: float) -> np.ndarray:
    """[3, 3] (1/V) dE/dstrain by differences, eV/Å³."""
    slopes = np.zeros((3, 3))
    for a in range(3):
        for b in range(a, 3):
            unit = np.zeros((3, 3))
            unit[a, b] += 0.5
            unit[b, a] += 0.5
            slopes[a, b] = slopes[b, a] = _differences(subject.energies([strained(s, step * h * unit) for step, _ in STENCIL]), h)
    return slopes / abs(np.linalg.det(s.cell))


@behaviour("net-force", "The forces on a free molecule add up to zero.", "conservative")
def _net_force(subject: Subject) -> Measured:
    forces = subject.ask([subject.molecule])[0]["forces"]
    limit = subject.limits.symmetry * len(forces)
    return Measured(float(np.abs(forces.sum(axis=0)).max()) / relative(forces), limit, "eV/Å")


@behaviour("jacobian-symmetric", "The Jacobian of the forces is symmetric, as second derivatives of an energy are.", "conservative")
def _jacobian(subject: Subject) -> Measured:
    s, h = subject.small, subject.limits.steps[0]
    n = len(s)
    points = [moved(s, s.positions + step * h * d) for d in np.eye(3 * n).reshape(-1, n, 3) for step, _ in STENCIL]
    forces = np.stack([row["forces"].ravel() for row in subject.ask(points)]).reshape(3 * n, len(STENCIL), 3 * n)
    jacobian = _differences(forces.swapaxes(1, 2), h)
    ratio = float(np.linalg.norm(jacobian - jacobian.T)) / 2 / max(float(np.linalg.norm(jacobian)), 1e-300)
    return Measured(ratio, subject.limits.jacobian, "1", f"step {h:g} Å")


# Smoothness and conduct


@behaviour("smooth-path", "Energies and forces have no steps where neighbours come and go.")
def _smooth(subject: Subject) -> Measured:
    gaps = np.arange(2.4, 9.0, 0.04)
    rough = _roughness(_approach(subject, gaps))
    worst, place = 0.0, 0.0
    for centre in gaps[3:-3][np.argsort(-rough)[:3]]:  # a step stays when the points are moved together, a narrow bend vanishes
        fine = np.arange(centre - 0.08, centre + 0.08, 0.008)
        found = _roughness(_approach(subject, fine))
        if found.max() >= worst:
            worst, place = float(found.max()), float(fine[3 + found.argmax()])
    return Measured(worst, subject.limits.smooth, "eV, eV/Å", f"roughest at a gap of {place:.2f} Å")


def _approach(subject: Subject, gaps: np.ndarray) -> np.ndarray:
    """[gaps, 1 + 3 atoms] energy and forces of two small molecules at these distances."""
    s = subject.small
    numbers, width = np.tile(s.atomic_numbers, 2), float(np.ptp(s.positions[:, 2]))
    pairs = [
        Structure(numbers, np.concatenate([s.positions, s.positions + [0.11, 0.07, width + gap]]), total_charge=0, spin_multiplicity=1)
        for gap in gaps
    ]
    return np.stack([np.concatenate([[float(row["energy"])], row["forces"].ravel()]) for row in subject.ask(pairs)])


def _roughness(values: np.ndarray) -> np.ndarray:
    """Error of interpolating each point from three on either side (sixth order): tiny for smooth data, half of a step. [points - 6]"""
    weights = np.array([1, -6, 15, 0, 15, -6, 1]) / 20
    windows = np.lib.stride_tricks.sliding_window_view(values, 7, axis=0)
    return np.asarray(np.abs(windows @ weights - windows[..., 3]).max(axis=1))


@behaviour("batch-equals-singles", "A structure has the same answer alone and among others.")
def _batch(subject: Subject) -> Measured:
    group = [subject.small, subject.molecule, *([subject.crystal] if subject.crystal is not None else []), subject.small]
    together, alone = subject.ask(group), [subject.ask([s])[0] for s in group]
    worst = max(
        max(_gap(a["energy"], b["energy"], len(s)), deviation(a["forces"], b["forces"]) / relative(b["forces"]))
        for a, b, s in zip(together, alone, group, strict=True)
    )
    return Measured(worst, subject.limits.symmetry, "eV/atom, eV/Å")


@behaviour("no-stale-state", "Every call answers the question that was asked: no answer is kept from an earlier one.")
def _stale(subject: Subject) -> Measured:
    s = subject.molecule
    (here,) = subject.ask([s])
    away = here["forces"] / np.abs(here["forces"]).max()
    questions = [
        ("atoms moved by 0.0001 Å", moved(s, s.positions + 1e-4 * away)),
        ("atoms moved by 0.01 Å", moved(s, s.positions + 1e-2 * away)),
    ]
    old = [here] * 2
    if subject.crystal is not None:
        c = subject.crystal
        old += subject.ask([c])
        questions.append(("another cell", _tighter(c)))
    stale = [what for (what, q), before in zip(questions, old, strict=True) if _same(subject.ask([q])[0], before)]
    (again,) = subject.ask([s])
    if deviation(again["forces"], here["forces"]) / relative(here["forces"]) > subject.limits.symmetry:
        stale.append("the same question, asked again, has another answer")
    return Measured(float(len(stale)), 0.0, "answers", "; ".join(stale))


def _tighter(crystal: Structure) -> Structure:
    """The atoms where they are in a smaller cell, so that some are within 2.5 Å of an image: a model of any cutoff must notice."""
    for scale in (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6):
        tighter = moved(crystal, crystal.positions, crystal.cell * scale)
        if neighbor_pairs(tighter, 2.5)[2].any():
            break
    return tighter


def _same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in ("energy", "forces"))


@behaviour("nve-drift", "The total energy is kept in 100 fs of dynamics at constant energy (time step 0.25 fs, 300 K).", "conservative")
def _nve(subject: Subject) -> Measured:
    from mlipfm_md.simulation import Settings

    from .conservation import nve_drift

    s = subject.small
    found = nve_drift(subject.model, [s], Settings(dt=0.25, steps=400, temperature=300.0, every=2, seed=1))
    return Measured(float(found.absolute.value), subject.limits.drift, "meV/atom/ps", "; ".join(found.unstable.values()))
