"""Vibrational density of states from velocities and infrared spectrum from dipoles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.resampling import FEWEST_BLOCKS
from mlipfm_interfaces.units import AVOGADRO, ELEMENTARY_CHARGE, KB

from .trajectory_data import TrajectoryData

__all__ = ["Spectrum", "infrared", "vibrational_density_of_states"]

Array = np.ndarray

SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs
_EPSILON_0 = 8.8541878128e-12  # F/m
#: Width of a line behind a Hann window of length T: 1.44 / T at half height.
_HANN_WIDTH = 1.44
#: cm⁻¹, unless the user chooses.
_RESOLUTION = 20.0
#: Share of the power that displacements between frames may lack before the spectrum counts as folded.
_FOLDED = 0.02


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum on evenly spaced wavenumbers.

    Attributes:
        name: what it is. file: of its table and picture, without ending.
        wavenumbers: [K] cm⁻¹. values, error: [K] and standard error over segments (None for fewer than five), in `unit`.
        parts: element -> [K], which sum to `values`. resolution: cm⁻¹, width at half height of a sharp line. n: frames. segments: their number.
    """

    name: str
    file: str
    wavenumbers: Array
    values: Array
    unit: str
    error: Array | None
    parts: dict[str, Array]
    resolution: float
    n: int
    segments: int
    note: str = ""

    def peak(self) -> tuple[float, float]:
        """Return wavenumber and value of the highest peak; the place is interpolated by a parabola."""
        k = int(self.values.argmax())
        if not 0 < k < len(self.values) - 1:
            return float(self.wavenumbers[k]), float(self.values[k])
        left, top, right = self.values[k - 1 : k + 2]
        shift = 0.5 * (left - right) / (left - 2 * top + right)
        return float(self.wavenumbers[k] + shift * (self.wavenumbers[1] - self.wavenumbers[0])), float(top)


def vibrational_density_of_states(data: TrajectoryData, resolution: float | None = None) -> Spectrum:
    """Return the power spectrum of the mass-weighted velocities: the Fourier transform of their autocorrelation, with integral 1 over cm⁻¹.

    Velocities are cut into segments behind a Hann window (Welch). Without velocities, steps between frames are used and their power divided by
    sinc²; then motion that is faster than half a period per frame cannot be distinguished from slower motion.

    Args:
        resolution: cm⁻¹, width of a sharp line; by default 20, or what a fifth of the trajectory gives if that is coarser.

    Raises:
        ObservableError: too few frames for the resolution; frames so far apart that fast vibrations appear at wrong, lower wavenumbers.
    """
    data.check_paths()
    velocities = data.velocities
    if velocities is None:
        velocities = np.diff(data.positions, axis=0) / data.interval
    spectra, grid, width = _segments(velocities * np.sqrt(data.masses)[:, None], data, resolution)
    if data.velocities is None:
        spectra = spectra / np.sinc(grid * SPEED_OF_LIGHT * data.interval)[None, :, None] ** 2
    total = spectra.sum(axis=2).mean(axis=0).sum() * grid[1]
    if not total > 0:
        raise ObservableError("nothing moves", where=data.source)
    spectra = spectra / total
    values = spectra.sum(axis=2).mean(axis=0)
    note = _folding(data, grid, values) if data.velocities is not None else "from steps between frames; the trajectory has no velocities"
    of_elements = {name: spectra[:, :, data.atoms_of(name)].sum(axis=2).mean(axis=0) for name in data.elements}
    return Spectrum("VDOS", "vdos", grid, values, "cm", _error(spectra.sum(axis=2)), of_elements, width, len(data), len(spectra), note)


def infrared(data: TrajectoryData, resolution: float | None = None, temperature: float | None = None) -> Spectrum:
    """Return the infrared absorption from the power spectrum of the time derivative of the dipole.

    In a periodic system n(nu) alpha(nu), refractive index times absorption coefficient, in cm⁻¹; of a molecule the molar absorption, of which the
    integral over cm⁻¹ is in km/mol. Classical nuclei with the harmonic quantum correction (Ramirez, López-Ciudad, Kumar and Marx,
    J. Chem. Phys. 121, 3973, 2004): alpha n = beta / (6 c V eps_0) int dt e^(-i w t) <dM/dt(0) dM/dt(t)>. Steps of a periodic dipole by a quantum
    e a_i are taken for the change of image that they are.

    Args:
        temperature: K; the mean kinetic temperature by default.

    Raises:
        ObservableError: no dipoles, no temperature, too few frames.
    """
    if data.dipoles is None:
        raise ObservableError("the trajectory has no dipoles", where=data.source, hint="--model with a dipole head computes them")
    kelvin = temperature
    if kelvin is None:
        kinetic = data.temperatures
        if kinetic is None:
            raise ObservableError("an infrared spectrum needs the temperature", where=data.source, hint="the trajectory has no velocities")
        kelvin = float(kinetic.mean())
    steps = np.diff(data.dipoles, axis=0)
    volumes = data.volumes
    if volumes is not None:
        quanta = data.cells[1:]
        steps = steps - np.einsum("fi,fij->fj", np.round(np.einsum("fj,fji->fi", steps, np.linalg.inv(quanta))), quanta)
    rates = (steps / data.interval)[:, None]  # one "atom", e Å/fs
    spectra, grid, width = _segments(rates, data, resolution)
    spectra = spectra[:, :, 0] / np.sinc(grid * SPEED_OF_LIGHT * data.interval) ** 2
    area = _absorption(kelvin)
    if volumes is None:
        scale, unit = area * AVOGADRO * 1e-3, "km/mol cm"
    else:
        scale, unit = area / (volumes.mean() * 1e-30) * 1e-4, "1/cm"  # 1/m² is 1e-4 / cm²
    values = spectra * scale
    return Spectrum("infrared absorption", "infrared", grid, values.mean(axis=0), unit, _error(values), {}, width, len(data), len(values))


