"""What `mlipfm train` does, apart from its arguments."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.interruption import until_interrupted

from .loop import fit
from .mlflow_listener import MlflowDrain
from .open_run import open_run
from .progress import ProgressBar
from .recipe import Recipe
from .run import FitResult

EXAMPLE = """\
# A recipe of mlipfm train. Every key may be left out but potential.name (or init_from) and data.train.
format: 1
seed: 0
potential:
  name: painn            # the plug-in; other keys are its options
  forces: conservative   # or direct: faster to train, not a gradient of the energy
  backbone: {channels: 64, layers: 3, cutoff: 5.0}
# init_from: pretrained.safetensors   # instead of potential.name; other keys of potential then change the checkpoint's configuration
data:
  train: [train-store]
  valid: [valid-store]
  budget: 500            # cost of a batch: atoms + 0.1 x neighbour pairs; `--fit-costs` measures what steps really cost
  # source: {name: store, temperature: 2.0}   # several stores mixed by size^(1/2), or ratios: [3, 1]
objectives:
- {name: energy-force, energy_weight: 1.0, forces_weight: 10.0}
optimizer: {lr: 1.0e-3, weight_decay: 0.01, clip: 10.0}
schedule: {name: cosine, warmup: 100, final: 0.01}
weight_rule: {name: ema, decay: 0.999}
steps: 5000
evaluate_every: 500
checkpoint_every: 500
# patience: 5            # stop early after 5 validations in a row without a better one
# time_limit: 2h         # of one command: save, stop and go on with the same command; also --time-limit 2h
strategy: {name: single}   # ddp, fsdp2 or deepspeed-zero1, -zero2, -zero3 under torchrun
dtype: float32
tracking: {mlflow: null}   # for instance sqlite:///mlflow.db
"""


def listed() -> None:
    """Print the recipes of this package, with purpose and time."""
    from mlipfm_interfaces.console import open_console
    from rich.table import Table

    from .recipe_library import shipped_recipes

    table = Table("recipe", "backbone", "purpose", "time", title="mlipfm train RECIPE --data STORE --valid STORE --out RUN")
    for recipe in shipped_recipes():
        table.add_row(recipe.name, recipe.backbone, recipe.purpose, recipe.time)
    open_console().print(table)


def write_fitted(recipe: Recipe, out: Path) -> None:
    """Fit the cost model to measured steps and write the recipe that holds it."""
    from mlipfm_interfaces.files import atomic_write

    from .recipe import dump_recipe
    from .step_costs import fit_costs

    fitted, fit = fit_costs(recipe)
    cost = fitted.data.cost
    atomic_write(out, dump_recipe(fitted).encode())
    typer.echo(f"a step costs {cost.batch:g} ms + {cost.atom:g} ms per atom + {cost.edge:g} ms per neighbour pair")
    typer.echo(f"({fit.n} batches measured, median error {100 * fit.error:.1f} %; budget {fitted.data.budget:g} ms)")
    typer.echo(f"recipe: {out}")


def run_on_file(file: Path, out: Path | None, **options: Any) -> None:
    """Train on a file with structures and labels: the package that composes all others does it."""
    from mlipfm_interfaces import plugins

    plugins.load("workflows", "train-file")(file, out or Path(f"{file.name.partition('.')[0]}-trained"), **options)


def open_ui(address: str) -> None:
    """Show the pages of MLflow: those of a server, or of one started here that ends at Ctrl-C.

    Raises:
        RecipeError: mlflow is not installed, or there is no such file.
    """
    import subprocess
    import sys
    import webbrowser
    from importlib.util import find_spec

    if address.startswith(("http://", "https://")):
        typer.echo(address)
        webbrowser.open(address)
        return
    if find_spec("mlflow") is None:
        raise RecipeError("the pages of MLflow need the package mlflow", where="--ui", hint="pip install 'mlipfm-train[mlflow]'")
    file = Path(address.removeprefix("sqlite:///"))
    if not file.exists():
        raise RecipeError("there is no such file", where=str(file), hint="give what stands under tracking.mlflow in the recipe of a run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    typer.echo(f"http://127.0.0.1:{port} (in some seconds; Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{file}", "--port", port, "--workers", "1"]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(
            command, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, check=False
        )


def run(
    recipe: Recipe, out: Path, report: bool, as_json: bool = False, register: str | None = None, accept_label_errors: bool = False
) -> FitResult | None:
    """Train, or only report what would happen; with `as_json` the result is JSON on stdout, and everything else goes to stderr.

    Args:
        accept_label_errors: train although labels contradict physics.

    Raises:
        RecipeError: a model shall be registered, but the recipe names no MLflow. And what `fit` raises.
    """
    if register is not None and recipe.tracking.mlflow is None:
        raise RecipeError(
            "a model is registered in MLflow, and the recipe names none", where="--register", hint="add tracking.mlflow=sqlite:///mlflow.db"
        )
    if register is not None and (not register.strip() or set("/:") & set(register)):  # MLflow would refuse it after the training
        raise RecipeError(f"{register!r} cannot be the name of a model in MLflow", where="--register", hint="a name without / and :")
    chief, processes = int(os.environ.get("RANK", "0")) == 0, int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and recipe.strategy.name == "single":
        what = f"{processes} processes were started, and each would train alone what the others train"
        raise RecipeError(what, where="strategy.name", hint="strategy.name=ddp, or fsdp2, deepspeed-zero1 ...")

    refuse = not accept_label_errors

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    if report:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as scratch, open_run(recipe, Path(scratch), say=say, refuse_label_faults=refuse) as opened:
            if as_json and chief:
                typer.echo(json.dumps({"lines": opened.preflight.lines, **opened.preflight.facts}, default=str))
            return None
    with ExitStack() as stack:
        listeners = []
        if chief:
            if recipe.tracking.mlflow is not None:
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(MlflowDrain(out, recipe.tracking.mlflow, recipe.tracking.experiment, register=register, say=say))
            listeners.append(stack.enter_context(ProgressBar(recipe.steps)))
        interrupted = stack.enter_context(until_interrupted(lambda text: typer.echo(text, err=True)))
        result = fit(recipe, out, listeners=listeners, say=say, interrupted=interrupted, refuse_label_faults=refuse)
    if chief:
        for metric in result.metrics:
            say(str(metric))
        if result.steps < recipe.steps and result.ended:
            say(result.ended)
        say(f"model: {result.best or result.last}" + (f" ({result.skipped} steps skipped)" if result.skipped else ""))
        if as_json:
            typer.echo(json.dumps(_as_json(result)))
    if result.steps < recipe.steps and interrupted():
        raise KeyboardInterrupt
    return result


def _as_json(result: FitResult) -> dict[str, Any]:
    return {
        "model": str(result.best or result.last),
        "last": str(result.last),
        "steps": result.steps,
        "skipped": result.skipped,
        "ended": result.ended,
        "metrics": [metric.as_dict() for metric in result.metrics],
    }
