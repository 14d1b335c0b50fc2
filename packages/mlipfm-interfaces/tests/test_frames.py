import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import flip_bits, truncate_everywhere
from hypothesis import given, settings
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import DamagedFileError, FormatVersionError, LockedError, RefusedFileError, ShapeError, UnreadableFileError
from mlipfm_interfaces.frames import Dynamics, FrameLog, decode, encode
from mlipfm_interfaces.records import Layouts, decode_labels, encode_labels
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.structures import ethanol, silicon, structures


def same(a: Structure, b: Structure) -> bool:
    """Equal in every field and every bit."""
    plain = all(
        getattr(a, name) == getattr(b, name) for name in ("total_charge", "spin_multiplicity", "level", "provenance", "key")
    ) and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("atomic_numbers", "positions", "cell", "pbc"))
    field = (a.external_field is None) == (b.external_field is None) and (
        a.external_field is None or np.array_equal(a.external_field, b.external_field)
    )
    named = all(
        getattr(a, name).keys() == getattr(b, name).keys()
        and all(np.array_equal(getattr(a, name)[k], getattr(b, name)[k]) for k in getattr(a, name))
        for name in ("labels", "label_std")
    )
    return plain and field and named


def same_frame(a: tuple[Structure, Dynamics | None], b: tuple[Structure, Dynamics | None]) -> bool:
    if (a[1] is None) != (b[1] is None) or not same(a[0], b[0]):
        return False
    return a[1] is None or all(
        np.array_equal(getattr(a[1], name), getattr(b[1], name)) for name in ("velocities", "masses", "time", "step")
    )


def moving(structure: Structure, step: int) -> Dynamics:
    rng = np.random.default_rng(step)
    return Dynamics(rng.normal(size=(len(structure), 3)) * 1e-2, MASSES[structure.atomic_numbers], 0.5 * step, step)


def labelled(structure: Structure, seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(len(structure), 3)), "stress": rng.normal(size=(3, 3))}
    where = Provenance(source="made here", group=f"molecule {seed % 3}", index=seed, sampling="langevin-300K", licence="CC0-1.0")
    return structure.replace(labels=labels, level="gfn2-xtb", total_charge=0, spin_multiplicity=1, provenance=where)


def everything() -> Structure:
    """A structure that uses every field."""
    n = len(silicon())
    labels = {
        "energy": -1.5,
        "hessian_rows": np.arange(6 * n).reshape(2, n, 3),
        "hessian_rows_index": [[0, 1], [1, 2]],
        "bond_orders": np.linspace(0, 1, 7),
        "charges": np.linspace(-1, 1, n),
    }
    return labelled(silicon(), 4).replace(
        external_field=[0.0, 0.1, -0.1],
        total_charge=-1,
        spin_multiplicity=2,
        labels=labels,
        label_std={"energy": 0.01},
        pbc=[True, True, False],
    )


@settings(max_examples=60, deadline=None)
@given(structures())
def test_any_structure_comes_back_bit_by_bit(structure: Structure):
    layouts = Layouts()
    record, new = encode(structure, None, layouts)
    back, dynamics = decode(record, layouts)
    assert new
    assert dynamics is None
    assert same(structure, back)


def test_every_field_and_the_motion_come_back_and_are_read_only():
    layouts = Layouts()
    structure = everything()
    record, _ = encode(structure, moving(structure, 7), layouts)
    back, dynamics = decode(record, layouts)
    assert same_frame((back, dynamics), (structure, moving(structure, 7)))
    assert dynamics is not None
    arrays = [back.positions, back.atomic_numbers, back.cell, back.pbc, *back.labels.values(), dynamics.velocities]
    assert not any(array.flags.writeable for array in arrays)
    assert all(array.flags.aligned for array in arrays)


def test_single_precision_rounds_positions_and_forces_and_keeps_energies():
    layouts = Layouts()
    structure = labelled(ethanol(), 1).replace(labels={"energy": -40_000.123456789, "forces": np.full((9, 3), 1 / 3)})
    back, _ = decode(encode(structure, None, layouts, single=True)[0], layouts)
    assert back.labels["energy"] == -40_000.123456789
    assert np.array_equal(back.labels["forces"], np.full((9, 3), np.float32(1 / 3), dtype=np.float64))
    assert np.array_equal(back.positions, structure.positions.astype(np.float32).astype(np.float64))


