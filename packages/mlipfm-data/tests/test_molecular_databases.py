"""nablaDFT databases, recomputed Transition1x paths, GMTKN55 folders and the QM9 table. Hamiltonian databases are written here with sqlite3 in the
published layout only; the others are also read from real files in `test_molecule_sets`.
"""

import gzip
import json
import pickle
import shutil
import sqlite3
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from mlipfm_data.readers.gems import GemsReader
from mlipfm_data.readers.gmtkn55 import Gmtkn55Reader
from mlipfm_data.readers.nabladft import ATOMS, NablaDftReader, read_only, unpacked
from mlipfm_data.readers.registry import find_reader, read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_data.readers.tables import Qm9CsvReader
from mlipfm_data.readers.transition1x_json import Transition1xJsonReader
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import BOHR, HARTREE

Z = [8, 1, 1]
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
BINDING = -0.36  # Hartree


def place(k: int) -> np.ndarray:
    return WATER + 0.001 * k


# nablaDFT


def nabladft(path: Path, n: int = 4, smiles: str = "O") -> Path:
    """An energy database as schnetpack and ASE write it (the bytes of `data` are ASE's)."""
    path.unlink(missing_ok=True)
    with ase.db.connect(str(path), use_lock_file=False) as database:
        for k in range(n):
            pairs = {"moses_id": k // 2, "conformation_id": k, "smiles": smiles}
            database.write(Atoms(Z, place(k)), data={"energy": np.array([BINDING]), "forces": np.full((3, 3), 0.01)}, key_value_pairs=pairs)
    return path


def change(path: Path, statement: str, *values) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_a_row_without_its_smiles_is_refused_in_words(tmp_path):
    path = nabladft(tmp_path / "a.db", 2)
    change(path, "update systems set key_value_pairs = ? where id = 2", json.dumps({"moses_id": 1}))
    good, refusal = read(path)
    assert not isinstance(good, Refusal)
    assert "frame 1 (row 2): the row has no 'smiles' among its key-value pairs" in str(refusal.error)


def test_nabladft_energies_are_total_ones_in_electronvolt(tmp_path):
    report = ReadReport()
    structures = list(read(nabladft(tmp_path / "a.db"), report=report))
    total = BINDING + ATOMS[8] + 2 * ATOMS[1]
    assert [float(s.labels["energy"]) for s in structures] == pytest.approx([total * HARTREE] * 4)
    assert structures[0].labels["forces"][0, 0] == pytest.approx(0.01 * HARTREE)
    assert [s.provenance.group for s in structures] == ["moses-0", "moses-0", "moses-1", "moses-1"]
    assert {(s.level, s.total_charge) for s in structures} == {("wb97x-d/def2-svp", 0)}
    assert report.notes["energies of the atoms added: energies are total ones"] == 4
    stored = read_all(tmp_path / "a.db", total=False)
    assert float(stored[0].labels["energy"]) == pytest.approx(BINDING * HARTREE)


def test_only_nabladft_databases_are_taken_from_the_readers_of_ase_databases(tmp_path):
    assert isinstance(find_reader(nabladft(tmp_path / "a.db")), NablaDftReader)
    with ase.db.connect(str(tmp_path / "b.db"), use_lock_file=False) as database:
        database.write(Atoms(Z, WATER), key_value_pairs={"name": "water"})
    assert not isinstance(find_reader(tmp_path / "b.db"), NablaDftReader)
    with pytest.raises(UnreadableFileError, match=r"b\.db: no nablaDFT database"):
        list(read(tmp_path / "b.db", NablaDftReader()))


def test_bytes_that_are_a_pickle_or_damaged_are_refused_row_by_row(tmp_path):
    path = nabladft(tmp_path / "a.db")
    change(path, "update systems set data = ? where id = 2", pickle.dumps({"energy": 1}))
    change(path, "update systems set data = substr(data, 1, 40) where id = 3")
    items = list(read(path))
    assert [isinstance(item, Refusal) for item in items] == [False, True, True, False]
    assert "frame 1 (row 2): the bytes of the row are damaged" in str(items[1].error)
    with pytest.raises(InvalidStructureError, match="an array of object"):
        unpacked((8).to_bytes(8, "little") + b'{"a":{"__ndarray__":[[1],"object",0]}}')


def test_truncated_database_is_refused(tmp_path):
    path = nabladft(tmp_path / "a.db", 300)
    (tmp_path / "cut.db").write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UnreadableFileError, match=r"cut\.db: .*database"):
        list(read(tmp_path / "cut.db", NablaDftReader()))


