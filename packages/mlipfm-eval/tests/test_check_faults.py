"""Faulty models: each a right potential with one thing wrong, just above the limit of the rule that must refuse it, and again well below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlipfm_eval.check import broken, check_model
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, LennardJones, Morse
from mlipfm_interfaces.testing.structures import rattled, water

MORSE = Morse()
CHARGED = Morse(ClosedFormConfig(conditions=("total_charge", "spin_multiplicity")))


class Faulty:
    """A Morse potential from outside; `size` is the fault in units of its rule's limit."""

    outputs = ("energy", "forces", "stress")
    inner: Any = MORSE
    data: Any = ()

    def __init__(self, size: float = 1.0):
        self.size = size

    def evaluate(self, structures, outputs):
        return [self.one(s, tuple(outputs)) for s in structures]

    def right(self, s, outputs):
        return {key: np.array(value) for key, value in evaluate(self.inner, [s], outputs)[0].items()}

    def one(self, s, outputs):
        row = self.right(s, outputs)
        self.change(s, row)
        return row

    def change(self, s, row):
        """Change an answer in place."""


@dataclass(frozen=True)
class Fault:
    """rule: that must refuse it. scaled: whether it has a size, so that a third of the limit must pass."""

    rule: str
    what: str
    model: type[Faulty]
    scaled: bool


FAULTS: list[Fault] = []


def fault(rule: str, what: str, scaled: bool = False) -> Callable[[type[Faulty]], type[Faulty]]:
    def enter(model: type[Faulty]) -> type[Faulty]:
        FAULTS.append(Fault(rule, what, model, scaled))
        return model

    return enter


def energies(rule: str, what: str, extra: Callable[[Any], float]) -> None:
    """A fault of the energy alone: `extra` in eV at the limit."""

    def change(self, s, row):
        if "energy" in row:
            row["energy"] = row["energy"] + self.size * extra(s)

    FAULTS.append(Fault(rule, what, type("Extra", (Faulty,), {"change": change}), True))


def forces(rule: str, what: str, factor: Callable[[Any], Any], key: str = "forces") -> None:
    """A fault of forces (or the stress): they are multiplied by 1 + size x factor."""

    def change(self, s, row):
        if key in row:
            row[key] = row[key] * (1 + self.size * factor(s))

    FAULTS.append(Fault(rule, what, type("Scaled", (Faulty,), {"change": change}), True))


def centred(s):
    return s.positions - s.positions.mean(axis=0)


# Derivatives: the limit is 0.1 %

forces("forces-are-gradient", "forces of all atoms 0.1 % too large", lambda s: 1.0e-3)
forces("forces-are-gradient", "forces of all atoms 0.1 % too small", lambda s: -1.0e-3)
for z, name in ((1, "hydrogen"), (8, "oxygen"), (7, "nitrogen"), (29, "copper")):
    forces("forces-are-gradient", f"forces of {name} 0.1 % too large", lambda s, z=z: 1.0e-3 * (s.atomic_numbers == z)[:, None])
forces("forces-are-gradient", "forces in crystals 0.1 % too large", lambda s: 1.0e-3 * s.pbc.all())
forces("forces-are-gradient", "forces in slabs 0.1 % too large", lambda s: 1.0e-3 * (s.pbc.any() and not s.pbc.all()))
forces("stress-is-strain-derivative", "stress 0.1 % too large", lambda s: 1.0e-3, key="stress")
forces("stress-is-strain-derivative", "shear stress 5 % too large", lambda s: 0.05 * (1 - np.eye(3)), key="stress")


@fault("net-force", "a force of 1e-6 eV/Å on every atom of a molecule", scaled=True)
class Pushed(Faulty):
    def change(self, s, row):
        if "forces" in row:
            row["forces"] = row["forces"] + self.size * 1.0e-6 * np.array([0.0, 0.0, 1.0])


@fault("net-torque", "forces with a torque on a molecule", scaled=True)
class Turned(Faulty):
    def change(self, s, row):
        if "forces" in row and not s.pbc.any():
            turn = np.cross([0.0, 0.0, 1.0], centred(s))
            row["forces"] = row["forces"] + self.size * 3.0e-6 * len(s) * turn / max((turn**2).sum(), 1e-9)


@fault("jacobian-symmetric", "forces with a curl of 0.03 %", scaled=True)
class Curled(Faulty):
    def change(self, s, row):
        if "forces" in row and len(s) > 1:
            row["forces"] = row["forces"] + self.size * 2.2e-3 * np.cross([0.6, 0.0, 0.8], centred(s))


# Symmetry: 1e-7 eV/atom

