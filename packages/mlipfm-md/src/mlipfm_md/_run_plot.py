"""The picture of a run: energies, temperature, and volume and pressure where the cell moves, against time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mlipfm_interfaces.units import GPA

from .simulation import Run

#: Systems that get a line of their own; of more, the rest are in the mean alone.
LINES = 20


def history(run: Run) -> Figure:
    """Return a figure of what was recorded: a thin line for each system, a thick one for their mean.

    Energies are those of an atom, less the first. The energy that the ensemble conserves shows how well the time step integrates the forces.
    """
    n_atoms = run.n_atoms
    conserved = np.array(run.conserved) / n_atoms
    rows = {
        "potential energy − first\nmeV/atom": 1000 * (np.array(run.potential) - run.potential[0]) / n_atoms,
        "conserved energy − first\nmeV/atom": 1000 * (conserved - conserved[0]),
        "temperature\nK": np.array(run.temperature),
        "volume\nÅ³": np.array(run.volume) if _changes(np.array(run.volume)) else np.full(1, np.nan),
        "pressure\nGPa": np.array(run.pressure) / GPA,
        "largest σ of a force\neV/Å": np.array(run.uncertainty),
    }
    rows = {name: values for name, values in rows.items() if np.isfinite(values).any()}
    figure = Figure(figsize=(7, 1.2 + 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, rows.items(), strict=True):
        _lines(axes, run.times / 1000, values)
        axes.set_ylabel(name, fontsize=8)
    panels[-1].set_xlabel("time / ps")
    figure.suptitle(f"{run.state.step} steps of {run.dt} fs: {run.status}", fontsize=10)
    return figure


def _changes(values: np.ndarray) -> bool:
    return bool(np.nanmax(values) > np.nanmin(values)) if np.isfinite(values).any() else False


def _lines(axes: Any, times: np.ndarray, values: np.ndarray) -> None:
    if values.shape[1] > 1:
        axes.plot(times, values[:, :LINES], color="0.75", lw=0.7)
    axes.plot(times, values.mean(axis=1), color="C0", lw=1.5)
