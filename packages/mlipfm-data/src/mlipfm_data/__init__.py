"""Readers, samplers, labellers, the store and batch planning for atomistic data.

Functions that share the name of their module are imported from it: `from mlipfm_data.conformers import conformers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "from_ase": "readers.ase", "to_ase": "readers.ase",
    "PlanQuality": "batches", "edge_costs": "batches", "plan_batches": "batches", "plan_quality": "batches",
    "quickstart_molecules": "conformers",
    "Slope": "label_checks.work", "energy_against_forces": "label_checks.work",
    "export_extxyz": "readers.extxyz",
    "ReadOptions": "readers.options", "ReadReport": "readers.report",
    "ImportReport": "importing", "Importer": "importing", "import_file": "importing",
    "NormalModeSampler": "normal_modes", "sample_modes": "normal_modes", "spring_hessian": "normal_modes",
    "read": "readers.registry", "read_all": "readers.registry",
    "Store": "store.store", "StoreWriter": "store.writer",
}  # fmt: skip

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


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: `import mlipfm_data` alone imports neither torch, ase, rdkit nor tblite."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
