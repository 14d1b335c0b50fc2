"""Objectives without labels: closed forms of their losses, their contract, and every backbone that can be trained by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.derivatives import jacobian_asymmetry
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Feature, Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import OBJECTIVE_RULES, ObjectiveCase
from mlipfm_train.objectives.curl import Curl
from mlipfm_train.objectives.denoise import Denoise
from mlipfm_train.objectives.dens import Dens
from mlipfm_train.objectives.masked import Masked
from mlipfm_train.objectives.pairs import BondOrders, PairDistances
from mlipfm_train.objectives.potential_features import prepare_objectives
from mlipfm_train.objectives.replacement import Replacement
from mlipfm_train.objectives.torque import Torque, rotation_gradient
from mlipfm_train.objectives.twins import Twins, barlow
from mlipfm_train.step import Step
from mlipfm_train.views import collate_step

BACKBONES = ("behler_parrinello", "deeppot_se", "density", "escaip", "mace", "painn", "pet")
#: Backbones without node vectors: no head `noise`. `predict: forces` works for all.
SCALAR = ("behler_parrinello",)


def mean(terms, key):
    total, count = terms[key]
    return float(total) / float(count)


def noisy(objective, structures, seed=0):
    rng = np.random.default_rng(seed)
    return collate([objective.views(s, rng)[0] for s in structures], [])


@pytest.mark.parametrize(("loss", "expected"), [("norm", np.sqrt(8 / np.pi)), ("mse", 1.0), ("mae", np.sqrt(2 / np.pi))])
def test_predicting_no_noise_costs_the_moment_of_unit_noise(loss, expected):
    # E|N(0, I3)| = sqrt(8/pi) = 1.5958; of a component the mean square is 1 and the mean size sqrt(2/pi)
    objective = Denoise(sigma=0.1, fraction=0.999, loss=loss)
    batch = noisy(objective, [Structure([6] * 40, 3.0 * np.arange(120.0).reshape(40, 3))] * 60)
    nothing = Prediction({"noise": torch.zeros_like(batch.positions)}, "direct")
    assert mean(objective.terms(nothing, batch), "noise") == pytest.approx(expected, rel=0.03)


def test_without_their_mean_the_displacements_of_n_atoms_have_n_minus_one_parts_of_the_variance():
    objective = Denoise(sigma=0.1)
    batch = noisy(objective, [Structure([6] * 4, 3.0 * np.arange(12.0).reshape(4, 3))] * 600)
    nothing = Prediction({"noise": torch.zeros_like(batch.positions)}, "direct")
    assert mean(objective.terms(nothing, batch), "noise") == pytest.approx(3 / 4, rel=0.03)
    assert float(batch.labels["noise"].reshape(600, 4, 3).mean(dim=1).abs().max()) < 1e-15


@pytest.mark.parametrize("predict", ["noise", "forces"])
def test_the_best_linear_denoiser_of_gaussian_structures_reaches_the_closed_form(predict):
    # x ~ N(x0, S) without a centre of mass: the best prediction is s² (S + s²)^-1 (x' - x0), its error per component tr[S (S + s²)^-1] / 3N
    rng, n, sigma, kt = np.random.default_rng(1), 4, 0.1, 0.03
    centred = np.eye(3 * n) - np.kron(np.ones((n, n)) / n, np.eye(3))
    root = 0.1 * centred @ rng.normal(size=(3 * n, 3 * n)) / np.sqrt(3 * n)
    covariance, start = root @ root.T, 3.0 * np.arange(3.0 * n)
    objective = Denoise(sigma=sigma, predict=predict, **({"kt": kt} if predict == "forces" else {}))
    structures = [Structure([6] * n, (start + root @ rng.normal(size=3 * n)).reshape(n, 3)) for _ in range(600)]
    batch = noisy(objective, structures)
    away = batch.positions.numpy().reshape(-1, 3 * n) - start
    shrink = np.linalg.inv(covariance + sigma**2 * np.eye(3 * n))
    best = torch.as_tensor((sigma**2 * away @ shrink).reshape(-1, 3))
    values = {"noise": best, "forces": -best * kt / sigma**2}
    expected = np.trace(covariance @ shrink) / (3 * n)
    assert mean(objective.terms(Prediction(values, "direct"), batch), "noise") == pytest.approx(expected, rel=0.03)
    wrong = {key: 0.5 * value for key, value in values.items()}
    assert mean(objective.terms(Prediction(wrong, "direct"), batch), "noise") > 1.03 * expected


def test_the_rotation_gradient_is_that_of_finite_rotations():
    # E = sum_i x_i^2 is no invariant: dE/dG_ab about the centre, against central differences of exp(G - G^T)
    rng = np.random.default_rng(2)
    r = rng.normal(size=(5, 3)) * 2
    r -= r.mean(axis=0)
    batch = collate([Structure([6] * 5, r)], [])
    forces = torch.as_tensor(-2 * r * [1.0, 0.0, 0.0])
    found = rotation_gradient(forces, batch)[0].numpy()
    h = 1e-5
    for a in range(3):
        for b in range(3):
            g = np.zeros((3, 3))
            g[a, b] += h
            energy = [float(((torch.linalg.matrix_exp(torch.as_tensor(sign * (g - g.T))).numpy() @ r.T)[0] ** 2).sum()) for sign in (1, -1)]
            assert found[a, b] == pytest.approx((energy[0] - energy[1]) / (2 * h), abs=1e-7)
    objective = Torque(weight=2.0)
    assert mean(objective.terms(Prediction({"forces": forces}, "direct"), batch), "torque") == pytest.approx(2 * np.linalg.norm(found))


def test_an_invariant_model_has_no_torque_and_crystals_do_not_count(morse_structures):
    structures = morse_structures(4, 0)
    crystal = Structure([6], [[0, 0, 0]], cell=3 * np.eye(3), pbc=[True] * 3)
    potential = build("density", {"backbone": {"channels": 4}, "elements": ["H", "C", "O"], "levels": ["morse"], "dtype": "float64"})
    batch = collate([*structures, crystal.replace(level="morse")], potential.spec.graphs, torch.float64)
    total, count = Torque(weight=1.0).terms(potential(batch, ("forces",)), batch)["torque"]
    assert float(total) < 1e-12
    assert float(count) == 4.0


def test_barlow_has_its_floor_for_equal_independent_features_and_d_for_constant_ones():
    generator = torch.Generator().manual_seed(0)
    b, d, coupling = 4000, 12, 0.5
    z = torch.randn(b, d, generator=generator, dtype=torch.float64)
    assert float(barlow(z, z, coupling)) == pytest.approx(coupling * d * (d - 1) / b, rel=0.2)
    assert float(barlow(torch.ones(b, d), torch.ones(b, d), coupling)) == pytest.approx(d, rel=1e-6)
    order = torch.randperm(b, generator=generator)
    assert float(barlow(z[order], z[order], coupling)) == pytest.approx(float(barlow(z, z, coupling)), rel=1e-9)
    copies = z[:, :1].expand(b, d)
    assert float(barlow(copies, copies, coupling)) == pytest.approx(coupling * d * (d - 1), rel=1e-3)  # one feature twelve times


def test_twins_average_the_node_scalars_of_each_view():
    objective = Twins(channels=2, dimensions=2)
    with torch.no_grad():
        objective.module.weight.copy_(torch.eye(2))
    batch = collate(objective.views(Structure([1, 1], [[0, 0, 0], [0, 0, 2.0]]), np.random.default_rng(0)), [])
    features = {"node_scalar": Feature(torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 0.0], [8.0, 4.0]]))}
    pairs, count = objective.terms(Prediction({}, "direct", features), batch)["pairs"]
    assert pairs.tolist() == [[[2.0, 1.0], [4.0, 2.0]]]
    assert float(count) == 1.0


def linear_forces(jacobian, batch):
    """Forces J x of every system and, where a vector is asked, minus J^T v: what a direct model of these forces predicts."""
    x = batch.positions.reshape(batch.n_systems, -1)
    vectors = batch.labels["hvp_probe"][0].reshape(batch.n_systems, -1)
    return Prediction({"forces": (x @ jacobian.T).reshape(-1, 3), "hvp": -(vectors @ jacobian).reshape(1, -1, 3)}, "direct")


def test_the_curl_of_a_spring_with_a_whirl_is_that_of_the_whirl():
    # F = -k r + c (-y, x, 0): |J - J^T|² = 8 c² for each atom, so that the term is 8 c² / 12; every vector of +1 and -1 says so exactly
    n, k, c = 4, 3.0, 0.7
    jacobian = np.kron(np.eye(n), -k * np.eye(3) + c * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0]]))
    structures = [Structure([6] * n, np.random.default_rng(seed).normal(size=(n, 3)) * 3) for seed in range(3)]
    objective, rng = Curl(weight=2.0), np.random.default_rng(0)
    batch = collate([view for s in structures for view in objective.views(s, rng)], [])
    total, count = objective.terms(linear_forces(torch.as_tensor(jacobian), batch), batch)["curl"]
    assert float(count) == 3.0
    assert float(total) / 3 == pytest.approx(2.0 * 8 * c**2 / 12, rel=1e-9)


def test_the_curl_is_that_of_the_whole_jacobian_on_average_and_zero_for_a_symmetric_one():
    n, rng = 2, np.random.default_rng(5)
    jacobian = rng.normal(size=(3 * n, 3 * n))
    objective, s = Curl(weight=1.0), Structure([6] * n, [[0, 0, 0], [0, 0, 3.0]])
    batch = collate([view for seed in range(4000) for view in objective.views(s, np.random.default_rng(seed))], [])
    wanted = np.sum((jacobian - jacobian.T) ** 2) / (12 * n)
    assert mean(objective.terms(linear_forces(torch.as_tensor(jacobian), batch), batch), "curl") == pytest.approx(
        wanted, rel=0.03
    )  # 4,000 vectors
    symmetric = torch.as_tensor(jacobian + jacobian.T)
    assert mean(objective.terms(linear_forces(symmetric, batch), batch), "curl") < 1e-18


@pytest.mark.ci
def test_direct_forces_lose_their_curl_and_conservative_ones_are_refused(morse_structures):
    potential, structures = potential_of("painn", forces="direct"), morse_structures(4, 2)
    objectives = {"curl": Curl(weight=1.0)}
    step, optimizer = Step(potential, objectives), torch.optim.Adam(potential.parameters(), lr=3e-3)

    def asymmetry():
        batch = collate(structures, potential.spec.graphs, torch.float64).with_leaves()
        return jacobian_asymmetry(potential(batch, ("forces",))["forces"], batch.positions)

    before = asymmetry()
    for epoch in range(30):
        optimizer.zero_grad()
        batch = collate_step(objectives, structures, potential.spec.graphs, torch.float64, torch.device("cpu"), 0, epoch)
        total, count = step(batch)["curl/curl"]
        (total / count).backward()
        optimizer.step()
    assert asymmetry() < 0.7 * before
    with pytest.raises(RecipeError, match="have no curl"):
        prepare_objectives({"curl": Curl()}, potential_of("painn"), np.array([6]))


MAKERS = {
    "bond-orders": lambda: BondOrders(),
    "curl": lambda: Curl(),
    "dens": lambda: Dens(),
    "masked": lambda: Masked(),
    "pair-distances": lambda: PairDistances(),
    "replacement": lambda: Replacement(),
    "denoise": lambda: Denoise(),
    "denoise-forces": lambda: Denoise(predict="forces", fraction=0.5),
    "torque": lambda: Torque(),
    "twins": lambda: Twins(dimensions=4),
}


def bonded(structures):
    """The structures with bond orders that fall with the distance: what `bond-orders` needs."""
    away = [np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2) for s in structures]
    return [s.replace(labels={**s.labels, "bond_orders": np.exp(-r) - np.eye(len(s))}) for s, r in zip(structures, away, strict=True)]


def made(name, potential, structures):
    """The objective, prepared for a potential and these structures."""
    torch.manual_seed(0)
    objective = MAKERS[name]()
    prepare_objectives({name: objective}, potential, np.concatenate([s.atomic_numbers for s in structures]))
    if objective.module is not None and potential.spec.dtype == "float64":
        objective.module.double()
    return objective


def potential_of(backbone, dtype="float64", channels=8, forces="conservative"):
    heads = {} if backbone in SCALAR else {"heads": {"noise": {}}}
    options = {"channels": channels, "cutoff": 3.0}
    return build(
        backbone, {"backbone": options, "elements": ["H", "C", "O"], "levels": ["morse"], "dtype": dtype, "forces": forces, **heads}
    )


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_objective_keeps_its_contract(name, morse_structures):
    potential, structures = potential_of("pet", forces="direct" if name == "curl" else "conservative"), bonded(morse_structures(4, 1))
    case = ObjectiveCase(lambda: made(name, potential, structures), potential, structures)
    assert not [f.error for f in findings(tuple(OBJECTIVE_RULES), case) if f.error]


#: Why an objective does not train a backbone, by a letter of the page.
REASONS = {
    "a": "the head `noise` needs vectors, which the backbone does not provide; `predict: forces` works",
    "b": "the backbone has parameters for each element, which reveal the element of a masked atom; `replacement` works",
    "c": "the energy is invariant under rotations, so there is no net torque",
    "d": "direct forces need vectors, which the backbone does not provide: its forces are conservative and have no curl",
}
UNCONSTRAINED = ("escaip", "pet")


def reason(name, backbone):
    """The letter of the reason why not, or None."""
    if backbone in SCALAR and name in ("denoise", "masked"):
        return "a" if name == "denoise" else "b"
    if name == "curl":
        return "d" if backbone in SCALAR else None
    return "c" if name == "torque" and backbone not in UNCONSTRAINED else None


def table():
    """The matrix of objectives and backbones in Markdown."""
    rows = ["| | " + " | ".join(f"`{b}`" for b in BACKBONES) + " |", "|---" * (len(BACKBONES) + 1) + "|"]
    rows += [f"| `{name}` | " + " | ".join(reason(name, b) or "yes" for b in BACKBONES) + " |" for name in sorted(MAKERS)]
    return "\n".join([*rows, "", *(f"{letter}: {text}." for letter, text in REASONS.items())])


def test_the_page_of_objectives_has_the_matrix_of_these_tests():
    page = (Path(__file__).parents[2] / "mlipfm" / "docs" / "guides" / "objectives.md").read_text(encoding="utf-8")
    assert table() in page


#: Cells of the matrix that every change runs: all of the older objectives, and two backbones for the others.
OFTEN = ("denoise", "denoise-forces", "torque", "twins"), ("behler_parrinello", "painn")
CELLS = [
    pytest.param(name, b, marks=pytest.mark.ci if name in OFTEN[0] or b in OFTEN[1] else pytest.mark.full)
    for name in MAKERS
    for b in BACKBONES
]


@pytest.mark.parametrize(("name", "backbone"), CELLS)
def test_objective_trains_backbone(name, backbone, morse_structures):
    """The matrix of objectives and backbones: each cell is one of these tests or is refused with its reason."""
    why = reason(name, backbone)
    if why == "d":
        with pytest.raises(RecipeError, match="direct forces need vectors"):
            potential_of(backbone, forces="direct")
        return
    forces = "direct" if name == "curl" else "conservative"
    potential, structures = potential_of(backbone, "float32", 16, forces), bonded(morse_structures(6, 2))
    if why == "a":
        with pytest.raises(RecipeError, match="'noise' needs vectors, which the backbone does not provide"):
            build(backbone, {"elements": ["H"], "levels": ["a"], "heads": {"noise": {}}})
        return
    if why == "b":
        with pytest.raises(RecipeError, match="has parameters for each element"):
            made(name, potential, structures)
        return
    if why == "c":
        assert potential.spec.invariant
        return
    objectives = {name: made(name, potential, structures)}
    step = Step(potential, objectives)
    batch = collate_step(objectives, structures, potential.spec.graphs, torch.float32, torch.device("cpu"), 0, 0)
    terms = step(batch)
    gathered = {key: value for key, (value, _) in terms.items() if step.gathers(key)}
    losses = [total for key, (total, _) in terms.items() if key not in gathered] + [total for total, _ in step.finish(gathered).values()]
    torch.stack([loss.to(torch.float64) for loss in losses]).sum().backward()
    trained = [p for p in potential.parameters() if p.grad is not None and bool((p.grad != 0).any())]
    assert len(trained) > 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Denoise(sigma=0),
        lambda: Denoise(fraction=0),
        lambda: Torque(weight=0),
        lambda: Curl(weight=0),
        lambda: Curl(displacement=0.5),
        lambda: Twins(channels=8, dimensions=1),
    ],
)
def test_values_that_cannot_be_are_refused(make):
    with pytest.raises(RecipeError):
        make()
