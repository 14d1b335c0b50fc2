"""Readers, samplers, labellers, the store and batch planning for atomistic data.

Functions that share the name of their module are imported from it: `from mlipfm_data.conformers import conformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .batches import PlanQuality as PlanQuality, edge_costs as edge_costs, plan_batches as plan_batches, plan_quality as plan_quality
    from .conformers import quickstart_molecules as quickstart_molecules
    from .importing import Importer as Importer, ImportReport as ImportReport, import_file as import_file
    from .label_checks.work import Slope as Slope, energy_against_forces as energy_against_forces
    from .normal_modes import NormalModeSampler as NormalModeSampler, sample_modes as sample_modes, spring_hessian as spring_hessian
    from .readers.ase import from_ase as from_ase, to_ase as to_ase
    from .readers.extxyz import export_extxyz as export_extxyz
    from .readers.options import ReadOptions as ReadOptions
    from .readers.registry import read as read, read_all as read_all
    from .readers.report import ReadReport as ReadReport
    from .store.store import Store as Store
    from .store.writer import StoreWriter as StoreWriter

__getattr__, __dir__, __all__ = lazy_imports(__name__)
