"""Key spellings, units, signs and orders, and that no contradiction is resolved by a guess."""

import numpy as np
import pytest
from mlipfm_data.readers.interpret import SPELLINGS, structure_from
from mlipfm_data.readers.options import ReadOptions, options_from
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import (
    InvalidStructureError,
    LevelError,
    MissingLabelsError,
    MultiplicityError,
    ShapeError,
    UnitError,
    UnknownQuantityError,
)
from mlipfm_interfaces.raw_frame import RawFrame
from mlipfm_interfaces.units import BOHR, GPA, HARTREE

CELL = np.diag([2.0, 3.0, 4.0])
PLACE = "h2.xyz: frame 3 (line 13)"


def frame(info=None, arrays=None, results=None, periodic=False, atoms=2) -> RawFrame:
    numbers, positions = np.array([1] * atoms), np.array([[0, 0, 0.74 * k] for k in range(atoms)])
    cell = CELL if periodic else np.zeros((3, 3))
    return RawFrame(numbers, positions, cell, np.full(3, periodic), info or {}, arrays or {}, results or {}, index=3, source="h2.xyz")


def convert(raw: RawFrame, **options):
    return structure_from(raw, ReadOptions(**options), ReadReport(), PLACE)


@pytest.mark.parametrize("key", SPELLINGS["energy"])
def test_every_spelling_of_the_energy_is_found(key):
    assert float(convert(frame({key: "-31.5"})).labels["energy"]) == -31.5


@pytest.mark.parametrize("key", SPELLINGS["forces"])
def test_every_spelling_of_the_forces_is_found(key):
    forces = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(convert(frame(arrays={key: forces})).labels["forces"], forces)


