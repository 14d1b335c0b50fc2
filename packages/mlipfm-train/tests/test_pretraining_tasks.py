"""Masked and replaced atoms, pair distances, bond orders and DeNS: their closed forms, and planted wrong versions that miss them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Feature, Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.dens import Dens, encoded_forces
from mlipfm_train.objectives.masked import Masked
from mlipfm_train.objectives.pairs import BondOrders, PairDistances
from mlipfm_train.objectives.potential_features import prepare_objectives
from mlipfm_train.objectives.replacement import Replacement
from mlipfm_train.step import Step
from mlipfm_train.views import collate_step
from torch import nn

ROCK_SALT = 2.8  # Å, from an atom to its nearest neighbours


def potential_of(name="painn", elements=("Na", "Cl"), channels=16, **options):
    backbone = {"channels": channels, "cutoff": 4.2} | ({"layers": 1} if name == "painn" else {})
    return build(name, {"backbone": backbone, "elements": list(elements), "levels": ["x"], **options})


def prepared(objective, potential, structures=()):
    numbers = np.concatenate([s.atomic_numbers for s in structures]) if structures else np.array([], dtype=np.int64)
    torch.manual_seed(0)
    prepare_objectives({"one": objective}, potential, numbers)
    return objective


def mean(terms, key):
    total, count = terms[key]
    return float(total.detach()) / float(count)


def salt(rng, ordered):
    """Eight atoms of a cube of rock salt, or the same sites with elements at random."""
    sites = np.stack(np.meshgrid(*[range(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    numbers = np.where(sites.sum(axis=1) % 2, 17, 11) if ordered else rng.choice([11, 17], size=8)
    return Structure(numbers, ROCK_SALT * sites, cell=2 * ROCK_SALT * np.eye(3), pbc=True, level="x")


def trained(objective, structures, steps=40, lr=1e-2, plant=None, epochs_from=0):
    """Train a small PaiNN by one objective. Returns the step and a batch of structures that it did not see."""
    potential = potential_of()
    objectives = {"one": prepared(objective, potential, structures)}
    if plant is not None:
        plant(objective)
    step = Step(potential, objectives)
    optimizer = torch.optim.Adam(step.parameters(), lr)
    for k in range(steps):
        batch = collate_step(objectives, structures[:24], potential.spec.graphs, torch.float32, torch.device("cpu"), 0, k)
        total, count = next(iter(step(batch).values()))
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return step, collate_step(objectives, structures[24:], potential.spec.graphs, torch.float32, torch.device("cpu"), 1, 0)


def auc(scores, positive):
    order = np.argsort(np.argsort(scores))
    n = int(positive.sum())
    return (order[positive].sum() - n * (n - 1) / 2) / (n * (len(scores) - n))


def test_predicting_the_frequencies_of_elements_costs_their_entropy():
    rng = np.random.default_rng(0)
    structures = [Structure(rng.choice([11, 17], size=30, p=[0.8, 0.2]), 3.0 * np.arange(90.0).reshape(30, 3)) for _ in range(200)]
    objective = prepared(Masked(fraction=0.3), potential_of())
    with torch.no_grad():
        objective.module.logits.weight.zero_()
        objective.module.logits.bias.copy_(torch.log(torch.tensor([0.8, 0.2])))
    batch = collate([objective.views(s, np.random.default_rng(k))[0] for k, s in enumerate(structures)], [])
    features = {"node_scalar": Feature(torch.zeros(len(batch.positions), 16))}
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert mean(objective.terms(Prediction({}, "direct", features), batch), "element") == pytest.approx(entropy, rel=0.05)
    assert float(batch.labels["masked"].mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.full
def test_masked_atoms_of_rock_salt_are_known_and_those_of_a_random_alloy_are_not():
    rng = np.random.default_rng(1)
    losses = {}
    for ordered in (True, False):
        step, batch = trained(Masked(), [salt(rng, ordered) for _ in range(60)])
        losses[ordered] = mean(step(batch), "one/element")
    assert losses[True] < 0.1
    assert losses[False] > 0.9 * np.log(2)


@pytest.mark.full
def test_a_mask_that_hides_nothing_is_noticed_by_the_random_alloy():
    def open_mask(objective):
        objective.node_input = lambda batch: (torch.ones(len(batch.positions), 1), torch.zeros(len(batch.positions), 16))

    step, batch = trained(Masked(), [salt(np.random.default_rng(k), False) for k in range(60)], plant=open_mask)
    assert mean(step(batch), "one/element") < 0.1  # and not ln 2: the elements were to be seen


def test_elements_cannot_be_hidden_from_a_backbone_with_parameters_for_each():
    with pytest.raises(RecipeError, match="'behler_parrinello' has parameters for each element, which shows the element"):
        prepared(Masked(), potential_of("behler_parrinello"))
    with pytest.raises(RecipeError, match="a potential of one element"):
        prepared(Masked(), potential_of(elements=["Na"]))


@pytest.mark.full
def test_replaced_atoms_of_rock_salt_are_found_and_those_of_a_random_alloy_are_not():
    # equal parts: a replaced atom is as likely to be of either element as one that was not (METHODS C5)
    found = {}
    for ordered in (True, False):
        structures = [salt(np.random.default_rng(k), ordered) for k in range(180)]
        step, batch = trained(Replacement(element_weight=0.0, fraction=0.3), structures)
        prediction = step.potential(batch.batch, ("energy",))
        objective = step.objectives["one"]
        scores = objective.module.logits(prediction.features["node_scalar"].value)[:, -1].detach().numpy()
        replaced = (batch.batch.labels["original_element"] != batch.batch.atomic_numbers).numpy()
        found[ordered] = auc(scores, replaced)
    assert found[True] > 0.97
    assert found[False] == pytest.approx(0.5, abs=0.08)


def test_replaced_elements_have_the_frequencies_of_the_data_and_no_charge():
    rng = np.random.default_rng(0)
    data = [
        Structure(rng.choice([1, 6, 8], size=40, p=[0.6, 0.3, 0.1]), 3 * np.arange(120.0).reshape(40, 3), total_charge=0)
        for _ in range(150)
    ]
    objective = prepared(Replacement(fraction=0.9), potential_of(elements=["H", "C", "O"]), data)
    views = [objective.views(s, np.random.default_rng(k))[0] for k, s in enumerate(data)]
    drawn = np.concatenate([v.atomic_numbers for v in views])
    assert np.bincount(drawn, minlength=9)[[1, 6, 8]] / len(drawn) == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    assert all((v.labels["original_element"] != v.atomic_numbers).any() for v in views)
    assert {v.total_charge for v in views} == {None}
    with pytest.raises(RecipeError, match="of one element have nothing to replace it by"):
        prepared(Replacement(), potential_of(), [Structure([11], [[0, 0, 0]])])


class Linear(nn.Module):
    """Stands in for a readout of pairs: change of the distance in units of sigma by a closed form."""

    def __init__(self, slope, start):
        super().__init__()
        self.outer = nn.Linear(1, 1)
        self.slope, self.start = slope, start

    def forward(self, s, i, j, r):
        return self.slope * (r - self.start)


def dimers(n, spread, seed=0, length=3.5):
    rng = np.random.default_rng(seed)
    return [Structure([6, 6], [[0, 0, 0], [0, 0, length + spread * rng.normal()]]) for _ in range(n)]


def noisy_pairs(objective, structures):
    graph = potential_of().spec.graphs
    batch = collate([objective.views(s, np.random.default_rng(k))[0] for k, s in enumerate(structures)], graph)
    features = {"node_scalar": Feature(torch.zeros(len(batch.positions), 16))}
    return objective.terms(Prediction({}, "direct", features), batch)


@pytest.mark.parametrize(("loss", "expected"), [("mae", 2 / np.sqrt(np.pi)), ("mse", 2.0)])
def test_predicting_no_change_of_a_distance_costs_that_of_the_difference_of_two_displacements(loss, expected):
    objective = prepared(PairDistances(sigma=0.02, loss=loss), potential_of(elements=["C"]))  # the readout begins near zero
    assert mean(noisy_pairs(objective, dimers(1500, 0.0)), "distance") == pytest.approx(expected, rel=0.04)


def test_the_best_linear_guess_of_a_gaussian_distance_reaches_its_closed_form():
    # r ~ N(r0, S), noise adds 2 s²: the best guess of the change is -2 s² / (S + 2 s²) (r' - r0), its mean square error S 2 s² / (S + 2 s²)
    spread, sigma = 0.03, 0.02
    objective = PairDistances(sigma=sigma, loss="mse")
    slope = -2 * sigma**2 / (spread**2 + 2 * sigma**2) / sigma
    objective.module = Linear(slope, 3.5)
    best = mean(noisy_pairs(objective, dimers(1500, spread)), "distance")
    assert best == pytest.approx(spread**2 * 2 / (spread**2 + 2 * sigma**2), rel=0.06)
    objective.module = Linear(-slope, 3.5)  # planted: the sign of the change
    assert mean(noisy_pairs(objective, dimers(1500, spread)), "distance") > 2 * best


def test_bond_orders_are_those_of_the_pairs_of_each_molecule_and_crystals_do_not_count():
    water = Structure(
        [8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], labels={"bond_orders": [[0, 0.9, 0.8], [0.9, 0, 0.1], [0.8, 0.1, 0]]}
    )
    pair = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]], labels={"bond_orders": [[0, 1.0], [1.0, 0]], "weight": 0.5})
    crystal = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]], cell=5 * np.eye(3), pbc=True, labels={"bond_orders": [[0, 1.0], [1.0, 0]]})
    batch = collate([pair, crystal, water], potential_of().spec.graphs)
    objective = prepared(BondOrders(), potential_of())
    nn.init.zeros_(objective.module.outer.weight)
    features = {"node_scalar": Feature(torch.zeros(len(batch.positions), 16))}
    total, count = objective.terms(Prediction({}, "direct", features), batch)["bond_orders"]
    assert float(count) == 2 + 6
    assert float(total.detach()) == pytest.approx(2 * 0.5 * 1.0 + 2 * (0.9 + 0.8 + 0.1))  # nothing is predicted


def harmonic(n, k, seed=0, atoms=5):
    """Atoms on springs of k eV/Å² about sites far apart, away from them by 0.2 Å, and the forces on them."""
    rng = np.random.default_rng(seed)
    sites = 3.0 * np.arange(3.0 * atoms).reshape(atoms, 3)
    away = rng.normal(scale=0.2, size=(n, atoms, 3))
    return sites, [Structure([11] * atoms, sites + a, level="x", labels={"forces": -k * a, "energy": 0.5 * k * (a**2).sum()}) for a in away]


class Guess(nn.Module):
    """Stands in for the noise head: a closed form of the encoded forces."""

    def __init__(self, guess):
        super().__init__()
        self.size, self.guess = nn.Linear(1, 1), guess

    def forward(self, s, forces, batch):
        return self.guess(forces)


def springs(n, k, seed=0):
    """Dimers on a spring of k eV/Å² about 1.5 Å, with the forces on their atoms."""
    rng = np.random.default_rng(seed)
    stretch = rng.normal(scale=0.15, size=n)
    along = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    return [Structure([11, 11], [[0, 0, 0], [0, 0, 1.5 + d]], level="x", labels={"forces": k * d * along}) for d in stretch]


def test_without_noise_known_dens_costs_the_mean_length_of_unit_noise():
    _, data = harmonic(200, 2.0)
    objective = prepared(Dens(sigma=0.05), potential_of())  # the head begins near zero
    batch = collate([objective.views(s, np.random.default_rng(k))[0] for k, s in enumerate(data)], potential_of().spec.graphs)
    features = {"node_scalar": Feature(torch.zeros(len(batch.positions), 16))}
    assert mean(objective.terms(Prediction({}, "direct", features), batch), "noise") == pytest.approx(np.sqrt(8 / np.pi), rel=0.04)


def test_with_forces_encoded_harmonic_noise_is_known_exactly_and_without_them_it_has_its_floor():
    # F = -k (x - x0) tells x - x0: the noise is x' - x0 + F / k. Without F the best is s² / (S + s²) (x' - x0), mean square S / (S + s²)
    k, sigma, spread = 2.0, 0.1, 0.2
    sites, data = harmonic(400, k)
    objective = Dens(sigma=sigma, fraction=0.4, loss="mse")
    batch = collate([objective.views(s, np.random.default_rng(n))[0] for n, s in enumerate(data)], potential_of().spec.graphs)
    away = batch.positions - torch.as_tensor(np.tile(sites, (400, 1)))

    def head(guess):
        objective.module = Guess(guess)
        features = {"node_scalar": Feature(torch.zeros(len(batch.positions), 16))}
        return mean(objective.terms(Prediction({}, "direct", features), batch), "noise")

    assert head(lambda forces: (away + forces / k) / sigma) < 1e-20
    assert head(lambda forces: sigma * away / (spread**2 + sigma**2)) == pytest.approx(spread**2 / (spread**2 + sigma**2), rel=0.06)
    shuffled = encoded_forces(batch)[torch.randperm(len(away), generator=torch.Generator().manual_seed(0))]
    assert head(lambda forces: (away + shuffled / k) / sigma) > 1.0  # planted: the force of another atom


def test_the_noise_head_turns_with_the_structure_and_encodes_displaced_atoms_only():
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    _, (plain, *_) = harmonic(1, 2.0)
    objective = prepared(Dens(), potential_of(dtype="float64"))
    objective.module.double()
    for last in (objective.module.along, objective.module.force):
        nn.init.normal_(last.weight)
    view = objective.views(plain, np.random.default_rng(0))[0]
    turned = view.replace(
        positions=view.positions @ turn,
        labels={**view.labels, "forces": view.labels["forces"] @ turn, "noise": view.labels["noise"] @ turn},
    )
    s = torch.as_tensor(rng.normal(size=(5, 16)))
    found = []
    for structure in (view, turned):
        batch = collate([structure.replace(positions=structure.positions / 2)], potential_of().spec.graphs, torch.float64)
        found.append(objective.module(s, encoded_forces(batch), batch).detach().numpy())
    assert found[0] @ turn == pytest.approx(found[1], abs=1e-9)
    batch = collate([view, plain], potential_of().spec.graphs)
    keep, added = objective.node_input(batch)
    moved = (batch.labels["noise"] != 0).any(dim=1)
    assert 0 < int(moved.sum()) < 5
    assert torch.equal((added != 0).any(dim=1), moved)
    assert bool((keep == 1).all())
    assert torch.equal(batch.labels["forces_weight"][:5] == 0, moved[:5])


def test_a_gradient_at_displaced_atoms_is_no_force_of_the_original_structure():
    with pytest.raises(RecipeError, match="is not the force of the original structure"):
        prepared(Dens(energy_weight=1.0, forces_weight=1.0), potential_of())
    assert prepared(Dens(energy_weight=1.0, probability=0.5), potential_of(forces="direct")).outputs == ("energy",)
    with pytest.raises(RecipeError, match="structures without noise teach nothing"):
        Dens(probability=0.5)


@pytest.mark.full
def test_the_forces_of_other_structures_raise_the_loss_of_a_trained_dens():
    # two atoms whose noise adds up to zero: 1.128 sigma if nothing is known; size and direction of the force tell the bond as it was: all of it
    data = springs(124, 5.0)
    step, batch = trained(Dens(fraction=0.999), data, steps=300)
    right = mean(step(batch), "one/noise")
    forces = batch.batch.labels["forces"].reshape(-1, 2, 3).roll(7, dims=0).reshape(-1, 3)
    other = replace(batch, batch=replace(batch.batch, labels={**batch.batch.labels, "forces": forces}))
    assert right < 0.9
    assert mean(step(other), "one/noise") > 1.2 * right


@pytest.mark.parametrize(
    "make",
    [
        lambda: Masked(fraction=1.0),
        lambda: Masked(weight=0),
        lambda: Replacement(fraction=0),
        lambda: Replacement(element_weight=-1),
        lambda: PairDistances(sigma=2),
        lambda: PairDistances(cutoff=0.1),
        lambda: PairDistances(loss="norm"),
        lambda: BondOrders(weight=0),
        lambda: BondOrders(loss="mad"),
        lambda: Dens(sigma=0),
        lambda: Dens(fraction=1.1),
        lambda: Dens(loss="mad"),
    ],
)
def test_values_that_cannot_be_are_refused(make):
    with pytest.raises(RecipeError):
        make()
