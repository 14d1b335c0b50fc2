"""Molecular dynamics with mlipfm potentials: ASE calculator, integrators, simulation sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .calculator import MlipfmCalculator
    from .ensembles import NVE, Langevin
    from .langevin_sampler import LangevinSampler
    from .simulation import Run, Settings, simulate
    from .starts import Start

__all__ = ["NVE", "Langevin", "LangevinSampler", "MlipfmCalculator", "Run", "Settings", "Start", "simulate"]

__getattr__, __dir__ = lazy_imports(__name__)