def test_results_of_a_calculator_are_labels():
    """Since ASE 3.23 plain energy, forces and stress of a file are found nowhere else."""
    results = {"energy": -1.0, "free_energy": -1.1, "forces": np.ones((2, 3)), "stress": np.arange(6.0), "energies": np.array([-0.4, -0.6])}
    s = convert(frame(results=results, periodic=True))
    assert float(s.labels["energy"]) == -1.0
    assert np.array_equal(s.labels["stress"], [[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # ASE: xx, yy, zz, yz, xz, xy
    assert s.labels["atomic_energies"].tolist() == [-0.4, -0.6]


def test_free_energy_is_used_only_where_there_is_no_energy():
    report = ReadReport()
    s = structure_from(frame(results={"free_energy": -1.1}), ReadOptions(), report, PLACE)
    assert float(s.labels["energy"]) == -1.1
    assert "energy <- free_energy (calculator) in 1 of 1 accepted frames" in report.lines()


def test_model_predictions_beside_the_reference_are_not_read():
    s = convert(frame({"REF_energy": "-1", "MACE_energy": "-1.2"}, {"MACE_forces": np.ones((2, 3))}))
    assert float(s.labels["energy"]) == -1.0
    assert "forces" not in s.labels


def test_two_keys_with_different_energies_are_refused_and_both_are_named():
    both = frame({"REF_energy": "-1.0", "energy": "-2.0"})
    with pytest.raises(
        InvalidStructureError, match=r"frame 3 \(line 13\): 'REF_energy' and 'energy' both claim .* -1 and -2; say which with --energy-key"
    ):
        convert(both)
    assert float(convert(both, energy_key="energy").labels["energy"]) == -2.0
    assert float(convert(frame({"REF_energy": "-1.0", "energy": "-1.0000000001"})).labels["energy"]) == -1.0


def test_missing_key_lists_the_keys_that_were_found():
    with pytest.raises(MissingLabelsError, match=r"no key 'E_dft' for energy; keys found: E, label, tags, forces \(calculator\)"):
        convert(frame({"E": "1", "label": "x"}, {"tags": [1, 2]}, {"forces": np.ones((2, 3))}), energy_key="E_dft")
    with pytest.raises(MissingLabelsError, match=r"no energy and no forces label; keys found: E"):
        convert(frame({"E": "1"}), require=("energy", "forces"))


@pytest.mark.parametrize("value", ["1 2 3 4 5 6", [1, 2, 3, 4, 5, 6], "1 6 5 6 2 4 5 4 3", "_JSON [[1, 6, 5], [6, 2, 4], [5, 4, 3]]"])
def test_stress_of_six_nine_or_three_by_three_is_one_matrix(value):
    assert np.array_equal(convert(frame({"REF_stress": value}, periodic=True)).labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_other_voigt_order_is_named():
    s = convert(frame({"stress": "1 2 3 6 4 5"}, periodic=True), stress_order="xx,yy,zz,xy,yz,zx")
    assert np.array_equal(s.labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_virial_is_minus_volume_times_stress():
    s = convert(frame({"REF_virials": "24 0 0 0 48 0 0 0 72"}, periodic=True))
    assert np.allclose(s.labels["stress"], -np.diag([1.0, 2.0, 3.0]))
    with pytest.raises(InvalidStructureError, match="both claim to be the stress"):
        convert(frame({"virial": "24 0 0 0 48 0 0 0 72", "stress": "1 2 3 0 0 0"}, periodic=True))


def test_the_named_stress_wins_over_a_virial_that_was_not_named():
    raw = frame({"virial": "24 0 0 0 48 0 0 0 72", "s": "1 2 3 0 0 0"}, periodic=True)
    assert np.array_equal(convert(raw, stress_key="s").labels["stress"], np.diag([1.0, 2.0, 3.0]))
    assert np.allclose(convert(raw, virial_key="virial").labels["stress"], -np.diag([1.0, 2.0, 3.0]))


def test_local_energies_beside_the_total_do_not_replace_it():
    s = convert(frame({"energy": "-2"}, {"energy": np.array([-0.9, -1.1])}))
    assert float(s.labels["energy"]) == -2.0


def test_stress_of_a_molecule_is_left_out_and_said():
    report = ReadReport()
    s = structure_from(frame({"energy": "1", "stress": "1 2 3 0 0 0"}), ReadOptions(), report, PLACE)
    assert "stress" not in s.labels
    assert "'stress' not used: stress needs three periodic directions (1 frames)" in report.lines()


def test_units_and_signs_are_those_of_the_options():
    raw = frame({"energy": "-1.0", "stress": "1 1 1 0 0 0"}, {"forces": np.ones((2, 3))}, periodic=True)
    s = convert(
        raw, energy_unit="Hartree", forces_unit="Hartree/bohr", forces_sign=-1, stress_unit="GPa", stress_sign=-1, length_unit="bohr"
    )
    assert float(s.labels["energy"]) == -HARTREE
    assert np.allclose(s.labels["forces"], -HARTREE / BOHR)
    assert np.allclose(s.labels["stress"], -GPA * np.eye(3))
    assert np.allclose(s.positions[1], [0, 0, 0.74 * BOHR])
    assert np.allclose(s.cell, CELL * BOHR)


def test_virial_uses_the_volume_in_cubic_angstrom():
    s = convert(frame({"virial": "24 0 0 0 24 0 0 0 24"}, periodic=True), length_unit="bohr", energy_unit="Hartree")
    assert np.allclose(s.labels["stress"], -HARTREE / BOHR**3 * np.eye(3))


@pytest.mark.parametrize("charge", ["charge", "total_charge"])
@pytest.mark.parametrize("spin", ["spin", "spin_multiplicity", "mult", "multiplicity"])
def test_charge_and_multiplicity_by_every_name(charge, spin):
    s = convert(frame({charge: "1", spin: np.array([2.0])}))
    assert (s.total_charge, s.spin_multiplicity) == (1, 2)


def test_nothing_stated_stays_none():
    s = convert(frame({"energy": "1"}))
    assert (s.total_charge, s.spin_multiplicity, s.level, s.provenance.group) == (None, None, None, None)


def test_contradicting_charges_and_impossible_parity_are_refused():
    with pytest.raises(InvalidStructureError, match="contradict each other"):
        convert(frame({"charge": "0", "total_charge": "1"}))
    with pytest.raises(MultiplicityError, match=r"2 electrons, which multiplicity 2 cannot pair; .* set --spin-meaning unpaired"):
        convert(frame({"charge": "0", "spin": "2"}))
    with pytest.raises(MultiplicityError, match="multiplicity 0 is impossible"):
        convert(frame({"spin": "0"}))


def test_unpaired_electrons_are_turned_into_a_multiplicity():
    """SpookyNet's databases store 0 and 2 for singlet and triplet."""
    assert convert(frame({"spin_multiplicity": "2"}), spin_meaning="unpaired").spin_multiplicity == 3


def test_ambiguous_total_spin_is_not_read_unless_named():
    report = ReadReport()
    assert structure_from(frame({"total_spin": "1"}), ReadOptions(), report, PLACE).spin_multiplicity is None
    assert any("'total_spin' not used" in line for line in report.lines())
    assert convert(frame({"total_spin": "1"}), spin_key="total_spin").spin_multiplicity == 1


def test_level_of_the_file_and_of_the_option_must_agree():
    assert convert(frame({"level_of_theory": "PBE"}), level="pbe").level == "pbe"
    assert convert(frame(), level="ωB97M-D3BJ/def2-TZVPPD").level == "wb97m-d3bj/def2-tzvppd"
    with pytest.raises(LevelError, match="the file says level 'pbe', the import says 'scan'"):
        convert(frame({"level_of_theory": "PBE"}), level="scan")


def test_group_key_says_what_belongs_together():
    assert convert(frame({"mol": "17"}), group_key="mol").provenance.group == "17"
    with pytest.raises(MissingLabelsError, match="no key 'mol' for the group"):
        convert(frame(), group_key="mol")


def test_label_of_a_wrong_shape():
    with pytest.raises(ShapeError, match=r"'forces' has shape \[3, 3\], forces needs \[2, 3\]"):
        convert(frame(arrays={"forces": np.ones((3, 3))}))
    report = ReadReport()
    structure_from(frame({"dipole_moment": "1.8"}), ReadOptions(), report, PLACE)  # QM9 stores its length
    assert any("'dipole_moment' has not the shape of dipole" in line for line in report.lines())


def test_what_was_not_used_is_listed():
    report = ReadReport()
    structure_from(frame({"energy": "1", "config_type": "md"}), ReadOptions(), report, PLACE)
    assert report.lines() == [
        "energy <- energy in 1 of 1 accepted frames",
        "level: not given",
        "total_charge: not given",
        "spin_multiplicity: not given",
        "units and signs: energy eV, length Angstrom (assumed)",
        "found and not used: config_type",
    ]


def test_options_are_checked():
    with pytest.raises(UnknownQuantityError, match="did you mean 'energy_key'"):
        options_from({"enery_key": "E"})
    with pytest.raises(UnitError, match="'kcal' is not known"):
        options_from({"energy_unit": "kcal"})
    with pytest.raises(UnitError, match="must be 1 or -1"):
        options_from({"forces_sign": 2})
    with pytest.raises(UnitError, match="six components"):
        options_from({"stress_order": "xx,yy,zz"})
