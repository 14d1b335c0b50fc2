"""`StoreSource`: every structure once an epoch, whoever stops it and however many ranks there are."""

from __future__ import annotations

from collections import Counter

import pytest
from mlipfm_data.batches import CostModel
from mlipfm_interfaces.errors import LevelError, RecipeError
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import SOURCE_RULES, SourceCase
from mlipfm_train.frames import Frames, frame_costs, in_budget
from mlipfm_train.open_run import open_run
from mlipfm_train.recipe import dump_recipe, load_recipe, make_recipe
from mlipfm_train.sources import SourceContext, StoreSource
from mlipfm_train.step_costs import fit_costs


def source(frames, rank=0, world=1, seed=3):
    return StoreSource(SourceContext(frames, 30.0, 3.0, seed, rank, world))


def test_the_contract_of_sources_holds(stores):
    frames = Frames([stores["train"]])
    assert not [f.error for f in findings(tuple(SOURCE_RULES), SourceCase(lambda: source(frames))) if f.error]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_structure_comes_once_an_epoch(stores, world):
    frames = Frames([stores["train"]])
    ranks = [source(frames, rank, world) for rank in range(world)]
    seen: list[Counter[str]] = [Counter(), Counter(), Counter()]
    while True:
        batches = [rank.next_batch(None) for rank in ranks]
        assert len({rank.epoch for rank in ranks}) == 1
        if ranks[0].epoch == 3:
            break
        seen[ranks[0].epoch].update(s.key for batch in batches for s in batch)
    everything = Counter(s.key for s in frames)
    assert seen == [everything] * 3


def test_the_seed_decides_the_order(stores):
    frames = Frames([stores["train"]])

    def order(seed, batches):
        one = source(frames, seed=seed)
        return [[s.key for s in one.next_batch(None)] for _ in range(batches)]

    assert order(3, 30) == order(3, 30)
    assert order(3, 5) != order(4, 5)


