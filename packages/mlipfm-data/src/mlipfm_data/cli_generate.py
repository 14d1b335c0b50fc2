"""`mlipfm data generate`: training sets of random or given molecules, labelled by GFN-xTB."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    group = typer.Typer(
        no_args_is_help=True, help="Make training sets of random or given molecules.\n\nExample: mlipfm data generate molecules --out set"
    )
    group.command()(molecules)
    app.add_typer(group, name="generate")


def molecules(
    count: int = typer.Option(
        None, "--count", min=1, max=10**6, help="Molecules, in whole stores, 100 by default. A larger count continues."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the set: a folder of stores for each level."),
    seed: int = typer.Option(0, min=0, max=2**62, help="The same seed gives the same molecules and geometries."),
    heavy: int = typer.Option(
        None, "--heavy", min=1, max=40, help="Largest number of atoms that are not hydrogen in a random molecule, 10 by default."
    ),
    smiles: Path = typer.Option(
        None,
        "--smiles",
        help="File of SMILES, one a line: molecules of the set, instead of random ones; all, without --count.",
    ),
    geometries: int = typer.Option(
        33, "--geometries", min=8, max=10_000, help="About so many structures of each molecule, clusters included."
    ),
    clusters: int = typer.Option(None, "--clusters", min=0, max=100_000, help="Clusters for each molecule, 5 of 33 structures by default."),
    cluster_size: int = typer.Option(3, "--cluster-size", min=2, max=40, help="Largest number of molecules in a cluster."),
    relaxed_clusters: float = typer.Option(
        0.0,
        "--relaxed-clusters",
        min=0.0,
        max=1.0,
        help="Part of the clusters that MMFF94 relaxes and moves at 300 K, so that they have hydrogen bonds; others are packed at random.",
    ),
    radical_cations: int = typer.Option(
        0, "--radical-cations", min=0, max=1000, help="Every so many-th neutral singlet is there again with an electron less; 0: none."
    ),
    per_shard: int = typer.Option(100, "--per-shard", min=1, max=100_000, help="Molecules of one store."),
    second: int = typer.Option(10, "--gfn1-every", min=0, max=1000, help="Every so many-th geometry is labelled by GFN1-xTB too; 0: none."),
    exclude: Path = typer.Option(None, "--exclude", help="File of SMILES, one a line, whose molecules must not occur."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes that compute labels."),
) -> None:
    """Make a set of random molecules of H, C, N, O, F, S and Cl with GFN2-xTB labels, neutral, charged and radical, alone and in clusters.

    Run it again to resume. Molecules of the usual benchmarks (3BPA, acetylacetone, ethanol, MD17) never occur. Whole stores make training and
    validation sets: no molecule is in two.

    Examples:

        mlipfm data generate molecules --count 100 --out set

        mlipfm data generate molecules --count 10000 --seed 1 --exclude mine.smi --out set

        mlipfm data generate molecules --smiles mine.smi --geometries 200 --out set

        mlipfm data generate molecules --smiles mine.smi --clusters 50 --cluster-size 8 --relaxed-clusters 0.8 --out clusters

        mlipfm data merge set/gfn2-xtb/00* --out train
    """
    from mlipfm_interfaces.errors import OptionError, UnreadableFileError

    from .generation.generate import Settings, generate_molecules
    from .tblite_labeler import gfn1, gfn2

    given = [] if smiles is None else _smiles(smiles)
    if smiles is not None and not given:
        raise UnreadableFileError("has no SMILES", where=str(smiles), hint="one SMILES a line, then a name")
    if given and heavy is not None:
        raise OptionError("--heavy has no effect with --smiles: the molecules are given", hint="leave it out")
    if clusters == 0 and (relaxed_clusters or cluster_size != Settings.cluster_size):
        raise OptionError("--cluster-size and --relaxed-clusters have no effect with --clusters 0", hint="leave them out")
    count = (len(given) or 100) if count is None else count
    excluded = [] if exclude is None else _smiles(exclude)
    settings = Settings(
        seed=seed,
        heavy=heavy or Settings.heavy,
        per_shard=per_shard,
        every=second,
        geometries=geometries,
        clusters=clusters,
        cluster_size=cluster_size,
        relaxed_clusters=relaxed_clusters,
        radical_cations=radical_cations,
    )
    labelers = (gfn2(), gfn1()) if second else (gfn2(),)
    total = 0
    for shard in generate_molecules(out, count, settings, labelers=labelers, exclude=excluded, given=given, workers=workers):
        total += sum(shard.labelled.values())
        refused = f", refused: {', '.join(f'{n} x {code}' for code, n in shard.refused.items())}" if shard.refused else ""
        labels = ", ".join(f"{n} {level}" for level, n in shard.labelled.items())
        typer.echo(f"shard {shard.index:04d}: {labels}; {total} in all{refused}")


def _smiles(path: Path) -> list[str]:
    """First word of every line that is not empty and no comment."""
    from mlipfm_interfaces.errors import UnreadableFileError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"cannot read the SMILES: {error}", where=str(path), hint="one SMILES a line, then a name") from None
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