def test_hamiltonian_database_in_atomic_units(tmp_path):
    path = tmp_path / "hamiltonians.db"
    connection = sqlite3.connect(path)
    connection.execute("create table dataset_ids (id integer primary key, MOSES_ID int, CONFORMER_ID int)")
    connection.execute("create table data (id integer primary key, Z blob, R blob, E float, F blob, H blob, S blob, C blob)")
    connection.execute("create table metadata (id integer primary key, N integer)")  # as nablaDFT's HamiltonianDatabase writes it
    connection.execute("insert into metadata values (0, 3)")
    for k in range(3):
        connection.execute("insert into dataset_ids values (?, 77, ?)", (k, k))
        blobs = [np.array(value, kind).tobytes() for value, kind in ((Z, "<i4"), (place(k) / BOHR, "<f4"), (np.full((3, 3), 0.01), "<f4"))]
        connection.execute("insert into data values (?, ?, ?, ?, ?, ?, ?, ?)", (k, *blobs[:2], -76.4, blobs[2], b"", b"", b""))
    connection.commit()
    connection.close()
    assert isinstance(find_reader(path), NablaDftReader)
    structures = read_all(path)
    assert np.allclose(structures[2].positions, place(2), atol=1e-6)
    assert float(structures[0].labels["energy"]) == pytest.approx(-76.4 * HARTREE)
    assert structures[0].labels["forces"][0, 0] == pytest.approx(0.01 * HARTREE / BOHR)
    assert structures[0].provenance.group == "moses-77"


# Transition1x, recomputed


def entry(k: int, **more) -> dict:
    values = {"config_index": k, "rxn": "rxn0001", "positions": place(k).tolist(), "atomic_numbers": Z, "ccsd.energy": -2070.0 + k,
              "wB97x.energy": -2078.0 + k, "success": True}  # fmt: skip
    return values | more


def test_failed_calculations_are_refused_and_their_other_level_is_kept(tmp_path):
    failed = entry(1, success=False, error="not converged") | {"ccsd.energy": None}
    path = tmp_path / "path.json"
    path.write_text(json.dumps([entry(0), failed, entry(2)]))
    assert isinstance(find_reader(path), Transition1xJsonReader)
    items = list(read(path))
    assert [item.level for item in items if isinstance(item, Structure)] == ["wb97x/6-31g(d)", "ccsd/cc-pvtz", "wb97x/6-31g(d)",
                                                                            "wb97x/6-31g(d)", "ccsd/cc-pvtz"]  # fmt: skip
    (refusal,) = [item for item in items if isinstance(item, Refusal)]
    assert refusal.index == 3
    assert "frame 3 (entry 1 at ccsd/cc-pvtz): the CCSD calculation failed: not converged" in str(refusal.error)
    assert len({item.key for item in items[:2]}) == 1
    assert len(list(read(path, level="wB97X/6-31G(d)"))) == 3


def test_cut_json_keeps_the_entries_before(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([entry(k) for k in range(4)])[:-30])
    frames = read(path, Transition1xJsonReader())
    assert sum(isinstance(next(frames), Structure) for _ in range(6)) == 6
    with pytest.raises(UnreadableFileError, match=r"cut\.json: character \d+"):
        list(frames)


# GMTKN55


def species(folder: Path, text: str | None = None, charge: int = 0, unpaired: int = 0) -> None:
    folder.mkdir(parents=True)
    (folder / "struc.xyz").write_text(text or "3\n\n" + "".join(f"{s} {x} {y} {z}\n" for s, (x, y, z) in zip("OHH", WATER, strict=True)))
    if charge:
        (folder / ".CHRG").write_text(f"{charge}\n")
    if unpaired:
        (folder / ".UHF").write_text(f"{unpaired}\n")


def test_charge_and_unpaired_electrons_lie_beside_the_geometry(tmp_path):
    species(tmp_path / "W4-11" / "water")
    species(tmp_path / "G21IP" / "water+", charge=1, unpaired=1)
    species(tmp_path / "W4-11" / "oxygen", "1\n\nO 0 0 0\n", unpaired=2)
    assert isinstance(find_reader(tmp_path), Gmtkn55Reader)
    states = [(s.provenance.group, s.formula, s.total_charge, s.spin_multiplicity) for s in read_all(tmp_path)]
    assert states == [("G21IP", "H2O", 1, 2), ("W4-11", "O", 0, 3), ("W4-11", "H2O", 0, 1)]


# QM9


