"""What `mlipfm md run` says of a run: a table, a record for programs, and why a temperature is not the one that was requested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.metrics import Metric, drift
from mlipfm_interfaces.units import GPA
from rich.table import Table

from ._first_velocities import temperatures_of
from .ensembles import Ensemble
from .exchange import ReplicaExchange
from .initial_state import InitialState
from .simulation import Run, Settings

Array = np.ndarray

#: Frames below which no drift is given.
FEWEST = 10


def record_of(run: Run, starts: Sequence[InitialState], ensemble: Ensemble, settings: Settings) -> dict[str, Any]:
    """Return everything JSON-ready, with units in the names; what there is not is None."""
    asked = temperatures_of(ensemble, settings, len(starts))
    systems = []
    for k, (start, free) in enumerate(zip(starts, run.state.degrees_of_freedom(), strict=True)):
        found = _drift(run, k, len(start.structure))
        systems.append(
            {
                "formula": start.structure.formula,
                "atoms": len(start.structure),
                "degrees_of_freedom": int(free),
                "temperature_asked_K": asked[k],
                "mean_temperature_K": float(np.mean(run.temperature, axis=0)[k]),
                "conserved_energy_drift_meV_per_atom_ps": None if found is None else found.value,
                "conserved_energy_drift_ci95": None if found is None or found.ci95 is None else list(found.ci95),
                "mean_volume_A3": _mean(run.volume, k),
                "mean_pressure_GPa": _mean(run.pressure, k, GPA),
                "largest_uncertainty_eV_per_A": _largest(run.uncertainty, k),
            }
        )
    record: dict[str, Any] = {
        "status": run.status,
        "reason": run.reason,
        "steps": run.state.step,
        "dt_fs": run.dt,
        "frames": len(run.steps),
    }
    record |= {"ensemble": type(ensemble).__name__, "systems": systems}
    if isinstance(ensemble, ReplicaExchange):
        record["exchanges"] = [
            {"temperatures_K": list(pair), "attempted": int(n), "accepted": int(m), "rate": float(m / n) if n else None}
            for pair, n, m in zip(
                zip(ensemble.temperatures, ensemble.temperatures[1:], strict=False),
                run.state.extended["attempted"],
                run.state.extended["accepted"],
                strict=False,
            )
        ]
    return record


def table_of(run: Run, record: dict[str, Any]) -> Table:
    """Temperatures, the drift of the energy that should be conserved, and volumes, pressures and uncertainties where there are some."""
    table = Table(title=f"{run.state.step} steps of {run.dt} fs: {run.status}")
    conserves = bool(np.isfinite(run.conserved[0]).any())
    name = "E_total" if record["ensemble"] == "NVE" else "E_conserved"
    optional = {
        f"{name} drift / meV/atom/ps": conserves,
        "mean V / Å³": bool(np.isfinite(run.pressure[0]).any()),
        "mean P / GPa": bool(np.isfinite(run.pressure[0]).any()),
        "largest sigma(F) / eV/Å": bool(np.isfinite(run.uncertainty[0]).any()),
    }
    for column in ("structure", "atoms", "mean T / K", *(name for name, there in optional.items() if there), "degrees of freedom"):
        table.add_column(column, justify="right")
    for system in record["systems"]:
        value, ci95 = system["conserved_energy_drift_meV_per_atom_ps"], system["conserved_energy_drift_ci95"]
        cells = [
            f"needs {FEWEST} frames" if value is None else shown(Metric("", "", value, None if ci95 is None else tuple(ci95), 1, 1)),
            *(_text(system[key]) for key in ("mean_volume_A3", "mean_pressure_GPa", "largest_uncertainty_eV_per_A")),
        ]
        row = [system["formula"], str(system["atoms"]), f"{system['mean_temperature_K']:.0f}"]
        row += [cell for cell, there in zip(cells, optional.values(), strict=True) if there]
        table.add_row(*row, str(system["degrees_of_freedom"]))
    return table


def exchange_words(record: dict[str, Any]) -> list[str]:
    """`300 - 350 K: 41 of 120 exchanges accepted (34 %)`."""
    return [
        f"{pair[0]:g} - {pair[1]:g} K: {row['accepted']} of {row['attempted']} exchanges accepted"
        + (f" ({100 * row['rate']:.0f} %)" if row["rate"] is not None else "")
        for row in record.get("exchanges", [])
        for pair in [row["temperatures_K"]]
    ]


def temperature_words(run: Run, record: dict[str, Any], starts: Sequence[InitialState], ensemble: Ensemble) -> list[str]:
    """Return why mean temperatures differ from those that were requested, where they do by more than a tenth.

    At constant energy what the kinetic energy loses the potential energy gains. With a thermostat three standard errors are allowed as well.
    """
    words: list[str] = []
    if len(run.steps) < 3 or run.status == "unstable":
        return words
    constant = ensemble.conserved(run.state) if ensemble.keeps_momentum else None
    thermostat = not (constant is not None and np.array_equal(constant, run.state.energies + run.state.kinetic()))
    for k, system in enumerate(record["systems"]):
        first = float(run.temperature[0][k])
        asked = system["temperature_asked_K"] if thermostat else first
        mean = system["mean_temperature_K"]
        error = 3 * asked * np.sqrt(2 / system["degrees_of_freedom"] / max(1, len(run.steps) / 4)) if thermostat else 0.0
        if abs(mean - asked) <= max(0.1 * asked, error):
            continue
        moved = float(np.mean(np.array(run.potential)[1:, k]) - run.potential[0][k])
        if thermostat:
            half = float(np.mean(np.array(run.temperature)[len(run.steps) // 2 :, k]))
            words.append(
                f"structure {k}: mean temperature {mean:.0f} K, not {asked:g} K: it began with {first:.0f} K, and the second half of the run has "
                f"{half:.0f} K; {run.times[-1]:g} fs are too short to equilibrate, or the time step is too long"
            )
        elif moved > 0:
            words.append(
                f"structure {k}: mean temperature {mean:.0f} K, not the {first:.0f} K of the first velocities: {moved:.3g} eV of kinetic energy went "
                "into potential energy, because the start is near a minimum; equilibrate with --ensemble langevin and start from its last frame"
            )
        else:
            words.append(
                f"structure {k}: mean temperature {mean:.0f} K, not the {first:.0f} K of the first velocities: {-moved:.3g} eV of potential energy "
                "became heat, because the start is not relaxed; equilibrate with --ensemble langevin and start from its last frame"
            )
    return words


def shown(metric: Metric) -> str:
    """`0.043 [0.031, 0.055]`: value and interval without name and unit."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"


def _drift(run: Run, k: int, atoms: int) -> Metric | None:
    energies = np.array(run.conserved)[:, k]
    if len(run.times) < FEWEST or not np.isfinite(energies).all():
        return None
    return drift(run.times, energies / atoms)


def _mean(rows: list[Array], k: int, unit: float = 1.0) -> float | None:
    values = np.array(rows)[:, k]
    return float(values.mean() / unit) if np.isfinite(values).all() else None


def _largest(rows: list[Array], k: int) -> float | None:
    values = np.array(rows)[:, k]
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
