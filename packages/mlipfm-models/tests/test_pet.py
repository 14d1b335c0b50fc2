"""The pet backbone: the contract suite with measured rotations, what holds exactly all the same, messages, symmetric sites, parameter count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.potential_rules import POTENTIAL_RULES
from mlipfm_interfaces.testing.structures import methane, random_rotation, rattled, silicon, water
from mlipfm_models import build_potential
from mlipfm_models.backbones.pet import Pet, PetConfig

SMALL = {"channels": 8, "layers": 2, "attention_layers": 1, "cutoff": 4.0, "radial": 4, "heads": 2, "expansion": 1}


def small(**changes: Any) -> Potential:
    backbone = SMALL | changes.pop("backbone", {})
    return build_potential(
        "pet", {"elements": ["H", "C", "O", "Si"], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": backbone} | changes
    )


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfTwoAttentionLayersTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        conditions = ["total_charge", "spin_multiplicity"]
        return small(levels=["gfn1-xtb", "gfn2-xtb"], conditions=conditions, scale=1.7, backbone={"layers": 3, "attention_layers": 2})


@pytest.mark.ci
class TestContractOfDirectForces(PotentialContract):
    def potential(self) -> Potential:
        return small(forces="direct")


def test_only_what_rotations_imply_is_measured_and_all_other_rules_hold() -> None:
    potential = small()
    assert potential.spec.invariant is False
    names = ("rotation", "reflection", "net-force", "net-torque", "translation", "permutation", "forces-are-gradient")
    verdicts = {rule.name: rule.check(potential).status for rule in POTENTIAL_RULES if rule.name in names}
    assert {name for name, status in verdicts.items() if status == "measured"} == {"rotation", "reflection", "net-torque"}
    assert len(verdicts) == len(names)


@pytest.mark.parametrize("improper", [False, True])
def test_energies_do_depend_on_the_orientation(improper: bool) -> None:
    """An untrained model does not know rotations: the violation is there to be measured, and large."""
    s, turn = rattled(water(), 0.1), random_rotation(3, improper=improper)
    one, two = (float(a["energy"]) for a in evaluate(small(), [s, s.replace(positions=s.positions @ turn.T)], ("energy",)))
    assert abs(one - two) > 1e-3


def test_messages_come_from_the_reverse_pair() -> None:
    """With one layer an atom depends on its neighbours only; with two on theirs, through the message of the pair at the other atom."""
    chain = Structure([6] * 4, np.arange(4)[:, None] * [3.0, 0, 0])

    def change(layers: int, moved: int) -> float:
        potential = small(backbone={"layers": layers})
        assert potential.spec.interaction_range == 4.0 * layers
        positions = chain.positions + 0.3 * np.eye(4)[moved][:, None] * [0, 1.0, 0]
        one, two = evaluate(potential, [chain, chain.replace(positions=positions)], ("atomic_energies",))
        return abs(float(one["atomic_energies"][0] - two["atomic_energies"][0]))

    assert change(1, 1) > 1e-10
    assert change(1, 2) == 0
    assert change(2, 2) > 1e-10
    assert change(2, 3) == 0


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_every_parameter_of_the_backbone_learns_from_forces(forces: str) -> None:
    potential = small(forces=forces)
    batch = collate([rattled(methane(), 0.1), rattled(silicon(), 0.1)], potential.spec.graphs, torch.float64)
    potential(batch, ("energy", "forces"), create_graph=True)["forces"].square().sum().backward()
    assert [name for name, p in potential.backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_hessian_rows_can_be_trained() -> None:
    potential = small()
    rows = {"hessian_rows": np.zeros((3, 5, 3)), "hessian_rows_index": np.array([[0, 0], [0, 1], [0, 2]])}
    batch = collate([methane().replace(labels=rows)], potential.spec.graphs, torch.float64)
    hessian = potential(batch, ("hessian_rows",), create_graph=True)["hessian_rows"]
    hessian.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters() if p.grad is not None)
    block = hessian[:, 0].detach()
    torch.testing.assert_close(block, block.T)  # second derivatives of an energy, but not those of an invariant one
    assert (block - block[0, 0] * torch.eye(3, dtype=torch.float64)).abs().max() > 1e-3


def test_an_atom_without_neighbours_has_the_energy_of_its_element_alone() -> None:
    potential, s = small(), water()
    far = evaluate(potential, [s.replace(positions=s.positions * 100.0)], ("energy", "forces"))[0]
    singles = [evaluate(potential, [Structure([int(z)], np.zeros((1, 3)))], ("energy",))[0]["energy"] for z in s.atomic_numbers]
    assert far["energy"] == pytest.approx(sum(singles), abs=1e-12)
    assert np.abs(far["forces"]).max() == 0


def parameters_of(c: int, layers: int, attention_layers: int, radial: int, expansion: int) -> int:
    """See the table of the README."""
    attention = (4 + 2 * expansion) * c * c + (5 + expansion) * c
    block = 5 * c * c + 4 * c + (3 + radial) * c + attention_layers * attention
    return layers * block + (layers - 1) * c * c


@pytest.mark.parametrize("config", [PetConfig(), PetConfig(channels=12, layers=3, attention_layers=1, radial=5, heads=3, expansion=1)])
def test_parameter_count(config: PetConfig) -> None:
    expected = parameters_of(config.channels, config.layers, config.attention_layers, config.radial, config.expansion)
    assert sum(p.numel() for p in Pet(config).parameters()) == expected
