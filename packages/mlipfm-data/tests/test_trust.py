"""`inspect` on molecules whose potential is known in closed form, and the pieces it is made of. Real sets: `test_trust_gate`."""

import json

import numpy as np
import pytest
from mlipfm_data.label_checks.checks import Inspector, inspect
from mlipfm_data.label_checks.columns import findings_of
from mlipfm_data.label_checks.comparison import Agreement, Comparison, Pair, agreement
from mlipfm_data.label_checks.energies import energy_clusters, jumps, rounding, single_precision_step
from mlipfm_data.label_checks.findings import CODES
from mlipfm_data.label_checks.force_assignment import orders
from mlipfm_data.label_checks.geometry import CORRECTIONS, boundary, force_scale, length_fault, naturalness, neighbors_of, stiffness
from mlipfm_data.label_checks.sample import ATOMS, FRAMES, LevelSample, decimals, mean_torque
from mlipfm_data.label_checks.stress import better_order
from mlipfm_data.label_checks.units import Evidence, atom_energy, stress_unit_guesses, unit_guesses
from mlipfm_data.label_checks.work import Work, inverse_distances, strain_between, work, work_inside
from mlipfm_data.readers.extxyz import export_extxyz
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MlipfmWarning
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import BOHR, GPA, HARTREE, KCAL_MOL
from sets import planted_labels


def run(*words: object) -> int | str | None:
    """Exit status of the command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return exit_.value.code


#: Methane: every bond and every H...H distance a spring, with force constants of the size that the molecule has.
CENTRE = np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
CH = 1.09
NUMBERS = np.array([6, 1, 1, 1, 1])
I, J = np.triu_indices(5, 1)
K = np.where((I == 0), 31.0, 4.0)


def springs(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV, that of methane with all electrons at rest) and forces (eV/Å)."""
    at_rest = CENTRE * np.array([[0.0], *[[CH / np.sqrt(3)]] * 4])
    r0 = np.linalg.norm(at_rest[I] - at_rest[J], axis=1)
    vectors = positions[I] - positions[J]
    r = np.linalg.norm(vectors, axis=1)
    pull = -(K * (r - r0) / r)[:, None] * vectors
    forces = np.zeros_like(positions)
    np.add.at(forces, I, pull)
    np.add.at(forces, J, -pull)
    return -40.5 * HARTREE + float(np.sum(K * (r - r0) ** 2) / 2), forces


