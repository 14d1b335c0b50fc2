"""Relaxations, vibrations, phonons, elasticity, equations of state and reaction paths: closed forms, ASE's own fits, published values."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedLine
from ase.eos import EquationOfState
from ase.optimize import BFGS
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import SimulationError
from mlipfm_md import MlipfmCalculator
from mlipfm_md.crystal_elasticity import Elasticity, elastic_tensor, equation_of_state, symmetrized
from mlipfm_md.crystal_phonons import phonons, supercell_for
from mlipfm_md.harmonic_vibrations import free_hessian, thermochemistry, vibrations
from mlipfm_md.reaction_paths import Path as EnergyPath, minimum_energy_path, saddle_point, share_constraints
from mlipfm_md.relaxation import relax

#: THz of sqrt(eV/Å² / amu).
THZ = np.sqrt(units._e / units._amu) * 1e10 / (2 * np.pi) * 1e-12


def argon(reach: float) -> Atoms:
    """Lennard-Jones argon, fcc, at the minimum of nearest neighbours alone."""
    atoms = bulk("Ar", "fcc", 2 ** (1 / 6) * 3.4 * np.sqrt(2))
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=reach, smooth=False)
    return atoms


def hop() -> tuple[Atoms, Atoms]:
    """Au on Al(100), from hollow to hollow: ASE's tutorial on the nudged elastic band."""
    slab = fcc100("Al", size=(2, 2, 3))
    add_adsorbate(slab, "Au", 1.7, "hollow")
    slab.center(axis=2, vacuum=4.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    last = slab.copy()
    last[-1].x += slab.cell[0, 0] / 2
    for end in (slab, last):
        end.calc = EMT()
        BFGS(end, logfile=None).run(fmax=0.01)
    last.calc = slab.calc
    return slab, last


@pytest.mark.parametrize(("metal", "a"), [("Cu", 3.6), ("Al", 4.0)])
def test_equation_of_state_is_that_of_ase(metal, a):
    atoms = bulk(metal, "fcc", a)
    atoms.calc = EMT()
    found = equation_of_state(atoms, strain=0.04, points=7)
    volumes, energies = [], []
    for scale in np.linspace(0.96, 1.04, 7):
        one = bulk(metal, "fcc", a * scale)
        one.calc = EMT()
        volumes.append(one.get_volume())
        energies.append(one.get_potential_energy())
    v0, e0, b = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    assert found.volume == pytest.approx(v0, rel=1e-8)
    assert found.energy == pytest.approx(e0, abs=1e-8)
    assert found.bulk_modulus == pytest.approx(b / units.GPa, rel=1e-7)
    assert found.atoms.get_volume() == pytest.approx(v0, rel=1e-8)


def test_energies_without_a_minimum_in_the_range_are_refused():
    atoms = bulk("Cu", "fcc", 4.2)
    atoms.calc = EMT()
    with pytest.raises(SimulationError, match="falls towards smaller cells"):
        equation_of_state(atoms)


def test_elastic_constants_of_a_lennard_jones_crystal_obey_cauchy_and_give_its_bulk_modulus():
    """Central forces at zero stress: C12 = C44 (Born and Huang, Dynamical Theory of Crystal Lattices, section 11)."""
    atoms = relax(argon(8.0), fmax=1e-5, cell="full").atoms
    found = elastic_tensor(atoms)
    c = found.tensor
    assert c[0, 1] == pytest.approx(c[3, 3], rel=2e-3)
    assert c[0, 0] == pytest.approx(c[2, 2], rel=1e-6)
    assert found.space_group == "Fm-3m"
    assert found.stable
    bulk_modulus = equation_of_state(atoms, strain=0.01, points=7, form="vinet").bulk_modulus
    assert found.averages()["bulk_voigt"] == pytest.approx((c[0, 0] + 2 * c[0, 1]) / 3)
    assert found.averages()["bulk_hill"] == pytest.approx(bulk_modulus, rel=5e-3)


def test_averages_of_an_isotropic_solid_are_its_moduli_and_a_negative_eigenvalue_is_unstable():
    k, g = 100.0, 40.0
    tensor = np.diag([2 * g] * 3 + [g] * 3) + np.pad(np.full((3, 3), k - 2 * g / 3), (0, 3))
    averages = Elasticity(tensor, 0.0, "", np.zeros(6)).averages()
    for name in ("voigt", "reuss", "hill"):
        assert averages[f"bulk_{name}"] == pytest.approx(k)
        assert averages[f"shear_{name}"] == pytest.approx(g)
    assert averages["young"] == pytest.approx(9 * k * g / (3 * k + g))
    assert averages["poisson"] == pytest.approx((3 * k - 2 * g) / (6 * k + 2 * g))
    soft = tensor.copy()
    soft[3, 3] = -1.0
    assert not Elasticity(soft, 0.0, "", np.zeros(6)).stable


def test_cubic_rotations_leave_three_constants_of_any_tensor():
    turns = [np.array(m) for m in ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])]
    group = [np.eye(3)]
    while len(group) < 24:
        group += [new for a in group for t in turns if not any(np.allclose(new := a @ t, b) for b in group)][:1]
    raw = np.random.default_rng(0).normal(size=(6, 6))
    c = symmetrized(raw + raw.T, np.array(group))
    assert c[:3, :3] == pytest.approx(np.full((3, 3), c[0, 1]) + np.eye(3) * (c[0, 0] - c[0, 1]))
    assert c[3:, 3:] == pytest.approx(np.eye(3) * c[3, 3])
    assert c[:3, 3:] == pytest.approx(np.zeros((3, 3)))


