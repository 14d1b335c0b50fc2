"""Backbones, conditioning, heads and references of machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .assembly import AssembledPotential, Repulsion, build_potential
    from .backbones.backbone import Backbone, DenseBackbone, ExactConstants, PairBackbone, bessel, envelope
    from .backbones.behler_parrinello import BehlerParrinello, BehlerParrinelloConfig
    from .backbones.deeppot_se import DeepPotSe, DeepPotSeConfig
    from .backbones.density import Density, DensityConfig
    from .backbones.escaip import Escaip, EscaipConfig
    from .backbones.mace import Mace, MaceConfig
    from .backbones.painn import Painn, PainnConfig
    from .backbones.pet import Pet, PetConfig
    from .combinations import Cell, Column, columns, matrix, own_backbones, refusal
    from .configuration import AssemblyConfig, Cutoff, Layers, Positive, Radial, Width
    from .density_kernel import CompiledDensity, DensityKernelPotential, Differences, compiled_density, differences, why_not_compiled
    from .parameter_roles import GeometryLinear, InputLinear, OutputLinear, VectorLinear, roles_of
    from .speed_table import Row, Skipped, speed_rows
    from .uncertainty.ensembles import Members, predict_members
    from .uncertainty.llpr import Llpr
    from .weight_transfer import TransferReport, transfer_weights

__all__ = [
    "AssembledPotential",
    "AssemblyConfig",
    "Backbone",
    "BehlerParrinello",
    "BehlerParrinelloConfig",
    "Cell",
    "Column",
    "CompiledDensity",
    "Cutoff",
    "DeepPotSe",
    "DeepPotSeConfig",
    "DenseBackbone",
    "Density",
    "DensityConfig",
    "DensityKernelPotential",
    "Differences",
    "Escaip",
    "EscaipConfig",
    "ExactConstants",
    "GeometryLinear",
    "InputLinear",
    "Layers",
    "Llpr",
    "Mace",
    "MaceConfig",
    "Members",
    "OutputLinear",
    "Painn",
    "PainnConfig",
    "PairBackbone",
    "Pet",
    "PetConfig",
    "Positive",
    "Radial",
    "Repulsion",
    "Row",
    "Skipped",
    "TransferReport",
    "VectorLinear",
    "Width",
    "bessel",
    "build_potential",
    "columns",
    "compiled_density",
    "differences",
    "envelope",
    "matrix",
    "own_backbones",
    "predict_members",
    "refusal",
    "roles_of",
    "speed_rows",
    "transfer_weights",
    "why_not_compiled",
]

_OLD = {f"build_{name}": (".builders", f"build_potential({name!r}, config)") for name in ("density", "escaip", "mace", "painn", "pet")}
__getattr__, __dir__ = lazy_imports(__name__, _OLD)