def methane(n: int = 60, seed: int = 0) -> list[Structure]:
    """Random frames, each turned by a rotation of its own."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        positions = CENTRE * np.array([[0.0], *[[CH / np.sqrt(3)]] * 4]) + rng.normal(scale=0.04, size=(5, 3))
        energy, forces = springs(positions)
        labels = {"energy": energy, "forces": forces @ turn}
        state = {"total_charge": 0, "spin_multiplicity": 1, "level": "springs", "provenance": Provenance(group="methane")}
        out.append(Structure(NUMBERS, positions @ turn, labels=labels, **state))
    return out


def test_a_molecule_with_and_without_a_box_is_judged_like_two():
    boxed = [s.replace(cell=12 * np.eye(3), pbc=[True] * 3) for s in methane(20, seed=1)]
    assert [item for item in inspect([*methane(), *boxed]) if item.severity == "fault"] == []


def test_forces_that_held_atoms_take_up_are_not_unconverged():
    frames = methane()
    held = [s.replace(labels={**s.labels, "forces": s.labels["forces"] * (NUMBERS == 1)[:, None]}) for s in frames[:3]]
    assert [item.code for item in inspect([*held, *frames[3:]])] == ["constrained-forces"]


@pytest.mark.parametrize(("wrong", "offset"), [({7, 20, 33}, None), (set(range(0, 40, 2)), 4.0)])
def test_a_second_level_has_frames_enough_to_be_compared_with_each_other(wrong, offset):
    """Jumps of one size all around three frames of forty are outliers; between two halves they are two levels."""
    near = [(k, k + step) for k in range(39) for step in (1, 2) if k + step < 40]
    near += [(k, (k + 5 * step) % 40) for k in wrong if len(wrong) < 5 for step in range(1, 5)]
    done = [Work(0.1 + 0.01 * a, 0.01, np.nan, 0.1, 0.0) for a, _ in near]
    pairs = [Pair(a, b, w.forces + 4.0 * ((b in wrong) - (a in wrong)), w, 1, 0) for (a, b), w in zip(near, done, strict=True)]
    seen = jumps(Comparison(pairs), 1.0)
    assert seen.part > 0.2
    assert seen.offset == (offset if offset is None else pytest.approx(offset))
    assert offset is not None or set(seen.outliers) == wrong


def test_an_ion_is_no_second_level_and_a_second_level_among_ions_is():
    def with_state(structures: list[Structure], charge: int, offset: float) -> list[Structure]:
        state = {"total_charge": charge, "spin_multiplicity": 1 + charge % 2}
        return [s.replace(labels={**s.labels, "energy": s.labels["energy"] + offset}, **state) for s in structures]

    ions = [*with_state(methane(30), 0, 0.0), *with_state(methane(30, seed=1), 1, 12.0)]
    assert "mixed-levels" not in {found.code for found in inspect(ions)}
    unstated = [s.replace(total_charge=None, spin_multiplicity=None) for s in with_state(methane(30, seed=1), 0, 12.0)]
    assert "mixed-levels" in {found.code for found in inspect([*methane(30), *unstated])}  # not to state a charge is no charge
    mixed = [*ions, *with_state(methane(30, seed=2), 1, 40.0), *with_state(methane(30, seed=3), 0, 28.0)]
    assert "mixed-levels" in {found.code for found in inspect(mixed)}


def test_frames_of_findings_have_the_numbers_of_the_file():
    inspector = Inspector()
    for place, s in enumerate(methane(30)):
        offset = 8.0 if place == 12 else 0.0
        inspector.add(s.replace(labels={**s.labels, "energy": s.labels["energy"] + offset}), place + 4)  # four frames before were refused
    (found,) = [found for found in inspector.findings() if found.code == "energy-outliers"]
    assert found.indices == (16,)


def test_forces_of_zero_that_symmetry_makes_are_not_named_beside_those_that_it_does_not():
    crystal = Structure([29] * 2, np.array([[0, 0, 0], [1.8, 1.8, 1.8]]), np.eye(3) * 3.6, [True] * 3, level="springs")
    crystal = crystal.replace(labels={"energy": -7.0, "forces": np.zeros((2, 3))})
    zero = [s.replace(labels={**s.labels, "forces": np.zeros((5, 3))}) for s in methane(3, seed=5)]
    found = {f.code: f for f in inspect([*methane(20), crystal, *zero])}
    assert found["forces-zero"].indices == (21, 22, 23)


def test_energies_above_and_below_the_others_are_of_no_second_level():
    """Every fourth of forty frames 4 eV off: to one side they may be a level of their own, to both sides they are outliers."""
    near = [(k, k + step) for k in range(39) for step in (1, 2) if k + step < 40]
    done = [Work(0.1 + 0.01 * a, 0.01, np.nan, 0.1, 0.0) for a, _ in near]
    for signs, offset in (((1, 1), 4.0), ((1, -1), None)):
        shift = {k: 4.0 * signs[k // 4 % 2] for k in range(0, 40, 4)}
        pairs = [Pair(a, b, w.forces + shift.get(b, 0.0) - shift.get(a, 0.0), w, 1, 0) for (a, b), w in zip(near, done, strict=True)]
        seen = jumps(Comparison(pairs), 1.0)
        assert seen.offset == (offset and pytest.approx(offset))
        assert set(seen.outliers) == set(shift)


def test_energies_that_rounding_makes_equal_are_not_called_copies():
    rounded = [s.replace(labels={**s.labels, "energy": np.round(s.labels["energy"], 1)}) for s in methane(12)]
    assert len({float(s.labels["energy"]) for s in rounded}) < 8
    assert [item.code for item in inspect(rounded)] == ["energy-rounded"]


def zeroed(structure: Structure, atoms: list[int]) -> Structure:
    """A copy with forces of zero on some atoms, as codes write held ones."""
    forces = np.array(structure.labels["forces"])
    forces[atoms] = 0.0
    return structure.replace(labels={**structure.labels, "forces": forces})


def test_forces_of_held_atoms_written_as_zero_are_named_and_nothing_else_is_blamed():
    """Held atoms are displaced from frame to frame: the work of their forces is missing in every pair."""
    (finding,) = inspect([zeroed(s, [1, 2]) for s in methane(40)])
    assert finding.code == "constrained-forces"
    assert "forces of 2 atoms are exactly zero in all frames" in finding.words
    assert "--mask-zero-forces" in finding.hint


def test_forces_that_are_zero_along_some_axes_name_held_atoms_not_a_coarse_grid():
    """Six copies of a molecule in a box, one hydrogen held in its plane in each frame; without it the forces sum to zero and nothing is said."""
    places = 9.0 * np.array([[i, j, 0] for i in range(2) for j in range(3)])

    def boxes(held: bool) -> list[Structure]:
        out = []
        for k in range(8):
            six = methane(6, seed=k)
            positions = np.concatenate([s.positions + at for s, at in zip(six, places, strict=True)])
            forces = np.concatenate([s.labels["forces"] for s in six])
            forces[1, :2] *= not held
            labels = {"energy": sum(float(s.labels["energy"]) for s in six), "forces": forces}
            out.append(
                Structure(np.tile(NUMBERS, 6), positions, cell=np.diag([18.0, 27.0, 12.0]), pbc=[True] * 3, labels=labels, level="springs")
            )
        return out

    words = [item.words for item in inspect(boxes(held=True)) if item.code in ("constrained-forces", "net-force")]
    assert len(words) == 1
    assert "exactly zero along some axes" in words[0]
    assert inspect(boxes(held=False)) == []


def test_forces_of_weight_zero_are_left_out_without_a_word():
    weight = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    masked = [s.replace(labels={**s.labels, "forces_weight": weight}) for s in (zeroed(s, [1, 2]) for s in methane(40))]
    assert inspect(masked) == []


def test_frames_of_weight_zero_raise_no_alarm():
    bad = [s.replace(labels={**s.labels, "energy": s.labels["energy"] + 1000.0, "forces": -s.labels["forces"], "weight": 0.0})
           for s in methane(40, seed=3)]  # fmt: skip
    found = inspect([*methane(), *bad])
    assert [(item.severity, item.code) for item in found] == [("note", "not-sampled")]
    assert "40 frames have the weight 0" in found[0].words


@pytest.mark.parametrize("count", range(1, 6))
def test_few_frames_are_too_few_to_test(count):
    turned = [s.replace(labels=s.labels | {"forces": -s.labels["forces"]}) for s in methane(count)]
    for frames in (methane(count), turned):
        (note,) = inspect(frames)
        assert (note.severity, note.code) == ("note", "not-sampled")
        assert "too few to test" in note.words


@pytest.mark.parametrize("unit", [1.0, HARTREE])
def test_energies_of_single_precision_are_named(unit):
    """Their last bit is used in half of the numbers; also where they were converted to eV afterwards."""
    shift = -360089.0
    single = [
        s.replace(labels={**s.labels, "energy": float(np.float32((float(s.labels["energy"]) + shift) / unit)) * unit}) for s in methane()
    ]
    (finding,) = (item for item in inspect(single) if item.code != "energy-unit")  # of no method: the shift alone makes the energies large
    assert (finding.severity, finding.code) == ("fault", "energy-rounded")
    assert "single precision" in finding.words
    assert finding.figures["step_eV"] == pytest.approx(2.0**-5 if unit == 1.0 else 2.0**-10 * HARTREE)


def test_energies_of_few_decimals_have_no_single_precision():
    assert single_precision_step(np.array([-10.5, -371.25, -1024.125])) is None
    assert single_precision_step(np.array([-1101.9, -1101.8, -1101.5])) is None
    assert single_precision_step(np.float32([-1101.9, -1101.8, -1101.5])) == 2.0**-13


def test_right_molecules_are_left_alone():
    assert inspect(methane()) == []
    assert inspect([]) == []


@pytest.mark.parametrize(
    "name",
    ["gradients", "energies in Hartree", "energies in kcal/mol", "energies per atom", "forces in Hartree/bohr", "forces in kcal/mol/Angstrom",
     "gradients in atomic units, energies in eV", "atomic units", "kcal/mol throughout", "lengths in bohr", "two elements exchanged",
     "forces filled with zeros", "forces copied", "energies copied", "a frame twice with other labels", "forces sorted by element",
     "forces permuted among frames", "energies permuted among frames", "two levels under one name", "unconverged energies", "unconverged forces",
     "energies with one decimal", "forces with two decimals", "a drift on every atom", "unpaired electrons as multiplicity", "one electron too few",
     "NaN labels"],
)  # fmt: skip
def test_planted_fault_is_named(name):
    fault = next(item for item in planted_labels.FAULTS if item.name == name)
    found = inspect(fault.plant(methane(), np.random.default_rng(1)))
    assert planted_labels.named(fault, found), [str(item) for item in found]


def test_faults_have_codes_of_the_list_and_every_set_is_chosen_without_looking():
    for fault in planted_labels.FAULTS:
        assert {code for codes in fault.codes for code in codes.split("|")} <= set(CODES)
    known = {name: planted_labels.facts(methane(30, seed)) for seed, name in enumerate("abc")}
    assert len({tuple(planted_labels.chosen_sets(fault, known, 2)) for fault in planted_labels.FAULTS}) > 2


def test_free_atoms_have_the_energies_of_textbooks():
    """Hartree, exact non-relativistic: C -37.845, O -75.067, Ne -128.938, Ar -527.54 (Chakravorty et al., Phys. Rev. A 47, 3649, 1993)."""
    expected = np.array([-37.845, -75.067, -128.938, -527.54])
    assert atom_energy(np.array([6, 8, 10, 18])) / HARTREE == pytest.approx(expected, rel=0.01)


def test_work_in_inverse_distances_does_not_see_rotation_and_translation():
    a, b = methane(2)
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    moved = b.replace(positions=b.positions @ turn + 3.0, labels=b.labels | {"forces": b.labels["forces"] @ turn})
    first = work_inside(inverse_distances(a), inverse_distances(b), 0.0).forces
    assert work_inside(inverse_distances(a), inverse_distances(moved), 0.0).forces == pytest.approx(first, abs=1e-8)


def test_work_of_a_harmonic_crystal_is_its_energy_to_the_last_digit():
    """The trapezoid is exact to second order, across the boundary too."""
    rng = np.random.default_rng(0)
    home = np.array([[0.1, 0.1, 0.1], [2.5, 2.5, 2.5]])

    def frame(step):
        labels = {"energy": float(np.sum(step**2)) * 3, "forces": -6 * step}
        return Structure([11, 17], (home + step) % 5.0, cell=np.eye(3) * 5, pbc=True, labels=labels)

    steps = rng.normal(scale=0.1, size=(2, 2, 3))
    steps -= steps.mean(axis=1, keepdims=True)
    a, b = frame(steps[0]), frame(steps[1])
    assert work(a, b).forces == pytest.approx(float(b.labels["energy"] - a.labels["energy"]), abs=1e-12)


def test_strain_between_cells():
    cell = np.array([[4.0, 0, 0], [1, 5, 0], [0, 1, 6]])
    strain = np.array([[0.01, 0.002, 0], [0.002, 0, 0], [0, 0, -0.01]])
    a = Structure([3, 3], np.array([[0, 0, 0], [2, 2, 2.0]]), cell=cell, pbc=True)
    b = a.replace(cell=cell @ (np.eye(3) + strain))
    assert strain_between(a, b) == pytest.approx(strain, abs=1e-4)


def test_stiffness_of_bonds_is_the_force_constant():
    frames = methane(40)
    kinds = stiffness(frames, [neighbors_of(s) for s in frames])
    assert kinds[0].bond == "H-C"
    assert kinds[0].value == pytest.approx(31 + 3 * 4 * 2 / 3, rel=0.15)  # and what the springs to other atoms add along the bond
    assert force_scale(kinds) == pytest.approx(1.2, abs=0.25)


def test_a_charge_alone_that_makes_electrons_odd_is_a_doubt():
    """A cation of a closed-shell molecule is no singlet: without its multiplicity it would be taken for one."""
    frames = [s.replace(total_charge=1, spin_multiplicity=None) for s in methane(12)]
    (found,) = [item for item in inspect(frames) if item.code == "impossible-state"]
    assert (found.severity, found.figures["frames"]) == ("doubt", 12)
    both = [s.replace(total_charge=1, spin_multiplicity=2) for s in methane(12)]
    assert not [item for item in inspect(both) if item.code == "impossible-state"]
    doublet = [s.replace(total_charge=None, spin_multiplicity=2) for s in methane(12)]
    assert [item.severity for item in inspect(doublet) if item.code == "impossible-state"] == ["doubt"]


def test_forces_that_nothing_was_held_against_are_named():
    """Cells far from each other, no hydrogen: nothing was found, because nothing could be."""
    rng = np.random.default_rng(0)
    lattice = 2.6 * np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])
    frames = []
    for _ in range(12):
        size = rng.uniform(0.8, 1.2)
        labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(8, 3))}
        frames.append(
            Structure([29] * 8, size * lattice + rng.normal(scale=0.2, size=(8, 3)), 5.2 * size * np.eye(3), [True] * 3, labels=labels)
        )
    assert any("were not tested" in item.words for item in inspect(frames) if item.code == "not-sampled")
    assert not any("were not tested" in item.words for item in inspect(methane(40)))


def test_bonds_that_hardly_stretch_say_nothing_about_forces():
    """Relaxed crystals of many compounds: the length that a bond wants differs by 0.006 Å from one to the next, and forces are what is left of it."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(30):
        stretch = rng.normal(scale=0.006)
        forces = np.array([[0, 0, -2.4 * stretch], [0, 0, 2.4 * stretch]])  # against the bond: a tenth of its stiffness, and the wrong sign
        frames.append(Structure([7, 1], [[0, 0, 0], [0, 0, 1.02 + stretch]], labels={"forces": -forces}))
    assert force_scale(stiffness(frames, [neighbors_of(s) for s in frames])) is None


