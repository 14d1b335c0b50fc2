"""Data sets of NumPy arrays: .npz files and the folders of DeePMD and PWdata, written with numpy in the published layouts.

sGDML, NequIP and PhysNet files, DeePMD systems and PWdata are also read from real files in `test_molecule_sets`; rMD17 and MD22 files are not.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers.deepmd import DeepmdReader, PwdataReader
from mlipfm_data.readers.npz import NpzReader
from mlipfm_data.readers.registry import find_reader, read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import RefusedFileError, UnitError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import KCAL_MOL

Z = np.array([8, 1, 1])
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
CELL = np.array([[8.0, 0, 0], [1, 7, 0], [0, 1, 9]])


def oscillation(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [n, 3, 3] in Å, energies in eV and forces in eV/Å of atoms bound to fixed places by springs of 5 eV/Å²."""
    shift = 0.01 * np.sin(np.arange(9 * n).reshape(n, 3, 3)) + 2e-4 * np.arange(n)[:, None, None]
    return WATER + shift, 2.5 * (shift**2).sum((1, 2)) - 2078.0, -5.0 * shift


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def sgdml(path: Path, n: int = 8, **more) -> Path:
    x, e, f = oscillation(n)
    return npz(
        path, **({"R": x, "E": e[:, None] / KCAL_MOL, "F": f / KCAL_MOL, "z": Z.astype(np.uint8), "name": b"water", "type": b"d"} | more)
    )


def rmd17(path: Path) -> Path:
    x, e, f = oscillation(8)
    return npz(path, nuclear_charges=Z, coords=x, energies=e / KCAL_MOL, forces=f / KCAL_MOL, old_indices=np.arange(8), old_energies=e)


def physnet(path: Path) -> Path:
    x, e, f = oscillation(8)
    pad = ((0, 0), (0, 2), (0, 0))
    return npz(path, N=np.full(8, 3), Z=np.pad(np.tile(Z, (8, 1)), ((0, 0), (0, 2))), R=np.pad(x, pad), F=np.pad(f, pad), E=e, Q=np.ones(8),
               D=np.ones((8, 3)))  # fmt: skip


def nequip(path: Path) -> Path:
    x, e, f = oscillation(8)
    return npz(path, pos=x, energy=e[:, None], forces=f, atomic_numbers=Z, cell=CELL, pbc=np.array([True, True, False]))


def deepmd(path: Path, n: int = 8, size: int = 5) -> Path:
    x, e, f = oscillation(n)
    path.mkdir()
    (path / "type.raw").write_text("1\n0\n0\n")
    (path / "type_map.raw").write_text("H\nO\n")
    for k, first in enumerate(range(0, n, size)):
        folder = path / f"set.{k:03d}"
        folder.mkdir()
        rows = slice(first, first + size)
        count = len(e[rows])
        for name, value in {"coord": x[rows], "energy": e[rows], "force": f[rows], "box": np.tile(CELL, (count, 1, 1)),
                            "virial": np.tile(np.diag([3.0, 6.0, 9.0]), (count, 1, 1))}.items():  # fmt: skip
            np.save(folder / f"{name}.npy", value.reshape(count, -1) if name != "energy" else value)
    return path


