"""What a starting file says about motion (fixed atoms, velocities, masses) is kept in the dynamics, or named; other columns are named."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled, Hookean
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.elements import ISOTOPES, MASSES
from mlipfm_interfaces.errors import SimulationError, UnreadableFileError
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import NVE, Langevin
from mlipfm_md.initial_files import FrameOptions, read_initial_states
from mlipfm_md.initial_state import InitialState
from mlipfm_md.simulation import Settings, simulate


def slab(*constraints) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms.info.clear()
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(list(constraints))
    return atoms


def md(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `mlipfm md run`."""
    with pytest.raises(SystemExit) as stop:
        main(["md", "run", *map(str, words)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


LOWER = np.repeat((np.arange(12) < 4)[:, None], 3, axis=1)
Z_ONLY = np.tile([False, False, True], (12, 1)) & LOWER


@pytest.mark.parametrize("name", ["start.xyz", "start.traj", "start.db", "POSCAR", "start.json"])
def test_atoms_fixed_in_a_file_of_any_format_stay_where_they_are(tmp_path, capsys, name):
    ase.io.write(tmp_path / name, slab(FixAtoms(range(4))), **({"columns": ["symbols", "positions", "move_mask"]} if "xyz" in name else {}))
    out = tmp_path / "out.xyz"
    status, said, _ = md(
        capsys, "emt:", tmp_path / name, "--ensemble", "langevin", "--temperature", 600, "--dt", 2, "--steps", 10, "--out", tmp_path / "run",
        "--export", out,
    )  # fmt: skip
    first, last = ase.io.read(out, ":")
    assert status == 0
    moved = np.abs(last.positions - first.positions).max(axis=1)
    fixed = {tuple(row) for row in np.argwhere(moved == 0).tolist()}
    (start, _), *_ = read_initial_states(tmp_path / name)
    assert len(fixed) == 4
    assert fixed == {tuple(row) for row in np.argwhere(start.axes_fixed.all(axis=1)).tolist()}
    assert "fixed: atoms" in said
    assert " 24 " in said  # degrees of freedom of eight free atoms


@pytest.mark.parametrize(
    ("constraint", "fixed"),
    [
        (FixCartesian(range(4), (False, False, True)), Z_ONLY),
        (FixedPlane(range(4), (0, 0, 1)), Z_ONLY),
        (FixedLine(range(4), (0, 0, 1)), LOWER & ~Z_ONLY),
        (FixScaled(range(4), (False, False, True)), Z_ONLY),
        (FixScaled(range(4), (True, True, False)), LOWER & ~Z_ONLY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_axes_that_ase_holds_are_held(tmp_path, constraint, fixed):
    ase.io.write(tmp_path / "start.traj", slab(constraint))
    (start, _), *_ = read_initial_states(tmp_path / "start.traj")
    assert np.array_equal(start.axes_fixed, fixed)
    run = simulate(Free(), [start], Langevin(300.0), Settings(steps=5, dt=1.0))
    assert np.array_equal(run.state.positions == start.structure.positions, fixed)
    assert run.state.degrees_of_freedom()[0] == 36 - fixed.sum()


@pytest.mark.parametrize("constraint", [Hookean(0, 1, 5.0, rt=3.0), FixedPlane([0], (1, 1, 0)), FixScaled([0], (True, False, False))])
def test_constraints_that_cannot_be_kept_are_refused_by_name(tmp_path, capsys, constraint):
    ase.io.write(tmp_path / "start.traj", slab(constraint))
    status, out, err = md(capsys, "emt:", tmp_path / "start.traj", "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert type(constraint).__name__ in err
    assert "--ignore-constraints" in err
    (start, _), *_ = read_initial_states(tmp_path / "start.traj", FrameOptions(free_all=True))
    assert not start.axes_fixed.any()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("move_mask:L:1", ["F", "T"]), ("move_mask:I:1", ["0", "1"]), ("move_mask:S:1", ["F", "T"]), ("move_mask:S:1", ["False", "True"]),
        ("move_mask:L:3", ["F F F", "T T T"]), ("fixed:I:1", ["1", "0"]), ("REF_fixed:R:1", ["1.0", "0.0"]), ("frozen:L:1", ["T", "F"]),
        ("fix_mask:S:3", ["T T T", "F F F"]), ("selective_dynamics:L:3", ["F F F", "T T T"]), ("constraints:I:1", ["1", "0"]),
    ],
)  # fmt: skip
def test_columns_that_say_which_atoms_are_held(tmp_path, column, words):
    rows = "".join(f"Cu 0 0 {2.5 * k} {words[k > 0]}\n" for k in range(3))
    (tmp_path / "start.xyz").write_text(f"3\nProperties=species:S:1:pos:R:3:{column}\n{rows}")
    (start, said), *_ = read_initial_states(tmp_path / "start.xyz")
    assert start.axes_fixed.tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert "atom 0" in said.taken[0]


def test_a_column_of_constraints_that_is_no_mask_is_refused(tmp_path):
    (tmp_path / "start.xyz").write_text("2\nProperties=species:S:1:pos:R:3:constraint:I:1\nCu 0 0 0 7\nCu 0 0 3 0\n")
    with pytest.raises(SimulationError, match="'constraint'.*more than T and F"):
        read_initial_states(tmp_path / "start.xyz")


@pytest.mark.parametrize(
    ("column", "velocity"),
    [("momenta", 0.02016 / 1.008 * units.fs), ("velo", 0.02), ("vel", 0.02), ("velocities", 0.02)],
)
def test_velocities_of_a_file_are_kept(tmp_path, capsys, column, velocity):
    value = 0.02016 if column == "momenta" else 0.02
    (tmp_path / "start.xyz").write_text(f"2\nProperties=species:S:1:pos:R:3:{column}:R:3\nH 0 0 0 {value} 0 0\nH 0 0 0.74 {-value} 0 0\n")
    export = ("--charge", 0, "--steps", 1, "--every", 1, "--dt", 0.1, "--out", tmp_path / "run", "--export", tmp_path / "out.xyz")
    status, said, _ = md(capsys, "tblite:GFN2", tmp_path / "start.xyz", *export)
    first = ase.io.read(tmp_path / "out.xyz", "0").get_velocities() * units.fs
    assert status == 0
    assert first[:, 0] == pytest.approx([velocity, -velocity], rel=1e-9)
    assert "velocities of the file" in said
    kelvin = 2 * 1.008 * (velocity / units.fs) ** 2 / (3 * units.kB)  # two atoms with m v²/2 each, three degrees of freedom
    assert f"velocities of {kelvin:.0f} K" in said


def test_temperature_does_not_replace_velocities_unless_new_ones_are_asked_for(tmp_path, capsys):
    atoms = slab()
    atoms.set_velocities(np.full((12, 3), 1e-3) * np.array([[1, -1] * 6]).T)
    ase.io.write(tmp_path / "start.xyz", atoms)
    tail = (tmp_path / "start.xyz", "--temperature", 900, "--steps", 0)
    _, kept, _ = md(capsys, "emt:", *tail, "--out", tmp_path / "kept", "--export", tmp_path / "kept.xyz")
    assert "--temperature 900 changes nothing" in kept
    assert "--new-velocities" in kept
    assert ase.io.read(tmp_path / "kept.xyz").get_velocities() == pytest.approx(atoms.get_velocities(), abs=1e-8)
    _, drawn, _ = md(capsys, "emt:", *tail, "--new-velocities", "--out", tmp_path / "new", "--export", tmp_path / "new.xyz")
    assert "velocities drawn at 900 K" in drawn
    assert ase.io.read(tmp_path / "new.xyz").get_temperature() > 100


def test_velocities_that_are_all_zero_are_drawn_and_this_is_said(tmp_path):
    atoms = slab()
    atoms.set_momenta(np.zeros((12, 3)))
    ase.io.write(tmp_path / "start.traj", atoms)
    (start, said), *_ = read_initial_states(tmp_path / "start.traj")
    assert start.velocities is None
    assert "all zero" in said.taken[0]


@pytest.mark.parametrize("name", ["POSCAR", "start.gro"])
def test_velocities_of_vasp_and_gromacs_have_their_units(tmp_path, name):
    """VASP writes Å/fs, GROMACS nm/ps; three decimals in a .gro file."""
    if name == "POSCAR":
        text = "water\n1.0\n8 0 0\n0 8 0\n0 0 8\nO H\n1 2\nCartesian\n1 1 1\n1.96 1 1\n0.76 1.93 1\n\n0.001 0 0\n0.02 0 0\n0 -0.01 0.003\n"
    else:
        rows = [("O", 0.1, 0.1, 0.1, 0.1, 0, 0), ("H", 0.196, 0.1, 0.1, 2, 0, 0), ("H", 0.076, 0.193, 0.1, 0, -1, 0.3)]
        lines = ["    1SOL  {:>5}{:>5}{:8.3f}{:8.3f}{:8.3f}{:8.4f}{:8.4f}{:8.4f}".format(r[0], k, *r[1:]) for k, r in enumerate(rows, 1)]
        text = "\n".join(["water", "    3", *lines, "   0.80000   0.80000   0.80000"]) + "\n"
    (tmp_path / name).write_text(text)
    (start, _), *_ = read_initial_states(tmp_path / name)
    assert start.velocities == pytest.approx(np.array([[0.001, 0, 0], [0.02, 0, 0], [0, -0.01, 0.003]]), rel=1e-6)


def test_lattice_velocities_in_direct_coordinates_are_refused(tmp_path):
    (tmp_path / "POSCAR").write_text("Cu\n1.0\n4 0 0\n0 4 0\n0 0 4\nCu\n1\nDirect\n0 0 0\nDirect\n0.1 0.1 0.1\n")
    with pytest.raises(SimulationError, match="lattice coordinates"):
        read_initial_states(tmp_path / "POSCAR")


def test_unit_of_a_column_of_velocities_can_be_named(tmp_path):
    (tmp_path / "start.xyz").write_text("2\nProperties=species:S:1:pos:R:3:velocities:R:3\nAr 0 0 0 0.1 0 0\nAr 0 0 4 0 0 0\n")
    found = {
        unit: read_initial_states(tmp_path / "start.xyz", FrameOptions(velocity_unit=unit))[0][0].velocities[0, 0]
        for unit in ("A/ps", "nm/ps", "ase")
    }
    assert found == pytest.approx({"A/ps": 1e-4, "nm/ps": 1e-3, "ase": 0.1 * units.fs}, rel=1e-8)
    (tmp_path / "still.xyz").write_text("1\n\nAr 0 0 0\n")
    with pytest.raises(SimulationError, match="no column of velocities"):
        read_initial_states(tmp_path / "still.xyz", FrameOptions(velocity_unit="ase"))


def test_velocities_hotter_than_any_simulation_are_refused_with_the_unit_as_the_reason(tmp_path, capsys):
    (tmp_path / "start.xyz").write_text("2\nProperties=species:S:1:pos:R:3:velo:R:3\nCu 0 0 0 5.0 0 0\nCu 0 0 2.5 0 0 0\n")
    status, _, err = md(capsys, "emt:", tmp_path / "start.xyz", "--out", tmp_path / "run")
    assert status == 2
    assert "--velocity-unit" in err


def test_momenta_and_velocities_that_disagree_are_refused(tmp_path):
    rows = "Ar 0 0 0 1 0 0 1 0 0\nAr 0 0 4 0 0 0 0 0 0\n"
    (tmp_path / "start.xyz").write_text(f"2\nProperties=species:S:1:pos:R:3:momenta:R:3:velo:R:3\n{rows}")
    with pytest.raises(SimulationError, match="'momenta' and 'velo' state different velocities"):
        read_initial_states(tmp_path / "start.xyz")


POSCAR_D2O = "heavy\n1.0\n8 0 0\n0 8 0\n0 0 8\nO D\n1 2\nCartesian\n1 1 1\n1.96 1 1\n0.76 1.93 1\n\n0 0 0\n0.02 0 0\n0 -0.02 0\n"
XYZ_D2O = "3\nProperties=species:S:1:pos:R:3\nO 0 0 0\nD 0.96 0 0\nd -0.24 0.93 0\n"


@pytest.mark.parametrize(("name", "text"), [("d2o.xyz", XYZ_D2O), ("plain.xyz", XYZ_D2O.replace("Properties=species:S:1:pos:R:3", "heavy")),
                                            ("POSCAR", POSCAR_D2O)])  # fmt: skip
def test_deuterium_is_hydrogen_with_its_own_mass(tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    (start, said), *_ = read_initial_states(tmp_path / name)
    assert start.structure.atomic_numbers.tolist() == [8, 1, 1]
    assert start.amu.tolist() == [15.999, ISOTOPES["D"][1], ISOTOPES["D"][1]]
    assert "H 2.0141" in said.taken[0]
    if name == "POSCAR":
        assert start.velocities[1, 0] == pytest.approx(0.02)


def test_momenta_of_deuterium_are_divided_by_its_mass(tmp_path):
    (tmp_path / "d2.xyz").write_text("2\nProperties=species:S:1:pos:R:3:momenta:R:3\nD 0 0 0 1 0 0\nT 0 0 0.74 -1 0 0\n")
    (start, _), *_ = read_initial_states(tmp_path / "d2.xyz")
    assert start.velocities[:, 0] == pytest.approx(np.array([1 / 2.0141018, -1 / 3.0160493]) * units.fs, rel=1e-6)


def test_an_isotope_in_a_format_that_drops_it_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "d.gen").write_text("2 C\nD O\n1 1 0 0 0\n2 2 0 0 1\n")
    with pytest.raises(UnreadableFileError, match="write H and a column of masses"):
        read_initial_states(tmp_path / "d.gen")


@pytest.mark.parametrize("column", ["masses", "mass"])
def test_masses_of_the_file_move_the_atoms(tmp_path, column):
    """The same force on twice the mass gives half the velocity."""
    (tmp_path / "start.xyz").write_text(f"2\nProperties=species:S:1:pos:R:3:{column}:R:1\nH 0 0 0 1.008\nH 0 0 4 2.016\n")
    (start, said), *_ = read_initial_states(tmp_path / "start.xyz")
    run = simulate(Push(), [start], NVE(), Settings(dt=1.0, steps=3, temperature=0))
    assert run.state.velocities[0, 0] == pytest.approx(2 * run.state.velocities[1, 0], rel=1e-12)
    assert "masses of the file: H 2.016" in said.taken


@pytest.mark.parametrize("mass", [0.0, -1.0, 6586.0, float("nan")])
def test_masses_that_no_atom_has_are_refused(tmp_path, mass):
    """63.546 amu are 6586 eV fs²/Å², the unit in which QUIP writes masses."""
    (tmp_path / "start.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3:mass:R:1\nCu 0 0 0 {mass}\n")
    with pytest.raises(SimulationError, match="give masses in amu"):
        read_initial_states(tmp_path / "start.xyz")


def test_masses_of_ase_are_those_of_the_elements(tmp_path):
    from ase.data import atomic_masses

    assert MASSES[1:95] == pytest.approx(atomic_masses[1:95], rel=2e-4)
    atoms = molecule("CH3OH")
    atoms.set_masses()
    ase.io.write(tmp_path / "start.xyz", atoms, columns=["symbols", "positions", "masses"])
    (start, said), *_ = read_initial_states(tmp_path / "start.xyz")
    assert np.array_equal(start.amu, MASSES[atoms.numbers])
    assert not said.taken


def test_columns_that_are_not_used_are_named(tmp_path):
    (tmp_path / "plain.xyz").write_text("2\nwith velocities\nAr 0 0 0 0.1 0 0\nAr 0 0 4 0 0 0\n")
    assert read_initial_states(tmp_path / "plain.xyz")[0][1].unused == ["columns 5 to 7, which have no name"]
    atoms = slab()
    atoms.set_initial_magnetic_moments(np.ones(12))
    ase.io.write(tmp_path / "start.traj", atoms)
    assert read_initial_states(tmp_path / "start.traj")[0][1].unused == ["initial_magmoms", "tags"]


def test_a_crystal_with_a_header_in_lower_case_is_a_crystal(tmp_path):
    head = 'lattice="4 0 0 0 4 0 0 0 4" properties=species:S:1:pos:R:3:move_mask:L:1'
    (tmp_path / "start.xyz").write_text(f"2\n{head}\nCu 0 0 0 F\nCu 2 2 0 T\n")
    (start, _), *_ = read_initial_states(tmp_path / "start.xyz")
    assert start.structure.pbc.all()
    assert start.structure.cell.tolist() == np.diag([4.0, 4, 4]).tolist()
    assert start.axes_fixed[:, 0].tolist() == [True, False]


def test_one_frame_of_many_can_be_chosen(tmp_path):
    frames = [molecule("H2O") for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.positions[:] += k
    ase.io.write(tmp_path / "many.xyz", frames)
    assert len(read_initial_states(tmp_path / "many.xyz")) == 3
    ((start, _),) = read_initial_states(tmp_path / "many.xyz", FrameOptions(frame=-1))
    assert start.structure.provenance.index == 2
    assert start.structure.positions[0] == pytest.approx(frames[2].positions[0])
    with pytest.raises(SimulationError, match="no frame 3: the file has 3"):
        read_initial_states(tmp_path / "many.xyz", FrameOptions(frame=3))


def test_each_frame_has_its_own_constraints_masses_and_velocities(tmp_path, capsys):
    first, second, third = molecule("H2O"), molecule("H2O"), molecule("H2O")
    first.set_constraint(FixAtoms([0]))
    second.set_masses([15.999, 2.014101777844, 2.014101777844])
    third.set_velocities([[0, 0, 0], [0, 0.01, 0], [0, -0.01, 0]])
    ase.io.write(tmp_path / "three.traj", [first, second, third])
    (a, _), (b, _), (c, _) = read_initial_states(tmp_path / "three.traj")
    run = simulate(Free(), [a, b, c], NVE(), Settings(dt=1.0, steps=4))
    assert run.state.degrees_of_freedom().tolist() == [6, 6, 6]
    assert run.state.masses.tolist() == [15.999, 1.008, 1.008, 15.999, 2.014101777844, 2.014101777844, 15.999, 1.008, 1.008]
    assert run.state.velocities[6:] == pytest.approx(third.get_velocities() * units.fs)
    assert not run.state.velocities[0].any()
    options = ("--charge", 0, "--steps", 0, "--out", tmp_path / "run")
    assert "structure 1: masses of the file: H 2.0141" in md(capsys, "tblite:GFN2", tmp_path / "three.traj", *options)[1]


def test_export_and_start_are_a_fixed_point(tmp_path, capsys):
    """What is exported and started from again is exported alike: positions, momenta, masses, mask, charge."""
    atoms = slab(FixAtoms(range(4)), FixCartesian([5], (True, False, False)))
    atoms.set_masses([65.0] * 12)
    atoms.info["charge"] = 0
    ase.io.write(tmp_path / "start.traj", atoms)
    md(
        capsys,
        "emt:",
        tmp_path / "start.traj",
        "--steps",
        10,
        "--every",
        5,
        "--dt",
        2,
        "--out",
        tmp_path / "a",
        "--export",
        tmp_path / "a.xyz",
    )
    _, said, _ = md(
        capsys, "emt:", tmp_path / "a.xyz", "--frame", -1, "--steps", 0, "--out", tmp_path / "b", "--export", tmp_path / "b.xyz"
    )
    one, two = ase.io.read(tmp_path / "a.xyz", "-1"), ase.io.read(tmp_path / "b.xyz", "0")
    assert np.array_equal(one.positions, two.positions)
    assert one.get_momenta() == pytest.approx(two.get_momenta(), rel=1e-14, abs=1e-15)
    assert np.array_equal(one.get_masses(), two.get_masses())
    assert (tmp_path / "a.xyz").read_text().splitlines()[-1].split()[-3:] == ["T", "T", "T"]
    assert [str(c) for c in one.constraints] == [str(c) for c in two.constraints]
    assert "masses of the file: Cu 65" in said
    assert "the time of the frame" in said
    assert one.get_potential_energy() == two.get_potential_energy()


def test_a_continued_run_keeps_mask_masses_and_degrees_of_freedom(tmp_path):
    start = InitialState(Structure([29] * 3, np.eye(3) * 3), None, np.array([60.0, 70, 80]), np.eye(3, dtype=bool))
    whole = simulate(Free(), [start], Langevin(300.0), Settings(steps=40), out=tmp_path / "whole")
    simulate(Free(), [start], Langevin(300.0), Settings(steps=20), out=tmp_path / "parts")
    parts = simulate(Free(), [start], Langevin(300.0), Settings(steps=40), out=tmp_path / "parts")
    assert np.array_equal(whole.state.velocities, parts.state.velocities)
    assert np.array_equal(np.array(whole.temperature), np.array(parts.temperature))
    assert parts.state.degrees_of_freedom().tolist() == [6]
    assert np.array_equal(parts.state.positions[np.eye(3, dtype=bool)], [3.0, 3, 3])


@pytest.mark.parametrize(
    "other",
    [
        InitialState(Structure([29, 29], [[0, 0, 0], [0, 0, 3]])),
        InitialState(Structure([29, 29], [[0, 0, 0], [0, 0, 3]]), masses=np.array([63.0, 63.546])),
        InitialState(Structure([29, 29], [[0, 0, 0], [0, 0, 3]]), velocities=np.ones((2, 3)) * 1e-3),
    ],
)
def test_a_folder_is_not_continued_with_other_fixed_atoms_masses_or_velocities(tmp_path, other):
    held = InitialState(Structure([29, 29], [[0, 0, 0], [0, 0, 3]], labels={"fixed": [1.0, 0.0]}))
    simulate(Free(), [held], NVE(), Settings(steps=10), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="fixed atoms, masses or first velocities"):
        simulate(Free(), [other], NVE(), Settings(steps=20), out=tmp_path / "run")
    simulate(Free(), [other], NVE(), Settings(steps=10), out=tmp_path / "other")
    with pytest.raises(SimulationError, match="fixed atoms, masses or first velocities"):
        simulate(Free(), [held], NVE(), Settings(steps=20), out=tmp_path / "other")


def test_the_label_fixed_holds_atoms_in_simulations_from_python():
    held = Structure([29, 29], [[0, 0, 0], [0, 0, 3]], labels={"fixed": [1.0, 0.0]})
    run = simulate(Free(), [held], NVE(), Settings(steps=5))
    assert not run.state.positions[0].any()
    assert run.state.positions[1].any()
    assert run.state.degrees_of_freedom().tolist() == [3]


def test_sampling_by_dynamics_leaves_held_atoms_in_place():
    from mlipfm_md.langevin_sampler import LangevinSampler

    held = Structure([29, 29], [[0, 0, 0], [0, 0, 3]], labels={"fixed": [1.0, 0.0], "energy": 1.0})
    for sample in LangevinSampler(Free(), equilibrate=2, stride=2).sample(held, 2, np.random.default_rng(0)):
        assert not sample.positions[0].any()
        assert sample.positions[1].any()
        assert list(sample.labels) == ["fixed"]


def test_sampled_frames_come_after_the_equilibration():
    """Free atoms without friction move on straight lines: the frames at steps 6 and 8 are 6 and 8 steps away from the start."""
    from mlipfm_md.langevin_sampler import LangevinSampler

    pair = Structure([29, 29], [[0, 0, 0], [0, 0, 3]])
    first, second = LangevinSampler(Free(), friction=1e-9, equilibrate=4, stride=2).sample(pair, 2, np.random.default_rng(0))
    assert (first.positions - pair.positions) / 6 == pytest.approx((second.positions - pair.positions) / 8, rel=1e-3)


def test_a_structure_in_which_every_atom_is_fixed_is_refused():
    with pytest.raises(SimulationError, match="every atom is fixed"):
        InitialState(Structure([29], [[0, 0, 0]], labels={"fixed": [1.0]}))


def test_ase_and_the_driver_make_the_same_trajectory_from_the_same_file(tmp_path):
    """Velocity Verlet of ASE, with our calculator on the Atoms of the file: constraints, isotope masses and velocities included."""
    from ase.md.verlet import VelocityVerlet
    from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, LennardJones
    from mlipfm_md import MlipfmCalculator

    model = LennardJones(ClosedFormConfig(elements=(29,), depth=0.3))
    atoms = slab(FixAtoms(range(4)), FixCartesian([5], (True, False, False)))
    add_adsorbate(atoms, "Cu", 2.2, (1.3, 0.8))
    atoms.set_masses([65.0] * 13)
    rng = np.random.default_rng(2)
    atoms.set_velocities(rng.normal(size=(13, 3)) * 0.02)
    ase.io.write(tmp_path / "start.traj", atoms)
    there = ase.io.read(tmp_path / "start.traj")
    there.calc = MlipfmCalculator(model)
    VelocityVerlet(there, 2.0 * units.fs).run(50)
    (start, _), *_ = read_initial_states(tmp_path / "start.traj")
    run = simulate(model, [start], NVE(), Settings(dt=2.0, steps=50))
    assert np.abs(run.state.positions - atoms.positions).max() > 0.1
    assert run.state.positions == pytest.approx(there.positions, abs=1e-6)


class Free:
    """No forces. `Push`: 1 eV/Å along x on every atom."""

    outputs = ("energy", "forces")
    force = 0.0

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(0.0), "forces": np.tile([self.force, 0, 0], (len(s), 1))} for s in structures]


class Push(Free):
    force = 1.0


def test_writing_a_run_says_nothing_about_plain_structures(tmp_path, capsys):
    """A start without constraints, velocities or masses of its own: one line that says that velocities were drawn, and no warning."""
    Path(tmp_path / "start.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n")
    status, out, err = md(capsys, "tblite:GFN2", tmp_path / "start.xyz", "--charge", 0, "--steps", 0, "--out", tmp_path / "run")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"structure 0: velocities drawn at 300 K with seed 0 \(velocities of \d+ K\)", out.splitlines()[0])


def test_charge_and_multiplicity_are_read_in_capitals_and_from_columns_of_a_database(tmp_path):
    from ase.db import connect

    (tmp_path / "nh4.xyz").write_text("2\nProperties=species:S:1:pos:R:3 Charge=-1 Mult=1\nO 0 0 0\nH 0 0 0.96\n")
    (start, said), *_ = read_initial_states(tmp_path / "nh4.xyz", FrameOptions(charge=0, multiplicity=2))
    assert (start.structure.total_charge, start.structure.spin_multiplicity) == (-1, 1)
    assert "charge -1 of the file, not --charge 0, which is for structures that give none" in said.taken
    connect(tmp_path / "oh.db").write(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), multiplicity=2)
    assert read_initial_states(tmp_path / "oh.db")[0][0].structure.spin_multiplicity == 2
