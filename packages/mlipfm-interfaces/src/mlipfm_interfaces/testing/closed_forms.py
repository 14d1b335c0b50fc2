"""Potentials with closed forms, written like any model: exact references for tests, and potentials that pass the contract suites.

All are sums over pairs, E = sum_i e(Z_i, state of the system) + 1/2 sum_ij u(r_ij) s(r_ij), with a switch s that takes u, its first and its second
derivative to zero at the cutoff. Parameters are learnable, one per element.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.derivatives import forces_and_stress, hessian_rows, hvp
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.potential import ParameterRole, Potential, PotentialSpec, Prediction

DERIVED = ("forces", "stress", "hessian_rows", "hvp")


@dataclass(frozen=True)
class ClosedFormConfig:
    """Options of a closed form.

    Attributes:
        elements: atomic numbers it covers.
        levels: levels of theory; level k adds 0.1 k eV per atom.
        cutoff, switch_on: Å; u is untouched below `switch_on` and zero from `cutoff` on.
        layout: neighbours as `pairs` or `dense`.
        conditions: of total_charge, spin_multiplicity, external_field.
        depth: eV, initial well depth of every element.
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 11, 14, 17, 18, 29)
    levels: tuple[str, ...] = ("closed-form",)
    cutoff: float = 5.0
    switch_on: float = 3.5
    layout: Literal["pairs", "dense"] = "pairs"
    conditions: tuple[str, ...] = ()
    depth: float = 0.5
    dtype: Literal["float32", "float64"] = "float64"


def switch(r: Tensor, on: float, off: float) -> Tensor:
    """1 below `on`, 0 above `off`, between them 1 - 10 x^3 + 15 x^4 - 6 x^5: value, slope and curvature continuous."""
    x = ((r - on) / (off - on)).clamp(0.0, 1.0)
    return 1 - x**3 * (10 - 15 * x + 6 * x**2)