def pwdata(path: Path, n: int = 8) -> Path:
    x, e, f = oscillation(n)
    cut = max(1, 3 * n // 4)
    for part, rows in (("train", slice(0, cut)), ("valid", slice(cut, None))):
        folder = path / part
        folder.mkdir(parents=True)
        count = len(e[rows])
        fractional = x[rows] @ np.linalg.inv(CELL)
        for name, value in {"position": fractional.reshape(count, -1), "lattice": np.tile(CELL.reshape(-1), (count, 1)), "energies": e[rows, None],
                            "forces": f[rows].reshape(count, -1), "image_type": Z[None], "atom_type": np.array([[8, 1]])}.items():  # fmt: skip
            np.save(folder / f"{name}.npy", value)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(sgdml, "a.npz"), (rmd17, "a.npz"), (physnet, "a.npz"), (nequip, "a.npz"), (deepmd, "a"), (pwdata, "a")],
    ids=["sgdml", "rmd17", "physnet", "nequip", "deepmd", "pwdata"],
)
def test_every_layout_gives_the_same_molecule_in_angstrom_and_electronvolt(tmp_path, write, name):
    x, e, f = oscillation(8)
    structures = read_all(write(tmp_path / name), level="pbe")
    assert len(structures) == 8
    for s, positions, energy, forces in zip(structures, x, e, f, strict=True):
        assert (s.atomic_numbers.tolist(), s.level) == ([8, 1, 1], "pbe")
        assert np.allclose(s.positions, positions, atol=1e-9)
        assert float(s.labels["energy"]) == pytest.approx(energy, abs=1e-8)
        assert np.allclose(s.labels["forces"], forces, atol=1e-9)
    assert energy_against_forces(structures).slope == pytest.approx(1.0, abs=1e-6)


def test_text_and_a_cut_archive_are_no_npz(tmp_path):
    (tmp_path / "a.npz").write_text("hello\n")
    path = nequip(tmp_path / "b.npz")
    path.write_bytes(path.read_bytes()[:-40])
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UnreadableFileError, match="is no .npz archive, or its end is missing"):
            read_all(tmp_path / name)


def test_physnet_has_charge_and_dipole_and_no_padding(tmp_path):
    s = read_all(physnet(tmp_path / "a.npz"))[0]
    assert (len(s), s.total_charge, s.labels["dipole"].tolist()) == (3, 1, [1.0, 1.0, 1.0])


def test_cell_and_periodicity_of_nequip_files(tmp_path):
    path = nequip(tmp_path / "a.npz")
    s = read_all(path)[0]
    assert (s.cell.tolist(), s.pbc.tolist()) == (CELL.tolist(), [True, True, False])
    free = read_all(path, periodic=False)[0]
    assert not free.pbc.any()
    assert not free.cell.any()


def test_a_file_with_atomic_numbers_of_every_frame_is_no_sgdml_file_and_not_in_kcal_per_mol(tmp_path):
    _, e, f = oscillation(8)
    with np.load(sgdml(tmp_path / "a.npz", E=e, F=f)) as file:
        arrays = dict(file)
    np.savez(tmp_path / "b.npz", **(arrays | {"z": np.tile(arrays["z"], (len(arrays["R"]), 1))}))
    assert float(read_all(tmp_path / "b.npz")[3].labels["energy"]) == pytest.approx(e[3])
    assert float(read_all(tmp_path / "a.npz")[3].labels["energy"]) == pytest.approx(e[3] * KCAL_MOL)


def test_units_that_an_sgdml_file_states_win_and_unknown_ones_are_refused(tmp_path):
    _, e, f = oscillation(8)
    stated = read_all(sgdml(tmp_path / "a.npz", E=e, F=f, e_unit="eV", r_unit="Ang"))
    assert float(stated[3].labels["energy"]) == pytest.approx(e[3])
    with pytest.raises(UnitError, match=r"e_unit is 'parsec'; known here: kcal/mol, eV, Hartree"):
        read_all(sgdml(tmp_path / "b.npz", e_unit="parsec"))


def test_arrays_of_python_objects_are_refused(tmp_path):
    path = sgdml(tmp_path / "a.npz", E=np.array([{"a": 1}] * 8, dtype=object))
    with pytest.raises(RefusedFileError, match=r"a\.npz: E: the array holds Python objects, which are pickles"):
        list(read(path))
    system = deepmd(tmp_path / "system")
    np.save(system / "set.000/energy.npy", np.array([None] * 5, dtype=object))
    with pytest.raises(RefusedFileError, match=r"energy\.npy: the array holds Python objects"):
        list(read(system))


def test_an_object_array_that_no_layout_needs_is_not_touched(tmp_path):
    assert len(read_all(sgdml(tmp_path / "a.npz", notes=np.array([{"a": 1}], dtype=object)))) == 8