def _absorption(kelvin: float) -> float:
    """Return beta <dM/dt²> / (12 eps_0 c²) in m for a mean square of 1 (e Å/fs)²: the integral of the absorption of one molecule."""
    rate = (ELEMENTARY_CHARGE * 1e-10 / 1e-15) ** 2  # (C m/s)²
    c = SPEED_OF_LIGHT * 1e13  # m/s
    return float(rate / (KB * ELEMENTARY_CHARGE * kelvin) / (12 * _EPSILON_0 * c**2))


def _segments(signal: Array, data: TrajectoryData, resolution: float | None) -> tuple[Array, Array, float]:
    """(power [segments, K, atoms], wavenumbers [K], resolution): one-sided power of `signal` [F, atoms, 3] per cm⁻¹, of which the integral is the
    mean square of the signal."""
    if resolution is None:
        resolution = max(_RESOLUTION, FEWEST_BLOCKS * _HANN_WIDTH / (len(signal) * data.interval * SPEED_OF_LIGHT))
        if resolution > 1000:
            raise ObservableError(
                f"the trajectory of {len(signal) * data.interval:.3g} fs is too short for a spectrum: it resolves {resolution:.0f} cm^-1",
                where=data.source,
                hint="run for 1 ps at least",
            )
    if not 0.1 <= resolution <= 1000:
        raise ObservableError(f"the resolution must be 0.1 to 1000 cm^-1, got {resolution:g}", where="--resolution")
    frames = round(_HANN_WIDTH / (resolution * SPEED_OF_LIGHT * data.interval))
    if frames < 8:
        raise ObservableError(
            f"frames every {data.interval:g} fs are too far apart for a spectrum: {frames} of them resolve {resolution:g} cm^-1",
            where=data.source,
            hint="write frames every 1 to 4 fs (--every)",
        )
    if len(signal) < frames:
        raise ObservableError(
            f"{resolution:g} cm^-1 need {frames * data.interval / 1000:.3g} ps, and the trajectory has {len(signal) * data.interval / 1000:.3g}",
            where=data.source,
            hint="run longer, or lower the resolution (--resolution)",
        )
    window = np.hanning(frames + 1)[:-1]
    window = window / np.sqrt((window**2).mean())
    grid = np.arange(frames // 2 + 1) / (frames * data.interval * SPEED_OF_LIGHT)
    count = len(signal) // frames
    power = np.empty((count, len(grid), signal.shape[1]))
    for k in range(count):
        part = np.fft.rfft(signal[k * frames : (k + 1) * frames] * window[:, None, None], axis=0)
        power[k] = (np.abs(part) ** 2).sum(axis=2)
    inner = np.full(len(grid), 2.0)
    inner[0] = 1.0
    if frames % 2 == 0:
        inner[-1] = 1.0
    width = _HANN_WIDTH / (frames * data.interval * SPEED_OF_LIGHT)
    return power * (inner / frames**2 / grid[1])[:, None], grid, width


def _folding(data: TrajectoryData, grid: Array, values: Array) -> str:
    """Compare the displacements between frames with those that the spectrum of the velocities gives: motion faster than half a period per frame
    moves the atoms less than it says.

    Raises:
        ObservableError: more than 2 % of the power is folded.
    """
    assert data.velocities is not None
    steps = np.diff(data.positions, axis=0) / data.interval
    measured = np.einsum("fnk,fnk,n->", steps, steps, data.masses) / len(steps)
    power = np.einsum("fnk,fnk,n->", data.velocities, data.velocities, data.masses) / len(data)
    expected = float((values * np.sinc(grid * SPEED_OF_LIGHT * data.interval) ** 2).sum() * grid[1])
    missing = expected - float(measured / power)
    if missing > _FOLDED:
        fastest = 1 / (2 * SPEED_OF_LIGHT * data.interval)
        raise ObservableError(
            f"frames every {data.interval:g} fs show wavenumbers up to {fastest:.0f} cm^-1, and the atoms vibrate faster: {missing:.0%} of the "
            "motion would appear at wrong, lower wavenumbers",
            where=data.source,
            hint="write frames more often (--every): every 4 fs or less with hydrogen",
        )
    return ""


def _error(spectra: Array) -> Array | None:
    """Standard error [K] over segments [segments, K]."""
    count = len(spectra)
    return spectra.std(axis=0, ddof=1) / np.sqrt(count) if count >= FEWEST_BLOCKS else None
