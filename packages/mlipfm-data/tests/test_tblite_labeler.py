"""Labels of GFN1-xTB and GFN2-xTB: published energies, finite differences, and what is refused."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mlipfm_data import tblite_adapter
from mlipfm_data.tblite_labeler import FOREIGN, TbliteLabeler
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import LabelingError, MlipfmError
from mlipfm_interfaces.foreign import ForeignModel, ForeignPackage, open_foreign
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.theory import canonical_level
from mlipfm_interfaces.units import BOHR, DEBYE, HARTREE

pytest.importorskip("tblite", reason="the extra `tblite` is not installed")

# bohr; the examples of the documentation of tblite.interface (Calculator: 16 atoms of mixed elements; Result: silane), with their GFN2 energies
MIXED = (
    [1, 1, 6, 5, 1, 15, 8, 17, 13, 15, 5, 1, 9, 15, 1, 15],
    [
        [+2.79274810283778, +3.82998228828316, -2.79287054959216],
        [-1.43447454186833, +0.43418729987882, +5.53854345129809],
        [-3.26268343665218, -2.50644032426151, -1.56631149351046],
        [+2.14548759959147, -0.88798018953965, -2.24592534506187],
        [-4.30233097423181, -3.93631518670031, -0.48930754109119],
        [+0.06107643564880, -3.82467931731366, -2.22333344469482],
        [+0.41168550401858, +0.58105573172764, +5.56854609916143],
        [+4.41363836635653, +3.92515871809283, +2.57961724984000],
        [+1.33707758998700, +1.40194471661647, +1.97530004949523],
        [+3.08342709834868, +1.72520024666801, -4.42666116106828],
        [-3.02346932078505, +0.04438199934191, -0.27636197425010],
        [+1.11508390868455, -0.97617412809198, +6.25462847718180],
        [+0.61938955433011, +2.17903547389232, -6.21279842416963],
        [-2.67491681346835, +3.00175899761859, +1.05038813614845],
        [-4.13181080289514, -2.34226739863660, -3.44356159392859],
        [+2.85007173009739, -2.64884892757600, +0.71010806424206],
    ],
    -31.716159156026254,
)
A = 1.617683897558
SILANE = ([14, 1, 1, 1, 1], [[0, 0, 0], [A, A, -A], [-A, -A, -A], [A, -A, A], [-A, A, A]], -3.7632337506836944)


def water(charge: int | None = 0, **state) -> Structure:
    return Structure([8, 1, 1], [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0.1, -0.7572, -0.4692]], total_charge=charge, **state)


def salt() -> Structure:
    """A sheared cell of NaCl with its atoms out of place: forces and every component of the stress."""
    cell = np.array([[0.0, 2.8, 2.7], [2.9, 0.1, 2.8], [2.8, 2.7, 0.0]])
    return Structure([11, 17], np.array([[0, 0, 0], [0.53, 0.5, 0.49]]) @ cell, cell, True, total_charge=0)


@pytest.mark.parametrize("example", [MIXED, SILANE])
def test_gfn2_gives_the_energies_of_the_documentation_of_tblite(example):
    numbers, positions, hartree = example
    labelled = TbliteLabeler("GFN2-xTB").label(Structure(numbers, np.array(positions, dtype=float) * BOHR, total_charge=0))
    assert labelled.labels["energy"] == pytest.approx(hartree * HARTREE, abs=1e-5)
    assert labelled.level == "gfn2-xtb"


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_forces_are_minus_the_gradient_of_the_energy(method):
    labeler, s, h = TbliteLabeler(method), water(), 1e-3
    forces = labeler.label(s).labels["forces"]
    for atom, axis in [(0, 2), (1, 1), (2, 0)]:
        step = np.zeros((3, 3))
        step[atom, axis] = h
        up, down = (labeler.label(s.replace(positions=s.positions + sign * step)).labels["energy"] for sign in (1, -1))
        assert forces[atom, axis] == pytest.approx(-(up - down) / (2 * h), abs=5e-5)


def test_stress_is_the_derivative_by_strain_over_the_volume_and_negative_when_compressed():
    labeler, s, h = TbliteLabeler(), salt(), 1e-3
    stress, volume = labeler.label(s).labels["stress"], abs(np.linalg.det(s.cell))
    for a, b in [(0, 0), (0, 1)]:
        strain = np.zeros((3, 3))
        strain[a, b] += h / 2
        strain[b, a] += h / 2
        strained = (s.replace(positions=s.positions @ f, cell=s.cell @ f) for f in (np.eye(3) + strain, np.eye(3) - strain))
        up, down = (labeler.label(each).labels["energy"] for each in strained)
        assert stress[a, b] == pytest.approx((up - down) / (2 * h * volume), abs=2e-5)
    squeezed = s.replace(positions=s.positions * 0.9, cell=s.cell * 0.9)
    assert np.trace(labeler.label(squeezed).labels["stress"]) < 0


def test_the_dipole_points_from_minus_to_plus_and_is_minus_the_derivative_by_the_field():
    labeler, s, h = TbliteLabeler(), water(), 0.02
    dipole = labeler.label(s).labels["dipole"]
    assert 1.5 < np.linalg.norm(dipole) / DEBYE < 2.7  # experiment: 1.86 D, GFN2 is known to be a little high
    assert dipole[2] < 0  # oxygen, negative, is at positive z
    for axis in (0, 2):
        field = np.zeros(3)
        field[axis] = h
        up, down = (labeler.label(s.replace(external_field=sign * field)).labels["energy"] for sign in (1, -1))
        assert dipole[axis] == pytest.approx(-(up - down) / (2 * h), abs=2e-4)


def test_charge_and_spin_change_the_energy_and_the_charges_add_up():
    labeler = TbliteLabeler()
    cation, neutral = labeler.label(water(1, spin_multiplicity=2)), labeler.label(water(0))
    assert cation.labels["energy"] - neutral.labels["energy"] > 5  # ionisation takes more than 5 eV
    assert cation.labels["charges"].sum() == pytest.approx(1, abs=1e-6)
    assert labeler.label(water(0, spin_multiplicity=3)).labels["energy"] > neutral.labels["energy"] + 2
    assert "dipole" not in cation.labels  # it would depend on the origin
    assert "stress" not in neutral.labels
    assert "dipole" not in labeler.label(salt()).labels


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 1), (1, 2), (-1, 2), (2, 1)])
def test_a_multiplicity_that_is_not_stated_is_the_lowest_one_and_is_then_stated(charge, multiplicity):
    labelled = TbliteLabeler().label(water(charge))
    stated = TbliteLabeler().label(water(charge, spin_multiplicity=multiplicity))
    assert labelled.spin_multiplicity == multiplicity
    assert labelled.labels["energy"].tobytes() == stated.labels["energy"].tobytes()


def test_earlier_labels_are_dropped_and_the_rest_is_kept():
    before = water(
        0, level="pbe", labels={"energy": -1.0, "homo": -7.0}, label_std={"energy": 0.1}, provenance=Provenance("set", "water", 3)
    )
    after = TbliteLabeler().label(before)
    assert set(after.labels) == {"energy", "forces", "charges", "dipole"}
    assert dict(after.label_std) == {}
    assert after.provenance == before.provenance


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (water(None), "set:water:3: GFN2-xTB of H2O: the total charge is not given; set `total_charge`"),
        (Structure([1, 1], [[0, 0, 0], [0, 0, 0]], total_charge=0), "GFN2-xTB of H2: Too close interatomic distances"),
        (Structure([1, 99], [[0, 0, 0], [0, 0, 2]], total_charge=0), "No support for elements with Z >86"),
        # tblite 0.8 itself: the energy of the charge 8 and memory written out of bounds; a triplet of wrong charge; the state of multiplicity 7
        (water(10), "H2O: -2 valence electrons, 0 of them unpaired, in 6 orbitals: there is no such state; check total charge and spin"),
        (water(-5), "13 valence electrons, 1 of them unpaired, in 6 orbitals: there is no such state"),
        (water(2, spin_multiplicity=9), "6 valence electrons, 8 of them unpaired, in 6 orbitals: there is no such state"),
        (
            Structure([58, 8], [[0, 0, 0], [0, 0, 1.8]], total_charge=0),
            "9 valence electrons, 0 of them unpaired, .* f electrons of lanthanides",
        ),
        (salt().replace(pbc=[True, True, False]), "periodic in three directions or in none, got pbc .*; add a vacuum"),
        (salt().replace(external_field=[0, 0, 0.1]), "an external field in a periodic cell is not defined"),
        # 250 cycles are not enough for oxygen and two hydrogens on a line, far apart, with one electron missing
        (Structure([8, 1, 1], np.arange(9).reshape(3, 3) * 0.7, total_charge=1), "SCF not converged in 250 cycles"),
    ],
)
def test_what_cannot_be_labelled_is_refused_in_one_line(structure, said):
    with pytest.raises(LabelingError, match=said):
        TbliteLabeler().label(structure.replace(provenance=Provenance("set", "water", 3)))


def test_an_unknown_method_is_answered_with_those_there_are():
    with pytest.raises(LabelingError, match="tblite has no method 'GFN3'; choose one of: GFN1-xTB, GFN2-xTB"):
        TbliteLabeler("GFN3")


def test_labellers_are_found_by_their_level_and_can_be_pickled():
    for name in ("gfn1-xtb", "gfn2-xtb"):
        labeler = plugins.load("labelers", name)()
        assert labeler.level == name == canonical_level(labeler.method)
        assert pickle.loads(pickle.dumps(labeler)) == labeler


def test_valence_electrons_are_those_that_tblite_fills_in():
    """The sum of its orbital occupations, for every element whose neutral atom converges."""
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    checked = 0
    for z in range(1, 87):
        valence = tblite_adapter.valence_electrons(z)
        calculator = Calculator("GFN2-xTB", np.array([z]), np.zeros((1, 3)), 0.0, valence % 2)
        calculator.set("verbosity", 0)
        try:
            occupations = calculator.singlepoint().get("orbital-occupations")
        except TBLiteRuntimeError:
            continue
        checked += 1
        assert occupations.sum() == pytest.approx(valence, abs=1e-6), z
    assert checked > 60


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_extreme_charges_and_multiplicities_are_labelled_as_stated_or_refused(method):
    labelled = 0
    for charge in range(-8, 11):
        for multiplicity in range(1 + charge % 2, 11, 2):
            try:
                s = TbliteLabeler(method).label(water(charge, spin_multiplicity=multiplicity))
            except MlipfmError:
                continue
            labelled += 1
            assert s.labels["charges"].sum() == pytest.approx(charge, abs=1e-3)
    assert labelled > 10


def test_constants_of_the_adapter_are_those_of_the_units():
    assert (tblite_adapter.HARTREE, tblite_adapter.BOHR) == (HARTREE, BOHR)


BITS = """
import numpy as np, sys
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.structure import Structure
rng = np.random.default_rng(5)
base = np.array([[1.17, -0.4, 0], [0, 0.56, 0], [-1.19, -0.23, 0], [-1.95, 0.38, 0], [0.04, 1.21, 0.89], [0.04, 1.21, -0.89],
                 [2.12, 0.14, 0], [1.13, -1.04, 0.89], [1.13, -1.04, -0.89]])
