"""Exports as extended XYZ, ASE database and DeePMD systems: read again they are equal, others read them, and what is left out is said."""

import json
import sqlite3
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import given, settings
from mlipfm_data.export.deepmd import SET_FRAMES, Plan, virial
from mlipfm_data.export.formats import FORMATS, export, format_of
from mlipfm_data.export.report import ExportReport
from mlipfm_data.readers.ase import from_ase, to_ase
from mlipfm_data.readers.deepmd import FRAMES_FILE, FRAMES_FORMAT, FRAMES_KIND
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.atomic import folder_in_place
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import FormatVersionError, UnreadableFileError, UnwritableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.structures import copper, rattled, structures, water

HELD = {"energy", "forces", "stress", "atomic_energies", "hessian_rows", "hessian_rows_index"}


def fields(s: Structure, labels: set[str] | None = None) -> dict[str, object]:
    """Everything of a structure as plain values, equal only if all bits are."""
    arrays = {name: getattr(s, name) for name in ("atomic_numbers", "positions", "cell", "pbc", "external_field")}
    arrays |= {f"label {key}": value for key, value in s.labels.items() if labels is None or key in labels}
    arrays |= {f"deviation {key}": value for key, value in s.label_std.items() if labels is None}
    plain = {key: None if value is None else (value.shape, np.asarray(value).tobytes()) for key, value in arrays.items()}
    return plain | {name: getattr(s, name) for name in ("total_charge", "spin_multiplicity", "level", "provenance")}


def crystal(seed: int, **labels: object) -> Structure:
    """Copper with every layout of label that there is, deviations, field and provenance."""
    s, rng = rattled(copper(), 0.05, seed), np.random.default_rng(seed)
    n = len(s)
    strain = rng.normal(size=(3, 3))
    every = {
        "energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": strain + strain.T, "atomic_energies": rng.normal(size=n),
        "dipole": rng.normal(size=3), "charges": rng.normal(size=n), "magnetic_moments": rng.normal(size=n),
        "polarizability": rng.normal(size=(3, 3)),
        "born_charges": rng.normal(size=(n, 3, 3)), "hessian_rows": rng.normal(size=(2, n, 3)), "hessian_rows_index": [[0, 0], [n - 1, 2]],
        "hvp": rng.normal(size=(3, n, 3)), "hvp_probe": rng.normal(size=(3, n, 3)),
    }  # fmt: skip
    std = {"energy": 0.1, "forces": rng.random((n, 3)), "hessian_rows": rng.random((2, n, 3)), "hvp": rng.random((3, n, 3))}
    return s.replace(
        total_charge=-1, spin_multiplicity=None, external_field=[0, 0, 0.1], level="pbe", labels=every | labels, label_std=std,
        provenance=Provenance('a "quoted" name', "12", 7, "langevin-600K", "CC-BY-4.0"),
    )  # fmt: skip


def molecule(k: int) -> Structure:
    labels = {"energy": -14.0 - k, "forces": np.full((3, 3), 0.1 * k)}
    return rattled(water(), 0.02, k).replace(labels=labels, level="wb97m-d3bj/def2-tzvppd", provenance=Provenance("w", f"run {k % 2}", k))


def mixed() -> list[Structure]:
    return [crystal(0), molecule(0), crystal(1), water(), molecule(1), rattled(copper(), 0.03, 5), molecule(2)]


def stored(path: Path, frames: list[Structure]) -> Path:
    with StoreWriter(path, name="set") as writer:
        for s in frames:
            writer.add(s)
    return path


