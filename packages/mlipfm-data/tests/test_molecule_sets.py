"""Real public sets of molecules and liquids: counts as their provenance says; signs, units and zeros of energy as physics says."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers.registry import read
from mlipfm_data.readers.report import ReadReport
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import fit_references
from mlipfm_interfaces.units import DEBYE, HARTREE
from sets.molecules import SETS

pytestmark = [pytest.mark.shared_data, pytest.mark.ci]

Items = Iterator[tuple[Path, Structure | Refusal]]


def everything(folder: Path, name: str, only: str = "", **more) -> Items:
    """All items of a known set, file by file; `only` is a part of the paths."""
    (known,) = [known for known in SETS if known.name == name]
    for files in known.files:
        paths = sorted({path for pattern in files.path.split("|") for path in folder.glob(pattern)})
        assert paths, f"{name}: nothing is called {files.path}"
        options = dict(files.options) | {"require": files.require} | ({"level": files.level} if files.level else {}) | more
        for path in paths:
            if only in str(path.relative_to(folder)):
                yield from ((path, item) for item in read(path, files.reader, **options))


@pytest.fixture
def known(shared_data) -> Callable[..., list[Structure]]:
    def structures(name: str, only: str = "", **more) -> list[Structure]:
        return [item for _, item in everything(shared_data(name), name, only, **more) if isinstance(item, Structure)]

    return structures


def nearest_slope(structures: list[Structure], longest: float = 0.1) -> tuple[int, float, float]:
    """As `energy_against_forces`, for sets in random order: over the pairs of frames that lie nearest to each other."""
    x = np.stack([s.positions.ravel() for s in structures])
    squares = (x**2).sum(1)
    i, j = np.triu_indices(len(x), 1)
    apart = (squares[:, None] + squares - 2 * x @ x.T)[i, j]
    order = np.argsort(np.where(apart > 1e-6, apart, np.inf))[:100]  # not the same frame twice
    slopes = [(structures[a], structures[b]) for a, b in zip(i[order], j[order], strict=True)]
    measured, predicted = [], []
    for a, b in slopes:
        step = b.positions - a.positions
        if 1e-4 < np.abs(step).max() < longest:
            measured.append(float(b.labels["energy"] - a.labels["energy"]))
            predicted.append(-float(np.sum((a.labels["forces"] + b.labels["forces"]) * step)) / 2)
    p, m = np.array(predicted), np.array(measured)
    return len(p), float(p @ m / (p @ p)), float(p @ m / np.sqrt((p @ p) * (m @ m)))


#: Set -> (frames, refused), as PROVENANCE counts geometries. transition1x_ccsd: 385 geometries at two levels, of which 131 CCSD runs failed.
COUNTS = {
    "3bpa": (2169, 0), "acetylacetone": (1650, 0), "ani_comp6_s66x8": (528, 0), "charged_dimers_lode": (169, 0), "dpmd_hessian_molecules": (2082, 0),
    "ethanol_ccsdt": (1000, 0), "ethanol_methanol": (2300, 0), "fixtures_aimnet2": (195, 0), "gmtkn55_dev": (783, 0), "hfo2_pwdata": (250, 0),
    "lips_batzner": (1000, 0), "mapbi3_scan": (733, 0), "nabladft_sample": (105, 0), "spice_dipeptides_dipolar": (550, 0),
    "spice_subsets_bec": (470, 0), "transition1x_ccsd": (770, 131), "water_dpmd": (320, 0), "water_monomer_props": (1000, 0),
    "water_revpbe0d3_sample": (10, 0),
}  # fmt: skip
LARGE = {
    "alkane_bond_breaking": (25773, 0), "charge_spin_spookynet": (4400, 0), "conformers": (799, 0), "fixtures_spice_ani_qm9": (5793, 0),
    "h2coo_caspt2": (5162, 0), "lips20": (3000, 0), "md17": (5850, 0), "rdb7_barriers": (900, 0), "unlabelled_qm9": (10000, 0),
    "unlabelled_spice_geometries": (21628, 0), "water_dipole_polarizability": (1000, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", [*COUNTS, *(pytest.param(n, marks=pytest.mark.full) for n in LARGE)])
def test_every_frame_is_accounted_for(shared_data, name):
    found = Counter(type(item).__name__ for _, item in everything(shared_data(name), name))
    frames, refused = (COUNTS | LARGE)[name]
    assert (found.total(), found["Refusal"]) == (frames, refused)


def test_the_list_of_sets_is_the_list_of_counts():
    assert {known.name for known in SETS} == {*COUNTS, *LARGE}
    assert all(known.citation for known in SETS)


@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("md17", "ethanol_test"), ("lips20", "P2S5"), ("ethanol_ccsdt", ""), ("water_monomer_props", ""),
        *[pytest.param(*case, marks=pytest.mark.full)
          for case in (("h2coo_caspt2", ""), ("lips_batzner", ""), ("charge_spin_spookynet", "carbene"))],
    ],
)  # fmt: skip
def test_energy_falls_along_the_forces(known, name, only):
    """dE = -F.dx over neighbours: sign and both units at once (the bohr, the kcal and the gradient are factors of 1.9, 23 and -1)."""
    structures = known(name, only)
    if name == "charge_spin_spookynet":
        structures = [s for s in structures if s.spin_multiplicity == 3]
    in_order = energy_against_forces(structures)
    if in_order.pairs > 20 and name != "h2coo_caspt2":  # its hydrogens jump from frame to frame
        assert in_order.slope == pytest.approx(1.0, abs=0.02)
    else:
        pairs, slope, correlation = nearest_slope(structures[:2000], longest=0.05)
        assert pairs >= 3
        assert slope == pytest.approx(1.0, abs=0.02)
        assert correlation > 0.99


def test_comp6_gradients_become_forces_along_the_dissociation_curves(known):
    """Separations lie 0.1-0.3 Å apart, so the mean of two forces is a rough integral; as stored the slope would be -1."""
    slope = energy_against_forces(known("ani_comp6_s66x8"), longest=0.1)
    assert slope.pairs > 100
    assert slope.slope == pytest.approx(1.0, abs=0.02)
    assert slope.correlation > 0.999


def test_pairs_of_atoms_of_ani2x_push_apart_as_their_energies_fall(shared_data):
    """Along the line of two hydrogens: dE against -F dr with forces in Hartree/Angstrom."""
    path = shared_data("fixtures_spice_ani_qm9") / "ani2x_minimal.hdf5"
    curve = []
    for s in read(path):
        if s.atomic_numbers.tolist() == [7, 7]:
            r = s.positions[1] - s.positions[0]
            curve.append((np.linalg.norm(r), float(s.labels["energy"]), float(s.labels["forces"][1] @ r / np.linalg.norm(r))))
    d, e, f = np.array(sorted(curve)).T
    x, y = -(f[1:] + f[:-1]) / 2 * np.diff(d), np.diff(e)
    near = (np.diff(d) > 0) & (np.diff(d) < 0.05)
    assert x[near] @ y[near] / (x[near] @ x[near]) == pytest.approx(1.0, abs=0.01)


def test_pwmat_forces_have_the_sign_of_forces(shared_data):
    """Shuffled AIMD with a cell of its own for each run: neighbours in fractional coordinates within one run."""
    structures = [s for s in read(shared_data("hfo2_pwdata") / "init_004_50") if np.abs(s.labels["forces"]).max() < 1]
    _, slope, correlation = nearest_slope(structures, longest=0.2)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert correlation > 0.99


def test_ethanol_at_ccsdt_has_the_total_energy_of_ethanol(known):
    """-154.7 Hartree; its components are all below zero, so a wrong unit is off by an order of magnitude."""
    energies = np.array([float(s.labels["energy"]) for s in known("ethanol_ccsdt")]) / HARTREE
    assert -154.75 < energies.min() < energies.max() < -154.60


def test_energies_of_nabladft_are_total_and_their_references_are_atoms(known):
    """A molecule of 30-50 atoms is bound by 4-5 eV an atom with respect to its free atoms."""
    for s in known("nabladft_sample", "test_database"):
        free = sum(
            {1: -0.50249, 6: -37.7981, 7: -54.5224, 8: -74.9767, 9: -99.6145, 16: -397.972, 17: -459.989}[int(z)] for z in s.atomic_numbers
        )
        assert -5.2 < (float(s.labels["energy"]) - free * HARTREE) / len(s) < -4.0


def test_spice_slice_has_total_energies_charges_and_dipoles(known):
    structures = known("fixtures_spice_ani_qm9", "SPICE")
    assert Counter(s.provenance.group for s in structures) == {"103147721": 50, "C#C.[Na+]": 5}
    assert {s.total_charge for s in structures} == {1}
    assert all(abs(s.labels["charges"].sum() - 1) < 1e-3 for s in structures if "charges" in s.labels)
    assert max(np.abs(s.labels["forces"].sum(axis=0)).max() for s in structures) < 0.02  # nothing pulls the molecule as a whole


def test_ani_1x_and_1ccx_are_three_levels_of_one_geometry(known):
    structures = known("fixtures_spice_ani_qm9", "ani1_n5")
    assert Counter(s.level for s in structures) == {"wb97x/6-31g(d)": 8, "wb97x/def2-tzvpp": 8, "ccsd(t)*/cbs": 6}
    by_key: dict[str, set[str | None]] = {}
    for s in structures:
        by_key.setdefault(s.key, set()).add(s.provenance.group)
    assert len(by_key) == 8
    assert all(len(groups) == 1 for groups in by_key.values())


def test_qm9_energies_are_electronic_and_variational(known):
    """The larger basis lies lower: water in B3LYP/6-31G(2df,p) below B3LYP/6-31G(d) (-76.4090 Hartree) only without the zero-point energy."""
    (water,) = [s for s in known("fixtures_spice_ani_qm9", "qm9") if s.formula == "H2O"]
    assert -76.47 < float(water.labels["energy"]) / HARTREE < -76.4090
    assert float(water.labels["homo"]) == pytest.approx(-7.97, abs=0.05)
    assert np.linalg.norm(water.labels["dipole"]) / DEBYE == pytest.approx(1.85, abs=0.1)


def test_qm9_table_and_qm9_hdf5_agree(shared_data):
    energies = {
        s.provenance.group: (s.formula, float(s.labels["energy"]))
        for s in islice(read(shared_data("unlabelled_qm9") / "qm9_10k.csv.gz"), 50)
    }
    both = 0
    for s in read(shared_data("fixtures_spice_ani_qm9") / "qm9_dataset_v1.1_ntc_10.hdf5"):
        name = f"gdb9-{int(str(s.provenance.group).split('_')[1])}"
        if name in energies:
            both += 1
            assert energies[name][0] == s.formula
            assert energies[name][1] == pytest.approx(float(s.labels["energy"]), abs=1e-3)
    assert both >= 1


def test_aimnet2_charges_and_spins_add_up(known):
    structures = known("fixtures_aimnet2")
    assert {(s.total_charge, s.spin_multiplicity) for s in structures} >= {(-3, 3), (0, 1), (2, 2)}
    for s in structures:
        assert s.labels["charges"].sum() == pytest.approx(s.total_charge, abs=0.01)
        assert s.labels["spin_charges"].sum() == pytest.approx(s.spin_multiplicity - 1, abs=0.01)
    neutral = [s for s in structures if s.total_charge == 0]
    point = np.concatenate([s.labels["charges"] @ s.positions for s in neutral])
    dipole = np.concatenate([s.labels["dipole"] for s in neutral])
    assert 0.9 < point @ dipole / (point @ point) < 1.4  # e Angstrom; in Debye it would be 5


@pytest.mark.parametrize(
    ("file", "states"), [pytest.param("carbene", {(0, 1), (0, 3)}, marks=pytest.mark.full), ("ag3", {(-1, 1), (1, 1)})]
)
def test_spookynet_sets_are_gfn2_less_one_constant_in_every_state_of_charge_and_spin(known, file, states):
    """No note names their level: tblite does. Energies differ by the free atoms alone, forces not at all, if charge and spin are read right."""
    gfn2 = TbliteLabeler(method="GFN2-xTB")
    structures = known("charge_spin_spookynet", file)
    assert {(s.total_charge, s.spin_multiplicity) for s in structures} == states
    shifts = []
    for s in structures[::157]:
        computed = gfn2.label(s.replace(labels={}, level=None)).labels
        shifts.append(float(s.labels["energy"] - computed["energy"]))
        assert s.labels["forces"] == pytest.approx(computed["forces"], abs=0.1)  # of up to 10 eV/Å
    assert np.ptp(shifts) < 5e-3  # measured: 1.2 meV for the singlets of CH2, below 0.1 meV elsewhere


def test_triplet_carbene_is_wider_than_the_singlet(known):
    """134 and 102 degrees in the gas: the angles of the lowest energies."""
    lowest = {}
    for s in sorted(known("charge_spin_spookynet", "carbene"), key=lambda s: -float(s.labels["energy"])):
        (carbon,), (one, two) = s.positions[s.atomic_numbers == 6], s.positions[s.atomic_numbers == 1]
        u, v = one - carbon, two - carbon
        lowest[s.spin_multiplicity] = float(np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))))
    assert lowest[1] == pytest.approx(102, abs=6)
    assert lowest[3] == pytest.approx(134, abs=6)


def test_hessians_of_the_deepmd_example_are_symmetric_and_know_translations(known):
    for s in known("dpmd_hessian_molecules", "H8C4N2O"):
        n = 3 * len(s)
        hessian = s.labels["hessian_rows"].reshape(n, n)
        assert np.allclose(hessian, hessian.T, atol=1e-6)
        assert np.abs(hessian.reshape(n, len(s), 3).sum(axis=1)).max() < 1e-5
        assert np.linalg.eigvalsh(hessian)[-1] > 50  # a stretched bond is stiff: a curvature of the energy, not of the forces


def test_model_columns_and_born_charges_of_unknown_origin_are_not_read(shared_data):
    report = ReadReport()
    frames = everything(shared_data("spice_subsets_bec"), "spice_subsets_bec", "qmugs", report=report)
    structures = [s for _, s in frames if isinstance(s, Structure)]
    assert len(structures) == 84
    assert set(report.used["energy"]) == {"energy"}
    assert set(report.used["forces"]) == {"forces"}
    assert {frozenset(s.labels) for s in structures} == {frozenset({"energy", "forces", "dipole"})}


def test_formation_energies_of_the_dipeptides_are_a_level_of_their_own(known):
    """The same functional with another zero: its references are a few eV, those of total energies hundreds."""
    formation = known("spice_dipeptides_dipolar", "val")
    total = known("spice_subsets_bec", "dipeptides")
    references = fit_references([*formation, *total])
    assert len(references) == 2
    small, large = (references[s.level].energies for s in (formation[0], total[0]))
    assert abs(small[6]) < 20 < 1000 < abs(large[6])


def test_dipoles_of_water_are_those_of_water(known):
    """The gas molecule has 1.85 D; in the liquid the hydrogens carry about half a charge along each bond."""
    gas = known("water_monomer_props")
    assert np.median([np.linalg.norm(s.labels["dipole"]) for s in gas]) / DEBYE == pytest.approx(1.85, abs=0.15)
    assert np.median([np.trace(s.labels["polarizability"]) / 3 for s in gas]) * 14.3996 == pytest.approx(1.45, abs=0.1)  # Angstrom^3
    points, dipoles = [], []
    for s in known("water_dipole_polarizability")[:50]:
        oxygens, hydrogens = (s.positions[s.atomic_numbers == z] for z in (8, 1))
        bonds = hydrogens[:, None] - oxygens
        bonds -= s.cell[0, 0] * np.round(bonds / s.cell[0, 0])
        nearest = np.argmin((bonds**2).sum(-1), axis=1)
        points.append(bonds[np.arange(len(bonds)), nearest].sum(axis=0))
        dipoles.append(s.labels["dipole"])
    x, y = np.concatenate(points), np.concatenate(dipoles)
    assert x @ y / (x @ x) == pytest.approx(0.5, abs=0.05)


def test_ccsd_and_dft_of_transition1x_are_two_levels_of_one_reaction(shared_data):
    items = list(everything(shared_data("transition1x_ccsd"), "transition1x_ccsd"))
    failed = [item for path, item in items if isinstance(item, Refusal)]
    assert {item.error.code for item in failed} == {"labeling"}
    by_key: dict[str, set[str | None]] = {}
    for path, item in items:
        if isinstance(item, Structure) and "rxn0103" in path.name:
            assert item.provenance.group == "rxn0103"
            by_key.setdefault(item.key, set()).add(item.level)
    assert set(map(frozenset, by_key.values())) == {frozenset({"wb97x/6-31g(d)", "ccsd/cc-pvtz"})}


def test_open_shells_and_ions_of_gmtkn55(known):
    atoms = {s.formula: s.spin_multiplicity for s in known("gmtkn55_dev", "W4-11") if len(s) == 1}
    assert {name: atoms[name] for name in ("H", "C", "N", "O", "F")} == {
        "H": 2,
        "C": 3,
        "N": 4,
        "O": 3,
        "F": 2,
    }  # ground states of free atoms
    assert {s.total_charge for s in known("gmtkn55_dev", "G21IP")} == {0, 1}


@pytest.mark.full
def test_spice_inputs_keep_their_bond_lengths(known):
    """Nanometres: the C-H bonds of methane are 1.1 Å in every conformation."""
    methane = [s for s in known("unlabelled_spice_geometries", "des-monomers") if s.provenance.group == "C"]
    assert len(methane) == 50
    for s in methane:
        assert np.linalg.norm(s.positions[1:] - s.positions[0], axis=1) == pytest.approx([1.1] * 4, abs=0.2)
