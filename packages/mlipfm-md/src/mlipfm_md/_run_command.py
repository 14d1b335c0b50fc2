"""The work behind `mlipfm md run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.metrics import Metric, drift
from mlipfm_interfaces.plausibility import implausible, unheard
from mlipfm_interfaces.potential import Potential
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .ensembles import NVE, Ensemble, Langevin, State
from .simulation import Run, Settings, simulate
from .start_files import Said, ranges
from .starts import Start, temperature_of
from .trajectory import LAST_GOOD


def run_dynamics(
    model: str,
    starts: Sequence[tuple[Start, Said]],
    out: Path,
    ensemble: Ensemble,
    settings: Settings,
    export: Path | None,
    temperature: float | None = None,
) -> None:
    """Say what was taken from the file, run, and report.

    Args:
        temperature: as the user stated it, None if not.

    Raises:
        SimulationError: after the report, if the simulation became unstable; before the run, for an export file that is no extxyz.
    """
    if export is not None and export.suffix not in (".xyz", ".extxyz"):
        raise SimulationError(
            "trajectories are exported as extended XYZ", where=str(export), hint="name a file .xyz or .extxyz; ASE converts it"
        )
    opened = _open_model(model)
    console = open_console()
    if isinstance(opened, Potential):
        cutoff = max(graph.cutoff for graph in opened.spec.graphs)
        for k, (start, _) in enumerate(starts):
            for words in [*implausible(start.structure, cutoff), *unheard(start.structure, opened.spec.conditions)]:
                open_console(stderr=True).print(f"warning: structure {k}: {words}", highlight=False, soft_wrap=True)
    systems, taken = [start for start, _ in starts], taken_words(starts, ensemble, settings, temperature)
    with _progress(settings.steps, taken) as show:
        run = simulate(opened, systems, ensemble, settings, out=out, on_step=show)
    console.print(_table(run, systems, conserves=isinstance(ensemble, NVE)))
    if run.state.step > settings.steps:
        console.print(f"{out} already holds {run.state.step} steps: nothing was run")
    if run.status == "ok" and len(run.steps) == 1 and settings.steps:
        console.print(f"only the first frame was recorded: --every {settings.every} is more than --steps {settings.steps}")
    if export is not None:
        from .trajectory import export_extxyz

        console.print(f"{export_extxyz(out, export)} frames written to {export}")
    if run.status != "ok":
        raise SimulationError(
            f"the simulation became unstable: {run.reason}",
            where=str(out),
            hint=f"the last good state is in {out / LAST_GOOD}; shorten dt, or choose another model or start",
        )


def chosen_ensemble(name: str, temperature: float, friction: float | None) -> Ensemble:
    """`nve` or `langevin`.

    Raises:
        SimulationError: a friction for dynamics that have none.
    """
    if name == "langevin":
        return Langevin(temperature, 0.01 if friction is None else friction)
    if friction is not None:
        raise SimulationError(
            "constant-energy dynamics have no friction", where="--friction", hint="leave it out, or use --ensemble langevin"
        )
    return NVE()


def taken_words(starts: Sequence[tuple[Start, Said]], ensemble: Ensemble, settings: Settings, temperature: float | None) -> list[str]:
    """Lines that say what was taken from the file and what was drawn; structures of which the same is said share a line."""
    groups: dict[str, list[int]] = {}
    for k, (start, said) in enumerate(starts):
        words = list(said.taken)
        if start.velocities is None:
            words.append(f"velocities drawn at {settings.temperature:g} K with seed {settings.seed}")
        elif temperature is not None:
            use = "changes nothing" if ensemble.keeps_momentum else "is that of the bath alone"
            words.append(f"--temperature {temperature:g} {use}: --new-velocities draws velocities at it")
        if said.unused:
            words.append("not used: " + ", ".join(said.unused))
        groups.setdefault("; ".join(words), []).append(k)
    return [
        f"structure{'s' if len(members) > 1 else ''} {ranges(members)}: {words}{_kelvin([starts[k][0] for k in members], ensemble)}"
        for words, members in groups.items()
    ]


def _kelvin(starts: Sequence[Start], ensemble: Ensemble) -> str:
    """` (velocities of 287 K)` of starts that have some: a wrong unit shows."""
    found = [temperature_of(start, ensemble) for start in starts if start.velocities is not None]
    if not found:
        return ""
    low, high = f"{min(found):.0f}", f"{max(found):.0f}"
    return f" (velocities of {low if low == high else f'{low} to {high}'} K)"


@contextmanager
def _progress(steps: int, opening: Sequence[str]) -> Iterator[Callable[[State], None]]:
    """Print `opening` once the dynamics have begun, and show how far they are: a bar on a terminal, elsewhere a line on stderr after 2 s and then
    at doubling times, up to once a minute."""
    console, clock = open_console(stderr=True), _Clock(steps)
    columns = (TextColumn("dynamics"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task, told = bar.add_task("steps", total=steps), False

    def begin() -> None:
        nonlocal told
        if not told:
            for words in opening:
                open_console().print(words, highlight=False, soft_wrap=True)
            bar.start()
        told = True

    def show(state: State) -> None:
        begin()
        bar.update(task, completed=state.step)
        if not console.is_terminal:
            clock.tell(state.step)

    try:
        yield show
        begin()  # where no step was to be made
    finally:
        bar.stop()


class _Clock:
    """Lines on stderr that say how fast a run is."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun, self.due, self.done = steps, time.monotonic(), 2.0, 0

    def tell(self, step: int) -> None:
        self.done += 1
        elapsed = time.monotonic() - self.begun
        if elapsed > self.due and step < self.steps:
            self.due = elapsed + min(elapsed, 60.0)
            rate = self.done / elapsed
            left = (self.steps - step) / rate
            print(f"step {step} of {self.steps}, {rate:.3g} steps/s, {left:.0f} s left", file=sys.stderr, flush=True)


def _open_model(model: str) -> Any:
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.foreign import is_foreign, open_foreign

    return open_foreign(model) if is_foreign(model) else load_potential(model)


def _table(run: Run, starts: Sequence[Start], conserves: bool) -> Table:
    """Temperatures, and the drift of the total energy where the dynamics should conserve it."""
    table = Table(title=f"{run.state.step} steps of {run.dt} fs: {run.status}")
    drifts = ["E_total drift / meV/atom/ps"] if conserves else []
    for column in ("structure", "atoms", "mean T / K", *drifts, "degrees of freedom"):
        table.add_column(column, justify="right")
    total, mean = run.total, np.mean(run.temperature, axis=0)
    for k, (start, free) in enumerate(zip(starts, run.state.degrees_of_freedom(), strict=True)):
        s = start.structure
        row = [s.formula, str(len(s)), f"{mean[k]:.0f}"]
        if conserves:
            row.append(shown(drift(run.times, total[:, k] / len(s))) if len(run.times) >= 10 else "needs 10 frames")
        table.add_row(*row, str(free))
    return table


def shown(metric: Metric) -> str:
    """`0.043 [0.031, 0.055]`: value and interval without name and unit."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
