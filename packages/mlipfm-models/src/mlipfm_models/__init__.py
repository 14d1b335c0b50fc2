"""Backbones, conditioning, heads and references of machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .assembly import AssembledPotential as AssembledPotential, Repulsion as Repulsion, build_potential as build_potential
    from .backbones.backbone import (
        Backbone as Backbone,
        DenseBackbone as DenseBackbone,
        ExactConstants as ExactConstants,
        PairBackbone as PairBackbone,
        TrainedDistances as TrainedDistances,
        bessel as bessel,
        envelope as envelope,
    )
    from .backbones.behler_parrinello import BehlerParrinello as BehlerParrinello, BehlerParrinelloConfig as BehlerParrinelloConfig
    from .backbones.deeppot_se import DeepPotSe as DeepPotSe, DeepPotSeConfig as DeepPotSeConfig
    from .backbones.density import Density as Density, DensityConfig as DensityConfig
    from .backbones.escaip import Escaip as Escaip, EscaipConfig as EscaipConfig
    from .backbones.mace import Mace as Mace, MaceConfig as MaceConfig
    from .backbones.painn import Painn as Painn, PainnConfig as PainnConfig
    from .backbones.pet import Pet as Pet, PetConfig as PetConfig
    from .combinations import (
        Cell as Cell,
        Column as Column,
        columns as columns,
        matrix as matrix,
        own_backbones as own_backbones,
        refusal as refusal,
    )
    from .configuration import (
        AssemblyConfig as AssemblyConfig,
        Cutoff as Cutoff,
        Distances as Distances,
        Layers as Layers,
        Positive as Positive,
        Radial as Radial,
        Width as Width,
    )
    from .density_kernel import (
        CompiledDensity as CompiledDensity,
        DensityKernelPotential as DensityKernelPotential,
        Differences as Differences,
        compiled_density as compiled_density,
        differences as differences,
        why_not_compiled as why_not_compiled,
    )
    from .parameter_roles import (
        GeometryLinear as GeometryLinear,
        InputLinear as InputLinear,
        OutputLinear as OutputLinear,
        VectorInputLinear as VectorInputLinear,
        VectorLinear as VectorLinear,
        roles_of as roles_of,
    )
    from .speed_table import Row as Row, Skipped as Skipped, speed_rows as speed_rows
    from .uncertainty.ensembles import Members as Members, predict_members as predict_members
    from .uncertainty.llpr import Llpr as Llpr
    from .weight_transfer import TransferReport as TransferReport, transfer_weights as transfer_weights

_OLD = {f"build_{name}": (".builders", f"build_potential({name!r}, config)") for name in ("density", "escaip", "mace", "painn", "pet")}
__getattr__, __dir__, __all__ = lazy_imports(__name__, _OLD)
