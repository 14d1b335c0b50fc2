"""For every rule of the contract of potentials a potential that breaks it, by a mistake that models have been published with.

Each is the honest `Morse` with one thing changed. They prove that the rules notice what they say they notice: `test_contracts.py` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.potential import ParameterRole, Potential, Prediction
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_interfaces.testing.rules import Subject
from torch import Tensor


@dataclass(frozen=True)
class Counterexample(Generic[Subject]):
    """A subject that breaks one rule.

    Attributes:
        rule: name of the rule that must reject it.
        mistake: what is wrong with it, in a few words.
        make: builds it.
    """

    rule: str
    mistake: str
    make: Callable[[], Subject]


POTENTIAL_COUNTEREXAMPLES: list[Counterexample[Potential]] = []

_DENSE = ClosedFormConfig(layout="dense")


def breaks(rule: str, mistake: str, config: ClosedFormConfig | None = None) -> Callable[[type[Morse]], type[Morse]]:
    """Class decorator: enter a counterexample of `rule`, built with `config`."""

    def enter(cls: type[Morse]) -> type[Morse]:
        POTENTIAL_COUNTEREXAMPLES.append(Counterexample(rule, mistake, lambda: cls(config)))
        return cls

    return enter


class _Extra(Morse):
    """Morse with another share for every atom."""

    def extra(self, batch: Batch) -> Tensor:
        """[atoms] eV."""
        raise AssertionError("subclasses say what is added")

    def atomic_energies(self, batch: Batch) -> Tensor:
        return super().atomic_energies(batch) + self.extra(batch)

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """i, j, r_j - r_i and their lengths, of the pairs layout."""
        view = batch.views[self.graph]
        assert isinstance(view, PairView)
        vectors = batch.displacements(self.graph)
        return view.i, view.j, vectors, vectors.norm(dim=-1)

    def summed(self, batch: Batch, i: Tensor, per_pair: Tensor) -> Tensor:
        return per_pair.new_zeros(len(batch.positions), *per_pair.shape[1:]).index_add(0, i, per_pair)


# Symmetry


@breaks("rotation", "an energy that knows the x axis")
class _Axis(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        i, _, vectors, r = self.vectors(batch)
        return self.summed(batch, i, 0.01 * vectors[:, 0] ** 2 * self.envelope(r))


@breaks("reflection", "a triple product that tells left from right")
class _Chiral(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        i, j, vectors, r = self.vectors(batch)
        weight = self.table.depth[self.element_index[batch.atomic_numbers[j]]]  # type: ignore[index]  # a buffer
        powers = torch.stack([torch.exp(-r), weight * torch.exp(-0.5 * r), torch.exp(-0.2 * r)])
        a, b, c = (self.summed(batch, i, (p * self.envelope(r))[:, None] * vectors) for p in powers)
        return 0.1 * torch.tanh((a * torch.linalg.cross(b, c)).sum(dim=-1))


@breaks("translation", "absolute positions among the features")
class _Absolute(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        return 1e-3 * torch.sin(batch.positions[:, 0])


@breaks("huge-origin", "distances from |a|^2 + |b|^2 - 2ab, which cancel far from the origin")
class _Gram(Morse):
    def distances(self, batch: Batch) -> Tensor:
        view = batch.views[self.graph]
        if batch.strain.requires_grad or not isinstance(view, PairView):
            return super().distances(batch)
        a = batch.positions[view.i]
        b = batch.positions[view.j] + torch.einsum("pa,pab->pb", view.shift.to(a.dtype), batch.cell[batch.system[view.i]])
        return ((a * a).sum(-1) + (b * b).sum(-1) - 2 * (a * b).sum(-1)).clamp_min(1e-6).sqrt()


@breaks("unwrapped-atoms", "counts in which cell an atom was given")
class _Wrapped(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        periodic = batch.pbc.all(dim=1)
        cell = torch.where(periodic[:, None, None], batch.cell, torch.eye(3, dtype=torch.float64))
        fraction = torch.linalg.solve(cell.mT[batch.system], batch.positions[..., None])[..., 0]
        return 1e-3 * torch.tanh(torch.floor(fraction.detach()).abs().sum(dim=1)) * periodic[batch.system]


@breaks("permutation", "the number of an atom enters, as in an untouched positional encoding")
class _Numbered(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        first = (torch.cumsum(batch.n_atoms, 0) - batch.n_atoms)[batch.system]
        i, _, _, r = self.vectors(batch)
        return self.summed(batch, i, 1e-3 * torch.exp(-r) * self.envelope(r)) * (torch.arange(len(first)) - first)


@breaks("left-handed-cell", "takes the determinant of the cell for its volume")
class _Handed(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        return 0.01 * torch.sign(torch.linalg.det(batch.cell))[batch.system]


@breaks("skewed-cell", "reads the angles of the cell, which are a choice")
class _Angles(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        a, b = batch.cell[:, 0], batch.cell[:, 1]
        size = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)
        cosine: Tensor = (a * b).sum(dim=1) / size
        return 0.01 * cosine[batch.system] ** 2


@breaks("extensivity", "the energy per atom grows with the number of atoms")
class _Growing(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        return 1e-3 * batch.n_atoms[batch.system].to(torch.float64)


@breaks("size-consistency", "a 1/r between all atoms of a molecule, with a stated range of one cutoff")
class _Endless(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        gaps = batch.positions[:, None] - batch.positions[None]
        others = (
            (batch.system[:, None] == batch.system[None]) & ~torch.eye(len(gaps), dtype=torch.bool) & ~batch.pbc.any(dim=1)[batch.system]
        )
        square = torch.where(others, (gaps**2).sum(dim=-1), torch.ones((), dtype=torch.float64))
        return 1e-3 * torch.where(others, square.rsqrt(), torch.zeros((), dtype=torch.float64)).sum(dim=1)


@breaks("batch-equals-singles", "normalises by the largest system of the batch")
class _Neighbourly(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        return 1e-3 * (batch.n_atoms.max() - batch.n_atoms)[batch.system].to(torch.float64)


@breaks("capacity-independence", "an average over slots, empty ones included", _DENSE)
class _Slots(Morse):
    def envelope(self, r: Tensor) -> Tensor:
        return super().envelope(r) * (1 + 0.1 / max(r.shape[-1], 1))


@breaks("beyond-cutoff", "an envelope that is zero at the cutoff and comes back beyond it")
class _Returning(Morse):
    def envelope(self, r: Tensor) -> Tensor:
        return (1 - r / self.options.cutoff) ** 3


# Derivatives


@breaks("forces-are-gradient", "the envelope is left out of the derivative")
class _DetachedEnvelope(Morse):
    def envelope(self, r: Tensor) -> Tensor:
        return super().envelope(r).detach()


class _Altered(Morse):
    """Morse whose answers are changed at the end."""

    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        raise AssertionError("subclasses say what is changed")

    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        prediction = super().forward(batch, outputs, create_graph)
        return Prediction(self.altered(dict(prediction.values), batch), prediction.kind)


@breaks("stress-is-strain-derivative", "the stress with the opposite sign, as some codes print it")
class _Pressure(_Altered):
    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {key: -value if key == "stress" else value for key, value in values.items()}


@breaks("net-force", "a bias in the force of every atom")
class _Pushed(_Altered):
    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {key: value + 1e-3 if key == "forces" else value for key, value in values.items()}


@breaks("net-torque", "forces that turn the system about the z axis")
class _Spun(_Altered):
    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        centre = (batch.sum_per_system(batch.positions) / batch.n_atoms[:, None])[batch.system]
        axis = torch.tensor([0.0, 0.0, 1e-3], dtype=torch.float64).expand_as(centre)
        turn = torch.linalg.cross(axis, batch.positions - centre)
        return {key: value + turn if key == "forces" else value for key, value in values.items()}


@breaks("smooth-cutoff", "the cosine cutoff, whose curvature jumps")
class _Cosine(Morse):
    def envelope(self, r: Tensor) -> Tensor:
        return 0.5 * (1 + torch.cos(torch.pi * (r / self.options.cutoff).clamp_max(1.0)))


@breaks("smooth-path", "only the twelve nearest neighbours count", _DENSE)
class _Nearest(Morse):
    def envelope(self, r: Tensor) -> Tensor:
        if r.shape[-1] <= 12:
            return super().envelope(r)
        last = r.detach().sort(dim=-1).values[:, 11:12]
        return super().envelope(r) * (r <= last)


@breaks("second-derivatives", "the norm of a vector feature, clamped where it vanishes")
class _Clamped(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        i, _, vectors, r = self.vectors(batch)
        total = self.summed(batch, i, self.envelope(r)[:, None] * vectors)
        return 0.01 * (total**2).sum(dim=-1).clamp_min(1e-16).sqrt()


@breaks("isolated-atom", "a mean over the neighbours of an atom that has none")
class _Mean(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        i, _, _, r = self.vectors(batch)
        weight = self.envelope(r)
        return 1e-3 * self.summed(batch, i, weight * r) / self.summed(batch, i, weight)


@breaks("trainable-forces", "forces that are cut from the graph when a loss needs them")
class _Cut(_Altered):
    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {key: value.detach() if key == "forces" else value for key, value in values.items()}


@breaks("no-grad-is-safe", "forces that are zero inside torch.no_grad()")
class _Silent(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        prediction = super().forward(batch, outputs, create_graph)
        if torch.is_grad_enabled():
            return prediction
        return Prediction({key: value * 0 if key == "forces" else value for key, value in prediction.values.items()}, prediction.kind)


@breaks("graph-only-on-request", "keeps the graph of every call")
class _Hoarder(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        return super().forward(batch, outputs, create_graph=True)


# Reproducibility


@breaks("no-stale-state", "remembers answers by a key that rounds positions")
class _Cached(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        memory: dict[object, Prediction] = self.__dict__.setdefault("memory", {})
        question = (batch.keys, batch.levels, tuple(outputs), create_graph)
        if question not in memory:
            memory[question] = super().forward(batch, outputs, create_graph)
        return memory[question]


@breaks("inputs-unchanged", "centres the positions in place")
class _Centring(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        batch.positions.sub_(batch.positions.mean(dim=0))
        return super().forward(batch, outputs, create_graph)


@breaks("deterministic", "dropout that stays on")
class _Dropout(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        return 1e-12 * torch.rand(len(batch.positions), dtype=torch.float64)


@breaks("labels-not-read", "looks at the label of the energy")
class _Cheat(_Extra):
    def extra(self, batch: Batch) -> Tensor:
        told = batch.labels.get("energy", torch.zeros(batch.n_systems, dtype=torch.float64))
        return 1e-6 * told[batch.system]


@breaks("checkpoint-round-trip", "a scale that is neither parameter, buffer nor option")
class _Forgetful(_Altered):
    scale = 1.5

    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {key: value * self.scale for key, value in values.items()}


@breaks("elements-honest", "states gold, for which it was never given parameters", ClosedFormConfig(elements=(1, 6, 8, 79)))
class _Gilded(Morse):
    def __init__(self, config: ClosedFormConfig | None = None) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.table.element_energy[:, -1] = torch.nan


@breaks("level-is-needed", "takes the first level when none is given", ClosedFormConfig(levels=("first", "second")))
class _Guessing(Morse):
    def level_index(self, batch: Batch) -> Tensor:
        return torch.tensor([self.spec.levels.index(level) if level in self.spec.levels else 0 for level in batch.levels])


@breaks("outputs-honest", "a stress of six numbers")
class _Voigt(_Altered):
    def altered(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        order = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
        return {key: value[:, order[0], order[1]] if key == "stress" else value for key, value in values.items()}


@breaks("unknown-output-refused", "answers a dipole of zero when requested one")
class _Obliging(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        known = [key for key in outputs if key in self.spec.outputs]
        values = dict(super().forward(batch, known, create_graph).values)
        return Prediction(values | {key: torch.zeros(batch.n_systems, 3) for key in outputs if key not in known}, self.spec.kind)


@breaks("stress-of-molecule-refused", "a stress for molecules, by a volume of one")
class _Bottled(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        flat = ~batch.pbc.all(dim=1)
        cell = torch.where(flat[:, None, None], torch.eye(3, dtype=torch.float64), batch.cell)
        boxed = replace(batch, cell=cell, pbc=torch.ones_like(batch.pbc)) if bool(flat.any()) else batch
        return super().forward(boxed, outputs, create_graph)


@breaks("conditions-honest", "states the total charge and ignores it", ClosedFormConfig(conditions=("total_charge",)))
class _Neutral(Morse):
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        return super().forward(replace(batch, total_charge=torch.zeros_like(batch.total_charge)), outputs, create_graph)


@breaks("never-nan", "a repulsion that overflows on close contact")
class _Overflow(Morse):
    def pair_energy(self, r: Tensor, depth: Tensor, length: Tensor) -> Tensor:
        return super().pair_energy(r, depth, length) + torch.exp(4e4 * (0.35 - r))


@breaks("float64-honest", "a cast to float32 on the way")
class _Half(Morse):
    def distances(self, batch: Batch) -> Tensor:
        return super().distances(batch).float().double()


@breaks("parameter-roles", "forgets a parameter")
class _Roleless(Morse):
    def parameter_roles(self) -> dict[str, ParameterRole]:
        return {name: role for name, role in super().parameter_roles().items() if "depth" not in name}


@breaks("blocks", "a block that is used twice a forward")
class _Repeated(Morse):
    def atomic_energies(self, batch: Batch) -> Tensor:
        super().atomic_energies(batch)
        return super().atomic_energies(batch)


@breaks("spec-honest", "states a range that is shorter than its cutoff")
class _Shortsighted(Morse):
    def __init__(self, config: ClosedFormConfig | None = None) -> None:
        super().__init__(config)
        self.spec = replace(self.spec, interaction_range=1.0)
