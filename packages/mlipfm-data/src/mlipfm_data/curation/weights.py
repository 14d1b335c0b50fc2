"""Weights of structures in training: geometries far above the others keep their information without deciding the fit.

Boltzmann weights, w = max(floor, exp(-(E - E_ref) / (N^gamma kT))), E_ref the lowest energy of the same composition at the same level, N the number
of atoms; they are divided by their mean, so that the loss keeps its size (high energies and
forces are weighted with a Boltzmann factor instead of filtered out). Structures with forces beyond a cap get weight 0.

They are stored as the label `weight`, by which objectives multiply the losses of a structure; a structure without it counts 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import MissingLabelsError, OptionError
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from .classes import composition_class

Floats = NDArray[np.float64]

#: eV/Å, above which forces are structures are usually left out of training sets.
FORCE_CAP = 50.0


@dataclass(frozen=True)
class Weights:
    """Of a set.

    Attributes:
        values: [structures], mean 1 over those that count. capped: how many are beyond the force cap. unlabelled: how many have no energy.
        floored: how many are at the floor. replaced: how many had another weight, by the data or an earlier call; revived: of these, 0.
    """

    values: Floats
    capped: int
    unlabelled: int
    floored: int
    replaced: int = 0
    revived: int = 0

    @property
    def effective(self) -> float:
        """Effective sample size (sum w)^2 / sum w^2: how many structures of equal weight would be as good."""
        return effective_size(self.values)

    def lines(self) -> Iterator[str]:
        """For people."""
        n = len(self.values)
        yield f"{n} structures, effective sample size {self.effective:.1f} ({self.effective / max(n, 1):.1%})"
        yield f"weights {self.values.min():.3g} to {self.values.max():.3g}; {self.floored} at the floor"
        if self.capped:
            yield f"{self.capped} beyond the force cap: weight 0"
        if self.unlabelled:
            yield f"{self.unlabelled} without an energy: weighted as the lowest of their composition"
        if self.replaced:
            zeros = f"; {self.revived} of them had weight 0, which kept them out of training, and count now" if self.revived else ""
            yield f"warning: {self.replaced} had a weight, by the data or an earlier call, which is replaced{zeros}"


def boltzmann(excess: Floats, atoms: NDArray[np.int64], kT: float, *, gamma: float = 1.0, floor: float = 0.05) -> Floats:
    """[structures] weights before they are divided by their mean.

    Args:
        excess: [structures] E - E_ref, eV. atoms: [structures]. kT: eV per atom^gamma; infinite gives exactly 1. floor: least weight.

    Raises:
        OptionError: kT, gamma or floor out of range.
    """
    if not (kT > 0 and gamma >= 0 and 0 <= floor <= 1):
        raise OptionError(f"kT={kT}, gamma={gamma}, floor={floor}: kT must be positive, gamma >= 0, floor within 0 and 1")
    return np.maximum(floor, np.exp(-excess / (atoms**gamma * kT)))


def weigh(
    structures: Sequence[Structure], *, kT: float | None = 0.2, gamma: float = 1.0, floor: float = 0.05, force_cap: float | None = FORCE_CAP
) -> Weights:
    """Weights of a set; see the module. Start with kT of 0.1-0.3 eV per atom.

    Args:
        kT: None for no Boltzmann weights. force_cap: eV/Å, largest force of an atom; None for no cap.

    Raises:
        MissingLabelsError: no structure has an energy (or, with a cap, forces). OptionError: as `boltzmann`, or everything is beyond the cap.
    """
    energies, largest, classes, atoms = _columns(structures)
    if kT is not None and np.isnan(energies).all():
        raise MissingLabelsError("no structure has an energy, from which Boltzmann weights come")
    if force_cap is not None and np.isnan(largest).all() and kT is None:
        raise MissingLabelsError("no structure has forces to cap")
    values = np.ones(len(energies)) if kT is None else boltzmann(_excess_energies(energies, classes), atoms, kT, gamma=gamma, floor=floor)
    floored = 0 if kT is None else int((values <= floor).sum())
    capped = np.zeros(len(values), dtype=bool) if force_cap is None else np.nan_to_num(largest) > force_cap
    values = np.where(capped, 0.0, values)
    if not values.any():
        raise OptionError("no structure has a weight: all are beyond the force cap", hint="raise --force-cap")
    values = values / values[~capped].mean()
    before = np.array([float(s.labels["weight"]) if "weight" in s.labels else np.nan for s in structures])
    replaced = ~np.isnan(before) & ~np.isclose(before, values)
    return Weights(
        values, int(capped.sum()), int(np.isnan(energies).sum()), floored, int(replaced.sum()), int((replaced & (before == 0)).sum())
    )


def _excess_energies(energies: Floats, classes: Sequence[object]) -> Floats:
    """Energies above the lowest of each class, eV; 0 where an energy is NaN (not labelled)."""
    names = {name: k for k, name in enumerate(dict.fromkeys(classes))}
    index = np.array([names[name] for name in classes], dtype=np.int64)
    lowest = np.full(len(names), np.inf)
    known = ~np.isnan(energies)
    np.minimum.at(lowest, index[known], energies[known])
    return np.where(known, energies - lowest[index], 0.0)


def effective_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _columns(structures: Sequence[Structure]) -> tuple[Floats, Floats, list[object], NDArray[np.int64]]:
    """Energy, largest force (NaN where not labelled), class and number of atoms of each."""
    energies, largest, classes, atoms = [], [], [], []
    for s in structures:
        energies.append(float(s.labels["energy"]) if "energy" in s.labels else np.nan)
        largest.append(float(np.linalg.norm(s.labels["forces"], axis=1).max()) if "forces" in s.labels else np.nan)
        classes.append((composition_class(s), len(s), s.total_charge, s.level))
        atoms.append(len(s))
    return np.array(energies), np.array(largest), list(classes), np.array(atoms)
