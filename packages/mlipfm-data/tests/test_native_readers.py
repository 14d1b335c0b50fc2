"""Readers of native formats on files written here, by the contract and by what the formats mean."""

import gzip
import json
import sqlite3
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from mlipfm_data.readers.ase_db import AseDbReader
from mlipfm_data.readers.cp2k import Cp2kReader
from mlipfm_data.readers.json import JsonReader
from mlipfm_data.readers.rdkit import CxsmilesReader, SdfReader
from mlipfm_data.readers.refdata import RefdataReader, reactions
from mlipfm_data.readers.registry import find_reader, read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_data.readers.tables import CifCsvReader, crystal
from mlipfm_data.readers.vasp import VaspXmlReader
from mlipfm_interfaces.errors import InvalidStructureError, RefusedFileError, UnitError, UnreadableFileError
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import BAR, BOHR, GPA, HARTREE, KCAL_MOL

WATER = np.array([[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]])
CELL = 4.0 * np.eye(3)
PBC = [True, True, True]


def moved(k: int) -> np.ndarray:
    return WATER + [0, 0, 0.001 * k]


def until_the_error(items) -> tuple[list, UnreadableFileError]:
    """What came before the file broke off, and the error."""
    seen = []
    try:
        for item in items:
            seen.append(item)
    except UnreadableFileError as error:
        return seen, error
    raise AssertionError("the file was read to its end")


# JSON


def pymatgen(positions: np.ndarray, **changes) -> dict:
    sites = [
        {"species": [{"element": name, "occu": 1}], "abc": list(p / 4), "xyz": list(p)} for name, p in zip("OHH", positions, strict=True)
    ]
    return {"@class": "Structure", "lattice": {"matrix": CELL.tolist(), "a": 4.0, "pbc": PBC}, "sites": sites} | changes


def snap(k: int, periodic: bool = True) -> dict:
    outputs = {"energy": -14.0 + k, "forces": (0.1 * WATER).tolist(), "virial_stress": [10, 20, 30, 1, 2, 3]}
    structure = pymatgen(moved(k))
    structure["lattice"]["pbc"] = [periodic] * 3
    return {"structure": structure, "outputs": outputs, "element": "O", "description": f"Snapshot {k} of 40 of AIMD at 300 K"}


def write_json(path: Path, n: int) -> None:
    path.write_text(json.dumps([snap(k, periodic=n < 9) for k in range(n)], indent=1))  # neighbours without periodicity are found faster


def damaged_json(path: Path) -> tuple[int, tuple[int, ...]]:
    bad = {
        1: {"energy": 1.0},
        2: snap(2) | {"structure": {"sites": [{"species": []}]}},
        4: 17,
        5: snap(5) | {"structure": pymatgen(WATER * 0)},
    }
    path.write_text(json.dumps([bad.get(k, snap(k)) for k in range(7)]))
    return 7, (1, 2, 4, 5)


def unknown_json(path: Path) -> str:
    path.write_text(json.dumps([snap(0) | {"entropy": 0.5}]))
    return "entropy"


