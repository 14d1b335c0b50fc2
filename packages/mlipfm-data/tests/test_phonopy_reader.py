"""Displaced supercells of phonopy: every way of writing them, the units of its calculators, real files, and files that are not what they should be.

`phonopy_2_48` was written by phonopy 2.48.0 (`Phonopy.save`); its forces count up in steps of 1/64.
"""

import gzip
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data import strict_yaml
from mlipfm_data.readers.phonopy import PhonopyReader
from mlipfm_data.readers.registry import find_reader, read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import MissingLabelsError, RefusedFileError, UnitError, UnknownElementError, UnreadableFileError
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import BOHR, HARTREE

LIBRARY = Path(__file__).parent / "phonopy_2_48"
CELL = np.diag([5.6, 2.8, 2.8])
SYMBOLS, PLACES = ["Na", "Na", "Cl", "Cl"], np.array([[0, 0, 0], [0.5, 0, 0], [0.25, 0.5, 0.5], [0.75, 0.5, 0.5]])


def moves(n: int) -> np.ndarray:
    """[n, 4, 3]: in each frame one atom moves."""
    out = np.zeros((n, 4, 3))
    for k in range(n):
        out[k, k % 4] = [0.03 + 0.001 * k, 0.0, -0.01]
    return out


def forces(n: int) -> np.ndarray:
    return -2.0 * moves(n) + 0.25


def rows(values: np.ndarray) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{x:.10f}" for x in row) + "]" for row in values) + "]"


def head(calculator: str = "", unit: str = "physical_unit:\n  length: angstrom\n") -> str:
    points = "".join(
        f"  - symbol: {s} # {k + 1}\n    coordinates: {p.tolist()}\n" for k, (s, p) in enumerate(zip(SYMBOLS, PLACES, strict=True))
    )
    return f'phonopy:\n  version: "2.20.0"\n{calculator}{unit}supercell:\n  lattice: {rows(CELL)}\n  points:\n{points}'


def by_atom(path: Path, n: int) -> None:
    items = [
        f"- atom: {k % 4 + 1}\n  displacement: {u[k % 4].tolist()}\n  forces: {rows(f)}\n  supercell_energy: {-k - 0.5}\n"
        for k, (u, f) in enumerate(zip(moves(n), forces(n), strict=True))
    ]
    path.write_text(head() + "displacements:\n" + "".join(items))


def by_frame(path: Path, n: int) -> None:
    text = head() + "displacements:\n"
    for u, f in zip(moves(n), forces(n), strict=True):
        text += "- # frame\n" + "".join(f"  - displacement: {a.tolist()}\n    force: {b.tolist()}\n" for a, b in zip(u, f, strict=True))
    path.write_text(text + "supercell_energies:\n" + "".join(f"- {-k - 0.5}\n" for k in range(n)))


def dataset(path: Path, n: int) -> None:
    listed = {"displacements": moves(n), "forces": forces(n)}
    text = "".join(f"  {key}:\n" + "".join(f"  - {rows(v)}\n" for v in values) for key, values in listed.items())
    path.write_text(head() + "dataset:\n" + text + "  supercell_energies:\n" + "".join(f"  - {-k - 0.5}\n" for k in range(n)))


def displacements_only(path: Path, n: int) -> None:
    path.write_text(
        head() + "displacements:\n" + "".join(f"- atom: {k % 4 + 1}\n  displacement: {u[k % 4].tolist()}\n" for k, u in enumerate(moves(n)))
    )


def force_sets_by_atom(path: Path, n: int) -> None:
    displacements_only(path, n)
    blocks = [
        f"\n{k % 4 + 1}\n{line(u[k % 4])}\n" + "".join(f"{line(x)}\n" for x in f)
        for k, (u, f) in enumerate(zip(moves(n), forces(n), strict=True))
    ]
    path.with_name("FORCE_SETS").write_text(f"4\n{n}\n" + "".join(blocks))


def force_sets_by_frame(path: Path, n: int) -> None:
    displacements_only(path, n)
    path.with_name("FORCE_SETS").write_text(
        "".join(f"{line(row)}\n" for row in np.concatenate([moves(n), forces(n)], axis=2).reshape(-1, 6))
    )


def line(values: np.ndarray) -> str:
    return " ".join(f"{x:.8f}" for x in values)


WAYS = [by_atom, by_frame, dataset, force_sets_by_atom, force_sets_by_frame]


