"""`Potential`: what every model is to the rest of the toolkit, and `evaluate`, the plain way to use one.

A potential declares in `spec` what it can do and in `forward` does it: Batch in, Prediction out. Whether forces are a gradient (`conservative`) or
a head of their own (`direct`) is said by `Prediction.kind`. Training never matches parameter names: it asks `blocks()` and `parameter_roles()`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Batch, GraphSpec, collate
from .compiled import CompiledPotential
from .elements import COVALENT_RADII, symbol
from .errors import ImplausibleStructureWarning, InvalidStructureError, LevelError, PropertyNotAvailableError, UnknownElementError
from .neighbors import UNIT_HINT, Pairs, neighbor_pairs
from .quantities import quantity
from .reference_rank import warn_if_undetermined
from .structure import Structure
from .theory import find_level
from .trained_states import States, check_states

Kind = Literal["conservative", "direct"]

#: Two atoms nearer than this part of the sum of their covalent radii are reported: the shortest bonds (H2, N2) are at 1.1 and 0.78 of it.
CLOSE = 0.6


@dataclass(frozen=True)
class PotentialSpec:
    """What a potential can do.

    Attributes:
        elements: atomic numbers it was trained on, ascending. Others are refused by name.
        levels: canonical ids of its levels of theory; with several, every structure must say which.
        conditions: which of `total_charge`, `spin_multiplicity`, `external_field` change its prediction.
        outputs: quantity keys it can give.
        kind: how `forces` are made: `conservative` (minus the gradient of its energy) or `direct` (a head of their own).
        graphs: neighbour views its forward reads.
        dtype: in which it computes (`float32`, `float64`).
        interaction_range: Å, distance beyond which two atoms cannot feel each other at all (layers x cutoff); None if long-ranged.
        invariant: False for an unconstrained model whose energy is rotation invariant only approximately.
    """

    elements: tuple[int, ...]
    levels: tuple[str, ...]
    outputs: tuple[str, ...]
    graphs: tuple[GraphSpec, ...]
    kind: Kind = "conservative"
    conditions: tuple[str, ...] = ()
    dtype: Literal["float32", "float64"] = "float32"
    interaction_range: float | None = None
    invariant: bool = True

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32


@dataclass(frozen=True)
class Feature:
    """A named internal array: `last_layer`, `node_scalar`, `node_vector`, `edge`.

    Attributes:
        value: [atoms or pairs, ..., channels]. irreps: `0e` scalars, `1o` vectors (axis 1 is x, y, z). layout: `atom` or `pair`.
    """

    value: Tensor
    irreps: str = "0e"
    layout: Literal["atom", "pair"] = "atom"


@dataclass(frozen=True)
class Prediction:
    """Values by quantity key (shapes as in `Batch.labels`), the kind of its forces, and named features."""

    values: Mapping[str, Tensor]
    kind: Kind
    features: Mapping[str, Feature] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Tensor:
        return self.values[key]


@dataclass(frozen=True)
class ParameterRole:
    """What a parameter is, so that optimisers and fine-tuning never read names.

    Attributes:
        depth: 0 for embeddings, then the index of its block from 1, and the number of blocks + 1 for readouts.
        scaling: how its learning rate scales with width: `input`, `hidden`, `output`, `vector` (bias and norm).
        decay: whether weight decay applies.
        adaptable: whether low-rank adapters may be put on it; `irreps` then says of which kind its input and output are.
    """

    depth: int
    scaling: Literal["input", "hidden", "output", "vector"]
    decay: bool
    adaptable: bool = False
    irreps: str = "0e"


class Potential(nn.Module, ABC):
    """Base of all potentials.

    Attributes:
        spec: what it can do.
        plugin: name of the backbone (group `mlipfm.backbones`) or potential (`mlipfm.potentials`) that builds it again from `config`.
        config: JSON-ready options for the builder.
        examples: a few structures of its data, where its checkpoint holds some.
        default_level: predicted for systems that give none, where there are several levels and the checkpoint says so (released models do, and those
            that were trained at one of their levels).
        trained_states: charges and multiplicities that training showed, where its checkpoint says so; see `trained_states`.
    """

    spec: PotentialSpec
    plugin: str
    config: dict[str, Any]
    examples: tuple[Structure, ...] = ()
    default_level: str | None = None
    trained_states: States | None = None

    @abstractmethod
    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        """Predict `outputs` (quantity keys) for a batch that was collated with `spec.graphs` and `spec.torch_dtype`.

        Args:
            create_graph: keep the graph of derivatives, so that losses on forces and Hessian rows can be trained.

        Raises:
            PropertyNotAvailableError: for an output that `spec.outputs` does not list, or the stress of a system without three periodic directions.
            LevelError: if several levels exist and a system gives none.
        """

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return modules in order of depth, each used once a forward: what strategies shard and fine-tuning freezes."""

    @abstractmethod
    def parameter_roles(self) -> dict[str, ParameterRole]:
        """Return the role of every name in `named_parameters()`."""

    def compiled(self) -> CompiledPotential | None:
        """Return this potential as compiled code, with the weights that it has now; None if there is no such code. See `compiled`."""
        return None

    def why_not_compiled(self) -> str | None:
        """Return why `compiled` returns None; None if it does not."""
        return f"there are no kernels for {self.plugin}"

    def check_outputs(self, outputs: Sequence[str]) -> None:
        """Refuse outputs this potential does not have, by name."""
        for key in outputs:
            if key not in self.spec.outputs:
                quantity(key)  # names a key that is no quantity
                raise PropertyNotAvailableError(
                    f"this potential does not predict {key!r}", hint=f"it predicts {', '.join(self.spec.outputs)}"
                )

    @property
    def implied_level(self) -> str | None:
        """Level that is predicted for systems that give none: the only one, else `default_level`."""
        return self.spec.levels[0] if len(self.spec.levels) == 1 else self.default_level

    def level_index(self, batch: Batch) -> Tensor:
        """Return [systems] int64: position of each system's level in `spec.levels`.

        Raises:
            LevelError: for an unknown level, or none given where there are several and no `default_level`; the message lists them.
        """
        known, default = self.spec.levels, self.implied_level
        indices = []
        for k, level in enumerate(batch.levels):
            if level is None and default is not None:
                indices.append(known.index(default))
            elif (found := find_level(level, known)) is not None:
                indices.append(known.index(found))
            else:
                said = "has no level of theory" if level is None else f"has level {level!r}, which this model does not support"
                raise LevelError(
                    f"the structure {said}",
                    where=f"structure {k} of this batch",
                    hint=f"choose one by --level (in Python `level`): {', '.join(known)}",
                )
        return torch.tensor(indices, device=batch.positions.device)