def test_phonons_of_nearest_neighbours_in_fcc_have_their_closed_form():
    """At X m w² = 8k (longitudinal), 4k; at L 8k, 2k (Ashcroft and Mermin, Solid State Physics, problem 22.1), k = 57.146 epsilon / sigma²."""
    pytest.importorskip("phonopy")
    atoms = argon(4.5)
    found = phonons(atoms, supercell=(3, 3, 3))
    k, m = 57.1464 * 0.0104 / 3.4**2, atoms.get_masses()[0]
    expected = {(0.5, 0.5, 0.0): (4, 4, 8), (0.5, 0.5, 0.5): (2, 2, 8), (0, 0, 0): (0, 0, 0)}
    for q, factors in expected.items():
        assert found.frequencies(q) == pytest.approx(np.sqrt(np.array(factors) * k / m) * THZ, rel=2e-3, abs=1e-4)
    assert found.sum_rule < 1e-9
    assert found.imaginary == []
    assert found.thermal[-1]["heat_capacity"] == pytest.approx(3 * units._k * units._Nav, rel=0.01)  # Dulong and Petit at 1000 K


def test_a_crystal_that_a_shear_lowers_has_imaginary_modes_that_are_named():
    """bcc of nearest neighbours alone resists no shear (Born); pressed below the minimum of the pair it gives way."""
    pytest.importorskip("phonopy")
    atoms = bulk("Ar", "bcc", 2 ** (1 / 6) * 3.4 * 2 / np.sqrt(3) * 0.97, cubic=True)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=4.2, smooth=False)
    found = phonons(atoms, supercell=(2, 2, 2))
    assert found.imaginary[0][1] < -0.05
    assert found.imaginary == sorted(found.imaginary, key=lambda item: item[1])


def test_what_phonons_cannot_be_made_of_is_refused_with_the_reason():
    atoms = argon(4.5)
    assert supercell_for(atoms) == (4, 4, 4)
    with pytest.raises(SimulationError, match=r"3\.1 Å wide along vector [123]: .*--supercell 4 4 4 is 12 Å wide"):
        phonons(atoms, supercell=(1, 1, 1))
    with pytest.raises(SimulationError, match="phonons need a crystal.*mlipfm vibrations"):
        phonons(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], calculator=atoms.calc))
    pushed = argon(4.5).repeat(2)
    pushed.positions[0] += 0.1
    pushed.calc = atoms.calc
    with pytest.raises(SimulationError, match="phonons need a relaxed structure: the largest force is"):
        phonons(pushed)


def test_a_diatomic_vibrates_at_the_root_of_its_force_constant_over_the_reduced_mass():
    """Morse: k = 2 epsilon (rho0 / r0)²."""
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=MorsePotential(epsilon=9.0, r0=1.1, rho0=2.5, rcut1=8.0, rcut2=9.0))
    k, (a, b) = 2 * 9.0 * (2.5 / 1.1) ** 2, atoms.get_masses()
    expected = np.sqrt(k * (a + b) / (a * b)) * THZ * 1e12 / (units._c * 100)
    found = vibrations(atoms)
    assert found.frequencies == pytest.approx([expected], rel=1e-4)
    assert len(found.rigid) == 5
    assert np.abs(found.rigid).max() < 10  # of finite differences
    assert found.zero_point_energy == pytest.approx(expected * units.invcm / 2, rel=1e-4)


