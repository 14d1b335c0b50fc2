"""Readers, samplers, labellers, the store and batch planning for atomistic data.

Functions that share the name of their module are imported from it: `from mlipfm_data.conformers import conformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .batches import PlanQuality, edge_costs, plan_batches, plan_quality
    from .conformers import quickstart_molecules
    from .importing import Importer, ImportReport, import_file
    from .label_checks.work import Slope, energy_against_forces
    from .normal_modes import NormalModeSampler, sample_modes, spring_hessian
    from .readers.ase import from_ase, to_ase
    from .readers.extxyz import export_extxyz
    from .readers.options import ReadOptions
    from .readers.registry import read, read_all
    from .readers.report import ReadReport
    from .store.store import Store
    from .store.writer import StoreWriter

__all__ = [
    "ImportReport",
    "Importer",
    "NormalModeSampler",
    "PlanQuality",
    "ReadOptions",
    "ReadReport",
    "Slope",
    "Store",
    "StoreWriter",
    "edge_costs",
    "energy_against_forces",
    "export_extxyz",
    "from_ase",
    "import_file",
    "plan_batches",
    "plan_quality",
    "quickstart_molecules",
    "read",
    "read_all",
    "sample_modes",
    "spring_hessian",
    "to_ase",
]

__getattr__, __dir__ = lazy_imports(__name__)