energies("rotation", "an energy that depends on the x axis", lambda s: 9e-8 * float((centred(s)[:, 0] ** 2).sum()))
energies(
    "reflection",
    "an energy that distinguishes left from right",
    lambda s: 1e-6 * float(np.tanh(np.linalg.det(centred(s)[:3]))) * len(s) if len(s) > 2 else 0.0,
)
energies("translation", "an energy that depends on the origin", lambda s: 2e-7 * float(np.sin(s.positions[:, 0]).sum()))
energies("permutation", "an energy that depends on which atom is first", lambda s: 1.5e-7 * float(np.linalg.norm(centred(s)[0])) * len(s))

# Sizes

energies("extensivity", "an energy of 5e-10 eV times the square of the number of atoms", lambda s: 5e-10 * len(s) ** 2)
energies("extensivity", "an energy that grows above 100 atoms", lambda s: 1.5e-7 * len(s) * (len(s) > 100))
energies("size-consistency", "1.5e-6 eV for every system, whatever its size", lambda s: 1.5e-6)


@fault("size-consistency", "1/r between all atoms", scaled=True)
class Endless(Faulty):
    def change(self, s, row):
        if "energy" in row and not s.pbc.any() and len(s) < 40:
            gaps = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=-1)
            row["energy"] = row["energy"] + self.size * 4e-6 * (1 / gaps[gaps > 0]).sum()


@fault("extensivity", "NaN above 40 atoms")
class Overflowing(Faulty):
    def change(self, s, row):
        if len(s) > 40:
            row.update({key: value * np.nan for key, value in row.items()})


@fault("extensivity", "forces of zero above 100 atoms")
class Truncated(Faulty):
    def change(self, s, row):
        if "forces" in row:
            row["forces"][100:] = 0.0


@fault("isolated-atom", "NaN for an atom without neighbours")
class Lonely(Faulty):
    def change(self, s, row):
        if len(s) == 1 and not s.pbc.any():
            row.update({key: value * np.nan for key, value in row.items()})


@fault("isolated-atom", "a force of 1e-6 eV/Å on an isolated atom", scaled=True)
class Drifting(Faulty):
    def change(self, s, row):
        if "forces" in row and len(s) == 1:
            row["forces"] = row["forces"] + self.size * 1.1e-6


# Cells


def images(s):
    """Distances of all pairs in their nearest image, [pairs]."""
    i, j = np.triu_indices(len(s), 1)
    gap = s.positions[j] - s.positions[i]
    if s.pbc.any():
        gap = gap - np.where(s.pbc, np.round(gap @ np.linalg.inv(s.cell)), 0.0) @ s.cell
    return i, j, gap


@fault("small-cells", "only the nearest image counts")
class MinimumImage(Faulty):
    def right(self, s, outputs):
        row = super().right(s, outputs)
        if s.pbc.any():
            i, j, gap = images(s)
            r = np.linalg.norm(gap, axis=1)
            keep = r < 3.4  # inside the switch, so that the plain Morse function holds
            r0 = COVALENT_RADII[s.atomic_numbers[i]] + COVALENT_RADII[s.atomic_numbers[j]]
            if "energy" in row:
                row["energy"] = np.array(0.5 * (((1 - np.exp(-1.5 * (r - r0))) ** 2 - 1) * keep).sum())
        return row


class Seen(Faulty):
    """Answers for another structure than was asked."""

    def seen(self, s):
        raise AssertionError("subclasses say what they see")

    def evaluate(self, structures, outputs):
        return super().evaluate([self.seen(s) for s in structures], outputs)


def boxed(s, pbc, cell=None):
    return replace(s, pbc=np.array(pbc), cell=s.cell if cell is None else cell, labels={}, label_std={})


@fault("open-axes", "a slab is taken for a crystal")
class SlabAsBulk(Seen):
    def seen(self, s):
        return boxed(s, [bool(s.pbc.any())] * 3)


@fault("open-axes", "a slab is taken for a molecule")
class SlabAsMolecule(Seen):
    def seen(self, s):
        return boxed(s, [bool(s.pbc.all())] * 3)


@fault("open-axes", "a cell makes everything periodic")
class AlwaysPeriodic(Seen):
    def seen(self, s):
        return boxed(s, [abs(np.linalg.det(s.cell)) > 1e-6] * 3)


@fault("open-axes", "only the first axis is used")
class FirstAxis(Seen):
    def seen(self, s):
        return boxed(s, [bool(s.pbc[0])] * 3)


@fault("small-cells", "no image counts")
class NeverPeriodic(Seen):
    def seen(self, s):
        return boxed(s, [False] * 3, np.zeros((3, 3)))


@fault("cell-choice", "the diagonal of the cell is taken for the cell")
class Rectangular(Seen):
    def seen(self, s):
        return boxed(s, s.pbc, np.diag(np.where(np.abs(np.diag(s.cell)) > 0.1, np.diag(s.cell), 9.0))) if s.pbc.all() else s


