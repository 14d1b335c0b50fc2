"""Backbones, conditioning, heads and references of machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assembly import AssembledPotential
    from .backbones.density import Density, DensityConfig
    from .backbones.escaip import Escaip, EscaipConfig
    from .backbones.mace import Mace, MaceConfig
    from .backbones.painn import Painn, PainnConfig
    from .backbones.pet import Pet, PetConfig
    from .builders import build_density, build_escaip, build_mace, build_painn, build_pet, build_potential
    from .configuration import AssemblyConfig
    from .transfer import TransferReport, transfer_weights

__all__ = [
    "AssembledPotential",
    "AssemblyConfig",
    "Density",
    "DensityConfig",
    "Escaip",
    "EscaipConfig",
    "Mace",
    "MaceConfig",
    "Painn",
    "PainnConfig",
    "Pet",
    "PetConfig",
    "TransferReport",
    "build_density",
    "build_escaip",
    "build_mace",
    "build_painn",
    "build_pet",
    "build_potential",
    "transfer_weights",
]

_HOMES = {
    "AssembledPotential": "assembly",
    "AssemblyConfig": "configuration",
    "Density": "backbones.density",
    "DensityConfig": "backbones.density",
    "Escaip": "backbones.escaip",
    "EscaipConfig": "backbones.escaip",
    "Mace": "backbones.mace",
    "MaceConfig": "backbones.mace",
    "Painn": "backbones.painn",
    "PainnConfig": "backbones.painn",
    "Pet": "backbones.pet",
    "PetConfig": "backbones.pet",
    "build_density": "builders",
    "build_escaip": "builders",
    "build_mace": "builders",
    "build_painn": "builders",
    "build_pet": "builders",
    "build_potential": "builders",
    "TransferReport": "transfer",
    "transfer_weights": "transfer",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: importing the package does not import torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