def test_a_record_of_20_atoms_needs_at_most_1_3_times_its_float32_arrays():
    rng = np.random.default_rng(0)
    labels = {"energy": -1.0, "forces": rng.normal(size=(20, 3))}
    where = Provenance("set", "a molecule", 123_456, "normal-modes-300K", "MIT")
    structure = Structure(rng.integers(1, 9, 20), rng.normal(size=(20, 3)), labels=labels, level="gfn2-xtb", provenance=where)
    record, _ = encode(structure, None, Layouts(), single=True)
    index_row = 28
    assert len(record) + index_row <= 1.3 * 4 * (1 + 20 * 3 + 20 * 3)


def test_velocities_must_fit_the_atoms():
    with pytest.raises(ShapeError, match=r"velocities \[9, 3\]"):
        encode(ethanol(), Dynamics(np.zeros((8, 3)), np.ones(9), 0.0, 0), Layouts())


def test_labels_alone_come_back_with_their_key():
    layouts = Layouts()
    labels = {"charges": np.linspace(-1, 1, 9), "dipole": np.ones(3)}
    key, level, back = decode_labels(encode_labels(ethanol().key, "pbe/520ev", labels, layouts)[0], layouts)
    assert (key, level) == (ethanol().key, "pbe/520ev")
    assert all(np.array_equal(back[name], labels[name]) for name in labels)


def make_log(path: Path, n: int = 12, **options: bool) -> list[tuple[Structure, Dynamics | None]]:
    """A log of n frames, two layouts in turn (a molecule that moves, a crystal that does not), and what is in it."""
    frames: list[tuple[Structure, Dynamics | None]] = []
    with FrameLog(path, **options) as log:
        for k in range(n):
            s = labelled(silicon() if k % 4 == 3 else ethanol(), k)
            frames.append((s, None if k % 4 == 3 else moving(s, k)))
            log.append(*frames[-1])
    return frames


def all_same(a: list[tuple[Structure, Dynamics | None]], b: list[tuple[Structure, Dynamics | None]]) -> bool:
    return len(a) == len(b) and all(map(same_frame, a, b))


def test_a_log_gives_back_its_frames_by_iteration_and_by_index(tmp_path: Path):
    frames = make_log(tmp_path / "t.frames")
    log = FrameLog(tmp_path / "t.frames")
    assert all_same(list(log), frames)
    assert same_frame(log[-1], frames[-1])
    assert len(pickle.loads(pickle.dumps(log))) == 12
    with pytest.raises(IndexError, match="frame 12 of 12"):
        log[12]


def test_a_reopened_log_goes_on_and_equals_one_that_was_never_closed(tmp_path: Path):
    frames = make_log(tmp_path / "a")
    with FrameLog(tmp_path / "b") as log:
        for frame in frames[:5]:
            log.append(*frame)
    with FrameLog(tmp_path / "b") as log:
        for frame in frames[5:]:
            log.append(*frame)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_reader_sees_what_another_handle_appends(tmp_path: Path):
    reader = FrameLog(tmp_path / "t")
    with FrameLog(tmp_path / "t") as log:
        for k in range(3):
            log.append(labelled(ethanol(), k))
            assert len(reader) == k + 1


