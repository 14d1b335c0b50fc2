"""Units, signs and orders come from the user, the file, its layout, or are assumed, in this order; the report says from whom."""

import json
import os

import numpy as np
import pytest
from mlipfm_data.readers.frames_in import ReadReport, options_from
from mlipfm_data.readers.reading import read_all
from mlipfm_data.store import Store
from mlipfm_interfaces.cli import main
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
    status, out, _ = run(["data", "import", path, "--out", tmp_path / "s", "--energy-unit", "Hartree", "--forces-sign", "1"], capsys)
    assert status == 0
    assert "energy Hartree (stated by you; the file says kcal/mol)" in out
    assert "forces kcal/mol/Angstrom (stated in the file)" in out
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


def test_stress_sign_does_not_touch_a_virial_and_the_report_says_that_it_had_no_effect(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text('1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=-1 virial="1 0 0 0 1 0 0 0 1"\nCu 0 0 0\n')
    report = ReadReport()
    read_all(path, stress_sign=-1, report=report)
    assert report.without_effect() == ["stress_sign"]


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
