"""The known sets of materials and properties, from the real files: counts as their provenance says, units and signs as physics says."""

from itertools import combinations, islice

import numpy as np
import pytest
from mlipfm_data.label_checks.checks import inspect
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers.refdata import reactions
from mlipfm_data.readers.registry import read, read_all
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from sets import KNOWN, jobs

pytestmark = pytest.mark.shared_data

#: Frames of each set, as PROVENANCE.md counts what was parsed there (where it does, and where it is imported whole).
FRAMES = {"li3n": 109, "pbte": 50, "prop_polarizability": 200}
MORE = {
    "aumgo_4g": 50, "cu_sets": 1163, "fixtures_ocp_lmdb": 500, "gete": 300, "oxide_polymorphs": 295, "si_sets": 110, "ref_phonon_forces": 40,
    "refdata_crystals_x23_ice": 36,
}  # fmt: skip
SLOW = {
    "battery_electrolyte_pbed3": 2878, "catalysis_hub": 1288, "fitsnap_ta_inp_wbe": 2232, "mattersim_benchmarks": 3069, "mlearn": 1334,
    "nbmotaw": 1398, "oc20_trajectories": 1407, "prop_carbon24": 2030, "prop_nmr_csd500": 500, "prop_phonons_matbench": 1265,
    "ref_elastic_wbm": 4925, "refdata_nci": 1036, "refdata_barriers_bh9": 1775, "prop_perov5": 3787, "ref_diatomics": 9113,
}  # fmt: skip


def whole(shared_data, name: str, only: str = "") -> list[Structure | Refusal]:
    """Every frame of a known set, or of those of its files whose name contains `only`."""
    return [
        item
        for path, reader, options in jobs(KNOWN[name], shared_data(name))
        if only in path.name
        for item in read(path, reader, **options)
    ]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        *FRAMES.items(),
        *(pytest.param(*item, marks=pytest.mark.ci) for item in MORE.items()),
        *(pytest.param(*item, marks=pytest.mark.full) for item in SLOW.items()),
    ],
)
def test_every_frame_of_a_known_set_is_read(shared_data, name, frames):
    items = whole(shared_data, name)
    assert len(items) == frames
    assert not [str(item.error) for item in items if isinstance(item, Refusal)]


def strained(structures: list[Structure]) -> tuple[float, float]:
    """Slope and correlation of energy differences between strained cells on V stress : strain, for pairs less than 3 % apart."""
    predicted, measured = [], []
    for a, b in combinations(structures, 2):
        strain = np.linalg.solve(a.cell, b.cell) - np.eye(3)
        if len(a) == len(b) and 1e-4 < np.abs(strain).max() < 0.03:
            volume = (abs(np.linalg.det(a.cell)) + abs(np.linalg.det(b.cell))) / 2
            predicted.append(volume * np.sum((a.labels["stress"] + b.labels["stress"]) / 2 * (strain + strain.T) / 2))
            measured.append(float(b.labels["energy"] - a.labels["energy"]))
    x, y = np.array(predicted), np.array(measured)
    return float(x @ y / (x @ x)), float(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("li3n", "Elastic.json"),
        pytest.param("nbmotaw", "Mo_Elastic.json", marks=pytest.mark.ci),
        pytest.param("fitsnap_ta_inp_wbe", "InP_strain", marks=pytest.mark.ci),
        ("fitsnap_ta_inp_wbe", "Volume_A15"),
    ],
)
def test_stress_is_the_slope_of_the_energy_with_the_strain(shared_data, name, file):
    """kbar or bar, VASP's sign, and for Li3N the order of shears: with ASE's order its correlation is 0.63."""
    slope, correlation = strained([item for item in whole(shared_data, name, file) if isinstance(item, Structure)])
    assert slope == pytest.approx(1.0, abs=0.03)
    assert correlation > 0.998


@pytest.mark.ci
def test_stress_of_tungsten_and_beryllium_is_kbar_although_the_files_say_bar(shared_data):
    """Median over the equation of state of bcc Be, some points of which come from another calculation: about 1, and 1,000 if it were bar."""
    frames = [item for item in whole(shared_data, "fitsnap_ta_inp_wbe", "EOS_BCC_") if isinstance(item, Structure)]
    frames.sort(key=lambda s: abs(np.linalg.det(s.cell)))
    volumes = np.array([abs(np.linalg.det(s.cell)) for s in frames])
    tension = np.array([np.trace(s.labels["stress"]) / 3 for s in frames])
    energies = np.array([float(s.labels["energy"]) for s in frames])
    steps = (np.diff(volumes) > 1e-3) & (np.abs(tension[1:] + tension[:-1]) > 1e-3)
    ratios = np.diff(energies)[steps] / np.diff(volumes)[steps] / ((tension[1:] + tension[:-1]) / 2)[steps]
    assert 0.7 < np.median(ratios) < 1.4


