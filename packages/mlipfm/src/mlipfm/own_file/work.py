"""From a file to a model: import, split, preflight, errors before training, training, errors after, uncertainty, page.

Every stage leaves a file in the folder and is not done again when the command is: `data/`, `recipe.yaml`, `start/`, `trained/`, `records/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_data.store.store import Store
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.files import atomic_write, claim_folder, lock
from mlipfm_interfaces.interruption import until_interrupted
from mlipfm_train.adaptation import trained_by
from mlipfm_train.loop import fit
from mlipfm_train.open_run import open_run
from mlipfm_train.progress import ProgressBar
from mlipfm_train.recipe import Recipe, dump_recipe, load_recipe
from mlipfm_train.run import FitResult

from .parts import Parts, make_parts
from .recipe import check_backbone, in_words, recipe_of, with_steps
from .replay import REPLAYED, make_replay
from .request import Request
from .result import finish, measure, print_errors, write_statements
from .start import start_from_model

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What is decided before the first step.

    Attributes:
        recipe: with its number of steps. lines: of preflight. before: model before training.
    """

    recipe: Recipe
    lines: list[str]
    before: Path


def train_on_file(request: Request, say: Say) -> dict[str, Any]:
    """Do everything that `request` asks for, or go on where an earlier command stopped, and return what `result.json` holds.

    Args:
        say: receives every line for people.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the state is saved. LockedError: another process works in this folder.
        what `claim`, `make_parts`, `start_from_model` and preflight refuse.
    """
    request.check()
    check_backbone(request.backbone)
    new = not request.out.exists()
    try:
        claim_folder(request.out, request.as_json(), "request")
        with lock(request.out / "lock"):
            parts = make_parts(request, say)
            prepared = prepare(request, parts, say)
    except BaseException:
        if new and not (request.out / "recipe.yaml").exists():
            shutil.rmtree(request.out, ignore_errors=True)  # nothing but what this command began
        raise
    with lock(request.out / "lock"):
        before = measure(prepared.before, parts.test, request.out / "records" / "before.json", "before training", quantity=request.quantity)
        print_errors(before, None, say)
        trained = _train(request, prepared.recipe, say)
        level_file = request.out / "start" / "level.json"
        level = json.loads(level_file.read_bytes()) if level_file.exists() else None
        return finish(request, parts, trained, before, level, say)


def prepare(request: Request, parts: Parts, say: Say) -> Prepared:
    """Run preflight, and choose the number of steps from the time of one; or read what an earlier command has decided."""
    path, start = request.out / "recipe.yaml", request.out / "start"
    record = start / "preflight.json"
    if path.exists() and record.exists():
        lines = json.loads(record.read_bytes())
        return Prepared(load_recipe(path), lines, start / "before-training.safetensors")
    shutil.rmtree(start, ignore_errors=True)
    start.mkdir()
    recipe, lines = _recipe(request, parts, say)
    plain = recipe.model_copy(update={"adapt": None})  # of which the weights before training are those of the model
    refuse = not request.accept_label_errors
    with open_run(plain, start / "run", say=lines.append, refuse_label_faults=refuse) as run:
        seconds = run.preflight.facts["seconds_per_step"]
        recipe = with_steps(recipe, request, seconds, parts.sizes["valid"] / run.preflight.facts["systems"])
        lines.remove(run.preflight.duration)
    before = start / "before-training.safetensors"
    (start / "run" / "initial.safetensors").rename(before)
    shutil.rmtree(start / "run")
    if recipe.adapt is not None:
        lines.append(f"mode {request.mode} trains {trained_by(recipe.adapt)}")
    lines.append(f"{recipe.steps} steps of about {1000 * seconds:.0f} ms, validated every {recipe.evaluate_every} steps")
    for line in lines:
        say(line)
    write_statements("preflight", request.out / "records" / "preflight.json", before, lines)
    atomic_write(record, json.dumps(lines).encode())
    atomic_write(path, dump_recipe(recipe).encode())
    say(in_words(path))
    return Prepared(recipe, lines, before)


def _recipe(request: Request, parts: Parts, say: Say) -> tuple[Recipe, list[str]]:
    """Return the recipe without its number of steps, and what is said of the model that it starts from."""
    if request.model is None:
        if request.mode != "naive":
            raise RecipeError(f"--mode {request.mode} needs a model to start from", hint="--from MODEL")
        return recipe_of(request, parts, {}), []
    with Store(parts.train) as train:
        found = start_from_model(request, train, parts.level, keep_levels=request.mode == "replay")
    lines, replay = list(found.lines), None
    if request.replay is not None:
        folder = request.out / "data" / "replay"
        shutil.rmtree(folder, ignore_errors=True)
        count, choice = request.replay_structures or REPLAYED, request.replay_choice or "random"
        replay = make_replay(str(request.model), request.replay, folder, found.level, count, choice, request.seed)
        lines.append(
            f"replay: structures of {request.replay}, chosen by {choice}, with labels that the model predicts at level {found.level!r}"
        )
    atomic_write(request.out / "start" / "level.json", json.dumps(found.level).encode())
    return recipe_of(request, parts, found.keys, replay), lines


def _train(request: Request, recipe: Recipe, say: Say) -> FitResult:
    """Train, or go on; stops with its state saved when the user presses Ctrl-C."""
    with ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(recipe.steps))
        interrupted = stack.enter_context(until_interrupted(say))
        resuming = (request.out / "trained" / "recipe.yaml").exists()
        result = fit(recipe, request.out / "trained", listeners=[bar], interrupted=interrupted, **({"say": say} if resuming else {}))
        if result.steps < recipe.steps and interrupted():
            say(result.ended)
            raise KeyboardInterrupt
    return result
