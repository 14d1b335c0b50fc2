"""Molecular dynamics and properties of structures with mlipfm potentials: ASE calculator, integrators, relaxations, phonons, reaction paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .atoms_and_models import (
        ForeignCalculator as ForeignCalculator,
        atoms_of as atoms_of,
        frozen as frozen,
        largest_force as largest_force,
        open_calculator as open_calculator,
        read_atoms as read_atoms,
        start_words as start_words,
    )
    from .barostat import NPT as NPT
    from .calculator import MlipfmCalculator as MlipfmCalculator
    from .compiled_forces import CompiledForces as CompiledForces
    from .constraints import Bonds as Bonds
    from .crystal_elasticity import (
        EOS_FORMS as EOS_FORMS,
        Elasticity as Elasticity,
        StateEquation as StateEquation,
        elastic_tensor as elastic_tensor,
        equation_of_state as equation_of_state,
    )
    from .crystal_phonons import Phonons as Phonons, phonons as phonons, supercell_for as supercell_for
    from .energy_table import COLUMNS as COLUMNS, EnergyTable as EnergyTable, volumes as volumes
    from .engine_forces import EngineForces as EngineForces, read_one_initial_state as read_one_initial_state
    from .ensembles import (
        NVE as NVE,
        Bussi as Bussi,
        Ensemble as Ensemble,
        Forces as Forces,
        Langevin as Langevin,
        NoseHoover as NoseHoover,
        kinetic_energy as kinetic_energy,
        maxwell_boltzmann as maxwell_boltzmann,
    )
    from .exchange import ReplicaExchange as ReplicaExchange
    from .forces import PotentialForces as PotentialForces, SplitForces as SplitForces, TeacherForces as TeacherForces
    from .harmonic_vibrations import (
        Vibrations as Vibrations,
        free_hessian as free_hessian,
        thermochemistry as thermochemistry,
        vibrations as vibrations,
    )
    from .initial_files import read_initial_states as read_initial_states
    from .initial_state import InitialState as InitialState, as_initial_states as as_initial_states, temperature_of as temperature_of
    from .ipi_engine import export_ipi as export_ipi, serve as serve
    from .lammps_engine import attach as attach, export_lammps as export_lammps
    from .langevin_sampler import LangevinSampler as LangevinSampler
    from .memory import keep_freed_memory as keep_freed_memory
    from .noise import normals as normals, philox as philox, uniforms as uniforms
    from .reaction_paths import Path as Path, Saddle as Saddle, minimum_energy_path as minimum_energy_path, saddle_point as saddle_point
    from .relaxation import (
        CELLS as CELLS,
        OPTIMIZERS as OPTIMIZERS,
        Relaxation as Relaxation,
        check_relaxed as check_relaxed,
        check_stress as check_stress,
        relax as relax,
    )
    from .respa import Respa as Respa
    from .simulation import Run as Run, Settings as Settings, simulate as simulate, simulate_frames as simulate_frames
    from .simulation_source import SimulationSource as SimulationSource
    from .state import State as State
    from .trajectory import Trajectory as Trajectory, export_extxyz as export_extxyz
    from .uncertainty_gate import UncertaintyGate as UncertaintyGate

_OLD = {
    "Start": (".initial_state", "InitialState"),
    "as_starts": (".initial_state", "as_initial_states"),
    "read_one_start": (".engine_forces", "read_one_initial_state"),
    "read_starts": (".initial_files", "read_initial_states"),
}
__getattr__, __dir__, __all__ = lazy_imports(__name__, _OLD)