def table(path: Path, rows: list[str], columns: str = "Index,Elements,XYZ_Ang,Mulliken_pop,HOMO_au,ZPVE_au,InternalEnergy_0K_au") -> Path:
    text = "\n".join([columns, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def row(k: int, xyz: str | None = None, energy: str = "-76.4") -> str:
    return f'''{k},"['O','H','H']","{xyz or place(k).tolist()}","[-0.5,0.25,0.25]",-0.29,0.02,{energy}'''


def test_qm9_energy_is_without_the_zero_point_energy(tmp_path):
    path = table(tmp_path / "qm9.csv.gz", [row(k) for k in range(3)] + [row(3, "[[0.,0,0.1],[0,.8,0],[0,-8.E-1,0]]")])
    assert isinstance(find_reader(path), Qm9CsvReader)
    structures = read_all(path)
    assert float(structures[0].labels["energy"]) == pytest.approx((-76.4 - 0.02) * HARTREE)
    assert float(structures[0].labels["homo"]) == pytest.approx(-0.29 * HARTREE)
    assert structures[3].positions[2].tolist() == [0.0, -0.8, 0.0]
    assert {s.level for s in structures} == {"b3lyp/6-31g(2df,p)"}


def test_foreign_and_cut_tables_are_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"no table of QM9: it has not the columns Elements, Index"):
        list(read(table(tmp_path / "a.csv", ["1,2"], "smiles,y"), Qm9CsvReader()))
    whole = table(tmp_path / "b.csv", [row(k) for k in range(3)]).read_text()
    (tmp_path / "cut.csv").write_text(whole[:-60])
    with pytest.raises(UnreadableFileError, match=r"cut\.csv: "):
        list(read(tmp_path / "cut.csv", Qm9CsvReader()))
    packed = table(tmp_path / "c.csv.gz", [row(k) for k in range(300)]).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UnreadableFileError, match=r"cut\.csv\.gz: frame \d+: cannot be read: EOFError"):
        list(read(tmp_path / "cut.csv.gz", Qm9CsvReader()))


# Contracts


def _damaged_nabladft(path: Path) -> tuple[int, tuple[int, ...]]:
    nabladft(path, 5)
    change(path, "update systems set positions = x'0011' where id = 2")
    change(path, "update systems set data = null where id = 4")
    return 5, (1, 3)


def _write_json(path: Path, n: int) -> None:
    path.write_text(json.dumps([{**entry(k), "wB97x.energy": None} for k in range(n)]))


def _damaged_json(path: Path) -> tuple[int, tuple[int, ...]]:
    good = [{**entry(k), "wB97x.energy": None} for k in range(6)]
    good[1]["positions"] = [[0, 0]]
    good[3] |= {"success": False, "error": "killed"}
    good[4]["atomic_numbers"] = [8, 1]
    path.write_text(json.dumps(good))
    return 6, (1, 3, 4)


