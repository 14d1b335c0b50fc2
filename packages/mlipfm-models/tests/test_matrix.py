"""Every pair of the table of combinations that is not refused: the model is built and does what the column says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import MissingLabelsError, RecipeError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import STENCIL, crystal_of, numerical_stress
from mlipfm_interfaces.testing.structures import random_rotation, rattled, water
from mlipfm_models import build_potential
from mlipfm_models.combinations import Column, cell_id, columns, matrix, own_backbones, refusal
from mlipfm_models.uncertainty._features import observe
from mlipfm_models.uncertainty.ensembles import predict_members
from mlipfm_models.uncertainty.llpr import Llpr, factorise, gram_matrix, raw_sigma

ROOT = Path(__file__).parents[3]
LEVELS = ["gfn1-xtb", "gfn2-xtb"]
COLUMNS = {column.name: column for column in columns()}
PAIRS = [(backbone, column) for backbone in own_backbones() for column in COLUMNS.values()]
GIVEN = [pair for pair in PAIRS if refusal(*pair) is None]
REFUSED = [pair for pair in PAIRS if refusal(*pair) is not None and pair[1].reason is None]
NEUTRAL = rattled(water(), 0.1).replace(total_charge=0, spin_multiplicity=1)
ASKED = rattled(water(), 0.1, 99).replace(total_charge=0, spin_multiplicity=1, level=LEVELS[0])
#: With labels of no model: only that they are there counts.
RATTLED = [
    rattled(water(), 0.1, seed).replace(
        total_charge=0, spin_multiplicity=1, level=LEVELS[0], labels={"energy": 0.1 * seed, "forces": np.full((3, 3), 0.01 * seed)}
    )
    for seed in range(18)
]


def ids(pairs: list[tuple[str, Column]]) -> list[str]:
    return [cell_id(*pair) for pair in pairs]


def model(backbone: str, column: Column, **changes: Any) -> Any:
    plain = {"elements": ["H", "C", "O"], "levels": LEVELS, "dtype": "float64", "backbone": {"channels": 32, "cutoff": 4.0}}
    return build_potential(backbone, {**plain, **column.changes, **changes})


def ask(potential: Any, s: Structure, key: str, level: str = LEVELS[0]) -> np.ndarray:
    return evaluate(potential, [s], (key,), level=level)[0][key]


def energies(potential: Any, systems: list[Structure], level: str = LEVELS[0]) -> np.ndarray:
    return np.array([row["energy"] for row in evaluate(potential, systems, ("energy",), level=level)])


def turned(s: Structure, turn: np.ndarray) -> Structure:
    return s.replace(positions=s.positions @ turn.T, cell=s.cell @ turn.T)


# What each column says


def conservative(potential: Any) -> None:
    """Forces are the slope of the energy along a direction."""
    direction, h = np.random.default_rng(0).normal(size=(3, 3)), 2e-4
    slope = sum(w * energies(potential, [NEUTRAL.replace(positions=NEUTRAL.positions + k * h * direction)])[0] / h for k, w in STENCIL)
    assert potential.spec.kind == "conservative"
    assert (ask(potential, NEUTRAL, "forces") * direction).sum() == pytest.approx(-slope, abs=1e-7)


def direct(potential: Any) -> None:
    """Forces are a head of their own, and turn with the molecule."""
    assert potential.spec.kind == "direct"
    forces, turn = ask(potential, NEUTRAL, "forces"), random_rotation(1)
    assert np.abs(forces).max() > 1e-6
    if potential.spec.invariant:
        np.testing.assert_allclose(ask(potential, turned(NEUTRAL, turn), "forces"), forces @ turn.T, atol=1e-10)


def stress(potential: Any) -> None:
    s = crystal_of(potential, 3).replace(level=LEVELS[1])
    got = ask(potential, s, "stress", LEVELS[1])
    np.testing.assert_allclose(got, numerical_stress(potential, s), atol=1e-7 * max(1.0, np.abs(got).max()))


def direct_stress(potential: Any) -> None:
    s, turn = crystal_of(potential, 3), random_rotation(1)
    got = ask(potential, s, "stress")
    np.testing.assert_allclose(got, got.T, atol=1e-14)
    assert np.abs(got).max() > 1e-6
    lone = Structure([1], np.zeros((1, 3)), 20 * np.eye(3), np.ones(3, dtype=bool))
    np.testing.assert_allclose(ask(potential, lone, "stress"), 0.0, atol=1e-12)
    if potential.spec.invariant:
        np.testing.assert_allclose(ask(potential, turned(s, turn), "stress"), turn @ got @ turn.T, atol=1e-10)


def total_charge(potential: Any) -> None:
    """Every charge has an energy of its own, and so has a charge that is not given."""
    found = energies(potential, [NEUTRAL.replace(spin_multiplicity=None, total_charge=q) for q in (0, 1, -1, 2, None)])
    assert np.diff(np.sort(found)).min() > 1e-6


def spin_multiplicity(potential: Any) -> None:
    found = energies(potential, [NEUTRAL.replace(spin_multiplicity=m) for m in (1, 3, 5, None)])
    assert np.diff(np.sort(found)).min() > 1e-6


def level_embedding(potential: Any) -> None:
    first, second = (energies(potential, [NEUTRAL], level)[0] for level in LEVELS)
    assert abs(first - second) > 1e-6


def level_heads(potential: Any) -> None:
    """Readouts of all levels are rows of one parameter; a system trains the row of its own level."""
    batch = collate([NEUTRAL.replace(level=LEVELS[1])], potential.spec.graphs, torch.float64)
    potential(batch, ("energy",))["energy"].sum().backward()
    gradient = potential.heads.energy.outer.weight.grad.abs().amax(dim=1)
    assert gradient[0] == 0 < gradient[1]


def external_field(potential: Any) -> None:
    """Dipole and polarizability are what the energy answers to the field."""
    s = NEUTRAL.replace(external_field=[0.1, -0.2, 0.05], level=LEVELS[0])
    batch = collate([s], potential.spec.graphs, torch.float64).with_leaves(field=True)
    found = potential(batch, ("energy", "dipole", "polarizability"), create_graph=True)
    dipole, polarizability = derivatives.field_response(found["energy"], batch)
    torch.testing.assert_close(found["dipole"].detach(), dipole, rtol=0, atol=1e-11)
    torch.testing.assert_close(found["polarizability"].detach(), polarizability, rtol=0, atol=1e-11)
    conservative(potential)


def repulsion(potential: Any) -> None:
    """Two carbon atoms half a bond apart are pushed away as by the formula, whatever the network says there."""
    bare = build_potential(potential.plugin, {**potential.config, "short_range": "none"})
    near, far = (Structure([6, 6], [[0, 0, 0], [0, 0, r]]) for r in (0.7, 1.6))
    gain = energies(potential, [near, far]) - energies(bare, [near, far])
    assert gain[0] > 10
    assert gain[1] == 0


def head(key: str) -> Callable[[Any], None]:
    def check(potential: Any) -> None:
        kind, value, turn = QUANTITIES[key], ask(potential, NEUTRAL, key), random_rotation(2)
        assert value.shape == ((3, *kind.shape) if kind.layout == "atom" else kind.shape)
        assert np.abs(value).max() > 1e-6
        order = np.array([2, 0, 1])
        other = NEUTRAL.replace(atomic_numbers=NEUTRAL.atomic_numbers[order], positions=NEUTRAL.positions[order] + 3.0)
        np.testing.assert_allclose(ask(potential, other, key), value[order] if kind.layout == "atom" else value, atol=1e-10)
        if potential.spec.invariant:
            want = value @ turn.T if kind.shape == (3,) else turn @ value @ turn.T if kind.shape else value
            np.testing.assert_allclose(ask(potential, turned(NEUTRAL, turn), key), want, atol=1e-10)
        if kind.layout == "system":
            double = Structure(
                np.tile(NEUTRAL.atomic_numbers, 2), np.concatenate([NEUTRAL.positions, NEUTRAL.positions + 70.0]), total_charge=0
            )
            one = ask(potential, NEUTRAL.replace(spin_multiplicity=None), key)
            np.testing.assert_allclose(ask(potential, double, key), 2 * one if kind.extensive else one, atol=1e-9)
        if key in ("charges", "spin_charges"):
            state = {"charges": {"total_charge": 2}, "spin_charges": {"spin_multiplicity": 3}}[key]
            assert ask(potential, NEUTRAL.replace(**state), key).sum() == pytest.approx(2, abs=1e-12)

    return check


def uncertainty_llpr(potential: Any) -> None:
    """Energies and forces are linear in what sigma is made of; more training makes everything more certain, and direct forces are refused."""
    seen = observe(potential, [ASKED], forces=True)
    readout, before = potential.heads.energy.outer, seen.energy
    with torch.no_grad():
        step = torch.linspace(-1, 1, readout.weight.shape[1], dtype=torch.float64)
        readout.weight += step
    after = observe(potential, [ASKED], forces=True)
    torch.testing.assert_close(after.energy - before, 3 * potential.scale * seen.energy_features @ step, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.forces - seen.forces, potential.scale * seen.force_features @ step, rtol=0, atol=1e-9)
    few, many = (factorise(gram_matrix(potential, RATTLED[:n])[0], 1e-6)[0] for n in (3, 6))
    assert (raw_sigma(many, seen.force_features) <= raw_sigma(few, seen.force_features)).all()


def shallow_ensemble(potential: Any) -> None:
    """Members add up to the model, and their spread is that of LLPR."""
    fitted = Llpr.fit(potential, "digest", RATTLED[:6], RATTLED[6:])
    (sure,), (members,) = fitted.predict(potential, [ASKED]), predict_members(fitted, potential, [ASKED], members=300)
    assert members.energies.mean() == pytest.approx(sure.energy, abs=1e-8)
    np.testing.assert_allclose(members.forces.mean(axis=0), sure.forces, atol=1e-8)
    assert members.energies.std() / 3 == pytest.approx(sure.energy_sigma, rel=0.2)
    np.testing.assert_allclose(np.linalg.norm(members.forces.std(axis=0)), np.linalg.norm(sure.force_sigma), rtol=0.2)


def conformal(potential: Any) -> None:
    """The interval is the 11th smallest of 12 scores, (n+1) 0.8 rounded up, and 12 structures guarantee no 95 %."""
    fitted = Llpr.fit(potential, "digest", RATTLED[:6], RATTLED[6:])
    for quantity in ("energy", "forces"):
        q = fitted.quantile(quantity, 0.8)
        assert sum(u.score(quantity) <= q * (1 + 1e-12) for u in fitted.predict(potential, RATTLED[6:])) == 11
        with pytest.raises(MissingLabelsError, match="12 structures cannot guarantee a coverage of 95%"):
            fitted.quantile(quantity, 0.95)


CHECKS: dict[str, Callable[[Any], None]] = {
    "conservative": conservative,
    "direct": direct,
    "stress": stress,
    "direct stress": direct_stress,
    "total charge": total_charge,
    "spin multiplicity": spin_multiplicity,
    "level embedding": level_embedding,
    "level heads": level_heads,
    "external field": external_field,
    "short-range repulsion": repulsion,
    "uncertainty LLPR": uncertainty_llpr,
    "uncertainty shallow ensemble": shallow_ensemble,
    "uncertainty conformal": conformal,
    **{name: head(name.removeprefix("head ")) for name, column in COLUMNS.items() if name.startswith("head ") and column.reason is None},
}


@pytest.mark.ci
@pytest.mark.parametrize(("backbone", "column"), GIVEN, ids=ids(GIVEN))
def test_combination(backbone: str, column: Column) -> None:
    CHECKS[column.name](model(backbone, column))


@pytest.mark.parametrize(("backbone", "column"), REFUSED, ids=ids(REFUSED))
def test_refused_combination_is_refused_when_it_is_built_in_the_words_of_the_table(backbone: str, column: Column) -> None:
    with pytest.raises(RecipeError) as caught:
        model(backbone, column)
    assert str(caught.value).endswith(str(refusal(backbone, column)))


def test_no_cell_is_blank_and_no_backbone_is_missing() -> None:
    table = matrix()
    for row in [table[name] for name in own_backbones()]:
        assert list(row) == list(COLUMNS)
        assert all((cell.test is None) != (cell.refused is None) and (cell.test or cell.refused) for cell in row.values())


@pytest.mark.ci
def test_every_test_that_the_table_names_is_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--tier", "ci", str(Path(__file__).relative_to(ROOT))]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    named = {cell.test for row in matrix().values() for cell in row.values() if cell.test is not None}
    assert named <= set(found)
    assert len(named) == len(GIVEN)


@pytest.mark.ci
def test_the_command_prints_the_table_as_text_and_json() -> None:
    """In a process of its own, as an addition to the group of the registry, whose other commands stay."""
    run = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "models"]
    printed = subprocess.run([*run, "matrix", "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == {b: {name: cell.as_dict() for name, cell in row.items()} for b, row in matrix().items()}
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {name} " in shown for name in ("list", "show", "promote", "matrix", "table"))