def test_nothing_is_repeated_or_lost_when_the_number_of_ranks_changes(stores):
    """One epoch begun by 2 ranks, continued by 1, ended by 4."""
    frames = Frames([stores["train"]])
    seen: Counter[str] = Counter()
    state = None
    for world, steps in ((2, 2), (1, 2), (4, 100)):
        ranks = [source(frames, rank, world) for rank in range(world)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        for _ in range(steps):
            batches = [rank.next_batch(None) for rank in ranks]
            if ranks[0].epoch == 1:
                break
            seen.update(s.key for batch in batches for s in batch)
            state = ranks[0].state_dict()
    assert seen == Counter(s.key for s in frames)


def test_frames_of_one_level_and_of_none(stores, tmp_path, morse_structures, write_store):
    other = write_store(tmp_path / "other", morse_structures(4, 9, level="elsewhere"))
    both = [stores["train"], other]
    assert (len(Frames(both)), len(Frames(both, ["elsewhere"])), len(Frames(both, ["morse", "elsewhere"]))) == (28, 4, 28)
    assert {s.level for s in Frames(both, ["elsewhere"])} == {"elsewhere"}
    assert Frames(both).natoms.tolist() == [len(s) for s in Frames(both)]
    with pytest.raises(LevelError, match="no structure has level 'morze'.*there are: elsewhere, morse"):
        Frames(both, ["morze"])


def test_fixed_batches_stay_in_budget_and_cover_all(stores):
    costs = frame_costs(Frames([stores["train"]]), 3.0)
    runs = in_budget(costs, 20.0)
    assert [k for run in runs for k in range(run.start, run.stop)] == list(range(len(costs)))
    assert all(costs[run].sum() <= 20.0 for run in runs)
    assert in_budget(costs, 1e-3) == [slice(k, k + 1) for k in range(len(costs))]


def mixed(frames, rank=0, world=1, **options):
    return StoreSource(SourceContext(frames, 30.0, 3.0, 3, rank, world), **options)


@pytest.mark.parametrize(
    ("options", "expected"), [({"ratios": [1, 1]}, (24, 24)), ({"temperature": 2.0}, (24, 12)), ({"temperature": 1}, (24, 6))]
)
def test_a_mixture_draws_small_stores_more_often_and_leaves_nothing_out(stores, options, expected):
    """24 and 6 structures; at temperature 2 their shares are as sqrt(24) : sqrt(6) = 2 : 1."""
    frames = Frames([stores["train"], stores["valid"]])
    one = mixed(frames, **options)
    seen: list[Counter[str]] = [Counter(), Counter()]
    for structures in iter(lambda: one.next_batch(None), None):
        if one.epoch == 2:
            break
        seen[one.epoch].update(s.key for s in structures)
    large, small = {s.key for s in frames[:24]}, {s.key for s in frames[24:]}
    for counts in seen:
        assert (sum(counts[k] for k in large), sum(counts[k] for k in small)) == expected
        assert all(counts[k] for k in large | small)
    assert f"24 -> {expected[0]}" in one.describe()[0]


def test_a_mixture_continues_in_the_middle_of_an_epoch_with_another_number_of_ranks(stores):
    frames = Frames([stores["train"], stores["valid"]])
    whole, wanted = mixed(frames, ratios=[2, 3]), Counter[str]()
    while whole.epoch == 0:
        last = Counter(s.key for s in whole.next_batch(None))
        wanted += last if whole.epoch == 0 else Counter()
    first = mixed(frames, ratios=[2, 3])
    seen = Counter(s.key for _ in range(3) for s in first.next_batch(None))
    ranks = [mixed(frames, rank, 2, ratios=[2, 3]) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(first.state_dict())
    for _ in range(100):
        batches = [rank.next_batch(None) for rank in ranks]
        if ranks[0].epoch == 1:
            break
        seen.update(s.key for batch in batches for s in batch)
    assert seen == wanted
    again = mixed(frames, ratios=[2, 3])
    again.load_state_dict(first.state_dict())
    assert [s.key for s in again.next_batch(None)] == [s.key for s in first.next_batch(None)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": [1, 1], "temperature": 2}, "not both"),
        ({"ratios": [1]}, "2 sets need as many positive ratios"),
        ({"temperature": 0.5}, "at least 1"),
        ({"temperature": "2"}, "needs numbers, got '2'"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(stores, options, words):
    with pytest.raises(RecipeError, match=words):
        mixed(Frames([stores["train"], stores["valid"]]), **options)


def test_a_recipe_mixes_its_stores_and_says_so(stores, tiny, tmp_path):
    data = {
        **tiny["data"],
        "train": [str(stores["train"]), str(stores["valid"])],
        "source": {"name": "store", "temperature": 2.0},
        "valid": [],
    }
    said: list[str] = []
    with open_run(make_recipe({**tiny, "data": data}), tmp_path / "run", say=said.append) as run:
        assert run.recipe.data.source.options == {"temperature": 2.0, "ratios": None}
    assert any("24 -> 24 (66.7 %), 6 -> 12 (33.3 %)" in line for line in said)
    assert any("of the budget" in line for line in said)
    wrong = make_recipe({**tiny, "data": {**data, "source": {"name": "store", "temprature": 2.0}}})
    with (
        pytest.raises(RecipeError, match="'store' has no option 'temprature'; did you mean 'temperature'"),
        open_run(wrong, tmp_path / "other"),
    ):
        pass


def test_a_cost_model_of_the_recipe_decides_how_batches_are_filled(stores, tiny):
    frames = Frames([stores["train"]])
    by_atoms = StoreSource(SourceContext(frames, 20.0, 3.0, 3, 0, 1, CostModel(1.0, 0.0, 8.0)))
    while by_atoms.epoch == 0:
        atoms = sum(len(s) for s in by_atoms.next_batch(None))
        assert atoms <= 12
    recipe = make_recipe({**tiny, "data": {**tiny["data"], "cost": {"atom": 2, "batch": 3}}})
    assert (recipe.data.cost.atom, recipe.data.cost.edge, recipe.data.cost.batch) == (2.0, 0.1, 3.0)
    with pytest.raises(RecipeError, match="data.cost: an atom or an edge must cost something"):
        make_recipe({**tiny, "data": {**tiny["data"], "cost": {"atom": 0, "edge": 0}}})


def test_costs_are_fitted_to_measured_steps_and_written_into_the_recipe(tiny, tmp_path):
    recipe = make_recipe(tiny)
    fitted, fit = fit_costs(recipe, batches=9, repeats=1)
    cost = fitted.data.cost
    assert fit.n == 9
    assert cost.atom + cost.edge > 0
    assert min(cost.atom, cost.edge, cost.batch) >= 0
    assert fitted.data.budget > cost.batch
    assert fitted.model_copy(update={"data": recipe.data}) == recipe
    (tmp_path / "fitted.yaml").write_text(dump_recipe(fitted))
    assert load_recipe(tmp_path / "fitted.yaml") == fitted
    with open_run(fitted, tmp_path / "run") as run:
        assert run.source.next_batch(None)
