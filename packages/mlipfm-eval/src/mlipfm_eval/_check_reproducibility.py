"""Rules of smoothness and reproducibility: no jumps, no hidden state, no noise, the same prediction alone and among others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import moved
from mlipfm_interfaces.testing.structures import rattled

from . import _check_structures as made
from ._check_model_input import CheckedModel, energy_noise
from ._model_checks import Measured, answer_gap, model_check, rounding, worst

#: From where an atom comes: a general direction, so that nothing cancels by symmetry.
_FROM = np.array([0.6, -0.48, 0.64])

# Smoothness


@model_check("smooth-path", "Energies and forces have no steps where the neighbours of two molecules come and go.")
def _smooth(subject: CheckedModel) -> Measured:
    limit, unit = subject.limits.smooth, "eV, eV/Å"
    rough, place = _roughest(lambda gaps: _approach(subject, gaps), np.arange(2.4, 9.0, 0.06 if subject.quick else 0.04))
    return Measured(rough, limit, unit, f"roughest at a gap of {place:.2f} Å")


#: A step of the forces where an atom passes the cutoff may be ten times that of the energy: 1 meV/Å beside 0.1 meV.
FORCE_STEP = 0.1


@model_check(
    "smooth-cutoff", "An atom that comes to a molecule from afar makes no step in energy or forces, also where it passes the cutoff."
)
def _smooth_atom(subject: CheckedModel) -> Measured | None:
    if subject.electronic:  # a molecule and an atom are an open shell
        return None
    found = []
    s = subject.small.replace(total_charge=None, spin_multiplicity=None)
    corner = s.positions[np.argmax(s.positions @ _FROM)]
    for z in subject.elements[: 3 if subject.quick else 6]:
        start = 1.3 * float(COVALENT_RADII[z] + COVALENT_RADII[s.atomic_numbers].max())
        grid = np.arange(start, max(subject.cutoff + 0.6, start + 2.0), 0.04)

        def approach(distances: np.ndarray, z: int = z) -> np.ndarray:
            values = _values(subject, [made.with_atom(s, z, corner + r * _FROM) for r in distances])
            return np.concatenate([values[:, :1], FORCE_STEP * values[:, 1:]], axis=1)

        if not subject.answers(made.with_atom(s, z, corner + start * _FROM)):
            continue
        rough, place = _roughest(approach, grid)
        found.append(Measured(rough, 5 * subject.limits.smooth, "eV, 10 eV/Å", f"{symbol(z)} to {s.formula}, roughest at {place:.2f} Å"))
    return worst(*found) if found else None


def _roughest(curve: Callable[[np.ndarray], np.ndarray], grid: np.ndarray) -> tuple[float, float]:
    """Roughness about the five roughest places of a curve, looked at with points five and then 25 times finer, and where it is: a step stays when
    the points are moved together, a bend vanishes."""
    rough, spacing = _roughness(curve(grid)), grid[1] - grid[0]
    places: list[float] = []
    for place in grid[3:-3][np.argsort(-rough)]:
        if len(places) < 5 and all(abs(place - other) > 3 * spacing for other in places):
            places.append(float(place))
    return max(_closer(curve, _closer(curve, place, spacing)[1], spacing / 5) for place in places)


def _closer(curve: Callable[[np.ndarray], np.ndarray], centre: float, spacing: float) -> tuple[float, float]:
    """Largest roughness within two spacings of a place, with points five times finer, and where it is."""
    fine = centre + spacing / 5 * np.arange(-10, 11)
    found = _roughness(curve(fine))
    return float(found.max()), float(fine[3 + found.argmax()])


def _approach(subject: CheckedModel, gaps: np.ndarray) -> np.ndarray:
    """[gaps, 1 + 3 atoms] energy and forces of two small molecules at these distances."""
    s = subject.small
    width = float(np.ptp(s.positions[:, 2]))
    charge = None if s.total_charge is None else 2 * s.total_charge
    multiplicity = None if s.spin_multiplicity is None else 2 * s.spin_multiplicity - 1
    state: dict[str, Any] = {"total_charge": charge, "spin_multiplicity": multiplicity, "labels": {}, "label_std": {}}
    numbers = np.tile(s.atomic_numbers, 2)
    return _values(
        subject,
        [
            s.replace(atomic_numbers=numbers, positions=np.concatenate([s.positions, s.positions + [0.11, 0.07, width + gap]]), **state)
            for gap in gaps
        ],
    )


def _values(subject: CheckedModel, structures: list[Structure]) -> np.ndarray:
    """[structures, 1 + 3 atoms] energies and forces."""
    return np.stack([np.concatenate([[float(row["energy"])], row["forces"].ravel()]) for row in subject.ask(structures)])


def _roughness(values: np.ndarray) -> np.ndarray:
    """Error of interpolating each point from three on either side (sixth order): tiny for smooth data, half of a step. [points - 6]"""
    weights = np.array([1, -6, 15, 0, 15, -6, 1]) / 20
    windows = np.lib.stride_tricks.sliding_window_view(values, 7, axis=0)
    return np.asarray(np.abs(windows @ weights - windows[..., 3]).max(axis=1))


# Reproducibility


@model_check(
    "energy-noise", "The energy is a smooth function also of steps of 1e-4 Å: no noise, no rounding beyond that of float32.", exact=False
)
def _noise(subject: CheckedModel) -> Measured:
    s = subject.molecule
    (here,) = subject.ask([s], ("energy",))
    digits = rounding(subject) * abs(float(here["energy"])) / len(s)
    return Measured(energy_noise(subject.model, s) / len(s), 1e-6 + digits / 4, "eV/atom")


@model_check("arithmetic", "In its own arithmetic it gives the predictions of its float64 copy, but for rounding.", exact=False)
def _arithmetic(subject: CheckedModel) -> Measured | None:
    if subject.exact is subject:
        return None
    return worst(*(answer_gap(subject, subject.ask([s])[0], subject.exact.ask([s])[0], s.formula) for s in subject.samples[:3]))


@model_check(
    "batch-equals-singles", "A structure has the same prediction alone and among others, first, last or beside its double.", exact=False
)
def _batch(subject: CheckedModel) -> Measured:
    group = [subject.small, subject.molecule, *subject.all, rattled(subject.molecule, 0.01), subject.small]
    alone = [subject.ask([s])[0] for s in group]
    found = []
    for order in (np.arange(len(group)), np.arange(len(group))[::-1]):
        together = subject.ask([group[k] for k in order])
        found += [answer_gap(subject, row, alone[k], group[k].formula) for row, k in zip(together, order, strict=True)]
    return worst(*found)


@model_check("no-stale-state", "Every call computes anew: no prediction is kept from an earlier one.", exact=False)
def _stale(subject: CheckedModel) -> Measured:
    stale = []
    for base in subject.all:
        for what, other in _variations(subject, base):
            if subject.answers(other) and _kept(subject, base, other):
                stale.append(what)
    (here,), (again,) = subject.ask([subject.molecule]), subject.ask([subject.molecule])
    if not answer_gap(subject, again, here).holds:
        stale.append("the same structure, predicted again, has another prediction")
    return Measured(float(len(stale)), 0.0, "answers", "; ".join(dict.fromkeys(stale)))


def _kept(subject: CheckedModel, base: Structure, other: Structure) -> bool:
    """Return whether a question has another prediction after a similar one than asked first, at a new place.

    Atoms that are moved must have other forces as well: two places alone do not show a prediction that is kept by distances.
    """
    (before,), (after,) = subject.ask([base]), subject.ask([other])
    shift = np.array([5.1, -3.7, 2.3]) + 1e-3 * len(other) + 0.01 * int(other.atomic_numbers[0])
    (fresh,) = subject.ask([moved(other, other.positions + shift)])
    if not answer_gap(subject, after, fresh).holds:
        return True
    changed = not np.array_equal(other.positions, base.positions) or not np.array_equal(other.atomic_numbers, base.atomic_numbers)
    return changed and before["forces"].shape == after["forces"].shape and np.array_equal(before["forces"], after["forces"])


def _variations(subject: CheckedModel, s: Structure) -> list[tuple[str, Structure]]:
    """Questions that differ from that of `s` by one thing."""
    s = s.replace(labels={}, label_std={})
    (here,) = subject.ask([s])
    away = here["forces"] / np.abs(here["forces"]).max()
    opposite = np.zeros_like(s.positions)
    opposite[0], opposite[-1] = 0.02, -0.02  # the centre stays where it is
    found = [
        ("atoms moved by 0.0001 Å", moved(s, s.positions + 1e-4 * away)),
        ("atoms moved by 0.01 Å", moved(s, s.positions + 1e-2 * away)),
        ("two atoms moved against each other", moved(s, s.positions + opposite)),
    ]
    numbers = s.atomic_numbers.copy()
    partner = next((k for k in range(1, len(s)) if numbers[k] != numbers[0]), None)
    if partner is not None:
        numbers[[0, partner]] = numbers[[partner, 0]]
        found.append(("two elements exchanged", made.with_elements(s, numbers)))
    for z in [z for z in subject.elements if z != s.atomic_numbers[-1]][:2]:
        found.append(("another element", _with_last(s, z)))
    if s.pbc.any():
        found.append(("another cell", _tighter(s)))
        found.append(("another periodicity", s.replace(pbc=(False, False, False))))
        found.append(("a slab", s.replace(pbc=(True, True, False))))
    if not (subject.electronic and s.pbc.any()):  # electrons of a charged crystal may have several solutions
        found += [("another charge", made.with_charge(s, 1)), ("another multiplicity", _triplet(s))]
    if isinstance(subject.model, Potential):
        found += [("another level of theory", s.replace(level=level)) for level in subject.model.spec.levels[:-1][:1]]
        if "external_field" in subject.model.spec.conditions:
            found.append(("an external field", s.replace(external_field=np.array([0.0, 0.02, 0.05]))))
    return found


def _with_last(s: Structure, z: int) -> Structure:
    numbers = s.atomic_numbers.copy()
    numbers[-1] = z
    return made.with_elements(s, numbers)


def _triplet(s: Structure) -> Structure:
    multiplicity = s.spin_multiplicity or 1 + int(s.atomic_numbers.sum() - (s.total_charge or 0)) % 2
    return s.replace(spin_multiplicity=multiplicity + 2)


def _tighter(crystal: Structure) -> Structure:
    """Return the atoms where they are in a smaller cell, so that some are within 2.5 Å of an image: a model of any cutoff must notice."""
    for scale in (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6):
        tighter = moved(crystal, crystal.positions, crystal.cell * scale)
        if neighbor_pairs(tighter, 2.5)[2].any():
            break
    return tighter
