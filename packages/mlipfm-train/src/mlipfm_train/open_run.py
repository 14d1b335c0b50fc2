"""Opening a run: every part made from the recipe, preflight, and the last training state if there is one."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlipfm_data.batches import CostModel
from mlipfm_data.store.structure_table import StructureTable
from mlipfm_interfaces.checkpoint import load_model, save_potential
from mlipfm_interfaces.errors import InvalidStructureError, RecipeError
from mlipfm_interfaces.examples import chosen, examples_json
from mlipfm_interfaces.files import atomic_write, lock
from mlipfm_interfaces.metrics import group_of
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Objective
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.trained_states import DEFAULT_STATES, States, condition_remark, states_of

from .adaptation import make_adapter, rate_factors, what_trains
from .data_statistics import DataStatistics, collect_statistics, sample
from .events import Event, EventLog, read_events
from .frames import Frames, frame_costs, in_budget
from .initial_potential import Start, start_fresh, start_from
from .objectives.potential_features import prepare_objectives
from .optimizers import adamw
from .plugin_options import make, plugin_of
from .preflight import Report, check_baseline, check_data, check_held_out, check_labels, check_potential, check_time, time_step
from .provenance import describe, provenance, trained_states
from .recipe import PluginChoice, Recipe, dump_recipe
from .reference_energies import ASKED, stated_references
from .resume import extension_lines, refuse_changes
from .ridge_readout import fit_readout
from .run import Run
from .sources import SourceContext
from .step import Step, learned
from .strategies.process_group import missing_ranks_named
from .training_state import load_newest_state

Listener = Callable[[Event], None]


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a run that was refused before it began: it holds nothing but the lock, and perhaps a log without events."""
    left = {path.name: path for path in folder.iterdir()}
    if left.keys() <= {"lock", "events.jsonl"} and ("events.jsonl" not in left or left["events.jsonl"].stat().st_size == 0):
        for path in left.values():
            path.unlink()
        folder.rmdir()


