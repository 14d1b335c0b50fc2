"""Charge, spin and level: what changes the answer, what must not, and where size consistency ends (measured)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import methane, rattled, supercell, water
from mlipfm_models._layers import ElectronicEmbedding


def energy(potential: Any, s: Structure, level: str = "gfn2-xtb") -> float:
    return float(evaluate(potential, [s], ("energy",), level=level)[0]["energy"])


def far_apart(first: Structure, second: Structure, distance: float, **state: Any) -> Structure:
    positions = np.concatenate([first.positions, second.positions + [distance, 0, 0]])
    return Structure(np.concatenate([first.atomic_numbers, second.atomic_numbers]), positions, **state)


STATES = {"neutral singlet": (0, 1), "nothing stated": (None, None), "neutral, spin not given": (0, None)}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_energy_is_additive_for_separated_neutral_molecules(two_levels: Any, state: tuple[int | None, int | None]) -> None:
    potential = two_levels()
    stated = {"total_charge": state[0], "spin_multiplicity": state[1]}
    a, b = water().replace(**stated), methane().replace(**stated)
    together = energy(potential, far_apart(a, b, 50.0, **stated))
    assert together == pytest.approx(energy(potential, a) + energy(potential, b), abs=1e-10)


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 1), (None, None), (1, 2), (-1, 2)])
def test_eight_cells_have_eight_times_the_energy_if_the_charge_is_eight_times_as_large(
    two_levels: Any, charge: int | None, multiplicity: int | None
) -> None:
    """E(2x2x2) = 8 E: for neutral cells as they are, for charged ones with 8 Q and 8 times the unpaired electrons."""
    potential = two_levels()
    positions = np.array([[0.0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    cell = Structure([8, 1, 1], positions, cell=3.2 * np.eye(3), pbc=np.ones(3, bool), total_charge=charge, spin_multiplicity=multiplicity)
    scaled = {
        "total_charge": None if charge is None else 8 * charge,
        "spin_multiplicity": None if multiplicity is None else 8 * (multiplicity - 1) + 1,
    }
    large = supercell(cell.replace(total_charge=None, spin_multiplicity=None), (2, 2, 2)).replace(**scaled)
    assert energy(potential, large) == pytest.approx(8 * energy(potential, cell), abs=1e-9)


def test_a_charged_molecule_is_felt_by_a_far_neutral_one_and_by_how_much(two_levels: Any) -> None:
    """The known limit: H3O+ and CH4 at 50 Å share the charge. The size of the gap depends on the weights; that there is one does not."""
    potential = two_levels()
    cation = Structure([8, 1, 1, 1], [[0, 0, 0.1], [0.94, 0, 0], [-0.47, 0.81, 0], [-0.47, -0.81, 0]], total_charge=1, spin_multiplicity=1)
    neutral = methane().replace(total_charge=0, spin_multiplicity=1)
    together = energy(potential, far_apart(cation, neutral, 50.0, total_charge=1, spin_multiplicity=1))
    gap = together - energy(potential, cation) - energy(potential, neutral)
    assert 1e-4 < abs(gap) < 1.0


def test_charge_is_shared_out_completely() -> None:
    """With value vectors of one and no nonlinear part, the embedding of the atoms sums to the charge of their system."""
    embedding = ElectronicEmbedding(4, signs=2).double()
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
        embedding.value.weight.fill_(1.0)
        embedding.outer.weight.zero_()
        charge = torch.tensor([3, 0, -2])
        x = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        system = torch.tensor([0, 0, 0, 1, 1, 2, 2])
        e = embedding(x, charge, torch.ones(3, dtype=torch.bool), system)
        total = torch.zeros(3, 4, dtype=torch.float64).index_add(0, system, e)
    torch.testing.assert_close(total, charge.abs().to(torch.float64)[:, None].expand(3, 4))
    assert (e[3:5] == 0).all()


def test_hydrogen_molecule_and_its_cation_differ(two_levels: Any) -> None:
    h2 = Structure([1, 1], [[0, 0, 0], [0.74, 0, 0]])
    potential = two_levels()
    values = [energy(potential, h2.replace(total_charge=q, spin_multiplicity=m)) for q, m in ((0, 1), (1, 2), (-1, 2), (0, 3))]
    assert np.diff(sorted(values)).min() > 1e-4


@pytest.mark.parametrize("state", ["total_charge", "spin_multiplicity"])
def test_not_stated_is_neither_zero_charge_nor_a_singlet(two_levels: Any, state: str) -> None:
    potential = two_levels()
    stated = water().replace(total_charge=0, spin_multiplicity=1)
    assert abs(energy(potential, stated) - energy(potential, stated.replace(**{state: None}))) > 1e-4


def test_states_of_a_batch_do_not_mix(two_levels: Any) -> None:
    potential = two_levels()
    states: Sequence[tuple[int | None, int | None]] = [(0, 1), (1, 2), (None, None), (-1, 2), (2, 1), (0, 3)]
    systems = [rattled(water(), 0.05, seed=k).replace(total_charge=q, spin_multiplicity=m) for k, (q, m) in enumerate(states)]
    batched = [float(a["energy"]) for a in evaluate(potential, systems, ("energy",), level="gfn2-xtb")]
    assert batched == pytest.approx([energy(potential, s) for s in systems], abs=1e-11)


def test_levels_of_a_batch_do_not_mix_and_differ(two_levels: Any) -> None:
    potential = two_levels(references={})
    levels = potential.spec.levels
    systems = [water().replace(level=levels[k]) for k in (0, 1, 0)]
    values = potential(collate(systems, potential.spec.graphs, torch.float64), ("energy",))["energy"].tolist()
    assert values[0] == pytest.approx(values[2], abs=1e-12)
    assert abs(values[0] - values[1]) > 1e-4


def test_missing_level_is_refused_with_the_choice(two_levels: Any) -> None:
    potential = two_levels()
    batch = collate([water()], potential.spec.graphs, torch.float64)
    with pytest.raises(LevelError, match="has no level of theory; choose one by --level .in Python `level`.: gfn1-xtb, gfn2-xtb"):
        potential(batch, ("energy",))


def test_unconditioned_model_says_so(small: Any) -> None:
    assert small().spec.conditions == ()
    assert energy(small(), water().replace(total_charge=2)) == energy(small(), water())
