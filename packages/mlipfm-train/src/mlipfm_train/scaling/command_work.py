"""What `mlipfm scaling` does, apart from its arguments."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.files import atomic_write

from ..preflight import duration
from .sweep import load_sweep

EXAMPLE = """\
# A sweep of mlipfm scaling: every run is one of the product of all lists.
recipe:                      # or a file, or the name of a recipe of `mlipfm train --list`
  potential: {name: painn, backbone: {layers: 2, cutoff: 5.0}}
  data: {train: [train-store], valid: [valid-store], budget: 500}
  optimizer: {lr: 2.0e-3}
  schedule: {name: wsd, warmup: 50, decay: 0.2}
# architectures:             # each is fitted apart
#   painn: {potential.name: painn}
#   pet: {potential.name: pet, objectives.0.augment: rotations}
width: [8, 16, 32, 64, 128]  # potential.backbone.channels
mup_base: 16                 # the width for which lr was chosen: muP scales it to the others
# depth: [1, 2, 3]           # potential.backbone.layers
structures: [250, 1000, 4000, 16000]
epochs: 4                    # or steps: [500, 2000, 8000], which share all but their decays with the schedule wsd
seeds: [0, 1]
# evaluate: {ood: ood-store}
hold_out: true               # the largest run waits until `mlipfm scaling fit` has predicted it
core_hours: 12               # plan refuses more
"""


def show_plan(document: Path, out: Path | None, speed: float | None, as_json: bool) -> None:
    """Print runs, parameters, operations and hours."""
    from .plan import plan

    folder = _folder(document, out)
    _, costs = plan(load_sweep(document), folder, lambda text: typer.echo(text, err=as_json))
    flops, seconds = sum(cost.flops for cost in costs), sum(cost.seconds for cost in costs)
    there = {} if speed is None else {"seconds_there": flops / speed / 1e9}
    if as_json:
        return typer.echo(json.dumps({"runs": [asdict(cost) for cost in costs], "flops": flops, "seconds": seconds, **there}))
    from mlipfm_interfaces.console import open_console
    from rich.table import Table

    from .fits import without_law

    table = Table("run", "parameters", "steps", "atoms seen", "FLOP", "time", "")
    for cost in costs:
        note = "held out" if cost.largest else ""
        table.add_row(
            cost.name, f"{cost.parameters:,}", f"{cost.steps:,}", f"{cost.atoms:,}", f"{cost.flops:.3g}", duration(cost.seconds), note
        )
    open_console().print(table)
    typer.echo(f"{len(costs)} runs, {flops:.3g} FLOP in matrix products, {duration(seconds)} in one process of this machine")
    if speed is not None:
        typer.echo(f"at {speed:g} GFLOP/s: {duration(there['seconds_there'])}")
    for group, reason in without_law(costs).items():
        typer.echo(f"{group}: `mlipfm scaling fit` will find no law in these runs: {reason}")


def run(
    document: Path, out: Path | None, *, workers: int, dask: str | None, slurm: Path | None, held_out: bool, only: int | None, as_json: bool
) -> None:
    """Make the runs that are left; a line for each that has ended."""
    from .execute import run_sweep, write_array

    sweep, folder = load_sweep(document), _folder(document, out)
    if slurm is not None:
        jobs = write_array(sweep, folder, document, slurm)
        return typer.echo(f"{jobs} tasks: sbatch {slurm}, then `mlipfm scaling fit {document}`")
    with _executor(workers, dask) as executor:
        points = run_sweep(sweep, folder, executor, held_out=held_out, only=only, said=lambda text: typer.echo(text, err=as_json))
    if as_json:
        return typer.echo(json.dumps([asdict(point) for point in points]))
    failed = sum(bool(point.failed) for point in points)
    typer.echo(f"{len(points)} runs are done{f', {failed} of them failed' if failed else ''}: {folder / 'points.jsonl'}")
    if sweep.hold_out and not held_out:
        typer.echo(f"now `mlipfm scaling fit {document}` predicts the largest, and `mlipfm scaling run {document} --held-out` makes it")


@contextmanager
def _executor(workers: int, dask: str | None) -> Iterator[Executor | None]:
    """Processes of this machine, or those of a Dask scheduler; None for this process."""
    if dask is not None:
        try:
            from distributed import Client
        except ImportError:
            raise RecipeError("runs on Dask need the package distributed", where="--dask", hint="pip install distributed") from None
        with Client(dask) as client:
            yield client.get_executor(pure=False)
    elif workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        yield None


def cost(
    file: Path,
    changes: list[str],
    counts: list[int],
    machine: tuple[float, float, float],
    check: int | None,
    steps: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print what a step costs on `counts` processes of a machine: faster than here, GB/s, microseconds."""
    from ..recipe import load_recipe
    from .processes import Machine, calibrate, measure, plot, predicted

    def said(text: str) -> None:
        typer.echo(text, err=as_json)

    recipe = load_recipe(file, changes)
    faster, bandwidth, latency = machine
    here = calibrate(recipe, steps)
    lines = predicted(here, Machine(faster, bandwidth * 1e9, latency * 1e-6), counts)
    record: dict[str, Any] = {
        "here": asdict(here),
        "machine": {"faster": faster, "bandwidth_gb_s": bandwidth, "latency_us": latency},
        "steps": lines,
    }
    said(
        f"one process here: {1000 * here.compute:.4g} ms of a processor for a step, +- {1000 * here.spread:.2g} ms from batch to batch; its"
    )
    said(
        f"gradients have {here.gradients / 1e6:.3g} MB, and exchanging them with a second process costs {1e9 * here.exchange:.3g} ns a byte"
    )
    if check is not None:
        found, expected = float(measure(recipe, check, steps)["seconds"].mean()), here.processor_seconds(check)
        record["check"] = {"processes": check, "predicted_s": expected, "measured_s": found, "error": expected / found - 1}
        said(
            f"{check} processes here: {1000 * expected:.4g} ms of a processor predicted for each, {1000 * found:.4g} ms measured "
            f"({100 * (expected / found - 1):+.1f} %)"
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        rows = [",".join(lines[0]), *(",".join(f"{value:.6g}" for value in line.values()) for line in lines)]
        atomic_write(out / "cost.csv", ("\n".join(rows) + "\n").encode())
        plot(lines, out / "cost.png")
    if as_json:
        return typer.echo(json.dumps(record))
    from mlipfm_interfaces.console import open_console
    from rich.table import Table

    table = Table("processes", "step", "wait for the slowest", "exchange", "efficiency", "without overlap")
    for line in lines:
        times = [f"{1000 * line[key]:.3g} ms" for key in ("step_s", "wait_s", "exchange_s")]
        shares = [f"{100 * line[key]:.0f} %" for key in ("efficiency", "efficiency_without_overlap")]
        table.add_row(f"{line['processes']:,}", *times, *shares)
    open_console().print(table)
    said(f"assumed: devices {faster:g} times faster than one core here, {bandwidth:g} GB/s each, {latency:g} microseconds a message")
    if out is not None:
        said(f"table: {out / 'cost.csv'}, picture: {out / 'cost.png'}")


def fit(document: Path, out: Path | None, floors: list[str], resamples: int, as_json: bool) -> None:
    """Fit and print the laws."""
    from .fits import fit_sweep

    folder = _known(document, out)
    found = fit_sweep(folder, dict(map(_floor, floors)), resamples)
    if as_json:
        return typer.echo(json.dumps(found, ensure_ascii=False))
    for group, losses in found["groups"].items():
        for loss, item in losses.items():
            typer.echo(f"{group}, {loss}: {_sentence(item)}")
            for predicted in item.get("predictions", ()):
                typer.echo(f"  {_prediction(predicted)}")
    from .page import gamma_sentence, not_made

    for loss, rows in found["gamma_differences"].items():
        for row in rows:
            typer.echo(f"{loss}: {gamma_sentence(row)}")
    for item in found["failed"]:
        typer.echo(f"not fitted: {item['run']}: {item['reason']}")
    for line in not_made(found["missing"]):
        typer.echo(line)
    typer.echo(f"fit: {folder / 'fit.json'}")


def report(document: Path, out: Path | None, page: Path | None, floors: list[str]) -> None:
    """Fit again, as it was fitted before, with other floors if they are given, and write the page."""
    from .execute import collected
    from .fits import fit_sweep
    from .page import page as page_of

    folder = _known(document, out)
    before = json.loads((folder / "fit.json").read_text(encoding="utf-8")) if (folder / "fit.json").exists() else {}
    given = dict(map(_floor, floors)) or before.get("floors", {})
    for name, value in {} if floors else given.items():
        typer.echo(f"floor {f'{name}=' if name else ''}{value:g}, as given to `mlipfm scaling fit`")
    found = fit_sweep(folder, given, before.get("resamples", 400))
    target = page or folder / "report.html"
    atomic_write(target, page_of(f"Scaling of {folder.name}", collected(folder), found).encode())
    typer.echo(f"page: {target}")


def push(document: Path, out: Path | None, name: str, registry: str | None, as_json: bool) -> None:
    """Send points and `fit.json` to a hub."""
    from mlipfm_interfaces.registry_http import server
    from mlipfm_interfaces.registry_hub import is_hub, push_sweep
    from mlipfm_interfaces.registry_versions import check_name

    from .execute import collected

    folder, where = _known(document, out), server(registry)
    fitted = folder / "fit.json"
    if not fitted.exists():
        raise RecipeError("the sweep has no fit", where=str(folder), hint=f"`mlipfm scaling fit {document}` first")
    check_name(name)
    if not is_hub(where):
        raise where.fault("is no hub: sweeps are shown by a hub alone", "start one with `mlipfm hub up`")
    points = [asdict(point) for point in collected(folder)]
    number, new = push_sweep(where, name, points, json.loads(fitted.read_text(encoding="utf-8")))
    if as_json:
        return typer.echo(json.dumps({"name": name, "number": number, "new": new, "points": len(points)}))
    typer.echo(f"{name}, number {number}{'' if new else ' (it was there)'}: {where.address}/scaling?sweep={name}")


def coordinates(backbones: list[str], widths: list[int], steps: int, lr: float, seeds: int, *, mup: bool, as_json: bool) -> None:
    """Print the steepest slope of each backbone, and which fail."""
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.console import counter, open_console
    from rich.table import Table

    from .coordinates import FLAT, FLAT_CHANGE, WIDTHS, check_coordinates

    names, found = backbones or plugins.names("backbones"), []
    with counter("backbones", len(names)) as count:
        for name in names:
            found.append(check_coordinates(name, widths or WIDTHS, steps=steps, lr=lr, seeds=seeds, mup=mup))
            count(1)
            typer.echo(f"{name}: {found[-1].outcome}", err=True)
    if as_json:
        return typer.echo(json.dumps([item.as_dict() for item in found]))
    table = Table("backbone", "steepest output", "steepest change", "")
    for item in found:
        values = [f"{slope:+.3f} ± {error:.3f}" for slope, error in (item.outputs.steepest, item.changes.steepest)]
        table.add_row(item.backbone, *values, item.outcome)
    open_console().print(table)
    widths_text = ", ".join(map(str, found[0].widths))
    typer.echo(
        f"slopes of log |output of a block| and log |its change by training| in log width, widths {widths_text}, after steps 1 to {steps}"
    )
    typer.echo(f"± is the standard error over {seeds} seeds; flat: below {FLAT:g} and {FLAT_CHANGE:g}; undecided: take more --seeds")
    failed = [item.backbone for item in found if item.outcome == "not flat"]
    typer.echo(f"not flat: {', '.join(failed)}" if failed else "none grows or shrinks with the width")


def _floor(text: str) -> tuple[str, float]:
    """`LOSS=VALUE`, or a value alone."""
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise RecipeError(
            f"the floor in {text!r} is not a number >= 0",
            where="--floor",
            hint="give LOSS=VALUE, such as force=1.5, in the unit of the loss",
        )
    return name.strip(), number


def _sentence(item: dict[str, Any]) -> str:
    from .laws import at_edge

    if "refused" in item:
        return f"no law: {item['refused']}"
    low, high = item["floor"]["ci95"]
    parts = [f"floor {item['floor']['value']:.4g} ({low:.4g} to {high:.4g})"]
    for axis, value in item["exponents"].items():
        edge = ", at the edge of what is searched: not determined" if at_edge(value["value"]) else ""
        parts.append(f"exponent of {axis} {value['value']:.3f} ({value['ci95'][0]:.3f} to {value['ci95'][1]:.3f}){edge}")
    best = item.get("allocation", {})
    if "a" in best:
        parts.append(f"best N ~ C^{best['a']['value']:.2f} ({best['a']['ci95'][0]:.2f} to {best['a']['ci95'][1]:.2f})")
    return ", ".join(parts)


def _prediction(item: dict[str, Any]) -> str:
    low, high = item["ci95"]
    size = f"{item['run']}, {item['parameters']:,.0f} parameters and {item['atoms']:,.0f} atoms"
    text = f"{size}: predicted {item['predicted']:.4g} ({low:.4g} to {high:.4g})"
    if "observed" not in item:
        return text
    where = "inside" if item["inside"] else "outside"
    return f"{text}, observed {item['observed']:.4g}: {100 * item['relative_error']:+.1f} %, {where} the interval"


def _folder(document: Path, out: Path | None) -> Path:
    return out or document.with_suffix("")


def _known(document: Path, out: Path | None) -> Path:
    """The folder of a sweep whose document is the one its runs were made by."""
    from .plan import claim

    sweep, folder = load_sweep(document), _folder(document, out)
    if not (folder / "sweep.json").exists():
        raise RecipeError("no run of this sweep has been made", where=str(folder), hint=f"`mlipfm scaling run {document}` first")
    claim(sweep, folder)
    return folder