def test_entropy_of_a_diatomic_gas_is_that_of_translation_rotation_and_vibration():
    """CO at 298.15 K and 1 bar: 197.7 J/K/mol (NIST-JANAF tables), with its bond length of 1.128 Å and 2170 cm⁻¹."""
    k = (2170 * units._c * 100 * 2 * np.pi) ** 2 * units._amu * 12.011 * 15.999 / 28.010 / units._e * 1e-20
    rho0 = 1.128 * np.sqrt(k / 18)
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.128]], calculator=MorsePotential(epsilon=9.0, r0=1.128, rho0=rho0, rcut1=8.0, rcut2=9.0))
    gas = thermochemistry(atoms, vibrations(atoms), pressure=1e5)
    assert gas["entropy"] * units._e * units._Nav == pytest.approx(197.66, abs=0.2)
    assert gas["gibbs_energy"] == pytest.approx(gas["enthalpy"] - 298.15 * gas["entropy"])


def test_a_stretched_pair_on_its_way_out_has_an_imaginary_mode_and_no_thermochemistry():
    calculator = MorsePotential(epsilon=1.0, r0=1.5, rho0=3.0, rcut1=8.0, rcut2=9.0)
    atoms = Atoms("H3", [[0, 0, 0], [0, 0, 2.2], [0, 0, 4.4]], calculator=calculator)
    found = vibrations(atoms, fmax=5.0)
    assert found.imaginary
    with pytest.raises(SimulationError, match=r"needs a minimum; there are imaginary modes: [\d.]+i"):
        thermochemistry(atoms, found)


def test_fixed_atoms_do_not_vibrate_and_leave_no_rigid_motion():
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=MorsePotential(epsilon=9.0, r0=1.1, rho0=2.5, rcut1=8.0, rcut2=9.0))
    atoms.set_constraint(FixAtoms([0]))
    found = vibrations(atoms)
    assert len(found.frequencies) == 3
    assert len(found.rigid) == 0
    assert found.frequencies.max() == pytest.approx(np.sqrt(2 * 9.0 * (2.5 / 1.1) ** 2 / atoms.get_masses()[1]) * THZ * 33.35641, rel=1e-4)


def test_an_axis_that_is_fixed_has_no_vibration():
    """A bond along z: held along x and y, its second atom has one mode, that of the atom on a spring."""
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=MorsePotential(epsilon=9.0, r0=1.1, rho0=2.5, rcut1=8.0, rcut2=9.0))
    atoms.set_constraint([FixAtoms([0]), FixCartesian(1, [True, True, False])])
    found = vibrations(atoms)
    assert found.frequencies == pytest.approx([np.sqrt(2 * 9.0 * (2.5 / 1.1) ** 2 / atoms.get_masses()[1]) * THZ * 33.35641], rel=1e-4)
    atoms.set_constraint([FixAtoms([0]), FixCartesian(1, [False, False, True])])  # the stretch itself
    assert np.abs(vibrations(atoms).frequencies).max() < 20.0  # bends of a diatomic are none; finite differences of them are nearly none
    atoms.set_constraint([FixAtoms([0]), FixedLine(1, [0, 0, 1])])  # as held along x and y
    assert vibrations(atoms).frequencies == pytest.approx(found.frequencies, rel=1e-6)
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(SimulationError, match="bonds of fixed length"):
        vibrations(atoms)


def test_elastic_constants_and_the_equation_of_state_of_a_crystal_with_fixed_atoms_are_refused():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.set_constraint(FixAtoms([0]))
    for compute in (elastic_tensor, equation_of_state):
        with pytest.raises(SimulationError, match="fixed atoms means nothing"):
            compute(atoms)


