"""From what each atom says to the quantities of a system: charges that add up, dipoles, averages, tensors. Free of parameters, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.elements import MASSES, number
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.quantities import quantity
from torch import Tensor
from torch.nn.functional import softplus

#: Å³. A typical volume of an atom in condensed matter: the scale of a direct stress is then the size of stresses there.
ATOM_VOLUME = 15.0

Raw = Mapping[str, Tensor]
Options = Mapping[str, Mapping[str, Any]]


def read_out(key: str, raw: Raw, batch: Batch, options: Options, has_field: bool) -> Tensor:
    """Return the quantity `key`, with the shape, unit and sign of the table, float64.

    Args:
        raw: what the heads say. options: of the heads. has_field: whether the model gets the external field.

    Raises:
        PropertyNotAvailableError: the dipole or quadrupole of a periodic system, the stress of one that is not periodic in three directions.
    """
    if key in ("charges", "spin_charges"):
        return equilibrated(key, raw, batch, options)
    if key == "dipole":
        return dipole(raw, batch, options, has_field)
    if key == "quadrupole":
        return quadrupole(raw, batch, options, has_field)
    own, size = raw[key].to(torch.float64), options[key]["scale"]
    if key == "stress":
        return size * batch.sum_per_system(own) * (ATOM_VOLUME / batch.volume)[:, None, None]
    if key == "polarizability":
        return size * batch.sum_per_system(own)
    if quantity(key).layout == "system":
        return options[key]["shift"] + size * pooled(own, batch)
    own = size * own.reshape(-1, *quantity(key).shape)
    shift = options[key].get("shift")
    return own if not shift else own + _by_element(shift, batch)


def equilibrated(key: str, raw: Raw, batch: Batch, options: Options) -> Tensor:
    """Charges [atoms] in e that add up: q_i = q~_i + f_i / (sum f) (Q - sum q~), f_i > 0 (neutral spin equilibration of AIMNet-NSE,
    Zubatyuk et al., Nat. Commun. 12, 4870 (2021)).

    `charges` add up to the total charge, `spin_charges` to the unpaired electrons 2S. Where that is not given nothing is known that they could
    add up to, least of all zero: they are q~ as they are.
    """
    first, second = raw[key].to(torch.float64).unbind(dim=1)
    own = options.get(key, {"scale": 1.0})["scale"] * first
    share = softplus(second) + 1e-6
    total, stated = _total(key, batch)
    missing = torch.where(stated, total - batch.sum_per_system(own), 0.0)
    return own + share / batch.sum_per_system(share)[batch.system] * missing[batch.system]


def _total(key: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """[systems] what the charges add up to, and whether it is given."""
    if key == "charges":
        return batch.total_charge.to(torch.float64), batch.charge_stated
    return (batch.spin_multiplicity - 1).to(torch.float64), batch.spin_multiplicity > 0


def centre_of_mass(batch: Batch) -> Tensor:
    """[systems, 3] Å, of the atoms as they are given (not wrapped)."""
    mass = torch.tensor(MASSES, device=batch.positions.device)[batch.atomic_numbers][:, None]
    return batch.sum_per_system(mass * batch.positions) / batch.sum_per_system(mass)


def dipole(raw: Raw, batch: Batch, options: Options, has_field: bool) -> Tensor:
    """[systems, 3] e Å: sum_i q_i (r_i - R) + mu_i, and the part that the field induces. R is the centre of mass.

    Of a neutral system it does not depend on R; of a charged one it does, and this is the convention.

    Raises:
        PropertyNotAvailableError: if a system is periodic: which image of an atom counts would be arbitrary.
    """
    _refuse_periodic("dipole", batch)
    total = batch.sum_per_system(_atomic_dipoles(raw, batch, options))
    if has_field and "polarizability" in raw:
        tensor = options["polarizability"]["scale"] * batch.sum_per_system(raw["polarizability"])
        total = total + (tensor @ batch.external_field[:, :, None]).squeeze(2)
    return torch.where(batch.defined("dipole")[:, None], total, 0.0)


def quadrupole(raw: Raw, batch: Batch, options: Options, has_field: bool) -> Tensor:
    """[systems, 3, 3] e Å²: sum_i q_i d_i d_i + mu_i d_i + d_i mu_i + theta_i with d_i = r_i - R, not traceless. R is the centre of mass.

    q_i and mu_i are those of the dipole (with what the field induces), theta_i is the tensor of the atom about its nucleus. Of a system without
    charge and dipole it does not depend on R; otherwise this is the convention.

    Raises:
        PropertyNotAvailableError: if a system is periodic.
    """
    _refuse_periodic("quadrupole", batch)
    away = batch.positions - centre_of_mass(batch)[batch.system]
    own = options.get("dipole", {"scale": 1.0})["scale"] * raw["dipole"].to(torch.float64)
    if has_field and "polarizability" in raw:
        tensor = options["polarizability"]["scale"] * raw["polarizability"].to(torch.float64)
        own = own + (tensor @ batch.external_field[batch.system][:, :, None]).squeeze(2)
    half = (equilibrated("charges", raw, batch, options)[:, None] * away / 2 + own)[:, :, None] * away[:, None, :]
    total = batch.sum_per_system(half + half.mT + options["quadrupole"]["scale"] * raw["quadrupole"].to(torch.float64))
    return torch.where(batch.defined("quadrupole")[:, None, None], total, 0.0)


def _refuse_periodic(key: str, batch: Batch) -> None:
    periodic = (~batch.defined(key)).nonzero().flatten().tolist()
    if periodic and not batch.mask_undefined:
        raise PropertyNotAvailableError(
            f"a periodic system has no {key}", where=f"system {periodic[0]}", hint=f"do not ask the {key} of crystals"
        )


def _atomic_dipoles(raw: Raw, batch: Batch, options: Options) -> Tensor:
    """[atoms, 3] q_i (r_i - R) + mu_i."""
    away = batch.positions - centre_of_mass(batch)[batch.system]
    own = options["dipole"]["scale"] * raw["dipole"].to(torch.float64)
    return equilibrated("charges", raw, batch, options)[:, None] * away + own


def field_energy(raw: Raw, batch: Batch, options: Options) -> Tensor:
    """[atoms] eV: shares of -mu F - F alpha F / 2 - Q R F, in a uniform field F; minus its gradient by F is the dipole (+ Q R of an ion).

    The last term is that of a charge at the centre of mass, so that the net force on an ion is Q F. Second order in the field is all there is.

    Raises:
        PropertyNotAvailableError: for a field on a periodic system.
    """
    torn = (batch.pbc.any(dim=1) & (batch.external_field != 0).any(dim=1)).nonzero().flatten().tolist()
    if torn:
        raise PropertyNotAvailableError(
            "a uniform field has no potential in a periodic system", where=f"system {torn[0]}", hint="set no external_field there"
        )
    field = batch.external_field[batch.system]
    charge = torch.where(batch.charge_stated, batch.total_charge.to(torch.float64), 0.0)
    ion = (charge / batch.n_atoms)[:, None] * centre_of_mass(batch)
    vector = _atomic_dipoles(raw, batch, options) + ion[batch.system]
    if "polarizability" in raw:
        tensor = options["polarizability"]["scale"] * raw["polarizability"].to(torch.float64)
        vector = vector + (tensor @ field[:, :, None]).squeeze(2) / 2
    return -(vector * field).sum(dim=1)


def pooled(pair: Tensor, batch: Batch) -> Tensor:
    """[systems] sum_i value_i exp(logit_i) / sum_i exp(logit_i) from (value, logit) [atoms, 2]: as many copies as you like have the same."""
    value, logit = pair.unbind(dim=1)
    low = torch.full((batch.n_systems,), -torch.inf, dtype=logit.dtype, device=logit.device)
    highest = low.scatter_reduce(0, batch.system, logit.detach(), "amax")
    weight = (logit - highest[batch.system]).exp()
    return batch.sum_per_system(weight * value) / batch.sum_per_system(weight)


def _by_element(shift: Mapping[str, float], batch: Batch) -> Tensor:
    table = torch.zeros(len(MASSES), dtype=torch.float64, device=batch.positions.device)
    for name, value in shift.items():
        table[number(name)] = value
    return table[batch.atomic_numbers]
