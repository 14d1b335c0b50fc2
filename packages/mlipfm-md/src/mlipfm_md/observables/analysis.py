"""`analyse`: everything that a trajectory gives, and the reason for what it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from typing import Any, TypeVar

import numpy as np
from mlipfm_interfaces.errors import MlipfmError, ObservableError
from mlipfm_interfaces.metrics import Metric, drift
from mlipfm_interfaces.structure import Structure

from .displacements import MeanSquareDisplacement, diffusion, finite_size_correction, mean_square_displacement
from .distributions import Distribution, angular_distribution, radial_distribution
from .estimates import Estimate, block_average
from .spectra import Spectrum, infrared, vibrational_density_of_states
from .thermodynamics import density, heat_capacity, pressure, temperature
from .trajectory_data import TrajectoryData

__all__ = ["Analysis", "AnalysisRequest", "analyse", "with_predictions"]

Array = np.ndarray
T = TypeVar("T")

#: Pairs of elements whose g(r) is computed unless others are named.
_MOST_PAIRS = 10
#: Standard errors by which the halves of a trajectory in equilibrium differ at most.
_HALVES = 4.0
#: Structures that a model predicts in one batch.
_BATCH = 16


@dataclass(frozen=True)
class AnalysisRequest:
    """What to compute.

    Attributes:
        rdf: pairs of elements, None for all. adf: three elements and the largest bond length, Å. r_max: Å, None for what the cell allows.
        longest_lag: fs, of the MSD. fit: fs, of the line through it. remove_centre_of_mass: from the MSD. viscosity: mPa s, corrects diffusion for
        the size of the cell. resolution: cm⁻¹. discard: fs at the beginning that do not count.
    """

    rdf: Sequence[tuple[str, str]] | None = None
    adf: Sequence[tuple[str, str, str, float]] = ()
    r_max: float | None = None
    longest_lag: float | None = None
    fit: tuple[float, float] | None = None
    remove_centre_of_mass: bool = False
    viscosity: float | None = None
    resolution: float | None = None
    discard: float = 0.0


@dataclass
class Analysis:
    """Results of `analyse`.

    Attributes:
        data: the frames that count. estimates: numbers. rdfs, adfs, msds, spectra: curves. energy_drift: of the conserved energy.
        refused: (what, why) of all that was not computed. notes: what a reader of the numbers should know.
    """

    data: TrajectoryData
    estimates: list[Estimate] = field(default_factory=list)
    rdfs: list[Distribution] = field(default_factory=list)
    adfs: list[Distribution] = field(default_factory=list)
    msds: list[MeanSquareDisplacement] = field(default_factory=list)
    spectra: list[Spectrum] = field(default_factory=list)
    energy_drift: Metric | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, compute: Callable[[], T]) -> T | None:
        """Return what `compute` returns; None, with the reason in `refused`, if it raised an `MlipfmError`."""
        try:
            return compute()
        except MlipfmError as error:
            self.refused.append((what, error.what + (f"; {error.hint}" if error.hint else "")))
            return None


def analyse(data: TrajectoryData, wanted: AnalysisRequest | None = None) -> Analysis:
    """Compute all observables of a trajectory.

    Raises:
        ObservableError: fewer than two frames behind `discard`; something that was named and cannot be computed (a pair, an angle, a fit).
    """
    wanted = wanted or AnalysisRequest()
    found = Analysis(_without_beginning(data, wanted.discard))
    found.notes += data.notes
    _thermodynamics(found)
    _structure(found, wanted)
    _motion(found, wanted)
    return found


def _without_beginning(data: TrajectoryData, discard: float) -> TrajectoryData:
    first = int(np.searchsorted(data.times, data.times[0] + discard - 1e-6))
    if len(data) - first < 2:
        raise ObservableError(
            f"{max(0, len(data) - first)} of {len(data)} frames are left after {discard:g} fs",
            where=data.source,
            hint="run longer, or discard less",
        )
    return data.frames(slice(first, None))


def _thermodynamics(found: Analysis) -> None:
    data = found.data
    numbers: dict[str, Callable[[TrajectoryData], Estimate]] = {
        "temperature": temperature, "density": density, "pressure": pressure, "heat capacity": heat_capacity,
    }  # fmt: skip
    for what, compute in numbers.items():
        estimate = found.attempt(what, lambda compute=compute: compute(data))  # type: ignore[misc]  # bound now
        found.estimates += [estimate] if estimate else []
    if data.energies is None:
        found.refused.append(("energies", "the trajectory has none"))
    else:
        found.estimates.insert(0, block_average("potential energy", "eV", data.energies, data.interval))
        found.notes += _equilibration(data, data.energies)
    conserved = conserved_energy(data)
    if conserved is None:
        found.refused.append(("energy drift", "the conserved energy of this ensemble is not in the trajectory"))
    elif len(data) < 10:
        found.refused.append(("energy drift", f"needs 10 frames, there are {len(data)}"))
    else:
        found.energy_drift = drift(data.times, conserved / len(data.atomic_numbers))


def conserved_energy(data: TrajectoryData) -> Array | None:
    """Return the energy [F] eV that exact dynamics conserve; None where it is not known."""
    if data.conserved is not None:
        return data.conserved
    if data.ensemble == "nve" and data.energies is not None and data.kinetic is not None:
        return data.energies + data.kinetic
    return None


def _equilibration(data: TrajectoryData, energies: Array) -> list[str]:
    """Return a note if the potential energies of the two halves differ by more than their errors allow."""
    middle = len(energies) // 2
    early, late = (block_average("", "", part) for part in (energies[:middle], energies[middle:]))
    if early.error is None or late.error is None:
        return ["the trajectory is short: fewer than five blocks of two correlation times in each half, and errors are rough or absent"]
    gap = abs(early.value - late.value) / np.hypot(early.error, late.error)
    if gap <= _HALVES:
        return []
    return [
        f"the mean potential energies of the two halves differ by {gap:.1f} standard errors: not in equilibrium; --discard leaves out the beginning"
    ]


def _structure(found: Analysis, wanted: AnalysisRequest) -> None:
    data = found.data
    pairs = list(wanted.rdf) if wanted.rdf is not None else list(combinations_with_replacement(data.elements, 2))
    if wanted.rdf is None and len(pairs) > _MOST_PAIRS:
        found.refused.append(("further g(r)", f"{len(pairs)} pairs of elements; --rdf A-B names those that matter"))
        pairs = [(name, name) for name in data.elements][:_MOST_PAIRS]
    for a, b in pairs:
        if wanted.rdf is not None:
            found.rdfs.append(radial_distribution(data, a, b, wanted.r_max))
            continue
        g = found.attempt(f"g(r) {a}-{b}", lambda a=a, b=b: radial_distribution(data, a, b, wanted.r_max))  # type: ignore[misc]
        found.rdfs += [g] if g else []
    found.adfs += [angular_distribution(data, *named) for named in wanted.adf]
    if not wanted.adf:
        found.refused.append(("angles", "none were named; --adf H-O-H:1.2 does"))


def _motion(found: Analysis, wanted: AnalysisRequest) -> None:
    data = found.data
    for name in data.elements if len(data.elements) > 1 else [None]:
        what = name or "all atoms"
        msd = found.attempt(
            f"MSD of {what}",
            lambda name=name: mean_square_displacement(  # type: ignore[misc]
                data, name, wanted.longest_lag, remove_centre_of_mass=wanted.remove_centre_of_mass
            ),
        )
        if msd is None:
            continue
        found.msds.append(msd)
        d = found.attempt(f"diffusion of {what}", lambda msd=msd: _diffusion(found, msd, wanted))  # type: ignore[misc]
        found.estimates += [d] if d else []
    vdos = found.attempt("VDOS", lambda: vibrational_density_of_states(data, wanted.resolution))
    spectrum = found.attempt("infrared absorption", lambda: infrared(data, wanted.resolution))
    found.spectra += [s for s in (vdos, spectrum) if s]


def _diffusion(found: Analysis, msd: MeanSquareDisplacement, wanted: AnalysisRequest) -> Estimate:
    data = found.data
    if not data.pbc.any():
        raise ObservableError(
            "a system that is not periodic has no diffusion coefficient: its atoms turn and swing about a centre that they do not leave",
            hint="a liquid needs a periodic cell",
        )
    estimate = diffusion(msd, wanted.fit)
    if data.ensemble == "nvt" or data.ensemble == "npt":
        note = "a thermostat that acts on every atom (Langevin) slows diffusion down: take it from constant energy or a weak thermostat"
        found.notes += [note] if note not in found.notes else []
    if wanted.viscosity is None:
        return estimate
    volumes, kelvin = data.volumes, data.temperatures
    if volumes is None or kelvin is None:
        raise ObservableError("the correction for the size of the cell needs a periodic cell and velocities", where="--viscosity")
    return finite_size_correction(estimate, float(kelvin.mean()), float(volumes.mean() ** (1 / 3)), wanted.viscosity)


def with_predictions(data: TrajectoryData, model: str, level: str | None = None) -> TrajectoryData:
    """Return the trajectory with the stress (of a periodic system) and the dipoles that a model predicts for its frames, where it has none.

    Args:
        model: checkpoint or address.

    Raises:
        ObservableError: the model predicts nothing that the trajectory lacks. What the model raises for a structure.
    """
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.console import counter
    from mlipfm_interfaces.foreign import is_foreign, open_foreign
    from mlipfm_interfaces.potential import evaluate

    opened: Any = open_foreign(model) if is_foreign(model) else load_potential(model)
    outputs = opened.outputs if is_foreign(model) else opened.spec.outputs
    lacking = [("stress", data.stress is None and bool(data.pbc.all())), ("dipole", data.dipoles is None)]
    keys = [key for key, lacks in lacking if lacks and key in outputs]
    if not keys:
        raise ObservableError("the model predicts nothing that the trajectory lacks", where=model, hint="stress and dipole are looked for")
    rows: list[dict[str, Array]] = []
    with counter("predicting frames", len(data)) as show:
        for first in range(0, len(data), _BATCH):
            part = [
                Structure(
                    data.atomic_numbers, data.positions[k], data.cells[k], data.pbc, data.total_charge, data.spin_multiplicity, level=level
                )
                for k in range(first, min(first + _BATCH, len(data)))
            ]
            rows += opened.evaluate(part, keys) if is_foreign(model) else evaluate(opened, part, keys, level=level)
            show(len(part))
    names = {"stress": "stress", "dipole": "dipoles"}
    return replace(data, **{names[key]: np.stack([row[key] for row in rows]) for key in keys})  # type: ignore[arg-type]  # arrays, all