def test_slope_ignores_a_few_wild_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    y = 0.5 * x
    y[:5] += 100
    found = agreement(x, y, np.ones(100))
    assert found.slope == pytest.approx(0.5)
    assert found.fit > 0.6
    assert agreement(x, rng.permutation(y), np.ones(100)).fit < 0.15


@pytest.mark.parametrize(
    ("slope", "stretch", "absolute", "expected"),
    [
        (1.0, 1.0, "eV", ("eV", "eV/Angstrom", 1)),
        (0.96, 0.8, None, ("eV", "eV/Angstrom", 1)),
        (-1.0, None, None, ("eV", "eV/Angstrom", -1)),
        (1 / HARTREE, None, None, ("Hartree", "eV/Angstrom", 1)),
        (1 / KCAL_MOL, None, None, ("kcal/mol", "eV/Angstrom", 1)),
        (KCAL_MOL, None, None, ("eV", "kcal/mol/Angstrom", 1)),
        (HARTREE / BOHR, None, None, ("eV", "Hartree/bohr", 1)),
        (HARTREE / BOHR, BOHR / HARTREE, "eV", ("eV", "Hartree/bohr", 1)),
        (1 / BOHR, None, None, ("Hartree", "Hartree/bohr", 1)),
        (1.0, 1 / KCAL_MOL, None, ("kcal/mol", "kcal/mol/Angstrom", 1)),
    ],
)
def test_measured_ratios_name_units(slope, stretch, absolute, expected):
    """Slope: dE over work in the numbers of the file, 1/27.2 for Hartree and eV/Å. Stretch: stiffness of bonds over what it should be."""
    evidence = Evidence(Agreement(slope, 0.9, 50, 0.01), Agreement(slope, 0.3, 50, 0.5), stretch, absolute)
    best = unit_guesses(evidence)[0]
    assert (best.energy, best.forces, best.sign) == expected


