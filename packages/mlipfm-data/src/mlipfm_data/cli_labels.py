"""`mlipfm data sample`: geometries by a sampler that is loaded by name."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(sample)


def sample(
    source: Path = typer.Argument(None, metavar="IN", help="Folder of a store, or a file that a reader knows (extxyz, cif, ...)."),
    sampler: str = typer.Option(None, "--sampler", help="Name of the sampler; --list shows them."),
    n: int = typer.Option(None, "--n", min=1, max=10**6, help="Geometries of each structure."),
    options: list[str] = typer.Option([], "--option", help="An option of the sampler, KEY=VALUE: temperature=300."),
    model: str = typer.Option(
        None, "--model", help="What forces come from: a checkpoint, NAME@ALIAS of a registry, or a labeller (gfn2-xtb)."
    ),
    charge: int = typer.Option(None, min=-1000, max=1000, help="Total charge of structures that state none."),
    reader: str = typer.Option(None, help="Reader of a file [default: by the file's name]."),
    out: Path = typer.Option(None, "--out", "-o", help="File to write: .xyz, .extxyz or .db."),
    seed: int = typer.Option(0, min=0, max=2**62, help="The same seed gives the same geometries."),
    force: bool = typer.Option(False, "--force", help="Replace what is there."),
    list_all: bool = typer.Option(False, "--list", help="List the installed samplers with their options."),
) -> None:
    """Make geometries around structures by a sampler: normal modes, molecular dynamics, or one of another package.

    The geometries have no labels (`mlipfm data label` computes them) and stay in the group of their structure.

    Examples:

        mlipfm data sample --list

        mlipfm data sample ethanol.xyz --sampler normal-modes --n 10 --option temperature=300 --out samples.xyz

        mlipfm data sample ethanol.xyz --sampler langevin --model gfn2-xtb --charge 0 --n 10 --out samples.xyz
    """
    from mlipfm_interfaces.errors import SamplingError

    from .cli import _frames, _structures
    from .export.formats import export
    from .sampling import list_samplers, make_sampler
    from .sampling import sample as samples

    if list_all:
        return typer.echo("\n".join(list_samplers()))
    missing = [flag for flag, value in (("IN", source), ("--sampler", sampler), ("--n", n), ("--out", out)) if value is None]
    if source is None or sampler is None or n is None or out is None:
        raise SamplingError(f"{', '.join(missing)} is missing", hint="mlipfm data sample FILE --sampler NAME --n 10 --out FILE.xyz")
    chosen = make_sampler(sampler, options, model)
    structures, refusals = _structures(_frames(source, reader, []), source, charge)
    if refusals or not structures:
        raise refusals[0].error if refusals else SamplingError("there are no structures", where=str(source))
    found = list(samples(structures, chosen, n, seed))
    typer.echo("\n".join(export(found, out, replace=force).lines(out)))
