"""A potential is assembled: references + conditioning + backbone + heads. Energies, forces and stress are made here, once, for all backbones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from mlipfm_interfaces import derivatives, plugins
from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.compiled import CompiledPotential
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.potential import Feature, ParameterRole, Potential, PotentialSpec, Prediction
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.theory import find_level
from mlipfm_interfaces.trained_states import States
from mlipfm_interfaces.units import BOHR, COULOMB
from torch import Tensor, nn

from ._initialisation import initialise
from ._layers import Conditioning, ElectronicEmbedding, Heads, References
from ._neighbor_tensors import neighbor_shapes
from ._readouts import field_energy, read_out
from .backbones.backbone import Backbone, ExactConstants, envelope
from .configuration import CONDITIONS, HEADS, AssemblyConfig, check_heads, parse, parse_assembly, parts_of

__all__ = ["AssembledPotential", "Repulsion", "build_potential"]

CONSERVATIVE = ("energy", "forces", "stress", "atomic_energies", "hessian_rows", "hvp")
DIRECT = ("energy", "forces", "atomic_energies", "hessian_rows", "hvp")
SECOND_DERIVATIVES = ("hessian_rows", "hvp")

#: Universal screening function: sum of c exp(-d r / a), a = 0.8854 Bohr / (Z_i^0.23 + Z_j^0.23).
SCREENING = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))

M = TypeVar("M", bound=nn.Module)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build_potential(name: str, config: Mapping[str, Any]) -> AssembledPotential:
    """Build a potential around the backbone that is the plug-in `name` of the group `mlipfm.backbones`.

    Args:
        config: `backbone` as the backbone's `Config` says, the rest as `AssemblyConfig`.

    Raises:
        PluginError: for an unknown name. RecipeError: for unknown keys and values that cannot be. UnknownElementError: for an element that does
            not exist.
    """
    backbone: type[Backbone] = plugins.load("backbones", name)
    return assemble(name, backbone, config)


def assemble(name: str, backbone: type[Backbone], config: Mapping[str, Any], *, initial: bool = True) -> AssembledPotential:
    """Build a potential around a class of backbone whose plug-in is called `name`; see `build_potential`.

    Without `initial` its weights are left as they come, for a checkpoint that brings others.
    """
    assembly = parse_assembly(config, name)
    if not initial:
        assembly = replace(assembly, backbone={**backbone.before, **assembly.backbone})
    options: Any = parse(backbone.Config, assembly.backbone, f"{name}.backbone")
    stated = {key: value for key, value in asdict(options).items() if value is not None}  # None: older versions need not know of the option
    assembly = replace(assembly, backbone=json.loads(json.dumps(stated)))  # as a checkpoint will give it back
    arguments = (options, assembly.atomic_numbers) if backbone.element_resolved else (options,)
    potential = AssembledPotential(name, built(lambda: backbone(*arguments), DTYPES[assembly.dtype]), assembly)
    if initial:
        initialise(potential, potential.parameter_roles(), assembly.seed)
    return potential


class AssembledPotential(Potential):
    """`E = sum_i (reference_i + scale e_i + repulsion_i)`, and forces that are its gradient or a head with the same scale.

    The network computes in `spec.dtype`; per-atom energies are cast to float64, summed, and only then the references are added. All predictions
    are float64, and so are derivatives (their leaves are). Every parameter takes part in every forward and gets a gradient, if only zero, from
    whatever was asked, which data-parallel and sharded training need.
    """

    def __init__(self, plugin: str, backbone: Backbone, config: AssemblyConfig) -> None:
        super().__init__()
        elements, direct = config.atomic_numbers, config.forces == "direct"
        check_heads(config.heads, config.conditions, config.forces, backbone.provides, elements, plugin)
        self.plugin, self.config = plugin, resolved(config)
        self._compiled: tuple[list[nn.Parameter], list[int], CompiledPotential | None] | None = None
        self.scale = config.scale
        self.references = References(elements, config.levels, config.references)
        dtype, c = DTYPES[config.dtype], backbone.channels
        embedded = [name for name in config.conditions if name in CONDITIONS]
        self.conditioning = built(lambda: Conditioning(c, len(elements), len(config.levels), embedded), dtype)
        self.backbone = backbone
        self.short_range = Repulsion() if config.short_range == "zbl" else None
        stacked = len(config.levels) if config.level_readout == "stacked" else None
        self.heads = built(lambda: Heads(c, direct, parts_of(config.heads), stacked), dtype)
        self.spec = PotentialSpec(
            elements=elements,
            levels=config.levels,
            outputs=(*(DIRECT if direct else CONSERVATIVE), *config.heads, *(("born_charges",) if "dipole" in config.heads else ())),
            graphs=(backbone.graph,),
            kind=config.forces,
            conditions=config.conditions,
            dtype=config.dtype,
            interaction_range=backbone.interaction_range,
            invariant=backbone.invariant,
        )

    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        """See `Potential.forward`. Leaves that `batch` already has are used and stay connected; otherwise new ones are made.

        Without `create_graph`, predictions that needed a derivative come back detached: their graph is gone.
        """
        self.check_outputs(outputs)
        if not self._needs_leaves(outputs):
            return self._predict(batch, outputs, create_graph)
        # Forces are derivatives also where the caller wants none of the parameters.
        with torch.inference_mode(False), torch.enable_grad():
            prediction = self._predict(_with_leaves(batch, stress="stress" in outputs), outputs, create_graph)
        return prediction if create_graph else _detached(prediction)

    def blocks(self) -> list[nn.Module]:
        """Return the conditioning, the backbone's blocks and the heads."""
        return [self.conditioning, *self.backbone.blocks(), self.heads]

    def parameter_roles(self) -> dict[str, ParameterRole]:
        """See `Potential.parameter_roles`."""
        depth = len(self.backbone.blocks()) + 1
        parts = {"conditioning": self.conditioning.roles(), "backbone": self.backbone.roles(), "heads": self.heads.roles(depth)}
        return {f"{part}.{name}": role for part, roles in parts.items() for name, role in roles.items()}

    def parameters_of_head(self, head: str) -> set[str]:
        """Names of the parameters that only this head reads: heads share parts, such as the charges of a dipole.

        Args:
            head: `energy`, or a quantity of the configuration's `heads`; `forces` of direct models.

        Raises:
            PropertyNotAvailableError: there is no such head; the hint names those there are.
        """
        heads = self.config["heads"]
        own = {"energy": ["energy"], **({"forces": ["forces"]} if self.heads.forces is not None else {})}
        if head not in own and head not in heads:
            raise PropertyNotAvailableError(f"this model has no head {head!r}", hint=f"it has {', '.join([*own, *heads])}")
        others = {part for other in heads if other != head for part in HEADS[other].parts}
        modules = own.get(head) or [f"parts.{part}" for part in HEADS[head].parts if part not in others]
        return {name for name, _ in self.named_parameters() if name.startswith(tuple(f"heads.{module}." for module in modules))}

    def compiled(self) -> CompiledPotential | None:
        """Return the compiled kernels with the weights of now, the same object while these do not change; None where there are none, see
        `density_kernel`."""
        if self._compiled is None or self._compiled[1] != _state_of(self._compiled[0]):
            if not self.backbone.has_kernels:
                return None
            from .density_kernel import compiled_density

            weights = list(self.parameters())  # a walk through all modules costs more than a small molecule
            self._compiled = weights, _state_of(weights), compiled_density(self)
        return self._compiled[2]

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled code out of copies, which make their own."""
        return {**self.__dict__, "_compiled": None}

    def train(self, mode: bool = True) -> AssembledPotential:
        """See `torch.nn.Module.train`; compiled code is made anew afterwards if modules have been exchanged."""
        self._compiled = None
        super().train(mode)
        return self

    def why_not_compiled(self) -> str | None:
        """Return why there are no compiled kernels for this potential."""
        from .density_kernel import why_not_compiled

        return why_not_compiled(self)

    def load_from(self, other: Potential, level_starts: Mapping[str, str] | None = None) -> dict[str, list[str]]:
        """Take over what another model has learned; see `weight_transfer.transfer_weights`. Returns the names `copied`, `dropped` and `fresh`."""
        from .weight_transfer import transfer_weights

        report = transfer_weights(other, self, level_starts)
        return {"copied": list(report.copied), "dropped": list(report.dropped), "fresh": list(report.fresh)}

    def set_references(self, level: str, energies: Mapping[str, float]) -> None:
        """Change the references of one level: element symbol -> eV. Elements that are left out are refused at this level from now on."""
        self.references.state(level, energies)
        self.config["references"] = self.config["references"] | {level: dict(energies)}

    @torch.no_grad()
    def shift_atomic_energies(self, shift: Mapping[str, float]) -> None:
        """Add a constant, level -> eV, to the energy of every atom: where a network that starts near zero should start. A readout that all levels
        share takes their mean."""
        bias = self.heads.energy.outer.bias
        values = torch.tensor([shift.get(level, 0.0) for level in self.spec.levels], dtype=torch.float64) / self.scale
        bias.copy_(bias + (values if self.config["level_readout"] == "stacked" else values.mean()))

    @torch.no_grad()
    def settle_states(self, trained: States) -> None:
        """Give a charge or multiplicity that is not given the meaning of a neutral one or a singlet, where training (see `trained_states`) showed
        only one of the two: what the other means was left to random weights. A neutral singlet adds nothing to the initial scalars, by
        construction; so its embedding becomes that of structures that give neither, or that one becomes zero."""
        for name, embedding in self.conditioning.electronic.items():
            seen, unstated = set(trained.get(name, ())), embedding.unknown.weight  # type: ignore[union-attr]
            if seen == {None}:
                self.conditioning.level.weight.add_(unstated)  # type: ignore[arg-type]
            if seen and (None not in seen or seen == {None}):
                unstated.zero_()  # type: ignore[operator]

    def take_unstated_as_default(self, trained: States) -> list[str]:
        """Let training take charges and multiplicities that are not given as zero and one, where the model's own training always showed them.

        Otherwise data that give none would teach the model that a neutral singlet is something else. Returns the names of these conditions.
        """
        taken = [name for name in self.conditioning.electronic if trained.get(name) and None not in trained[name]]
        for name in taken:
            embedding = self.conditioning.electronic[name]
            assert isinstance(embedding, ElectronicEmbedding)
            embedding.unstated_is_default = True
        return taken

    def energy_readout(self, level: str | None) -> tuple[Tensor, float]:
        """Return the weights [channels] of the last layer of the energy at a level, in the memory of the model, and its scale in eV:
        an atomic energy is scale times their product with the feature `last_layer`, and a constant."""
        known = find_level(level, self.spec.levels)
        row = self.spec.levels.index(known) if known is not None and self.config["level_readout"] == "stacked" else 0
        return self.heads.energy.outer.weight.detach()[row], float(self.scale)

    def _needs_leaves(self, outputs: Sequence[str]) -> bool:
        derived = ("born_charges", *SECOND_DERIVATIVES, *(() if self.spec.kind == "direct" else ("forces", "stress")))
        return any(key in outputs for key in derived)

    def _predict(self, batch: Batch, outputs: Sequence[str], create_graph: bool) -> Prediction:
        level = self.level_index(batch)
        properties = set(outputs) <= set(self.config["heads"])  # what needs no energy needs no reference of it
        reference = torch.zeros_like(batch.positions[:, 0]) if properties else self.references(batch.atomic_numbers, level[batch.system])
        s, v = self.backbone(self.conditioning(self.references.element_rows(batch.atomic_numbers), level, batch), batch)
        shapes = neighbor_shapes(batch, self.backbone.graph) if self.heads.reads_shapes else None
        raw = self.heads(s, v, level[batch.system], shapes)
        atomic = self._atomic(raw, batch)
        made = {
            "energy": batch.sum_per_system(atomic) + batch.sum_per_system(reference),
            "atomic_energies": atomic + reference,
        }
        if "forces" in raw:
            made["forces"] = raw["forces"].to(torch.float64) * self.scale
        heads, has_field = self.config["heads"], "external_field" in self.spec.conditions
        asked = [key for key in heads if key in outputs or (key == "dipole" and "born_charges" in outputs)]
        made |= {key: read_out(key, raw, batch, heads, has_field) for key in asked}
        made |= _derived(made, batch, outputs, create_graph)
        tie = _tie(raw, outputs) if torch.is_grad_enabled() else None
        return Prediction({key: _tied(made[key], tie) for key in outputs}, self.spec.kind, _features(s, v, raw["last_layer"], tie))

    def _atomic(self, raw: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """[atoms] float64, eV: share of each atom in the energy, without its reference."""
        atomic = raw["energy"].to(torch.float64) * self.scale
        if self.short_range is not None:
            atomic = atomic + self.short_range(batch, self.backbone.graph)
        if "external_field" in self.spec.conditions:
            atomic = atomic + field_energy(raw, batch, self.config["heads"])
        return atomic


def _state_of(weights: Sequence[Tensor]) -> list[int]:
    """Where weights lie and how often they were changed."""
    return [*map(Tensor.data_ptr, weights), *[value._version for value in weights]]


def built(make: Callable[[], M], dtype: torch.dtype) -> M:
    """Build a module in `dtype` and leave torch's generator as it was; `initialise` gives the values that count.

    (The meta device would avoid the throw-away values, but its first use imports the compiler: 2.5 s.)
    """
    with torch.random.fork_rng(devices=[]):
        return make().to(dtype)


def resolved(config: AssemblyConfig) -> dict[str, Any]:
    """The configuration with all defaults, ready for JSON: elements as symbols in the order of their numbers, `undetermined` only if something is."""
    values = asdict(replace(config, elements=tuple(symbol(z) for z in config.atomic_numbers)))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value or key != "undetermined"}


def _derived(made: Mapping[str, Tensor], batch: Batch, outputs: Sequence[str], create_graph: bool) -> dict[str, Tensor]:
    """Everything that is a derivative: forces and stress of conservative models, Born charges and second derivatives of all."""
    second = [key for key in SECOND_DERIVATIVES if key in outputs]
    new: dict[str, Tensor] = {}
    if "born_charges" in outputs:
        new["born_charges"] = derivatives.born_charges(made["dipole"], batch.positions, create_graph=create_graph)
    if "forces" not in made and (second or "forces" in outputs or "stress" in outputs):
        keep = create_graph or bool(second)
        new["forces"], stress = derivatives.forces_and_stress(made["energy"], batch, stress="stress" in outputs, create_graph=keep)
        new |= {} if stress is None else {"stress": stress}
    for key in second:
        companion = quantity(key).companion or ""
        if companion not in batch.labels:
            raise PropertyNotAvailableError(
                f"{key!r} needs to know which", where="batch", hint=f"give the structures the label {companion!r}"
            )
        compute = derivatives.hessian_rows if key == "hessian_rows" else derivatives.hvp
        forces = new["forces"] if "forces" in new else made["forces"]
        new[key] = compute(forces, batch.positions, batch.labels[companion], create_graph=create_graph)
    return new


def _tie(raw: Mapping[str, Tensor], outputs: Sequence[str]) -> Tensor | None:
    """Zero times the heads that were not asked: their parameters then get a zero gradient instead of none."""
    idle = [value.sum() for key, value in raw.items() if key not in (*outputs, "energy", "last_layer")]
    if "energy" not in outputs and "atomic_energies" not in outputs:
        idle.append(raw["energy"].sum())
    return sum(idle[1:], idle[0]) * 0.0 if idle else None


def _tied(value: Tensor, tie: Tensor | None) -> Tensor:
    return value if tie is None else value + tie.to(value.dtype)


def _features(s: Tensor, v: Tensor, last_layer: Tensor, tie: Tensor | None) -> dict[str, Feature]:
    scalars = {"last_layer": Feature(_tied(last_layer, tie)), "node_scalar": Feature(_tied(s, tie))}
    return scalars | {"node_vector": Feature(_tied(v, tie), irreps="1o")}


def _with_leaves(batch: Batch, stress: bool) -> Batch:
    if batch.positions.requires_grad and (batch.strain.requires_grad or not stress):
        return batch
    return batch.with_leaves(strain=stress)


def _detached(prediction: Prediction) -> Prediction:
    features = {name: replace(feature, value=feature.value.detach()) for name, feature in prediction.features.items()}
    return Prediction({key: value.detach() for key, value in prediction.values.items()}, prediction.kind, features)


class Repulsion(ExactConstants):
    """Half of each pair's repulsion for either atom: envelope(r / (R_i + R_j))² Z_i Z_j e²/(4 pi eps0 r) phi(r / a), R the covalent radii.

    The screened nuclear repulsion of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in Solids, 1985): what no data set shows, and
    every simulation at high temperature or pressure meets. It has no parameters to train. The envelope is squared: bonds often have just this length,
    and there five derivatives are zero.
    """

    radii: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.constant("radii", torch.tensor(COVALENT_RADII, dtype=torch.float64))

    def forward(self, batch: Batch, graph: GraphSpec) -> Tensor:
        """Return [atoms] float64, eV. Pairs beyond the sum of their covalent radii, or beyond the cutoff of the graph, give exactly zero."""
        view, z = batch.views[graph], batch.atomic_numbers
        radii = self.radii.to(torch.float64)[z]
        with torch.no_grad():  # few pairs are this near: derivatives of all the others would cost more than those of a fast backbone
            all_r = torch.linalg.vector_norm(batch.displacements(graph), dim=-1)
            centre = view.i if isinstance(view, PairView) else torch.arange(len(z), device=z.device)[:, None].expand(all_r.shape)
            neighbour = view.j if isinstance(view, PairView) else view.index
            near = (all_r < (radii[centre] + radii[neighbour]).clamp_max(graph.cutoff)).nonzero(as_tuple=True)
            i, j = centre[near], neighbour[near]
        r = torch.linalg.vector_norm(batch.displacements(graph, near).to(torch.float64), dim=-1)
        reach = (radii[i] + radii[j]).clamp_max(graph.cutoff)
        pairs = 0.5 * screened(r, z[i], z[j]) * envelope(r / reach) ** 2
        return torch.zeros(len(z), dtype=torch.float64, device=r.device).index_add(0, i, pairs)


def screened(r: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
    """Screened nuclear repulsion in eV at distances `r` in Å of atomic numbers `z_i` and `z_j`, all of one shape."""
    a = 0.8854 * BOHR / (z_i.to(r.dtype) ** 0.23 + z_j.to(r.dtype) ** 0.23)
    phi = sum((c * torch.exp(-d * r / a) for c, d in SCREENING), torch.zeros_like(r))
    return COULOMB / r * z_i * z_j * phi  # r first: a plain number times whole numbers is float32
