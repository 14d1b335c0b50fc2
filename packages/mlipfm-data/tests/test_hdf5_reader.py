"""HDF5 layouts, each written with h5py as published: the energies and forces that are read must belong together, in eV and Angstrom.

ANI-1, ANI-1x, ANI-2x, COMP6, SPICE, AIMNet2 and QM9 are also read from real files in `test_molecule_sets`; Transition1x and QM7-X are only read as
h5py writes them here in the published layout.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers import mapped_smiles
from mlipfm_data.readers.hdf5 import Hdf5Reader
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import InvalidStructureError, LevelError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import BOHR, HARTREE, KJ_MOL

Z = np.array([8, 1, 1])
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
TEXT = h5py.string_dtype()


def springs(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [n, 3, 3] in Å, energies in eV and forces in eV/Å of a water molecule of three springs, along a random walk."""
    steps = np.random.default_rng(0).normal(0, 0.005, (n, 3, 3))
    x = WATER + np.cumsum(steps, axis=0) * (np.arange(n) < 50)[:, None, None] + 0.001 * np.arange(n)[:, None, None]
    energy, forces = np.zeros(n), np.zeros_like(x)
    for i, j, rest in ((0, 1, 0.95), (0, 2, 0.95), (1, 2, 1.5)):
        r = x[:, j] - x[:, i]
        d = np.linalg.norm(r, axis=1)
        energy += 20 * (d - rest) ** 2
        pull = (40 * (d - rest) / d)[:, None] * r
        forces[:, i] += pull
        forces[:, j] -= pull
    return x, energy - 2078.0, forces


def put(group: h5py.Group, **data) -> None:
    for name, value in data.items():
        group[name] = value


def ani1(file: h5py.File, n: int) -> None:
    x, e, _ = springs(n)
    species = np.array([b"O", b"H", b"H"])
    put(file.create_group("gdb11_s01/gdb11_s01-0"), coordinates=x, energies=e / HARTREE, species=species, smiles=np.array([b"O"]),
        coordinatesHE=x[:1] + 0.1 * WATER, energiesHE=e[:1] / HARTREE)  # fmt: skip


