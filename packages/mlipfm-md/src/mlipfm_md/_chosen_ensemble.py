"""From the options of `mlipfm md run` to an ensemble: an option that the ensemble does not use is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlipfm_interfaces.errors import SimulationError

from .barostat import NPT, pressure_with_unit
from .ensembles import NVE, Bussi, Ensemble, Langevin, NoseHoover, Values
from .respa import Respa

#: Name -> how it is made, and options that it uses with the parameter that each sets.
_MADE: dict[str, tuple[Callable[..., Ensemble], dict[str, str]]] = {
    "nve": (lambda temperature: NVE(), {}),
    "langevin": (Langevin, {"--friction": "friction"}),
    "bussi": (Bussi, {"--thermostat-time": "relaxation_time"}),
    "nose-hoover": (NoseHoover, {"--thermostat-time": "relaxation_time"}),
    "npt": (NPT, {"--pressure": "pressure", "--friction": "friction", "--barostat-time": "relaxation_time"}),
    "npt-full": (NPT, {"--pressure": "pressure", "--friction": "friction", "--barostat-time": "relaxation_time"}),
}


def chosen_ensemble(
    name: str,
    temperature: Values,
    friction: float | None = None,
    *,
    thermostat_time: float | None = None,
    pressure: str | None = None,
    barostat_time: float | None = None,
    inner_steps: int | None = None,
) -> Ensemble:
    """Return the ensemble of a name of `mlipfm md run --ensemble`; None leaves a parameter at its default.

    Args:
        temperature: K. friction: 1/fs. thermostat_time, barostat_time: fs. pressure: with its unit, `1bar`. inner_steps: of multiple time stepping.

    Raises:
        SimulationError: an option that the ensemble does not use, or constant pressure without a pressure.
    """
    make, used = _MADE[name]
    given: dict[str, Any] = {
        "--friction": friction,
        "--thermostat-time": thermostat_time,
        "--pressure": None if pressure is None else pressure_with_unit(pressure),
        "--barostat-time": barostat_time,
    }
    parameters = {}
    for option, value in given.items():
        if value is None:
            continue
        if option not in used:
            users = ", ".join(other for other, (_, options) in _MADE.items() if option in options)
            raise SimulationError(f"the ensemble {name} has no {option.strip('-').replace('-', ' ')}", where=option, hint=f"for {users}")
        parameters[used[option]] = value
    if "--pressure" in used and pressure is None:
        raise SimulationError(f"the ensemble {name} needs a pressure", where="--pressure", hint="give it with its unit: --pressure 1bar")
    if name == "npt-full":
        parameters["full"] = True
    ensemble = make(temperature=temperature, **parameters)
    return ensemble if inner_steps is None else Respa(ensemble, inner_steps)


def temperatures(text: str) -> tuple[float, ...]:
    """Return the numbers of `300`, `300,350,400` or `300 350 400`, K.

    Raises:
        SimulationError: something else.
    """
    try:
        found = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if not found:
        raise SimulationError(f"{text!r} is no list of temperatures", hint="write 300 or 300,350,400 (K)")
    return found