def test_ratios_of_stress_name_units():
    assert (stress_unit_guesses(-GPA / 10, None, 0.05)[0].unit, stress_unit_guesses(-GPA / 10, None, 0.05)[0].sign) == ("kbar", -1)
    assert stress_unit_guesses(GPA, None, 0.05)[0].unit == "GPa"
    assert stress_unit_guesses(-1 / 40.0, np.full(5, 40.0), 0.05)[0].unit == "virial"
    assert stress_unit_guesses(1.1, np.full(5, 40.0), 0.1)[0].clean


def test_order_of_shear_is_found():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(30, 3, 3))
    true += true.transpose(0, 2, 1)
    read = np.array(true)
    for m, t in zip(read, true, strict=True):  # written xy, yz, xz; read as yz, xz, xy
        m[1, 2] = m[2, 1] = t[0, 1]
        m[0, 2] = m[2, 0] = t[1, 2]
        m[0, 1] = m[1, 0] = t[0, 2]
    found = better_order(read, true)
    assert found is not None
    assert found[0] == "xx,yy,zz,xy,yz,xz"
    assert better_order(true, true) is None


def test_orders_put_rows_back():
    numbers = np.array([8, 1, 6, 1])
    rows = np.arange(4)
    for words, index in orders(numbers):
        if words == "sorted by atomic number":
            assert rows[np.argsort(numbers, kind="stable")][index].tolist() == rows.tolist()
            return
    pytest.fail("no such order")