@pytest.mark.parametrize("write", WAYS)
def test_every_way_of_writing_gives_the_same_frames(tmp_path: Path, write: Callable[[Path, int], None]):
    write(tmp_path / "phonopy_disp.yaml", 6)
    found = read_all(tmp_path / "phonopy_disp.yaml")
    assert len(found) == 6
    for k, s in enumerate(found):
        assert s.formula == "Cl2Na2"
        assert s.pbc.all()
        assert np.allclose(s.cell, CELL)
        assert np.allclose(s.positions, PLACES @ CELL + moves(6)[k], atol=1e-9)
        assert np.allclose(s.labels["forces"], forces(6)[k], atol=1e-9)
        assert ("energy" in s.labels) == (write in (by_atom, by_frame, dataset))
        assert s.provenance.group == tmp_path.name
        assert "energy" not in s.labels or s.labels["energy"] == -k - 0.5


def test_the_folder_and_its_force_sets_stand_for_the_run(tmp_path: Path):
    force_sets_by_atom(tmp_path / "phonopy_disp.yaml", 4)
    keys = [[s.key for s in read_all(path)] for path in (tmp_path, tmp_path / "FORCE_SETS", tmp_path / "phonopy_disp.yaml")]
    assert keys[0] == keys[1] == keys[2]
    assert isinstance(find_reader(tmp_path), PhonopyReader)
    (tmp_path / "phonopy_disp.yaml").unlink()
    with pytest.raises(UnreadableFileError, match=r"there is none of phonopy_params\.yaml, phonopy_disp\.yaml"):
        read_all(tmp_path / "FORCE_SETS", "phonopy")


def test_the_path_says_whose_forces_are_read_and_a_folder_with_two_sorts_is_refused(tmp_path: Path):
    """Forces of another calculation at the same displacements, in a YAML file that the folder and FORCE_SETS would both stand for."""
    force_sets_by_atom(tmp_path / "phonopy_disp.yaml", 4)
    by_atom(tmp_path / "phonopy_params.yaml", 4)
    assert [s.labels["energy"] for s in read_all(tmp_path)] == [-0.5, -1.5, -2.5, -3.5]
    text = (tmp_path / "phonopy_params.yaml").read_text()
    (tmp_path / "phonopy_params.yaml").write_text(text.replace("0.2500000000", "0.7500000000"))
    of_sets, of_params = read_all(tmp_path / "FORCE_SETS"), read_all(tmp_path / "phonopy_params.yaml")
    assert of_sets[0].labels["forces"][1, 0] == 0.25
    assert of_params[0].labels["forces"][1, 0] == 0.75
    with pytest.raises(UnreadableFileError, match=r"FORCE_SETS: has other forces than phonopy_params\.yaml; name the one file"):
        read_all(tmp_path)
    (tmp_path / "phonopy_disp.yaml").unlink()  # the params are asked for the displacements
    of_sets = read_all(tmp_path / "FORCE_SETS")
    assert of_sets[0].labels["forces"][1, 0] == 0.25
    assert "energy" not in of_sets[0].labels  # that of the params goes with their forces
    (tmp_path / "phonopy_params.yaml").write_text(text.replace("[0.03, 0.0", "[0.04, 0.0"))
    with pytest.raises(UnreadableFileError, match=r"has other displacements than phonopy_params\.yaml"):
        read_all(tmp_path / "FORCE_SETS")
    (tmp_path / "FORCE_SETS").unlink()
    with pytest.raises(UnreadableFileError, match="FORCE_SETS: no such file"):
        read_all(tmp_path / "FORCE_SETS", "phonopy")


def test_atoms_told_apart_by_a_number_are_of_their_element_and_unknown_ones_are_named(tmp_path: Path):
    path = tmp_path / "phonopy_params.yaml"
    by_atom(path, 1)
    text = path.read_text()
    path.write_text(text.replace("symbol: Na #", "symbol: Na1 #"))
    assert read_all(path)[0].formula == "Cl2Na2"
    for symbol in ("Qq2", "12"):
        path.write_text(text.replace("symbol: Na # 2", f"symbol: {symbol} # 2"))
        with pytest.raises(UnknownElementError, match=r"phonopy_params\.yaml: supercell, atom 2: no element is named '(Qq|12)'"):
            read_all(path)


def test_files_of_one_folder_are_of_one_group_only_under_the_names_of_phonopy(tmp_path: Path):
    names = ("phonopy_params.yaml", "phonopy_disp.yaml", "NaCl.yaml", "MgO.yaml")
    for name in names:
        by_atom(tmp_path / name, 1)
    folder = tmp_path.name
    assert [read_all(tmp_path / name)[0].provenance.group for name in names] == [folder, folder, f"{folder}/NaCl", f"{folder}/MgO"]