def check_elements(spec: PotentialSpec, structures: Sequence[Structure]) -> None:
    """Refuse elements the model was not trained on, before any neighbour list is built.

    Raises:
        UnknownElementError: naming the first such element and those the model knows.
    """
    known = set(spec.elements)
    for k, s in enumerate(structures):
        for z in np.unique(s.atomic_numbers):
            if int(z) not in known:
                names = " ".join(symbol(e) for e in spec.elements)
                raise UnknownElementError(
                    f"this model was not trained on {symbol(int(z))}", where=f"structure {k}", hint=f"it supports {names}"
                )


def implausible_geometry_remarks(structure: Structure, cutoff: float, pairs: Pairs | None = None) -> list[str]:
    """Say what looks wrong, in words; nothing for ordinary matter.

    Args:
        cutoff: Å, how far the model reaches.
        pairs: of the structure within the cutoff, where they are known already, see `neighbor_pairs`.

    Raises:
        OverlapError, DensityError: from the neighbour list.
    """
    i, j, shift = neighbor_pairs(structure, cutoff) if pairs is None else pairs
    if not len(i):
        return [] if len(structure) == 1 else [f"no two of its {len(structure)} atoms are within {cutoff:g} Angstrom; {UNIT_HINT}"]
    vectors = structure.positions[j] - structure.positions[i] + shift @ structure.cell
    bonds = COVALENT_RADII[structure.atomic_numbers]
    relative = np.linalg.norm(vectors, axis=1) / (bonds[i] + bonds[j])
    k = int(relative.argmin())
    if relative[k] >= CLOSE:
        return []
    names = [f"{symbol(int(structure.atomic_numbers[a]))} (atom {a})" for a in (i[k], j[k])]
    return [f"{names[0]} and {names[1]} are {np.linalg.norm(vectors[k]):.3f} Angstrom apart, {relative[k]:.2f} of a single bond"]


def ignored_conditions(structure: Structure, conditions: Sequence[str]) -> list[str]:
    """Return a charge, a multiplicity or a field that a model with these conditions predicts as if it were not there; neutral singlets are not
    reported."""
    field = structure.external_field
    stated: dict[str, tuple[Any, Any]] = {
        "total_charge": (structure.total_charge, 0),
        "spin_multiplicity": (structure.spin_multiplicity, 1),
        "external_field": (field.tolist() if field is not None and field.any() else None, None),
    }
    return [
        f"the model does not support {name}: {value} changes nothing in its prediction"
        for name, (value, usual) in stated.items()
        if value not in (None, usual) and name not in conditions
    ]