def test_hessian_of_a_model_is_the_derivative_of_its_forces_and_ignores_translations():
    config = {"elements": ["H", "O"], "levels": ["any"], "dtype": "float64", "backbone": {"channels": 8}}
    atoms = molecule("H2O")
    atoms.rattle(0.03, seed=0)
    atoms.calc = MlipfmCalculator(build("density", config))
    exact = atoms.calc.get_hessian(atoms)
    assert exact == pytest.approx(exact.T)
    assert exact.reshape(9, 3, 3).sum(axis=1) == pytest.approx(np.zeros((9, 3)), abs=1e-9)
    plain = atoms.copy()
    plain.calc = WithoutHessian(atoms.calc)
    assert free_hessian(plain)[1] == pytest.approx(exact, abs=1e-4 * np.abs(exact).max())
    assert free_hessian(plain, delta=0.3)[1] != pytest.approx(exact, abs=1e-4 * np.abs(exact).max())  # a wrong one is noticed


class WithoutHessian:
    """A calculator of which only forces are known."""

    def __init__(self, calculator: MlipfmCalculator) -> None:
        self.get_forces, self.get_potential_energy = calculator.get_forces, calculator.get_potential_energy


def test_relaxing_keeps_fixed_atoms_symmetry_and_reaches_a_pressure():
    slab = fcc100("Al", size=(1, 1, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms([0]))
    slab.calc = EMT()
    found = relax(slab, fmax=0.005)
    assert found.converged
    assert (found.atoms.positions[0] == slab.positions[0]).all()
    assert found.trajectory[0].get_potential_energy() > found.trajectory[-1].get_potential_energy()
    pytest.importorskip("spglib")
    copper = bulk("Cu", "fcc", 3.6)
    copper.calc = EMT()
    pressed = relax(copper, fmax=1e-4, cell="full", symmetry=True, pressure=5.0).atoms
    assert pressed.get_stress()[:3] / units.GPa == pytest.approx([-5.0] * 3, abs=0.01)
    assert pressed.cell.cellpar()[3:] == pytest.approx([60.0] * 3)


class Falling(Calculator):
    """An energy without a minimum: every step down is steeper."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        z = self.atoms.positions[:, 2]
        self.results = {"energy": -1e3 * float((z**2).sum()), "forces": 2e3 * z[:, None] * [0.0, 0.0, 1.0]}


def test_a_model_that_collapses_is_stopped_at_once():
    steps = []
    with pytest.raises(SimulationError, match=r"the energy fell by [\d,.e+]+ eV per atom in \d+ steps: the model collapses"):
        relax(Atoms("Cu2", [[0, 0, 0], [0, 0, 1.0]], calculator=Falling()), on_step=lambda *step: steps.append(step))
    assert len(steps) < 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fmax": 0.0}, "fmax must be between"),
        ({"cell": "full"}, "periodic in three directions"),
        ({"pressure": 1.0}, "whose volume may change"),
        ({"optimizer": "magic"}, "optimizer one of"),
    ],
)
def test_settings_of_a_relaxation_that_cannot_be_are_refused(settings, words):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], calculator=EMT())
    with pytest.raises(SimulationError, match=words):
        relax(atoms, **settings)


def test_a_model_without_stress_moves_no_cell():
    atoms = bulk("Cu", "fcc", 3.6)
    atoms.calc = EMT()
    atoms.calc.implemented_properties = ["energy", "forces"]
    for attempt in (lambda: relax(atoms, cell="full"), lambda: elastic_tensor(atoms)):
        with pytest.raises(SimulationError, match="the model gives no stress, only energy, forces"):
            attempt()


@pytest.mark.full
def test_gold_hops_on_aluminium_over_the_barrier_of_ases_tutorial():
    """0.35 to 0.40 eV: ASE's tutorials on the nudged elastic band and on the dimer method find 0.37 eV with EMT."""
    first, last = hop()
    path = minimum_energy_path(first, last, images=5)
    assert path.converged
    assert path.barrier == pytest.approx(0.374, abs=0.01)
    assert path.reaction_energy == pytest.approx(0.0, abs=1e-3)
    assert path.energies == pytest.approx(path.energies[::-1], abs=0.01)
    assert len({image.get_potential_energy() for image in path.images}) > 2  # every image keeps its own
    assert path.fit[1].max() == pytest.approx(path.energies.max(), abs=0.02)
    top = path.images[2].copy()
    top.calc = EMT()
    saddle = saddle_point(top, fmax=0.02)
    assert saddle.converged
    assert len(saddle.negative) == 1
    assert saddle.energy == pytest.approx(path.energies.max(), abs=0.01)


def test_a_tetrahedron_turns_inside_out_through_a_rhombus_wherever_its_mirror_image_lies():
    """Lennard-Jones: 6 epsilon of six bonds, and 5.0734 of the planar rhombus with a short diagonal (2^(1/6) sigma = 1)."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
    first = Atoms("Ar4", corners, calculator=LennardJones(epsilon=1.0, sigma=2 ** (-1 / 6), rc=50.0, smooth=False))
    last = Atoms("Ar4", -corners, calculator=first.calc)
    last.rotate(100.0, (1, 2, 3))
    last.positions += [4.0, 1.0, -2.0]
    path = minimum_energy_path(first, last, images=5, fmax=0.02)
    assert path.converged
    assert path.saddle is not None
    assert path.barrier == pytest.approx(6 - 5.0734, abs=2e-3)
    assert not path.jumps
    assert path.distances[-1] < 3.0  # without the 9 Å (each of four atoms 4.5) to where the file had the product


def test_atoms_that_would_meet_on_a_straight_path_go_around_each_other():
    """Two atoms of a line change places: halfway of a straight path they are at one place."""
    well = MorsePotential(epsilon=1.0, r0=1.0, rho0=6.0, rcut1=20.0, rcut2=21.0)
    first = Atoms("H2Ar", [[-1, 0, 0], [0, 0, 0], [30, 0, 0]], calculator=well)
    last = Atoms("H2Ar", [[0, 0, 0], [-1, 0, 0], [30, 0, 0]], calculator=well)
    path = minimum_energy_path(first, last, images=5, steps=1)
    assert min(image.get_all_distances()[0, 1] for image in path.images) > 0.8


def test_a_path_that_rises_to_its_end_has_no_saddle_and_a_gap_is_named():
    distances, energies = np.array([0.0, 0.4, 0.8, 3.0, 3.4]), np.array([0.0, 0.1, 0.2, 0.8, 0.9])
    path = EnergyPath([], distances, energies, True, 0.01, (distances, energies))
    assert path.saddle is None
    assert path.jumps == [2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_search_that_starts_at_a_saddle_ends_there(seed: int) -> None:
    """From the top of a hop: the direction is that of the Hessian, so that no seed leads elsewhere."""
    path = minimum_energy_path(*hop(), images=5, fmax=0.02)
    top = path.images[2].copy()
    top.calc = EMT()
    saddle = saddle_point(top, fmax=0.02, seed=seed)
    assert saddle.converged
    assert len(saddle.negative) == 1
    assert np.linalg.norm(saddle.atoms.positions - top.positions, axis=1).max() < 0.1


def test_the_end_that_lost_its_constraints_gets_those_of_the_other_and_different_ones_are_refused():
    first, last = hop()
    kept = last.constraints
    last.set_constraint()
    assert share_constraints(first, last) == "the last end gives no constraints and gets those of the first end"
    assert [c.todict() for c in last.constraints] == [c.todict() for c in kept]
    assert share_constraints(first, last) is None
    last.set_constraint(FixAtoms([0]))
    for attempt in (lambda: share_constraints(first, last), lambda: minimum_energy_path(first, last, images=5)):
        with pytest.raises(SimulationError, match="different constraints"):
            attempt()
    last.set_constraint()
    last.positions[kept[0].index[0]] += 0.03
    with pytest.raises(SimulationError, match="atoms that the first end fixes lie up to 0.030 Å elsewhere in the last end"):
        share_constraints(first, last)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: None, "the same structure"),
        (lambda a: a.set_atomic_numbers([29, 79]), "the same atoms in the same order"),
        (lambda a: a.info.update(charge=1), "different charges"),
        (lambda a: a.info.update(total_charge=1), "different charges"),
        (lambda a: a.info.update(multiplicity=3), "different charges"),
        (lambda a: (a.set_cell([9.0] * 3), setattr(a, "pbc", True)), "different cells"),
        (lambda a: a.positions.__iadd__([[0, 0, 0], [0, 0, 0.6]]), "the last end of a path need a relaxed structure"),
    ],
)
def test_ends_that_make_no_path_are_refused(change, words):
    first = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], calculator=EMT())
    BFGS(first, logfile=None).run(fmax=0.01)
    last = first.copy()
    change(last)
    with pytest.raises(SimulationError, match=words):
        minimum_energy_path(first, last)