@contextmanager
def open_run(
    recipe: Recipe,
    folder: Path,
    *,
    source: Callable[[SourceContext], Any] | None = None,
    objectives: Mapping[str, Objective] | None = None,
    potential: Potential | None = None,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    refuse_label_faults: bool = False,
) -> Iterator[Run]:
    """A Run ready for its next step.

    Args:
        source: makes the Source from its context, instead of the recipe's plug-in.
        objectives: by name, instead of the recipe's plug-ins.
        potential: to start from, instead of the recipe's; ignored when a run is continued.
        listeners: called with every event, on rank 0. say: receives the lines of preflight, or where a run is continued, on rank 0; among
            them are likely label errors of new runs. interrupted: whether to stop after the step that is being done, with its state saved.
        refuse_label_faults: labels that contradict physics are refused, and not only reported.

    Raises:
        RecipeError: the folder holds a run of another recipe (with the differences), and what preflight refuses.
        RefusedFileError: the folder holds a run on stores of another content.
        LockedError: another process trains in this folder.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        strategy, placed = _place(recipe, folder, stack)
        chief, resuming = strategy.rank == 0, strategy.collect((folder / "recipe.yaml").exists())[0]
        torch.manual_seed(int(stream(recipe.seed, "init").integers(2**63)))
        objectives_by_name, weight_rule, recipe = _plugins(recipe, placed, objectives, source is None)
        train, valid = Frames(recipe.data.train, recipe.data.levels), Frames(recipe.data.valid, recipe.data.levels)
        report = Report()
        if resuming:
            initial = _kept(recipe, folder, train, valid, objectives_by_name)
        else:
            initial = _start(recipe, train, valid, objectives_by_name, potential, report)
            if refuse_label_faults or (chief and say is not None):  # all ranks refuse, or none
                check_labels([train, valid], report, refuse=refuse_label_faults)
        context = _source_context(recipe, train, strategy.share, initial.start.potential)
        source_plugin = source(context) if source is not None else make("sources", recipe.data.source, context)[0]
        getattr(weight_rule, "follow", lambda source: None)(source_plugin)  # optional: `reptile` belongs to the source `tasks`
        exported, step = _step(recipe, initial, train, objectives_by_name, placed.name, report)
        events = EventLog(folder / "events.jsonl" if chief else None, list(listeners))
        stack.callback(events.close)
        run = Run(
            recipe=recipe,
            folder=folder,
            step=step,
            strategy=strategy,
            source=source_plugin,
            weight_rule=weight_rule,
            exported=exported.to(strategy.device).eval(),
            events=events,
            train=train,
            valid=valid,
            valid_runs=_valid_runs(valid, context),
            valid_groups=[group_of(s) for s in valid],
            extra=initial.extra,
            began=began,
            interrupted=interrupted,
            preflight=report,
            identity=initial.identity,
        )
        _set_up(run, initial, resuming, say if chief and say is not None else lambda line: None)
        yield run


@dataclass(frozen=True)
class _Initial:
    """What a run begins with. extra: for the manifests. previous_recipe: the same in a new run. identity: see `Run`; empty in a new run."""

    start: Start
    extra: dict[str, Any]
    previous_recipe: Recipe
    identity: str = ""


def _place(recipe: Recipe, folder: Path, stack: ExitStack) -> tuple[Any, PluginChoice]:
    """Return the strategy and its options; on rank 0 the folder is made and locked. A new one is removed again if the run is refused."""
    strategy, placed = make("strategies", recipe.strategy, clip=recipe.optimizer.clip)
    stack.callback(strategy.close)
    stack.enter_context(missing_ranks_named(strategy.world_size))
    if strategy.rank == 0:
        if not folder.exists():
            stack.callback(_remove_unused, folder)
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock(folder / "lock"))
    return strategy, placed


def _kept(recipe: Recipe, folder: Path, train: Frames, valid: Frames, objectives: Mapping[str, Objective]) -> _Initial:
    """Return what the run in the folder began with. Raises what `refuse_changes` raises."""
    potential, manifest = load_model(folder / "initial.safetensors")
    previous_recipe = refuse_changes(recipe, folder, manifest["extra"], train, valid)
    prepare_objectives(objectives, potential, train.structure_table().atomic_numbers)
    extra = manifest["extra"] | {"recipe": _in_manifest(recipe)}
    take_unstated_as_default(potential, extra.get("trained_states"))
    return _Initial(Start(potential), extra, previous_recipe, manifest["digest"])


def _step(
    recipe: Recipe, initial: _Initial, train: Frames, objectives: Mapping[str, Objective], strategy: str, report: Report
) -> tuple[Potential, Step]:
    """Return a copy of the potential to export weights with, and the step module, in which only what `adapt` names trains."""
    potential, adapt = initial.start.potential, recipe.adapt
    if adapt is not None and adapt.mode == "heads" and not initial.identity:
        fit_readout(potential, train, **_readout_weights(recipe), ridge=adapt.ridge)
    exported = copy.deepcopy(potential)
    adapter = make_adapter(potential, adapt, recipe.seed, strategy)
    if adapt is not None:
        report.say(what_trains(potential, adapter, adapt))
    return exported, Step(potential.train(), objectives, adapter)


def _set_up(run: Run, initial: _Initial, resuming: bool, say: Callable[[str], None]) -> None:
    """Begin the run, or load its last state; then the strategy and the weight rule are ready for the next step."""
    getattr(run.strategy, "check", lambda step: None)(run.step)  # optional: a strategy of another package may not have it
    if not resuming:
        _begin(run, initial.start, run.preflight, say)
    run.strategy.setup(run.step, adamw(run.recipe.optimizer, rate_factors(initial.start.potential, run.recipe.adapt)))
    state = load_newest_state(run.folder / "state", run.identity) if resuming else None
    if state is not None:
        run.load_state_dict(state)
    else:
        getattr(run.weight_rule, "begin", lambda parameters: None)(run.strategy.live_parameters())
    if resuming:
        _continue(run, initial.previous_recipe, state is not None, say)


def _continue(run: Run, previous_recipe: Recipe, saved: bool, say: Callable[[str], None]) -> None:
    """Print where a resumed run continues. If it has more steps than before, record that in its folder and in the manifests of its models."""
    longer = extension_lines(previous_recipe, run.recipe, run.next_step)
    if run.strategy.rank == 0:
        if longer:
            run.events.note("extension", run.next_step, steps=[previous_recipe.steps, run.recipe.steps])
        if previous_recipe != run.recipe:
            atomic_write(run.folder / "recipe.yaml", dump_recipe(run.recipe).encode())
        log = run.folder / "events.jsonl"
        past = [{"at": e["step"], "steps": e["values"]["steps"]} for e in read_events(log) if e["kind"] == "extension"]
        run.extra |= {"extensions": past} if past else {}
    for line in [*longer, _continued(run, saved)]:
        say(line)


def _continued(run: Run, saved: bool) -> str:
    """Return the line that says where a resumed run continues."""
    step, steps = run.next_step, run.recipe.steps
    if step >= steps:
        return f"all {steps} steps are done: nothing to train"
    if run.out_of_patience:
        return f"{run.why_ended('early stop')}: nothing to train"
    if not saved:
        return f"starts again with the first of {steps} steps: no training state was saved yet"
    return f"goes on with step {step + 1} of {steps}"


def _in_manifest(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as models have it. How long one command may take is no property of a model."""
    return recipe.model_dump(mode="json", exclude={"time_limit"})


