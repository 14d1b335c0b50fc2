"""Units, signs and orders that each layout fixes, seen by command in what is stored: against physics and against ASE, from outside this package.

All-electron energies of molecules are the energies of their atoms but for the binding, which is below 1 %: a wrong unit is a factor of 27 or more.
"""

import numpy as np
import pytest
from mlipfm_data.cli import app
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.store.store import Store
from mlipfm_interfaces.units import HARTREE
from typer.testing import CliRunner

pytestmark = [pytest.mark.shared_data, pytest.mark.ci]

#: Nonrelativistic energies of atoms in Hartree: Chakravorty et al., Phys. Rev. A 47, 3649 (1993).
ATOMS = {1: -0.5, 5: -24.6539, 6: -37.8450, 7: -54.5892, 8: -75.0673, 9: -99.7339, 11: -162.2546, 15: -341.259, 16: -398.110, 17: -460.148}


def imported(path, out, *words):
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(out), "--allow-refused", *words])
    assert result.exit_code == 0, result.output
    with Store(out) as store:
        return list(store)


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("fixtures_spice_ani_qm9", "SPICE-1.1.4_n2.hdf5", []),
        ("fixtures_spice_ani_qm9", "ani1_n5.hdf5", ["--level", "wb97x/6-31g(d)"]),
        ("fixtures_spice_ani_qm9", "qm9_dataset_v1.1_ntc_10.hdf5", []),
        ("nabladft_sample", "test_optim_database.db", []),
        pytest.param("fixtures_misc", "ani_gdb_s01.h5", ["--level", "wb97x/6-31g(d)"], marks=pytest.mark.full),
        pytest.param("ethanol_ccsdt", "*.npz", ["--level", "ccsd(t)/cc-pvtz"], marks=pytest.mark.full),
        ("transition1x_ccsd", "*0103*.json", ["--level", "wb97x/6-31g(d)"]),
    ],
)
def test_energies_of_molecules_are_those_of_their_atoms_but_for_the_binding(shared_data, tmp_path, name, file, words):
    structures = [s for s in imported(next(shared_data(name).glob(file)), tmp_path / "s", *words) if set(s.atomic_numbers) <= set(ATOMS)]
    ratios = [s.labels["energy"] / (HARTREE * sum(ATOMS[z] for z in s.atomic_numbers)) for s in structures]
    assert len(ratios) >= 5
    assert 0.995 < min(ratios) <= max(ratios) < 1.03


def test_bonds_of_spice_molecules_pull_back_when_they_are_stretched(shared_data, tmp_path):
    """Lengths are bohr and gradients Hartree/bohr in the file: C-H bonds are 1.09 Angstrom long, and a longer one pulls its hydrogen in."""
    pull, lengths = [], []
    for s in imported(shared_data("fixtures_spice_ani_qm9") / "SPICE-1.1.4_n2.hdf5", tmp_path / "s"):
        hydrogens, carbons = np.flatnonzero(s.atomic_numbers == 1), np.flatnonzero(s.atomic_numbers == 6)
        distance = np.linalg.norm(s.positions[hydrogens, None] - s.positions[carbons], axis=2)
        for h, c in zip(*np.nonzero(distance < 1.4), strict=True):
            axis = (s.positions[hydrogens[h]] - s.positions[carbons[c]]) / distance[h, c]
            lengths.append(distance[h, c])
            pull.append(s.labels["forces"][hydrogens[h]] @ axis)
    assert np.median(lengths) == pytest.approx(1.09, abs=0.03)
    slope = np.polyfit(lengths, pull, 1)[0]
    assert slope == pytest.approx(-30.0, abs=8.0)  # eV/Angstrom^2: C-H stretch, 4.8 mdyn/Angstrom


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "file", "reader"),
    [("hfo2_pwdata", "*", "pwdata"), ("oc20_trajectories", "random1000117.traj", "ase"), ("si_sets", "*.xyz", "extxyz")],
)
def test_energies_fall_along_the_forces_with_slope_one(shared_data, tmp_path, name, file, reader):
    path = min((p for p in shared_data(name).glob(file) if p.name not in (".complete", "PROVENANCE.md")), key=lambda p: p.stat().st_size)
    slope = energy_against_forces(imported(path, tmp_path / "s", "--reader", reader, "--level", "x/y"))
    assert slope.slope == pytest.approx(1.0, abs=0.1)
    assert slope.correlation > 0.9


@pytest.mark.full
@pytest.mark.parametrize(("file", "order"), [("Ge_training.json", None), ("Mo_training.json", "xx,yy,zz,xy,xz,yz")])
def test_stress_of_mlearn_is_the_slope_of_the_energy_with_the_strain(shared_data, tmp_path, file, order):
    """kbar, positive under compression: elastic frames under shear, dE = V stress : strain. Molybdenum has xz before yz, not as VASP."""
    words = ["--level", "pbe", *(["--stress-order", order] if order else [])]
    structures = [s for s in imported(shared_data("mlearn") / file, tmp_path / "s", *words) if "Elastic" in (s.provenance.group or "")]
    work, change = [], []
    for k, one in enumerate(structures):
        for other in structures[:k]:
            strain = np.linalg.solve(one.cell, other.cell) - np.eye(3)
            strain = (strain + strain.T) / 2
            sheared = np.abs(strain - np.diag(np.diag(strain))).max()
            if len(one) != len(other) or sheared < 1e-4 or np.abs(strain).max() > 0.05:
                continue
            volume = (abs(np.linalg.det(one.cell)) + abs(np.linalg.det(other.cell))) / 2
            work.append(volume * np.sum((one.labels["stress"] + other.labels["stress"]) / 2 * strain))
            change.append(float(other.labels["energy"] - one.labels["energy"]))
    x, y = np.array(work), np.array(change)
    assert len(x) > 30
    assert x @ y / (x @ x) == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(x, y)[0, 1] > 0.99


def test_a_file_that_has_another_stress_order_than_its_layout_is_not_imported_in_silence(shared_data, tmp_path):
    """The molybdenum of mlearn: VASP's order is xy, yz, xz; its forces and strained cells say xy, xz, yz."""
    result = CliRunner().invoke(
        app, ["import", str(shared_data("mlearn") / "Mo_test.json"), "--out", str(tmp_path / "s"), "--level", "pbe"]
    )
    assert "its layout snap says stress order xx,yy,zz,xy,yz,xz, and so read the labels contradict it" in str(result.exception)
    assert "import with --stress-order xx,yy,zz,xy,xz,yz;" in str(result.exception)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "file",
    [
        "dpdata_vasprun.h2o.md.xml",
        "oc20_27998_vasprun.xml",
        "alamode_BaTiO3/*.xml",
        "orb_10_mptraj_systems.db",
        "small_materials_test.extxyz",
    ],
)
def test_labels_are_those_that_ase_reads(shared_data, tmp_path, file):
    from ase.io import read as ase_read

    path = sorted(shared_data("fixtures_misc").glob(file))[0]
    stored = imported(path, tmp_path / "s", "--level", "pbe")
    theirs = ase_read(path, ":")
    assert len(stored) == len(theirs)
    for ours, atoms in zip(stored, theirs, strict=True):
        np.testing.assert_allclose(ours.positions, atoms.positions, atol=1e-6)
        assert ours.labels["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(ours.labels["forces"], atoms.get_forces(apply_constraint=False), atol=1e-6)
        if "stress" in atoms.calc.results:
            np.testing.assert_allclose(ours.labels["stress"], atoms.get_stress(voigt=False), atol=1e-7)
