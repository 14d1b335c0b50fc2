"""Observables of trajectories with error bars: structure, diffusion, spectra, thermodynamics. Arrays in, one dataclass out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .analysis import Analysis as Analysis, AnalysisRequest as AnalysisRequest, analyse as analyse, with_predictions as with_predictions
    from .displacements import (
        MeanSquareDisplacement as MeanSquareDisplacement,
        diffusion as diffusion,
        finite_size_correction as finite_size_correction,
        mean_square_displacement as mean_square_displacement,
    )
    from .distributions import (
        Distribution as Distribution,
        angular_distribution as angular_distribution,
        radial_distribution as radial_distribution,
    )
    from .estimates import (
        Blocks as Blocks,
        Estimate as Estimate,
        block_average as block_average,
        block_estimate as block_estimate,
        over_runs as over_runs,
        time_blocks_of as time_blocks_of,
    )
    from .spectra import Spectrum as Spectrum, infrared as infrared, vibrational_density_of_states as vibrational_density_of_states
    from .thermodynamics import (
        density as density,
        heat_capacity as heat_capacity,
        pressure as pressure,
        pressures as pressures,
        temperature as temperature,
    )
    from .trajectory_data import (
        TrajectoryData as TrajectoryData,
        read_run as read_run,
        read_trajectory as read_trajectory,
        unwrapped as unwrapped,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, {"Wanted": (".analysis", "AnalysisRequest")})