@fault("elements-matter", "every atom is taken for carbon")
class Blind(Seen):
    def seen(self, s):
        return replace(s, atomic_numbers=np.full(len(s), 6), spin_multiplicity=None, labels={}, label_std={})


# Reproducibility


@fault("energy-noise", "noise of 1e-6 eV per atom", scaled=True)
class Noisy(Faulty):
    def change(self, s, row):
        if "energy" in row:
            seed = int.from_bytes(s.positions.tobytes()[:8], "little") ^ int.from_bytes(s.positions.tobytes()[-8:], "little")
            row["energy"] = row["energy"] + self.size * 1.2e-6 * len(s) * np.random.default_rng(seed).normal()


@fault("batch-equals-singles", "the energy depends on the position in the batch", scaled=True)
class Placed(Faulty):
    def evaluate(self, structures, outputs):
        rows = super().evaluate(structures, outputs)
        return [{k: v + self.size * 6e-8 * n * (k == "energy") for k, v in row.items()} for n, row in enumerate(rows)]


@fault("batch-equals-singles", "the energy depends on the largest system of the batch", scaled=True)
class Padded(Faulty):
    def evaluate(self, structures, outputs):
        most = max(map(len, structures))
        rows = super().evaluate(structures, outputs)
        return [
            {k: v + self.size * 1.2e-7 * (most - len(s)) * (k == "energy") for k, v in row.items()}
            for s, row in zip(structures, rows, strict=True)
        ]


class Cached(Faulty):
    """Keeps answers by a key that says too little."""

    inner = CHARGED

    def __init__(self, size: float = 1.0):
        super().__init__(size)
        self.kept: dict[Any, Any] = {}

    def key(self, s):
        raise AssertionError("subclasses say what it keeps answers by")

    def one(self, s, outputs):
        key = (self.key(s), outputs)
        if key not in self.kept:
            self.kept[key] = super().one(s, outputs)
        return {k: v.copy() for k, v in self.kept[key].items()}


ALL = {
    "atomic_numbers": lambda s: s.atomic_numbers.tobytes(),
    "positions": lambda s: s.positions.tobytes(),
    "cell": lambda s: s.cell.tobytes(),
    "pbc": lambda s: s.pbc.tobytes(),
    "charge": lambda s: s.total_charge,
    "multiplicity": lambda s: s.spin_multiplicity,
}


def cached(what: str, rule: str = "no-stale-state", **changed: Callable[[Any], Any]) -> None:
    parts = ALL | changed
    FAULTS.append(Fault(rule, what, type("Kept", (Cached,), {"key": lambda self, s: tuple(part(s) for part in parts.values())}), False))


cached("a cache that rounds positions to 0.001 Å", positions=lambda s: s.positions.round(3).tobytes())
cached("a cache blind to the elements", atomic_numbers=lambda s: len(s))
cached("a cache by composition, blind to which atom is which", atomic_numbers=lambda s: s.formula)
cached("a cache blind to the charge", charge=lambda s: 0, multiplicity=lambda s: 0)
cached("a cache blind to the multiplicity", multiplicity=lambda s: 0)
cached("a cache blind to the cell", cell=lambda s: 0)
cached("a cache blind to which axes are periodic", pbc=lambda s: 0)
cached("a cache by the centre of mass", positions=lambda s: s.positions.mean(axis=0).round(6).tobytes())


def distances(s):
    return np.linalg.norm(s.positions[:, None] - s.positions[None], axis=-1).round(8).tobytes()


cached(
    "a cache by distances, whose forces do not rotate",
    "rotation",
    positions=distances,
    cell=lambda s: np.linalg.norm(s.cell, axis=1).round(8).tobytes(),
)


@fault("no-stale-state", "forces of the call before")
class Late(Faulty):
    def __init__(self, size: float = 1.0):
        super().__init__(size)
        self.before: dict[int, Any] = {}

    def change(self, s, row):
        if "forces" in row:
            row["forces"], self.before[len(s)] = self.before.get(len(s), row["forces"]), row["forces"]


# Smoothness


def step_of(amount, radius, mask=lambda a, b: True):
    def extra(s):
        if s.pbc.any():
            return 0.0
        i, j = np.triu_indices(len(s), 1)
        r = np.linalg.norm(s.positions[j] - s.positions[i], axis=1)
        chosen = np.array([mask(a, b) for a, b in zip(s.atomic_numbers[i], s.atomic_numbers[j], strict=True)], dtype=bool)
        return amount * float(((r < radius) & chosen).sum())

    return extra


energies("smooth-path", "a step of 0.04 meV where two atoms pass 5 Å", step_of(4e-5, 5.0))
energies("smooth-path", "a step of 0.05 meV where two hydrogen atoms pass 4.2 Å", step_of(5e-5, 4.2, lambda a, b: a == b == 1))
energies("smooth-cutoff", "a step of 0.25 meV where nitrogen passes 4 Å", step_of(2.5e-4, 4.0, lambda a, b: 7 in (a, b)))