def test_a_crystal_with_a_cell_in_bohr_is_mended():
    copper = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 3.61
    block = np.concatenate([copper + 3.61 * np.array([i, j, k]) for i in range(2) for j in range(2) for k in range(2)])
    right = Structure(np.full(32, 29), block, cell=np.eye(3) * 7.22, pbc=True)
    assert naturalness(right) == 1.0
    assert boundary(right) == 1.0
    for correction in CORRECTIONS:
        if not correction.transposed:
            wrong = Structure.trusted(
                **{name: getattr(right, name) for name in right.__dataclass_fields__}
                | {"positions": block / correction.positions, "cell": right.cell / correction.cell}
            )
            verdict = length_fault([wrong] * 12)
            assert verdict is not None
            assert verdict.correction.code == correction.code


def test_forces_of_a_molecule_do_not_turn_it():
    s = methane(1)[0]
    assert mean_torque(s.positions, s.labels["forces"]) < 1e-12
    assert mean_torque(s.positions, s.labels["forces"][::-1]) > 0.03


def test_decimals_steps_and_clusters():
    assert [decimals(np.array(v)) for v in ([1.0, 2.0], [0.25, -1.5], [0.123456], [1 / 3])] == [0, 2, 6, 7]
    assert rounding(np.array([-10.5, 3.0, 0.25])) == pytest.approx(0.25)
    assert rounding(np.array([1 / 3, 0.1])) is None
    clusters = energy_clusters(np.concatenate([np.linspace(0, 0.1, 50), np.linspace(1, 1.1, 40)]))
    assert clusters is not None
    assert clusters.distance == pytest.approx(1.0, abs=0.02)
    assert clusters.part == pytest.approx(40 / 90)


