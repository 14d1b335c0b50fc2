"""The work behind `mlipfm md run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import InvalidStructureError, SimulationError, UnreadableFileError
from mlipfm_interfaces.metrics import Metric, drift
from mlipfm_interfaces.plausibility import implausible, unheard
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import KB
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .ensembles import NVE, Ensemble, Langevin, State
from .simulation import Run, Settings, simulate


def run_dynamics(model: str, starts: list[Structure], out: Path, ensemble: Ensemble, settings: Settings, export: Path | None) -> None:
    """Run and report.

    Raises:
        SimulationError: after the report, if the simulation became unstable; before the run, for an export file that is no extxyz.
    """
    if export is not None and export.suffix not in (".xyz", ".extxyz"):
        raise SimulationError(
            "trajectories are exported as extended XYZ", where=str(export), mend="name a file .xyz or .extxyz; ASE converts it"
        )
    opened = _open_model(model)
    console = open_console()
    if isinstance(opened, Potential):
        cutoff = max(graph.cutoff for graph in opened.spec.graphs)
        for k, s in enumerate(starts):
            for words in [*implausible(s, cutoff), *unheard(s, opened.spec.conditions)]:
                open_console(stderr=True).print(f"warning: structure {k}: {words}", highlight=False, soft_wrap=True)
    columns = (TextColumn("dynamics"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=settings.steps)

        def show(state: State) -> None:
            bar.update(task, completed=state.step)

        run = simulate(opened, starts, ensemble, settings, out=out, on_record=show)
    console.print(_table(run, starts, conserves=isinstance(ensemble, NVE)))
    if run.state.step > settings.steps:
        console.print(f"{out} already holds {run.state.step} steps: nothing was run")
    if export is not None:
        from .trajectory import export_extxyz

        console.print(f"{export_extxyz(out, export)} frames written to {export}")
    if run.status != "ok":
        raise SimulationError(
            f"the simulation became unstable: {run.reason}", where=str(out), mend="shorten dt, or choose another model or start"
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
            "constant-energy dynamics have no friction", where="--friction", mend="leave it out, or use --ensemble langevin"
        )
    return NVE()


def read_structures(path: Path, level: str | None = None, charge: int | None = None, multiplicity: int | None = None) -> list[Structure]:
    """All frames of a file that ASE reads, with charge and multiplicity from their info, else those given.

    Raises:
        UnreadableFileError: missing, empty or not readable. InvalidStructureError: for a frame that cannot exist, naming it.
    """
    import ase.io

    if path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UnreadableFileError("pickle files are never read", where=str(path), mend="convert it to extxyz where it comes from")
    if not path.is_file():
        raise UnreadableFileError("there is no such file", where=str(path), mend="check the path")
    try:
        frames: list[Any] = list(ase.io.iread(path, ":"))
    except Exception as error:
        raise UnreadableFileError(f"ASE cannot read it: {error}", where=str(path), mend="check the format") from error
    if not frames:
        raise UnreadableFileError("the file holds no structure", where=str(path))
    origins = [Provenance(source=path.name, index=k) for k in range(len(frames))]
    return [
        _structure(atoms, f"{path}, frame {k}", level, charge, multiplicity, origin)
        for k, (atoms, origin) in enumerate(zip(frames, origins, strict=True))
    ]


def _structure(atoms: Any, where: str, level: str | None, charge: int | None, multiplicity: int | None, origin: Provenance) -> Structure:
    try:
        said = charge_and_multiplicity(atoms.info)
        return Structure(
            atoms.numbers,
            atoms.positions,
            np.asarray(atoms.cell),
            atoms.pbc,
            charge if said[0] is None else said[0],
            multiplicity if said[1] is None else said[1],
            level=level,
            provenance=origin,
        )
    except InvalidStructureError as error:
        error.where = where + (f", {error.where}" if error.where else "")
        raise


def _open_model(model: str) -> Any:
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.foreign import is_foreign, open_foreign

    return open_foreign(model) if is_foreign(model) else load_potential(model)


def _table(run: Run, starts: list[Structure], conserves: bool) -> Table:
    """Temperatures, and the drift of the total energy where the dynamics should conserve it."""
    table = Table(title=f"{run.state.step} steps of {run.dt} fs: {run.status}")
    for column in ("structure", "atoms", "mean T / K", *(["E_total drift / meV/atom/ps"] if conserves else [])):
        table.add_column(column, justify="right")
    kinetic, total = np.array(run.kinetic), run.total
    for k, s in enumerate(starts):
        mean = 2 * kinetic[:, k].mean() / (3 * len(s) * KB)
        row = [s.formula, str(len(s)), f"{mean:.0f}"]
        if conserves:
            row.append(shown(drift(run.times, total[:, k] / len(s))) if len(run.times) >= 10 else "needs 10 frames")
        table.add_row(*row)
    return table


def shown(metric: Metric) -> str:
    """`0.043 [0.031, 0.055]`: value and interval without name and unit."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
