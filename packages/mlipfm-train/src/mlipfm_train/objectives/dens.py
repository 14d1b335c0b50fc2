"""Denoising of structures off equilibrium (DeNS, arXiv:2403.09549): predict the noise on some atoms, given the forces that acted on them before.

Off equilibrium a noisy structure may come from many others; the force of the original structure, an input of the model, says from which. Forces
enter in two places: their size is added to the embedding of the element of displaced atoms (`Batch.node_input`), so that the whole network knows
it, and their direction enters the head of the noise, one equivariant sum over neighbours. Both are trained with the model and not exported:
without displaced atoms nothing is added. The paper's noise head is one block of EquiformerV2; this one works with every backbone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from torch import Tensor, nn
from torch.nn.functional import silu

from .additive import AdditiveObjective
from .energy_force import EnergyForce
from .losses import LOSSES, Loss, losses_of
from .potential_features import gaussians, node_channels, pairs_within, scalars_of, start_small

#: Å, of the neighbours that the noise head sums over. Numbers: Gaussians of distances and of sizes of forces.
REACH, RADIAL, SIZES = 4.0, 12, 12


class NoiseHead(nn.Module):
    """Noise of each atom in units of sigma from node scalars, neighbours and encoded forces; equivariant, nearly zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.size = nn.Linear(SIZES, channels, bias=False)
        self.inner = nn.Linear(2 * channels + RADIAL + 2, channels)
        self.along = nn.Linear(channels, 1)
        self.gate = nn.Linear(channels + SIZES, channels)
        self.force = nn.Linear(channels, 1)
        for last in (self.along, self.force):
            start_small(last)

    def sizes(self, forces: Tensor) -> Tensor:
        """[atoms, channels] of forces [atoms, 3] in eV/Å; zero for no force."""
        basis = _sizes(forces.to(self.size.weight.dtype))
        added: Tensor = self.size(basis * (forces != 0).any(dim=1)[:, None])
        return added

    def forward(self, s: Tensor, forces: Tensor, batch: Batch) -> Tensor:
        """[atoms, 3] from node scalars [atoms, channels] and encoded forces [atoms, 3] in eV/Å."""
        i, j, d, r = pairs_within(batch, REACH)
        unit, f = (d / r[:, None]).to(s.dtype), forces.to(s.dtype)
        projected = torch.stack([(f[i] * unit).sum(dim=1), -(f[j] * unit).sum(dim=1)], dim=1)
        edge = torch.cat([s[i], s[j], gaussians(r.to(s.dtype), 0.0, REACH, RADIAL), projected], dim=1)
        fade = 0.5 * (1 + torch.cos(torch.pi * r / REACH)).to(s.dtype)
        along = self.along(silu(self.inner(edge))) * fade[:, None] * unit
        own = self.force(silu(self.gate(torch.cat([s, _sizes(f)], dim=1)))) * f
        return own + torch.zeros_like(f).index_add(0, i, along)


def _sizes(forces: Tensor) -> Tensor:
    return gaussians(torch.log1p(torch.linalg.vector_norm(forces, dim=1)), 0.0, 4.0, SIZES)


