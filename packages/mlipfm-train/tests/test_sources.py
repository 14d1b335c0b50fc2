"""`StoreSource`: every structure once an epoch, whoever stops it and however many ranks there are."""

from __future__ import annotations

from collections import Counter

import pytest
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_seam_rules import SOURCE_RULES, SourceCase
from mlipfm_train.frames import Frames, frame_costs, in_budget
from mlipfm_train.sources import SourceContext, StoreSource


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
