"""Operations of a training step as torch counts them, against a formula for every backbone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from mlipfm_interfaces.checkpoint import build
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.step import Step
from mlipfm_train.step_work import count_work
from mlipfm_train.views import collate_step

BACKBONES = ("behler_parrinello", "deeppot_se", "density", "escaip", "mace", "painn", "pet")


@dataclass(frozen=True)
class Counted:
    """FLOPs of one training step, and the sizes that they follow from: atoms, pairs of neighbours (a padded block of `slots` for each atom where the
    backbone reads such), and rows of element-wise networks: elements times atoms of the most frequent one."""

    flops: int
    atoms: int
    pairs: int
    slots: int
    rows: int


def counted(backbone, structures, weight=1.0, **options):
    """Count one training step with energies and, for a `weight` above 0, forces."""
    potential = build(
        backbone, {"backbone": {"cutoff": 3.0, **options}, "elements": ["H", "C", "O"], "levels": ["morse"], "short_range": "none"}
    )
    objectives = {"energy-force": EnergyForce(forces_weight=weight)}
    step = Step(potential.train(), objectives)
    batch = collate_step(objectives, structures, potential.spec.graphs, torch.float32, torch.device("cpu"), 0, 0)
    work = count_work(step, lambda: torch.stack([total for total, _ in step(batch).values()]).sum())
    view, numbers = batch.batch.views[potential.spec.graphs[0]], batch.batch.atomic_numbers
    slots = 0 if hasattr(view, "i") else view.index.shape[1]
    rows = 3 * int(numbers.unique(return_counts=True)[1].max())
    return Counted(work.flops, len(numbers), len(view.i) if hasattr(view, "i") else view.index.numel(), slots, rows)


# How often a step with conservative forces makes a product, forward, for the forces, and for the gradients of both: a matrix of weights times
# what depends on positions; the same times what does not (embeddings); a constant matrix times what does; a product of two that do.
WEIGHTS, EMBEDDED, CONSTANT, BOTH = 6, 3, 4, 9


def of_painn(n, c, layers):
    nodes = EMBEDDED * 3 * c * c + WEIGHTS * c * c * (4 * (layers - 1) + 11 * layers + 1)
    return n.atoms * nodes + n.pairs * WEIGHTS * 17 * c * (2 + 3 * (layers - 1))  # filters of 16 Bessel functions and a one


def of_behler_parrinello(n, c):
    functions = 3 * 16 + 6 * 12  # 16 shells for 3 elements, 12 angular functions for their 6 pairs
    networks = n.rows * WEIGHTS * (functions * c + c * c) + n.atoms * (EMBEDDED + WEIGHTS) * c * c
    sums = n.pairs * 3 * (16 + n.slots * 12 + 3 * 12) * CONSTANT  # over neighbours of each element
    return networks + sums + n.pairs * n.slots * 3 * BOTH


def of_deeppot_se(n, c, embedding):
    widths, m, axis = (1, *embedding), embedding[-1], 16
    pairs = WEIGHTS * sum(a * b for a, b in pairwise(widths)) + BOTH * 4 * m
    nodes = BOTH * 4 * m * axis + WEIGHTS * (m * axis * c + 2 * c * c) + EMBEDDED * 2 * c * embedding[0] + 3 * m * c
    return n.pairs * pairs + n.atoms * nodes


def of_density(n, c, layers):
    pairs = layers * (WEIGHTS * 9 * c + BOTH * 16 * c) + CONSTANT * 40 * 16  # filters, densities of 16 harmonics, and these
    nodes = layers * (WEIGHTS * (32 * c * c + 6 * c * c + c * c) + CONSTANT * 4 * 16 * c)  # mixing, network, invariants
    return n.pairs * pairs + n.atoms * (nodes + (EMBEDDED + WEIGHTS * (layers - 1) + WEIGHTS) * c * c)


def of_escaip(n, c, layers):
    tokens, last = n.pairs + n.atoms, n.atoms  # of the last block only the atom's own token is updated
    first = n.atoms * (4 * c + 2 * c * c) + n.pairs * (16 * c + c * c)
    each = n.atoms * (3 + 4 + 1) * c * c + n.pairs * c * c + tokens * 2 * c * c
    updated = (layers - 1) * (tokens * 2 + n.pairs * 4) * c * c + last * 2 * c * c  # queries and outputs, network of edges
    attention = 2 * c * (n.slots + 1) * ((layers - 1) * tokens + last)
    return WEIGHTS * (first + layers * each + updated + n.atoms * c * c) + BOTH * attention


def of_mace(n, c, layers):
    invariants = (
        13  # of up to three densities of degree 3, of which 8 are products of quadrupoles: 61 products of rows, 20 quadrupole components
    )
    pairs = layers * (WEIGHTS * 9 + BOTH * 16) * c + CONSTANT * 40 * 16
    constant = CONSTANT * c * (2 * 61 * 16 + 20 * 61 + 4 * 16)
    each = WEIGHTS * (16 + invariants + 1) * c * c + EMBEDDED * (invariants + 1) * c * c
    nodes = layers * (each + constant) + (2 * EMBEDDED + 2 * WEIGHTS * (layers - 1) + WEIGHTS) * c * c
    vectors = (
        WEIGHTS * (invariants + 3 + 3 + 19) * c * c + CONSTANT * 19 * 27 * c
    )  # gate, maps of vectors before and after, mixes of 19 couplings
    vector_pairs = (WEIGHTS * 9 + BOTH * 9) * 3 * c
    return n.pairs * (pairs + (layers - 1) * vector_pairs) + n.atoms * (nodes + (layers - 1) * vectors)


def of_pet(n, c, layers):
    tokens = n.pairs + n.atoms
    pairs = WEIGHTS * (11 * c * layers + c * c * (3 * layers - 1))  # edges; messages but in the first block, tokens, readouts
    attention = 2 * layers * tokens * (WEIGHTS * 8 * c * c + BOTH * 2 * (n.slots + 1) * c)  # two layers of it in each block
    nodes = layers * (EMBEDDED + 2 * WEIGHTS) * c * c - EMBEDDED * c * c + WEIGHTS * c * c
    return n.pairs * pairs + attention + n.atoms * nodes


FORMULAS = {
    "behler_parrinello": (of_behler_parrinello, [{"c": 16}, {"c": 64}, {"c": 128}]),
    "deeppot_se": (
        of_deeppot_se,
        [{"c": 32, "embedding": (16, 32, 32)}, {"c": 64, "embedding": (32, 64, 64)}, {"c": 256, "embedding": (32, 64)}],
    ),
    "density": (of_density, [{"c": 16, "layers": 1}, {"c": 64, "layers": 1}, {"c": 32, "layers": 2}]),
    "escaip": (of_escaip, [{"c": 32, "layers": 1}, {"c": 64, "layers": 2}, {"c": 32, "layers": 3}]),
    "mace": (of_mace, [{"c": 16, "layers": 1}, {"c": 32, "layers": 2}, {"c": 64, "layers": 2}]),
    "painn": (of_painn, [{"c": 32, "layers": 3}, {"c": 64, "layers": 2}, {"c": 16, "layers": 1}]),
    "pet": (of_pet, [{"c": 16, "layers": 1}, {"c": 32, "layers": 2}, {"c": 64, "layers": 3}]),
}


@pytest.mark.ci
@pytest.mark.parametrize(("backbone", "sizes"), [(name, sizes) for name, (_, some) in FORMULAS.items() for sizes in some])
def test_operations_of_a_step_are_those_of_the_formula_of_the_backbone_within_two_per_cent(backbone, sizes, morse_structures):
    options = {"channels" if key == "c" else key: value for key, value in sizes.items()}
    found = counted(backbone, morse_structures(3, 0), **options)
    assert found.flops == pytest.approx(
        2 * FORMULAS[backbone][0](found, **sizes), rel=0.02
    )  # a product is a multiplication and an addition


def test_six_operations_for_each_parameter_and_atom_are_wrong(morse_structures):
    """The rule of language models, 6 N D (arXiv:2001.08361), knows neither pairs of neighbours nor the second derivative."""
    found = counted("painn", morse_structures(6, 0), channels=32, layers=3)
    potential = build("painn", {"backbone": {"cutoff": 3.0, "channels": 32, "layers": 3}, "elements": ["H", "C", "O"], "levels": ["morse"]})
    parameters = sum(p.numel() for p in potential.parameters())
    assert found.flops > 1.5 * 6 * parameters * found.atoms


@pytest.mark.ci
@pytest.mark.parametrize("backbone", BACKBONES)
def test_forces_cost_two_to_three_times_the_step_of_energies(backbone, morse_structures):
    # 3 forward passes' worth for energies, 6 to 9 with forces, which are differentiated twice; "6 N D" counts neither
    with_forces = counted(backbone, morse_structures(6, 0), channels=32).flops
    energies = counted(backbone, morse_structures(6, 0), weight=0.0, channels=32).flops
    assert 1.6 < with_forces / energies < 3.2
