"""What a Structure refuses, keeps and forgets."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from mlipfm_interfaces.errors import (
    InvalidStructureError,
    MlipfmError,
    MultiplicityError,
    ShapeError,
    UnknownElementError,
    UnknownQuantityError,
)
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.structures import supercell

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.47], [0.0, -0.757, -0.47]])


def water(**changes):
    return Structure(**({"atomic_numbers": [8, 1, 1], "positions": WATER} | changes))


ROWS = np.zeros((2, 3, 3))

REFUSED = [
    ({"positions": WATER * [1, np.nan, 1]}, InvalidStructureError, r"atom 0: position \[0\.0, nan, .* is not finite"),
    ({"positions": WATER * [1, 1, np.inf]}, InvalidStructureError, "is not finite"),
    ({"positions": WATER[:2]}, ShapeError, r"`positions` must have shape \[3, 3\] for 3 atoms, got \[2, 3\]"),
    ({"positions": WATER.ravel()}, ShapeError, r"got \[9\]"),
    ({"positions": WATER[:, :2]}, ShapeError, r"got \[3, 2\]"),
    ({"positions": [["a", "b", "c"]] * 3}, ShapeError, "`positions` must be a numeric array"),
    ({"positions": WATER.astype(str)}, ShapeError, "`positions` must be a numeric array"),
    ({"positions": WATER + 1j}, ShapeError, "`positions` must be a numeric array"),
    ({"positions": [[0, 0, 0], [1, 1], [2, 2, 2]]}, ShapeError, "`positions` must be a numeric array"),
    ({"positions": np.ma.masked_less(WATER, 0)}, ShapeError, "without masked entries"),
    ({"atomic_numbers": [], "positions": np.zeros((0, 3))}, InvalidStructureError, "at least one atom"),
    ({"atomic_numbers": [[8, 1, 1]]}, ShapeError, r"`atomic_numbers` must have shape \[atoms\], got \[1, 3\]"),
    ({"atomic_numbers": 8}, ShapeError, r"`atomic_numbers` must have shape"),
    ({"atomic_numbers": ["O", "H", "H"]}, ShapeError, "`atomic_numbers` must be a numeric array"),
    ({"atomic_numbers": [8, 1.5, 1]}, ShapeError, "`atomic_numbers` must hold whole numbers"),
    ({"atomic_numbers": [8, np.nan, 1]}, ShapeError, "`atomic_numbers` must hold whole numbers"),
    ({"atomic_numbers": [8, 0, 1]}, UnknownElementError, r"atom 1: atomic number 0 does not exist; use 1 \(H\) to 118"),
    ({"atomic_numbers": [8, 1, 119]}, UnknownElementError, "atom 2: atomic number 119"),
    ({"cell": np.zeros((3, 3)), "pbc": True}, InvalidStructureError, "axis 0, but that lattice vector is zero"),
    ({"cell": np.diag([5.0, 5.0, 0.0]), "pbc": True}, InvalidStructureError, "axis 2, but that lattice vector is zero"),
    ({"cell": [[5, 0, 0], [0, 5, 0], [5, 5, 0]], "pbc": True}, InvalidStructureError, "coplanar or parallel"),
    ({"cell": [[5, 0, 0], [-10, 0, 0], [0, 0, 0]], "pbc": (True, True, False)}, InvalidStructureError, "coplanar or parallel"),
    ({"cell": [5, 5, 5]}, ShapeError, r"`cell` must have shape \[3, 3\], got \[3\]; .*np\.diag"),
    ({"cell": np.diag([5, 5, np.nan])}, InvalidStructureError, "`cell` is not finite"),
    ({"pbc": "TTF"}, ShapeError, "`pbc` must be a numeric array"),
    ({"pbc": [True, True]}, ShapeError, r"`pbc` must have shape \[3\], got \[2\]"),
    ({"pbc": 0.5}, ShapeError, "`pbc` must hold true or false"),
    ({"external_field": [0, 0]}, InvalidStructureError, "three finite numbers"),
    ({"external_field": [0, 0, np.nan]}, InvalidStructureError, "three finite numbers"),
    ({"external_field": "x"}, ShapeError, "`external_field` must be a numeric array"),
    ({"total_charge": 0.5}, InvalidStructureError, r"`total_charge` must be a whole number or None, got 0\.5"),
    ({"total_charge": np.nan}, InvalidStructureError, "got nan"),
    ({"total_charge": np.inf}, InvalidStructureError, "got inf"),
    ({"total_charge": "one"}, InvalidStructureError, "got 'one'"),
    ({"total_charge": True}, InvalidStructureError, "got True"),
    ({"total_charge": 11}, MultiplicityError, r"H2O cannot have the charge \+11: it has 10 electrons"),
    ({"spin_multiplicity": 0}, MultiplicityError, r"spin multiplicity 0 is impossible; give 2S\+1"),
    ({"labels": {"enrgy": 1.0}}, UnknownQuantityError, "did you mean 'energy'"),
    ({"labels": {"energy": [1.0]}}, ShapeError, r"label 'energy' must have shape \[\] \(eV\), got \[1\]"),
    ({"labels": {"forces": np.zeros((2, 3))}}, ShapeError, r"label 'forces' must have shape \[3, 3\] \(eV/Angstrom\), got \[2, 3\]"),
    ({"labels": {"stress": np.zeros(6)}}, ShapeError, r"label 'stress' must have shape \[3, 3\]"),
    ({"labels": {"charges": np.zeros((3, 1))}}, ShapeError, r"label 'charges' must have shape \[3\]"),
    ({"labels": {"energy": np.nan}}, InvalidStructureError, "label 'energy' contains NaN or infinity; drop the label"),
    ({"labels": {"energy": None}}, InvalidStructureError, "label 'energy' contains NaN"),
    ({"labels": {"energy": "low"}}, ShapeError, "`energy` must be a numeric array"),
    ({"labels": {"hessian_rows": ROWS}}, ShapeError, "its companion 'hessian_rows_index' with as many rows"),
    ({"labels": {"hessian_rows": ROWS, "hessian_rows_index": [[0, 0]]}}, ShapeError, "with as many rows"),
    ({"labels": {"hessian_rows": ROWS, "hessian_rows_index": 3}}, ShapeError, "with as many rows"),
    ({"labels": {"hessian_rows": ROWS, "hessian_rows_index": [0, 1]}}, ShapeError, r"must have shape \[2, 2\]"),
    ({"labels": {"hessian_rows": ROWS, "hessian_rows_index": [[0, 0], [3, 0]]}}, InvalidStructureError, r"atoms 0\.\.2 and axes 0\.\.2"),
    ({"labels": {"hessian_rows": ROWS, "hessian_rows_index": [[0, 0], [2, 3]]}}, InvalidStructureError, r"atoms 0\.\.2 and axes 0\.\.2"),
    ({"labels": {"hvp": ROWS, "hvp_probe": ROWS[:, :2]}}, ShapeError, r"'hvp_probe' must have shape \[2, 3, 3\]"),
    ({"labels": {"hvp": ROWS, "hvp_probe": ROWS * np.nan}}, InvalidStructureError, "'hvp_probe' contains NaN"),
    ({"labels": {"hvp_probe": ROWS}}, UnknownQuantityError, "no quantity is named 'hvp_probe'"),
    ({"labels": {"weight": -1.0}}, InvalidStructureError, "'weight' is negative: -1.0; weights are 0"),
    ({"labels": {"forces_weight": [1, -0.5, 0]}}, InvalidStructureError, "'forces_weight' is negative: -0.5"),
    ({"labels": {"fixed": [1, 0, 0.5]}}, InvalidStructureError, "'fixed' must be 0 or 1 for each atom"),
    ({"label_std": {"energy": 0.1}}, ShapeError, "standard deviation of 'energy' needs a label"),
    ({"labels": {"energy": 1.0}, "label_std": {"energy": -0.1}}, InvalidStructureError, "standard deviation of 'energy' is negative"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED, ids=[f"{next(iter(c))}-{k}" for k, (c, _, _) in enumerate(REFUSED)])
def test_what_cannot_be_is_refused_with_a_reason(changes, error, message):
    with pytest.raises(error, match=message):
        water(**changes)


@pytest.mark.parametrize(
    ("numbers", "charge", "multiplicity"),
    [
        ([8, 8], 0, 3),
        ([8, 8], 0, 1),
        ([1, 1], 1, 2),
        ([1, 1], 0, 1),
        ([1], 1, 1),
        ([26], 2, 5),
        ([7, 8], 0, 2),
        ([1, 1], None, 2),
        ([1, 1], 1, None),
    ],
)
def test_possible_spin_states_are_accepted(numbers, charge, multiplicity):
    """O2 triplet and singlet, H2+ doublet, a bare proton, Fe(II) quintet, NO; parity is checked only where both are given."""
    s = Structure(numbers, np.arange(len(numbers))[:, None] * np.ones(3), total_charge=charge, spin_multiplicity=multiplicity)
    assert (s.total_charge, s.spin_multiplicity) == (charge, multiplicity)


@pytest.mark.parametrize(
    ("numbers", "charge", "multiplicity", "message"),
    [([8, 8], 0, 2, r"O2 with charge \+0 has 16 electrons, which multiplicity 2 .*must be odd and at most 17"),
     ([1, 1], 1, 1, r"H2 with charge \+1 has 1 electrons.*must be even and at most 2"),
     ([1, 1], 1, 4, "H2 with charge"), ([1], 1, 2, "0 electrons"), ([7, 8], 0, 1, "NO with charge"), ([17], -1, 2, "18 electrons")],
)  # fmt: skip
def test_impossible_spin_states_are_refused(numbers, charge, multiplicity, message):
    with pytest.raises(MultiplicityError, match=message):
        Structure(numbers, np.arange(len(numbers))[:, None] * np.ones(3), total_charge=charge, spin_multiplicity=multiplicity)


def test_every_refusal_is_an_error_of_ours_with_a_stable_code():
    with pytest.raises(MlipfmError) as info:
        water(total_charge=0, spin_multiplicity=2)
    assert info.value.as_dict()["code"] == "impossible-multiplicity"


def test_arrays_are_copies_and_cannot_be_changed():
    positions = WATER.copy()
    s = water(positions=positions, cell=np.eye(3) * 9, external_field=[0, 0, 1.0], labels={"forces": WATER}, label_std={"forces": WATER**2})
    positions += 1
    np.testing.assert_array_equal(s.positions, WATER)
    for array in (s.atomic_numbers, s.positions, s.cell, s.pbc, s.external_field, s.labels["forces"], s.label_std["forces"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(TypeError):
        s.labels["energy"] = 1.0
    with pytest.raises(AttributeError):
        s.total_charge = 1


def test_types_are_normalised():
    s = water(
        atomic_numbers=np.array([8.0, 1.0, 1.0]),
        positions=WATER.astype(np.float32),
        pbc=True,
        cell=np.eye(3, dtype=int),
        total_charge=np.int8(1),
    )
    assert (s.atomic_numbers.dtype, s.positions.dtype, s.cell.dtype, s.pbc.tolist()) == (np.int64, np.float64, np.float64, [True] * 3)
    assert type(s.total_charge) is int


def test_not_stated_is_none_and_not_zero():
    s = water()
    assert (s.total_charge, s.spin_multiplicity, s.external_field, s.level) == (None,) * 4
    assert water(total_charge=0).key != s.key


coordinates = st.floats(-50, 50, allow_subnormal=False)


@settings(max_examples=100)
@given(st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=4))
@example([(1.0000015, -1.0000015, 5e-7), (-5e-7, -1e-9, 2.0000025)])
def test_the_key_survives_a_text_format_of_six_decimals(rows):
    def through_text(array):
        return np.array([[float(f"{x:.6f}") for x in row] for row in array])

    cell = np.array([[51.0000015, 0, 0], [1.0000025, 52, 0], [0, 0, 53.1234565]])
    s = Structure([18] * len(rows), rows, cell, True)
    assert Structure([18] * len(rows), through_text(s.positions), through_text(cell), True).key == s.key


def test_the_key_knows_geometry_and_state_and_nothing_else():
    plain = water(total_charge=0, spin_multiplicity=1)
    different = [
        plain.replace(total_charge=1, spin_multiplicity=2),
        plain.replace(spin_multiplicity=3),
        plain.replace(spin_multiplicity=None),
        plain.replace(atomic_numbers=[16, 1, 1]),
        plain.replace(positions=WATER + [[2e-6, 0, 0], [0, 0, 0], [0, 0, 0]]),
        plain.replace(external_field=[0, 0, 0.1]),
        plain.replace(cell=np.eye(3) * 9, pbc=True),
        plain.replace(cell=np.eye(3) * 9, pbc=(True, True, False)),
    ]
    assert len({s.key for s in [plain, *different]}) == 9
    same = plain.replace(labels={"energy": -1.0}, level="pbe", provenance=Provenance(source="a"), cell=np.eye(3))
    assert same.key == plain.key
    assert len(plain.key) == 32


def test_replace_checks_again_and_forgets_the_old_key():
    s = water()
    assert s.replace(positions=2 * WATER).key != s.key
    with pytest.raises(ShapeError, match="positions"):
        s.replace(positions=WATER[:1])


@pytest.mark.parametrize("through", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
def test_structures_travel_to_worker_processes_and_stay_read_only(through):
    s = water(labels={"energy": -76.0}, label_std={"energy": 0.1}, total_charge=0, provenance=Provenance(group="w"), level="pbe")
    got = through(s)
    assert (got.key, got.level, got.provenance, got.total_charge) == (s.key, "pbe", s.provenance, 0)
    assert got.labels["energy"] == -76.0
    for array in (got.positions, got.labels["energy"], got.label_std["energy"]):
        assert not array.flags.writeable
    with pytest.raises(TypeError):
        got.labels["dipole"] = np.zeros(3)


def test_trusted_takes_arrays_as_they_are():
    s = Structure.trusted(atomic_numbers=np.array([18]), positions=WATER[:1])
    assert s.positions.base is WATER
    assert (s.pbc.tolist(), dict(s.labels), s.key) == ([False] * 3, {}, Structure([18], WATER[:1]).key)


def test_formula_counts_in_alphabetical_order():
    assert Structure([8, 6, 6, 1, 1, 1, 1, 1, 1], np.random.default_rng(0).normal(size=(9, 3))).formula == "C2H6O"


def test_charges_and_unpaired_electrons_of_a_supercell_add_up():
    cell = Structure([11], [[0, 0, 0]], 4 * np.eye(3), (True, True, True), 2, 2)
    many = supercell(cell, (2, 1, 2))
    assert (len(many), many.total_charge, many.spin_multiplicity) == (4, 8, 5)
    assert supercell(cell.replace(total_charge=None, spin_multiplicity=None), (2, 1, 1)).total_charge is None
