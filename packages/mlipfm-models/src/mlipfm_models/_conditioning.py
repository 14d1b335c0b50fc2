"""What is known of an atom before its neighbours: its initial scalars (conditioning) and its reference energy.

The initial scalars are made of the element, the level of theory, the total charge and the spin.

Size consistency decides the form. A vector that depends on the total charge and is added to every atom (the usual table of charges) makes a far
molecule feel the charge of another one, and eight cells of a crystal differ from eight times one cell. Here:

- element and level: one row of a table each, the same for every atom of the kind. Extensive.
- charge Q and unpaired electrons 2S are *shared out*: atom i gets Q w_i / sum_j w_j, with weights w_i > 0 from its element, and a map without
  bias makes a vector of it (after the electronic embedding of SpookyNet, arXiv:2105.00304). Q = 0 and singlets give exactly zero, so that
  neutral singlets are exactly size consistent; n copies of a cell with n Q are exactly n times the cell; an unseen charge is an
  extrapolation, not an untrained row of a table.
- *not given* is a learned token of its own, the same for every atom and therefore extensive too. It is neither zero charge nor a singlet.

What remains: A(+) and B far apart are not A(+) plus B, because B gets its part of the charge. The README gives a measured size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.elements import N_ELEMENTS, number, symbol
from mlipfm_interfaces.errors import LevelError, UnknownElementError
from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from .parameter_roles import roles_of

#: What a model may be conditioned on, with the number of signs each can have.
CONDITIONS = {"total_charge": 2, "spin_multiplicity": 1}


class ElectronicEmbedding(nn.Module):
    """Shares a whole number of electrons (charge, or unpaired electrons) out over the atoms of each system."""

    def __init__(self, channels: int, signs: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Embedding(signs, channels)
        self.value = nn.Embedding(signs, channels)
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)
        self.unknown = nn.Embedding(1, channels)

    def forward(self, x: Tensor, number: Tensor, stated: Tensor, system: Tensor) -> Tensor:
        """[atoms, channels] from node scalars `x`; `number` and `stated` are [systems], and where not given the number must be 0."""
        sign = (number < 0).long()
        weight = softplus((self.query(x) * self.key(sign)[system]).mean(dim=1))
        total = torch.zeros(len(number), dtype=x.dtype, device=x.device).index_add(0, system, weight)
        share = number.abs().to(x.dtype)[system] * weight / total[system]
        e = share[:, None] * self.value(sign)[system]
        e = e + self.outer(silu(self.inner(e)))
        return e + (~stated)[system, None] * self.unknown.weight


class Conditioning(nn.Module):
    """Initial node scalars [atoms, channels]."""

    def __init__(self, channels: int, n_elements: int, n_levels: int, conditions: Sequence[str]) -> None:
        super().__init__()
        self.element = nn.Embedding(n_elements, channels)
        self.level = nn.Embedding(n_levels, channels)
        self.electronic = nn.ModuleDict({name: ElectronicEmbedding(channels, CONDITIONS[name]) for name in conditions})

    def roles(self) -> dict[str, ParameterRole]:
        """Role of every parameter, by its name in this module."""
        return roles_of(self, [self], 0)

    def forward(self, element: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """`element` [atoms] and `level` [systems] are rows of the tables; see `Batch.node_input` for what pre-training hides or adds."""
        x = self.element(element)
        if batch.node_input is not None:
            keep, added = batch.node_input
            x = keep.to(x.dtype) * x + added.to(x.dtype)
        s = x + self.level(level)[batch.system]
        if "total_charge" in self.electronic:
            s = s + self.electronic["total_charge"](x, batch.total_charge, batch.charge_stated, batch.system)
        if "spin_multiplicity" in self.electronic:
            stated = batch.spin_multiplicity > 0
            unpaired = (batch.spin_multiplicity - 1).clamp_min(0)
            s = s + self.electronic["spin_multiplicity"](x, unpaired, stated, batch.system)
        return s


class References(nn.Module):
    """Reference energies [levels, 119] in eV, and the row of each element in the model's tables.

    A level without any entry has zero references. A level that gives some has *no* energy for the elements it does not state, and asking for
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
            raise UnknownElementError(f"this model was not trained on {symbol(stranger)}", hint=f"it supports {known}")
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
                f"level {at!r} has no reference energy for {symbol(z)}", hint="use another level or train with references for it"
            )
        return energies

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> References:
        """Moves with the model but is never rounded: `.float()` must not cost a total energy its last digits."""
        exact = self.energies
        super()._apply(fn, recurse)
        self.energies = exact.to(self.energies.device)
        return self
