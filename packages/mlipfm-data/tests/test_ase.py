"""The bridge to ASE and the reader of what ASE reads; ASE's own readers are the other code to agree with."""

import sqlite3

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from mlipfm_data.readers.ase import FORMATS, AseReader, from_ase, to_ase
from mlipfm_data.readers.extxyz import export_extxyz
from mlipfm_data.readers.registry import find_reader, read, read_all
from mlipfm_interfaces.errors import InvalidStructureError, PluginError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.protocols import Format, Refusal
from mlipfm_interfaces.structure import Provenance, Structure


def copper(scale: float = 1.0) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.get_stress()
    return atoms


def frozen(atoms: Atoms) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **{key: atoms.calc.results[key] for key in ("energy", "forces", "stress")})
    return atoms


def same_labels(structure: Structure, atoms: Atoms) -> None:
    assert np.allclose(structure.positions, atoms.positions, atol=1e-12)
    assert float(structure.labels["energy"]) == pytest.approx(atoms.get_potential_energy())
    assert np.allclose(structure.labels["forces"], atoms.get_forces(), atol=1e-8)
    assert np.allclose(structure.labels["stress"], atoms.get_stress(voigt=False), atol=1e-10)


def test_the_reader_is_a_reader():
    assert isinstance(AseReader(), Format)


def test_compressed_copper_has_negative_stress():
    """ASE's sign, kept: +(1/V) dE/dstrain."""
    assert np.trace(from_ase(copper(0.95)).labels["stress"]) < 0 < np.trace(from_ase(copper(1.05)).labels["stress"])


def test_there_and_back_keeps_everything():
    s = Structure(
        [8, 1, 1], [[0, 0, 0.1], [0, 0.76, -0.5], [0, -0.76, -0.5]], 9 * np.eye(3), True, 1, 2, [0, 0.1, 0], "gfn2-xtb",
        {"energy": -1.0, "forces": np.eye(3), "stress": np.eye(3) + 0.1, "charges": [1, 0, 0], "polarizability": 2 * np.eye(3)},
        {"energy": 0.2}, Provenance("made", "O", 3, "conformer"),
    )  # fmt: skip
    back = from_ase(to_ase(s))
    assert (back.key, back.level, back.provenance) == (s.key, s.level, s.provenance)
    assert {k: v.tolist() for k, v in back.labels.items()} == {k: v.tolist() for k, v in s.labels.items()}
    assert {k: v.tolist() for k, v in back.label_std.items()} == {"energy": 0.2}


def test_to_ase_speaks_ase():
    s = from_ase(copper(), level="emt")
    atoms = to_ase(s.replace(total_charge=0, spin_multiplicity=1))
    same_labels(s, atoms)
    assert (atoms.info["charge"], atoms.info["spin"]) == (0, 1)


def test_atoms_are_not_written_to():
    atoms = copper()
    atoms.info["charge"] = 0
    before = (dict(atoms.info), atoms.positions.copy(), atoms.cell.array.copy(), sorted(atoms.arrays))
    from_ase(atoms)
    after = (dict(atoms.info), atoms.positions, atoms.cell.array, sorted(atoms.arrays))
    assert all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(before, after, strict=True))


