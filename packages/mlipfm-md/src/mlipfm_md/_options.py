"""Options that several commands of this package have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from mlipfm_interfaces.errors import SimulationError

Level = Annotated[str | None, typer.Option(help="Level of theory, if the model has several")]
Charge = Annotated[int | None, typer.Option(min=-1000, max=1000, help="Total charge in e of structures that give none")]
Multiplicity = Annotated[int | None, typer.Option(min=1, max=1000, help="Spin multiplicity 2S+1 of structures that give none")]
NewVelocities = Annotated[bool, typer.Option("--new-velocities", help="Draw velocities even where the file has some")]
IgnoreConstraints = Annotated[bool, typer.Option("--ignore-constraints", help="Let atoms and bonds move that the file fixes")]

# Of the engines LAMMPS and i-PI.
EngineModel = Annotated[str, typer.Argument(help="Model checkpoint or address, or a model of another package")]
EngineStart = Annotated[Path, typer.Argument(help="Starting structure, any format ASE reads")]
EngineTimeStep = Annotated[float, typer.Option(min=1e-3, max=10, help="Time step in fs")]
EngineSteps = Annotated[int, typer.Option(min=0, help="Number of steps")]
EngineEvery = Annotated[int, typer.Option(min=1, help="Steps between frames and lines of output")]
EngineTemperature = Annotated[
    float | None,
    typer.Option(min=0, max=20000, help="K, of velocities that are drawn: where the file has none, or new ones", show_default="300"),
]
EngineFrame = Annotated[int | None, typer.Option(help="Frame of a file of several; -1 is the last")]
Address = Annotated[str, typer.Option(help="HOST:PORT, or unix:NAME for the socket /tmp/ipi_NAME")]


def refuse_level(model: str | Path, level: str | None) -> None:
    """Refuse a level of theory for a model of another package.

    Raises:
        SimulationError: naming the option.
    """
    if level is None:
        return
    from mlipfm_interfaces.foreign import is_foreign  # it brings numpy, for which `--help` need not wait

    if str(model).startswith(("http:", "https:")):
        raise SimulationError("the level of a served model stands in its address", where="--level", hint=f"--model {model}?level={level}")
    if is_foreign(model):
        raise SimulationError("a model of another package has one level of theory", where="--level", hint="leave it out")
