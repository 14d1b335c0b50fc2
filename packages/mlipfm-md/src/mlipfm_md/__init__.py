"""Molecular dynamics and properties of structures with mlipfm potentials: ASE calculator, integrators, relaxations, phonons, reaction paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .atoms_and_models import open_calculator, read_atoms
    from .barostat import NPT
    from .calculator import MlipfmCalculator
    from .crystal_elasticity import elastic_tensor, equation_of_state
    from .crystal_phonons import phonons
    from .ensembles import NVE, Bussi, Ensemble, Langevin, NoseHoover, State, maxwell_boltzmann
    from .exchange import ReplicaExchange
    from .forces import PotentialForces, TeacherForces
    from .harmonic_vibrations import thermochemistry, vibrations
    from .langevin_sampler import LangevinSampler
    from .reaction_paths import minimum_energy_path, saddle_point
    from .relaxation import relax
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
    "elastic_tensor",
    "equation_of_state",
    "export_extxyz",
    "maxwell_boltzmann",
    "minimum_energy_path",
    "open_calculator",
    "phonons",
    "read_atoms",
    "read_starts",
    "relax",
    "saddle_point",
    "simulate",
    "simulate_frames",
    "temperature_of",
    "thermochemistry",
    "vibrations",
]

__getattr__, __dir__ = lazy_imports(__name__)