def test_extxyz_written_by_ase_is_read_by_us(tmp_path):
    path = tmp_path / "cu.xyz"
    frames = [frozen(copper(scale)) for scale in (0.98, 1.0, 1.02)]
    ase.io.write(path, frames)
    structures = read_all(path)
    assert len(structures) == 3
    for structure, atoms in zip(structures, frames, strict=True):
        assert np.allclose(structure.positions, atoms.positions, atol=1e-8)  # ASE writes eight decimals
        assert np.allclose(structure.cell, atoms.cell.array)
        assert float(structure.labels["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert np.allclose(structure.labels["forces"], atoms.get_forces(), atol=1e-8)
        assert np.allclose(structure.labels["stress"], atoms.get_stress(voigt=False), atol=1e-12)


def test_our_extxyz_is_read_by_ase(tmp_path):
    s = from_ase(copper(), level="emt")
    export_extxyz([s.replace(total_charge=-1)], tmp_path / "out.xyz")
    atoms = ase.io.read(tmp_path / "out.xyz")
    assert np.array_equal(atoms.positions, s.positions)
    assert atoms.info["REF_energy"] == float(s.labels["energy"])
    assert np.array_equal(atoms.arrays["REF_forces"], s.labels["forces"])
    assert np.allclose(np.reshape(atoms.info["REF_stress"], (3, 3)), s.labels["stress"])
    assert atoms.info["charge"] == -1


@pytest.mark.parametrize("name", ["md.traj", "set.db", "set.json"])
def test_trajectories_and_databases_carry_labels(tmp_path, name):
    frames = [frozen(copper(scale)) for scale in (0.98, 1.02)]
    ase.io.write(tmp_path / name, frames)
    structures = read_all(tmp_path / name)
    for structure, atoms in zip(structures, frames, strict=True):
        same_labels(structure, atoms)
    assert [s.provenance.index for s in structures] == [0, 1]


def test_data_and_keys_of_a_database_are_labels(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        forces = np.ones((3, 3))
        database.write(
            molecule("H2O"),
            key_value_pairs={"total_charge": 1},
            data={"energy": np.array([-2.0]), "forces": forces, "mult": np.array([2.0])},
        )
    (water,) = read_all(tmp_path / "a.db")
    assert float(water.labels["energy"]) == -2.0
    assert np.array_equal(water.labels["forces"], forces)
    assert (water.total_charge, water.spin_multiplicity) == (1, 2)


@pytest.mark.parametrize("name", ["x.cif", "POSCAR", "x.vasp", "x.gen", "x.xsf"])
def test_crystals_without_labels_are_geometries(tmp_path, name):
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    ase.io.write(tmp_path / name, atoms, format=next(f for end, f in FORMATS.items() if name.endswith(end)))
    (salt,) = read_all(tmp_path / name)
    assert salt.formula == "Cl4Na4"
    assert salt.pbc.all()
    assert abs(np.linalg.det(salt.cell)) == pytest.approx(5.64**3, rel=1e-4)
    assert not salt.labels


def test_the_frame_with_contradicting_energies_is_refused_and_the_next_is_read(tmp_path):
    one, two = frozen(copper()), frozen(copper(1.01))
    one.info["REF_energy"] = 5.0
    ase.io.write(tmp_path / "x.traj", [one, two])
    bad, good = read(tmp_path / "x.traj")
    assert isinstance(bad, Refusal)
    assert isinstance(good, Structure)
    with pytest.raises(InvalidStructureError, match=r"x\.traj: frame 0: 'REF_energy' and 'energy \(calculator\)' both claim"):
        raise bad.error


def test_damaged_files_are_one_error_each(tmp_path):
    path = tmp_path / "x.traj"
    ase.io.write(path, [frozen(copper())] * 5)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableFileError, match=r"x\.traj: "):
        read_all(path)
    (tmp_path / "x.db").write_bytes(b"no database at all")
    with pytest.raises(UnreadableFileError, match="no sqlite database"):
        read_all(tmp_path / "x.db")
    sqlite3.connect(tmp_path / "other.db").execute("create table t (x)").connection.close()
    with pytest.raises(UnreadableFileError, match=r"other\.db: "):
        read_all(tmp_path / "other.db")
    (tmp_path / "x.cif").write_text("data_\nloop_\n_atom nonsense\n")
    with pytest.raises(UnreadableFileError, match=r"x\.cif: "):
        read_all(tmp_path / "x.cif")


def test_formats_that_could_run_code_are_not_on_the_list(tmp_path):
    (tmp_path / "x.py").write_text("raise SystemExit")
    for name in ("py", "bundletrajectory", "eon", "gpw"):
        with pytest.raises(UnreadableFileError, match=f"format '{name}' is not read; set format to one of"):
            read_all(tmp_path / "x.py", "ase", format=name)


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x95\x10\x00", b"\x80\x02}q\x00.", b"cposix\nsystem\n(S'ls'\ntR.", b"(lp0\n.", b"PK\x03\x04..archive/data.pkl"]
)
def test_pickles_are_refused_by_content_under_any_name(tmp_path, content):
    for name in ("a.xyz", "a.traj", "a.db"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RefusedFileError, match="pickles are never read"):
            read_all(tmp_path / name)


def test_readers_are_found_by_name_and_suffix(tmp_path):
    assert type(find_reader(tmp_path / "a.b.extxyz.gz")).__name__ == "ExtxyzReader"
    assert type(find_reader(tmp_path / "POSCAR")).__name__ == "AseReader"
    with pytest.raises(UnreadableFileError, match="no reader reads this kind of file; name one: ase, .*extxyz"):
        find_reader(tmp_path / "a.unknown")
    with pytest.raises(PluginError, match="did you mean 'extxyz'"):
        find_reader(tmp_path / "a.xyz", "exyz")
    with pytest.raises(UnreadableFileError, match="no such file"):
        read(tmp_path / "absent.xyz")
