"""Filters, coverage, readers and label checks on single structures whose answer is written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from mlipfm_data.curation.coverage import FORCE_EDGES, cover, gaps
from mlipfm_data.curation.trajectories import COMPARED, beside_training
from mlipfm_data.label_checks.checks import inspect
from mlipfm_data.label_checks.stress import _free_virials, better_order
from mlipfm_data.label_checks.units import stress_unit_guesses
from mlipfm_data.label_checks.work import energy_against_forces
from mlipfm_data.readers.ase import AseReader, _with_last_basis
from mlipfm_data.readers.convergence import of_vasp_step
from mlipfm_data.readers.npz import NpzReader
from mlipfm_data.readers.registry import find_reader, read
from mlipfm_data.store.merge import StoreFilter, filter_store
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import BAR, GPA

SKEWED = np.array([[4.0, 0, 0], [1.0, 4.5, 0], [0.5, -0.7, 5.0]])
FRACTIONS = np.array([[0.1, 0.2, 0.3], [0.6, 0.4, 0.9]])


def pair(forces=None, **fields) -> Structure:
    labels = {} if forces is None else {"energy": np.array(0.0), "forces": np.array(forces)}
    return Structure([1, 8], [[0.0, 0, 0], [0, 0, 0.97]], labels=labels, **fields)


def test_a_force_is_limited_by_its_length_and_a_number_of_atoms_is_inclusive():
    s = pair([[0.8, 0.8, 0.0], [0, 0, 0]])  # 1.13 eV/Å
    assert StoreFilter(max_force=1.0).refusal(s) == "forces too large"
    assert StoreFilter(max_force=1.2).refusal(s) is None
    assert StoreFilter(min_atoms=2, max_atoms=2).refusal(s) is None
    assert StoreFilter(min_atoms=3).refusal(s) == StoreFilter(max_atoms=1).refusal(s) == "number of atoms"


def test_one_geometry_at_two_levels_is_no_double(tmp_path: Path):
    with StoreWriter(tmp_path / "s", name="s") as writer:
        for level in ("pbe", "r2scan"):
            writer.add(pair(level=level))
    kept = filter_store(tmp_path / "s", tmp_path / "unique", StoreFilter(unique=True))
    assert (kept.structures, kept.dropped) == (2, {})
    with Store(tmp_path / "unique") as store:
        assert sorted(map(str, store.levels)) == ["pbe", "r2scan"]


def test_anions_are_charged_as_cations_are_and_forces_count_by_their_length():
    forces = [[0.06, 0.06, 0.06], [0, 0, 0.0]]  # 0.104 eV/Å
    found = cover([pair(forces, total_charge=q, spin_multiplicity=m) for q, m in ((-1, 1), (1, 1), (0, 2))])
    assert {gap.letter: gap.seen for gap in gaps(found)}["c"] == "2 charged, 1 open-shell"
    assert found.forces[list(FORCE_EDGES).index(0.1)] == 3


def test_few_training_frames_say_nothing_of_what_frames_of_a_trajectory_are_apart():
    rng = np.random.default_rng(0)
    frames = [
        Structure([1, 8], rng.normal(0, 1, (2, 3)) + [[0, 0, 0], [0, 0, 9]], provenance=Provenance(source="run", group="a", index=k))
        for k in range(COMPARED + 1)
    ]
    assert beside_training(frames[: COMPARED - 1], frames[-1:]).looked_at == 0
    assert beside_training(frames[:COMPARED], frames[-1:]).looked_at == 1


def test_the_trapezoid_is_exact_for_a_spring():
    """dE = -(F_a + F_b) dx / 2 with forces of both ends: slope 1 for steps that change the force much."""

    def at(x: float) -> Structure:
        energy, force = 0.5 * 8.0 * x**2, -8.0 * x
        labels = {"energy": np.array(energy), "forces": np.array([[0, 0, -force], [0, 0, force]])}
        return Structure([1, 8], [[0, 0, -x / 2], [0, 0, 1 + x / 2]], labels=labels, level="x")

    found = energy_against_forces([at(x) for x in (0.0, 0.02, 0.06, 0.01)])
    assert (found.slope, found.pairs) == (pytest.approx(1.0, abs=1e-9), 3)


def test_volume_times_stress_of_a_stretched_molecule_in_a_box_is_minus_the_sum_of_r_times_f():
    """The bond pulls inwards, so the box wants to shrink: the stress is positive along it."""
    s = Structure([1, 8], [[5.0, 5, 4], [5, 5, 6]], 10 * np.eye(3), [True] * 3,
                  labels={"forces": np.array([[0, 0, 3.0], [0, 0, -3.0]]), "stress": np.diag([0, 0, 6e-3])})  # fmt: skip
    found = _free_virials([s] * 4)
    assert found is not None
    given, own = found
    assert own[0] == pytest.approx(np.diag([0, 0, 6.0]))
    assert given[0] == pytest.approx(own[0])


@pytest.mark.parametrize(("unit", "size"), [("bar", BAR), ("GPa", GPA), ("kbar", GPA / 10)])
def test_a_ratio_of_stress_is_that_of_its_unit(unit, size):
    best = stress_unit_guesses(size, None, 0.05)[0]
    assert (best.unit, best.sign) == (unit, 1)


def test_an_ionic_step_that_used_the_last_allowed_electronic_step_is_not_converged_unless_the_energy_stands():
    settings = {"NELM": "5", "EDIFF": "1e-4"}
    assert "all 5 electronic steps" in str(of_vasp_step([-1.0, -1.5], 5, settings))
    assert of_vasp_step([-1.0, -1.5], 4, settings) is None
    assert of_vasp_step([-1.0, -1.00001], 5, settings) is None


def test_fractional_positions_of_pwdata_and_vasp_are_multiples_of_the_rows_of_the_cell(tmp_path: Path):
    folder = tmp_path / "a.pwdata"
    folder.mkdir()
    arrays = {"position": FRACTIONS.reshape(1, -1), "lattice": SKEWED.reshape(1, -1), "image_type": np.array([[1, 8]]),
              "energies": np.array([-1.0]), "forces": np.zeros((1, 6))}  # fmt: skip
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)

    def rows(values) -> str:
        return "".join(f"<v>{' '.join(map(repr, map(float, row)))}</v>" for row in values)

    (tmp_path / "vasprun.xml").write_text(
        "<?xml version='1.0'?><modeling><atominfo><array name='atoms'><set><rc><c>H</c></rc><rc><c>O</c></rc></set></array></atominfo>"
        "<calculation><scstep><energy><i name='e_fr_energy'>-3.5</i><i name='e_0_energy'>-3.25</i></energy></scstep>"
        f"<structure><crystal><varray name='basis'>{rows(SKEWED)}</varray></crystal><varray name='positions'>{rows(FRACTIONS)}</varray>"
        f"</structure><varray name='forces'>{rows(np.zeros((2, 3)))}</varray><energy><i name='e_fr_energy'>-3.0</i></energy></calculation></modeling>"
    )
    (of_pwmat,), (of_vasp,) = list(read(folder, level="pbe")), list(read(tmp_path / "vasprun.xml", level="pbe"))
    expected = [0.1 * SKEWED[0] + 0.2 * SKEWED[1] + 0.3 * SKEWED[2], 0.6 * SKEWED[0] + 0.4 * SKEWED[1] + 0.9 * SKEWED[2]]
    for s in (of_pwmat, of_vasp):
        assert isinstance(s, Structure), s
        assert s.positions[1] - s.positions[0] == pytest.approx(expected[1] - expected[0])
    assert float(of_vasp.labels["energy"]) == pytest.approx(-3.0 + 0.25)


def volumes_of_copper(sign: float, atoms: Atoms) -> list[Structure]:
    """An equation of state of EMT; `sign` of the stress."""
    found = []
    for scale in np.linspace(0.96, 1.04, 9):
        one = atoms.copy()
        one.set_cell(scale * one.cell, scale_atoms=True)
        one.calc = EMT()
        labels = {"energy": one.get_potential_energy(), "forces": one.get_forces(), "stress": sign * one.get_stress(voigt=False)}
        found.append(Structure(one.numbers, one.positions, cell=one.cell.array, pbc=[True] * 3, labels=labels, level="emt"))
    return found


@pytest.mark.parametrize("cubic", [True, False])  # four atoms, and one
def test_the_pressure_is_minus_the_slope_of_the_energy_by_the_volume_though_no_atom_moves(cubic: bool):
    atoms = bulk("Cu", cubic=cubic)
    assert not inspect(volumes_of_copper(1.0, atoms))
    (found,) = inspect(volumes_of_copper(-1.0, atoms))
    assert (found.code, found.figures["against"]) == ("stress-sign", "energies of strained cells")
    assert found.figures["true_over_label"] == pytest.approx(-1.0, abs=0.01)  # the trapezoid, over steps of 3 % in the volume


def test_a_stress_that_no_matter_has_is_named_in_a_single_frame_and_a_large_one_is_not():
    (s,) = volumes_of_copper(1.0, bulk("Cu", cubic=True))[:1]
    codes = [item.code for item in inspect([s.replace(labels={**s.labels, "stress": 4e4 * np.eye(3)})])]
    assert codes == ["stress-unit", "not-sampled"]
    assert [item.code for item in inspect([s.replace(labels={**s.labels, "stress": 1.0 * np.eye(3)})])] == ["not-sampled"]  # 160 GPa


def test_one_cell_that_is_sheared_far_does_not_hide_the_order_of_the_components():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(24, 3, 3))
    true = true + true.transpose(0, 2, 1)
    true[0] *= 12
    swapped = true.copy()
    swapped[:, [0, 1], 2], swapped[:, 2, [0, 1]] = true[:, [1, 0], 2], true[:, [1, 0], 2]  # yz and xz
    order, now, then = better_order(swapped, true)
    assert order == "xx,yy,zz,xz,yz,xy"
    assert then == pytest.approx(1.0)
    assert now < 0.9
    assert better_order(true, true) is None


def test_the_last_geometry_of_quantum_espresso_is_that_with_the_basis_of_its_cell():
    one, two = bulk("Cu"), bulk("Cu", a=3.7)
    again, repeated = two.copy(), []
    assert list(map(id, _with_last_basis(iter([one, two, again]), repeated))) == [id(one), id(again)]  # Atoms are equal by their geometry
    assert repeated == [1]
    repeated.clear()
    assert len(list(_with_last_basis(iter([one, one.copy(), two]), repeated))) == 3  # no atom moved in a step before the last
    assert len(list(_with_last_basis(iter([two]), repeated))) == 1
    assert not repeated


@pytest.mark.parametrize("name", ["OUTCAR", "run.OUTCAR", "OUTCAR.relax", "OUTCAR_2", "OUTCAR-1.gz", "XDATCAR.bak"])
def test_files_of_vasp_are_known_by_their_name_also_with_something_after_it(name: str, tmp_path: Path):
    (tmp_path / name).touch()
    assert isinstance(find_reader(tmp_path / name), AseReader)
    (tmp_path / "OUTCAR.npz").touch()
    assert isinstance(find_reader(tmp_path / "OUTCAR.npz"), NpzReader)