set_ = [Structure([6, 6, 8, 1, 1, 1, 1, 1, 1], base + rng.normal(size=(9, 3)) * 0.05, total_charge=0) for _ in range(6)]
order = [int(k) for k in sys.argv[1].split(",")]
bits = {k: TbliteLabeler().label(set_[k]).labels for k in order}
print(" ".join(bits[k][q].tobytes().hex() for k in (0, 1) for q in ("energy", "forces", "charges", "dipole")))
"""


def test_labels_have_the_same_bits_in_any_order_in_any_process_whatever_the_number_of_threads():
    def run(order: str, threads: str) -> str:
        env = os.environ | {"OMP_NUM_THREADS": threads}
        return subprocess.run([sys.executable, "-c", BITS, order], env=env, capture_output=True, text=True, check=True, timeout=100).stdout

    assert run("0,1", "1") == run("5,1,4,3,0", "2")


def test_labelling_leaves_the_threads_of_this_process_as_they_were():
    openmp = tblite_adapter._openmp()
    if openmp is None:
        pytest.skip("this tblite has no OpenMP runtime that can be set")
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(2)
    TbliteLabeler().label(water())
    after = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(before)
    assert after == 2


def test_tblite_as_a_foreign_model_gives_the_labels_bit_for_bit_in_this_process_and_in_a_worker():
    s = water(1, spin_multiplicity=2)
    labels = TbliteLabeler("GFN2-xTB").label(s).labels
    with open_foreign("tblite:GFN2") as here, ForeignModel("tblite:GFN2", ForeignPackage((), FOREIGN.adapter), "GFN2") as there:
        assert here.outputs == there.outputs == ("energy", "forces", "stress", "charges", "dipole")
        assert here.versions["tblite"] == there.versions["tblite"]
        for model in (here, there):
            (row,) = model.evaluate([s], ("energy", "forces", "charges"))
            assert all(row[key].tobytes() == labels[key].tobytes() for key in row)


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_labels_do_not_depend_on_what_was_labelled_before(method):
    """The same bits from a thread that labelled other geometries of the same atoms, also one that did not converge, and from a fresh one."""
    rng = np.random.default_rng(2)
    water = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    wild = np.arange(9).reshape(3, 3) * 0.7  # of the cation, no convergence
    near = [water + rng.normal(scale=0.1, size=(3, 3)) for _ in range(3)]
    states = [(near[0], 0), (near[0], 1), (wild, 1), (near[1], 1), (near[1], 0), (near[2], 0)]
    inputs = [Structure([8, 1, 1], x, total_charge=charge) for x, charge in states]
    labeler = TbliteLabeler(method)

    def bits(s: Structure) -> dict[str, bytes] | str:
        try:
            return {key: value.tobytes() for key, value in labeler.label(s).labels.items()}
        except LabelingError as error:
            return str(error)

    def fresh(s: Structure) -> dict[str, bytes] | str:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(bits, s).result()

    expected = [fresh(s) for s in inputs]
    assert [bits(s) for s in inputs] == expected
    assert [bits(s) for s in reversed(inputs)] == expected[::-1]