def _write_gmtkn55(path: Path, n: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    for k in range(n):
        species(path / f"{k:04d}")


def _damaged_gmtkn55(path: Path) -> tuple[int, tuple[int, ...]]:
    _write_gmtkn55(path, 5)
    (path / "0001" / "struc.xyz").write_text("3\n\nO 0 0 0\n")
    (path / "0002" / ".UHF").write_text("1\n")
    (path / "0004" / ".CHRG").write_text("plus\n")
    return 5, (1, 2, 4)


def _damaged_table(path: Path) -> tuple[int, tuple[int, ...]]:
    table(path, [row(0), row(1, "[[0,0,0]]"), row(2, energy="nan"), row(3)])
    return 4, (1, 2)


def _unknown_nabladft(path: Path) -> str:
    nabladft(path, 2)
    change(path, """update systems set key_value_pairs = replace(key_value_pairs, '{', '{"entropy": 0.5, ')""")
    return "entropy"


def _unknown_json(path: Path) -> str:
    path.write_text(json.dumps([entry(k, entropy=0.5) for k in range(2)]))
    return "entropy"


def _unknown_table(path: Path) -> str:
    table(path, [f"{row(0)},1.5"], "Index,Elements,XYZ_Ang,Mulliken_pop,HOMO_au,ZPVE_au,InternalEnergy_0K_au,Dipole_debye")
    return "Dipole_debye"


class TestNablaDftReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(
            NablaDftReader(), read, lambda path, n: nabladft(path, n) and None, _damaged_nabladft, _unknown_nabladft, ReadReport
        )


class TestTransition1xJsonReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(Transition1xJsonReader(), read, _write_json, _damaged_json, _unknown_json, ReadReport)


class TestGmtkn55Reader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(Gmtkn55Reader(), read, _write_gmtkn55, _damaged_gmtkn55)


class TestQm9CsvReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(
            Qm9CsvReader(),
            read,
            lambda path, n: table(path, [row(k) for k in range(n)]) and None,
            _damaged_table,
            _unknown_table,
            ReadReport,
        )


# GEMS


def gems(path: Path, n: int = 4) -> Path:
    """A database as openQDC reads those of GEMS: `metadata` counts the rows, `data` holds bytes of int32 and float32."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("create table metadata (id integer primary key, n integer)")
    connection.execute("insert into metadata values (1, ?)", (n,))
    connection.execute("create table data (id integer primary key, Q real, S real, Z blob, R blob, E real, F blob, D blob)")
    for k in range(n):
        arrays = (np.array(Z, "<i4"), place(k).astype("<f4"), np.full((3, 3), 0.5, "<f4"), np.array([[0.0, 0.25, -0.5]], "<f4"))
        z, r, f, d = (array.tobytes() for array in arrays)
        charge, unpaired = ((0.0, 0.0), (1.0, 1.0), (None, None), (-1.0, 1.0))[k % 4]
        connection.execute("insert into data values (?, ?, ?, ?, ?, ?, ?, ?)", (k, charge, unpaired, z, r, -2000.0 - k, f, d))
    connection.commit()
    connection.close()
    return path


def test_gems_rows_are_molecules_with_charge_and_multiplicity(tmp_path):
    found = list(read(gems(tmp_path / "crambin.db"), level="pbe0-mbd/def2-tzvpp"))
    assert isinstance(find_reader(tmp_path / "crambin.db"), GemsReader)
    assert [(s.total_charge, s.spin_multiplicity) for s in found] == [(0, 1), (1, 2), (None, None), (-1, 2)]
    for k, s in enumerate(found):
        assert s.formula == "H2O"
        assert not s.pbc.any()
        assert s.level == "pbe0-mbd/def2-tzvpp"
        assert np.allclose(s.positions, place(k), atol=1e-6)  # Å in float32
        assert s.labels["energy"] == -2000.0 - k
        assert np.array_equal(s.labels["forces"], np.full((3, 3), 0.5))
        assert np.array_equal(s.labels["dipole"], [0, 0.25, -0.5])


def test_gems_rows_that_do_not_fit_are_refused_and_other_databases_are_not_taken(tmp_path):
    gems(tmp_path / "a.db")
    change(tmp_path / "a.db", "update data set F = ? where id = 1", b"\0" * 20)
    change(tmp_path / "a.db", "update data set R = null where id = 2")
    good, wrong, absent, last = read(tmp_path / "a.db")
    assert "5 numbers of forces, 9 are needed" in str(wrong.error)
    assert "the frame is damaged" in str(absent.error)
    assert isinstance(good, Structure)
    assert isinstance(last, Structure)
    with pytest.raises(UnreadableFileError, match="no GEMS database"):
        list(read(nabladft(tmp_path / "b.db"), "gems"))
    assert isinstance(find_reader(tmp_path / "b.db"), NablaDftReader)
    whole = gems(tmp_path / "c.db", 400).read_bytes()
    (tmp_path / "c.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFileError, match="cannot be read: DatabaseError"):
        list(read(tmp_path / "c.db", "gems"))


def test_a_database_of_as_many_columns_in_another_order_is_not_that_of_gems(tmp_path):
    gems(tmp_path / "empty.db", 0)
    change(gems(tmp_path / "charges.db"), "update data set Z = 1.0 where id = 0")
    change(gems(tmp_path / "text.db"), "update data set E = 'low' where id = 0")
    change(gems(tmp_path / "forces only.db"), "update data set E = null")
    change(gems(tmp_path / "matrix.db"), "alter table data rename column D to H")
    names = ("empty", "charges", "text", "forces only", "matrix")
    assert [GemsReader().recognises(tmp_path / f"{name}.db") for name in names] == [True, False, False, True, False]


@pytest.mark.parametrize("write", [gems, nabladft])
def test_reading_leaves_nothing_beside_a_database_and_reads_what_waits_beside_it(tmp_path, write):
    """A write-ahead log: closed, it is one file, and a plain read-only connection would add two."""
    path = write(tmp_path / "a.db", 2)
    change(path, "pragma journal_mode = wal")
    assert len(read_all(path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    table = "data" if write is gems else "systems"
    writer = sqlite3.connect(path)
    writer.execute(f"delete from {table} where id = (select max(id) from {table})")
    writer.commit()
    assert (tmp_path / "a.db-wal").stat().st_size
    assert len(read_all(path)) == 1
    writer.close()


def test_the_schema_of_a_database_is_not_trusted(tmp_path):
    with read_only(gems(tmp_path / "a.db")) as database:
        assert database.execute("pragma trusted_schema").fetchone() == (0,)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(UnreadableFileError, match="no such file"), read_only(tmp_path / "folder.db"):
        pass


def _damaged_gems(path: Path) -> tuple[int, tuple[int, ...]]:
    gems(path, 4)
    change(path, "update data set Z = ? where id = 2", b"123")
    return 4, (2,)


class TestGemsReader(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(GemsReader(), read, lambda path, n: gems(path, n) and None, _damaged_gems)
