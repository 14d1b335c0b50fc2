"""The label `weight`: losses of a structure count as often as it says."""

from __future__ import annotations

import numpy as np
import torch
from mlipfm_data.curation.weights import boltzmann
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.energy_force import EnergyForce


def batch_of(energies, weights=None):
    """Dimers, and an isolated atom at the end, with these energies (eV)."""
    structures = []
    for k, energy in enumerate(energies):
        numbers = [1, 1] if k + 1 < len(energies) else [1]
        labels = {"energy": energy, "forces": np.full((len(numbers), 3), 0.1 * k)}
        if weights is not None and weights[k] is not None:
            labels["weight"] = weights[k]
        structures.append(Structure(numbers, np.arange(3.0 * len(numbers)).reshape(-1, 3) + k, level="x", labels=labels))
    return collate(structures, [])


def terms(batch, energy, forces, **options):
    objective = EnergyForce(energy_loss="mse", forces_loss="mse", **options)
    return objective.terms(Prediction({"energy": energy, "forces": forces}, "direct"), batch)


def test_the_objective_is_stationary_at_the_solution_of_weighted_least_squares():
    """E = a x + b: the gradient of the weighted loss vanishes where the normal equations of WLS say, and not at those without weights."""
    rng = np.random.default_rng(0)
    x, atoms = rng.normal(size=8), np.array([2] * 7 + [1])
    energies = 2 * x + 1 + rng.normal(size=8)
    weights = boltzmann(energies - energies.min(), atoms, 0.5)
    batch = batch_of(energies, weights)
    columns = np.stack([x, np.ones(8)], axis=1)

    def gradient(w):
        design = columns / atoms[:, None]
        solution = np.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w * energies / atoms))
        unknown = torch.tensor(solution, requires_grad=True)
        none = torch.zeros(len(batch.positions), 3, dtype=torch.float64)
        total, count = terms(batch, torch.tensor(columns) @ unknown, none, forces_weight=0.0)["energy"]
        (total / count).backward()
        return np.abs(unknown.grad.numpy()).max()

    assert gradient(weights) < 1e-14
    assert gradient(np.ones(8)) > 1e-3


def test_weights_of_one_change_no_bit():
    rng = np.random.default_rng(1)
    energies = rng.normal(size=6)
    plain, weighted = batch_of(energies), batch_of(energies, boltzmann(energies - energies.min(), np.array([2] * 5 + [1]), np.inf))
    predicted = torch.tensor(rng.normal(size=6)), torch.tensor(rng.normal(size=(11, 3)))
    for key, (total, count) in terms(plain, *predicted).items():
        other, other_count = terms(weighted, *predicted)[key]
        assert torch.equal(total, other)
        assert torch.equal(count, other_count)


def test_forces_of_every_atom_have_the_weight_of_their_structure():
    batch = batch_of([0.0, 0.0], [0.0, None])
    forces = torch.ones(3, 3, dtype=torch.float64)
    total, count = terms(batch, torch.zeros(2, dtype=torch.float64), forces, forces_weight=1.0)["forces"]
    assert float(count) == 3
    assert float(total) == 3 * 0.9**2  # the dimer counts nothing, the lone atom, whose weight is not stated, counts 1
