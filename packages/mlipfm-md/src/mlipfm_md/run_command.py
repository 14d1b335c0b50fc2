"""The work behind `mlipfm md run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, SimulationError, UnreadableFileError
from mlipfm_interfaces.metrics import Metric, drift
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import KB
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .ensembles import NVE, Ensemble, Langevin, State
from .simulate import Run, Settings, simulate


def run_dynamics(
    model: str,
    structures: Path,
    out: Path,
    ensemble: str,
    temperature: float,
    steps: int,
    dt: float,
    friction: float,
    every: int,
    level: str | None,
    seed: int,
    export: Path | None,
) -> None:
    """Read, run, report; raises `SimulationError` after the report if the simulation became unstable."""
    settings = Settings(dt=dt, steps=steps, temperature=temperature, every=every, seed=seed)
    chosen: Ensemble = NVE() if ensemble == "nve" else Langevin(temperature, friction)
    starts = read_structures(structures, level)
    opened = _open_model(model)
    console = Console()
    columns = (TextColumn("dynamics"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=steps)

        def show(state: State) -> None:
            bar.update(task, completed=state.step)

        run = simulate(opened, starts, chosen, settings, out=out, on_record=show)
    console.print(_table(run, starts))
    if export is not None:
        from .trajectory import export_extxyz

        console.print(f"{export_extxyz(out, export)} frames written to {export}")
    if run.status != "ok":
        raise SimulationError(
            f"the simulation became unstable: {run.reason}", where=str(out), mend="shorten dt, or choose another model or start"
        )


def read_structures(path: Path, level: str | None = None) -> list[Structure]:
    """All frames of a file that ASE reads, with charge and multiplicity from their info.

    Raises:
        UnreadableFileError: missing, empty or not readable. InvalidStructureError: for a frame that cannot exist, naming it.
    """
    import ase.io

    if path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UnreadableFileError("pickle files are never read", where=str(path), mend="convert it to extxyz where it comes from")
    try:
        frames: list[Any] = list(ase.io.iread(path, ":"))
    except Exception as error:
        raise UnreadableFileError(f"ASE cannot read it: {error}", where=str(path), mend="check path and format") from error
    if not frames:
        raise UnreadableFileError("the file holds no structure", where=str(path))
    found = []
    for k, atoms in enumerate(frames):
        try:
            charge, multiplicity = charge_and_multiplicity(atoms.info)
            origin = Provenance(source=path.name, index=k)
            s = Structure(
                atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, charge, multiplicity, level=level, provenance=origin
            )
        except InvalidStructureError as error:
            error.where = f"{path}, frame {k}" + (f", {error.where}" if error.where else "")
            raise
        found.append(s)
    return found


def _open_model(model: str) -> Any:
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.foreign import is_foreign, open_foreign

    return open_foreign(model) if is_foreign(model) else load_potential(model)


def _table(run: Run, starts: list[Structure]) -> Table:
    table = Table(title=f"{run.state.step} steps of {run.dt} fs: {run.status}")
    for column in ("structure", "atoms", "mean T / K", "E_total drift / meV/atom/ps"):
        table.add_column(column, justify="right")
    kinetic, total = np.array(run.kinetic), run.total
    for k, s in enumerate(starts):
        mean = 2 * kinetic[:, k].mean() / (3 * len(s) * KB)
        slope = drift(run.times, total[:, k] / len(s)) if len(run.times) >= 10 else None
        table.add_row(s.formula, str(len(s)), f"{mean:.0f}", "too few frames" if slope is None else shown(slope))
    return table


def shown(metric: Metric) -> str:
    """`0.043 [0.031, 0.055]`: value and interval without name and unit."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
