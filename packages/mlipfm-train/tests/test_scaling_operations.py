"""Operations of a training step as torch counts them, against a formula for PaiNN and bounds for every backbone."""

from __future__ import annotations

import pytest
import torch
from mlipfm_interfaces.checkpoint import build
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.step import Step
from mlipfm_train.step_work import count_work
from mlipfm_train.views import collate_step

BACKBONES = ("behler_parrinello", "deeppot_se", "density", "escaip", "mace", "painn", "pet")


def counted(backbone, structures, weight=1.0, **options):
    """FLOPs of one training step with energies and, for a `weight` above 0, forces; number of atoms and of neighbour pairs."""
    potential = build(
        backbone, {"backbone": {"cutoff": 3.0, **options}, "elements": ["H", "C", "O"], "levels": ["morse"], "short_range": "none"}
    )
    objectives = {"energy-force": EnergyForce(forces_weight=weight)}
    step = Step(potential.train(), objectives)
    batch = collate_step(objectives, structures, potential.spec.graphs, torch.float32, torch.device("cpu"), 0, 0)
    work = count_work(step, lambda: torch.stack([total for total, _ in step(batch).values()]).sum())
    view = batch.batch.views[potential.spec.graphs[0]]
    return work.flops, len(batch.batch.positions), len(view.i) if hasattr(view, "i") else 0


@pytest.mark.parametrize(("c", "layers"), [(32, 3), (64, 2)])
def test_operations_of_painn_are_those_of_its_formula_within_ten_per_cent(c, layers, morse_structures):
    # a matrix product costs 2 operations; where its input depends on positions it is done 6 times: forward, force, and twice two in the backward
    # pass of the loss. The first message acts on embeddings: 3 times. Filters are [radial + 1, c] for each pair.
    found, atoms, pairs = counted("painn", morse_structures(6, 0), channels=c, layers=layers)
    nodes = 3 * 3 * c * c + 6 * c * c * (4 * (layers - 1) + 11 * layers + 1)
    filters = 6 * 17 * c * (2 + 3 * (layers - 1))
    assert found == pytest.approx(2 * (atoms * nodes + pairs * filters), rel=0.1)


@pytest.mark.ci
@pytest.mark.parametrize("backbone", BACKBONES)
def test_forces_cost_two_to_three_times_the_step_of_energies(backbone, morse_structures):
    # 3 forward passes' worth for energies, 6 to 9 with forces, which are differentiated twice; "6 N D" counts neither
    with_forces = counted(backbone, morse_structures(6, 0), channels=32)[0]
    energies = counted(backbone, morse_structures(6, 0), weight=0.0, channels=32)[0]
    assert 1.6 < with_forces / energies < 3.2