@pytest.mark.ci
def test_alignn_energies_are_those_of_mlearn(shared_data):
    """Per atom there, totals here: every copper test frame of mlearn is among them with its energy."""
    folder = shared_data("mlearn")
    ours = {round(float(s.labels["energy"]), 4) for s in read_all(folder / "Cu_all_alignn_id_prop.json")}
    assert {round(float(s.labels["energy"]), 4) for s in read_all(folder / "Cu_test.json")} <= ours


@pytest.mark.ci
def test_open_catalyst_lmdb_holds_the_acetylacetone_of_the_xyz_file(shared_data):
    known = {s.labels["energy"].round(2).item() for s in read_all(shared_data("acetylacetone") / "train_300K.xyz")}
    stored = read_all(shared_data("fixtures_ocp_lmdb") / "acac_train_ocp.lmdb")
    assert len(stored) == 500
    assert {s.formula for s in stored} == {"C5H8O2"}
    assert {s.labels["energy"].round(2).item() for s in stored} <= known


def test_ase_db_is_read_as_ase_reads_it(shared_data):
    path = shared_data("oxide_polymorphs") / "oxides.db"
    ours, theirs = read_all(path, "ase-db"), read_all(path, "ase")
    assert [s.key for s in ours] == [s.key for s in theirs]
    assert all(np.array_equal(a.labels[k], b.labels[k]) for a, b in zip(ours, theirs, strict=True) for k in a.labels)


@pytest.mark.ci
def test_vasp_xml_is_read_as_ase_reads_it(shared_data):
    path = shared_data("fixtures_misc") / "dpdata_vasprun.h2o.md.xml"
    for a, b in zip(read_all(path, "vasp-xml"), read_all(path, "ase"), strict=True):
        assert np.allclose(a.positions, b.positions)
        assert all(np.allclose(a.labels[k], b.labels[k]) for k in ("energy", "forces", "stress"))


@pytest.mark.ci
def test_silicon_with_random_displacements_follows_its_forces(shared_data):
    """phono3py's Si supercells around the perfect one: E - E0 = -sum F u / 2 for small displacements u."""
    frames = read_all(shared_data("ref_phonon_forces") / "Si-111-222-rd.tar.xz")
    perfect_ones = [s for s in frames if np.abs(s.labels["forces"]).max() < 1e-6]
    predicted, measured = [], []
    for s in frames:
        perfect = next((p for p in perfect_ones if len(p) == len(s) and p is not s), None)
        if perfect is None:
            continue
        u = s.positions - perfect.positions
        u -= np.round(u @ np.linalg.inv(s.cell)) @ s.cell
        if np.abs(s.cell - perfect.cell).max() < 1e-6:
            predicted.append(-np.sum(s.labels["forces"] * u) / 2)
            measured.append(float(s.labels["energy"] - perfect.labels["energy"]))
    assert len(measured) >= 5
    assert np.polyfit(predicted, measured, 1)[0] == pytest.approx(1.0, abs=0.05)


def test_chgnet_archive_has_magnetic_moments(shared_data):
    (s,) = read_all(shared_data("fixtures_misc") / "chgnet_parse-vasp-with-magmoms.zip")
    assert s.formula == "Cl20Li20"
    assert s.labels["magnetic_moments"].shape == (40,)


def test_cp2k_atoms_fit_the_cell_of_the_input(shared_data):
    frames = whole(shared_data, "fixtures_misc", "pos-1")
    assert len(frames) == 30
    for s in frames:
        assert (s.positions.max(axis=0) <= np.diag(s.cell) + 1e-6).all()
        assert np.abs(s.labels["forces"].sum(axis=0)).max() < 1.0  # of 533 atoms, on a grid


