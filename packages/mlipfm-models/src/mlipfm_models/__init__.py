"""Backbones, conditioning, heads and references of machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .assembly import AssembledPotential, build_potential
    from .backbones.backbone import Backbone, DenseBackbone, ExactConstants, PairBackbone, bessel, envelope
    from .backbones.behler_parrinello import BehlerParrinello, BehlerParrinelloConfig
    from .backbones.deeppot_se import DeepPotSe, DeepPotSeConfig
    from .backbones.density import Density, DensityConfig
    from .backbones.escaip import Escaip, EscaipConfig
    from .backbones.mace import Mace, MaceConfig
    from .backbones.painn import Painn, PainnConfig
    from .backbones.pet import Pet, PetConfig
    from .configuration import AssemblyConfig
    from .parameter_roles import GeometryLinear, InputLinear, OutputLinear, VectorLinear
    from .transfer import TransferReport, transfer_weights

__all__ = [
    "AssembledPotential",
    "AssemblyConfig",
    "Backbone",
    "BehlerParrinello",
    "BehlerParrinelloConfig",
    "DeepPotSe",
    "DeepPotSeConfig",
    "DenseBackbone",
    "Density",
    "DensityConfig",
    "Escaip",
    "EscaipConfig",
    "ExactConstants",
    "GeometryLinear",
    "InputLinear",
    "Mace",
    "MaceConfig",
    "OutputLinear",
    "Painn",
    "PainnConfig",
    "PairBackbone",
    "Pet",
    "PetConfig",
    "TransferReport",
    "VectorLinear",
    "bessel",
    "build_potential",
    "envelope",
    "transfer_weights",
]

_OLD = {f"build_{name}": (".builders", f"build_potential({name!r}, config)") for name in ("density", "escaip", "mace", "painn", "pet")}
__getattr__, __dir__ = lazy_imports(__name__, _OLD)
