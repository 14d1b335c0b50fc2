"""Which weights of a checkpoint are trained, and how fast: `adapt` of a recipe, whose modes are in `adaptation_modes`.

What is low-rank acts on channels only, of scalars or of whole vectors, so that equivariance stays exact. Exported models have the merged matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import PropertyNotAvailableError, RecipeError
from mlipfm_interfaces.potential import Potential, Prediction
from torch import Tensor, nn
from torch.func import functional_call

from .adaptation_modes import ADAPT_MODES

if TYPE_CHECKING:
    from .recipe import Adapt


class LowRank(nn.Module):
    """Low-rank changes of the adaptable matrices [..., out, in] of a potential: `down` [..., rank, in] random, `up` [..., out, rank] zero.

    Raises:
        RecipeError: the potential has no adaptable matrix.
    """

    def __init__(self, potential: Potential, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        roles, generator = potential.parameter_roles(), torch.Generator().manual_seed(seed)
        found = {name: p for name, p in potential.named_parameters() if roles[name].adaptable and p.ndim >= 2}
        if not found:
            raise RecipeError(f"{potential.plugin!r} gives no matrix that takes low-rank changes", where="adapt.mode", hint="another mode")
        self.names, self.scale = tuple(found), alpha / rank
        self.down = nn.ParameterList([_random(p, rank, generator) for p in found.values()])
        self.up = nn.ParameterList([p.new_zeros(*p.shape[:-1], rank) for p in found.values()])

    def merged(self, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """Return the adapted matrices by name: those of `weights`, whose names have `prefix`, with the changes added."""
        changes = zip(self.names, self.up, self.down, strict=True)
        return {f"{prefix}{name}": weights[f"{prefix}{name}"] + self.scale * (up @ down) for name, up, down in changes}

    def exported(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a step (`potential.*`, `adapter.*`, as they are exported) with the changes of these very weights merged in."""
        whole, merged = dict(weights), dict[str, Tensor]()
        for k, name in enumerate(self.names):
            change = whole[f"adapter.up.{k}"] @ whole[f"adapter.down.{k}"]
            merged[f"potential.{name}"] = whole[f"potential.{name}"] + self.scale * change
        return whole | merged

    def call(self, potential: Potential, batch: Batch, outputs: tuple[str, ...], create_graph: bool) -> Prediction:
        """Return what the potential predicts with the adapted matrices."""
        weights = self.merged(dict(potential.named_parameters()))
        prediction: Prediction = functional_call(potential, weights, (batch, outputs), {"create_graph": create_graph})
        return prediction


def _random(parameter: nn.Parameter, rank: int, generator: torch.Generator) -> Tensor:
    *batch, _, width = parameter.shape
    return (torch.randn(*batch, rank, width, generator=generator, dtype=torch.float64) / math.sqrt(width)).to(parameter.dtype)


def make_adapter(potential: Potential, adapt: Adapt | None, seed: int, strategy: str) -> LowRank | None:
    """Freeze what does not train, and return the low-rank changes of mode `lora`.

    Raises:
        RecipeError: a head that the potential does not have; a strategy that the mode does not work with.
    """
    known = ("single", "ddp") if adapt is not None and adapt.mode == "lora" else ("single", "ddp", "fsdp2")
    if adapt is not None and strategy not in known:
        raise RecipeError(
            f"mode {adapt.mode} does not work with strategy {strategy!r}", where="adapt.mode", hint=f"strategy.name={known[0]}"
        )
    if adapt is None or adapt.mode == "layerwise":
        return None
    roles = potential.parameter_roles()
    last = max(role.depth for role in roles.values())
    readouts = {name for name, role in roles.items() if role.depth == last} if adapt.mode in ("frozen", "heads") else set()
    chosen = readouts if adapt.head is None else readouts & _parameters_of(adapt.head, potential)
    for name, parameter in potential.named_parameters():
        parameter.requires_grad_(name in chosen)
    if adapt.mode != "lora":
        return None
    return LowRank(potential, adapt.rank, adapt.alpha, seed)


def _parameters_of(head: str, potential: Potential) -> set[str]:
    of_head = getattr(potential, "parameters_of_head", None)
    if of_head is None:
        raise RecipeError(f"{potential.plugin!r} does not tell the parameters of one head", where="adapt.head", hint="leave it out")
    try:
        return set(of_head(head))
    except PropertyNotAvailableError as error:
        raise RecipeError(error.what, where="adapt.head", hint=error.hint) from None


def rate_factors(potential: Potential, adapt: Adapt | None) -> dict[str, float]:
    """Return what the learning rate of each parameter is multiplied by; empty: 1 for all."""
    if adapt is None or adapt.mode not in ("layerwise", "heads"):
        return {}
    roles = potential.parameter_roles()
    if adapt.mode == "heads":
        return dict.fromkeys(roles, 0.0)
    last = max(role.depth for role in roles.values())
    return {name: float(adapt.decay ** (last - role.depth)) for name, role in roles.items()}


def what_trains(potential: Potential, adapter: LowRank | None, adapt: Adapt | None) -> str:
    """Return a line for preflight.

    Raises:
        RecipeError: nothing trains.
    """
    total = sum(p.numel() for p in potential.parameters())
    own = sum(p.numel() for p in potential.parameters() if p.requires_grad)
    added = 0 if adapter is None else sum(p.numel() for p in adapter.parameters())
    if not own + added:
        raise RecipeError("no parameter trains", where="adapt", hint="choose another mode")
    if adapt is None:
        return f"trains all {total:,} parameters"
    what = f"{added:,} adapter parameters; the model has {total:,}" if adapter is not None else f"{own:,} of {total:,} parameters"
    return f"trains {what}: {trained_by(adapt)}"


def trained_by(adapt: Adapt) -> str:
    """Return what the mode trains, in words."""
    readouts = "the readouts" if adapt.head is None else f"the readout of {adapt.head}"
    return ADAPT_MODES[adapt.mode].trains.format(readouts=readouts, **adapt.model_dump())