def test_sample_is_bounded_even_and_keeps_neighbours():
    sample = LevelSample()
    for index, s in enumerate(methane(1)[0] for _ in range(3000)):
        sample.add(index, s)
    frames = [frame.index for frame in sample.frames()]
    assert FRAMES - 24 <= len(frames) <= FRAMES
    assert np.mean(np.diff(frames) == 1) > 0.8
    assert max(frames) > 2500
    many = LevelSample()
    one = methane(1)[0]
    for index in range(2000):
        many.add(index, one.replace(provenance=Provenance(group=str(index % 1000))))
    assert len(many.frames()) <= FRAMES
    assert sum(len(frame.structure) for frame in many.frames()) <= ATOMS
    assert all(len(family.frames) == 2 for family in many.families.values())  # both frames of a family, or none


def test_levels_are_judged_apart():
    good, bad = methane(40), [s.replace(level="other", labels=s.labels | {"forces": -s.labels["forces"]}) for s in methane(40, 7)]
    found = inspect([*good, *bad])
    assert [(item.code, item.level) for item in found] == [("forces-sign", "other")]
    assert "--forces-sign -1" in found[0].hint
    assert json.loads(json.dumps(found[0].as_dict()))["code"] == "forces-sign"


def test_indices_are_positions_in_the_stream():
    inspector = Inspector()
    frames = methane(20)
    frames[13] = planted_labels.changed(frames[13], total_charge=1)
    for s in frames:
        inspector.add(s)
    assert inspector.findings()[0].indices == (13,)