def test_cut_damaged_foreign_and_unbelievable_files(tmp_path):
    path = sgdml(tmp_path / "a.npz", 300)
    data = bytearray(path.read_bytes())
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableFileError, match=r"cut\.npz: is no .npz archive, or its end is missing"):
        list(read(tmp_path / "cut.npz"))
    place = data.index(b"R.npy") + 4000
    data[place : place + 8] = bytes(8)
    (tmp_path / "damaged.npz").write_bytes(data)
    with pytest.raises(UnreadableFileError, match=r"damaged\.npz: R: damaged in row \d+: Bad CRC-32"):
        list(read(tmp_path / "damaged.npz"))
    npz(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(UnreadableFileError, match="no known layout has the arrays images; known: rMD17"):
        list(read(tmp_path / "other.npz"))
    with pytest.raises(UnreadableFileError, match=r"'E' has 5 rows, 8 were expected"):
        list(read(sgdml(tmp_path / "short.npz", E=np.zeros(5))))
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 100000, 100000)}".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        for name in ("R", "z", "E"):
            archive.writestr(f"{name}.npy", header)
    with pytest.raises(UnreadableFileError, match=r"an array of shape \[2, 100000, 100000\] is not believable"):
        list(read(tmp_path / "bomb.npz"))


@pytest.mark.parametrize("write", [deepmd, pwdata])
def test_systems_are_found_however_deep_they_lie(write, tmp_path):
    """`nopbc/data/H2O` of a published set was three folders down, and left out without a word."""
    for place in ("a", "b/c", "d/e/f/g"):
        (tmp_path / "all" / place).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "all" / place)
    one = len(read_all(tmp_path / "all" / "a", level="x"))
    assert len(read_all(tmp_path / "all", level="x")) == 3 * one > 0


def test_deepmd_virial_becomes_the_stress_with_the_other_sign(tmp_path):
    s = read_all(deepmd(tmp_path / "a"))[0]
    assert np.diag(s.labels["stress"]) == pytest.approx(-np.array([3.0, 6.0, 9.0]) / np.linalg.det(CELL))


def test_deepmd_systems_without_cell_with_hessians_and_with_virtual_atoms(tmp_path):
    free = deepmd(tmp_path / "free")
    (free / "nopbc").touch()
    hessian = 5.0 * np.eye(9)
    for k, n in enumerate((5, 3)):
        np.save(free / f"set.00{k}/hessian.npy", np.tile(hessian.reshape(-1), (n, 1)))
    s = read_all(free)[0]
    assert not s.pbc.any()
    rows = s.labels["hessian_rows"].reshape(9, 9)
    assert np.array_equal(rows, hessian)
    assert s.labels["hessian_rows_index"][4].tolist() == [1, 1]
    mixed = deepmd(tmp_path / "mixed")
    for k, n in enumerate((5, 3)):
        np.save(mixed / f"set.00{k}/real_atom_types.npy", np.tile([1, 0, -1], (n, 1)))
    hydroxyl = read_all(mixed)[0]
    assert hydroxyl.atomic_numbers.tolist() == [8, 1]
    assert hydroxyl.labels["forces"].shape == (2, 3)
    for k, n in enumerate((5, 3)):
        np.save(mixed / f"set.00{k}/real_atom_types.npy", np.tile([1, -1, 0], (n, 1)))
    forces = np.load(mixed / "set.000/force.npy")[0].reshape(3, 3)
    assert np.array_equal(read_all(mixed)[0].labels["forces"], forces[[0, 2]])  # they stay with their atoms
    assert not np.array_equal(forces[1], forces[2])


