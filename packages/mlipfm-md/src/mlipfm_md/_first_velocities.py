"""Velocities with which dynamics begin: those of the file, or drawn at the temperature of the system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .ensembles import Ensemble, centre_of_mass_axes, maxwell_boltzmann
from .initial_state import InitialState
from .state import State

if TYPE_CHECKING:
    from .simulation import Settings

Array = np.ndarray


def temperatures_of(ensemble: Ensemble, settings: Settings, n: int) -> list[float]:
    """Return K of drawn velocities and of the bath of each of n systems: those of an ensemble that has one for each, else those of the settings.

    Raises:
        SimulationError: another number of temperatures was given.
    """
    given = getattr(ensemble, "temperatures", getattr(getattr(ensemble, "ensemble", ensemble), "temperature", None))
    if isinstance(given, tuple) and len(given) == n:
        return list(given)
    values = settings.temperature
    if isinstance(values, tuple) and len(values) != n:
        raise SimulationError(f"{len(values)} temperatures were given for {n} systems", hint="give one for each, or one for all")
    return list(values) if isinstance(values, tuple) else [values] * n


def first_velocities(starts: Sequence[InitialState], ensemble: Ensemble, settings: Settings) -> list[Array]:
    """Return the velocities [N, 3] Å/fs of each start, given or drawn; those that are drawn are not scaled yet."""
    copies = _copies([start.structure for start in starts])
    kelvin = temperatures_of(ensemble, settings, len(starts))
    return [_first_velocities(start, copy, ensemble, settings, k) for start, copy, k in zip(starts, copies, kelvin, strict=True)]


def scale_drawn(state: State, starts: Sequence[InitialState], kelvin: Sequence[float]) -> None:
    """Give systems whose velocities were drawn exactly the temperature, in place."""
    drawn = np.array([start.velocities is None for start in starts])
    found = state.temperature()
    state.scale_thermal(np.where(drawn & (found > 0), np.sqrt(np.array(kelvin) / np.where(found > 0, found, 1.0)), 1.0))


def _first_velocities(start: InitialState, copy: int, ensemble: Ensemble, settings: Settings, kelvin: float) -> Array:
    if start.velocities is not None:
        return start.velocities
    rng = stream(settings.seed, "velocities", start.structure.key, copy)
    return maxwell_boltzmann(start.amu, kelvin, rng, start.movable, centre_of_mass_axes(start.movable, ensemble))


def _copies(structures: Sequence[Structure]) -> list[int]:
    """Return how many equal structures stand before each: copies of one structure get velocities of their own, whatever stands beside them."""
    seen: Counter[str] = Counter()
    copies = []
    for s in structures:
        copies.append(seen[s.key])
        seen[s.key] += 1
    return copies