def run(arguments: list[object], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


# Round trips


@pytest.mark.parametrize("name", ["out.xyz", "out.db"])
def test_every_bit_of_every_field_comes_back_in_order(tmp_path, name):
    frames = mixed()
    report = export(frames, tmp_path / name)
    assert (report.structures, report.left_out) == (len(frames), {})
    assert [fields(s) for s in read_all(tmp_path / name)] == [fields(s) for s in frames]


def test_deepmd_gives_back_every_bit_of_what_it_holds(tmp_path):
    frames = mixed()
    export(frames, tmp_path / "out.deepmd")
    back = {s.key: s for s in read_all(tmp_path / "out.deepmd")}
    assert len(back) == len(frames)
    held = HELD - {"stress", "hessian_rows", "hessian_rows_index"}
    for s in frames:
        again = fields(back[s.key])
        stress = again.pop("label stress", None)
        assert again == fields(s, held)
        assert (stress is None) == ("stress" not in s.labels)


def test_stress_through_the_virial_has_the_last_bit_only(tmp_path):
    frames = [crystal(k) for k in range(20)]
    export(frames, tmp_path / "out.deepmd")
    for s, again in zip(frames, read_all(tmp_path / "out.deepmd"), strict=True):
        assert np.allclose(again.labels["stress"], s.labels["stress"], rtol=5e-16, atol=0)


def test_whole_hessians_are_held_by_deepmd_and_parts_are_left_out(tmp_path):
    rng, n = np.random.default_rng(0), 3
    index = np.stack(np.divmod(np.arange(9), 3), axis=1)
    rows = rng.normal(size=(9, n, 3))
    whole = molecule(0).replace(labels={"energy": -1, "hessian_rows": rows, "hessian_rows_index": index})
    turned = molecule(1).replace(labels={"energy": -1, "hessian_rows": rows, "hessian_rows_index": index[::-1]})
    report = export([whole, turned], tmp_path / "out.deepmd")
    assert report.left_out == {"hessian_rows (only whole Hessians)": 1}
    first, second = sorted(read_all(tmp_path / "out.deepmd"), key=lambda s: len(s.labels), reverse=True)
    assert np.array_equal(first.labels["hessian_rows"], rows)
    assert set(second.labels) == {"energy"}


@settings(max_examples=25, deadline=None)
@given(s=structures())
def test_any_structure_comes_back_from_every_format(s, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    for name, suffix in (("extxyz", ".xyz"), ("ase-db", ".db"), ("deepmd", ".deepmd")):
        report = export([s], folder / f"out{suffix}", name)
        if not report.structures:
            assert s.pbc.any()
            assert not s.pbc.all()
            continue
        (again,) = read(folder / f"out{suffix}")
        if isinstance(again, Refusal):  # a generated geometry that no reader takes
            continue
        if report.left_out:
            assert list(report.left_out) == ["cell (of a structure that is not periodic)"]
            s = s.replace(cell=np.zeros((3, 3)))
        assert fields(again) == fields(s)


def test_ase_and_back_keeps_rows_of_hessians_and_their_deviations():
    """Their rows are as many as the atoms are, or not: the atoms come first in ASE's arrays."""
    assert fields(from_ase(to_ase(crystal(0)))) == fields(crystal(0))


# What others read


def test_plain_ase_finds_energy_forces_and_stress_in_its_own_sign_and_order(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * [0.95, 0.97, 0.99], scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    export([from_ase(atoms, level="emt").replace(total_charge=2)], tmp_path / "out.db")
    with ase.db.connect(tmp_path / "out.db") as database:
        row = database.get(level_of_theory="emt")
        again = row.toatoms()
        assert again.get_potential_energy() == energy
        assert np.array_equal(again.get_forces(), forces)
        assert np.allclose(again.get_stress(), stress, rtol=1e-14, atol=0)  # xx, yy, zz, yz, xz, xy
        assert np.trace(again.get_stress(voigt=False)) < 0  # compressed
        assert np.array_equal(again.positions, atoms.positions)
        assert (row.total_charge, row.natoms, row.fmax) == (2, 4, pytest.approx(np.linalg.norm(forces, axis=1).max()))
        assert row.data["mlipfm_provenance"] == {"source": "Atoms", "index": 0}
        assert [r.id for r in database.select("Cu=4,total_charge=2,charge=2")] == [1]


def test_plain_ase_reads_every_row_and_adds_its_own(tmp_path):
    frames = [crystal(0), water(), molecule(1)]
    export(frames, tmp_path / "out.db")
    with ase.db.connect(tmp_path / "out.db") as database:
        for s, row in zip(frames, database.select(sort="id"), strict=True):
            assert np.array_equal(row.toatoms().positions, s.positions)
            for key in {"charges": "charges", "magnetic_moments": "magmoms", "dipole": "dipole"}.items():
                assert key[0] not in s.labels or np.array_equal(row[key[1]], s.labels[key[0]])
            assert "hvp" not in s.labels or np.array_equal(row.data.REF_hvp.transpose(1, 0, 2), s.labels["hvp"])
        assert database.write(bulk("Ni"), tag="new") == 4
        assert database.count("Cu") == 1
        assert database.count(spin_multiplicity=1) == 0
    assert len(read_all(tmp_path / "out.db")) == 4


def test_stress_that_is_not_symmetric_is_kept_and_the_missing_column_is_said(tmp_path):
    skew = crystal(0, stress=np.arange(9.0).reshape(3, 3))
    report = export([skew], tmp_path / "out.db")
    assert "stress is not symmetric" in next(iter(report.beside))
    assert fields(read_all(tmp_path / "out.db")[0]) == fields(skew)
    with ase.db.connect(tmp_path / "out.db") as database:
        assert "stress" not in database.get(1)


def test_the_virial_of_a_spring_is_minus_the_derivative_by_strain(tmp_path):
    """Argon atoms on springs along x: E = k (a - 4)^2 / 2, virial_xx = -dE/dstrain_xx = -k a (a - 4): positive when it is compressed."""
    k, a = 3.0, 3.8
    stress = np.diag([k * a * (a - 4), 0, 0]) / (a * 5 * 6)
    s = Structure([18], [[0, 0, 0]], np.diag([a, 5, 6]), True, level="spring", labels={"energy": k * (a - 4) ** 2 / 2, "stress": stress})
    export([s], tmp_path / "out.deepmd")
    written = np.load(tmp_path / "out.deepmd/spring/Ar/set.000/virial.npy")
    assert written.shape == (1, 9)
    assert written[0] == pytest.approx([k * a * 0.2, 0, 0, 0, 0, 0, 0, 0, 0])
    assert np.array_equal(virial(s).reshape(-1), written[0])


def test_systems_have_the_layout_of_the_real_ones(tmp_path, shared_data):
    """The files, shapes and order of the water systems of DeePMD-kit, from our export of what was read from them."""
    real = shared_data("water_dpmd") / "data_0"
    frames = read_all(real, level="pbe0-ts")
    export(frames, tmp_path / "out.deepmd")
    (ours,) = (tmp_path / "out.deepmd").glob("*/*")
    assert sorted(set(_files(ours)) - {f"set.000/{FRAMES_FILE}"}) == sorted(_files(real))
    elements = [(folder / "type_map.raw").read_text().split() for folder in (real, ours)]
    types = [np.loadtxt(folder / "type.raw", dtype=int) for folder in (real, ours)]
    assert np.array_equal(*(np.array(names)[kinds] for names, kinds in zip(elements, types, strict=True)))
    for name in ("coord", "box", "energy", "force"):
        one, two = (np.load(folder / f"set.000/{name}.npy") for folder in (real, ours))
        assert one.shape == two.shape
        assert np.array_equal(one, two)  # float32 in the real ones, exactly kept
        assert two.dtype == np.float64


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_dpdata_reads_the_systems(tmp_path):
    dpdata = pytest.importorskip("dpdata", reason="dpdata is not installed")
    frames = [crystal(k) for k in range(3)]
    export([*frames, molecule(1)], tmp_path / "out.deepmd")
    system = dpdata.LabeledSystem(str(tmp_path / "out.deepmd/pbe/Cu4_charge-1"), fmt="deepmd/npy")
    assert np.array_equal(system["coords"], [s.positions for s in frames])
    assert np.array_equal(system["energies"], [s.labels["energy"] for s in frames])
    assert np.array_equal(system["forces"], [s.labels["forces"] for s in frames])
    assert np.allclose(-system["virials"], [s.labels["stress"] * abs(np.linalg.det(s.cell)) for s in frames])
    free = dpdata.LabeledSystem(str(tmp_path / "out.deepmd/wb97m-d3bj_def2-tzvppd/H2O"), fmt="deepmd/npy")
    assert free.nopbc


# Systems of DeePMD


def test_levels_states_orders_and_kinds_of_labels_are_never_in_one_system(tmp_path):
    s = molecule(0)
    turned = s.replace(atomic_numbers=s.atomic_numbers[::-1], positions=s.positions[::-1], labels={"energy": 0})
    frames = [
        s, molecule(1), turned, s.replace(level="pbe"), s.replace(total_charge=1, spin_multiplicity=2), s.replace(labels={"energy": 1.0}),
        s.replace(level=None, labels={}),
    ]  # fmt: skip
    report = export(frames, tmp_path / "out.deepmd")
    names = sorted(path.parent.relative_to(tmp_path / "out.deepmd").as_posix() for path in (tmp_path / "out.deepmd").rglob("type.raw"))
    assert names == [
        "no-level/H2O", "pbe/H2O", "wb97m-d3bj_def2-tzvppd/H2O", "wb97m-d3bj_def2-tzvppd/H2O-2", "wb97m-d3bj_def2-tzvppd/H2O-3",
        "wb97m-d3bj_def2-tzvppd/H2O_charge+1_mult2",
    ]  # fmt: skip
    assert report.systems == 6
    assert len(read_all(tmp_path / "out.deepmd/wb97m-d3bj_def2-tzvppd/H2O")) == 2


def test_names_that_some_file_systems_confuse_are_told_apart():
    """Carbon monoxide and cobalt, and levels that differ in signs no folder should have."""
    plan, report = Plan(), ExportReport()
    for s in (
        Structure([6, 8], [[0, 0, 0], [0, 0, 1.1]], level="a/b"),
        Structure([27], [[0, 0, 0]], level="a/b"),
        Structure([27], [[0, 0, 0]], level="a_b"),
    ):
        plan.add(s, report)
    assert [system.name for system in plan.systems] == ["a_b/CO", "a_b/Co-2", "a_b-2/Co"]


def test_large_systems_are_written_in_sets(tmp_path, monkeypatch):
    assert SET_FRAMES == 5000
    monkeypatch.setattr("mlipfm_data.export.deepmd.SET_FRAMES", 4)
    frames = [molecule(k) for k in range(10)]
    export(frames, tmp_path / "out.deepmd")
    (system,) = (tmp_path / "out.deepmd").glob("*/*")
    assert [len(np.load(path / "energy.npy")) for path in sorted(system.glob("set.*"))] == [4, 4, 2]
    assert [fields(s) for s in read_all(system)] == [fields(s) for s in frames]


def test_slabs_cells_of_molecules_and_foreign_labels_are_counted_as_left_out(tmp_path, capsys):
    slab = copper().replace(pbc=[True, True, False], labels={"energy": 1}, level="pbe")
    boxed = molecule(0).replace(
        cell=20 * np.eye(3), labels={"energy": 1, "dipole": [0, 0, 1], "bond_orders": [1.0]}, label_std={"energy": 0.1}
    )
    store = stored(tmp_path / "store", [slab, boxed, molecule(1)])
    status, out, _ = run(["data", "export", store, "-o", tmp_path / "out.deepmd"], capsys)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].endswith("out.deepmd: 2 structures in 2 systems")
    assert {line.strip().partition(" (")[0].removeprefix("left out: ") for line in lines[1:]} == {
        "whole structures", "cell", "dipole", "bond_orders", "standard deviation of energy",
    }  # fmt: skip
    status, out, _ = run(["data", "export", store, "-o", tmp_path / "out.xyz"], capsys)
    assert status == 0
    assert "left out: bond_orders (belongs to pairs; the format holds systems and atoms), in 1 structures" in out


@pytest.mark.parametrize("name", list(FORMATS))
def test_stress_without_three_periodic_directions_is_left_out_and_said(tmp_path, name):
    s = molecule(0).replace(labels={"energy": 1.0, "stress": np.eye(3)})
    report = export([s], tmp_path / "out", name)
    assert report.left_out == {"stress (needs three periodic directions)": 1}


def test_frames_that_another_program_changed_are_not_given_the_levels_of_others(tmp_path):
    export([molecule(k) for k in range(3)], tmp_path / "out.deepmd")
    (folder,) = (tmp_path / "out.deepmd").glob("*/*/set.000")
    for path in folder.glob("*.npy"):
        np.save(path, np.load(path)[1:])
    with pytest.raises(UnreadableFileError, match=r"mlipfm_frames\.jsonl: 3 lines for 2 frames; export again; only if another program"):
        read_all(tmp_path / "out.deepmd")
    (folder / FRAMES_FILE).write_text('{"charge": 1}\n[]\n')
    first, second = read(tmp_path / "out.deepmd")
    assert isinstance(first, Structure)
    assert first.total_charge == 1
    assert "holds '[]" in str(second.error)
    (folder / FRAMES_FILE).unlink()
    assert [s.level for s in read_all(tmp_path / "out.deepmd")] == [None, None]


@pytest.mark.parametrize("format", [1, FRAMES_FORMAT])
def test_frames_beside_deepmd_of_every_format_say_what_they_said(format):
    """See museum/README.md."""
    first, second = read_all(Path(__file__).parent / "museum" / f"deepmd-{format}")
    assert (first.level, first.total_charge, first.spin_multiplicity) == ("gfn2-xtb", 0, 1)
    assert first.provenance == Provenance("museum", "water", 0, "relaxation", "CC0-1.0")
    assert first.labels["energy"] == -137.5
    assert second.external_field is not None
    assert second.external_field.tolist() == [0, 0, 0.1]
    assert second.provenance == Provenance("museum", index=1)


def test_frames_beside_deepmd_state_their_format_and_newer_ones_are_refused(tmp_path):
    export([molecule(k) for k in range(2)], tmp_path / "out.deepmd")
    (file,) = (tmp_path / "out.deepmd").rglob(FRAMES_FILE)
    header, *frames = file.read_text().splitlines(keepends=True)
    assert json.loads(header) == {"kind": FRAMES_KIND, "format": FRAMES_FORMAT}
    assert len(frames) == 2
    file.write_text("".join([header.replace(str(FRAMES_FORMAT), str(FRAMES_FORMAT + 1)), *frames]))
    with pytest.raises(
        FormatVersionError, match=rf"mlipfm-deepmd-frames format {FRAMES_FORMAT + 1}, this mlipfm reads up to {FRAMES_FORMAT}"
    ):
        read_all(tmp_path / "out.deepmd")
    file.write_text("".join(['{"kind": "diary", "format": 1}\n', *frames]))
    with pytest.raises(UnreadableFileError, match="is of kind 'diary', format 1, not the frames of an export"):
        read_all(tmp_path / "out.deepmd")
    file.write_bytes(header.encode() + b"\xff\n" + frames[1].encode())
    bad, good = read(tmp_path / "out.deepmd")
    assert isinstance(bad, Refusal)
    assert isinstance(good, Structure)


def test_lines_beside_deepmd_that_are_of_no_frame_are_refused(tmp_path):
    """Nested beyond what json follows, where the first line or a frame's should be; and the first line of a second file behind the frames."""
    export([molecule(k) for k in range(2)], tmp_path / "out.deepmd")
    (file,) = (tmp_path / "out.deepmd").rglob(FRAMES_FILE)
    header, first, second = file.read_text().splitlines(keepends=True)
    deep = "[" * 100_000 + "\n"
    for lines, refused, message in (
        ([header, deep, second], 0, "is nested too deep in the line of this frame"),
        ([deep, second], 0, "is nested too deep in the line of this frame"),
        ([header, first, header], 1, "has a first line where that of this frame should be"),
    ):
        file.write_text("".join(lines))
        found = list(read(tmp_path / "out.deepmd"))
        assert [isinstance(item, Refusal) for item in found] == [k == refused for k in range(2)]
        assert message in str(found[refused].error)


# Names, and what is there


def test_an_incomplete_store_is_exported_only_when_asked_and_the_output_says_so(tmp_path, capsys):
    writer = StoreWriter(tmp_path / "store", name="set")
    writer.add(molecule(0))
    writer.commit()
    writer._release()  # as a kill does
    status, _, err = run(["data", "export", tmp_path / "store", "-o", tmp_path / "out.xyz"], capsys)
    assert status == 2
    assert "is not complete: a writer is at work or was killed; finish it first" in err
    assert not (tmp_path / "out.xyz").exists()
    status, out, _ = run(["data", "export", tmp_path / "store", "-o", tmp_path / "out.xyz", "--incomplete"], capsys)
    assert status == 0
    assert "warning: " in out
    assert "is not complete: these are the structures that it holds so far" in out
    with StoreWriter(tmp_path / "store") as writer:
        writer.add(molecule(1))
    assert run(["data", "export", tmp_path / "store", "-o", tmp_path / "whole.xyz"], capsys)[0] == 0


def test_unknown_names_and_formats_are_refused_with_the_list(tmp_path, capsys):
    store = stored(tmp_path / "store", [molecule(0)])
    known = "extxyz (.xyz, .extxyz), ase-db (.db), deepmd (.deepmd, a folder)"
    for extra, message in (
        (["-o", tmp_path / "out.json"], "the name ends in '.json', which no export writes"),
        (["-o", tmp_path / "out.xyz.gz"], "the name ends in '.gz'"),
        (["-o", tmp_path / "out"], "the name does not show the format"),
        (["-o", tmp_path / "out.db", "--format", "hdf5"], "no export is named 'hdf5'"),
        (["-o", tmp_path / "out.db", "--format", "deepmd"], "the name says ase-db, the format deepmd"),
    ):
        status, _, err = run(["data", "export", store, *extra], capsys)
        assert status == 2
        assert message in err
        assert known in err or "change one of them" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    assert format_of(Path("systems"), "deepmd") == "deepmd"


@pytest.mark.parametrize("name", ["out.xyz", "out.db", "out.deepmd"])
def test_what_is_there_is_replaced_only_when_asked_and_only_as_a_whole(tmp_path, capsys, name, monkeypatch):
    store, out = stored(tmp_path / "store", [molecule(0), molecule(1)]), tmp_path / name
    assert run(["data", "export", store, "-o", out], capsys)[0] == 0
    status, _, err = run(["data", "export", store, "-o", out], capsys)
    assert status == 2
    assert "--force" in err
    assert run(["data", "export", store, "-o", out, "--force"], capsys)[0] == 0
    before = sorted(tmp_path.rglob("*"))

    class Broken(list):
        def __iter__(self):
            yield molecule(5)
            raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        export(Broken(), out, replace=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(read_all(out)) == 2


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path):
    home = tmp_path / "home.deepmd"
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "type.raw").write_text("0\n")
    (home / "photos" / "me.jpg").write_bytes(b"")
    with pytest.raises(UnwritableFileError, match=r"holds photos/me\.jpg, which no export wrote"):
        export([molecule(0)], home, replace=True)
    with pytest.raises(UnwritableFileError, match="is a folder, and this format is a file"):
        export([molecule(0)], _folder(tmp_path / "folder"), "ase-db", replace=True)
    (tmp_path / "out.db").touch()
    (tmp_path / "out.db-wal").touch()
    with pytest.raises(UnwritableFileError, match=r"is in use: out\.db-wal is beside it"):
        export([molecule(0)], tmp_path / "out.db", replace=True)


@pytest.mark.parametrize("name", ["out.xyz", "out.db", "out.deepmd"])
def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys, name):
    store = stored(tmp_path / "store", [molecule(0)])
    status, _, err = run(["data", "export", store, "-o", tmp_path / "absent" / name], capsys)
    assert status == 2
    assert "create the folder first" in err


