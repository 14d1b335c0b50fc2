"""Observables of trajectories with error bars: structure, diffusion, spectra, thermodynamics. Arrays in, one dataclass out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .analysis import Analysis, AnalysisRequest, analyse, with_predictions
    from .displacements import MeanSquareDisplacement, diffusion, finite_size_correction, mean_square_displacement
    from .distributions import Distribution, angular_distribution, radial_distribution
    from .estimates import Blocks, Estimate, block_average, block_estimate, over_runs, time_blocks_of
    from .spectra import Spectrum, infrared, vibrational_density_of_states
    from .thermodynamics import density, heat_capacity, pressure, pressures, temperature
    from .trajectory_data import TrajectoryData, read_run, read_trajectory, unwrapped

__all__ = [
    "Analysis",
    "AnalysisRequest",
    "Blocks",
    "Distribution",
    "Estimate",
    "MeanSquareDisplacement",
    "Spectrum",
    "TrajectoryData",
    "analyse",
    "angular_distribution",
    "block_average",
    "block_estimate",
    "density",
    "diffusion",
    "finite_size_correction",
    "heat_capacity",
    "infrared",
    "mean_square_displacement",
    "over_runs",
    "pressure",
    "pressures",
    "radial_distribution",
    "read_run",
    "read_trajectory",
    "temperature",
    "time_blocks_of",
    "unwrapped",
    "vibrational_density_of_states",
    "with_predictions",
]

__getattr__, __dir__ = lazy_imports(__name__, {"Wanted": (".analysis", "AnalysisRequest")})
