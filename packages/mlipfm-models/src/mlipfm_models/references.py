"""Atomic reference energies: what each element contributes at each level of theory before the network says anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from mlipfm_interfaces.elements import N_ELEMENTS, number, symbol
from mlipfm_interfaces.errors import LevelError, UnknownElementError
from torch import Tensor, nn


class References(nn.Module):
    """Reference energies [levels, 119] in eV, and the row of each element in the model's tables.

    A level without any entry has zero references. A level that states some has *no* energy for the elements it does not state, and asking for
    them is an error: a zero beside -2000 eV would be an energy of another kind. The numbers come from the configuration and are no part of the
    state dict: there is one place that can be wrong.
    """

    energies: Tensor
    rows: Tensor

    def __init__(self, elements: Sequence[int], levels: Sequence[str], references: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__()
        self.elements, self.levels = tuple(elements), tuple(levels)
        rows = torch.full((N_ELEMENTS + 1,), -1)
        rows[list(self.elements)] = torch.arange(len(self.elements))
        energies = torch.zeros(len(self.levels), N_ELEMENTS + 1, dtype=torch.float64)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("energies", energies, persistent=False)
        for level, values in references.items():
            self.state(level, values)

    def state(self, level: str, values: Mapping[str, float]) -> None:
        """Set the references of one level: element symbol -> eV; elements left out have none."""
        row = torch.full_like(self.energies[0], torch.nan if values else 0.0)
        for name, energy in values.items():
            row[number(name)] = energy
        self.energies[self.levels.index(level)] = row

    def element_rows(self, atomic_numbers: Tensor) -> Tensor:
        """[atoms] row of each atom's element in the embedding table.

        Raises:
            UnknownElementError: for an element the model has no row for.
        """
        rows = self.rows[atomic_numbers]
        if bool((rows < 0).any()):
            stranger = int(atomic_numbers[rows < 0][0])
            known = " ".join(symbol(z) for z in self.elements)
            raise UnknownElementError(f"this model was not trained on {symbol(stranger)}", mend=f"it knows {known}")
        return rows

    def forward(self, atomic_numbers: Tensor, level: Tensor) -> Tensor:
        """[atoms] float64, eV; `level` [atoms] is the index of each atom's level.

        Raises:
            LevelError: for an element without a reference at its level.
        """
        energies = self.energies[level, atomic_numbers]
        missing = energies.isnan()
        if bool(missing.any()):
            z, at = int(atomic_numbers[missing][0]), self.levels[int(level[missing][0])]
            raise LevelError(
                f"level {at!r} has no reference energy for {symbol(z)}", mend="use another level or train with references for it"
            )
        return energies

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> References:
        """Moves with the model but is never rounded: `.float()` must not cost a total energy its last digits."""
        exact = self.energies
        super()._apply(fn, recurse)
        self.energies = exact.to(self.energies.device)
        return self
