"""Settings of a simulation that no simulation can have, refused with the reason before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mlipfm_interfaces.elements import MASSES, symbol
from mlipfm_interfaces.errors import SimulationError

from .ensembles import Ensemble
from .initial_state import InitialState
from .respa import Respa

#: fs for a mass of 1 amu. The stretching vibration of a bond to hydrogen has a period of 11 fs, and Verlet is unstable above period / pi = 3.5 fs.
LONGEST_STEP = 3.0
#: Time steps in the shortest relaxation time.
STEPS_PER_TIME = {"thermostat": 2, "barostat": 10}


def check_plausible(ensemble: Ensemble, dt: float, starts: Sequence[InitialState], has_inner: bool) -> None:
    """Raises `SimulationError` for settings that cannot work with these starts, with the reason."""
    inner = ensemble
    if isinstance(ensemble, Respa):
        inner, small = ensemble.ensemble, dt / ensemble.inner_steps
        if not has_inner:
            raise SimulationError("multiple time stepping needs a second model", where="inner", hint="give simulate(..., inner=model)")
    else:
        small = dt
        if has_inner:
            raise SimulationError("a second model is used by multiple time stepping alone", where="inner", hint="give it with `Respa`")
    _check_step(small, starts)
    relaxation_time = getattr(inner, "relaxation_time", None)
    if relaxation_time is not None:
        _check_time(relaxation_time, small, "barostat" if inner.changes_cell else "thermostat")
    if inner.changes_cell:
        for k, start in enumerate(starts):
            if not start.structure.pbc.all():
                open_axes = ", ".join(axis for axis, periodic in zip("abc", start.structure.pbc, strict=True) if not periodic)
                raise SimulationError(
                    f"constant pressure needs three periodic directions; structure {k} is open along {open_axes}",
                    hint="keep the volume: --ensemble bussi or langevin",
                )


def _check_step(dt: float, starts: Sequence[InitialState]) -> None:
    for k, start in enumerate(starts):
        free = np.array(start.movable.any(axis=1))
        if start.bonds is not None:
            free[start.bonds] = False
        if not free.any():
            continue
        lightest = int(np.flatnonzero(free)[np.argmin(start.amu[free])])
        limit = LONGEST_STEP * float(np.sqrt(start.amu[lightest] / MASSES[1]))
        if dt > limit:
            raise SimulationError(
                f"a time step of {dt:g} fs is too long for {symbol(int(start.structure.atomic_numbers[lightest]))} of {start.amu[lightest]:.4g} amu "
                f"(structure {k}): its vibrations make it unstable above about {limit:.1f} fs",
                where="dt",
                hint="0.5 fs with hydrogen, 1 to 2 fs without; bonds of fixed length and heavier isotopes allow more",
            )


def _check_time(time: float, dt: float, what: str) -> None:
    least = STEPS_PER_TIME[what] * dt
    if time < least:
        raise SimulationError(
            f"the relaxation time of the {what}, {time:g} fs, must be at least {STEPS_PER_TIME[what]} time steps ({least:g} fs)",
            where=f"{what} time",
            hint="100 fs for a thermostat and 1000 fs for a barostat are usual",
        )