# Core and dynamics


def core(s, depth, width, mask=lambda a, b: True):
    i, j = np.triu_indices(len(s), 1)
    r = np.linalg.norm(s.positions[j] - s.positions[i], axis=1)
    chosen = np.array([mask(a, b) for a, b in zip(s.atomic_numbers[i], s.atomic_numbers[j], strict=True)], dtype=bool)
    return float((depth * np.exp(-((r / width) ** 2)) * chosen).sum())


class Hole(Faulty):
    """A hole inside a repulsive wall."""

    inner = LennardJones()
    mask: Any = staticmethod(lambda a, b: True)
    wall = 40.0

    def right(self, s, outputs):
        row = super().right(s, outputs)
        i, j = np.triu_indices(len(s), 1)
        r = np.linalg.norm(s.positions[j] - s.positions[i], axis=1)
        if "energy" in row and r.min(initial=9.0) < 0.6:  # a soft wall in place of r^-12, which nothing digs through
            row["energy"] = np.array(sum(self.wall * np.exp(-x) for x in r if x < 0.6))
        return row

    def change(self, s, row):
        if "energy" in row:
            row["energy"] = row["energy"] - self.size * core(s, self.wall, 0.3, self.mask)


@fault("repulsive-core", "a hole at 0.1 Å that is as deep as the wall is high")
class Everywhere(Hole):
    def __init__(self, size: float = 1.0):
        super().__init__(1.2 * size)


@fault("repulsive-core", "a hole between oxygen and hydrogen only")
class OnePair(Hole):
    mask = staticmethod(lambda a, b: {int(a), int(b)} == {1, 8})


@fault("nve-drift", "an energy that falls with every call", scaled=True)
class Falling(Faulty):
    sign = -1.0
    data = (rattled(water(), 0.02),)

    def __init__(self, size: float = 1.0):
        super().__init__(size)
        self.calls = 0

    def change(self, s, row):
        self.calls += 1  # 0.25 fs each in water: 5 meV/atom/ps are 3.75e-6 eV a step
        row["energy"] = row["energy"] + self.sign * self.size * 4.2e-6 * self.calls


@fault("nve-drift", "an energy that rises with every call", scaled=True)
class Rising(Falling):
    sign = 1.0


@fault("no-collapse", "a well at half a bond")
class Collapsing(Faulty):
    data = (rattled(water(), 0.02),)

    def change(self, s, row):
        i, j = np.triu_indices(len(s), 1)
        gap = s.positions[j] - s.positions[i]
        r = np.linalg.norm(gap, axis=1)
        r0 = COVALENT_RADII[s.atomic_numbers[i]] + COVALENT_RADII[s.atomic_numbers[j]]
        if "energy" in row:
            row["energy"] = row["energy"] - float((8.0 * np.exp(-((r / (0.6 * r0)) ** 2))).sum())
        if "forces" in row:
            slope = 8.0 * np.exp(-((r / (0.6 * r0)) ** 2)) * 2 * r / (0.6 * r0) ** 2
            pull = (slope / r)[:, None] * gap
            np.add.at(row["forces"], i, pull)
            np.add.at(row["forces"], j, -pull)


def readme_table() -> str:
    """Rule and faults that it refuses, as the README shows them."""
    rules = dict.fromkeys(item.rule for item in FAULTS)
    rows = [f"| `{rule}` | {'; '.join(item.what for item in FAULTS if item.rule == rule)} |" for rule in rules]
    return "\n".join(["| rule | errors that it must find |", "|---|---|", *rows]) + "\n"


IDS = [f"{item.rule}: {item.what}" for item in FAULTS]


def test_there_are_more_than_thirty_faults():
    assert len(set(IDS)) == len(FAULTS) >= 30


def test_readme_lists_the_faults():
    assert readme_table() in (Path(__file__).resolve().parents[1] / "README.md").read_text()


@pytest.mark.ci
@pytest.mark.parametrize("item", FAULTS, ids=IDS)
def test_fault_just_above_the_limit_is_refused_by_its_rule(item):
    model = item.model(1.6 if item.scaled else 1.0)
    (outcome,) = check_model(model, rules=[item.rule], data=model.data)
    assert broken([outcome]) == [item.rule], outcome


SCALED = [(name, item) for name, item in zip(IDS, FAULTS, strict=True) if item.scaled]


@pytest.mark.parametrize(
    "item",
    [pytest.param(item, id=name, marks=pytest.mark.full if k % 3 else pytest.mark.ci) for k, (name, item) in enumerate(SCALED)],
)
def test_fault_of_a_third_of_the_limit_is_let_pass(item):
    model = item.model(0.3)
    (outcome,) = check_model(model, rules=[item.rule], data=model.data)
    assert outcome.status == "held", outcome