def test_folders_are_recognised_by_what_they_hold(tmp_path):
    assert isinstance(find_reader(deepmd(tmp_path / "a")), DeepmdReader)
    assert isinstance(find_reader(pwdata(tmp_path / "b")), PwdataReader)
    assert len(read_all(tmp_path / "b" / "valid")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableFileError, match=r"empty: no reader reads this kind of folder; name one: ase"):
        find_reader(tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("type_map.raw", "there is no type_map.raw that names the elements"),
        ("set.001/box.npy", "there is no box.npy, and no file `nopbc` says"),
        ("set.001/coord.npy", "set.001: there is no coord.npy"),
    ],
)
def test_missing_files_of_a_deepmd_system_are_named(tmp_path, file, message):
    path = deepmd(tmp_path / "a")
    (path / file).unlink()
    with pytest.raises(UnreadableFileError, match=message):
        list(read(path, DeepmdReader()))


def test_a_cut_array_names_the_row_after_the_good_frames(tmp_path):
    path = deepmd(tmp_path / "a")
    file = path / "set.001" / "force.npy"
    file.write_bytes(file.read_bytes()[:-100])
    frames = read(path)
    assert sum(isinstance(next(frames), Structure) for _ in range(6)) == 6
    with pytest.raises(UnreadableFileError, match=r"force\.npy: the file ends in row 1 of 3; the file is truncated"):
        list(frames)


def test_pwdata_that_does_not_fit_together_is_refused_frame_by_frame(tmp_path):
    path = pwdata(tmp_path / "a")
    np.save(path / "valid" / "forces.npy", np.zeros((2, 6)))
    items = list(read(path))
    assert [isinstance(item, Refusal) for item in items] == [False] * 6 + [True] * 2
    assert "forces.npy has 6 numbers for 3 atoms" in str(items[-1].error)


def _spoil(x: np.ndarray, e: np.ndarray) -> tuple[int, ...]:
    x[1, 0, 0], e[4] = np.nan, np.inf
    x[6, 1] = x[6, 2]
    return 1, 4, 6


def _damaged_npz(path: Path) -> tuple[int, tuple[int, ...]]:
    x, e, _ = oscillation(8)
    bad = _spoil(x, e)
    sgdml(path, R=x, E=e[:, None])
    return 8, bad


def _one_set(path: Path, n: int) -> None:
    deepmd(path, n, n)


def _damaged_deepmd(path: Path) -> tuple[int, tuple[int, ...]]:
    x, e, _ = oscillation(8)
    bad = _spoil(x, e)
    deepmd(path, 8, 8)
    np.save(path / "set.000/coord.npy", x.reshape(8, 9))
    np.save(path / "set.000/energy.npy", e)
    return 8, bad


def _damaged_pwdata(path: Path) -> tuple[int, tuple[int, ...]]:
    x, e, _ = oscillation(8)
    bad = _spoil(x, e)
    pwdata(path, 8)
    np.save(path / "train/position.npy", (x @ np.linalg.inv(CELL))[:6].reshape(6, 9))
    np.save(path / "train/energies.npy", e[:6, None])
    fractional = np.load(path / "valid/position.npy")
    fractional[0, 3:6] = fractional[0, 6:9]
    np.save(path / "valid/position.npy", fractional)
    return 8, bad


def _again(write, path: Path, n: int) -> None:
    """The contract writes a path more than once; a folder must be new."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    write(path, n)


def _unknown_npz(path: Path) -> str:
    sgdml(path, 2, velocities=np.ones((2, 3, 3)))
    return "velocities"


def _unknown_deepmd(path: Path) -> str:
    _again(_one_set, path, 2)
    np.save(path / "set.000" / "fparam.npy", np.full((2, 1), 300.0))
    return "fparam.npy"


def _unknown_pwdata(path: Path) -> str:
    _again(pwdata, path, 2)
    np.save(path / "train" / "ei.npy", np.zeros((1, 3)))
    return "ei.npy"


class TestNpzReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(NpzReader(), read, lambda path, n: sgdml(path, n) and None, _damaged_npz, _unknown_npz, ReadReport)


class TestDeepmdReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(DeepmdReader(), read, lambda path, n: _again(_one_set, path, n), _damaged_deepmd, _unknown_deepmd, ReadReport)


class TestPwdataReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(PwdataReader(), read, lambda path, n: _again(pwdata, path, n), _damaged_pwdata, _unknown_pwdata, ReadReport)
