"""Real public files: counts as their provenance says, signs and units as physics says."""

from itertools import islice

import numpy as np
import pytest
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import MultiplicityError
from mlipfm_interfaces.protocols import Refusal

pytestmark = pytest.mark.shared_data


def test_relaxation_on_a_slab_has_energies_that_follow_the_forces(shared_data):
    """OC20 trajectories: E(b) - E(a) against -F.dx over relaxation steps; the importer must not change sign or unit."""
    slope = energy_against_forces(read_all(shared_data("oc20_trajectories") / "random1000117.traj"))
    assert slope.pairs > 100
    assert slope.slope == pytest.approx(1.0, abs=0.02)
    assert slope.correlation > 0.999


def test_forces_read_with_the_wrong_sign_are_noticed(shared_data):
    slope = energy_against_forces(read_all(shared_data("oc20_trajectories") / "random1000117.traj", forces_sign=-1)[:80])
    assert slope.slope == pytest.approx(-1.0, abs=0.02)


def test_stress_from_the_virial_of_a_lone_molecule_is_minus_the_sum_of_r_times_f(shared_data):
    """EC in a 20 Å box: V stress = -sum r F by the virial theorem for forces within one molecule; fixes sign, unit and volume."""
    expected, found = [], []
    for s in islice(read(shared_data("battery_electrolyte_pbed3") / "outputEC_PBED3.xyz", level="pbe-d3"), 200):
        expected.append(-np.trace((s.positions - s.positions.mean(axis=0)).T @ s.labels["forces"]))
        found.append(np.trace(s.labels["stress"]) * np.linalg.det(s.cell))
    x, y = np.array(expected), np.array(found)
    assert x @ y / (x @ x) == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(x, y)[0, 1] > 0.9999


def test_acetylacetone_is_read_whole(shared_data):
    structures = read_all(shared_data("acetylacetone") / "train_300K.xyz")
    assert len(structures) == 500
    assert {s.formula for s in structures} == {"C5H8O2"}


def test_3bpa_has_no_charge_because_the_file_states_none(shared_data):
    report = ReadReport()
    structures = list(read(shared_data("3bpa") / "train_300K.xyz", report=report))
    assert len(structures) == 500
    assert {(s.total_charge, s.spin_multiplicity, len(s)) for s in structures} == {(None, None, 27)}
    assert "energy <- energy in 500 of 500 accepted frames" in report.lines()


def test_electrolyte_virial_becomes_the_stress_of_the_volume_scan(shared_data):
    structures = read_all(shared_data("battery_electrolyte_pbed3") / "solvent_VS_PBED3.xyz", level="pbe-d3")
    assert len(structures) == 28
    volumes = np.array([abs(np.linalg.det(s.cell)) for s in structures])
    order = np.argsort(volumes)
    pressure = np.array([-np.trace(structures[k].labels["stress"]) / 3 for k in order])
    assert pressure[0] > 0 > pressure[-1]  # the compressed liquid pushes, the stretched one pulls


def test_spookynet_counts_unpaired_electrons(shared_data):
    path = shared_data("charge_spin_spookynet") / "ase_carbene_2200.db"
    first = next(iter(read(path)))
    assert isinstance(first, Refusal)
    with pytest.raises(MultiplicityError, match="set --spin-meaning unpaired"):
        raise first.error
    states = set()
    for s in read(path, spin_meaning="unpaired"):
        states.add((s.total_charge, s.spin_multiplicity))
        if len(states) == 2:
            break
    assert states == {(0, 1), (0, 3)}


@pytest.mark.parametrize(
    ("name", "frames", "labels"),
    [
        ("small_aspirin_with_charge_spin.xyz", 2, {"energy", "forces"}),
        ("SPICE_small_with_charges.xyz", 5, {"energy", "forces"}),
        ("small_materials_test.extxyz", 8, {"energy", "forces", "stress"}),
        ("colabfit_test_file.extxyz", 3, {"energy", "forces", "stress"}),
        ("libatoms_B_DFT_data.xyz", 39, {"energy", "forces"}),
        ("orb_10_mptraj_systems.db", 10, {"energy", "forces", "stress"}),
        ("schnetpack_qm9.db", 20, set()),
        ("dpdata_vasprun.h2o.md.xml", 3, {"energy", "forces", "stress"}),
    ],
)
def test_fixtures_of_other_projects(shared_data, name, frames, labels):
    structures = read_all(shared_data("fixtures_misc") / name)
    assert len(structures) == frames
    assert set.intersection(*(set(s.labels) for s in structures)) == labels


def test_charge_and_spin_of_omol_files_are_read(shared_data):
    folder = shared_data("fixtures_misc")
    states = [(s.total_charge, s.spin_multiplicity) for s in read_all(folder / "small_aspirin_with_charge_spin.xyz")]
    assert states == [(0, 1), (1, 2)]
    assert {(s.total_charge, s.spin_multiplicity) for s in read_all(folder / "SPICE_small_with_charges.xyz")} == {(0, 1)}


def test_cp2k_forces_in_an_xyz_file_are_no_geometry(shared_data):
    """Forces in atomic units read as positions: atoms on top of each other, refused frame by frame."""
    items = list(islice(read(shared_data("fixtures_misc") / "dpdata_cp2k_aimd" / "DPGEN-frc-1.xyz"), 5))
    assert {item.error.code for item in items if isinstance(item, Refusal)} == {"overlapping-atoms"}
    assert len(items) == 5
