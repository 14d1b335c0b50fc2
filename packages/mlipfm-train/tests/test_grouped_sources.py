"""Curriculum, tasks, Reptile and live labels: what they yield and where they end, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import SOURCE_RULES, WEIGHT_RULE_RULES, SourceCase, WeightRuleCase
from mlipfm_train.frames import Frames
from mlipfm_train.grouped_sources import Curriculum, Tasks, groups_of
from mlipfm_train.live_labels import LiveLabels
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe
from mlipfm_train.sources import SourceContext
from mlipfm_train.weight_rules import Reptile

WATER = Structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], total_charge=0, level="gfn2-xtb")


@pytest.fixture(scope="module")
def two_levels(tmp_path_factory, morse_structures, write_store):
    """Two stores at two levels: water, methane and methanal at `a`, the same with other numbers at `b`."""
    root = tmp_path_factory.mktemp("levels")
    return [str(write_store(root / level, morse_structures(n, seed, level=level))) for level, n, seed in (("a", 9, 0), ("b", 18, 1))]


def context(stores, steps=None):
    return SourceContext(Frames(stores), budget=25.0, cutoff=3.0, seed=0, rank=0, world_size=1, steps=steps)


STAGES = [{"steps": 40, "shares": [1, 0]}, {"steps": 200, "shares": [1, 3]}, {"shares": [0, 1]}]


@pytest.mark.parametrize("make", [lambda c: Curriculum(c, STAGES), lambda c: Tasks(c, inner=2)])
def test_sources_of_groups_keep_the_contract_of_sources(make, two_levels):
    assert not [f.error for f in findings(tuple(SOURCE_RULES), SourceCase(lambda: make(context(two_levels)))) if f.error]


def test_each_stage_draws_the_groups_by_its_shares(two_levels):
    source = Curriculum(context(two_levels, steps=400), STAGES, by="level")
    levels = [{s.level for s in source.next_batch(None)} for _ in range(340)]
    assert all(len(found) == 1 for found in levels)
    of_b = np.array([found == {"b"} for found in levels])
    assert not of_b[:40].any()
    assert of_b[40:240].mean() == pytest.approx(0.75, abs=0.09)  # three standard deviations of 200 draws
    assert of_b[240:].all()
    assert source.describe()[1:] == [
        "curriculum from step 0: 100 %, 0 %",
        "curriculum from step 40: 25 %, 75 %",
        "curriculum from step 240: 0 %, 100 %",
    ]


def test_groups_by_force_grow_and_have_every_structure_once(two_levels):
    source = Tasks(context(two_levels), by="force", bounds=[0.4, 0.6], inner=1)
    assert sum(source.sizes) == 27
    largest = [max(np.linalg.norm(s.labels["forces"], axis=1).max() for s in source.next_batch(None)) for _ in range(3)]
    assert largest[0] <= 0.4 < largest[1] <= 0.6 < largest[2]


def test_temperatures_are_groups_in_order_of_their_size():
    frames = [WATER.replace(provenance=Provenance(sampling=f"langevin-{t}K")) for t in (600, 90, 300, 90)]
    assert {name: places.tolist() for name, places in groups_of(frames, "sampling").items()} == {
        "langevin-90K": [1, 3],
        "langevin-300K": [2],
        "langevin-600K": [0],
    }


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ([], {}, "there are no stages"),
        ([{"steps": 5, "shares": [1, 1]}], {}, "every stage but the last has `steps`"),
        ([{"shares": [1, 1, 1]}], {}, r"stage 1 has the shares \[1, 1, 1\]"),
        ([{"shares": [1, -1]}], {}, "stage 1 has the shares"),
        ([{"shares": [0, 0]}], {}, "stage 1 has the shares"),
        ([{"shares": [1, 0]}], {}, "is in no stage"),
        ([{"steps": 100, "shares": [1, 0]}, {"shares": [0, 1]}], {}, "the last stage begins after 100 steps, the run has 50"),
        ([{"shares": [1, 1]}], {"by": "force"}, "by='force', bounds="),
        ([{"shares": [1, 1]}], {"by": "level", "bounds": [1.0]}, "by='level', bounds="),
        ([{"shares": [1, 1]}], {"by": "force", "bounds": [1000.0]}, "at least two groups"),
    ],
)
def test_stages_that_cannot_be_are_refused(stages, options, message, two_levels):
    with pytest.raises(RecipeError, match=message):
        Curriculum(context(two_levels, steps=50), stages, **options)


def reptile_on_quadratics(k, lr, curvatures, optima, rate, rounds):
    """theta after `rounds` outer steps, with k steps of gradient descent on (theta - c)^T H (theta - c) / 2 of each task."""
    rule = Reptile(rate)
    rule.inner, rule.tasks = k, len(optima)
    theta = {"theta": torch.zeros(3, dtype=torch.float64)}
    rule.begin(theta)
    for step in range(rounds * k * len(optima)):
        task = step // k % len(optima)
        theta["theta"] -= lr * curvatures[task] @ (theta["theta"] - optima[task])
        rule.update(theta, step)
    return rule.averaged()["theta"]


@pytest.mark.parametrize(("k", "rounds"), [(1, 300), (4, 150), (60, 50)])
def test_reptile_ends_at_its_fixed_point_on_quadratic_tasks(k, rounds):
    # sum_t (1 - (1 - lr H_t)^k) (theta - c_t) = 0: k = 1 is training on all tasks together, a large k the mean of their optima (METHODS C9)
    generator = torch.Generator().manual_seed(0)
    lr, optima = 0.3, torch.randn(3, 3, generator=generator, dtype=torch.float64)
    roots = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    curvatures = roots @ roots.mT / 3 + 0.3 * torch.eye(3, dtype=torch.float64)
    shrunk = torch.eye(3, dtype=torch.float64) - torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - lr * curvatures, k)
    expected = torch.linalg.solve(shrunk.sum(dim=0), (shrunk @ optima[:, :, None]).sum(dim=0)).squeeze(1)
    found = reptile_on_quadratics(k, lr, curvatures, optima, 0.5, rounds)
    assert found == pytest.approx(expected, abs=1e-8)
    if k == 60:
        assert found == pytest.approx(optima.mean(dim=0), abs=0.02)
    if k == 1:
        joint = torch.linalg.solve(curvatures.sum(dim=0), (curvatures @ optima[:, :, None]).sum(dim=0)).squeeze(1)
        assert found == pytest.approx(joint, abs=1e-8)
    else:  # planted: k steps taken for one give another point
        assert float((reptile_on_quadratics(1, lr, curvatures, optima, 0.5, 300) - expected).abs().max()) > 1e-3


def test_reptile_keeps_the_contract_of_weight_rules():
    def make():
        rule = Reptile(0.4)
        rule.inner, rule.tasks = 2, 2
        return rule

    assert not [f.error for f in findings(tuple(WEIGHT_RULE_RULES), WeightRuleCase(make)) if f.error]


def test_reptile_without_tasks_in_turn_is_refused(tmp_path, two_levels, tiny):
    recipe = tiny | {"data": tiny["data"] | {"train": two_levels, "valid": []}, "weight_rule": {"name": "reptile"}}
    with pytest.raises(RecipeError, match="takes its steps from tasks in turn"):
        fit(make_recipe(recipe), tmp_path / "run")


@pytest.mark.full
def test_a_run_by_reptile_resumes_to_the_bit(tmp_path, two_levels, tiny):
    source = {"name": "tasks", "inner": 2}
    recipe = tiny | {
        "data": {"train": two_levels, "budget": 40, "source": source},
        "weight_rule": {"name": "reptile"},
        "steps": 9,
        "checkpoint_every": 3,
    }
    straight = fit(make_recipe(recipe), tmp_path / "straight")
    fit(make_recipe(recipe | {"time_limit": 1e-9, "checkpoint_every": 1}), tmp_path / "parts")
    parts = fit(make_recipe(recipe | {"checkpoint_every": 1}), tmp_path / "parts")
    assert straight.last.read_bytes()[-2000:] == parts.last.read_bytes()[-2000:]


def live(sigma=0.05, structures=2, level="gfn2-xtb"):
    start = WATER.replace(level=level)
    return LiveLabels(SourceContext([start], budget=25.0, cutoff=3.0, seed=0, rank=0, world_size=1), structures=structures, sigma=sigma)


def test_live_labels_are_those_of_the_labeller_at_new_geometries_each_time():
    source = live()
    batches = [source.next_batch(None) for _ in range(2)]
    assert len({s.key for batch in batches for s in batch}) == 4
    again = TbliteLabeler("GFN2-xTB").label(batches[1][0])
    assert float(again.labels["energy"]) == float(batches[1][0].labels["energy"])
    assert again.labels["forces"] == pytest.approx(batches[1][0].labels["forces"], abs=0)
    assert not [f.error for f in findings(tuple(SOURCE_RULES), SourceCase(live)) if f.error]


def test_live_labels_of_another_level_than_the_data_are_refused():
    with pytest.raises(RecipeError, match="labels of level gfn2-xtb, the training data are at pbe"):
        live(level="pbe")
    with pytest.raises(RecipeError, match="sigma=2 cannot be"):
        live(sigma=2)


def test_a_curriculum_of_one_stage_is_a_mixture_that_shows_every_structure(two_levels):
    source = Curriculum(context(two_levels), [{"shares": [1, 1]}])
    assert {s.key for _ in range(60) for s in source.next_batch(None)} == {s.key for s in Frames(two_levels)}
