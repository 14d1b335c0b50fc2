"""`mlipfm md`: molecular dynamics from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Run molecular dynamics with a model.\n\nExample: mlipfm md run model.safetensors POSCAR --steps 2000", no_args_is_help=True
)


class VelocityUnit(StrEnum):
    """Units of columns of velocities; `ase` is A sqrt(eV/amu)."""

    A_FS = "A/fs"
    A_PS = "A/ps"
    NM_PS = "nm/ps"
    ASE = "ase"


class EnsembleName(StrEnum):
    """Ensembles of `mlipfm md run`."""

    NVE = "nve"
    LANGEVIN = "langevin"


@app.command("run")
def run(
    model: Annotated[
        str, typer.Argument(help="Model checkpoint (.safetensors) or address, or a model of another package such as tblite:GFN2")
    ],
    structures: Annotated[Path, typer.Argument(help="Starting structures, any format ASE reads; all frames run at once")],
    out: Annotated[Path, typer.Option(help="Folder for trajectory and restart; run again to continue")] = Path("md"),
    ensemble: Annotated[EnsembleName, typer.Option(help="nve: velocity Verlet; langevin: constant temperature (BAOAB)")] = EnsembleName.NVE,
    temperature: Annotated[
        float | None, typer.Option(help="K: of velocities that are drawn, and of the Langevin bath", show_default="300")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of steps")] = 1000,
    dt: Annotated[float, typer.Option(help="Time step in fs")] = 0.5,
    friction: Annotated[float | None, typer.Option(help="Langevin friction in 1/fs [default: 0.01]")] = None,
    every: Annotated[int, typer.Option(help="Steps between recorded frames")] = 10,
    level: Annotated[str | None, typer.Option(help="Level of theory, if the model has several")] = None,
    charge: Annotated[int | None, typer.Option(min=-1000, max=1000, help="Total charge in e of structures that state none")] = None,
    multiplicity: Annotated[int | None, typer.Option(min=1, max=1000, help="Spin multiplicity 2S+1 of structures that state none")] = None,
    seed: Annotated[int, typer.Option(help="Seed of velocities and noise")] = 0,
    frame: Annotated[int | None, typer.Option(help="Only this frame of the file; -1 is the last")] = None,
    new_velocities: Annotated[bool, typer.Option("--new-velocities", help="Draw velocities even where the file has some")] = False,
    velocity_unit: Annotated[
        VelocityUnit | None, typer.Option(help="Unit of a column velo, vel or velocities", show_default="A/fs")
    ] = None,
    ignore_constraints: Annotated[bool, typer.Option("--ignore-constraints", help="Let atoms move that the file holds fixed")] = False,
    export: Annotated[Path | None, typer.Option(help="Also write the trajectory to this extxyz file")] = None,
) -> None:
    """Run dynamics, restartable; print temperature and energy drift.

    Fixed atoms, velocities and masses of the file are kept (move_mask, momenta, velo, masses, the symbols D and T; constraints and velocities of
    ASE, VASP and GROMACS files), and the output says so; what cannot be kept is refused by name. Velocities are drawn where the file has none.

    Examples:

    mlipfm md run model.safetensors water.xyz --ensemble langevin --temperature 300 --steps 10000 --out water-300K

    mlipfm md run model.safetensors POSCAR --dt 1 --steps 2000 --export slab.xyz

    mlipfm md run model.safetensors slab.xyz --frame -1 --new-velocities --temperature 600
    """
    from ._run_command import chosen_ensemble, run_dynamics
    from .simulation import Settings
    from .start_files import Wanted, read_starts

    kelvin = 300.0 if temperature is None else temperature
    settings = Settings(dt=dt, steps=steps, temperature=kelvin, every=every, seed=seed)
    chosen = chosen_ensemble(str(ensemble), kelvin, friction)
    unit = None if velocity_unit is None else str(velocity_unit)
    starts = read_starts(structures, Wanted(level, charge, multiplicity, frame, new_velocities, ignore_constraints, unit))
    run_dynamics(model, starts, out, chosen, settings, export, temperature)
