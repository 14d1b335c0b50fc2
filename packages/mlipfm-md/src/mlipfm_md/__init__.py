"""Molecular dynamics and properties of structures with mlipfm potentials: ASE calculator, integrators, relaxations, phonons, reaction paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .atoms_and_models import ForeignCalculator, atoms_of, frozen, largest_force, open_calculator, read_atoms
    from .barostat import NPT
    from .calculator import MlipfmCalculator
    from .compiled_forces import CompiledForces
    from .constraints import Bonds
    from .crystal_elasticity import EOS_FORMS, Elasticity, StateEquation, elastic_tensor, equation_of_state
    from .crystal_phonons import Phonons, phonons, supercell_for
    from .energy_table import COLUMNS, EnergyTable, volumes
    from .engine_forces import EngineForces, read_one_initial_state
    from .ensembles import NVE, Bussi, Ensemble, Forces, Langevin, NoseHoover, kinetic_energy, maxwell_boltzmann
    from .exchange import ReplicaExchange
    from .forces import PotentialForces, SplitForces, TeacherForces
    from .harmonic_vibrations import Vibrations, free_hessian, thermochemistry, vibrations
    from .initial_files import read_initial_states
    from .initial_state import InitialState, as_initial_states, temperature_of
    from .ipi_engine import export_ipi, serve
    from .lammps_engine import attach, export_lammps
    from .langevin_sampler import LangevinSampler
    from .memory import keep_freed_memory
    from .noise import normals, philox, uniforms
    from .reaction_paths import Path, Saddle, minimum_energy_path, saddle_point
    from .relaxation import CELLS, OPTIMIZERS, Relaxation, check_relaxed, check_stress, relax
    from .respa import Respa
    from .simulation import Run, Settings, simulate, simulate_frames
    from .simulation_source import SimulationSource
    from .state import State
    from .trajectory import Trajectory, export_extxyz
    from .uncertainty_gate import UncertaintyGate

__all__ = [
    "CELLS",
    "COLUMNS",
    "EOS_FORMS",
    "NPT",
    "NVE",
    "OPTIMIZERS",
    "Bonds",
    "Bussi",
    "CompiledForces",
    "Elasticity",
    "EnergyTable",
    "EngineForces",
    "Ensemble",
    "Forces",
    "ForeignCalculator",
    "InitialState",
    "Langevin",
    "LangevinSampler",
    "MlipfmCalculator",
    "NoseHoover",
    "Path",
    "Phonons",
    "PotentialForces",
    "Relaxation",
    "ReplicaExchange",
    "Respa",
    "Run",
    "Saddle",
    "Settings",
    "SimulationSource",
    "SplitForces",
    "State",
    "StateEquation",
    "TeacherForces",
    "Trajectory",
    "UncertaintyGate",
    "Vibrations",
    "as_initial_states",
    "atoms_of",
    "attach",
    "check_relaxed",
    "check_stress",
    "elastic_tensor",
    "equation_of_state",
    "export_extxyz",
    "export_ipi",
    "export_lammps",
    "free_hessian",
    "frozen",
    "keep_freed_memory",
    "kinetic_energy",
    "largest_force",
    "maxwell_boltzmann",
    "minimum_energy_path",
    "normals",
    "open_calculator",
    "philox",
    "phonons",
    "read_atoms",
    "read_initial_states",
    "read_one_initial_state",
    "relax",
    "saddle_point",
    "serve",
    "simulate",
    "simulate_frames",
    "supercell_for",
    "temperature_of",
    "thermochemistry",
    "uniforms",
    "vibrations",
    "volumes",
]

_OLD = {
    "Start": (".initial_state", "InitialState"),
    "as_starts": (".initial_state", "as_initial_states"),
    "read_one_start": (".engine_forces", "read_one_initial_state"),
    "read_starts": (".initial_files", "read_initial_states"),
}
__getattr__, __dir__ = lazy_imports(__name__, _OLD)
