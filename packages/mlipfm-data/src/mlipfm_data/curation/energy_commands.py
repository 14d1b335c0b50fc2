"""`mlipfm data weights` and `mlipfm data references`."""

from __future__ import annotations

import math
from pathlib import Path

import typer


def weights(
    store: Path = typer.Argument(..., help="Folder of a store; the weights are added to it as the label `weight`."),
    kt: float = typer.Option(0.2, min=1e-6, max=math.inf, help="Width of the Boltzmann weights, eV per atom^gamma; `inf` for none."),
    gamma: float = typer.Option(1.0, min=0, max=10, help="Power of the number of atoms that an energy is divided by."),
    floor: float = typer.Option(0.05, min=0, max=1, help="Least weight: 0 forgets, 1 weighs nothing."),
    force_cap: float = typer.Option(
        50.0, min=1e-6, max=math.inf, help="eV/Angstrom: structures with a larger force get weight 0; `inf` for no cap."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only print what the weights would be."),
) -> None:
    """Weigh structures by energy and forces, for training. A second call replaces the weights of the first."""
    import numpy as np
    from mlipfm_interfaces.errors import LevelError

    from ..store import Store
    from ..store_writer import StoreWriter
    from .weights import weigh

    with Store(store) as opened:
        found = weigh(
            opened, kT=kt if np.isfinite(kt) else None, gamma=gamma, floor=floor, force_cap=force_cap if np.isfinite(force_cap) else None
        )
        places = [(opened.key(k), level) for k, level in enumerate(opened.levels)]
    typer.echo("\n".join(found.lines()))
    if dry_run:
        return
    if any(level is None for _, level in places):
        raise LevelError(
            "a structure states no level of theory, by which its weight is stored", where=str(store), mend="set --level on import"
        )
    with StoreWriter(store) as writer:
        for (key, level), value in zip(places, found.values.tolist(), strict=True):
            writer.add_overlay(key, str(level), {"weight": value})
    typer.echo(f"{store}: {len(places)} weights stored")


def references(
    store: Path = typer.Argument(..., help="Folder of a store."),
    given: str = typer.Option("", "--given", "--e0", help="Energies of atoms that are not fitted: H=-13.6,O=-2041.3 (eV)."),
    isolated: bool = typer.Option(True, help="Take lone atoms in the store, in large periodic boxes too, as they are."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Atomic reference energies of every level, as training finds them: where they come from, rank, residual, what is left open.

    Given energies and lone atoms are kept; the rest is fitted by least squares, weighted by the label `weight`.
    """
    import json

    from ..store import Store
    from .references import parse_given, report_references

    with Store(store) as opened:
        reports = report_references(opened, given=parse_given(given), isolated=isolated)
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports.values()], indent=1))
    else:
        typer.echo("\n".join(line for report in reports.values() for line in report.lines()))
