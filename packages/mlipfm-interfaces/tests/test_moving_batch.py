"""A neighbour list that is used again gives the views of a fresh one, to the last bit, however atoms and cells move."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from mlipfm_interfaces.batch import GraphSpec, MovingBatch, collate
from mlipfm_interfaces.errors import InvalidStructureError, OverlapError
from mlipfm_interfaces.structure import Structure

GRAPHS = (GraphSpec(4.0, "dense"), GraphSpec(3.1), GraphSpec(4.0, "dense", capacity=80), GraphSpec(4.0, "pairs", kspace=3.0))


def systems() -> list[Structure]:
    """A skewed crystal smaller than the cutoff, a slab, a molecule and one atom."""
    rng = np.random.default_rng(0)
    skewed = np.array([[3.6, 0.2, 0.0], [1.5, 3.4, 0.1], [-0.4, 1.0, 4.1]])
    grid = np.stack(np.meshgrid(*[np.arange(2.0)] * 3), axis=-1).reshape(-1, 3)
    crystal = Structure([29] * 8, (grid / 2 + 0.05 * rng.normal(size=grid.shape)) @ (2 * skewed) - 7.0, 2 * skewed, True)
    slab = Structure([13] * 8, grid * 2.4 + 0.1 * rng.normal(size=grid.shape), np.diag([4.8, 4.8, 0.0]), [True, True, False])
    chain = Structure([6] * 6, np.arange(6)[:, None] * [1.4, 0.2, 0.1])
    return [crystal, slab, chain, Structure([2], [[0.0, 0, 0]])]


def assert_same_views(moving, positions, cells):
    first, moved = 0, []
    for s, cell in zip(systems(), cells, strict=True):
        moved.append(Structure(s.atomic_numbers, positions[first : first + len(s)], cell, s.pbc))
        first += len(s)
    fresh, kept = collate(moved, GRAPHS), moving.at(positions, cells)
    assert (kept.positions == fresh.positions).all()
    assert (kept.cell == fresh.cell).all()
    for graph in GRAPHS:
        for item in fields(fresh.views[graph]):
            assert getattr(kept.views[graph], item.name).equal(getattr(fresh.views[graph], item.name)), (graph, item.name)
    assert kept.kspace[GRAPHS[3]].index.equal(fresh.kspace[GRAPHS[3]].index)


@pytest.mark.parametrize("skin", [0.0, 0.3, 1.0])
def test_views_along_a_random_walk_are_those_of_a_fresh_list_to_the_bit(skin):
    rng, moving = np.random.default_rng(1), MovingBatch(systems(), GRAPHS, skin=skin)
    positions = np.concatenate([s.positions for s in systems()])
    cells = np.stack([s.cell for s in systems()])
    for _ in range(12):
        positions = positions + 0.05 * rng.normal(size=positions.shape)
        assert_same_views(moving, positions, cells)
    assert (moving.rebuilds == 13) if skin == 0 else (1 < moving.rebuilds < 13 or skin == 1.0)


def test_views_of_cells_that_are_deformed_are_those_of_a_fresh_list_to_the_bit():
    rng, moving = np.random.default_rng(2), MovingBatch(systems(), GRAPHS, skin=1.0)
    positions = np.concatenate([s.positions for s in systems()])
    cells = np.stack([s.cell for s in systems()])
    for _ in range(10):
        strain = np.eye(3) + 0.03 * rng.normal(size=(3, 3))
        strain[2, :2] = strain[:2, 2] = 0.0  # the slab stays in its plane
        cells, positions = cells @ strain, positions @ strain
        assert_same_views(moving, positions, cells)


def test_a_crystal_that_breathes_within_the_skin_is_searched_once():
    crystal = systems()[0]
    moving = MovingBatch([crystal], GRAPHS, skin=0.5)
    for scale in (0.99, 1.01, 0.95, 1.05):
        kept = moving.at(crystal.positions * scale, crystal.cell[None] * scale)
        fresh = collate([crystal.replace(positions=crystal.positions * scale, cell=crystal.cell * scale)], GRAPHS)
        assert len(kept.views[GRAPHS[1]].i) == len(fresh.views[GRAPHS[1]].i)
    assert moving.rebuilds == 1
    moving.at(crystal.positions * 0.87, crystal.cell[None] * 0.87)  # 4.5 * 0.87 < 4.0
    assert moving.rebuilds == 2


def test_the_same_pairs_are_the_same_object():
    chain = systems()[2]
    moving = MovingBatch([chain], GRAPHS)
    assert moving.at(chain.positions).views[GRAPHS[0]] is moving.at(chain.positions + 1e-3).views[GRAPHS[0]]


def test_atoms_that_meet_within_the_skin_are_refused_by_name():
    pair = Structure([1, 1], [[0.0, 0, 0], [0.3, 0, 0]])
    moving = MovingBatch([systems()[2], pair], GRAPHS)
    positions = np.concatenate([systems()[2].positions, [[0.0, 0, 0], [0.09, 0, 0]]])
    with pytest.raises(OverlapError, match="structure 1, atoms 0 and 1: H and H are 0.09"):
        moving.at(positions)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_refused_by_name(value):
    chain = systems()[2]
    moving = MovingBatch([chain], GRAPHS)
    with pytest.raises(InvalidStructureError, match="position is not finite.*atom 2|atom 2.*position is not finite"):
        moving.at(np.where(np.arange(6)[:, None] == 2, value, chain.positions))


def pairs_of(moving, positions, cells=None):
    """Pairs within 3.1 Å, the cutoff of the plain list."""
    return len(moving.at(np.array(positions), cells).views[GRAPHS[1]].i)


def test_two_atoms_that_come_nearer_from_both_sides_are_a_pair_though_each_moved_less_than_the_skin():
    """4.0 Å apart, beyond cutoff and skin (3.6 Å); each moves by 0.46 Å."""
    pair = Structure([18, 18], [[0.0, 0, 0], [4.0, 0, 0]])
    moving = MovingBatch([pair], [GRAPHS[1]], skin=0.5)
    assert pairs_of(moving, pair.positions) == 0
    assert pairs_of(moving, [[0.46, 0, 0], [3.54, 0, 0]]) == 2


def test_a_cell_that_is_compressed_along_one_axis_brings_pairs_nearer_though_it_is_stretched_along_another():
    """Neighbours along x at 4.0 Å come to 3.04; y and z are stretched."""
    atom = Structure([18], [[0.0, 0, 0]], 4.0 * np.eye(3), True)
    moving = MovingBatch([atom], [GRAPHS[1]], skin=0.5)
    assert pairs_of(moving, atom.positions) == 0
    assert pairs_of(moving, atom.positions, np.diag([3.04, 4.8, 4.8])[None]) == 2


def test_positions_and_cells_are_copied():
    crystal = systems()[0]
    positions, cell = crystal.positions.copy(), crystal.cell[None].copy()
    batch = MovingBatch([crystal], GRAPHS).at(positions, cell)
    positions += 1
    cell += 1
    assert (batch.positions.numpy() == crystal.positions).all()
    assert (batch.cell.numpy() == crystal.cell).all()


def test_half_a_skin_is_not_enough_of_a_list_for_atoms_that_moved_further():
    """The wrong version that the random walk notices: a list that is never searched again."""
    moving = MovingBatch(systems(), GRAPHS, skin=0.3)
    moving._covered = lambda positions: True
    positions = np.concatenate([s.positions for s in systems()])
    with pytest.raises(AssertionError):
        assert_same_views(
            moving, positions + 0.6 * np.random.default_rng(3).normal(size=positions.shape), np.stack([s.cell for s in systems()])
        )