def warn_if_implausible(
    structure: Structure,
    cutoff: float,
    conditions: Sequence[str] | None = None,
    *,
    pairs: Pairs | None = None,
    strict: bool = False,
    stacklevel: int = 2,
) -> None:
    """Warn of what `implausible_geometry_remarks` finds, and `ignored_conditions` if the `conditions` of the model are given, or refuse it.

    Raises:
        InvalidStructureError: with `strict`, instead of the warning. OverlapError, DensityError: always.
    """
    ignored = [] if conditions is None else ignored_conditions(structure, conditions)
    for text in [*implausible_geometry_remarks(structure, cutoff, pairs), *ignored]:
        if strict:
            raise InvalidStructureError(text, hint="check the geometry, or leave `strict`")
        warnings.warn(text, ImplausibleStructureWarning, stacklevel=stacklevel + 1)


def evaluate(
    potential: Potential, structures: Sequence[Structure], outputs: Sequence[str] = ("energy", "forces"), *, level: str | None = None
) -> list[dict[str, np.ndarray]]:
    """Predict for a list of structures in one batch; no graph is kept.

    Args:
        level: to predict, whatever the structures give. Without it, the level a structure gives; a model with one level predicts that one.

    Returns:
        One dict per structure: float64 arrays by quantity key, with the shapes of `quantities` (forces [N, 3]).

    Warns:
        UndeterminedEnergyWarning: once for each composition whose energy the training data leave open (see `reference_rank`).
        UntrainedStateWarning: once for each kind of charge or multiplicity that training did not show (see `trained_states`).

    Raises:
        UnknownElementError, LevelError, OverlapError, DensityError.
        InvalidStructureError: a charge or multiplicity for which the model has untrained weights.
        PropertyNotAvailableError: an output the model does not have, or rows and probes of a structure whose labels do not say which.
    """
    check_elements(potential.spec, structures)
    check_states(potential, structures)
    potential.check_outputs(outputs)
    _check_probes(structures, outputs)
    if "energy" in outputs:
        warn_if_undetermined(potential, structures, level)
    asked = [s.replace_trusted(level=level or _level_for(potential, s)) for s in structures]
    batch = collate(asked, potential.spec.graphs, potential.spec.torch_dtype, device_of(potential))
    training = potential.training
    potential.eval()
    try:
        prediction = potential(batch, tuple(outputs))
    finally:
        potential.train(training)
    return split(prediction, batch, outputs)


def split(prediction: Prediction, batch: Batch, outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return a Prediction as one dict of float64 arrays per system."""
    ends = torch.cumsum(batch.n_atoms, 0).tolist()
    starts = [0, *ends[:-1]]
    rows: list[dict[str, np.ndarray]] = [{} for _ in starts]
    for key in outputs:
        value = prediction[key].detach().to("cpu", torch.float64).numpy()
        layout = quantity(key).layout
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if layout == "system":
                rows[k][key] = value[k]
            elif layout == "atom":
                rows[k][key] = value[start:end]
            else:  # a structure with fewer probes than others of the batch is padded there
                rows[k][key] = value[: int(batch.label_mask[key][:, k].sum()), start:end]
    return rows


def not_finite(model: object) -> str:
    """Return `96 of its 1,081 weights are not finite`; "" if all are, or if it is no module of torch."""
    values = model.state_dict().values() if isinstance(model, nn.Module) else ()
    weights = [value for value in values if value.is_floating_point()]
    bad = sum(int((~torch.isfinite(value)).sum()) for value in weights)
    return f"{bad:,} of its {sum(value.numel() for value in weights):,} weights are not finite" if bad else ""


def device_of(potential: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU if there is none."""
    for tensor in chain(potential.parameters(), potential.buffers()):
        return tensor.device
    return torch.device("cpu")


def _check_probes(structures: Sequence[Structure], outputs: Sequence[str]) -> None:
    for key in outputs:
        if quantity(key).layout == "probe":
            for k, s in enumerate(structures):
                if key not in s.labels:
                    raise PropertyNotAvailableError(
                        f"the structure does not say which {key!r} to compute",
                        where=f"structure {k}",
                        hint=f"give it the labels {quantity(key).companion!r} and {key!r}",
                    )


def _level_for(potential: Potential, s: Structure) -> str | None:
    """A structure labelled at a level the model does not have is asked at the model's only level."""
    known = potential.spec.levels
    return s.level if find_level(s.level, known) or len(known) != 1 else None
