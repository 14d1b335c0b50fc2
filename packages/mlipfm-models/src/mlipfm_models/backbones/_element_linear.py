"""A linear map of its own for each element, as one stacked parameter: rows are grouped by element and multiplied together, nothing branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which element: `index` [elements, most] (the number of rows where there is none), `row` and `slot` [rows]: their place."""

    index: Tensor
    row: Tensor
    slot: Tensor


def grouped(element: Tensor, n_elements: int) -> Groups:
    """Groups of rows whose elements are `element` [rows], 0 to n_elements - 1."""
    order = torch.argsort(element, stable=True)
    counts = torch.bincount(element, minlength=n_elements)
    place = torch.arange(len(element), device=element.device) - (counts.cumsum(0) - counts)[element[order]]
    slot = torch.empty_like(order)
    slot[order] = place
    index = torch.full((n_elements, max(1, int(counts.max()))), len(element), device=element.device)
    index[element, slot] = torch.arange(len(element), device=element.device)
    return Groups(index, element, slot)


class ElementLinear(nn.Module):
    """weight[element] x + bias[element]: parameters [elements, out, in] and [elements, out]. Every element gets a gradient, if only zero."""

    def __init__(self, n_elements: int, n_in: int, n_out: int, scaling: Literal["input", "hidden"] = "hidden") -> None:
        """`scaling`: `input` where `n_in` does not grow with the width, see `parameter_roles`."""
        super().__init__()
        self.scaling = scaling
        self.weight = nn.Parameter(torch.zeros(n_elements, n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_elements, n_out))

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[rows, out] from [rows, in]."""
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])[groups.index]
        return torch.baddbmm(self.bias[:, None], padded, self.weight.mT)[groups.row, groups.slot]