def test_frames_without_energy_are_refused_unless_forces_are_what_is_asked(tmp_path: Path):
    force_sets_by_atom(tmp_path / "phonopy_disp.yaml", 2)
    with pytest.raises(MissingLabelsError, match="energy"):
        read_all(tmp_path, require=("energy",))
    assert len(read_all(tmp_path, require=("forces",))) == 2


# Units


def test_files_of_the_library_by_atom_and_as_a_dataset_in_the_units_of_quantum_espresso():
    first, second = read_all(LIBRARY / "by_atom.yaml")
    assert np.allclose(
        first.positions - second.positions, [[0.0268328157, 0.0134164079, 0], [0, 0, 0], [-0.0268328157, -0.0134164079, 0], [0, 0, 0]]
    )
    assert np.array_equal(second.labels["forces"], np.arange(12, 24).reshape(4, 3) / 64)
    report = ReadReport()
    first, second = read_all(LIBRARY / "dataset_qe.yaml", report=report)
    assert np.allclose(np.diag(first.cell), np.array([10.6, 5.3, 5.3]) * BOHR)
    assert np.allclose(first.positions[0], np.array([0.0201933865, 0.0023210664, -0.0220644463]) * BOHR, atol=1e-8)
    assert np.allclose(second.labels["forces"], np.arange(12, 24).reshape(4, 3) / 64 * HARTREE / 2 / BOHR)
    assert set(first.labels) == {"forces"}
    assert report.notes == {"energies not read: not known to be in eV": 2}


@pytest.mark.parametrize(
    ("calculator", "unit", "message"),
    [
        ("  calculator: octopus\n", "", "the units of the calculator 'octopus' are not known; known: vasp, "),
        ("  calculator: qe\n", "physical_unit:\n  length: angstrom\n", "states length in 'angstrom', but phonopy keeps that of qe in 'au'"),
        ("", "physical_unit:\n  force: Ry/au\n", "states force in 'Ry/au', but phonopy keeps that of vasp in 'eV/angstrom'"),
    ],
)
def test_units_that_are_not_known_or_contradict_the_calculator_are_refused_by_name(
    tmp_path: Path, calculator: str, unit: str, message: str
):
    by_atom(tmp_path / "phonopy_params.yaml", 1)
    text = (tmp_path / "phonopy_params.yaml").read_text()
    (tmp_path / "phonopy_params.yaml").write_text(text.replace(head(), head(calculator, unit)))
    with pytest.raises(UnitError) as refused:
        read_all(tmp_path / "phonopy_params.yaml")
    assert message in str(refused.value)


# What is not what it should be


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n4\n0.03300000", "\n9\n0.03300000", "a displaced atom has a number outside 1 to 4"),
        ("4\n4\n", "5\n4\n", "forces of 5 atoms for a supercell of 4"),
        ("4\n4\n", "4\n5\n", "5 displacements of 4 atoms need 32"),
        ("0.03300000", "0.04300000", r"has other displacements than phonopy_disp\.yaml \(4 and 4\); are both of one run"),
        ("0.03300000", "zero", "could not convert"),
    ],
)
def test_force_sets_of_another_run_or_cut_are_refused(tmp_path: Path, old: str, new: str, message: str):
    force_sets_by_atom(tmp_path / "phonopy_disp.yaml", 4)
    text = (tmp_path / "FORCE_SETS").read_text()
    assert old in text
    (tmp_path / "FORCE_SETS").write_text(text.replace(old, new, 1))
    with pytest.raises(UnreadableFileError, match=message):
        read_all(tmp_path)


