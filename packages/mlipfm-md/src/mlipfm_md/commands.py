"""`mlipfm md`: molecular dynamics from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run molecular dynamics with a model.", no_args_is_help=True)


class EnsembleName(StrEnum):
    """Ensembles of `mlipfm md run`."""

    NVE = "nve"
    LANGEVIN = "langevin"


@app.command("run")
def run(
    model: Annotated[
        str, typer.Argument(help="Model checkpoint (.safetensors) or address, or a model of another package such as tblite:GFN2")
    ],
    structures: Annotated[Path, typer.Argument(help="Starting structures, any format ASE reads; all run at once")],
    out: Annotated[Path, typer.Option(help="Folder for trajectory and restart; run again to continue")] = Path("md"),
    ensemble: Annotated[EnsembleName, typer.Option(help="nve: velocity Verlet; langevin: constant temperature (BAOAB)")] = EnsembleName.NVE,
    temperature: Annotated[float, typer.Option(help="K: of the first velocities, and of the Langevin bath")] = 300.0,
    steps: Annotated[int, typer.Option(help="Number of steps")] = 1000,
    dt: Annotated[float, typer.Option(help="Time step in fs")] = 0.5,
    friction: Annotated[float | None, typer.Option(help="Langevin friction in 1/fs [default: 0.01]")] = None,
    every: Annotated[int, typer.Option(help="Steps between recorded frames")] = 10,
    level: Annotated[str | None, typer.Option(help="Level of theory, if the model has several")] = None,
    charge: Annotated[int | None, typer.Option(help="Total charge in e of structures that state none")] = None,
    multiplicity: Annotated[int | None, typer.Option(help="Spin multiplicity 2S+1 of structures that state none")] = None,
    seed: Annotated[int, typer.Option(help="Seed of velocities and noise")] = 0,
    export: Annotated[Path | None, typer.Option(help="Also write the trajectory to this extxyz file")] = None,
) -> None:
    """Run dynamics, restartable; print temperature and energy drift.

    Example: mlipfm md run model.safetensors water.xyz --ensemble langevin --temperature 300 --steps 10000 --out water-300K
    """
    from .run_command import chosen_ensemble, read_structures, run_dynamics
    from .simulation import Settings

    settings = Settings(dt=dt, steps=steps, temperature=temperature, every=every, seed=seed)
    starts = read_structures(structures, level, charge, multiplicity)
    run_dynamics(model, starts, out, chosen_ensemble(str(ensemble), temperature, friction), settings, export)
