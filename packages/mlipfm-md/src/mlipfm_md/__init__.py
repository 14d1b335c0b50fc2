"""Molecular dynamics with mlipfm potentials: ASE calculator, integrators, simulation sources."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calculator import MlipfmCalculator
    from .ensembles import NVE, Langevin
    from .langevin_sampler import LangevinSampler
    from .simulation import Run, Settings, simulate
    from .starts import Start

__all__ = ["NVE", "Langevin", "LangevinSampler", "MlipfmCalculator", "Run", "Settings", "Start", "simulate"]

_HOME = {"MlipfmCalculator": "calculator", "NVE": "ensembles", "Langevin": "ensembles", "LangevinSampler": "langevin_sampler",
         "Run": "simulation", "Settings": "simulation", "simulate": "simulation", "Start": "starts"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import public names when they are used: `import mlipfm_md` alone stays light."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
