"""Units, signs and orders come from the user, the file, its layout, or are assumed, in this order; the report says from whom."""

import json
import os

import numpy as np
import pytest
from mlipfm_data.label_checks.declared_units import with_advice_for
from mlipfm_data.label_checks.findings import Finding
from mlipfm_data.readers.options import options_from
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_data.store.store import Store
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import InvalidStructureError, UnitError, UnknownQuantityError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import BOHR, HARTREE, KCAL_MOL

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
Z = np.array([8, 1, 1])


def springs(n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in Angstrom, energies in eV, forces in eV/Angstrom of a water molecule whose atoms hang on springs of 5 eV/Angstrom^2."""
    shift = 0.02 * np.random.default_rng(1).normal(size=(n, 3, 3))
    return WATER + shift, 2.5 * (shift**2).sum((1, 2)) - 2078.0, -5.0 * shift


def sgdml(path, **more):
    x, e, f = springs()
    np.savez(path, **({"R": x, "z": Z, "E": e / KCAL_MOL, "F": f / KCAL_MOL} | more))
    return path


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([os.fspath(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_command_without_unit_options_stores_what_the_layout_says(tmp_path, capsys):
    """sgdml.org: kcal/mol."""
    x, e, f = springs()
    status, out, err = run(["data", "import", sgdml(tmp_path / "a.npz"), "--out", tmp_path / "s", "--level", "pbe"], capsys)
    assert (status, err) == (0, "")
    assert "units and signs: energy kcal/mol, forces sign 1, forces kcal/mol/Angstrom, length Angstrom (layout sGDML)" in out
    with Store(tmp_path / "s") as store:
        assert [s.labels["energy"].item() for s in store] == pytest.approx(e)
        np.testing.assert_allclose([s.labels["forces"] for s in store], f, atol=1e-12)
        np.testing.assert_allclose([s.positions for s in store], x)


def test_what_the_user_states_counts_more_than_file_and_layout_and_is_said(tmp_path, capsys):
    path = sgdml(tmp_path / "a.npz", e_unit="kcal/mol")
    words = ["data", "import", path, "--out", tmp_path / "s", "--energy-unit", "Hartree", "--forces-sign", "1"]
    status, _, err = run(words, capsys)
    assert status == 2
    assert "you give energy unit Hartree (the file says kcal/mol), and so read the labels contradict it" in err
    assert not (tmp_path / "s").exists()
    status, out, _ = run([*words, "--accept-label-errors"], capsys)
    assert status == 0
    assert "energy Hartree (given by you; the file says kcal/mol)" in out
    assert "forces kcal/mol/Angstrom (given in the file)" in out
    with Store(tmp_path / "s") as store:
        assert store[0].labels["energy"] == pytest.approx(springs()[1][0] / KCAL_MOL * HARTREE)


def test_options_that_are_none_state_nothing(tmp_path):
    path = sgdml(tmp_path / "a.npz")
    one, two = read_all(path), read_all(path, energy_unit=None, forces_sign=None, level=None, periodic=None)
    assert [s.labels["energy"] for s in one] == [s.labels["energy"] for s in two]
    merged = options_from({"energy_unit": None}, file={"energy_unit": None}, layout={"energy_unit": "Hartree"}, name="X")
    assert (merged.energy_unit, merged.origins) == ("Hartree", {"energy_unit": "layout X"})


def test_stress_of_a_vasprun_is_in_kbar_and_positive_under_compression_by_command_too(tmp_path, shared_data, capsys):
    from ase.io import read as ase_read

    path = shared_data("fixtures_misc") / "dpdata_vasprun.h2o.md.xml"
    assert run(["data", "import", path, "--out", tmp_path / "s", "--level", "pbe"], capsys)[0] == 0
    with Store(tmp_path / "s") as store:
        for ours, theirs in zip(store, ase_read(path, ":"), strict=True):
            np.testing.assert_allclose(ours.labels["stress"], theirs.get_stress(voigt=False), atol=1e-8)
            np.testing.assert_allclose(ours.labels["forces"], theirs.get_forces(apply_constraint=False), atol=1e-12)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--stress-sign", "-1", "--stress-sign (in Python `stress_sign`) had no effect"),
        ("--dipole-unit", "Debye", "--dipole-unit (in Python `dipole_unit`) had no effect"),
        ("--stress-order", "xx,yy,zz,xy,yz,xz", "--stress-order (in Python `stress_order`) had no effect"),
        ("--spin-meaning", "unpaired", "--spin-meaning (in Python `spin_meaning`) had no effect"),
    ],
)
def test_options_that_nothing_in_the_file_needs_are_named(tmp_path, capsys, option, value, words):
    status, out, _ = run(["data", "import", sgdml(tmp_path / "a.npz"), "--out", tmp_path / "s", option, value], capsys)
    assert status == 0
    assert f"warning: {words}" in out


def test_stress_sign_turns_a_virial_only_where_the_file_gives_no_stress(tmp_path):
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=-1 virial="1 0 0 0 1 0 0 0 1"{}\nCu 0 0 0\n'
    (tmp_path / "a.xyz").write_text(frame.format(""))
    (tmp_path / "b.xyz").write_text(frame.format(' stress="0.015625 0 0 0 0.015625 0 0 0 0.015625"'))
    report = ReadReport()
    (s,) = read_all(tmp_path / "a.xyz", stress_sign=-1, report=report)
    assert s.labels["stress"] == pytest.approx(np.eye(3) / 64)  # the virial of a compressed cell is positive: this one has it the other way
    assert report.without_effect() == []
    (s,) = read_all(tmp_path / "b.xyz", stress_sign=-1)
    assert s.labels["stress"] == pytest.approx(-np.eye(3) / 64)
    assert read_all(tmp_path / "a.xyz")[0].labels["stress"] == pytest.approx(-np.eye(3) / 64)


def test_a_store_of_an_earlier_version_takes_the_same_file_again_if_what_it_recorded_applies(tmp_path, capsys):
    """Earlier versions recorded eV, Angstrom, ... for every import by command, though nobody had stated them."""
    xyz, npz = tmp_path / "a.xyz", sgdml(tmp_path / "b.npz")
    xyz.write_text("1\nenergy=-1\nCu 0 0 0\n")
    for path, wanted in ((xyz, 0), (npz, 2)):
        out = tmp_path / path.stem
        assert run(["data", "import", path, "--out", out], capsys)[0] == 0
        record = json.loads((out / "imports.json").read_text())
        for entry in record.values():
            entry["options"] |= {"energy_unit": "eV", "length_unit": "Angstrom", "forces_unit": "eV/Angstrom", "forces_sign": 1}
        (out / "imports.json").write_text(json.dumps(record))
        status, _, err = run(["data", "import", path, "--out", out], capsys)
        assert status == wanted, err
    assert "imported with energy_unit 'eV', now 'kcal/mol', forces_unit 'eV/Angstrom', now 'kcal/mol/Angstrom'; give" in err


def test_one_bohr_is_the_unit_of_positions_in_spice_by_command(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    x, e, f = springs()
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("water")
        group["atomic_numbers"], group["smiles"] = Z, [b"[O:1]([H:2])[H:3]"]
        for name, values in (("conformations", x / BOHR), ("dft_total_energy", e / HARTREE), ("dft_total_gradient", -f * BOHR / HARTREE)):
            group[name] = values
    status, out, _ = run(["data", "import", path, "--out", tmp_path / "s"], capsys)
    assert status == 0
    assert "forces sign -1" in out
    with Store(tmp_path / "s") as store:
        np.testing.assert_allclose([s.positions for s in store], x)
        np.testing.assert_allclose([s.labels["forces"] for s in store], f, atol=1e-12)
        assert [s.labels["energy"].item() for s in store] == pytest.approx(e)


def test_require_and_unlabelled_contradict_each_other(tmp_path, capsys):
    arguments = ["data", "import", sgdml(tmp_path / "a.npz"), "--out", tmp_path / "s", "--unlabelled", "--require", "forces"]
    status, _, err = run(arguments, capsys)
    assert status == 2
    assert "give one of them" in err
    status, _, err = run(["data", "import", tmp_path / "a.npz", "--out", tmp_path / "s", "--require", "force"], capsys)
    assert status == 2
    assert "did you mean 'forces'" in err


def xyz(path, comment="energy=-1", cell='Lattice="9 0 0 0 9 0 0 0 9"'):
    path.write_text(f"1\n{cell} Properties=species:S:1:pos:R:3 {comment}\nCu 0 0 0\n")
    return path


@pytest.mark.parametrize("text", ["false", "False", "no", "0"])
def test_periodic_false_can_be_given_on_the_command_line(tmp_path, capsys, text):
    status, _, err = run(["data", "import", xyz(tmp_path / "a.xyz"), "--out", tmp_path / "s", "--option", f"periodic={text}"], capsys)
    assert (status, err) == (0, "")
    assert not Store(tmp_path / "s")[0].pbc.any()


def test_every_option_of_a_reader_is_reachable_with_its_type(tmp_path, capsys):
    path = xyz(tmp_path / "a.xyz", 'e=-1 h=0.5 l=0.7 dipole="1 2 3"')
    words = [
        "total_charge=1",
        "spin_multiplicity=1",
        "keys=energy=e,homo=h",
        "factors=homo=27.2",
        "ignore=dipole,l",
        "group=g",
        "source=s",
        "energy_unit=meV",
    ]
    arguments = ["data", "import", path, "--out", tmp_path / "s", *(part for word in words for part in ("--option", word))]
    status, _, err = run(arguments, capsys)
    assert (status, err) == (0, "")
    options = {"total_charge": 1, "spin_multiplicity": 1, "keys": {"energy": "e", "homo": "h"}, "factors": {"homo": 27.2}}
    more = {"ignore": ("dipole", "l"), "group": "g", "source": "s", "energy_unit": "meV"}
    one, same = Store(tmp_path / "s")[0], read_all(path, **options, **more)[0]
    assert {key: value.tolist() for key, value in one.labels.items()} == {key: value.tolist() for key, value in same.labels.items()}
    assert (one.total_charge, one.spin_multiplicity, one.provenance) == (1, 1, same.provenance)
    assert one.labels["homo"] == pytest.approx(13.6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--option", "periodc=false"], "readers have no option 'periodc'; did you mean 'periodic'?"),
        (["--option", "format=cif"], "readers have no option 'format'"),
        (["--option", "total=false"], "readers have no option 'total'"),
        (["--option", "report=x"], "readers have no option 'report'"),
        (["--option", "periodic=True"], "`periodic` must be False, got 'True'"),
        (["--option", "forces_sign=2"], "`forces_sign` must be 1 or -1, got '2'"),
        (["--option", "total_charge=+1.5"], "`total_charge` must be a whole number, got '+1.5'"),
        (["--option", "keys=homo"], "`keys` must be NAME=VALUE pairs joined by commas"),
        (["--option", "factors=energy=27.2"], "has a unit option; use --energy-unit"),
        (["--option", "energy_unit=eV", "--energy-unit", "Hartree"], "`energy_unit` is given twice"),
        (["--option", "group=a", "--option", "group=b"], "`group` is given twice"),
        (["--option", "licence=MIT", "--licence", "MIT"], "`licence` is given twice"),
        (["--option", "periodic"], "--option needs KEY=VALUE"),
    ],
)
def test_options_that_no_reader_has_or_of_another_type_are_refused_with_the_nearest(tmp_path, capsys, words, message):
    for command in (
        ["data", "import", "--out", tmp_path / "s"],
        ["data", "check-labels"],
        ["data", "label", "--method", "gfn2-xtb", "--out", tmp_path / "s"],
    ):
        if command[1] != "import" and any(word.startswith("--") and word != "--option" for word in words):
            continue
        status, _, err = run([*command, xyz(tmp_path / "a.xyz"), *words], capsys)
        assert status == 2
        assert message in err, command
        assert err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_python_refuses_texts_where_a_reader_wants_true_or_false_and_options_it_does_not_have(tmp_path):
    path = xyz(tmp_path / "a.xyz")
    with pytest.raises(UnknownQuantityError, match="`high_energy` must be True or False, got 'False'"):
        read_all(path, "hdf5", high_energy="False")
    with pytest.raises(UnknownQuantityError, match="no option 'high_enrgy'; did you mean 'high_energy'"):
        read_all(path, "hdf5", high_enrgy=True)
    with pytest.raises(InvalidStructureError, match="must be a whole number"):
        read_all(path, total_charge="1")
    with pytest.raises(InvalidStructureError, match="sequence of names"):
        read_all(path, ignore="dipole")


def test_factors_and_ignored_keys_that_no_frame_has_are_named(tmp_path, capsys):
    words = ["--option", "ignore=dipol", "--option", "factors=homo=27.2"]
    _, out, _ = run(["data", "import", xyz(tmp_path / "a.xyz", 'energy=-1 dipole="1 2 3"'), "--out", tmp_path / "s", *words], capsys)
    assert "warning: --option ignore=... for 'dipol' had no effect" in out
    assert "warning: --option factors=... for 'homo' had no effect" in out


def test_units_of_formats_that_ase_converts_cannot_be_stated(tmp_path):
    """ASE's reader of OUTCAR and others gives eV and Angstrom: a unit of the file would be applied twice."""
    from ase import Atoms
    from ase.io import write

    write(tmp_path / "POSCAR", Atoms("Cu", cell=[3, 3, 3], pbc=True))
    for options in ({"length_unit": "bohr"}, {"stress_unit": "kbar"}, {"stress_sign": -1}):
        with pytest.raises(UnitError, match="ASE has converted the values of this format"):
            read_all(tmp_path / "POSCAR", **options)
    assert len(read_all(tmp_path / "POSCAR", length_unit="Angstrom")) == 1


def test_units_in_the_metadata_of_an_ase_database_hold_for_both_of_its_readers_and_unknown_ones_are_refused(tmp_path):
    from ase import Atoms
    from ase.db import connect

    for unit, wanted in (("Hartree", HARTREE), ("kcal/mol", KCAL_MOL), ("furlong", None)):
        path = tmp_path / f"{unit[:3]}.db"
        with connect(path) as database:
            database.metadata = {"_property_unit_dict": {"energy": unit, "forces": "Ha/Bohr"}, "_distance_unit": "Ang"}
            database.write(Atoms("He"), data={"energy": np.array([-2.0])})
        for reader in ("ase-db", "ase"):
            if wanted is None:
                with pytest.raises(
                    UnitError, match="the file gives the energy unit 'furlong', which is not known; give one with --energy-unit"
                ):
                    read_all(path, reader)
                assert read_all(path, reader, energy_unit="eV")[0].labels["energy"] == -2.0
            else:
                assert read_all(path, reader)[0].labels["energy"] == pytest.approx(-2.0 * wanted)


def test_energies_of_atoms_in_hartree_are_not_added_to_energies_in_a_unit_of_the_user(shared_data):
    path = shared_data("nabladft_sample") / "test_optim_database.db"
    with pytest.raises(UnitError, match="the energies of the atoms, which `total` adds, are in Hartree"):
        next(read(path, "nabladft", energy_unit="eV"))
    assert isinstance(next(read(path, "nabladft", energy_unit="eV", total=False)), Structure)


def test_labels_are_computed_for_the_geometry_in_the_unit_that_the_user_states(tmp_path, capsys):
    pytest.importorskip("tblite")
    path = tmp_path / "h2.xyz"
    path.write_text(f"2\n\nH 0 0 0\nH 0 0 {0.74 / BOHR}\n")
    arguments = [
        "data",
        "label",
        path,
        "--method",
        "gfn2-xtb",
        "--out",
        tmp_path / "s",
        "--workers",
        "1",
        "--charge",
        "0",
        "--option",
        "length_unit=bohr",
    ]
    assert run(arguments, capsys)[0] == 0
    assert Store(tmp_path / "s")[0].positions[1, 2] == pytest.approx(0.74)


def emt_copper(n: int = 30):
    """Rattled copper cells and EMT's energies, forces and stresses."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.04, seed=k // 3)
        atoms.rattle(0.005, seed=1000 + k)
        atoms.calc = EMT()
        frames.append((atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)))
    return frames


def deepmd_system(path, sign: int):
    frames = emt_copper()
    (path / "set.000").mkdir(parents=True)
    (path / "type.raw").write_text("0 " * len(frames[0][0]))
    (path / "type_map.raw").write_text("Cu\n")
    for name, values in {"coord": [a.positions for a, *_ in frames], "box": [a.cell.array for a, *_ in frames],
                         "energy": [e for _, e, *_ in frames], "force": [sign * f for *_, f, _ in frames]}.items():  # fmt: skip
        np.save(path / "set.000" / f"{name}.npy", np.array(values).reshape(len(frames), -1))
    return path


@pytest.mark.ci
def test_labels_that_contradict_the_layout_stop_the_import_before_anything_is_stored(tmp_path, capsys):
    """DeePMD keeps forces; gradients in their place contradict the layout, which the physics of the labels shows."""
    right, wrong, out = deepmd_system(tmp_path / "right", 1), deepmd_system(tmp_path / "wrong", -1), tmp_path / "s"
    status, _, err = run(["data", "import", wrong, "--out", out, "--level", "emt"], capsys)
    assert status == 2
    assert "its layout DeePMD says forces sign 1, and so read the labels contradict it: fault forces-sign" in err
    assert "--forces-sign (in Python `forces_sign`), or import it as it says with --accept-label-errors" in err
    assert not out.exists()
    assert run(["data", "import", right, "--out", out, "--level", "emt"], capsys)[0] == 0
    assert run(["data", "import", wrong, "--out", out, "--level", "emt2"], capsys)[0] == 2
    with Store(out) as store:
        assert {s.level for s in store} == {"emt"}  # what was there is as it was
        forces = [s.labels["forces"] for s in store]
    for more in (["--accept-label-errors"], ["--forces-sign", "-1"]):
        status, said, _ = run(["data", "import", wrong, "--out", tmp_path / more[0], "--level", "emt", *more], capsys)
        assert status == 0
        assert ("fault forces-sign" in said) == (more == ["--accept-label-errors"])
    with Store(tmp_path / "--forces-sign") as store:
        np.testing.assert_array_equal([s.labels["forces"] for s in store], forces)


@pytest.mark.ci
def test_labels_that_contradict_the_layout_only_behind_the_first_frames_stop_the_import_too(tmp_path, capsys, monkeypatch):
    import mlipfm_data.importing

    monkeypatch.setattr(mlipfm_data.importing, "WAITING_FRAMES", 4)
    status, _, err = run(["data", "import", deepmd_system(tmp_path / "w", -1), "--out", tmp_path / "s", "--level", "emt"], capsys)
    assert status == 2
    assert "30 frames of it were stored before this was seen" in err


@pytest.mark.parametrize(
    ("applied", "hint", "advised"),
    [
        (("forces_sign", -1), "import with --forces-sign -1", "--forces-sign 1"),
        (("energy_unit", "Hartree"), "import with --energy-unit kcal/mol", "--energy-unit eV"),
        (("energy_unit", "Hartree"), "import with --energy-unit Hartree", "the right --energy-unit: Hartree, which was applied, is not it"),
        (("forces_unit", "Hartree/Angstrom"), "import with --forces-unit eV/bohr", "--forces-unit Hartree/bohr"),
        (("stress_unit", "GPa"), "import with --stress-unit GPa", "the right --stress-unit"),
        (("stress_order", "xx,yy,zz,xy,yz,xz"), "import with --stress-order xx,yy,zz,xz,yz,xy", "--stress-order xx,yy,zz,xy,xz,yz"),
        (("energy_unit", "eV"), "import with --energy-unit Hartree", "--energy-unit Hartree"),
    ],
)
def test_advice_of_a_finding_is_the_option_that_is_right_for_the_file(applied, hint, advised):
    """Labels read with one convention that look like another: the file has the product of both."""
    report = ReadReport()
    report.conventions[(*applied, "layout X")] += 1
    (found,) = with_advice_for([Finding("forces-sign", "fault", "words", hint)], report)
    assert advised in found.hint


@pytest.mark.ci
def test_energies_in_another_unit_than_the_layout_says_stop_the_import_and_the_unit_is_named(tmp_path, capsys):
    """DeePMD keeps eV; here energies are in Hartree, beside forces in eV/Angstrom."""
    path = deepmd_system(tmp_path / "w", 1)
    np.save(path / "set.000" / "energy.npy", np.load(path / "set.000" / "energy.npy") / HARTREE)
    status, _, err = run(["data", "import", path, "--out", tmp_path / "s", "--level", "emt"], capsys)
    assert status == 2
    assert "its layout DeePMD says energy unit eV, and so read the labels contradict it" in err
    assert "--energy-unit Hartree" in err
    assert not (tmp_path / "s").exists()
    assert run(["data", "import", path, "--out", tmp_path / "s", "--level", "emt", "--energy-unit", "Hartree"], capsys)[0] == 0


@pytest.mark.parametrize(
    ("energy", "force", "wanted"),
    [
        ("Hartree", None, (HARTREE, HARTREE)),
        ("kcal/mol", "kcal/mol/angstrom", (KCAL_MOL, KCAL_MOL)),
        ("eV", "ev/Ang", (1, 1)),
        ("furlong", None, None),
    ],
)
def test_units_in_attributes_of_hdf5_data_sets_count_more_than_the_layout(tmp_path, energy, force, wanted):
    """ANI-2x has Hartree; a copy that states other units is read in these, one that gives an unknown unit is refused until the user gives one."""
    h5py = pytest.importorskip("h5py")
    x, e, f = springs()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("3")
        group["coordinates"], group["energies"], group["forces"], group["species"] = x, e, f, np.tile(Z, (len(x), 1))
        group["energies"].attrs["units"] = energy
        if force:
            group["forces"].attrs["unit"] = force
    if wanted is None:
        with pytest.raises(UnitError, match="the file gives the energy unit 'furlong', which is not known; give one with --energy-unit"):
            read_all(tmp_path / "a.h5")
        wanted = (HARTREE / 2, HARTREE)
        energy_unit = "Ry"
    else:
        energy_unit = None
    first = read_all(tmp_path / "a.h5", energy_unit=energy_unit)[0]
    assert first.labels["energy"] == pytest.approx(e[0] * wanted[0])
    np.testing.assert_allclose(first.labels["forces"], f[0] * wanted[1], atol=1e-9)


@pytest.mark.parametrize("key", ["energy_unit", "Energy_Units"])
def test_units_of_the_comment_line_of_an_xyz_file_are_those_of_the_file(tmp_path, key):
    (tmp_path / "a.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3 energy=2.0 {key}=kcal/mol\nAr 0 0 0\n")
    [structure] = read_all(tmp_path / "a.xyz")
    assert structure.labels["energy"] == pytest.approx(2.0 * KCAL_MOL)
    report = ReadReport()
    [structure] = read_all(tmp_path / "a.xyz", energy_unit="eV", report=report)
    assert structure.labels["energy"] == 2.0
    assert "energy eV (given by you; the file says kcal/mol)" in "\n".join(report.lines())
    (tmp_path / "c.xyz").write_text(
        "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=2.0 energy_unit=ev force_unit=Ha/Bohr stress_unit=eV/A^3\nAr 0 0 0 1 0 0\n"
    )
    [structure] = read_all(tmp_path / "c.xyz")
    assert (structure.labels["energy"], structure.labels["forces"][0, 0]) == (2.0, pytest.approx(HARTREE / BOHR))
    (tmp_path / "b.xyz").write_text("1\nProperties=species:S:1:pos:R:3 energy=2.0 energy_unit=furlong\nAr 0 0 0\n")
    with pytest.raises(UnitError, match="furlong"):
        read_all(tmp_path / "b.xyz")