def test_truncating_keeps_the_first_frames_and_appending_goes_on(tmp_path: Path):
    frames = make_log(tmp_path / "a")
    log = FrameLog(tmp_path / "a")
    log.truncate(2)  # before the layout of the crystal was first used
    for frame in frames[2:]:
        log.append(*frame)
    assert all_same(list(log), frames)
    log.truncate(0)
    assert len(log) == 0
    FrameLog(tmp_path / "nothing").truncate(0)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(IndexError, match="cannot keep 1 frames of 0"):
        log.truncate(1)


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 200])
def test_appending_cuts_a_torn_last_record_and_says_how_much(cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    frames = make_log(tmp_path / "a", 6)
    places = FrameLog(tmp_path / "a").places()
    os.truncate(tmp_path / "a", places[5].offset + places[5].length - cut)
    with pytest.raises(DamagedFileError, match=f"torn record of {places[5].length - cut} bytes; the 5 frames before"):
        list(FrameLog(tmp_path / "a"))
    log = FrameLog(tmp_path / "a")
    log.append(*frames[5])
    assert log.repaired == places[5].length - cut
    assert "5 frames kept" in caplog.text
    assert all_same(list(FrameLog(tmp_path / "a")), frames)


@pytest.mark.parametrize("cut", [0, 3, 15])
def test_a_log_killed_while_it_was_made_is_begun_again(cut: int, tmp_path: Path):
    make_log(tmp_path / "a", 1)
    os.truncate(tmp_path / "a", cut)
    with FrameLog(tmp_path / "a") as log:
        log.append(ethanol())
    assert len(FrameLog(tmp_path / "a")) == 1


def test_a_damaged_frame_is_named_and_the_others_stay_readable(tmp_path: Path):
    frames = make_log(tmp_path / "a")
    place = FrameLog(tmp_path / "a").places()[5]
    data = bytearray((tmp_path / "a").read_bytes())
    for byte in (0, 6, 12, 14, place.length // 2):  # checksum, magic, length (low and high byte), payload
        damaged = bytearray(data)
        damaged[place.offset + byte] ^= 1
        (tmp_path / "a").write_bytes(damaged)
        log = FrameLog(tmp_path / "a")
        assert [p.good for p in log.places()] == [k != 5 for k in range(12)]
        with pytest.raises(DamagedFileError, match="a, frame 5: the frame is damaged"):
            list(log)
        good = list(log.good_frames())
        assert [k for k, _, _ in good] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert all(same_frame((s, d), frames[k]) for k, s, d in good)


def test_a_damaged_description_of_a_layout_costs_no_frame(tmp_path: Path):
    frames = make_log(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    first = FrameLog(tmp_path / "a").places()[0].offset
    for byte in (20, (16 + first) // 2 + 20):  # in its first copy, in its second
        damaged = bytearray(data)
        damaged[byte] ^= 1
        (tmp_path / "a").write_bytes(damaged)
        assert all_same(list(FrameLog(tmp_path / "a")), frames)


def test_appending_after_a_damaged_frame_keeps_its_place(tmp_path: Path):
    frames = make_log(tmp_path / "a")
    place = FrameLog(tmp_path / "a").places()[3]  # the first crystal
    data = bytearray((tmp_path / "a").read_bytes())
    data[place.offset + 50] ^= 4
    (tmp_path / "a").write_bytes(data)
    log = FrameLog(tmp_path / "a")
    log.append(*frames[3])
    assert len(log) == 13
    assert log.repaired == 0
    assert same_frame(log[12], frames[3])
    assert same_frame(log[4], frames[4])


def read_log(path: Path) -> list[tuple[Structure, Dynamics | None]]:
    return list(FrameLog(path))


@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_no_flipped_bit_of_a_log_goes_unnoticed(n: int, tmp_path: Path):
    path = tmp_path / "a"
    make_log(path)
    report = flip_bits([path], n, seed=n, read=lambda: read_log(path), equal=all_same)
    print(f"{n} bit flips over a log of frames of {path.stat().st_size} bytes: {report}")
    assert report.sound, report


def test_a_truncated_log_never_gives_other_frames_than_the_first_ones(tmp_path: Path):
    path = tmp_path / "a"
    frames = make_log(path, 8)

    def prefix(found: list[tuple[Structure, Dynamics | None]], _: object) -> bool:
        return all_same(found, frames[: len(found)])

    report = truncate_everywhere([path], 64, lambda: read_log(path), prefix)
    assert report.sound, report
    assert report.detected > 0.9 * path.stat().st_size / 64


def test_two_writers_are_kept_apart(tmp_path: Path):
    with FrameLog(tmp_path / "a") as log:
        log.append(ethanol())
        with pytest.raises(LockedError, match="is being written by another process"):
            FrameLog(tmp_path / "a").append(ethanol())


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "a").write_text("3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    with pytest.raises(RefusedFileError, match="is not a log of frames"):
        len(FrameLog(tmp_path / "a"))
    with pytest.raises(RefusedFileError, match="is not a log of frames"):
        FrameLog(tmp_path / "a").append(ethanol())
    assert (tmp_path / "a").read_text().startswith("3\nwater")
    with pytest.raises(UnreadableFileError, match="No such file"):
        len(FrameLog(tmp_path / "nothing"))


def test_a_newer_log_asks_for_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlipfm_interfaces.frames.FORMAT", 9)
    make_log(tmp_path / "a", 1)
    monkeypatch.undo()
    with pytest.raises(FormatVersionError, match="log format 9, this mlipfm reads up to 1; upgrade"):
        len(FrameLog(tmp_path / "a"))


def test_a_full_disk_loses_only_the_frame_that_did_not_fit(tmp_path: Path):
    code = """
import resource, sys
from mlipfm_interfaces.errors import UnwritableFileError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Structure
log = FrameLog(sys.argv[1])
s = Structure([1] * 50, [[k, 0, 0] for k in range(50)])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 20_000))
n = 0
try:
    while True:
        log.append(s)
        n += 1
except UnwritableFileError as error:
    print(n, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
log.append(s)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True, timeout=60)
    n, message = run.stdout.split(" ", 1)
    assert "free some space" in message
    assert len(list(FrameLog(tmp_path / "a"))) == int(n) + 1