class TestJson(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(JsonReader(), read, write_json, damaged_json, unknown_json, ReadReport)


def test_stress_of_snap_files_is_kbar_and_in_the_order_of_vasp(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (s,) = read_all(tmp_path / "a.json")
    expected = -np.array([[10, 1, 3], [1, 20, 2], [3, 2, 30]]) * GPA / 10
    assert np.allclose(s.labels["stress"], expected)
    assert s.provenance.group == "O AIMD at 300 K"
    (other,) = read_all(tmp_path / "a.json", stress_unit="GPa")
    assert np.allclose(other.labels["stress"], 10 * expected)  # what the user says counts more than the layout


def mptrj(k: int) -> dict:
    return {"structure": pymatgen(moved(k)), "uncorrected_total_energy": -14.0 + k, "corrected_total_energy": 99.0, "force": (0.1 * WATER).tolist(),
            "stress": (10 * np.eye(3)).tolist(), "magmom": [0.1, 0, 0], "bandgap": 1.5, "mp_id": "mp-1", "energy_per_atom": 33.0}  # fmt: skip


def test_mptrj_is_a_dictionary_of_dictionaries(tmp_path):
    with gzip.open(tmp_path / "MPtrj.json.gz", "wt") as stream:
        json.dump({"mp-1": {"mp-1-0-0": mptrj(0), "mp-1-0-1": mptrj(1)}, "mp-2": {"mp-2-0-0": mptrj(2) | {"mp_id": "mp-2"}}}, stream)
    structures = read_all(tmp_path / "MPtrj.json.gz")
    assert [float(s.labels["energy"]) for s in structures] == [-14, -13, -12]
    assert [s.provenance.group for s in structures] == ["mp-1", "mp-1", "mp-2"]
    assert float(structures[0].labels["band_gap"]) == 1.5
    assert structures[0].labels["stress"][0, 0] == pytest.approx(-GPA)
    assert structures[0].labels["magnetic_moments"].tolist() == [0.1, 0, 0]


def test_computed_entries_of_alexandria(tmp_path):
    entry = {"@class": "ComputedStructureEntry", "energy": -14.0, "composition": {"O": 1, "H": 2}, "correction": -5.0, "entry_id": "agm1",
             "structure": pymatgen(WATER), "data": {"stress": np.eye(3).tolist()}}  # fmt: skip
    for site, force in zip(entry["structure"]["sites"], 0.1 * WATER, strict=True):
        site["properties"] = {"forces": list(force), "magmom": 0.5}
    (tmp_path / "alex.json").write_text(json.dumps({"entries": [entry]}))
    (s,) = read_all(tmp_path / "alex.json")
    assert float(s.labels["energy"]) == -14.0
    assert set(s.labels) == {"energy", "forces", "magnetic_moments"}  # the stress has no stated unit
    (told,) = read_all(tmp_path / "alex.json", stress_key="data_stress", stress_unit="GPa", stress_sign=-1)
    assert told.labels["stress"][0, 0] == pytest.approx(-GPA)


def test_energies_of_alignn_are_per_atom_and_coordinates_fractional(tmp_path):
    atoms = {"lattice_mat": CELL.tolist(), "coords": (WATER / 4).tolist(), "elements": ["O", "H", "H"], "cartesian": False}
    (tmp_path / "id_prop.json").write_text(
        json.dumps([{"jid": "J1", "atoms": atoms, "total_energy": -5.0, "forces": WATER.tolist(), "stresses": [1]}])
    )
    (s,) = read_all(tmp_path / "id_prop.json")
    assert float(s.labels["energy"]) == -15.0
    assert np.allclose(s.positions, WATER)
    assert "stress" not in s.labels


def fitsnap(style: str, stress: float = 2000.0) -> str:
    data = {"AtomTypes": ["O", "H", "H"], "Energy": -14.0, "Forces": WATER.tolist(), "Positions": WATER.tolist(), "Lattice": CELL.tolist(),
            "Stress": (stress * np.eye(3)).tolist(), "NumAtoms": 3}  # fmt: skip
    return "# a comment line\n" + json.dumps({"Dataset": {"AtomTypeStyle": "chemicalsymbol", "EnergyStyle": "electronvolt", "StressStyle": style,
                                                          "Data": [data]}})  # fmt: skip


@pytest.mark.parametrize(("style", "unit"), [("bar", BAR), ("kB", GPA / 10), ("kbar", GPA / 10), ("GPa", GPA)])
def test_fitsnap_says_the_unit_of_its_stress(tmp_path, style, unit):
    (tmp_path / "a.json").write_text(fitsnap(style))
    (s,) = read_all(tmp_path / "a.json")
    assert s.labels["stress"][0, 0] == pytest.approx(-2000 * unit)


def test_stress_of_nine_zeros_was_not_computed(tmp_path):
    (tmp_path / "a.json").write_text(fitsnap("bar", stress=0.0))
    (s,) = read_all(tmp_path / "a.json")
    assert set(s.labels) == {"energy", "forces"}


def test_other_energy_units_of_fitsnap_are_refused_by_name(tmp_path):
    (tmp_path / "a.json").write_text(fitsnap("bar").replace("electronvolt", "kcalpermole"))
    (refusal,) = read(tmp_path / "a.json")
    assert isinstance(refusal.error, UnitError)
    assert "EnergyStyle 'kcalpermole'" in str(refusal.error)


def test_rows_of_a_table_and_of_an_ase_database(tmp_path):
    (tmp_path / "matbench.json").write_text(json.dumps({"index": [0], "columns": ["structure", "gap"], "data": [[pymatgen(WATER), 1.0]]}))
    (s,) = read_all(tmp_path / "matbench.json")
    assert s.formula == "H2O"
    with connect(tmp_path / "rows.json", use_lock_file=False) as database:
        for k in range(2):
            atoms = Atoms("OH2", moved(k), cell=CELL, pbc=True)
            atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + k, forces=WATER)
            database.write(atoms, data={"charge": 1})
    assert [(float(s.labels["energy"]), s.total_charge) for s in read_all(tmp_path / "rows.json")] == [(-14, 1), (-13, 1)]


def test_dimers_state_their_level_and_lie_along_their_forces(tmp_path):
    curve = {"distances": [0.7, 0.8], "energies": [-6.5, -6.7], "forces": [[[0, 2.0, 0], [0, -2.0, 0]]] * 2}
    (tmp_path / "d.json").write_text(json.dumps({"PBE": {"H-H": curve}, "r2SCAN": {"H-H": curve}}))
    structures = read_all(tmp_path / "d.json")
    assert [s.level for s in structures] == ["pbe", "pbe", "r2scan", "r2scan"]
    assert structures[1].positions.tolist() == [[0, 0, 0], [0, 0.8, 0]]


def test_disordered_sites_are_refused(tmp_path):
    structure = pymatgen(WATER)
    structure["sites"][0]["species"] = [{"element": "O", "occu": 0.5}, {"element": "S", "occu": 0.5}]
    (tmp_path / "a.json").write_text(json.dumps([structure]))
    (refusal,) = read(tmp_path / "a.json")
    assert "disordered" in str(refusal.error)


@pytest.mark.parametrize("cut", [10, 500, 2500, -1])
def test_cut_json_names_the_place_and_keeps_what_was_whole(tmp_path, cut):
    path = tmp_path / "a.json"
    write_json(path, 4)
    path.write_text(path.read_text()[:cut])
    seen, error = until_the_error(read(path, JsonReader()))
    assert "character" in str(error)
    assert len(seen) == {10: 0, 500: 0, 2500: 1, -1: 4}[cut]


def test_json_nested_without_end_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ' * 3 + "[" * 100_000)
    with pytest.raises(UnreadableFileError, match="nested too deep|no JSON|too early"):
        list(read(tmp_path / "a.json", JsonReader()))


@pytest.mark.ci
def test_memory_of_a_large_json_is_that_of_its_largest_entry(tmp_path):
    write_json(tmp_path / "large.json", 1000)
    size = (tmp_path / "large.json").stat().st_size
    tracemalloc.start()
    count = sum(1 for _ in read(tmp_path / "large.json", JsonReader()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000
    assert peak < size / 4


# ASE databases


def write_db(path: Path, n: int) -> None:
    with connect(path, use_lock_file=False) as database:
        for k in range(n):
            atoms = Atoms("OH2", moved(k), cell=CELL, pbc=n < 9)
            atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + k, forces=WATER, stress=np.arange(6) / 10)
            database.write(atoms, name=f"f{k}", data={"charge": 0, "q": np.array([0.5, -0.25, -0.25])})


def damaged_db(path: Path) -> tuple[int, tuple[int, ...]]:
    write_db(path, 5)
    with sqlite3.connect(path) as database:
        database.execute("update systems set positions = x'00' where id = 2")
        database.execute("update systems set data = x'ff00000000000000' where id = 4")
    database.close()
    return 5, (1, 3)


def unknown_db(path: Path) -> str:
    write_db(path, 1)
    return "q"


@pytest.mark.ci  # its files are slow to write
class TestAseDb(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(AseDbReader(), read, write_db, damaged_db, unknown_db, ReadReport)


def test_units_that_schnetpack_states_are_taken_and_told(tmp_path):
    path = tmp_path / "s.db"
    with connect(path, use_lock_file=False) as database:
        database.metadata = {"_property_unit_dict": {"energy": "Hartree", "forces": "Ha/Bohr"}, "_distance_unit": "Bohr"}
        database.write(
            Atoms("OH2", WATER / BOHR), data={"energy": np.array([-1.0]), "forces": np.ones((3, 3)), "total_charge": np.array([0.0])}
        )
    report = ReadReport()
    (s,) = read(path, reader="ase-db", report=report)
    assert float(s.labels["energy"]) == pytest.approx(-HARTREE)
    assert s.labels["forces"][0, 0] == pytest.approx(HARTREE / BOHR)
    assert np.allclose(s.positions, WATER)
    assert any("energy Hartree" in line and "(given in the file)" in line for line in report.lines())
    (told,) = read(path, reader="ase-db", energy_unit="eV")
    assert float(told.labels["energy"]) == -1.0


# VASP


def vasprun(n: int, bad: tuple[int, ...] = ()) -> str:
    atoms = "".join(f"<rc><c>{name}</c><c>1</c></rc>" for name in "OHH")
    rows = lambda values: "".join(f"<v>{' '.join(map(str, row))}</v>" for row in values)  # noqa: E731
    steps = "".join(
        "<calculation><scstep><energy><i name='e_fr_energy'>-1</i><i name='e_0_energy'>-1</i></energy></scstep>"
        f"<scstep><energy><i name='e_fr_energy'>{-14.0 + k}</i><i name='e_0_energy'>{-13.5 + k}</i></energy></scstep>"
        f"<structure><crystal><varray name='basis'>{rows(CELL)}</varray></crystal>"
        f"<varray name='positions'>{rows(moved(k) / 4) if k not in bad else '<v>0 0 x</v>'}</varray></structure>"
        f"<varray name='forces'>{rows(WATER)}</varray><varray name='stress'>{rows(10 * np.eye(3))}</varray>"
        f"<energy><i name='e_fr_energy'>{-14.0 + k}</i><i name='e_0_energy'>77</i></energy></calculation>"
        for k in range(n)
    )
    return f"<?xml version='1.0'?><modeling><atominfo><array name='atoms'><set>{atoms}</set></array></atominfo>{steps}</modeling>"


def test_a_vasprun_without_its_settings_says_once_that_convergence_is_not_known(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun(3))
    report = ReadReport()
    assert len(read_all(tmp_path / "vasprun.xml", report=report)) == 3
    assert [line for line in report.lines() if "converged is not known" in line] == [
        "warning: whether the electrons converged is not known: the file gives no NELM or no EDIFF (3 frames)"
    ]


def test_energies_under_pstress_are_energies_and_not_enthalpies_as_ase_has_them(tmp_path):
    file = Path(ase.__file__).parent / "test" / "testdata" / "vasp" / "vasprun_pstress.xml"
    report = ReadReport()
    (s,) = read_all(file, report=report)[-1:]
    theirs = ase.io.read(file)
    assert float(s.labels["energy"]) == pytest.approx(theirs.get_potential_energy(), abs=1e-8)
    assert any("PSTRESS = 1 kbar: pressure times volume was taken off" in line for line in report.lines())
    (tmp_path / "vasprun.xml").write_text(vasprun(1).replace("<modeling>", "<modeling><incar><i name='PSTRESS'>500</i></incar>"))
    (squeezed,) = read_all(tmp_path / "vasprun.xml")
    assert float(squeezed.labels["energy"]) == pytest.approx(-13.5 - 50 / 160.21766208 * abs(np.linalg.det(CELL)), abs=1e-6)  # 50 GPa


@pytest.mark.ci  # periodic cells under the eye of a memory tracer
class TestVaspXml(ReaderContract):
    def reader_case(self) -> ReaderCase:
        def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
            path.write_text(vasprun(4, bad=(1, 2)))
            return 4, (1, 2)

        def unknown(path: Path) -> str:
            path.write_text(vasprun(1).replace("</calculation>", "<varray name='born_charges'><v>1 0 0</v></varray></calculation>"))
            return "born_charges"

        return ReaderCase(VaspXmlReader(), read, lambda path, n: path.write_text(vasprun(n)) and None, damaged, unknown, ReadReport)


def test_energy_of_vasp_comes_from_the_last_electronic_step(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun(2))
    one, two = read_all(tmp_path / "vasprun.xml")
    assert (float(one.labels["energy"]), float(two.labels["energy"])) == (-13.5, -12.5)
    assert one.labels["stress"][0, 0] == pytest.approx(-GPA)


def test_cut_vasprun_keeps_the_steps_before(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun(3)[:-200])
    seen, error = until_the_error(read(tmp_path / "vasprun.xml", VaspXmlReader()))
    assert "breaks off" in str(error)
    assert len(seen) == 2


def test_entities_of_xml_are_refused(tmp_path):
    bomb = "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]>"
    (tmp_path / "vasprun.xml").write_text(vasprun(1).replace("<modeling>", bomb + "<modeling>"))
    with pytest.raises(RefusedFileError, match="entities"):
        list(read(tmp_path / "vasprun.xml", VaspXmlReader()))


def test_vasprun_in_archives_with_moments_from_the_outcar(tmp_path):
    outcar = "".join(f" magnetization (x)\n\n# of ion s tot\n----\n 1 0.1 {k}.5\n 2 0 0.1\n 3 0 0.2\n----\ntot 0 1\n" for k in range(2))
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.writestr("run/vasprun.xml", vasprun(2))
        archive.writestr("run/OUTCAR", outcar)
        archive.writestr("__MACOSX/run/._vasprun.xml", "junk")
    one, two = read_all(tmp_path / "run.zip")
    assert (one.labels["magnetic_moments"][0], two.labels["magnetic_moments"][0]) == (0.5, 1.5)
    assert one.provenance.group == "run/vasprun.xml"
    (tmp_path / "vasprun-1.xml").write_text(vasprun(1))
    with tarfile.open(tmp_path / "runs.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "vasprun-1.xml", "a/vasprun-1.xml")
    assert len(read_all(tmp_path / "runs.tar.xz")) == 1


# CP2K


def write_cp2k(path: Path, n: int, bad: tuple[int, ...] = ()) -> None:
    def text(values, k: int) -> str:
        names = "OHH" if k not in bad or values is not WATER else "OHC"
        lines = "".join(f" {name} {x[0]:.10f} {x[1]:.10f} {x[2]:.10f}\n" for name, x in zip(names, values, strict=True))
        return f"3\n i = {k}, time = {k}.000, E = {-17.0 + k:.6f}\n{lines}"

    path.write_text("".join(text(moved(k), k) for k in range(n)))
    path.with_name(path.name.replace("-pos-", "-frc-")).write_text("".join(text(WATER, k) for k in range(n)))
    path.with_name(path.name.replace("-pos-1.xyz", "-1.cell")).write_text(
        "# Step Time Ax\n" + "".join(f"{k} {k}.0 {' '.join(map(str, CELL.ravel() * (n < 9)))} 64.0\n" for k in range(n))
    )


def damaged_cp2k(path: Path) -> tuple[int, tuple[int, ...]]:
    write_cp2k(path, 4, bad=(2,))
    return 4, (2,)


def unknown_cp2k(path: Path) -> str:
    write_cp2k(path, 1)
    name = path.name.replace("-pos-", "-vel-")
    path.with_name(name).write_text("")
    return name


@pytest.mark.ci  # three files a case
class TestCp2k(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(Cp2kReader(), read, write_cp2k, damaged_cp2k, unknown_cp2k, ReadReport)


def test_cp2k_forces_are_in_hartree_per_bohr_and_the_cell_is_asked_for(tmp_path):
    path = tmp_path / "run-pos-1.xyz"
    write_cp2k(path, 2)
    s = read_all(path)[1]
    assert float(s.labels["energy"]) == pytest.approx(-16 * HARTREE)
    assert np.allclose(s.labels["forces"], WATER * HARTREE / BOHR)
    assert np.array_equal(s.cell, CELL)
    (tmp_path / "run-1.cell").unlink()
    with pytest.raises(UnreadableFileError, match="no file gives the cell"):
        read_all(path)
    assert read_all(path, cell="4 4 4")[0].pbc.all()
    assert not read_all(path, cell="none")[0].pbc.any()


# Molecules


def sdf(k: int, z: float = 0.1) -> str:
    atoms = "".join(f"{x[0]:10.4f}{x[1]:10.4f}{x[2]:10.4f} {name}   0  0\n" for name, x in zip("OHH", moved(k) + [0, 0, z], strict=True))
    return f"w{k}\n  made    3D\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n{atoms}  1  2  1  0\n  1  3  1  0\nM  END\n> <gap>\n{k}.5\n\n$$$$\n"


class TestSdf(ReaderContract):
    def reader_case(self) -> ReaderCase:
        def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
            path.write_text(sdf(0) + sdf(1).replace("  3  2  0", "  9  2  0") + sdf(2).replace("3D", "2D").replace("0.1", "0.0") + sdf(3))
            return 4, (1,)

        def unknown(path: Path) -> str:
            path.write_text(sdf(0))
            return "gap"

        return ReaderCase(
            SdfReader(), read, lambda path, n: path.write_text("".join(map(sdf, range(n)))) and None, damaged, unknown, ReadReport
        )


def test_charges_of_an_sdf_are_added_and_fields_are_read(tmp_path):
    charged = sdf(0).replace("M  END", "M  CHG  1   1   1\nM  END")
    (tmp_path / "a.sdf").write_text(sdf(0) + charged)
    neutral, cation = read_all(tmp_path / "a.sdf", keys={"band_gap": "gap"})
    assert (neutral.total_charge, cation.total_charge) == (0, 1)
    assert float(neutral.labels["band_gap"]) == 0.5
    assert neutral.spin_multiplicity is None


def smiles_row(k: int) -> str:
    places = ";".join(",".join(f"{x:.4f}" for x in row) for row in (moved(k) + [0, 0, 1])[[1, 0, 2]])
    return f'"[H]O[H] |({places})|",{k}.5\n'


class TestCxsmiles(ReaderContract):
    def reader_case(self) -> ReaderCase:
        def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
            path.write_text("smiles,gap\n" + smiles_row(0) + "CCO,1.0\n" + '"X?X |(0,0,0)|",1.0\n' + smiles_row(3))
            return 4, (1, 2)

        def unknown(path: Path) -> str:
            path.write_text("smiles,gap\n" + smiles_row(0))
            return "gap"

        def good(path: Path, n: int) -> None:
            path.write_text("smiles,gap\n" + "".join(map(smiles_row, range(n))))

        return ReaderCase(CxsmilesReader(), read, good, damaged, unknown, ReadReport)


def test_csv_tables_find_their_reader_by_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text("smiles,gap\n" + smiles_row(1))
    (tmp_path / "b.csv").write_text("material_id,cif\n" + cif_row(1))
    assert isinstance(find_reader(tmp_path / "a.csv"), CxsmilesReader)
    assert isinstance(find_reader(tmp_path / "b.csv"), CifCsvReader)
    assert np.allclose(read_all(tmp_path / "a.csv")[0].positions[1], moved(1)[0] + [0, 0, 1], atol=1e-4)


# CIF in CSV


def cif(k: int = 0, symmetry: str = "'x, y, z'") -> str:
    return f"""# made
data_NaCl
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   3.0
_cell_length_b   4.0
_cell_length_c   5.0
_cell_angle_alpha   80.0
_cell_angle_beta   95.0
_cell_angle_gamma   100.0(2)
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  {symmetry}
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na  Na0  0.0{k % 10}  0.0  0.0  1
  Cl1-  Cl1  0.5  0.5  0.5  1
"""


def cif_row(k: int, text: str | None = None) -> str:
    return f'm{k},"{text or cif(k)}"\n'


@pytest.mark.ci  # as above
class TestCifCsv(ReaderContract):
    def reader_case(self) -> ReaderCase:
        def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
            bad = [cif_row(1, cif(1, "'-x, -y, -z'")), cif_row(2, cif(2).replace("_cell_length_a", "_x")), cif_row(3, "")]
            path.write_text("material_id,cif\n" + cif_row(0) + "".join(bad[:2]) + "m3,\n" + cif_row(4))
            return 5, (1, 2, 3)

        def unknown(path: Path) -> str:
            path.write_text("material_id,cif,author\n" + cif_row(0).strip() + ",nobody\n")
            return "author"

        def good(path: Path, n: int) -> None:
            path.write_text("material_id,cif\n" + "".join(map(cif_row, range(n))))

        return ReaderCase(CifCsvReader(), read, good, damaged, unknown, ReadReport)


def test_cell_of_a_cif_has_its_lengths_and_angles():
    _, positions, cell = crystal(cif())
    lengths = np.linalg.norm(cell, axis=1)
    cosines = [cell[i] @ cell[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    assert np.allclose(lengths, [3, 4, 5])
    assert np.allclose(np.degrees(np.arccos(cosines)), [80, 95, 100])
    assert np.allclose(positions[1], cell.sum(axis=0) / 2)


def test_energies_per_atom_of_a_table_become_totals_and_gaps_band_gaps(tmp_path):
    (tmp_path / "a.csv").write_text(f'material_id,cif,energy_per_atom,dir_gap,ind_gap\nm1,"{cif()}",-3.5,2.0,1.5\n')
    (s,) = read_all(tmp_path / "a.csv")
    assert (float(s.labels["energy"]), float(s.labels["band_gap"])) == (-7.0, 1.5)


def test_symmetry_that_would_have_to_be_applied_is_refused():
    with pytest.raises(InvalidStructureError, match="symmetry beyond P1"):
        crystal(cif(symmetry="'-x, y, z'"))


# refdata


def write_din(path: Path, n: int, missing: tuple[int, ...] = ()) -> None:
    for k in range(n):
        lines = "".join(f"{name} {x[0]} {x[1]} {x[2]}\n" for name, x in zip("OHH", moved(k), strict=True))
        if k not in missing:
            (path.parent / f"w{k}.xyz").write_text(f"3\n0 1\n{lines}")
    path.write_text("# a comment\n" + "".join(f"-1\nw{k}\n0\n{k}.5 label_{k}\n" for k in range(n)))


class TestRefdata(ReaderContract):
    def reader_case(self) -> ReaderCase:
        def damaged(path: Path) -> tuple[int, tuple[int, ...]]:
            write_din(path, 5, missing=(1, 3))
            return 5, (1, 3)

        return ReaderCase(RefdataReader(), read, write_din, damaged)


def test_reactions_have_coefficients_and_energies_in_electronvolts(tmp_path):
    (tmp_path / "a.din").write_text("# c\n1\nAB\n-0.5\nA2\n-1\nB\n0\n-10.0 name of it\n1\nC\n0\n2.0\n")
    one, two = reactions(tmp_path / "a.din")
    assert one.species == ((1.0, "AB"), (-0.5, "A2"), (-1.0, "B"))
    assert one.energy == pytest.approx(-10 * KCAL_MOL)
    assert (one.name, two.name) == ("name of it", "+1 C")
    (tmp_path / "a.din").write_text("1\nAB\n-1\n")
    with pytest.raises(UnreadableFileError, match="ends inside a reaction"):
        list(reactions(tmp_path / "a.din"))