def test_a_killed_export_leaves_no_name_and_the_next_one_takes_no_harm(tmp_path):
    def killed():
        with folder_in_place(tmp_path / "out") as part:
            (part / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.db.part").write_bytes(b"of a run that was killed with SIGKILL")
    export([molecule(0)], tmp_path / "out.db")
    assert len(read_all(tmp_path / "out.db")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.db"]


def test_ids_are_the_same_when_a_store_is_exported_again(tmp_path):
    found = []
    for name in ("a.db", "b.db"):
        export(mixed(), tmp_path / name)
        database = sqlite3.connect(tmp_path / name)
        found.append(database.execute("select unique_id from systems order by id").fetchall())
        database.close()
    assert found[0] == found[1]
    assert len(set(found[0])) == len(mixed())


def test_a_store_and_its_exports_import_as_equal_stores(tmp_path, capsys):
    """The whole way at the command line."""
    frames = mixed()[:3]
    store = stored(tmp_path / "store", frames)
    for name in ("out.xyz", "out.db", "out.deepmd"):
        assert run(["data", "export", store, "-o", tmp_path / name], capsys)[0] == 0
        again = tmp_path / f"again-{name}"
        status, out, err = run(["data", "import", tmp_path / name, "-o", again], capsys)
        assert (status, err) == (0, ""), out
        with Store(store) as one, Store(again) as two:
            assert sorted(one.key(k) for k in range(3)) == sorted(two.key(k) for k in range(3))
            assert {(s.level, s.provenance, s.total_charge) for s in one} == {(s.level, s.provenance, s.total_charge) for s in two}
    assert json.loads((tmp_path / "again-out.db" / "imports.json").read_text())
