"""The work behind `mlipfm md run`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.interruption import until_interrupted
from mlipfm_interfaces.potential import Potential, ignored_conditions, implausible_geometry_remarks
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ._first_velocities import first_velocities, temperatures_of
from ._run_report import exchange_words, record_of, table_of, temperature_words
from .engine_forces import open_model
from .ensembles import NVE, Ensemble
from .exchange import ReplicaExchange
from .initial_files import FrameReport, ranges
from .initial_state import InitialState, temperature_of
from .simulation import Run, Settings, compiled_form, simulate
from .state import State
from .trajectory import LAST_GOOD, export_extxyz, restart_step
from .uncertainty_gate import UncertaintyGate, open_gate

#: Files of a run's folder that are written at its end.
SUMMARY, COLLECTED, PICTURE = "summary.json", "uncertain.xyz", "run.png"


@dataclass(frozen=True)
class DynamicsRequest:
    """What `mlipfm md run` and `mlipfm md exchange` were asked.

    Attributes:
        model: path or address. out: folder. export: extxyz file, or None. temperature: as the user gave it, None if not.
        inner: the cheap model of multiple time stepping. uncertainty: file of `mlipfm uncertainty fit`; stop_above, collect_above: eV/Å.
        as_json: print the record instead of a table.
    """

    model: str
    out: Path
    export: Path | None = None
    temperature: str | None = None
    inner: str | None = None
    uncertainty: Path | None = None
    stop_above: float | None = None
    collect_above: float | None = None
    as_json: bool = False


def run_dynamics(
    request: DynamicsRequest, starts: Sequence[tuple[InitialState, FrameReport]], ensemble: Ensemble, settings: Settings
) -> None:
    """Say what was taken from the file, run, and report.

    Raises:
        SimulationError: after the report, if the simulation became unstable or too uncertain; before the run, for an export file that is no extxyz.
        KeyboardInterrupt: after the state was saved, if SIGINT (Ctrl-C) or SIGTERM came.
    """
    out, export = request.out, request.export
    if export is not None and export.suffix not in (".xyz", ".extxyz"):
        raise SimulationError(
            "trajectories are exported as extended XYZ", where=str(export), hint="name a file .xyz or .extxyz; ASE converts it"
        )
    opened, gate = _opened(request)
    _warn(opened, starts)
    systems, taken = [start for start, _ in starts], taken_words(starts, ensemble, settings, request.temperature)
    before = restart_step(out)
    if before is not None:  # nothing is taken or drawn again
        taken = [f"goes on from step {before} of {out}"]
    if settings.scale_velocities and all(start.velocities is not None for start in systems):
        hint = "--new-velocities draws some"
        raise SimulationError("all velocities are those of the file, and none are drawn", where="--scale-velocities", hint=hint)
    if settings.threads > 1 and (not isinstance(opened, Potential) or compiled_form(opened, settings) is None):
        hint = "leave it out; OMP_NUM_THREADS is for torch, and other packages have settings of their own"
        raise SimulationError("threads are those of compiled kernels, and this model runs without one", where="--threads", hint=hint)
    taken.append(engine_words(opened, settings))
    inner = None if request.inner is None else open_model(request.inner)
    with _progress(settings.steps, [] if request.as_json else taken) as show, until_interrupted(also_terminated=True) as stop:
        run = simulate(opened, systems, ensemble, settings, out=out, inner=inner, gate=gate, on_step=show, stop=stop)
    if run.status == "stopped":
        open_console(stderr=True).print(f"{run.reason}, and the state is saved in {out}", highlight=False, soft_wrap=True)
        raise KeyboardInterrupt
    record = record_of(run, systems, ensemble, settings)
    atomic_write(out / SUMMARY, (json.dumps(record, indent=1) + "\n").encode())
    words = _report(request, run, record, systems, ensemble, settings)
    if before is not None and before >= settings.steps:
        words.append(f"{out} already holds {before} steps: nothing was run")
    if len(run.steps) > 1:
        from ._run_plot import history  # matplotlib, when there is something to draw
        from ._structure_plots import save

        save(history(run), out / PICTURE)
    if request.as_json:
        print(json.dumps(record))
    else:
        for line in (table_of(run, record), *words):
            open_console().print(line, highlight=False, soft_wrap=isinstance(line, str))
    _refuse_broken(run, out)


def engine_words(model: Any, settings: Settings) -> str:
    """`computed by: density kernel, float32, AVX2, 1 thread`, or torch and why."""
    if not isinstance(model, Potential):
        return "computed by: the model's own package"
    compiled = compiled_form(model, settings)
    if compiled is not None:
        return f"computed by: {compiled.description}, {settings.threads} thread{'s' if settings.threads > 1 else ''}"
    reason = "as asked" if settings.engine == "torch" else model.why_not_compiled() or "its kernel disagreed with it"
    return f"computed by: torch, {reason}"


def _opened(request: DynamicsRequest) -> tuple[Any, UncertaintyGate | None]:
    if request.uncertainty is not None:
        return open_gate(request.model, request.uncertainty, request.stop_above, request.collect_above)
    for option, value in (("--stop-above", request.stop_above), ("--collect-above", request.collect_above)):
        if value is not None:
            raise SimulationError("a limit of the uncertainty needs an uncertainty", where=option, hint="--uncertainty FILE names one")
    return open_model(request.model), None


def _warn(opened: Any, starts: Sequence[tuple[InitialState, FrameReport]]) -> None:
    if not isinstance(opened, Potential):
        return
    cutoff = max(graph.cutoff for graph in opened.spec.graphs)
    for k, (start, _) in enumerate(starts):
        for words in [*implausible_geometry_remarks(start.structure, cutoff), *ignored_conditions(start.structure, opened.spec.conditions)]:
            open_console(stderr=True).print(f"warning: structure {k}: {words}", highlight=False, soft_wrap=True)


def _report(
    request: DynamicsRequest, run: Run, record: dict[str, Any], systems: list[InitialState], ensemble: Ensemble, settings: Settings
) -> list[str]:
    """Write the files that are made at the end, and return the lines below the table."""
    out = request.out
    words = [*exchange_words(record), *temperature_words(run, record, systems, ensemble)]
    if run.status == "ok" and len(run.steps) == 1 and settings.steps:
        words.append(f"only the first frame was recorded: --every {settings.every} is more than --steps {settings.steps}")
    if request.collect_above is not None:
        above = [np.flatnonzero(row > request.collect_above).tolist() for row in run.uncertainty]
        chosen = {(step, k) for step, uncertain in zip(run.steps, above, strict=True) for k in uncertain}
        words.append(
            f"{export_extxyz(out, out / COLLECTED, only=chosen)} frames above {request.collect_above:g} eV/Å written to {out / COLLECTED}"
        )
    if isinstance(ensemble, ReplicaExchange):
        for k, kelvin in enumerate(ensemble.temperatures):
            path = out / f"{kelvin:g}K.xyz"
            words.append(f"{export_extxyz(out, path, system=k)} frames at {kelvin:g} K written to {path}")
    if request.export is not None:
        words.append(f"{export_extxyz(out, request.export)} frames written to {request.export}")
        if any(start.bonds is not None for start in systems):
            words.append("extended XYZ has no place for bonds of fixed length: a run that starts from this file lets them vibrate")
    return words


def _refuse_broken(run: Run, out: Path) -> None:
    if run.status == "unstable":
        raise SimulationError(
            f"the simulation became unstable: {run.reason}",
            where=str(out),
            hint=f"the last good state is in {out / LAST_GOOD}; shorten dt, or choose another model or start",
        )
    if run.status == "uncertain":
        raise SimulationError(
            f"the simulation was stopped: {run.reason}",
            where=str(out),
            hint="label its last frames and train on them, or raise --stop-above",
        )


def taken_words(
    starts: Sequence[tuple[InitialState, FrameReport]], ensemble: Ensemble, settings: Settings, temperature: str | None
) -> list[str]:
    """Lines that say what was taken from the file and what was drawn; structures of which the same is said share a line."""
    groups: dict[str, list[int]] = {}
    kelvin = temperatures_of(ensemble, settings, len(starts))
    given = [start for start, _ in starts]
    drawn = [] if settings.scale_velocities else first_velocities(given, ensemble, settings)
    first = [replace(start, velocities=velocities) for start, velocities in zip(given, drawn, strict=True)] if drawn else given
    for k, (start, said) in enumerate(starts):
        words = list(said.taken)
        if start.velocities is None:
            words.append(_drawn_words(kelvin[k], settings))
        elif temperature is not None:
            use = "changes nothing" if isinstance(ensemble, NVE) else "is that of the bath alone"
            words.append(f"--temperature {temperature} {use}: --new-velocities draws velocities at it")
        if said.unused:
            words.append("not used: " + ", ".join(said.unused))
        groups.setdefault("; ".join(words), []).append(k)
    return [
        f"structure{'s' if len(members) > 1 else ''} {ranges(members)}: {words}{_kelvin([first[k] for k in members], ensemble)}"
        for words, members in groups.items()
    ]


def _drawn_words(kelvin: float, settings: Settings) -> str:
    exactly = ", scaled to exactly that" if settings.scale_velocities else ""
    return f"velocities drawn at {kelvin:g} K with seed {settings.seed}{exactly}"


def _kelvin(starts: Sequence[InitialState], ensemble: Ensemble) -> str:
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
        self.steps, self.due = steps, 2.0
        self.first: int | None = None

    def tell(self, step: int) -> None:
        """Say so now and then; the steps since the first call count, however many lie between two calls."""
        if self.first is None:
            self.first, self.begun = step, time.monotonic()
        elapsed = time.monotonic() - self.begun
        if elapsed > self.due and step < self.steps:
            self.due = elapsed + min(elapsed, 60.0)
            rate = (step - self.first) / elapsed
            left = (self.steps - step) / rate
            print(f"step {step} of {self.steps}, {rate:.3g} steps/s, {left:.0f} s left", file=sys.stderr, flush=True)