class PairTable(nn.Module):
    """Learnable depth (eV), length (Å) and element energy (eV) of every element, and how it depends on the state of the system."""

    def __init__(self, elements: Sequence[int], n_levels: int, depth: float, dtype: torch.dtype) -> None:
        super().__init__()
        n = len(elements)
        radii = torch.tensor(COVALENT_RADII[list(elements)], dtype=dtype)
        self.depth = nn.Parameter(depth * torch.linspace(0.8, 1.2, n, dtype=dtype))
        self.radius = nn.Parameter(radii)
        self.element_energy = nn.Parameter(torch.linspace(-1.0, 1.0, n, dtype=dtype) + 0.1 * torch.arange(n_levels, dtype=dtype)[:, None])
        self.response = nn.Parameter(torch.linspace(0.5, 1.0, n, dtype=dtype))

    def forward(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Depth and length of pairs of element indices: geometric and arithmetic mean (Lorentz-Berthelot)."""
        return torch.sqrt(self.depth[i] * self.depth[j]), self.radius[i] + self.radius[j]


class ClosedForm(Potential):
    """Base: everything but the function u of a pair."""

    def __init__(self, config: ClosedFormConfig | None = None) -> None:
        super().__init__()
        options = config or ClosedFormConfig()
        self.options = options
        self.config: dict[str, Any] = asdict(options)
        self.graph = GraphSpec(options.cutoff, layout=options.layout)
        self.spec = PotentialSpec(
            elements=options.elements,
            levels=options.levels,
            outputs=("energy", "atomic_energies", *DERIVED),
            graphs=(self.graph,),
            conditions=options.conditions,
            dtype=options.dtype,
            interaction_range=options.cutoff,
        )
        self.table = PairTable(options.elements, len(options.levels), options.depth, self.spec.torch_dtype)
        index = torch.full((119,), -1, dtype=torch.int64)
        index[list(options.elements)] = torch.arange(len(options.elements))
        self.register_buffer("element_index", index, persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from JSON-ready options, as the plug-in group `mlipfm.potentials` asks."""
        options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        return cls(ClosedFormConfig(**options))

    @abstractmethod
    def pair_energy(self, r: Tensor, depth: Tensor, length: Tensor) -> Tensor:
        """Return u(r) in eV of pairs at distance r (Å), without the switch."""

    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        self.check_outputs(outputs)
        derived = any(key in DERIVED for key in outputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() or derived):
            batch = batch.with_leaves(strain="stress" in outputs, field=False)
            atomic = self.atomic_energies(batch)
            values = {"energy": batch.sum_per_system(atomic), "atomic_energies": atomic}
            if derived:
                values |= self.derived(values["energy"], batch, outputs, create_graph)
        return Prediction({key: values[key] for key in outputs}, self.spec.kind)

    def derived(self, energy: Tensor, batch: Batch, outputs: Sequence[str], create_graph: bool) -> dict[str, Tensor]:
        """Forces and what follows from them, in one backward pass each."""
        second = "hvp" in outputs or "hessian_rows" in outputs
        force, stress = forces_and_stress(energy, batch, stress="stress" in outputs, create_graph=create_graph or second)
        values = {"forces": force}
        if stress is not None:
            values["stress"] = stress
        if "hessian_rows" in outputs:
            values["hessian_rows"] = hessian_rows(force, batch.positions, batch.labels["hessian_rows_index"], create_graph=create_graph)
        if "hvp" in outputs:
            values["hvp"] = hvp(force, batch.positions, batch.labels["hvp_probe"], create_graph=create_graph)
        return values if create_graph else {key: value.detach() for key, value in values.items()}

    def atomic_energies(self, batch: Batch) -> Tensor:
        """[atoms] eV."""
        element = self.element_index[batch.atomic_numbers]  # type: ignore[index]  # a buffer
        view = batch.views[self.graph]
        if isinstance(view, PairView):
            i, j = element[view.i], element[view.j]
        else:
            i, j = element[:, None], element[view.index]
        r = self.distances(batch)
        energy = 0.5 * self.pair_energy(r, *self.table(i, j)) * self.envelope(r)
        own = self.state_energy(batch, element)
        return own.index_add(0, view.i, energy) if isinstance(view, PairView) else own + energy.sum(dim=1)

    def distances(self, batch: Batch) -> Tensor:
        """Lengths of the displacements, Å; never zero, because overlapping atoms are refused and padding is far."""
        lengths: Tensor = torch.linalg.vector_norm(batch.displacements(self.graph), dim=-1)
        return lengths

    def envelope(self, r: Tensor) -> Tensor:
        return switch(r, self.options.switch_on, self.options.cutoff)

    def state_energy(self, batch: Batch, element: Tensor) -> Tensor:
        """Element energy of the level, and a quadratic term in charge per atom, unpaired electrons per atom and field."""
        level = self.level_index(batch)
        per_system = torch.zeros(batch.n_systems, dtype=self.table.response.dtype, device=element.device)
        if "total_charge" in self.spec.conditions:
            per_system = per_system + (batch.total_charge / batch.n_atoms) ** 2
        if "spin_multiplicity" in self.spec.conditions:
            per_system = per_system + 0.3 * ((batch.spin_multiplicity - 1).clamp_min(0) / batch.n_atoms) ** 2
        if "external_field" in self.spec.conditions:
            per_system = per_system - 0.5 * (batch.external_field**2).sum(dim=1).to(per_system.dtype)
        own = self.table.element_energy[level[batch.system], element]
        return own + self.table.response[element] * per_system[batch.system]

    def blocks(self) -> list[nn.Module]:
        return [self.table]

    def parameter_roles(self) -> dict[str, ParameterRole]:
        return {name: ParameterRole(depth=1, scaling="vector", decay=False) for name, _ in self.named_parameters()}


class LennardJones(ClosedForm):
    """u = 4 e [(s/r)^12 - (s/r)^6]; the minimum -e is at 2^(1/6) s, with s = 0.9 times the sum of covalent radii."""

    plugin = "lennard-jones"

    def pair_energy(self, r: Tensor, depth: Tensor, length: Tensor) -> Tensor:
        sixth = (0.9 * length / r) ** 6
        return 4 * depth * (sixth**2 - sixth)


class Morse(ClosedForm):
    """u = d [(1 - exp(-a (r - r0)))^2 - 1], a = 1.5 / Å: the minimum -d is at r0, the sum of covalent radii; curvature 2 d a^2."""

    plugin = "morse"
    width = 1.5

    def pair_energy(self, r: Tensor, depth: Tensor, length: Tensor) -> Tensor:
        return depth * ((1 - torch.exp(-self.width * (r - length))) ** 2 - 1)


class HarmonicPairs(ClosedForm):
    """u = k/2 (r - r0)^2 with k = 20 depth / Å^2: springs at rest at the sum of covalent radii."""

    plugin = "harmonic-pairs"

    def pair_energy(self, r: Tensor, depth: Tensor, length: Tensor) -> Tensor:
        return 10 * depth * (r - length) ** 2


class DirectPairs(Morse):
    """Direct forces that no energy has: every atom is pulled to its neighbours by its own depth, and the neighbours do not pull back alike.

    Invariant under rotation, reflection and permutation, and smooth at the cutoff, but neither conservative nor free of net force.
    """

    plugin = "direct-pairs"

    def __init__(self, config: ClosedFormConfig | None = None) -> None:
        super().__init__(config)
        self.spec = PotentialSpec(
            **{
                **self.spec.__dict__,
                "kind": "direct",
                "outputs": ("energy", "atomic_energies", "forces"),
                "interaction_range": self.options.cutoff,
            }
        )

    def derived(self, energy: Tensor, batch: Batch, outputs: Sequence[str], create_graph: bool) -> dict[str, Tensor]:
        view = batch.views[self.graph]
        vectors = batch.displacements(self.graph)
        r = vectors.norm(dim=-1, keepdim=True)
        element = self.element_index[batch.atomic_numbers]  # type: ignore[index]  # a buffer
        if isinstance(view, PairView):
            own = self.table.depth[element[view.i], None] * torch.exp(-r) * self.envelope(r) * vectors
            return {"forces": torch.zeros_like(batch.positions).index_add(0, view.i, own.to(torch.float64))}
        own = self.table.depth[element, None, None] * torch.exp(-r) * self.envelope(r) * vectors
        return {"forces": own.sum(dim=1).to(torch.float64)}


def noble_gas(epsilon: float = 0.0104, sigma: float = 3.40, cutoff: float = 8.5) -> LennardJones:
    """Return Lennard-Jones argon (eV, Å) in float64, with the usual parameters."""
    model = LennardJones(ClosedFormConfig(elements=(18,), cutoff=cutoff, switch_on=0.8 * cutoff, depth=epsilon))
    with torch.no_grad():
        model.table.depth.fill_(epsilon)
        model.table.radius.fill_(sigma / 1.8)
        model.table.element_energy.zero_()
    return model