def test_command_on_a_store_and_a_file(tmp_path, capsys):
    right, wrong = tmp_path / "right", tmp_path / "wrong.xyz"
    with StoreWriter(right, name="right") as writer:
        for s in methane(30):
            writer.add(s)
    turned = [s.replace(labels=s.labels | {"forces": -s.labels["forces"]}) for s in methane(30)]
    export_extxyz(iter(turned), wrong)
    assert run("data", "check-labels", right) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    assert run("data", "check-labels", str(wrong), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [item["code"] for item in report[str(wrong)]] == ["forces-sign"]


def test_frames_that_cannot_be_read_are_named_and_a_file_without_others_is_refused(tmp_path, capsys):
    (tmp_path / "table.json").write_text('{"rows": [1, 2, 3]}')
    assert run("data", "check-labels", tmp_path / "table.json") == 2
    assert "1 of 1 frames cannot be read; the first, frame 0: no structure in this entry" in capsys.readouterr().err
    export_extxyz(iter(methane(3)), tmp_path / "some.xyz")
    (tmp_path / "some.xyz").write_text((tmp_path / "some.xyz").read_text().replace("C ", "Xx ", 1))
    with pytest.warns(MlipfmWarning, match="1 of 3 frames cannot be read; the first, frame 0: no element is named 'Xx'"):
        assert [item.code for item in findings_of(tmp_path / "some.xyz")] == ["not-sampled"]


def test_columns_of_a_model_and_their_names(tmp_path, capsys):
    path, rng = tmp_path / "two.xyz", np.random.default_rng(0)
    lines = []
    for s in methane(12):
        guess = float(s.labels["energy"]) + 0.01 * rng.normal()
        head = f'Properties=species:S:1:pos:R:3:forces:R:3 energy={float(s.labels["energy"])!r} predicted_energy={guess!r} pbc="F F F"'
        rows = [
            ["C", "H", "H", "H", "H"][k] + " " + " ".join(repr(float(x)) for x in (*s.positions[k], *s.labels["forces"][k]))
            for k in range(5)
        ]
        lines += ["5", head, *rows]
    path.write_text("\n".join(lines) + "\n")
    assert run("data", "check-labels", str(path)) == 0
    out = capsys.readouterr().out
    assert "doubt model-column" in out
    assert "'predicted_energy'" in out
    assert run("data", "check-labels", str(path), "--option", "energy_key=predicted_energy") == 1
    assert "fault model-labels" in capsys.readouterr().out


def test_import_says_what_is_wrong(tmp_path, capsys):
    wrong = tmp_path / "wrong.xyz"
    export_extxyz(iter([s.replace(labels=s.labels | {"forces": -s.labels["forces"]}) for s in methane(30)]), wrong)
    words = ("data", "import", str(wrong), "--out", str(tmp_path / "store"))
    assert run(*words) == 2
    assert "forces sign 1 is assumed, and so read the labels contradict it: fault forces-sign [springs]" in capsys.readouterr().err
    assert run(*words, "--accept-label-errors") == 0
    assert "fault forces-sign [springs]" in capsys.readouterr().out
    assert run("data", "check-labels", str(tmp_path / "store")) == 1  # which does not say how it was imported
    assert "import with --forces-sign -1 if it was imported without this option" in capsys.readouterr().out
