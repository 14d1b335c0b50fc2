"""Mixtures against the published example, and cost models against times that are known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from mlipfm_data.batches import CostModel, draw_epoch, draws, fit_cost_model, plan_batches, plan_quality, ratio_shares, temperature_shares
from mlipfm_data.readers.registry import read
from mlipfm_interfaces.errors import MlipfmError, RecipeError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure


def test_temperature_two_gives_the_shares_of_the_joint_pretraining_paper():
    """arXiv:2310.16802: OC20 100 M, OC22 8 M, ANI-1x 2 M, Transition-1x 10 M."""
    sizes = [100_000, 8_000, 2_000, 10_000]
    np.testing.assert_allclose(100 * temperature_shares(sizes, 2.0), [57.5, 16.3, 8.1, 18.2], atol=0.05)
    np.testing.assert_allclose(100 * temperature_shares(sizes, 1.0), [83.3, 6.7, 1.7, 8.3], atol=0.05)
    counts = draws(sizes, temperature_shares(sizes, 2.0))
    assert counts[0] == 100_000
    np.testing.assert_allclose(100 * counts / counts.sum(), [57.5, 16.3, 8.1, 18.2], atol=0.05)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.05, 20)), min_size=1, max_size=5), st.integers(0, 99))
def test_every_structure_comes_at_least_once_and_equally_often_but_for_one(sets, seed):
    sizes, ratios = zip(*sets, strict=True)
    set_of = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    counts = draws(sizes, ratio_shares(sizes, ratios))
    epoch = draw_epoch(set_of, counts, np.random.default_rng(seed))
    times = np.bincount(epoch, minlength=len(set_of))
    assert times.min() >= 1
    for d in range(len(sizes)):
        assert times[set_of == d].sum() == counts[d]
        assert np.ptp(times[set_of == d]) <= 1
    shares = np.array(ratios) / sum(ratios)
    assert np.all(np.abs(counts - shares * (np.array(sizes) / shares).max()) <= 0.5 + 1e-6)


def test_impossible_mixtures_are_refused():
    with pytest.raises(RecipeError, match="at least 1, got 0.5"):
        temperature_shares([1, 2], 0.5)
    with pytest.raises(RecipeError, match="2 sets need as many positive ratios.*instead of giving it 0"):
        ratio_shares([1, 2], [1, 0])
    with pytest.raises(RecipeError, match="needs structures"):
        temperature_shares([1, 0], 2)


def steps(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    atoms = rng.integers(10, 600, n)
    return atoms, (atoms * rng.uniform(5, 40, n)).astype(int)


def test_the_fit_finds_the_costs_that_made_the_times():
    atoms, edges = steps()
    exact = fit_cost_model(atoms, edges, 0.05 * atoms + 0.003 * edges + 7.0)
    np.testing.assert_allclose([exact.model.per_atom, exact.model.per_edge, exact.model.per_batch], [0.05, 0.003, 7.0], rtol=1e-9)
    assert exact.error < 1e-9
    noise = np.random.default_rng(1).normal(1, 0.05, len(atoms))
    noisy = fit_cost_model(atoms, edges, (0.05 * atoms + 0.003 * edges + 7.0) * noise)
    np.testing.assert_allclose([noisy.model.per_atom, noisy.model.per_edge, noisy.model.per_batch], [0.05, 0.003, 7.0], rtol=0.3)
    assert 0.01 < noisy.error < 0.06


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.floats(-1, 1), st.floats(-0.05, 0.05), st.floats(-3, 50)), st.integers(0, 99))
def test_the_fit_is_the_non_negative_least_squares_solution(parts, seed):
    optimize = pytest.importorskip("scipy.optimize")
    atoms, edges = steps()
    times = np.abs(parts[0] * atoms + parts[1] * edges + parts[2]) + np.random.default_rng(seed).uniform(1, 5, len(atoms))
    columns = np.stack([atoms, edges, np.ones(len(atoms))], axis=1) / times[:, None]
    scale = columns.max(axis=0)
    wanted = optimize.nnls(columns / scale, np.ones(len(atoms)))[0]
    assume(wanted[:2].any())  # a time that does not depend on the size is no cost model
    model = fit_cost_model(atoms, edges, times).model
    np.testing.assert_allclose(np.array([model.per_atom, model.per_edge, model.per_batch]) * scale, wanted, atol=1e-7)


def test_impossible_costs_and_measurements_are_refused():
    with pytest.raises(RecipeError, match="an atom or an edge must cost something"):
        CostModel(0, 0, 1)
    with pytest.raises(RecipeError, match="at least three steps"):
        fit_cost_model(np.array([1, 2]), np.array([1, 2]), np.array([1.0, 2.0]))
    with pytest.raises(RecipeError, match="same size"):
        fit_cost_model(np.ones(4), np.ones(4), np.arange(1.0, 5.0))


def test_the_constant_of_a_batch_is_part_of_its_budget():
    costs = np.random.default_rng(0).uniform(5, 20, 500)
    batches = plan_batches(costs, 200.0, np.random.default_rng(1), 2, per_batch=80.0)
    assert max(costs[batch].sum() for batch in batches) <= 120.0 * (1 + 1e-9)
    assert plan_quality(batches, costs, 200.0, 2, per_batch=80.0).fill > 0.97
    with pytest.raises(RecipeError, match="a batch that is empty costs 80"):
        plan_batches(costs, 50.0, np.random.default_rng(1), per_batch=80.0)


REAL = (
    ("3bpa", "*.xyz"),
    ("acetylacetone", "*.xyz"),
    ("battery_electrolyte_pbed3", "*.xyz"),
    ("catalysis_hub", "*"),
    ("charged_dimers_lode", "*.xyz"),
    ("conformers", "*.xyz"),
    ("cu_sets", "*.xyz"),
    ("ethanol_methanol", "*.xyz"),
    ("oc20_trajectories", "*.traj"),
    ("pbte", "*.xyz"),
    ("rdb7_barriers", "*.xyz"),
    ("refdata_nci", "*.xyz"),
    ("si_sets", "*.xyz"),
    ("spice_dipeptides_dipolar", "*.xyz"),
    ("spice_subsets_bec", "*.xyz"),
    ("water_dipole_polarizability", "*.xyz"),
    ("water_revpbe0d3_sample", "*.xyz"),
)


@pytest.mark.ci
@pytest.mark.shared_data
def test_64_ranks_are_full_and_hardly_wait_with_the_sizes_of_real_sets(shared_data):
    """Molecules of 2 to crystals of 250 atoms, each set as often as the others."""
    rng = np.random.default_rng(0)
    sets = []
    for name, pattern in REAL:
        rows: list[tuple[int, int]] = []
        for path in sorted(p for p in shared_data(name).rglob(pattern) if p.suffix in (".xyz", ".traj", ".db", ".extxyz"))[:4]:
            for s in islice(read(path, require=()), 0, 60, 12):
                try:
                    rows += [(len(s), len(neighbor_pairs(s, 5.0)[0]))] if isinstance(s, Structure) else []
                except MlipfmError:
                    continue
        if rows:
            sets.append(np.array(rows)[rng.integers(len(rows), size=2000)])
    assert len(sets) > 12
    costs = CostModel().of(*np.concatenate(sets).T)
    plans = [plan_batches(costs, 2500.0, np.random.default_rng(epoch), 64) for epoch in (1, 2)]
    for plan in plans:
        assert sorted(k for batch in plan for k in batch) == list(range(len(costs)))
        quality = plan_quality(plan, costs, 2500.0, 64)
        assert quality.oversize == 0
        assert quality.fill >= 0.97
        assert quality.idle <= 0.03
    assert not {frozenset(batch) for batch in plans[0]} & {frozenset(batch) for batch in plans[1]}


def test_what_is_drawn_once_more_changes_from_epoch_to_epoch_and_favours_nobody():
    """10 structures of which 4 come twice: over 300 epochs each comes twice in 40 % of them, within 4.5 standard errors."""
    set_of, counts = np.zeros(10, dtype=np.int64), np.array([14])
    twice = np.array([np.bincount(draw_epoch(set_of, counts, np.random.default_rng(epoch)), minlength=10) - 1 for epoch in range(300)])
    assert (twice.sum(axis=1) == 4).all()
    assert np.abs(twice.mean(axis=0) - 0.4).max() < 4.5 * (0.4 * 0.6 / 300) ** 0.5