def test_relaxations_of_catalysis_hub_follow_their_forces(shared_data):
    (path,) = shared_data("catalysis_hub").glob("AljamaMethanol2016/*/*/*/*/CH3OHstar__CH3star_OHstar/neb0.traj")
    slope = energy_against_forces(read_all(path))
    assert slope.slope == pytest.approx(1.0, abs=0.1)
    assert slope.correlation > 0.95


def test_forces_of_long_relaxations_at_surfaces_are_those_of_their_frames(shared_data):
    frames = [item for item in whole(shared_data, "catalysis_hub", "PengRole2020") if isinstance(item, Structure)]
    found = {item.code for item in inspect(frames)}
    assert not [code for code in found if code.startswith("forces-")]


def test_dimers_are_bound_where_chemistry_says(shared_data):
    """PBE: N2 has its minimum near 1.10 Angstrom, and the forces are minus the slope of the energies."""
    first = islice(read(shared_data("ref_diatomics") / "diatomics-dft.json.gz"), 400)  # of 9,113, from H on
    curve = [s for s in first if s.level == "pbe" and s.formula == "N2"]
    lengths = np.array([np.linalg.norm(s.positions[1] - s.positions[0]) for s in curve])
    energies = np.array([float(s.labels["energy"]) for s in curve])
    assert lengths[energies.argmin()] == pytest.approx(1.10, abs=0.05)
    slope = energy_against_forces(curve)
    assert slope.slope == pytest.approx(1.0, abs=0.05)


@pytest.mark.ci
def test_gaps_of_perovskites_and_molecules_are_gaps(shared_data):
    perovskites = [float(s.labels["band_gap"]) for s in islice(read(shared_data("prop_perov5") / "val.csv"), 200)]
    assert min(perovskites) == 0.0  # most are metals
    path, reader, options = next(job for job in jobs(KNOWN["prop_molecules"], shared_data("prop_molecules")) if "pcqm" in job[0].name)
    gaps = [float(s.labels["band_gap"]) for s in read(path, reader, **options)]
    assert len(gaps) == 1999
    assert min(gaps) > 1.5  # the column is called homo, and an orbital energy would be negative
    assert np.mean(gaps) == pytest.approx(5.2, abs=0.3)


@pytest.mark.ci
def test_first_column_of_csd500_is_the_calculated_shielding(shared_data):
    """A model's value is the mean of what is calculated given the model: regressed on it, the calculation has slope 1, and not the other way."""
    path = shared_data("prop_nmr_csd500") / "CSD-500.xyz"
    first, second = (list(islice(read(path, keys={"shieldings": f"CS:{column}"}), 60)) for column in (0, 1))
    x, y = (np.concatenate([s.labels["shieldings"][s.atomic_numbers == 1] for s in frames]) for frames in (second, first))
    assert np.polyfit(x, y, 1)[0] == pytest.approx(1.0, abs=0.02)
    assert np.polyfit(y, x, 1)[0] < 0.99
    assert 20 < y.mean() < 32  # ppm, protons


def test_polarizability_is_that_of_small_organic_molecules(shared_data):
    """Such molecules have 7 to 18 Angstrom^3; times e^2/(4 pi eps0) = 14.4 eV Angstrom that is our unit."""
    for s in whole(shared_data, "prop_polarizability"):
        alpha = s.labels["polarizability"]
        assert np.allclose(alpha, alpha.T, atol=1e-4)
        assert 4 < np.trace(alpha) / 3 * 14.3996 < 20  # Angstrom^3


def test_reactions_of_refdata(shared_data):
    """The parallel S66 dimer curve of water: bound by 5 kcal/mol, and every species of the four sets is there."""
    folder = shared_data("refdata_nci") / "10_din"
    curves = list(reactions(folder / "s66x8.din"))
    assert len(curves) == 528
    best = min(r.energy for r in curves if "Water-Water" in r.name) / 0.0433641
    assert best == pytest.approx(-4.96, abs=0.1)
    assert len(list(reactions(shared_data("refdata_barriers_bh9") / "10_din" / "bh9_bh.din"))) == 898
    charges = {s.total_charge for s in read(folder / "ionichb.din")}
    assert charges == {-1, 0, 1}


def test_adsorption_table_and_equations_of_state_are_refused_entry_by_entry(shared_data):
    items = list(read(shared_data("fixtures_misc") / "odac23_data_w_ml.json"))
    assert len(items) == 1693
    assert all(isinstance(item, Refusal) and "no structure in this entry" in str(item.error) for item in items)
