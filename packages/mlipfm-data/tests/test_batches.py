"""Edge-budget batches: nothing lost, nothing twice, full, and ranks that do not wait."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from mlipfm_data.batches import edge_costs, plan_batches, plan_quality
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.structure import Structure

costs_lists = st.lists(st.floats(0.1, 30.0), min_size=8, max_size=200)


@settings(max_examples=60, deadline=None)
@given(costs_lists, st.floats(40.0, 100.0), st.integers(0, 99), st.integers(1, 2))
def test_every_item_appears_once_and_no_batch_exceeds_the_budget(costs, budget, seed, world_size):
    costs = np.array(costs)
    batches = plan_batches(costs, budget, np.random.default_rng(seed), world_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(costs)))
    assert len(batches) % world_size == 0
    assert all(costs[batch].sum() <= budget * (1 + 1e-9) for batch in batches)
    assert all(batches)


def molecules(n: int = 3000) -> np.ndarray:
    """Costs as of a mixed molecular set: log-normal between a few and some hundred."""
    return np.random.default_rng(0).lognormal(3.5, 0.7, n).clip(5, 400)


def test_batches_are_nearly_full():
    costs = molecules()
    quality = plan_quality(plan_batches(costs, 1000.0, np.random.default_rng(1)), costs, 1000.0)
    assert quality.items == 3000
    assert quality.oversize == 0
    assert quality.fill > 0.97  # random batches of equal number reach 0.5 with the same peak cost


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_hardly_wait_for_each_other(world_size):
    costs = molecules()
    batches = plan_batches(costs, 1000.0, np.random.default_rng(1), world_size)
    assert plan_quality(batches, costs, 1000.0, world_size).idle < 0.02


def test_items_too_large_for_a_batch_are_dealt_to_the_ranks_of_a_step_by_cost():
    costs = np.array([20.0, 30, 40, 50, 20, 30, 40, 50])  # each a batch of its own
    batches = plan_batches(costs, 10.0, np.random.default_rng(0), world_size=2)
    assert sorted((costs[a].sum(), costs[b].sum()) for a, b in zip(batches[::2], batches[1::2], strict=True)) == [
        (20, 20), (30, 30), (40, 40), (50, 50),
    ]  # fmt: skip


def test_the_constant_of_a_batch_leaves_less_for_its_items():
    """Budget 10, of which an empty batch costs 3: seven items of cost 1."""
    batches = plan_batches(np.ones(14), 10.0, np.random.default_rng(0), per_batch=3.0)
    assert list(map(len, batches)) == [7, 7]


def test_same_seed_same_plan_and_new_epoch_new_composition():
    costs = molecules(500)
    one, two = (plan_batches(costs, 500.0, np.random.default_rng(7), 2) for _ in range(2))
    assert one == two
    rng = np.random.default_rng(7)
    first, second = plan_batches(costs, 500.0, rng), plan_batches(costs, 500.0, rng)
    companions = [{frozenset(b) for b in plan} for plan in (first, second)]
    assert len(companions[0] & companions[1]) < 0.05 * len(first)


def test_an_item_above_the_budget_is_a_batch_of_its_own_and_counted():
    costs = np.array([1.0, 50.0, 2.0, 60.0, 3.0])
    batches = plan_batches(costs, 10.0, np.random.default_rng(0))
    assert [1] in batches
    assert [3] in batches
    assert plan_quality(batches, costs, 10.0).oversize == 2


def test_batches_that_cannot_be_dealt_evenly_are_cut_and_too_few_items_refused():
    batches = plan_batches(np.ones(10), 100.0, np.random.default_rng(0), world_size=4)
    assert sorted(map(len, batches)) == [2, 2, 3, 3]
    with pytest.raises(RecipeError, match=r"3 items fill 3 batches of one item, .* 2 ranks; raise the batch budget"):
        plan_batches(np.ones(3), 1.0, np.random.default_rng(0), world_size=2)


@pytest.mark.parametrize("costs", [[1.0, 0.0], [1.0, np.nan], [[1.0]]])
def test_impossible_costs_are_refused(costs):
    with pytest.raises(RecipeError, match="positive finite cost"):
        plan_batches(np.array(costs), 10.0, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="must be positive"):
        plan_batches(np.ones(2), 0.0, np.random.default_rng(0))


def test_cost_counts_atoms_and_ordered_pairs():
    line = Structure([1, 1, 1], [[0, 0, 0], [0, 0, 1], [0, 0, 2.5]])
    simple_cubic = Structure([18], [[0, 0, 0]], 3.0 * np.eye(3), True)
    assert edge_costs([line, simple_cubic], 1.6).tolist() == [3 + 0.4, 1]
    assert edge_costs([simple_cubic], 3.1, per_atom=0.0, per_edge=1.0).tolist() == [6]


def test_planning_a_large_set_is_linear():
    """64 open batches at most: 100,000 items take well under a few seconds anywhere."""
    costs = molecules(20_000)
    batches = plan_batches(costs, 2000.0, np.random.default_rng(0))
    assert sum(map(len, batches)) == 20_000
