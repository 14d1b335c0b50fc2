"""Frames are known again by their geometry, whatever else a file says of them."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.frame_hashes import decode, encode, frame_hash, frame_hashes, seen_frames
from mlipfm_interfaces.structure import Structure

RNG = np.random.default_rng(0)
FRAMES = [Structure([8, 1, 1], RNG.normal(size=(3, 3)) * 2) for _ in range(50)]


def test_charge_labels_and_the_last_digits_of_a_file_do_not_matter():
    s = FRAMES[0]
    for same in (
        s.replace(total_charge=0, spin_multiplicity=1),
        s.replace(labels={"energy": 1.0}),
        s.replace(positions=s.positions + 1e-9),
    ):
        assert frame_hash(same) == frame_hash(s)
    for other in (s.replace(positions=s.positions + 1e-3), s.replace(atomic_numbers=[8, 1, 9])):
        assert frame_hash(other) != frame_hash(s)


def test_cells_tell_crystals_of_one_basis_apart():
    one, two = (Structure([29], np.zeros((1, 3)), cell=a * np.eye(3), pbc=[True] * 3) for a in (3.6, 3.7))
    assert frame_hash(one) != frame_hash(two)


def test_hashes_travel_as_text():
    hashes = frame_hashes(FRAMES)
    assert np.array_equal(decode(encode(hashes)), np.unique(hashes))
    for foreign in (None, 3, "no base64!", "AAAA", {"a": 1}):
        assert len(decode(foreign)) in (0,)


def test_frames_of_training_validation_and_ancestors_are_counted():
    training, validation, ancestor = ({"frames": encode(frame_hashes(part))} for part in (FRAMES[:20], FRAMES[20:25], FRAMES[25:30]))
    extra = {"data": [training], "validation_data": [validation], "ancestors": [{"digest": "", "data": [ancestor]}]}
    assert seen_frames(extra, frame_hashes(FRAMES[10:40])) == {"training": 10, "validation": 5, "ancestors": 5}
    assert seen_frames({}, frame_hashes(FRAMES)) == {"training": 0, "validation": 0, "ancestors": 0}
