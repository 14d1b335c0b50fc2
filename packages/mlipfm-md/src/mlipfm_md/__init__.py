"""Molecular dynamics with mlipfm potentials: ASE calculator, integrators, simulation sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .barostat import NPT
    from .calculator import MlipfmCalculator
    from .ensembles import NVE, Bussi, Ensemble, Langevin, NoseHoover, State, maxwell_boltzmann
    from .exchange import ReplicaExchange
    from .forces import PotentialForces, TeacherForces
    from .langevin_sampler import LangevinSampler
    from .respa import Respa
    from .simulation import Run, Settings, simulate, simulate_frames
    from .simulation_source import SimulationSource
    from .start_files import read_starts
    from .starts import Start, as_starts, temperature_of
    from .trajectory import Trajectory, export_extxyz
    from .uncertainty_gate import UncertaintyGate

__all__ = [
    "NPT",
    "NVE",
    "Bussi",
    "Ensemble",
    "Langevin",
    "LangevinSampler",
    "MlipfmCalculator",
    "NoseHoover",
    "PotentialForces",
    "ReplicaExchange",
    "Respa",
    "Run",
    "Settings",
    "SimulationSource",
    "Start",
    "State",
    "TeacherForces",
    "Trajectory",
    "UncertaintyGate",
    "as_starts",
    "export_extxyz",
    "maxwell_boltzmann",
    "read_starts",
    "simulate",
    "simulate_frames",
    "temperature_of",
]

__getattr__, __dir__ = lazy_imports(__name__)
