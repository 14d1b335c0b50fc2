"""Signs and values of derivatives for energies known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.derivatives import forces, forces_and_stress, hessian, hessian_rows, hvp, jacobian_asymmetry
from mlipfm_interfaces.errors import PropertyNotAvailableError, ShapeError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import GPA

EPSILON, SIGMA = 0.0103, 3.40  # argon, eV and Angstrom
#: Lattice sums of fcc for r^-12 and r^-6 (Kittel): E/N = 2 eps [12.13188 (s/R)^12 - 14.45392 (s/R)^6], R the nearest distance.
A12, A6 = 12.13188, 14.45392
SPEC = GraphSpec(17.0)
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def argon(a, strain=None, rattle=0.0):
    cell = a * np.eye(3)
    positions = FCC @ cell + np.random.default_rng(0).normal(size=(4, 3)) * rattle
    deform = np.eye(3) if strain is None else np.eye(3) + strain
    return Structure([18] * 4, positions @ deform, cell @ deform, True)


def lennard_jones(batch, spec=SPEC):
    view = batch.views[spec]
    r2 = batch.displacements(spec).square().sum(-1)
    s6 = (SIGMA**2 / r2) ** 3
    pair = torch.where(view.mask, 2 * EPSILON * (s6**2 - s6), 0.0)
    per_atom = torch.zeros(len(batch.positions), dtype=torch.float64).index_add(0, view.i, pair)
    return batch.sum_per_system(per_atom)


def evaluated(structures, spec=SPEC):
    batch = collate(structures, [spec], torch.float64).with_leaves(strain=True)
    energy = lennard_jones(batch, spec)
    return energy.detach(), *forces_and_stress(energy, batch, stress=True)


def test_energy_of_fcc_argon_equals_the_lattice_sum():
    energy, f, _ = evaluated([argon(5.3)])
    ratio6 = (SIGMA / (5.3 / np.sqrt(2))) ** 6
    tail = -8 / 3 * np.pi * (4 / 5.3**3) * EPSILON * SIGMA**6 / SPEC.cutoff**3
    assert float(energy) / 4 + tail == pytest.approx(2 * EPSILON * (A12 * ratio6**2 - A6 * ratio6), rel=2e-4)
    assert f.abs().max() < 1e-12


def test_compressed_argon_has_negative_stress_and_stretched_argon_positive():
    _, _, stress = evaluated([argon(4.9), argon(5.6)])
    assert (stress[0].diagonal() < -0.005).all()
    assert (stress[1].diagonal() > 0.0005).all()
    np.testing.assert_array_equal(stress, stress.mT)


def test_pressure_of_compressed_argon_equals_the_lattice_sum():
    """P = -dE/dV = (2 eps / (3 v)) (12 A12 s12 - 6 A6 s6), v the volume of an atom."""
    a = 4.9
    ratio6 = (SIGMA / (a / np.sqrt(2))) ** 6
    pressure = 2 * EPSILON / (3 * a**3 / 4) * (12 * A12 * ratio6**2 - 6 * A6 * ratio6)
    tail = -16 / 3 * np.pi * (4 / a**3) ** 2 * EPSILON * SIGMA**6 / SPEC.cutoff**3
    _, _, stress = evaluated([argon(a)])
    assert -float(stress[0].trace()) / 3 + tail == pytest.approx(pressure, rel=1e-3)
    assert 1 < pressure / GPA < 10


@pytest.mark.parametrize("layout", ["pairs", "dense"])
def test_stress_equals_finite_differences_of_the_energy_of_strained_crystals(layout):
    h, wanted, spec = 1e-5, np.zeros((3, 3)), GraphSpec(7.0, layout)
    for a in range(3):
        for b in range(3):
            step = np.zeros((3, 3))
            step[a, b] += h / 2
            step[b, a] += h / 2
            plus, minus = (_smooth(collate([argon(5.0, sign * step, 0.1)], [spec], torch.float64), spec) for sign in (1, -1))
            wanted[a, b] = float(plus - minus) / (2 * h) / 125.0
    batch = collate([argon(5.0, rattle=0.1)], [spec], torch.float64).with_leaves(strain=True)
    _, stress = forces_and_stress(_smooth(batch, spec), batch, stress=True)
    np.testing.assert_allclose(stress[0], wanted, atol=1e-8)
    assert abs(wanted[0, 1]) > 1e-5


def _smooth(batch, spec):
    """Sum over ordered pairs of (1 - r^2/rc^2)^4: vanishes with three derivatives at the cutoff."""
    inside = (1 - batch.displacements(spec).square().sum(-1) / spec.cutoff**2).clamp_min(0.0)
    return (inside**4).sum()[None]


def test_forces_are_minus_the_slope_of_the_energy():
    batch = collate([argon(5.0, rattle=0.1)], [SPEC], torch.float64).with_leaves()
    f = forces(_smooth(batch, SPEC), batch)
    h = 1e-5
    for atom, axis in ((0, 0), (2, 1), (3, 2)):
        energies = []
        for sign in (1, -1):
            s = argon(5.0, rattle=0.1)
            positions = s.positions.copy()
            positions[atom, axis] += sign * h
            energies.append(float(_smooth(collate([s.replace(positions=positions)], [SPEC], torch.float64), SPEC)))
        assert float(f[atom, axis]) == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-7)
    assert f.sum(0).abs().max() < 1e-10


def test_stress_of_a_molecule_is_refused():
    batch = collate([Structure([18, 18], [[0, 0, 0], [3.8, 0, 0]])], [SPEC], torch.float64).with_leaves(strain=True)
    with pytest.raises(PropertyNotAvailableError, match="three periodic directions"):
        forces_and_stress(lennard_jones(batch), batch, stress=True)


def test_a_lone_atom_has_zero_forces():
    batch = collate([Structure([18], [[0, 0, 0]])], [SPEC], torch.float64).with_leaves()
    assert forces(lennard_jones(batch), batch).tolist() == [[0.0] * 3]
    assert forces(torch.zeros(1), batch).tolist() == [[0.0] * 3]


K, R0 = 30.0, 1.1


def spring_forces(positions, index):
    """Forces of E = K/2 (|r_b - r_a| - R0)^2 for pairs (a, b) of `index`."""
    r = positions[index[:, 1]] - positions[index[:, 0]]
    energy = 0.5 * K * ((r.norm(dim=1) - R0) ** 2).sum()
    return -torch.autograd.grad(energy, positions, create_graph=True)[0]


def spring_hessian(vector):
    """Closed form of the block (a, a): K [u u + (1 - R0/r)(1 - u u)]; (a, b) is its negative."""
    r = np.linalg.norm(vector)
    along = np.outer(vector, vector) / r**2
    block = K * (along + (1 - R0 / r) * (np.eye(3) - along))
    return np.block([[block, -block], [-block, block]])


POSITIONS = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.9, 0.4], [5.0, 5.0, 5.0], [5.3, 6.2, 4.9]], dtype=torch.float64, requires_grad=True)
SPRINGS = torch.tensor([[0, 1], [2, 3]])


def closed_hessian():
    wanted = np.zeros((12, 12))
    for k in (0, 6):
        a, b = POSITIONS.detach().numpy()[k // 3 : k // 3 + 2]
        wanted[k : k + 6, k : k + 6] = spring_hessian(b - a)
    return wanted


def test_hessian_of_springs_is_the_closed_form():
    np.testing.assert_allclose(hessian(spring_forces(POSITIONS, SPRINGS), POSITIONS), closed_hessian(), atol=1e-10)


def test_rows_of_two_systems_come_from_one_product_with_plus_sign():
    index = torch.tensor([[[0, 0], [3, 2]], [[1, 1], [2, 0]]])
    rows = hessian_rows(spring_forces(POSITIONS, SPRINGS), POSITIONS, index)
    wanted = closed_hessian().reshape(4, 3, 4, 3)
    for p in range(2):
        for atom, axis in index[p].tolist():
            system = slice(0, 2) if atom < 2 else slice(2, 4)
            np.testing.assert_allclose(rows[p, system], wanted[atom, axis, system], atol=1e-10)
            assert float(rows[p, atom, axis]) > 0


def test_hessian_vector_products_are_h_times_v():
    probe = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 3)))
    found = hvp(spring_forces(POSITIONS, SPRINGS), POSITIONS, probe)
    np.testing.assert_allclose(found.reshape(3, 12), probe.reshape(3, 12).numpy() @ closed_hessian(), atol=1e-10)


def test_translations_cost_no_energy_to_second_order():
    f = spring_forces(POSITIONS, SPRINGS)
    assert hvp(f, POSITIONS, torch.ones(1, 4, 3, dtype=torch.float64)).abs().max() < 1e-10


def test_rows_can_be_trained_through():
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    rows = hessian_rows(-k * x, x, torch.tensor([[[0, 1]]]), create_graph=True)
    assert rows.tolist() == [[[0.0, 2.0, 0.0]]]
    rows.sum().backward()
    assert float(k.grad) == 1.0


@pytest.mark.parametrize(("k", "c"), [(1.0, 0.0), (1.0, 0.5), (3.0, 4.0), (0.0, 1.0)])
def test_asymmetry_of_a_curl_field_is_c_over_root_of_k2_plus_c2(k, c):
    """In the plane: F = -k (x, y) + c (-y, x), J = [[-k, -c], [c, -k]]."""
    positions = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x, y, z = positions.unbind(1)
    field = torch.stack([-k * x - c * y, -k * y + c * x, 0 * z], dim=1)
    assert jacobian_asymmetry(field, positions) == pytest.approx(c / np.hypot(k, c), abs=1e-12)


def test_asymmetry_of_gradient_forces_is_zero_and_of_random_ones_is_0_707():
    assert jacobian_asymmetry(spring_forces(POSITIONS, SPRINGS), POSITIONS) < 1e-12
    matrix = torch.randn(150, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(50, 3, dtype=torch.float64, requires_grad=True)
    assert jacobian_asymmetry((matrix @ x.reshape(-1)).reshape(50, 3), x) == pytest.approx(np.sqrt(0.5), abs=0.01)


def test_wrong_shapes_are_named():
    f = spring_forces(POSITIONS, SPRINGS)
    with pytest.raises(ShapeError, match=r"`index` must have shape \[rows, systems, 2\], got \[2, 2\]"):
        hessian_rows(f, POSITIONS, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"`probe` must have shape \[probes, 4, 3\], got \[4, 3\]"):
        hvp(f, POSITIONS, torch.zeros(4, 3))
