"""Initial weights: one stream of normal numbers per parameter, scaled by the parameter's role.

A parameter's numbers depend on the seed and its name only: not on torch's global generator (which is neither read nor advanced), not on the
order of construction, and not on what else the model has, so that a direct and a conservative model of one seed start from the same backbone.

| scaling | standard deviation | why |
|---|---|---|
| input, embedding tables | 1 | rows are picked, not summed |
| input and hidden, matrices | fan_in^-1/2 | keeps the variance of what passes through |
| output | fan_in^-1 | energies and forces start small, equally so at every width (muP, arXiv:2203.03466) |
| vector: biases; gains of norms | 0, all zero; all one | |
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mlipfm_interfaces.potential import ParameterRole
from mlipfm_interfaces.seeds import stream
from torch import nn


@torch.no_grad()
def initialise(root: nn.Module, roles: Mapping[str, ParameterRole], seed: int) -> None:
    """Give every parameter of `root` its value, from `seed`, its name and its role. float32 is the rounded float64."""
    tables = {f"{name}.weight" for name, module in root.named_modules() if isinstance(module, nn.Embedding)}
    for name, parameter in root.named_parameters():
        std = 1.0 if name in tables else _std(roles[name], parameter.shape[-1])
        constant = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0  # the gain of a norm; biases
        numbers = stream(seed, "weights", name).normal(0.0, std, tuple(parameter.shape)) if std else constant
        parameter.copy_(torch.as_tensor(numbers))


def _std(role: ParameterRole, fan_in: int) -> float:
    return {"input": fan_in**-0.5, "hidden": fan_in**-0.5, "output": 1.0 / fan_in, "vector": 0.0}[role.scaling]