def _plugins(
    recipe: Recipe, placed: PluginChoice, given: Mapping[str, Objective] | None, of_recipe: bool
) -> tuple[dict[str, Objective], Any, Recipe]:
    """Return objectives by name, weight rule, and the recipe with all options of its plug-ins.

    Args:
        placed: the strategy with its options. given: objectives that the caller makes itself. of_recipe: whether the source is that of the recipe.
    """
    by_name, chosen = dict[str, Objective](), list(recipe.objectives)
    for k, named in enumerate(recipe.objectives if given is None else []):
        objective, chosen[k] = make("objectives", named)
        by_name[named.name if named.name not in by_name else f"{named.name}-{len(by_name) + 1}"] = objective
    weight_rule, rule = make("weight_rules", recipe.weight_rule)
    source = plugin_of("sources", recipe.data.source, given=1)[1] if of_recipe else recipe.data.source
    changes = {"objectives": chosen, "weight_rule": rule, "strategy": placed, "data": recipe.data.model_copy(update={"source": source})}
    return by_name if given is None else dict(given), weight_rule, recipe.model_copy(update=changes)


def _source_context(recipe: Recipe, train: Frames, share: tuple[int, int], potential: Potential) -> SourceContext:
    """Return what a Source is made from: the structures, and what a batch may cost. share: see `Strategy.share`."""
    cost = CostModel(recipe.data.cost.atom, recipe.data.cost.edge, recipe.data.cost.batch)
    return SourceContext(train, recipe.data.budget, potential.spec.graphs[0].cutoff, recipe.seed, *share, cost, recipe.steps)


def _valid_runs(valid: Frames, context: SourceContext) -> list[slice]:
    """Return the validation structures in batches of the budget."""
    if not len(valid):
        return []
    return in_budget(frame_costs(valid, context.cutoff, model=context.cost), context.budget - context.cost.per_batch)


def _start(
    recipe: Recipe, train: Frames, valid: Frames, objectives: Mapping[str, Objective], potential: Potential | None, report: Report
) -> _Initial:
    """Run preflight on the data; return the starting potential and the provenance of the model.

    Without training structures (a Source that simulates makes its own) a potential or `init_from` is required.
    """
    for store in (*train.stores, *valid.stores):
        store.require_complete()
    counted, held_out = train.structure_table(), valid.structure_table()
    if not len(train):
        if potential is None and recipe.init_from is None:
            raise RecipeError(
                "there are no training structures", where="data.train", hint="name a store, or give init_from and a source that simulates"
            )
        facts = DataStatistics.empty()
    else:
        facts = collect_statistics(train, counted, recipe.seed, stated_references(recipe))
        _weightless(train, valid, report)
        check_data(recipe, facts, objectives, report)
        check_held_out(counted, held_out, report)
        check_time(train, valid, report)
    if potential is not None:
        start = Start(potential, origin={})
    else:
        fresh = recipe.init_from is None
        start = (
            start_fresh(recipe, facts, train)
            if fresh
            else start_from(recipe, facts, [train[k] for k in sample(counted, recipe.seed, ASKED)])
        )
    prepare_objectives(objectives, start.potential, counted.atomic_numbers)
    check_potential(start, facts, objectives, held_out, report)
    held = valid if len(valid) else train
    check_baseline(start.potential, facts, held, report, given="energy" in learned(objectives) and bool(stated_references(recipe)))
    adapt = recipe.adapt
    readouts_only = adapt is not None and adapt.mode in ("frozen", "heads")
    if adapt is not None and readouts_only:
        _check_states(start, counted, adapt.mode)
    sources = provenance(train, counted, start.origin, valid, held_out, readouts_only=readouts_only)
    for line in describe(sources):
        report.say(line)
    _take_unstated_as_default(start, counted, report)
    default = _default_level(start, facts)
    extra = {
        "recipe": _in_manifest(recipe),
        **sources,
        "examples": examples_json(chosen(valid if len(valid) else train)),
        **({"default_level": default} if default is not None else {}),
    }
    return _Initial(start, extra, recipe)


