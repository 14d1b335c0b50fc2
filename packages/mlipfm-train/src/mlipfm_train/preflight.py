"""Preflight: before step 0, say what will happen and refuse what cannot work."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mlipfm_data.curation.trajectories import beside_training, comparison_line
from mlipfm_data.label_checks.checks import inspect
from mlipfm_data.label_checks.declared_units import label_error, with_advice_for_store
from mlipfm_data.store.structure_table import StructureTable, shared
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import (
    LevelError,
    MissingLabelsError,
    MlipfmError,
    PropertyNotAvailableError,
    RecipeError,
    UnknownElementError,
)
from mlipfm_interfaces.label_weights import force_weights
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.protocols import Objective
from mlipfm_interfaces.quantities import QUANTITIES, quantity
from mlipfm_interfaces.reference_rank import undetermined_energies
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level

from .data_statistics import OF_MOLECULES, DataStatistics
from .frames import Frames
from .initial_potential import Start
from .recipe import Recipe
from .step import Step, learned
from .step_work import count_work
from .views import StepBatch

#: Structures of which the error of the starting model is measured.
BASELINE = 50
#: eV/atom. Sums of atomic energies are off by less than 1 for ordinary matter; nothing binds stronger than 9 (diamond, tungsten).
ABSURD_RESIDUAL = 3.0
#: eV/atom, above what a model that is not trained is off with the right references: diamond and tungsten are bound by 9.
UNBOUND = 12.0
#: What a structure is that does not have the quantity, see `Batch.defined`.
NOT_DEFINED = {"stress": "not periodic in three directions", **dict.fromkeys(OF_MOLECULES, "periodic")}
#: Structures of a store whose labels are checked, in blocks of neighbouring frames.
INSPECTED, BLOCK = 6000, 12
#: Training structures among which neighbours in time of validation structures are looked for.
NEIGHBOURS = 20_000
#: What a potential has without a head of its own, or not at all.
NO_READOUT = ("energy", "forces", "stress", "atomic_energies", "born_charges")


@dataclass
class Report:
    """What preflight found: `lines` for people, `facts` for the event log; `duration` is the one of the lines that says how long the run takes."""

    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    duration: str = ""

    def say(self, text: str, **facts: Any) -> None:
        self.lines.append(text)
        self.facts.update(facts)


def check_data(recipe: Recipe, facts: DataStatistics, objectives: Mapping[str, Objective], report: Report) -> None:
    """Coverage of labels, levels and states by the training data.

    Raises:
        MissingLabelsError: if no structure has a label that an objective requires; the labels that were found are named.
    """
    if recipe.schedule.warmup >= recipe.steps > 1:
        report.say(
            f"the warm-up of {recipe.schedule.warmup:,} steps is longer than the run of {recipe.steps:,}: the learning rate stays below "
            f"{recipe.optimizer.lr * recipe.steps / recipe.schedule.warmup:.2g} and never reaches the {recipe.optimizer.lr:g} that were asked",
            warmup=recipe.schedule.warmup,
        )
    found = ", ".join(f"{key} ({count})" for key, count in sorted(facts.labels.items())) or "none"
    where = ", ".join(recipe.data.train) or "the training data"
    for name, objective in objectives.items():
        report.say(f"objective {name} needs {'the labels ' + ', '.join(objective.requires) if objective.requires else 'no labels'}")
        for key in objective.requires:
            if key in facts.undefined and facts.undefined[key] == facts.labels[key]:
                what = f"all {facts.labels[key]} structures with a label {key!r}, which {name!r} needs, are {NOT_DEFINED[key]}"
                raise MissingLabelsError(what, where=where, hint="add structures that have it, or switch this term off")
            if not facts.labels[key]:
                hint = f"labels found: {found}; map the keys of the file on import, or switch this term off"
                raise MissingLabelsError(f"none of {facts.n} structures has the label {key!r} that {name!r} needs", where=where, hint=hint)
            lacking, without = facts.n - facts.labels[key], facts.undefined[key]
            if lacking:
                report.say(f"{lacking} of {facts.n} structures have no {key!r}: they do not enter that term of {name!r}")
            if without:
                report.say(f"{without} structures with {key!r} are {NOT_DEFINED[key]}: they do not enter that term of {name!r}")
    names = " ".join(symbol(z) for z in facts.elements)
    report.say(f"{facts.n} structures, {facts.atoms / facts.n:.1f} atoms on average, elements {names}", structures=facts.n)
    report.say(f"labels: {found}", labels=dict(facts.labels))
    _say_unused(facts, objectives, report)
    for level, count in sorted(facts.levels.items()):
        report.say(f"level {level}: {count} structures, {_references_line(facts, level)}")
    _warn_of_residuals(recipe, facts, report)
    if facts.sampled < facts.n:
        report.say(f"reference energies and the size of forces are those of {facts.sampled} structures, all else is of all of them")
    report.say(f"licences: {', '.join(sorted(k or 'not given' for k in facts.licences))}", licences=sorted(facts.licences))


def _say_unused(facts: DataStatistics, objectives: Mapping[str, Objective], report: Report) -> None:
    """Labels that are there and that nothing is trained on."""
    used = {key for objective in objectives.values() for key in objective.requires}
    idle = [key for key in sorted(facts.labels) if facts.labels[key] and key not in used and key in QUANTITIES and QUANTITIES[key].target]
    if idle:
        shown = ", ".join(f"{key} ({facts.labels[key]} of {facts.n} structures)" for key in idle)
        own = [f"`{key}_weight` of energy-force is 0" for key in ("energy", "forces", "stress") if key in idle]
        ways = "; ".join([*own, *(["the objective `quantities` trains on others"] if len(idle) > len(own) else [])])
        report.say(f"labels that no objective uses, the model will not learn them: {shown}; {ways}", unused_labels=idle)


def check_labels(sets: Sequence[Frames], report: Report, *, refuse: bool = False) -> None:
    """Likely label errors that are used, one line for each store, as an import names them: it does not keep them, so they are looked for
    again, in large stores among `INSPECTED` structures.

    Raises:
        UnitError, InvalidStructureError: with `refuse`, labels that contradict physics; what is only unusual is a warning.
    """
    faulty: dict[str, list[str]] = {}
    for frames, path, rows in [(f, str(s.path), np.flatnonzero(f.set_of == k)) for f in sets for k, s in enumerate(f.stores)]:
        chosen = (frames[int(rows[k])] for k in _blocks(len(rows)))
        found = with_advice_for_store(item for item in inspect(chosen) if item.severity != "note")
        if refuse and found and found[0].severity == "fault":
            accept = f"`mlipfm data check-labels {path}` shows them, --accept-label-errors trains on them as they are"
            raise label_error(found[0], path, f"{found[0].hint}; {accept}")
        if found:
            faulty[path] = list(dict.fromkeys([*faulty.get(path, []), *(f"{item.severity} {item.code}" for item in found)]))
            report.say(f"warning: labels of {path}: {', '.join(faulty[path])}; `mlipfm data check-labels {path}` says what and what to do")
    if faulty:
        report.facts["label_faults"] = faulty


def _blocks(n: int) -> np.ndarray:
    """Places of the structures to inspect: all, or blocks spread evenly, since neighbouring frames are compared."""
    if n <= INSPECTED:
        return np.arange(n)
    starts = np.linspace(0, n - BLOCK, INSPECTED // BLOCK).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(BLOCK))


def check_held_out(train: StructureTable, valid: StructureTable, report: Report) -> None:
    """Validation structures are no training structures: same key (geometry, charge, spin, field) and level.

    Raises:
        RecipeError: if all of them are; some are a warning.
    """
    known, split = len(shared(train, valid)), "`mlipfm data split STORE --by random --fractions train=0.9,valid=0.1 --out PARTS`"
    if known == len(valid) > 0:
        what = f"every validation structure is a training structure ({known} of {len(valid)}, same geometry and level): nothing is held out"
        raise RecipeError(what, where="data.valid", hint=f"{split} makes two stores of one, or leave data.valid out")
    if known:
        told = f"warning: {known} of {len(valid)} validation structures are training structures (same geometry and level)"
        report.say(f"{told}: errors look smaller than they are; {split} makes two stores that share none", validation_in_training=known)


def check_time(train: Frames, valid: Frames, report: Report) -> None:
    """Validation structures do not lie between training structures of the same trajectory. Of large sets the first `NEIGHBOURS` are looked at."""
    if not len(train) or not len(valid):
        return
    share = min(1.0, NEIGHBOURS / len(train))
    beside = beside_training(train[: int(share * len(train))], valid[: math.ceil(share * len(valid))])
    if beside.matters:
        report.say(comparison_line(beside, "validation structures"), validation_beside_training=beside.count)


def check_potential(
    start: Start, facts: DataStatistics, objectives: Mapping[str, Objective], valid: StructureTable, report: Report
) -> None:
    """The potential gives what objectives and data ask.

    Raises:
        PropertyNotAvailableError, UnknownElementError, LevelError: naming what it lacks and what it has.
    """
    spec, potential = start.potential.spec, start.potential
    for name, objective in objectives.items():
        for key in objective.outputs:
            if key not in spec.outputs:
                hint = f"it predicts {', '.join(spec.outputs)}"
                if quantity(key).layout in ("system", "atom") and key not in NO_READOUT:
                    hint += f"; a head of its own: potential.heads={{{key}: {{}}}}"
                raise PropertyNotAvailableError(f"{name!r} needs {key!r} from the potential", hint=hint)
    _refuse_idle_heads(start, objectives)
    if len(valid) and not learned(objectives):
        report.say("no label is learned, so that the validation data choose no model: last.safetensors is the result")
    _check_domain(potential, facts.elements, sorted(facts.levels), "the training data")
    _check_domain(potential, valid.elements, sorted({str(kind.level) for kind in valid.kinds}), "the validation data")
    states = (
        ("total_charge", facts.charged, facts.n, "are charged"),
        ("spin_multiplicity", facts.open_shell, facts.n, "are open-shell"),
        ("external_field", facts.in_field, facts.sampled, "are in an external field"),
    )
    for condition, count, n, words in states:
        if count and condition not in spec.conditions:
            report.say(
                f"{count} of {n} structures {words}, which this potential does not see (its conditions: {', '.join(spec.conditions) or 'none'})"
            )
    if not spec.invariant and all(getattr(objective, "augment", "none") == "none" for objective in objectives.values()):
        report.say(
            "this potential is not invariant under rotations, and no objective shows them: set `augment: rotations` in the objective"
        )
    for level, found in start.references.items():
        for text in found.remarks():
            report.say(f"references of level {level}: {text}")
    for text in undetermined_energies(potential, _compositions(valid)):
        report.say(f"warning: validation data: {text}")
    numbers = sum(p.numel() for p in potential.parameters() if p.requires_grad)
    auxiliary = sum(p.numel() for o in objectives.values() if o.module is not None for p in o.module.parameters())
    more = f" and {auxiliary:,} auxiliary ones that are not exported" if auxiliary else ""
    report.say(f"{spec.kind} forces, {spec.dtype}, {numbers:,} parameters{more}", parameters=numbers, auxiliary=auxiliary)
    if start.copied:
        report.say(
            f"start: {len(start.copied)} parameters copied, {len(start.fresh)} fresh {list(start.fresh)}, {len(start.dropped)} dropped"
        )


def _refuse_idle_heads(start: Start, objectives: Mapping[str, Objective]) -> None:
    """A head that starts at random and that no objective trains would predict noise."""
    asked = {key for objective in objectives.values() for key in objective.outputs}
    for head in getattr(start.potential, "config", {}).get("heads") or {}:
        trained = {head, "born_charges"} if head == "dipole" else {head}
        if not trained & asked and any(name.startswith(f"heads.parts.{head}.") for name in start.fresh):
            hint = f"add the objective {{name: quantities, weights: {{{head}: 1.0}}}}, or leave the head out"
            raise RecipeError(f"no objective trains the head {head!r}: it would predict noise", where="potential.heads", hint=hint)


def _compositions(table: StructureTable) -> Iterator[tuple[str | None, np.ndarray]]:
    """Level and atomic numbers of every structure."""
    parts = np.split(table.atomic_numbers, np.cumsum(table.n_atoms)[:-1]) if len(table) else []
    return ((table.kinds[kind].level, numbers) for kind, numbers in zip(table.kind.tolist(), parts, strict=True))


def check_baseline(
    potential: Potential, facts: DataStatistics, frames: Sequence[Structure], report: Report, *, given: bool = False
) -> None:
    """Errors before training on some structures spread over `frames`, beside those of predicting zero forces.

    Args:
        given: the recipe gives reference energies, and energies shall be learned.

    Raises:
        RecipeError: the given reference energies leave energies off by more than anything binds.
    """
    picks = sorted({int(k) for k in np.linspace(0, len(frames) - 1, BASELINE)}) if len(frames) else []
    sample = [s for s in (frames[k] for k in picks) if s.labels]
    keys = [key for key in ("energy", "forces") if any(key in s.labels for s in sample)]
    if not keys:
        return
    predicted = evaluate(potential, sample, keys)
    pairs = [(key, p[key], s) for p, s in zip(predicted, sample, strict=True) for key in keys if key in s.labels]
    energy = [abs(float(p) - float(s.labels["energy"])) / len(s) for key, p, s in pairs if key == "energy"]
    force = [np.abs(p - s.labels["forces"])[force_weights(s) > 0].ravel() for key, p, s in pairs if key == "forces"]
    if energy:
        report.say(f"before training: energy MAE {1000 * np.mean(energy):.1f} meV/atom", baseline_energy_mae=float(np.mean(energy)))
        if given and np.mean(energy) > UNBOUND:
            what = f"with these reference energies, energies before training are off by {np.mean(energy):.3g} eV/atom, more than anything binds"
            hint = "leave them out, and they are fitted; or give those of the level and in eV"
            raise RecipeError(what, where="potential.references", hint=hint)
    if force:
        mean = float(np.mean(np.concatenate(force)))
        report.say(
            f"before training: force MAE {1000 * mean:.1f} meV/A; predicting zero: {1000 * facts.mean_force:.1f}", baseline_force_mae=mean
        )


def time_step(step: Step, batch: StepBatch, steps: int, report: Report) -> None:
    """Measure one forward and backward pass of the first batch; gradients are discarded, nothing is changed."""
    seconds = []
    for _ in range(2):  # the first call pays for start-up
        begin = time.perf_counter()
        sum((value.sum() for value, _ in step(batch).values())).backward()
        seconds.append(time.perf_counter() - begin)
        step.zero_grad(set_to_none=True)
    size = f"({batch.batch.n_systems} systems, {len(batch.batch.positions)} atoms in the first batch)"
    report.duration = f"{steps} steps of about {1000 * seconds[-1]:.0f} ms: {duration(steps * seconds[-1])} {size}"
    figures = {"seconds_per_step": seconds[-1], "systems": batch.batch.n_systems, "atoms": len(batch.batch.positions)}
    report.say(report.duration, **figures)
    work = count_work(step, lambda: sum((value.sum() for value, _ in step(batch).values()), start=torch.zeros(())))
    report.say(f"a step: {work}", flops=work.flops, bytes=work.kept + work.weights)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _warn_of_residuals(recipe: Recipe, facts: DataStatistics, report: Report) -> None:
    """Energies that differ by more than bonds can, once every element has its own: no potential learns them."""
    residuals = {level: found.scatter for level, found in facts.reports.items() if (found.scatter or 0.0) > ABSURD_RESIDUAL}
    stores = " ".join(recipe.data.train)
    for level, residual in sorted(residuals.items()):
        report.say(
            f"warning: energies of level {level} differ by {residual:.3g} eV/atom from the sums of their atoms, more than bonds can: mixed levels "
            f"of theory under one name, or a wrong unit? `mlipfm data check-labels{' ' * bool(stores)}{stores}` looks for the cause"
        )
    if residuals:
        report.facts["absurd_residuals"] = residuals


def _references_line(facts: DataStatistics, level: str) -> str:
    found = facts.references.get(level)
    if found is None:
        return "no energies, so no reference energies"
    rank = "" if found.rank == found.n_elements else " (only combinations of them are determined)"
    given = facts.reports[level].given
    kept = f", not fitted: {', '.join(f'{symbol(z)} ({why})' for z, why in given.items())}" if given else ""
    return f"references of rank {found.rank} for {found.n_elements} elements{rank}, residual {1000 * (found.residual or 0.0):.1f} meV/atom{kept}"


def _check_domain(potential: Potential, elements: Sequence[int], levels: Sequence[str], what: str) -> None:
    missing = [symbol(z) for z in elements if z not in potential.spec.elements]
    if missing:
        names = " ".join(symbol(z) for z in potential.spec.elements)
        raise UnknownElementError(f"{what} contain {' '.join(missing)}, which the potential does not support", hint=f"it supports {names}")
    unknown: list[str] = [level for level in levels if find_level(level, potential.spec.levels) is None]
    if unknown:
        error: MlipfmError = LevelError(
            f"{what} have level {unknown[0]!r}", hint=f"the potential supports {', '.join(potential.spec.levels)}"
        )
        raise error
