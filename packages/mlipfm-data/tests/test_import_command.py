"""`mlipfm data import` and its siblings at the command line: bad input is one line, exit 2, no traceback, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.importing import import_file
from mlipfm_data.store.store import Store
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError

MLIPFM = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()"]


def water(z: float, extra: str = 'energy=-14.25 pbc="F F F"', first: str = "O") -> str:
    atoms = f"{first} 0.0 0.0 0.119262\nH 0.0 0.763239 -0.477047\nH 0.0 -0.763239 {z:.6f}\n"
    return f"3\nProperties=species:S:1:pos:R:3 {extra}\n{atoms}"


GOOD = water(-0.477)
BAD = {
    "unknown-element": (water(-0.47, first="Qq"), "no element is named 'Qq'"),
    "nan": (water(float("nan")), "is not finite"),
    "inf": (water(float("inf")), "is not finite"),
    "overlap": (water(-0.47).replace("-0.763239", "0.763239").replace("-0.470000", "-0.477047"), "closer than 0.1"),
    "zero-cell": (water(-0.47, 'energy=1 pbc="T T T"'), "that lattice vector is zero"),
    "coplanar-cell": (water(-0.47, 'energy=1 Lattice="9 0 0 0 9 0 9 9 0"'), "coplanar"),
    "parity": (water(-0.47, "energy=1 charge=0 spin=2"), "cannot pair"),
    "columns": (water(-0.47).replace(" -0.470000", ""), "3 columns, 4 are needed"),
    "nan-label": (water(-0.47, "energy=nan"), "contains NaN"),
    "unlabelled": (water(-0.47, "E_dft=-14.2 config=md"), "keys found: E_dft, config"),
    "conflict": (water(-0.47, "energy=-1 REF_energy=-2"), "say which with --energy-key"),
    "truncated": (water(-0.47)[:-40], "the file ends inside frame 1"),
}


def in_process(arguments: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def in_a_process_of_its_own(arguments: list[str], capsys) -> tuple[int, str, str]:
    done = subprocess.run([*MLIPFM, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


RUNNERS = [pytest.param(in_process, id="in-process"), pytest.param(in_a_process_of_its_own, id="subprocess", marks=pytest.mark.ci)]
#: Every case in this process; in one of its own one case in the ci tier, the others in the full tier.
BAD_RUNS = [
    *[pytest.param(case, in_process, id=f"{case}-in-process") for case in BAD],
    *[pytest.param(case, in_a_process_of_its_own, id=f"{case}-subprocess", marks=pytest.mark.ci if case == "nan" else pytest.mark.full)
      for case in BAD],
]  # fmt: skip


@pytest.mark.parametrize(("case", "run"), BAD_RUNS)
def test_bad_frame_is_one_line_exit_2_and_the_good_frame_is_stored(tmp_path, capsys, case, run):
    text, message = BAD[case]
    path, out = tmp_path / "in.xyz", tmp_path / "store"
    path.write_text(GOOD + text)
    status, stdout, stderr = run(["data", "import", str(path), "--out", str(out)], capsys)
    assert status == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith("mlipfm: error[")
    assert message in stderr
    assert "frame 1" in stderr
    assert "Traceback" not in stderr + stdout
    assert "2 frames = 1 stored + 0 already there + 1 refused" in stdout
    with Store(out) as store:
        assert len(store) == 1
        assert store.complete
        assert not store.verify()
    (line,) = map(json.loads, (tmp_path / "store.refused.jsonl").read_text().splitlines())
    assert line["frame"] == 1
    assert message in line["error"]


@pytest.mark.parametrize("run", RUNNERS)
def test_pickle_is_refused_and_no_store_appears(tmp_path, capsys, run):
    (tmp_path / "data.xyz").write_bytes(b"\x80\x04\x95\x1e\x00\x00\x00cposix\nsystem\n.")
    status, _, stderr = run(["data", "import", str(tmp_path / "data.xyz"), "--out", str(tmp_path / "store")], capsys)
    assert status == 2
    assert stderr.count("\n") == 1
    assert "error[refused-file]" in stderr
    assert "pickles are never read" in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["data.xyz"]


def test_what_was_imported_before_survives_a_bad_import(tmp_path, capsys):
    good, bad, out = tmp_path / "good.xyz", tmp_path / "bad.xyz", tmp_path / "store"
    good.write_text(GOOD)
    bad.write_text("this is no xyz file\n")
    assert in_process(["data", "import", str(good), "--out", str(out), "--level", "pbe"], capsys)[0] == 0
    status, stdout, stderr = in_process(["data", "import", str(bad), str(good), "--out", str(out), "--level", "pbe"], capsys)
    assert status == 2
    assert "error[unreadable-file]" in stderr
    assert "1 frames = 0 stored + 1 already there + 0 refused" in stdout
    with Store(out) as store:
        assert len(store) == 1
        assert store[0].level == "pbe"


def test_decisions_are_printed_and_refusals_can_be_accepted(tmp_path, capsys):
    path, out = tmp_path / "in.xyz", tmp_path / "store"
    path.write_text(GOOD + water(-0.45, "energy=nan") + water(-0.4, "energy=-14 charge=0 spin=1 tag=x"))
    status, stdout, stderr = in_process(["data", "import", str(path), "-o", str(out), "--level", "PBE", "--allow-refused"], capsys)
    assert (status, stderr) == (0, "")
    assert "energy <- energy in 2 of 2 accepted frames" in stdout
    assert "total_charge <- charge in 1 of 2" in stdout
    assert "found and not used: tag" in stdout
    assert "refused: 1 x invalid-structure" in stdout


def test_one_geometry_with_two_energies_at_one_level_is_refused(tmp_path):
    path = tmp_path / "in.xyz"
    path.write_text(GOOD + GOOD + GOOD.replace("-14.25", "-14.5"))
    report = import_file(path, tmp_path / "store", level="pbe")
    assert (report.frames, report.stored, report.duplicates, report.refused.total()) == (3, 1, 1, 1)
    assert "but other labels" in str(report.first["invalid-structure"])


def test_file_without_any_frame_raises_and_makes_no_store(tmp_path):
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(UnreadableFileError, match="holds no frame"):
        import_file(tmp_path / "a.xyz", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_unknown_key_unit_and_reader_are_one_line(tmp_path, capsys):
    path = tmp_path / "in.xyz"
    path.write_text(GOOD)
    base = ["data", "import", str(path), "-o", str(tmp_path / "store")]
    for extra, message in (
        (["--energy-key", "E"], "no key 'E' for energy; keys found: energy"),
        (["--energy-unit", "hartrees"], "unit 'hartrees' is not known for 'energy'"),
        (["--reader", "extxzy"], "did you mean 'extxyz'"),
        (["--spin-meaning", "twice"], "must be 'multiplicity' or 'unpaired'"),
    ):
        status, _, stderr = in_process([*base, *extra], capsys)
        assert status == 2
        assert stderr.count("\n") == 1
        assert message in stderr


def test_show_verify_and_export(tmp_path, capsys):
    path, out, back = tmp_path / "in.xyz", tmp_path / "store", tmp_path / "out.xyz"
    forces = GOOD.replace("pos:R:3", "pos:R:3:forces:R:3").replace("0.119262\n", "0.119262 3 0 4\n").replace("477047\n", "477047 0 0 0\n")
    path.write_text(forces.replace("-0.477000\n", "-0.477000 0 0 0.05\n"))
    assert in_process(["data", "import", str(path), "-o", str(out), "--level", "pbe"], capsys)[0] == 0
    _, shown, _ = in_process(["data", "show", str(out)], capsys)
    assert "store: 1 structures, 3 atoms" in shown
    assert "H 2, O 1" in shown
    assert "     3 to 10            1 ####" in shown
    assert "all records and hashes match" in in_process(["data", "verify", str(out)], capsys)[1]
    assert in_process(["data", "export", str(out), "-o", str(back)], capsys)[0] == 0
    again = import_file(back, tmp_path / "again")
    with Store(out) as one, Store(tmp_path / "again") as two:
        assert again.stored == 1
        assert (one[0].key, one[0].level, one[0].provenance) == (two[0].key, two[0].level, two[0].provenance)


def test_verify_names_the_damage(tmp_path, capsys):
    path, out = tmp_path / "in.xyz", tmp_path / "store"
    path.write_text(GOOD)
    import_file(path, out)
    shard = next(out.glob("*.frames"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    status, _, stderr = in_process(["data", "verify", str(out)], capsys)
    assert status == 2
    assert stderr.count("\n") == 1
    assert shard.name in stderr


@pytest.mark.ci
def test_killed_import_continues_where_it_stopped(tmp_path):
    path, out, whole = tmp_path / "in.xyz", tmp_path / "store", tmp_path / "whole"
    path.write_text("".join(water(-0.4 - 1e-5 * k) for k in range(1000)))
    command = [*MLIPFM, "data", "import", str(path), "--out", str(out), "--name", "store"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(out.glob("*.part")):
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    import_file(path, whole, name="store")
    with Store(out) as one, Store(whole) as two:
        assert [one.key(i) for i in range(len(one))] == [two.key(i) for i in range(len(two))]
        assert len(one) == 1000
        assert not one.verify()


def test_package_and_commands_import_no_heavy_library():
    code = "import sys, mlipfm_data, mlipfm_data.cli; print([m for m in ('torch', 'ase', 'rdkit', 'tblite', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names_exist():
    import mlipfm_data

    assert sorted(mlipfm_data.__all__) == mlipfm_data.__all__
    assert all(getattr(mlipfm_data, name) is not None for name in mlipfm_data.__all__)
    assert isinstance(Path(mlipfm_data.__file__), Path)


@pytest.mark.parametrize(
    ("licence", "near"),
    [
        ("CC BY 4.0", "did you mean 'CC-BY-4.0'"),
        ("BSD 3-Clause", "did you mean 'BSD-3-Clause'"),
        ("MIT AND CC0", "did you mean 'CC0-1.0'"),
        ("MIT MIT", "for instance CC-BY-4.0 or MIT"),
        ("(MIT", "for instance CC-BY-4.0 or MIT"),
        ("MIT) OR (ISC", "for instance CC-BY-4.0 or MIT"),
        ("NOASSERTION", "leave it out if nobody has said it"),
        ("ask the authors", "for instance CC-BY-4.0 or MIT"),
    ],
)
def test_a_licence_that_no_registry_would_know_is_refused_at_import_with_the_nearest(tmp_path, capsys, licence, near):
    (tmp_path / "set.xyz").write_text(GOOD)
    for words in (["--licence", licence], ["--license", licence], ["--option", f"licence={licence}"]):
        status, _, err = in_process(["data", "import", str(tmp_path / "set.xyz"), "--out", str(tmp_path / "store"), *words], capsys)
        assert status == 2
        assert f"`licence` must be an SPDX expression, got {licence!r}" in err
        assert near in err
        assert "LicenseRef-NAME" in err
    with pytest.raises(MlipfmError, match="must be an SPDX expression"):
        import_file(tmp_path / "set.xyz", tmp_path / "store", licence=licence)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("licence", "spelled"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("AGPL-3.0-only", "AGPL-3.0-only"),
        ("MIT AND (ISC OR Zlib)", "MIT AND (ISC OR Zlib)"),
        ("LicenseRef-of-the-institute", "LicenseRef-of-the-institute"),
    ],
)
def test_licences_that_spdx_lists_are_stored_in_its_spelling(tmp_path, capsys, licence, spelled):
    (tmp_path / "set.xyz").write_text(GOOD)
    arguments = ["data", "import", str(tmp_path / "set.xyz"), "--out", str(tmp_path / "store"), "--license", licence]
    assert in_process(arguments, capsys)[0] == 0
    assert Store(tmp_path / "store")[0].provenance.licence == spelled


def test_many_files_that_are_read_alike_take_one_line_each(tmp_path, capsys):
    for k in range(5):
        (tmp_path / f"{k}.xyz").write_text(GOOD.replace("0.0", f"0.{k}", 1))
    files = [str(tmp_path / f"{k}.xyz") for k in range(5)]
    status, out, err = in_process(["data", "import", *files, "--level", "x", "--out", str(tmp_path / "store")], capsys)
    assert status == 0, err
    assert out.count("read as the file before") == 4
    assert out.count("energy <-") == 1


def test_labels_that_training_will_refuse_are_named_at_the_end_of_the_import(tmp_path, capsys):
    """Forces of other atoms: nothing that an option of the import mends, so that they are stored, and said."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(60):
        stretch = rng.normal(scale=0.03, size=2)
        positions = np.array([[0, 0, 0], [0.96 + stretch[0], 0, 0], [-0.24, 0.93 + stretch[1], 0]])
        along = positions[1:] / np.linalg.norm(positions[1:], axis=1)[:, None]
        pull = -45.0 * (np.linalg.norm(positions[1:], axis=1) - 0.96)[:, None] * along
        forces = np.concatenate([-pull.sum(axis=0)[None], pull])[[1, 0, 2]]
        energy = 22.5 * ((np.linalg.norm(positions[1:], axis=1) - 0.96) ** 2).sum() - 2000
        rows = [" ".join([z, *map(repr, map(float, (*r, *f)))]) for z, r, f in zip("OHH", positions, forces, strict=True)]
        frames.append("\n".join(["3", f"Properties=species:S:1:pos:R:3:forces:R:3 energy={float(energy)!r}", *rows]) + "\n")
    (tmp_path / "w.xyz").write_text("".join(frames))
    status, out, err = in_process(["data", "import", str(tmp_path / "w.xyz"), "--level", "x", "--out", str(tmp_path / "store")], capsys)
    assert status == 0, err
    assert "stored with labels that contradict physics (forces-" in out