class Dens(AdditiveObjective):
    """See the module.

    Beside `energy-force` it is one more task on displaced copies of the structures (`probability` 1). A model with direct forces may learn all of it
    here, as in the paper: `probability: 0.5` displaces atoms of half the structures; energies are those of the original structures, and forces are
    trained on the atoms that were not displaced.

    Args:
        sigma: Å, standard deviation of each component. fraction: of the atoms of a structure that are displaced. probability: of a structure to have
            some displaced; those that stay as they are teach energies and forces only.
        loss: of the noise in units of sigma: `norm` is the length of that of an atom, `mse` and `mae` act on components.
        weight: of the noise. energy_weight, forces_weight: of energies per atom and forces (0: they belong to another objective).

    Raises:
        RecipeError: a value that cannot be; by `prepare`, energies or forces with a potential whose forces are a gradient.
    """

    def __init__(
        self,
        sigma: float = 0.1,
        fraction: float = 0.5,
        probability: float = 1.0,
        loss: Loss = "norm",
        weight: float = 1.0,
        energy_weight: float = 0.0,
        forces_weight: float = 0.0,
    ) -> None:
        fine = 0 < sigma <= 1 and 0 < fraction <= 1 and 0 < probability <= 1 and weight > 0 and energy_weight >= 0 and forces_weight >= 0
        if not fine or loss not in LOSSES:
            raise RecipeError(
                f"sigma={sigma:g}, fraction={fraction:g}, probability={probability:g}, loss={loss!r}, weight={weight:g}, "
                f"energy_weight={energy_weight:g}, forces_weight={forces_weight:g} cannot be",
                where="dens",
                hint=f"0 < sigma <= 1 Å, fraction and probability in (0, 1], weight above 0, loss one of {', '.join(LOSSES)}",
            )
        self.supervised = EnergyForce(energy_weight, forces_weight) if energy_weight + forces_weight > 0 else None
        if probability < 1 and self.supervised is None:
            raise RecipeError(
                f"with probability={probability:g} and no energy_weight or forces_weight, structures without noise teach nothing",
                where="dens",
                hint="probability: 1, or weights above 0",
            )
        self.sigma, self.fraction, self.probability, self.loss, self.weight = sigma, fraction, probability, loss, weight
        self.outputs: tuple[str, ...] = self.supervised.outputs if self.supervised is not None else ("energy",)
        self.requires: tuple[str, ...] = tuple(dict.fromkeys(("forces", *(self.outputs if self.supervised is not None else ()))))
        self.module: NoiseHead | None = None

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the head; refuse labels of the original structure for a gradient at displaced atoms."""
        if self.supervised is not None and potential.spec.kind == "conservative":
            raise RecipeError(
                "the gradient of an energy at displaced atoms is not the force of the original structure",
                where="dens",
                hint="energy_weight: 0, forces_weight: 0 and the objective energy-force beside it; or potential.forces: direct",
            )
        self.module = NoiseHead(node_channels(potential))

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with noise on some atoms, its forces, and weight 0 for the forces on those atoms; without forces, without labels."""
        if "forces" not in structure.labels:
            return [structure.replace(labels={}, label_std={})]
        n, labels = len(structure), structure.labels
        moved = (rng.random(n) < self.fraction) & (rng.random() < self.probability)
        noise = np.where(moved[:, None], rng.normal(scale=self.sigma, size=(n, 3)), 0.0)
        noise -= noise.mean(axis=0) if moved.all() else 0.0
        clean = labels.get("forces_weight", np.ones(n)) * ~moved
        kept = {key: labels[key] for key in ("energy", "forces", "weight") if key in labels}
        return [
            structure.replace(positions=structure.positions + noise, labels={**kept, "forces_weight": clean, "noise": noise}, label_std={})
        ]

    def node_input(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The size of the encoded forces is added to the embedding of the element of displaced atoms."""
        assert self.module is not None
        added = self.module.sizes(encoded_forces(batch))
        return added.new_ones(len(added), 1), added

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`noise`: over displaced atoms; `energy` and `forces` where they have a weight."""
        assert self.module is not None
        s = scalars_of(prediction, self.module.size.weight)
        predicted = self.module(s, encoded_forces(batch), batch).to(torch.float64)
        noise = batch.labels.get("noise", torch.zeros_like(predicted))
        moved = (noise != 0).any(dim=1)
        loss = losses_of((predicted - noise / self.sigma)[moved], self.loss, 1.0)
        count = torch.tensor(float(loss.numel()), dtype=torch.float64, device=loss.device)
        supervised = self.supervised.terms(prediction, batch) if self.supervised is not None else {}
        return {"noise": (self.weight * loss.sum() + 0.0 * predicted.sum(), count), **supervised}


def encoded_forces(batch: Batch) -> Tensor:
    """Return the forces [atoms, 3] in eV/Å of atoms that were displaced, zero for all others."""
    if "noise" not in batch.labels or "forces" not in batch.labels:
        return torch.zeros_like(batch.positions)
    given = (batch.label_mask["noise"] & batch.label_mask["forces"])[batch.system]
    moved = (batch.labels["noise"] != 0).any(dim=1) & given
    return batch.labels["forces"] * moved[:, None]