def test_yaml_that_is_no_plain_data_is_refused_before_it_is_built(tmp_path: Path):
    path = tmp_path / "a.yaml"
    bomb = "".join(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9) if k else 1}]\n" for k in range(12))
    for text, kind, message in (
        (f"phonopy:\n  version: 1\n{bomb}", RefusedFileError, "the file has aliases"),
        ("phonopy:\n  version: " + "[" * 60 + "]" * 60, RefusedFileError, "nested deeper than 32 levels"),
        (
            "phonopy: !!python/object/apply:os.system [touch hacked]\n",
            UnreadableFileError,
            "not valid YAML: could not determine a constructor",
        ),
        ("phonopy: {version: 1\n", UnreadableFileError, "not valid YAML"),
        ("phonopy:\n  version: 1\n", UnreadableFileError, "there is no supercell"),
        ("phono3py:\n  version: 1\n", UnreadableFileError, "no file of phonopy"),
        (head(), UnreadableFileError, "there are no displacements, and no FORCE_SETS is beside it"),
        (head("  calculator: [vasp]\n"), UnreadableFileError, "not as phonopy writes it: TypeError"),
        (
            head() + "displacements:\n- {atom: .inf, displacement: [0, 0, 0]}\n",
            UnreadableFileError,
            "not as phonopy writes it: OverflowError",
        ),
        (head() + "dataset: text\n", UnreadableFileError, "not as phonopy writes it: TypeError"),
        (head().replace("coordinates", "position"), UnreadableFileError, "not as phonopy writes it: KeyError: 'coordinates'"),
    ):
        path.write_text(text)
        with pytest.raises(kind, match=message):
            list(read(path, "phonopy"))
    assert not (tmp_path / "hacked").exists()


def test_small_files_that_stand_for_large_content_are_refused(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.yaml.gz"
    path.write_bytes(gzip.compress(b"phonopy: {}\n" + b" " * (1 << 26)))
    with pytest.raises(RefusedFileError, match=f"the file has more than {1 << 26} bytes"):
        list(read(path, "phonopy"))
    monkeypatch.setattr(strict_yaml, "MOST_EVENTS", 1000)
    lists = [b"phonopy: {}\nx: [%s]\n" % (b"[]," * n) for n in (494, 495)]  # twelve events more: eight before and four after
    path.write_bytes(gzip.compress(lists[1]))
    with pytest.raises(RefusedFileError, match="the file has more than 1000 numbers, texts, lists"):
        list(read(path, "phonopy"))
    path.write_bytes(gzip.compress(lists[0]))
    with pytest.raises(UnreadableFileError, match="there is no supercell"):
        list(read(path, "phonopy"))


# Real files


@pytest.mark.shared_data
def test_random_displacements_are_the_same_from_the_params_and_from_force_sets_and_energies_follow_the_forces(shared_data):
    folder = shared_data("ref_phonon_forces")
    params, sets = read_all(folder / "phonopy_params_NaCl-rd.yaml.xz"), read_all(folder / "NaCl-rd")
    assert len(params) == len(sets) == 10
    for a, b in zip(params, sets, strict=True):
        assert np.allclose(a.positions, b.positions, atol=1e-12)
        assert np.array_equal(a.labels["forces"], b.labels["forces"])
    assert params[0].labels["energy"] == -216.84472784
    pairs = list(combinations(params, 2))
    predicted = [-np.sum((a.labels["forces"] + b.labels["forces"]) * (b.positions - a.positions)) / 2 for a, b in pairs]
    measured = [float(b.labels["energy"] - a.labels["energy"]) for a, b in pairs]
    assert np.polyfit(predicted, measured, 1)[0] == pytest.approx(1.0, abs=0.1)  # the trapezoidal rule over 0.03 Å in each direction
    assert np.corrcoef(predicted, measured)[0, 1] > 0.97


@pytest.mark.shared_data
def test_a_displaced_atom_of_anatase_is_pulled_back(shared_data):
    """A stable crystal: F . u < 0 for the one atom that moves."""
    folder = shared_data("ref_phonon_forces") / "TiO2-anatase"
    frames = read_all(folder)
    assert [s.formula for s in frames] == ["O128Ti64"] * 4
    for moved, opposite in (frames[:2], frames[2:]):  # one atom, one way and back
        u = (moved.positions - opposite.positions) / 2
        (atom,) = np.flatnonzero(np.abs(u).sum(axis=1) > 1e-6)
        assert np.linalg.norm(u[atom]) == pytest.approx(0.01, rel=1e-6)
        assert moved.labels["forces"][atom] @ u[atom] < 0 < opposite.labels["forces"][atom] @ u[atom]


def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
    dataset(path, 4)
    path.write_text(path.read_text().replace(f"{forces(4)[2, 2, 0]:.10f}", ".nan"))
    text = path.read_text()
    start = text.index("  forces:")
    listed = text[start:].splitlines()
    return 4, tuple(k for k, row in enumerate(listed[1:5]) if ".nan" in row)


def unknown(path: Path) -> str:
    dataset(path, 1)
    path.write_text(path.read_text() + "nac:\n  unit_conversion: 14.4\n")
    return "nac"


class TestPhonopyReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(PhonopyReader(), read, dataset, damaged, unknown, ReadReport)
