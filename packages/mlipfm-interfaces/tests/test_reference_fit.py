"""Atomic references: closed forms of the fit, isolated atoms, and what compositions leave open."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.reference_fit import LevelSums, Prior, fit_level, is_lone_atom, report_references
from mlipfm_interfaces.reference_rank import UndeterminedReferences, independent_combinations
from mlipfm_interfaces.structure import Structure

E0 = {1: -13.6, 6: -1029.0, 8: -2042.5, 13: -499.9, 29: -999.9}


def made(symbols: str, energy: float | None = None, level: str = "pbe", **changes) -> Structure:
    """Atoms 2 Å apart on a line, with the sum of the planted energies unless another one is given."""
    numbers = [number(name) for name in symbols.split()]
    labels = {"energy": sum(E0[z] for z in numbers) if energy is None else energy, **changes.pop("labels", {})}
    return Structure(numbers, 2.0 * np.arange(len(numbers))[:, None] * np.eye(3)[0], level=level, labels=labels, **changes)


def sums_of(*structures: Structure) -> LevelSums:
    sums = LevelSums()
    for s in structures:
        sums.add(s)
    return sums


MOLECULES = ["H H", "O H H", "C H H H H", "C O", "C O O"]


def test_planted_energies_come_out_to_the_last_digits_whatever_the_weights():
    rng = np.random.default_rng(0)
    structures = [made(m, labels={"weight": 10.0 ** rng.uniform(-6, 3)}) for m in MOLECULES for _ in range(5)]
    found = report_references(structures)["pbe"]
    assert found.references.energies == pytest.approx({z: E0[z] for z in (1, 6, 8)}, abs=1e-9)
    assert (found.references.rank, found.undetermined) == (3, None)


def test_weights_enter_as_in_least_squares():
    one, other = made("H H", -30.0, labels={"weight": 3.0}), made("H H", -34.0)
    assert report_references([one, other])["pbe"].references.energies[1] == pytest.approx((3 * -15.0 + -17.0) / 4, abs=1e-12)


def test_structures_of_weight_zero_change_nothing_not_even_the_elements():
    good = [made(m) for m in MOLECULES]
    bad = [made("H Al", 1000.0, labels={"weight": 0.0}), made("C", -5.0, labels={"weight": 0.0})]
    with_bad, without = report_references([*bad, *good])["pbe"], report_references(good)["pbe"]
    assert with_bad == without


def test_the_smallest_shift_is_that_of_the_pseudoinverse():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, (3, 5)) + np.eye(3, 5, dtype=int)
    names = ["H", "C", "O", "Al", "Cu"]
    energies = rng.normal(size=3) + counts @ [E0[number(name)] for name in names]
    structures = [
        made(" ".join(n for n, k in zip(names, row, strict=True) for _ in range(k)), e) for row, e in zip(counts, energies, strict=True)
    ]
    found = fit_level("new", sums_of(*structures), prior=Prior(E0, "an older model"))
    shift = np.linalg.pinv(counts) @ (energies - counts @ [E0[number(name)] for name in names])
    assert [found.shift[number(name)] for name in names] == pytest.approx(shift, abs=1e-9)
    assert (found.references.rank, len(found.undetermined.combinations)) == (3, 2)


def test_a_shift_of_one_alloy_is_shared_as_its_composition():
    """-0.5 eV for each Cu and +0.3 for each Al are -1.2 eV for AlCu3: nearest to nothing are -0.36 and -0.12."""
    found = fit_level("b", sums_of(made("Al Cu Cu Cu", -499.9 - 3 * 999.9 - 1.2)), prior=Prior(E0, "level a"))
    assert found.references.energies[29] == pytest.approx(-999.9 - 0.36, abs=1e-9)
    assert found.references.energies[13] == pytest.approx(-499.9 - 0.12, abs=1e-9)
    assert found.undetermined.words() == ["Al and Cu are only determined in the ratio 1:3", "no energy determines H, C and O"]
    assert found.undetermined.open_part([13, 29, 29, 29] * 2) == 0.0
    assert found.undetermined.open_part([29] * 4) == pytest.approx(1 / np.sqrt(10))
    assert found.undetermined.open_part([13] * 4) == pytest.approx(3 / np.sqrt(10))


def test_known_energies_stay_where_they_are_and_new_elements_take_the_rest():
    known = {1: -13.0, 6: -1029.0}
    found = fit_level("a", sums_of(made("O H H"), made("C O")), prior=Prior(known, "the model", fixed=True))
    assert (found.references.energies[1], found.references.energies[6]) == (-13.0, -1029.0)
    assert found.references.energies[8] == pytest.approx((2 * -13.6 + 2 * 13.0 - 2042.5 - 2042.5) / 2, abs=1e-9)
    assert found.undetermined is None


def test_what_an_older_fit_left_open_may_still_move():
    first = fit_level("b", sums_of(made("Al Cu Cu Cu", -3501.0)), prior=Prior({13: -499.9, 29: -999.9}, "level a"))
    second = Prior(first.references.energies, "the model", fixed=True, free=first.undetermined)
    found = fit_level("b", sums_of(made("Cu Cu", -2000.8)), prior=second)
    assert found.references.energies[29] == pytest.approx(-1000.4, abs=1e-9)
    assert found.references.energies[13] + 3 * found.references.energies[29] == pytest.approx(-3501.0, abs=1e-9)
    assert found.undetermined is None


@pytest.mark.parametrize("counts", [(27, 12, 44), (6, 5, 7), (3, 1, 1)])
def test_a_second_fit_of_one_composition_moves_nothing(counts: tuple[int, ...]) -> None:
    """What the first fit leaves open is orthogonal to the composition up to rounding, which is no information (it once moved Li by 1e13 eV)."""
    z = np.repeat([3, 15, 16], counts)
    crystal = Structure(z, 2.0 * np.arange(len(z))[:, None] * np.eye(3)[0], level="pbe", labels={"energy": -4.1 * len(z)})
    first = fit_level("pbe", sums_of(crystal))
    again = Prior(first.references.energies, "the model", fixed=True, free=first.undetermined)
    second = fit_level("pbe", sums_of(crystal.replace(labels={"energy": -4.0 * len(z)})), prior=again)
    assert second.references.energies == pytest.approx(first.references.energies)
    assert second.references.rank == 1


def test_a_level_beside_another_is_the_nearest_shift_of_it():
    whole = [made(m) for m in MOLECULES]
    far = [made(m, 0.1 * made(m).labels["energy"], level="xtb") for m in MOLECULES]
    poor = [made("O H H", -2069.7 - 0.9, level="pbe0")]
    found = report_references([*whole, *far, *poor])["pbe0"]
    assert found.origin == "level pbe"
    assert found.references.energies == pytest.approx({1: -13.6 - 0.36, 8: -2042.5 - 0.18}, abs=1e-9)
    assert set(found.references.energies) == {1, 8}


CUBE = 14.0 * np.eye(3)


@pytest.mark.parametrize(
    ("changes", "lone"),
    [
        ({}, True),
        ({"cell": CUBE, "pbc": True}, True),
        ({"cell": CUBE, "pbc": [True, True, False]}, True),
        ({"cell": np.diag([14.0, 14.0, 4.0]), "pbc": [True, True, False]}, True),
        ({"cell": np.diag([14.0, 14.0, 4.0]), "pbc": True}, False),
        ({"cell": 3.6 * (1 - np.eye(3)) / 2, "pbc": True}, False),
        ({"cell": 9.0 * (1 - np.eye(3)) / 2, "pbc": True}, False),
        ({"cell": [[14.0, 0, 0], [13.0, 3.0, 0], [0, 0, 14.0]], "pbc": True}, False),
        ({"cell": CUBE, "pbc": True, "total_charge": 1}, False),
        ({"cell": CUBE, "pbc": True, "total_charge": 0, "spin_multiplicity": 2}, True),
    ],
)
def test_an_atom_is_lone_if_it_has_no_neighbour_nor_an_image(changes, lone):
    assert is_lone_atom(made("Cu", **changes)) is lone


def test_lone_atoms_are_kept_and_crystals_of_one_atom_a_cell_are_fitted():
    crystal = made("Cu", -1003.0, cell=3.6 * (1 - np.eye(3)) / 2, pbc=True)
    found = report_references([crystal, crystal, made("Cu", -996.49, cell=CUBE, pbc=True), made("Al Cu", -1499.9)])["pbe"]
    assert found.references.energies == pytest.approx({13: -503.41, 29: -996.49}, abs=1e-9)
    assert dict(found.given) == {29: "isolated atom"}
    assert report_references([crystal, made("Cu", -996.49)], isolated=False)["pbe"].references.energies[29] == pytest.approx(-999.745)


def test_the_lowest_of_several_lone_atoms_is_taken_and_said():
    found = report_references([made("O", -2041.0), made("O", -2042.5), made("O", -2030.0, total_charge=1)])["pbe"]
    assert found.references.energies == {8: -2042.5}
    assert found.notes == ["2 lone O atoms have energies from -2042.5000 to -2041.0000 eV (spin states?): the lowest is taken"]
    assert report_references([made("O"), made("O")])["pbe"].notes == []


def test_lone_ions_do_not_pull_the_energy_of_their_element():
    proton = made("H", 0.0, total_charge=1)
    found = report_references([made("H H"), made("O H H"), proton, proton])["pbe"]
    assert found.references.energies == pytest.approx({1: -13.6, 8: -2042.5}, abs=1e-9)
    assert report_references([made("O"), proton])["pbe"].references.energies == pytest.approx({1: 0.0, 8: -2042.5})


def test_given_energies_hold_for_all_levels_or_for_one():
    structures = [made("Al Cu"), made("Al Cu", level="b")]
    assert report_references(structures, given={"Al": -500.0})["b"].references.energies == pytest.approx({13: -500.0, 29: -999.8})
    one = report_references(structures, given={"b": {"Al": -500.0, "Fe": 1.0}})
    assert one["b"].references.energies[13] == -500.0
    assert one["b"].notes == ["given, but in no structure of this level: Fe"]
    assert one["pbe"].given == {}
    with pytest.raises(LevelError, match="energies are given for level 'c', which no structure has"):
        report_references(structures, given={"c": {"Al": 1.0}})


def test_words_for_what_is_open():
    def words(*rows):
        x = np.array(rows, dtype=float)
        open_directions = np.linalg.svd(x)[2][np.linalg.matrix_rank(x) :].T
        return UndeterminedReferences(independent_combinations(open_directions, [1, 6, 8, 29][: x.shape[1]])).words()

    assert words([2, 0, 1]) == ["H and O are only determined in the ratio 2:1", "no energy determines C"]
    assert words([2, 6, 1], [4, 12, 2]) == ["H, C and O are only determined in the ratio 2:6:1"]
    assert words([2, 1, 1, 0], [0, 1, 1, 2]) == ["of H, C, O and Cu only 2 combinations are determined"]
    assert words([1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]) == ["of H, C, O and Cu only 3 combinations are determined"]


def test_what_is_open_survives_json():
    found = fit_level("b", sums_of(made("Al Cu Cu Cu")), prior=Prior(E0, "level a")).undetermined
    again = UndeterminedReferences.from_json(found.as_json())
    assert again == found
    assert {13: 3.0, 29: -1.0} in found.combinations or {13: -3.0, 29: 1.0} in found.combinations
