"""Mean square displacement and self-diffusion coefficient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.resampling import FEWEST_BLOCKS, student_t_quantile
from mlipfm_interfaces.units import BAR, KB

from .estimates import Estimate
from .trajectory_data import TrajectoryData

__all__ = ["MeanSquareDisplacement", "diffusion", "finite_size_correction", "mean_square_displacement"]

Array = np.ndarray

#: m²/s in one Å²/fs.
_SI = 1e-5
#: The MSD is diffusive where its slope in a log-log plot is this near to 1.
SLOPE = (0.9, 1.1)
#: Lags at which the MSD is computed, and origins that each is averaged over, at most.
_LAGS, _ORIGINS = 60, 4000
#: xi of a cubic cell (Yeh and Hummer, J. Phys. Chem. B 108, 15873, 2004).
_XI = 2.837297


@dataclass(frozen=True, eq=False)
class MeanSquareDisplacement:
    """MSD of some atoms.

    Attributes:
        name: which atoms. lags: [L] fs. values: [L] Å². error: [L] standard error, Å², None for fewer than five blocks.
        of_blocks: [blocks, L] MSD of the origins in each block of time, Å²; a block is at least two longest lags.
        centre_of_mass: [L] Å², the part of `values` that is motion of the centre of mass of the system. n_atoms, n: atoms, frames.
    """

    name: str
    lags: Array
    values: Array
    error: Array | None
    of_blocks: Array
    centre_of_mass: Array
    n_atoms: int
    n: int


def mean_square_displacement(
    data: TrajectoryData, element: str | None = None, longest: float | None = None, *, remove_centre_of_mass: bool = False
) -> MeanSquareDisplacement:
    """Return the mean of |r(t0 + t) - r(t0)|² over atoms and origins t0, of one element or of all atoms.

    Args:
        longest: fs, the longest lag; a tenth of the trajectory by default, which leaves five independent blocks, and at most half of it.
        remove_centre_of_mass: subtract the motion of the centre of mass of the whole system.

    Raises:
        ObservableError: fewer than 10 frames, an element that is not there, a lag that the trajectory does not have.
    """
    if len(data) < 10:
        raise ObservableError(f"a mean square displacement needs 10 frames, got {len(data)}", where=data.source)
    data.check_paths()
    duration = float(data.times[-1] - data.times[0])
    longest = duration / 10 if longest is None else longest
    if not data.interval <= longest <= duration / 2 * (1 + 1e-9):
        raise ObservableError(
            f"the longest lag must be {data.interval:g} to {duration / 2:g} fs (half the trajectory), got {longest:g}", where=data.source
        )
    atoms = np.arange(len(data.atomic_numbers)) if element is None else data.atoms_of(element)
    centre = np.einsum("fnk,n->fk", data.positions, data.masses / data.masses.sum())
    paths = data.positions[:, atoms]
    if remove_centre_of_mass:
        paths = paths - centre[:, None]
    last = max(1, int(longest / data.interval + 1e-6))
    steps = np.unique(np.round(np.linspace(1, last, _LAGS)).astype(int))
    blocks = max(1, (len(data) - 1) // (2 * last))
    stride = max(1, len(data) // _ORIGINS)
    of_blocks = np.empty((blocks, len(steps)))
    moved = np.empty(len(steps))
    for k, step in enumerate(steps):
        squares = ((paths[step::stride] - paths[:-step:stride]) ** 2).sum(axis=2).mean(axis=1)
        of_blocks[:, k] = [part.mean() for part in np.array_split(squares, blocks)]
        moved[k] = ((centre[step::stride] - centre[:-step:stride]) ** 2).sum(axis=1).mean()
    error = of_blocks.std(axis=0, ddof=1) / np.sqrt(blocks) if blocks >= FEWEST_BLOCKS else None
    name = element or "all atoms"
    shared = np.zeros_like(moved) if remove_centre_of_mass else moved
    return MeanSquareDisplacement(name, steps * data.interval, of_blocks.mean(axis=0), error, of_blocks, shared, len(atoms), len(data))


def diffusion(msd: MeanSquareDisplacement, fit: tuple[float, float] | None = None) -> Estimate:
    """Return the self-diffusion coefficient, slope / 6 of a straight line through the MSD, in m²/s, with its error over blocks of time.

    Args:
        fit: first and last lag of the line, fs; by default the last three quarters of the lags.

    Raises:
        ObservableError: the MSD does not grow in proportion to time there: ballistic at short times, trapped in a solid, too short.
    """
    begin, end = fit or (msd.lags[-1] / 4, msd.lags[-1])
    chosen = (msd.lags >= begin) & (msd.lags <= end)
    if chosen.sum() < 3:
        raise ObservableError(
            f"a line needs three lags between {begin:g} and {end:g} fs, there are {chosen.sum()}", hint=f"lags reach {msd.lags[-1]:g} fs"
        )
    t, y = msd.lags[chosen], msd.values[chosen]
    exponent = float(np.polyfit(np.log(t), np.log(np.maximum(y, 1e-300)), 1)[0])
    if not SLOPE[0] <= exponent <= SLOPE[1]:
        why = (
            "ballistic, or the whole system drifts"
            if exponent > SLOPE[1]
            else "the atoms are trapped, as in a solid, or have not left their cage"
        )
        raise ObservableError(
            f"the MSD of {msd.name} grows as t^{exponent:.2f} from {begin:g} to {end:g} fs and not as t: {why}",
            hint="run longer, or choose the lags of the line (--msd-fit) where it is straight",
        )
    lines = np.polyfit(t, np.concatenate([y[None], msd.of_blocks[:, chosen]]).T, 1)[0] / 6 * _SI
    value, of_blocks = float(lines[0]), lines[1:]
    note = f"line from {begin:g} to {end:g} fs, where the MSD grows as t^{exponent:.2f}; not corrected for the size of the cell"
    drift = float((msd.centre_of_mass[chosen] / y).max())
    if drift > 1.5 / msd.n_atoms + 0.02:
        note += f"; {drift:.0%} of the MSD is motion of the centre of mass"
    if len(of_blocks) < FEWEST_BLOCKS:
        return Estimate(
            f"diffusion of {msd.name}", "m^2/s", value, None, None, msd.n, None, len(of_blocks), note + "; too short for an error"
        )
    error = float(of_blocks.std(ddof=1) / np.sqrt(len(of_blocks)))
    half = student_t_quantile(0.975, len(of_blocks) - 1) * error
    return Estimate(f"diffusion of {msd.name}", "m^2/s", value, error, (value - half, value + half), msd.n, None, len(of_blocks), note)


def finite_size_correction(estimate: Estimate, temperature: float, box_length: float, viscosity: float) -> Estimate:
    """Return the diffusion coefficient of the infinite system: D + k_B T xi / (6 pi eta L), xi = 2.837297, of a cubic cell.

    Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004).

    Args:
        temperature: K. box_length: Å. viscosity: mPa s (water at 298 K: 0.89).

    Raises:
        ObservableError: a viscosity, length or temperature that is not positive.
    """
    if not (viscosity > 0 and box_length > 0 and temperature > 0):
        raise ObservableError("viscosity, box length and temperature must be positive")
    eta = viscosity * 1e-3 * 1e-5 * BAR * 1e15  # mPa s -> eV fs/Å³
    added = KB * temperature * _XI / (6 * np.pi * eta * box_length) * _SI
    ends = None if estimate.ci95 is None else (estimate.ci95[0] + added, estimate.ci95[1] + added)
    note = estimate.note.replace(
        "not corrected for the size of the cell", f"{added:.3g} m^2/s added for the size of the cell (Yeh and Hummer)"
    )
    return replace(estimate, value=estimate.value + added, ci95=ends, note=note)