def take_unstated_as_default(potential: Potential, trained: States | None) -> list[str]:
    """See `AssembledPotential.take_unstated_as_default`; nothing for potentials that have no such method."""
    take: Callable[[States], list[str]] = getattr(potential, "take_unstated_as_default", lambda trained: [])
    return take(trained or {})


def _take_unstated_as_default(start: Start, counted: StructureTable, report: Report) -> None:
    """Do what the warnings of the starting model say of structures that give no charge or multiplicity."""
    taken = take_unstated_as_default(start.potential, states_of((start.origin or {}).get("extra")))
    for name, missing in (("total_charge", ~counted.charge_stated), ("spin_multiplicity", counted.spin_multiplicity == 0)):
        if name in taken and missing.any():
            what, word = name.replace("_", " "), DEFAULT_STATES[name][1]
            report.say(f"{int(missing.sum()):,} structures give no {what} and are taken as {word}, as the starting model takes them")


def _default_level(start: Start, facts: DataStatistics) -> str | None:
    """Return the level that a model of several predicts where none is requested: the one of its data, else that of the model it comes from."""
    known = start.potential.spec.levels
    trained = [level for level in known if level in facts.levels]
    before = (start.origin or {}).get("extra", {}).get("default_level")
    if len(known) < 2:
        return None
    return trained[0] if len(trained) == 1 else before if before in known else None


def _check_states(start: Start, counted: StructureTable, mode: str) -> None:
    """Refuse charges and multiplicities that the starting model was never shown, where their weights do not train."""
    before, shown = states_of((start.origin or {}).get("extra")) or {}, trained_states(counted, None) or {}
    try:
        for name in before.keys() & set(start.potential.spec.conditions):
            for value in shown[name]:
                condition_remark(name, value, before[name])
    except InvalidStructureError as error:
        raise RecipeError(
            f"mode {mode} trains readouts, not what a charge or multiplicity means, and {error.what}",
            where="adapt.mode",
            hint="adapt=null or adapt.mode=layerwise trains it",
        ) from None


def _readout_weights(recipe: Recipe) -> dict[str, float]:
    """Weights of energies and forces, for the regression of the last layer.

    Raises:
        RecipeError: objectives that the regression does not have.
    """
    first, *others = recipe.objectives
    if others or first.name != "energy-force":
        names = ", ".join(objective.name for objective in recipe.objectives)
        raise RecipeError(
            f"mode heads solves for energies and forces, and not for {names}",
            where="objectives",
            hint="energy-force alone, or adapt.mode=frozen",
        )
    return {key: float(first.options.get(f"{key}_weight", 1.0)) for key in ("energy", "forces")}


def _weightless(train: Frames, valid: Frames, report: Report) -> None:
    for frames, which in ((train, "training"), (valid, "validation")):
        if frames.weightless:
            report.say(f"{frames.weightless} {which} structures have weight 0: they are left out of everything")


def _begin(run: Run, start: Start, report: Report, say: Callable[[str], None]) -> None:
    """The end of preflight; then the files that make the folder a run. `recipe.yaml` comes last: without it there is no run."""
    if not getattr(run.source, "uses_potential", True):  # a Source that simulates makes no batch that nobody trains on
        state = copy.deepcopy(run.source.state_dict())
        run.begin(-1)
        time_step(run.step, run.collate(run.source.next_batch(None), 0), run.recipe.steps, report)
        run.source.load_state_dict(state)
    for line in getattr(run.source, "describe", list)():
        report.say(line)
    for line in report.lines:
        say(line)
    if run.strategy.rank == 0:
        run.identity = save_potential(run.folder / "initial.safetensors", start.potential, run.extra)
        run.events.emit("preflight", 0, lines=report.lines, **report.facts)
        atomic_write(run.folder / "recipe.yaml", dump_recipe(run.recipe).encode())
