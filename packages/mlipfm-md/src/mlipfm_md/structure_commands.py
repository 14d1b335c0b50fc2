"""`mlipfm relax`, `phonons`, `vibrations`, `eos`, `elastic`, `neb`, `ts`: one structure, one property, from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.plugins import DEFAULT_MODEL

from ._options import Charge, IgnoreConstraints, Level, Multiplicity

Structure = Annotated[Path, typer.Argument(help="Structure, any format ASE reads; the last frame unless --frame says another")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Model: checkpoint, NAME@ALIAS of a registry, or a model of another package: tblite:GFN2, sevennet:7net-0"
    ),
]
Frame = Annotated[int, typer.Option(help="Frame of the file; -1 is the last")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record instead of a table")]
AsItIs = Annotated[bool, typer.Option("--as-is", help="Do not relax first: refuse a structure with forces")]
Largest = Annotated[float, typer.Option(min=1e-6, max=10, help="Largest force of a relaxed structure, eV/A")]


class Cell(StrEnum):
    """What of the cell is relaxed."""

    FIXED = "fixed"
    FULL = "full"
    VOLUME = "volume"
    SHAPE = "shape"


class Optimizer(StrEnum):
    """Optimisers of ASE."""

    BFGS = "BFGS"
    LBFGS = "LBFGS"
    FIRE = "FIRE"
    LINE_SEARCH = "BFGSLineSearch"


class Form(StrEnum):
    """Equations of state of ASE."""

    BIRCH_MURNAGHAN = "birchmurnaghan"
    MURNAGHAN = "murnaghan"
    VINET = "vinet"
    SJ = "sj"


relax_app, phonons_app, vibrations_app, eos_app, elastic_app, neb_app, ts_app = (typer.Typer() for _ in range(7))


@relax_app.command("relax")
def relax(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder for relaxed.extxyz, trajectory.extxyz, relax.json and relax.png")] = Path("relax"),
    fmax: Largest = 0.01,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Largest number of steps")] = 500,
    cell: Annotated[Cell, typer.Option(help="Relax the whole cell, its volume or its shape as well")] = Cell.FIXED,
    pressure: Annotated[
        str | None, typer.Option(help="Pressure on a cell that moves: 5GPa, 1bar, 1atm; a bare number is GPa", show_default="0")
    ] = None,
    symmetry: Annotated[bool, typer.Option("--symmetry", help="Keep the space group of the start")] = False,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimiser of ASE")] = Optimizer.BFGS,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Relax a structure: positions, and with --cell the cell. Constraints, charge and multiplicity of the file are kept.

    Examples:

    mlipfm relax water.xyz

    mlipfm relax water.xyz --model tblite:GFN2 --charge 0

    mlipfm relax POSCAR --model model.safetensors --cell full --symmetry --pressure 5 --out relaxed
    """
    from mlipfm_interfaces.units import GPA

    from ._structure_work import Job, run_relax
    from .barostat import pressure_with_unit

    job = Job("relax", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    settings: dict[str, Any] = {"fmax": fmax, "steps": steps, "cell": str(cell), "symmetry": symmetry, "optimizer": str(optimizer)}
    settings["pressure"] = 0.0 if pressure is None else pressure_with_unit(pressure, "GPa") / GPA
    run_relax(job, settings)


@phonons_app.command("phonons")
def phonons(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for phonons.json, phonons.png, phonopy_params.yaml, bands.csv, dos.csv, and relaxed.extxyz where it relaxes"
        ),
    ] = Path("phonons"),
    supercell: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="A B C", help="Repeats of the cell", show_default="as many as make it 12 A wide")
    ] = None,
    displacement: Annotated[float, typer.Option(min=1e-4, max=0.2, help="Displacement, A")] = 0.01,
    fmax: Largest = 0.001,
    as_is: AsItIs = False,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Compute phonons of a crystal with phonopy: band structure, density of states, thermal properties; imaginary modes are named.

    Positions are relaxed first at the cell of the file; relax the cell with `mlipfm relax --cell full`.

    Examples:

    mlipfm phonons POSCAR --model model.safetensors

    mlipfm phonons Cu.cif --model emt: --supercell 4 4 4 --out copper
    """
    from ._structure_work import Job, run_phonons

    job = Job("phonons", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    run_phonons(job, {"supercell": supercell, "displacement": displacement, "fmax": fmax}, as_is)


@vibrations_app.command("vibrations")
def vibrations(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path, typer.Option(help="Folder for vibrations.json, vibrations.png, modes.csv, modes.xyz, and relaxed.extxyz where it relaxes")
    ] = Path("vibrations"),
    fmax: Largest = 0.005,
    as_is: AsItIs = False,
    temperature: Annotated[float, typer.Option(min=0.1, max=10_000, help="K, of the thermochemistry")] = 298.15,
    pressure: Annotated[
        str | None, typer.Option(help="Pressure of the ideal gas: 1bar, 1atm; a bare number is Pa", show_default="101325")
    ] = None,
    symmetry_number: Annotated[int, typer.Option(min=1, max=120, help="Symmetry number of the rotations: 2 for water, 12 for benzene")] = 1,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Compute harmonic vibrations and thermochemistry of a molecule (ideal gas) or of atoms on a surface; fixed atoms stay fixed.

    Examples:

    mlipfm vibrations water.xyz --model tblite:GFN2 --charge 0 --symmetry-number 2

    mlipfm vibrations slab.xyz --model model.safetensors --temperature 500
    """
    from mlipfm_interfaces.units import to_internal

    from ._structure_work import Job, run_vibrations
    from .barostat import pressure_with_unit

    job = Job("vibrations", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    pascal = 101325.0 if pressure is None else pressure_with_unit(pressure, "Pa") / to_internal(1.0, "Pa", "stress")
    if not pascal > 0:
        raise SimulationError(f"the pressure of a gas is positive, got {pressure}", where="--pressure", hint="leave it out for 1atm")
    run_vibrations(job, {"fmax": fmax, "temperature": temperature, "pressure": pascal, "symmetry_number": symmetry_number}, as_is)


@eos_app.command("eos")
def eos(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder for eos.json, eos.png, eos.csv, minimum.extxyz")] = Path("eos"),
    strain: Annotated[float, typer.Option(min=0.001, max=0.2, help="Largest change of the cell's length")] = 0.03,
    points: Annotated[int, typer.Option(min=5, max=101, help="Number of volumes")] = 9,
    form: Annotated[Form, typer.Option(help="Equation of state")] = Form.BIRCH_MURNAGHAN,
    fmax: Largest = 0.01,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Fit the equation of state of a crystal: volume and lattice constants of the minimum, bulk modulus. Positions are relaxed at each volume.

    Example: mlipfm eos POSCAR --model model.safetensors --strain 0.05
    """
    from ._structure_work import Job, run_eos

    job = Job("eos", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    run_eos(job, {"strain": strain, "points": points, "form": str(form), "fmax": fmax})


@elastic_app.command("elastic")
def elastic(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder for elastic.json, elastic.png, relaxed.extxyz")] = Path("elastic"),
    strain: Annotated[float, typer.Option(min=1e-5, max=0.05, help="Size of the strains")] = 0.005,
    fmax: Largest = 0.001,
    as_is: AsItIs = False,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Compute the elastic tensor of a crystal, with relaxed positions: Born stability, Voigt, Reuss and Hill averages. The cell is relaxed first.

    Example: mlipfm elastic POSCAR --model model.safetensors
    """
    from ._structure_work import Job, run_elastic

    job = Job("elastic", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    run_elastic(job, {"strain": strain, "fmax": fmax}, as_is)


@neb_app.command("neb")
def neb(
    structure: Annotated[
        Path, typer.Argument(help="File with the reactant as first and the product as last frame, or of the reactant alone")
    ],
    model: Model = DEFAULT_MODEL,
    product: Annotated[Path | None, typer.Option(help="File with the product as last frame")] = None,
    out: Annotated[Path, typer.Option(help="Folder for neb.json, neb.png, path.extxyz, path.csv, saddle.extxyz")] = Path("neb"),
    images: Annotated[int, typer.Option(min=3, max=100, help="Structures on the path, ends included")] = 7,
    fmax: Largest = 0.05,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Largest number of steps")] = 500,
    climb: Annotated[bool, typer.Option("--climb/--no-climb", help="Let the highest image climb to the saddle point")] = True,
    as_is: AsItIs = False,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Find the minimum energy path between two structures (nudged elastic band with a climbing image); both ends are relaxed first.

    Examples:

    mlipfm neb ends.xyz --model model.safetensors --images 9

    mlipfm neb reactant.xyz --product product.xyz --model tblite:GFN2 --charge 0
    """
    from ._structure_work import Job, run_neb

    job = Job("neb", structure, model, out, level, charge, multiplicity, 0, ignore_constraints, as_json)
    run_neb(job, product, {"images": images, "fmax": fmax, "steps": steps, "climb": climb}, as_is)


@ts_app.command("ts")
def ts(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder for ts.json, ts.png, saddle.extxyz, mode.xyz")] = Path("ts"),
    fmax: Largest = 0.02,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Largest number of steps")] = 500,
    push: Annotated[float, typer.Option(min=1e-6, max=1, help="Size of the random displacement at the start, A")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that displacement")] = 0,
    level: Level = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    frame: Frame = -1,
    ignore_constraints: IgnoreConstraints = False,
    as_json: AsJson = False,
) -> None:
    """Search a transition state from a structure near it by the dimer method of ASE, and count the negative eigenvalues of the Hessian.

    Example: mlipfm ts neb/saddle.extxyz --model tblite:GFN2 --charge 0
    """
    from ._structure_work import Job, run_ts

    job = Job("ts", structure, model, out, level, charge, multiplicity, frame, ignore_constraints, as_json)
    run_ts(job, {"fmax": fmax, "steps": steps, "push": push, "seed": seed})
