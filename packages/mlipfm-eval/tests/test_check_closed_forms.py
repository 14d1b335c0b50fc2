"""Potentials of one element that know neither water nor copper pass: argon, silicon, tungsten, lithium."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_eval._check_model_input import prepare_model
from mlipfm_eval.check import broken, check_model
from mlipfm_interfaces.errors import UnknownElementError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, LennardJones, Morse, noble_gas


class StillingerWeber:
    """Silicon, F. H. Stillinger and T. A. Weber, Phys. Rev. B 31 (1985) 5262, table I and eqs. (2.3) to (2.5)."""

    outputs = ("energy", "forces", "stress")
    eps, sigma, a, lam, gamma, A, B, p = 2.1683, 2.0951, 1.80, 21.0, 1.20, 7.049556277, 0.6022245584, 4

    def evaluate(self, structures, outputs):
        return [self._one(s, outputs) for s in structures]

    def _one(self, s, outputs):
        if set(s.atomic_numbers.tolist()) != {14}:
            raise UnknownElementError("silicon alone")
        i, j, shifts = map(np.asarray, neighbor_pairs(s, self.a * self.sigma))
        positions = torch.tensor(np.array(s.positions), requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        first, second = torch.as_tensor(i), torch.as_tensor(j)
        vectors = positions[second] - positions[first] + torch.as_tensor(np.array(shifts, dtype=float) @ s.cell)
        vectors = vectors @ (torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T))
        r = vectors.norm(dim=1) / self.sigma
        inside = r < self.a - 1e-3  # exp(1/(r - a)) is below 1e-300 beyond
        tail = torch.where(inside, torch.exp(1 / torch.where(inside, r - self.a, -1.0)), 0.0)
        energy = 0.5 * (self.eps * self.A * (self.B * r**-self.p - 1) * tail).sum()
        left, right = np.nonzero((i[:, None] == i[None]) & (np.arange(len(i))[:, None] < np.arange(len(i))[None]))
        cosine = (vectors[left] * vectors[right]).sum(1) / (r[left] * r[right] * self.sigma**2)
        soft = torch.where(inside, torch.exp(self.gamma / torch.where(inside, r - self.a, -1.0)), 0.0)
        energy = (
            energy
            + (self.eps * self.lam * soft[left] * soft[right] * (cosine + 1 / 3) ** 2).sum()
            + 0.0 * strain.sum()
            + 0.0 * positions.sum()
        )
        gradient, virial = torch.autograd.grad(energy, (positions, strain))
        found = {"energy": energy.detach().numpy(), "forces": -gradient.numpy()}
        if "stress" in outputs:
            found["stress"] = virial.numpy() / abs(np.linalg.det(s.cell))
        return {key: found[key] for key in outputs}


class Outside:
    """A closed form as a code of another package is seen."""

    outputs = ("energy", "forces", "stress")

    def __init__(self, inner):
        self.inner = inner

    def evaluate(self, structures, outputs):
        return evaluate(self.inner, structures, outputs)


def test_stillinger_weber_has_the_cohesive_energy_and_lattice_of_silicon():
    from mlipfm_interfaces.testing.structures import silicon

    (row,) = StillingerWeber().evaluate([silicon()], ("energy", "forces", "stress"))
    assert float(row["energy"]) / 2 == pytest.approx(-2 * 2.1683, abs=1e-3)  # four half bonds of depth eps
    assert np.abs(row["stress"]).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "model", "formula"),
    [
        pytest.param("argon", Outside(noble_gas()), "Ar4", marks=pytest.mark.ci),
        pytest.param("silicon", StillingerWeber(), "Si2", marks=pytest.mark.ci),
        pytest.param("tungsten", Outside(Morse(ClosedFormConfig(elements=(74,)))), "W2", marks=pytest.mark.full),
        pytest.param(
            "lithium", Outside(LennardJones(ClosedFormConfig(elements=(3,), cutoff=7.0, switch_on=5.0))), "Li2", marks=pytest.mark.full
        ),
    ],
)
def test_potential_of_one_element_passes_without_a_word_about_it(name, model, formula):
    subject = prepare_model(model)
    assert subject.crystal is not None
    assert subject.crystal.formula == formula
    assert broken(check_model(model, quick=True)) == []
