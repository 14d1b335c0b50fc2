"""Energy conservation: the drift of the total energy in constant-energy dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import NVE
from mlipfm_md.simulation import Settings, simulate


@dataclass(frozen=True)
class Conservation:
    """Drift of each trajectory and the figure over all of them.

    Attributes:
        drift: mean slope of the total energy, meV/atom/ps, interval over groups. absolute: the same of its size.
        fluctuation: mean over trajectories of the standard deviation of the total energy about its line, meV/atom.
        unstable: start -> why its trajectory broke off. times: [frames] fs. energies: start -> [frames] eV/atom above the first frame.
    """

    drift: Metric
    absolute: Metric
    fluctuation: Metric
    unstable: dict[int, str]
    times: np.ndarray
    energies: dict[int, np.ndarray]


def nve_drift(
    model: Potential | Teacher, starts: Sequence[Structure], settings: Settings, *, on_record: Callable[[int], None] | None = None
) -> Conservation:
    """Run every start at constant energy (all at once) and fit the slope of each total energy.

    If a trajectory becomes unstable, each start is run alone; an unstable one is a failed case, whose drift is not a number and never zero.
    """
    tell = (lambda state: on_record(state.step)) if on_record else None
    runs = [(simulate(model, starts, NVE(), settings, on_record=tell), list(range(len(starts))))]
    if runs[0][0].status != "ok" and len(starts) > 1:
        runs = [(simulate(model, [s], NVE(), settings, on_record=tell), [k]) for k, s in enumerate(starts)]
    slopes, widths = np.full(len(starts), np.nan), np.full(len(starts), np.nan)
    unstable: dict[int, str] = {}
    energies: dict[int, np.ndarray] = {}
    times = np.zeros(0)
    for run, indices in runs:
        per_atom = run.total / run.n_atoms
        for column, k in enumerate(indices):
            energies[k] = per_atom[:, column] - per_atom[0, column]
            if run.status != "ok":
                unstable[k] = run.reason or "unstable"
            elif len(run.times) >= 3:
                slopes[k] = metrics.drift(run.times, per_atom[:, column], resamples=2).value
                widths[k] = 1000 * _spread(run.times, per_atom[:, column])
        times = max(times, run.times, key=len)
    groups = [metrics.group_of(s) for s in starts]
    return Conservation(
        drift=metrics.mean(slopes, groups, name="energy drift", unit="meV/atom/ps"),
        absolute=metrics.mean(np.abs(slopes), groups, name="|energy drift|", unit="meV/atom/ps"),
        fluctuation=metrics.mean(widths, groups, name="energy fluctuation", unit="meV/atom"),
        unstable=unstable,
        times=times,
        energies=energies,
    )


def _spread(times: np.ndarray, energies: np.ndarray) -> float:
    """Standard deviation about the least-squares line, in the unit of `energies`."""
    return float(np.std(energies - np.polyval(np.polyfit(times, energies, 1), times)))