def comp6(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    put(file.create_group("s66x8/mol00"), coordinates=x, energies=e / HARTREE, forces=-f / HARTREE, species=np.array([b"O", b"H", b"H"]),
        cm5=np.zeros((n, 4)), hirshfeld=np.zeros((n, 4)), lot=np.array([b"wb97x/6-31g*"]))  # fmt: skip


def ani1x(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    cc = e / HARTREE + 0.3
    cc[1::2] = np.nan
    group = file.create_group("H2O1")
    put(group, coordinates=x, atomic_numbers=Z.astype(np.uint8))
    for name, value in {"wb97x_dz.energy": e / HARTREE, "wb97x_dz.forces": f / HARTREE, "wb97x_tz.energy": e / HARTREE + 0.1,
                        "wb97x_tz.forces": f / HARTREE, "ccsd(t)_cbs.energy": cc}.items():  # fmt: skip
        group[name] = value


def ani2x(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    put(file.create_group("003"), coordinates=x, energies=e / HARTREE, forces=f / HARTREE, species=np.tile(Z, (n, 1)))


def spice(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    group = file.create_group("water")
    put(group, conformations=x / BOHR, atomic_numbers=Z, dft_total_energy=e / HARTREE, dft_total_gradient=-f / HARTREE * BOHR,
        scf_dipole=np.ones((n, 3)))  # fmt: skip
    group.create_dataset("smiles", data=["[O:1]([H:2])[H:3]"], dtype=TEXT)
    for name, unit in {"conformations": "bohr", "dft_total_energy": "hartree", "dft_total_gradient": "hartree/bohr"}.items():
        group[name].attrs["units"] = unit


def transition1x(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    for split in ("data", "train"):
        path = file.create_group(f"{split}/H2O/rxn0007")
        for group, rows in (
            (path, slice(None)),
            (path.create_group("reactant"), slice(0, 1)),
            (path.create_group("product"), slice(-1, None)),
        ):
            put(group, positions=x[rows], atomic_numbers=Z)
            group["wB97x_6-31G(d).energy"], group["wB97x_6-31G(d).forces"] = e[rows], f[rows]


def qm7x(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    for k in range(n):
        put(file.create_group(f"12/Geom-m12-i1-c1-d{k:04d}"), atXYZ=x[k], atNUM=Z, totFOR=f[k], vDIP=np.ones(3), hCHG=np.array([-0.4, 0.2, 0.2]),
            HLgap=np.array([9.0]), eH=np.array([-7.0]), eL=np.array([2.0]))  # fmt: skip
        file[f"12/Geom-m12-i1-c1-d{k:04d}"]["ePBE0+MBD"] = e[k : k + 1]


def aimnet2(file: h5py.File, n: int) -> None:
    x, e, f = springs(n)
    put(file.create_group("003"), coord=x, numbers=np.tile(Z, (n, 1)), energy=e, forces=f, charge=np.ones(n, np.int8), mult=np.full(n, 2, np.int8),
        charges=np.full((n, 3), 1 / 3), spin_charges=np.full((n, 3), 1 / 3), dipole=np.ones((n, 3)))  # fmt: skip


def modelforge(file: h5py.File, n: int) -> None:
    x, e, _ = springs(n)
    group = file.create_group("dsgdb9nsd_000003")
    put(group, positions=x / 10, atomic_numbers=Z[:, None])
    group["positions"].attrs["u"] = "nanometer"
    for name, value in {
        "internal_energy_at_0K": e + 0.5,
        "zero_point_vibrational_energy": np.full(n, 0.5),
        "energy_of_homo": np.full(n, -7.0),
    }.items():
        group[name] = (value / KJ_MOL)[:, None]
        group[name].attrs["u"] = "kilojoule_per_mole"


def mlip(file: h5py.File, n: int) -> None:
    for k, (x, e, f) in enumerate(zip(*springs(n), strict=True)):
        group = file.create_group(f"water_{k:04d}")
        put(group, positions=x, elements=Z, forces=f)
        group.attrs.update({"energy": e, "charge": 0.0})


WRITERS: dict[str, Callable[[h5py.File, int], None]] = {
    function.__name__: function for function in (ani1, comp6, ani1x, ani2x, spice, transition1x, qm7x, aimnet2, modelforge, mlip)
}


def written(path: Path, name: str, n: int = 8) -> Path:
    with h5py.File(path, "w") as file:
        WRITERS[name](file, n)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_geometry_and_energy_are_read_in_angstrom_and_electronvolt(tmp_path, name):
    x, e, _ = springs(8)
    level = "wb97x/6-31g(d)" if name == "ani1x" else None
    structures = read_all(written(tmp_path / "any.h5", name), level=level)
    assert len(structures) == 8
    for s, positions, energy in zip(structures, x, e, strict=True):
        assert s.atomic_numbers.tolist() == [8, 1, 1]
        assert np.allclose(s.positions, positions, atol=1e-6)
        assert float(s.labels["energy"]) == pytest.approx(energy, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("ani1", "modelforge")])
def test_energy_falls_along_the_forces_in_every_layout(tmp_path, name):
    level = "wb97x/6-31g(d)" if name == "ani1x" else None
    slope = energy_against_forces(read_all(written(tmp_path / "any.h5", name), level=level))
    assert slope.pairs == 7
    assert slope.slope == pytest.approx(1.0, abs=0.01)


def test_several_levels_of_one_geometry_are_structures_of_one_group(tmp_path):
    report = ReadReport()
    structures = list(read(written(tmp_path / "ani.h5", "ani1x"), report=report))
    levels = [s.level for s in structures]
    assert [levels.count(level) for level in ("wb97x/6-31g(d)", "wb97x/def2-tzvpp", "ccsd(t)*/cbs")] == [8, 8, 4]
    assert {s.provenance.group for s in structures} == {"H2O1"}
    assert [s.provenance.index for s in structures] == list(range(20))
    assert len({s.key for s in structures[:3]}) == 1
    assert report.notes["'ccsd(t)_cbs.energy' is NaN: not computed"] == 4
    assert not report.unused


def test_a_level_that_the_file_has_not_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(LevelError, match=r"has no level 'pbe'; it has wb97x/6-31g\(d\), wb97x/def2-tzvpp"):
        list(read(written(tmp_path / "ani.h5", "ani1x"), level="PBE"))


def test_the_level_comes_from_the_file_where_it_states_one_and_only_there(tmp_path):
    levels = {name: {s.level for s in read(written(tmp_path / f"{name}.h5", name)) if isinstance(s, Structure)} for name in WRITERS}
    assert levels["comp6"] == levels["transition1x"] == {"wb97x/6-31g(d)"}
    assert levels["spice"] == {"wb97m-d3bj/def2-tzvppd"}
    assert levels["qm7x"] == {"pbe0-mbd/fhi-aims-tight"}
    assert levels["ani1"] == levels["ani2x"] == levels["aimnet2"] == levels["mlip"] == {None}


def test_groups_are_molecules_and_reactions(tmp_path):
    groups = {name: read_all(written(tmp_path / f"{name}.h5", name), level=None)[0].provenance.group for name in WRITERS if name != "ani1x"}
    assert groups == {"ani1": "gdb11_s01-0", "comp6": "mol00", "ani2x": None, "spice": "water", "transition1x": "rxn0007", "qm7x": "12",
                      "aimnet2": None, "modelforge": "dsgdb9nsd_000003", "mlip": None}  # fmt: skip


def test_charge_multiplicity_and_charges_of_aimnet2_and_charge_of_spice(tmp_path):
    cation = read_all(written(tmp_path / "a.h5", "aimnet2"))[0]
    assert (cation.total_charge, cation.spin_multiplicity) == (1, 2)
    assert cation.labels["spin_charges"].sum() == pytest.approx(1)
    water = read_all(written(tmp_path / "s.h5", "spice"))[0]
    assert (water.total_charge, water.spin_multiplicity) == (0, None)
    assert water.labels["dipole"].tolist() == pytest.approx([BOHR] * 3)


def test_conformers_of_high_energy_are_read_when_asked_for(tmp_path):
    report = ReadReport()
    path = written(tmp_path / "a.h5", "ani1")
    assert len(list(read(path, report=report))) == 8
    assert any("high_energy=True" in note for note in report.notes)
    assert len(list(read(path, high_energy=True))) == 9


def test_spice_inputs_have_their_elements_and_charge_in_the_smiles(tmp_path):
    path = tmp_path / "inputs.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("salt")
        group["conformations"] = np.array([[[0.0, 0, 0], [0.3, 0, 0], [0.4, 0, 0]]])
        group["conformations"].attrs["units"] = "nanometers"
        group.create_dataset("smiles", data=["[O-:2][H:3].[Na+:1]"], dtype=TEXT)
    (salt,) = read_all(path)
    assert salt.atomic_numbers.tolist() == [11, 8, 1]
    assert salt.positions[1].tolist() == [3.0, 0.0, 0.0]
    assert salt.total_charge == 0


def test_mapped_smiles():
    assert mapped_smiles.elements("[H:3][C:1]#[C:2][H:4].[Na+:5]").tolist() == [6, 6, 1, 1, 11]
    assert mapped_smiles.elements("[c:1]1[n:2][s:3]1").tolist() == [6, 7, 16]
    assert [mapped_smiles.total_charge(text) for text in ("[N+:9]", "[Ca+2]", "[O--].[Na+]", "CCO", "[C@@:18]([H:4])[O-:5]")] == [
        1,
        2,
        -1,
        0,
        -1,
    ]
    with pytest.raises(InvalidStructureError, match=r"'\[nH:1\]' of the SMILES has no number of its own or hides hydrogens"):
        mapped_smiles.elements("[nH:1]")
    with pytest.raises(InvalidStructureError, match="not numbered 1 to N"):
        mapped_smiles.elements("C[O:1]")


def test_truncated_foreign_and_empty_files(tmp_path):
    whole = written(tmp_path / "whole.h5", "spice", 50).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFileError, match=r"cut\.h5: cannot be opened as HDF5: .*truncated"):
        list(read(tmp_path / "cut.h5"))
    (tmp_path / "text.h5").write_text("3\nwater\n")
    with pytest.raises(UnreadableFileError, match=r"text\.h5: cannot be opened as HDF5"):
        list(read(tmp_path / "text.h5"))
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(UnreadableFileError, match="holds no frame"):
        list(read(tmp_path / "empty.h5"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["particles/position"] = np.zeros((2, 3))
    with pytest.raises(UnreadableFileError, match=r"other\.h5: /particles: no known layout has the data sets position; known: .*SPICE: "):
        list(read(tmp_path / "other.h5"))


def test_damage_inside_names_the_data_set_after_the_good_frames(tmp_path):
    path = tmp_path / "damaged.h5"
    with h5py.File(path, "w") as file:
        spice(file, 8)
        x, e, _ = springs(400)
        group = file.create_group("z")
        for name, value in {"dft_total_energy": e, "conformations": x}.items():
            group.create_dataset(name, data=value, chunks=(100, *value.shape[1:]), compression="gzip", fletcher32=True)
        group["atomic_numbers"] = Z
        offset = group["conformations"].id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 20 : offset + 40] = bytes(20)
    path.write_bytes(data)
    frames = read(path)
    assert [isinstance(next(frames), Structure) for _ in range(8)] == [True] * 8
    with pytest.raises(UnreadableFileError, match=r"damaged\.h5: /z/conformations: the data set is damaged"):
        list(frames)


def test_data_in_other_files_are_refused(tmp_path):
    written(tmp_path / "secret.h5", "ani2x")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["003"] = h5py.ExternalLink("secret.h5", "/003")
    with pytest.raises(RefusedFileError, match=r"link\.h5: /: '003' links to another file"):
        list(read(tmp_path / "link.h5"))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        group = file.create_group("a")
        group.create_dataset("coordinates", (4, 3, 3), "f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(RefusedFileError, match=r"raw\.h5: /a/coordinates: the data lie in another file"):
        list(read(tmp_path / "raw.h5"))


def test_a_molecule_whose_arrays_do_not_fit_is_refused_conformation_by_conformation(tmp_path):
    path = written(tmp_path / "a.h5", "ani2x", 3)
    with h5py.File(path, "a") as file:
        put(
            file.create_group("004"),
            coordinates=np.zeros((2, 4, 3)),
            energies=np.zeros(5),
            forces=np.zeros((2, 4, 3)),
            species=np.ones((2, 4), int),
        )
    items = list(read(path))
    assert [isinstance(item, Structure) for item in items] == [True] * 3 + [False] * 2
    assert [item.index for item in items if isinstance(item, Refusal)] == [3, 4]
    assert "'energies' has shape [5], 2 conformations were expected" in str(items[-1].error)


def _write(path: Path, n: int) -> None:
    written(path, "ani2x", n)


def _write_damaged(path: Path) -> tuple[int, tuple[int, ...]]:
    written(path, "ani2x", 9)
    with h5py.File(path, "a") as file:
        file["003/coordinates"][2, 0, 0] = np.nan
        file["003/energies"][5] = np.inf
        file["003/species"][6, 0] = 200
        file["003/coordinates"][8, 1] = file["003/coordinates"][8, 2]
    return 9, (2, 5, 6, 8)


def _write_unknown(path: Path) -> str:
    written(path, "ani2x", 2)
    with h5py.File(path, "a") as file:
        file["003/hirshfeld"] = np.zeros((2, 3))
    return "hirshfeld"


class TestHdf5Reader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(Hdf5Reader(), read, _write, _write_damaged, _write_unknown, ReadReport)
