"""Roles of parameters by the types of the modules that hold them: training and initial weights never read names.

| module | scaling | weight decay | adaptable |
|---|---|---|---|
| `nn.Linear`; `VectorLinear` for the channels of vectors | hidden | yes | yes |
| `InputLinear`, `VectorInputLinear`; `GeometryLinear` for raw geometry | input | yes | yes; no |
| `OutputLinear` | output | yes | yes |
| `nn.Embedding` | input | no | no |
| biases, and whatever else has one axis (gains of norms) | vector | no | no |
| a parameter of any other module, which may state `scaling` and `adaptable` as attributes | hidden | yes | no |
"""

from __future__ import annotations

from collections.abc import Iterable

from mlipfm_interfaces.errors import ContractError
from mlipfm_interfaces.potential import ParameterRole
from torch import nn

__all__ = ["GeometryLinear", "InputLinear", "OutputLinear", "VectorInputLinear", "VectorLinear", "roles_of"]


class InputLinear(nn.Linear):
    """Linear map of inputs whose number does not grow with the width of the network, such as radial functions."""

    scaling = "input"


class GeometryLinear(InputLinear):
    """Linear map of raw geometry (components of vectors, functions of one distance), which low-rank adapters leave alone."""

    adaptable = False


class VectorLinear(nn.Linear):
    """Linear map of the channels of equivariant vectors [..., 3, channels]; give it no bias."""

    irreps = "1o"


class VectorInputLinear(VectorLinear):
    """Linear map of vectors whose number of channels does not grow with the width of the network."""

    scaling = "input"


class OutputLinear(nn.Linear):
    """Last linear map of a head: starts small, so that predictions do at every width."""

    scaling = "output"


def roles_of(root: nn.Module, blocks: Iterable[nn.Module], first_depth: int = 1) -> dict[str, ParameterRole]:
    """Return the role of every parameter of `root` by its name there; the depth is the place of its block, counted from `first_depth`.

    Raises:
        ContractError: a parameter is in no block.
    """
    found = {}
    for depth, block in enumerate(blocks, first_depth):
        for module in block.modules():
            for name, parameter in module.named_parameters(recurse=False):
                found[id(parameter)] = _role(module, name, parameter, depth)
    outside = [name for name, parameter in root.named_parameters() if id(parameter) not in found]
    if outside:
        raise ContractError(
            f"the parameter {outside[0]!r} of {type(root).__name__} is in no block", hint="put it into a module that blocks() returns"
        )
    return {name: found[id(parameter)] for name, parameter in root.named_parameters()}


def _role(module: nn.Module, name: str, parameter: nn.Parameter, depth: int) -> ParameterRole:
    if name == "bias" or parameter.ndim < 2:
        return ParameterRole(depth, "vector", decay=False)
    if isinstance(module, nn.Embedding):
        return ParameterRole(depth, "input", decay=False)
    adaptable = getattr(module, "adaptable", isinstance(module, nn.Linear))
    return ParameterRole(depth, getattr(module, "scaling", "hidden"), True, adaptable, getattr(module, "irreps", "0e"))
