"""Contracts of the interfaces of training and evaluation: Source, Objective, WeightRule, Strategy, Benchmark."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel, run_benchmark, summary_of
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Benchmark, Objective, Source, WeightRule
from mlipfm_interfaces.result_records import Record
from mlipfm_interfaces.structure import Structure

from .rules import Rule, RuleResult, broken, require, rule, same

# Source


@dataclass(frozen=True)
class SourceCase:
    """How to make a Source from scratch (same seed each time), and the potential it is given (None if it needs none)."""

    make: Callable[[], Source]
    potential: Potential | None = None


SOURCE_RULES: list[Rule[SourceCase]] = []


def _keys(source: Source, n: int, potential: Potential | None) -> list[list[str]]:
    return [[s.key for s in source.next_batch(potential)] for _ in range(n)]


@rule(SOURCE_RULES, "source-batches", "It yields lists of structures that are not empty.")
def _source_batches(case: SourceCase) -> None:
    source = case.make()
    for _ in range(3):
        batch = source.next_batch(case.potential)
        require(len(batch) > 0 and all(isinstance(s, Structure) for s in batch), "a batch must be a list of at least one Structure")


@rule(SOURCE_RULES, "source-reproducible", "Two Sources made alike yield the same batches.")
def _source_reproducible(case: SourceCase) -> None:
    require(_keys(case.make(), 5, case.potential) == _keys(case.make(), 5, case.potential), "two Sources made alike yield other batches")


@rule(
    SOURCE_RULES, "source-resume", "Its state after any number of batches, loaded into a new Source, continues with the next batch exactly."
)
def _source_resume(case: SourceCase) -> None:
    for n in (0, 1, 2, 5):
        source = case.make()
        _keys(source, n, case.potential)
        state = copy.deepcopy(source.state_dict())
        resumed = case.make()
        resumed.load_state_dict(state)
        require(_keys(source, 6, case.potential) == _keys(resumed, 6, case.potential), f"resumed after {n} batches it yields other batches")


@rule(SOURCE_RULES, "source-state-is-a-snapshot", "A state that was taken does not change when the Source goes on.")
def _source_snapshot(case: SourceCase) -> None:
    source = case.make()
    _keys(source, 1, case.potential)
    state = source.state_dict()
    before = repr(state)
    _keys(source, 2, case.potential)
    require(repr(state) == before, "the state changed after it was taken")


# Objective


@dataclass(frozen=True)
class ObjectiveCase:
    """How to make an objective, a potential in float64 that has its outputs, and at least four structures with the labels it requires."""

    make: Callable[[], Objective]
    potential: Potential
    structures: Sequence[Structure]

    def prepared(self) -> Objective:
        """Return a new objective, which has seen the potential that trains if it asks for it."""
        objective = self.make()
        elements = Counter(int(z) for s in self.structures for z in s.atomic_numbers)
        getattr(objective, "prepare", lambda potential, elements: None)(self.potential, elements)
        return objective


OBJECTIVE_RULES: list[Rule[ObjectiveCase]] = []


def _terms(objective: Objective, case: ObjectiveCase, structures: Sequence[Structure]) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Terms of the views of these structures; views are keyed by the structure, so that they do not depend on the split."""
    views = [view for s in structures for view in objective.views(s, np.random.default_rng(int(s.key[:8], 16)))]
    batch = collate(views, case.potential.spec.graphs, case.potential.spec.torch_dtype)
    prediction = case.potential(batch, objective.outputs, create_graph=True)
    terms = objective.terms(prediction, batch)
    if not objective.gather:
        return terms
    gathered = {name: value for name, (value, _) in terms.items() if name in objective.gather}
    return {**{name: term for name, term in terms.items() if name not in gathered}, **objective.finish(gathered)}


def _number(value: Tensor) -> float:
    return float(value.detach())


@rule(OBJECTIVE_RULES, "objective-additive", "Sums and counts over two halves of a batch add up to those of the whole.")
def _objective_additive(case: ObjectiveCase) -> RuleResult | None:
    objective = case.prepared()
    if objective.gather:
        return RuleResult("skipped", f"it declares gather: {', '.join(objective.gather)}")
    whole = _terms(objective, case, case.structures)
    halves = [_terms(objective, case, case.structures[:1]), _terms(objective, case, case.structures[1:])]
    require(all(set(part) == set(whole) for part in halves), "the names of the terms depend on the batch")
    for name, (total, count) in whole.items():
        for what, want, parts in (("sum", total, [h[name][0] for h in halves]), ("count", count, [h[name][1] for h in halves])):
            got, wanted = float(sum(_number(p) for p in parts)), _number(want)
            same(f"the {what} of {name!r} over two halves and over the whole", got, wanted, 1e-9 * max(1.0, abs(wanted)))
    return None


@rule(
    OBJECTIVE_RULES,
    "objective-views",
    "Views are structures, at least one, made by the given generator alone; the structure itself is left alone.",
)
def _objective_views(case: ObjectiveCase) -> None:
    objective, s = case.prepared(), case.structures[0]
    key = s.key
    state = torch.get_rng_state()
    first, again = ([v.key for v in objective.views(s, np.random.default_rng(3))] for _ in range(2))
    require(len(first) > 0, "a structure has no view")
    require(first == again, "the same generator gives other views")
    require(torch.equal(state, torch.get_rng_state()), "views draw from the global random state")
    require(s.replace().key == key, "the structure was changed")


@rule(OBJECTIVE_RULES, "objective-trains", "Its terms are finite, their counts not negative, and their gradient reaches the potential.")
def _objective_trains(case: ObjectiveCase) -> None:
    terms = _terms(case.prepared(), case, case.structures)
    require(bool(terms), "there are no terms")
    for name, (total, count) in terms.items():
        require(bool(torch.isfinite(total.detach())), f"{name!r} is not finite")
        require(_number(count) > 0, f"{name!r} counts nothing although all labels are there")
    total = torch.stack([value.to(torch.float64).sum() for value, _ in terms.values()]).sum()
    parameters = [p for p in case.potential.parameters() if p.requires_grad]
    require(total.requires_grad, "the terms have no graph")
    grads = torch.autograd.grad(total, parameters, allow_unused=True)
    require(any(g is not None and bool((g != 0).any()) for g in grads), "no parameter of the potential receives a gradient")


@rule(
    OBJECTIVE_RULES, "objective-missing-labels", "Structures without the labels it requires add nothing: neither to a sum nor to a count."
)
def _objective_missing(case: ObjectiveCase) -> RuleResult | None:
    objective = case.prepared()
    if not objective.requires or objective.gather:
        return RuleResult("skipped", "it requires no labels" if not objective.requires else "it declares gather")
    bare = case.structures[0].replace(labels={}, label_std={})
    plain, padded = _terms(objective, case, case.structures[1:]), _terms(objective, case, [*case.structures[1:], bare])
    for name, (total, count) in plain.items():
        same(f"counts of {name!r} with and without a structure that has no labels", _number(padded[name][1]), _number(count), 1e-9)
        same(
            f"sums of {name!r} with and without a structure that has no labels",
            _number(padded[name][0]),
            _number(total),
            1e-9 * max(1.0, abs(_number(total))),
        )
    return None


# WeightRule


@dataclass(frozen=True)
class WeightRuleCase:
    """How to make a weight rule from scratch."""

    make: Callable[[], WeightRule]


WEIGHT_RULE_RULES: list[Rule[WeightRuleCase]] = []


def _parameters(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(4, generator=generator, dtype=torch.float64),
    }


def _walk(weights: WeightRule, live: dict[str, Tensor], steps: range) -> None:
    """A fixed walk of the live parameters, as an optimiser would make it."""
    for step in steps:
        for value, change in zip(live.values(), _parameters(1000 + step).values(), strict=True):
            value.add_(0.1 * change)
        weights.update(live, step)


@rule(WEIGHT_RULE_RULES, "weight-rule-resume", "Its state, loaded into a new rule, continues exactly: same averages, same live weights.")
def _weight_resume(case: WeightRuleCase) -> None:
    straight, live = case.make(), _parameters(0)
    _walk(straight, live, range(1, 6))
    resumed = case.make()
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    twin = {name: value.clone() for name, value in live.items()}
    _walk(straight, live, range(6, 12))
    _walk(resumed, twin, range(6, 12))
    for name in live:
        require(torch.equal(live[name], twin[name]), f"live weights {name} differ after a resume")
    for name, value in (straight.averaged() or {}).items():
        require(torch.equal(value, (resumed.averaged() or {})[name]), f"averaged weights {name} differ after a resume")


@rule(WEIGHT_RULE_RULES, "weight-rule-constant", "Weights that do not move are their own average and stay as they are.")
def _weight_constant(case: WeightRuleCase) -> None:
    weights, live = case.make(), _parameters(0)
    for step in range(1, 30):
        weights.update(live, step)
    for name, value in _parameters(0).items():
        same(f"constant weights {name} and what became of them", live[name].numpy(), value.numpy(), 1e-12)
        if (average := weights.averaged()) is not None:
            same(f"constant weights {name} and their average", average[name].numpy(), value.numpy(), 1e-12)


@rule(
    WEIGHT_RULE_RULES,
    "weight-rule-own-memory",
    "Averages have the names and shapes of the weights and are copies: reading them changes nothing.",
)
def _weight_memory(case: WeightRuleCase) -> RuleResult | None:
    weights, live = case.make(), _parameters(0)
    _walk(weights, live, range(1, 4))
    average = weights.averaged()
    if average is None:
        return RuleResult("skipped", "it exports the live weights")
    require(
        {n: v.shape for n, v in average.items()} == {n: v.shape for n, v in live.items()},
        "averages have other names or shapes than the weights",
    )
    kept = {name: value.clone() for name, value in average.items()}
    for value in live.values():
        value.add_(1.0)
    for name, value in (weights.averaged() or {}).items():
        require(torch.equal(value, kept[name]), f"the average of {name} changes with the live weights before an update")
    return None


# Strategy


@dataclass(frozen=True)
class StrategyCase:
    """What a few steps leave behind, by a strategy and by one plain process.

    Attributes:
        variations: names of what is trained (forces, two-views, hessian-row, ...).
        run: the strategy's result of a variation: numbers and parameters by name, or a `MlipfmError` before step 0 if it refuses by name.
        reference: the same from one process.
        resume: the strategy's result when it is stopped half-way and resumed; None where it has no state.
        tolerance: relative (float64 1e-10, float32 1e-5, bf16 5e-2).
    """

    variations: tuple[str, ...]
    run: Callable[[str], Mapping[str, ArrayLike]]
    reference: Callable[[str], Mapping[str, ArrayLike]]
    resume: Callable[[str], Mapping[str, ArrayLike]] | None = None
    tolerance: float = 1e-10


STRATEGY_RULES: list[Rule[StrategyCase]] = []


def _equal(what: str, got: Mapping[str, ArrayLike], want: Mapping[str, ArrayLike], tolerance: float) -> None:
    require(set(got) == set(want), f"{what}: results {sorted(set(got) ^ set(want))} are missing or added")
    for name, value in want.items():
        scale = float(np.abs(np.asarray(value, dtype=np.float64)).max(initial=0.0))
        same(f"{what}: {name}", got[name], value, tolerance * max(scale, 1e-6))


@rule(
    STRATEGY_RULES,
    "strategy-equals-one-process",
    "Losses and parameters after some steps are those of one process, or the combination is refused by name.",
)
def _strategy_equal(case: StrategyCase) -> RuleResult | None:
    declined = []
    for variation in case.variations:
        try:
            got = case.run(variation)
        except MlipfmError as error:
            declined.append(f"{variation} refused: {error.what}")
            continue
        _equal(f"{variation} by the strategy and by one process", got, case.reference(variation), case.tolerance)
    if len(declined) == len(case.variations):
        raise broken("every variation is refused")
    return RuleResult("held", "; ".join(declined))


@rule(STRATEGY_RULES, "strategy-deterministic", "The same run twice gives the same result, to the bit.")
def _strategy_deterministic(case: StrategyCase) -> None:
    variation = case.variations[0]
    _equal(f"{variation} run twice", case.run(variation), case.run(variation), 0.0)


@rule(STRATEGY_RULES, "strategy-resume", "Stopped half-way and resumed, it ends where a straight run ends.")
def _strategy_resume(case: StrategyCase) -> RuleResult | None:
    if case.resume is None:
        return RuleResult("skipped", "the case gives no way to resume")
    variation = case.variations[0]
    _equal(f"{variation} resumed and straight", case.resume(variation), case.run(variation), 1e-12)
    return None


# Benchmark


@dataclass(frozen=True)
class BenchmarkCase:
    """A benchmark, a model it can measure, the same model failing (NaN) on some or all structures, data sets and options that it needs."""

    benchmark: Benchmark
    model: OpenModel
    failing: OpenModel
    data: Sequence[LabelledSet] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


BENCHMARK_RULES: list[Rule[BenchmarkCase]] = []


def _measured(case: BenchmarkCase, model: OpenModel) -> tuple[BenchmarkResult, Record]:
    return run_benchmark("case", case.benchmark, model, case.data, case.options)


@rule(BENCHMARK_RULES, "benchmark-described", "Its docstring begins with a sentence that says what it measures.")
def _benchmark_described(case: BenchmarkCase) -> None:
    require(bool(summary_of(case.benchmark)), "it has no docstring, which `mlipfm evaluate --list` shows")


@rule(
    BENCHMARK_RULES,
    "benchmark-records",
    "It returns figures, each with name, unit, value, interval and counts, which a result record holds.",
)
def _benchmark_records(case: BenchmarkCase) -> None:
    _measured(case, case.model)


@rule(BENCHMARK_RULES, "benchmark-reproducible", "Measuring the same model twice gives the same figures.")
def _benchmark_reproducible(case: BenchmarkCase) -> None:
    first, again = (_measured(case, case.model)[1]["metrics"] for _ in range(2))
    require(first == again, "two runs give other values")


@rule(BENCHMARK_RULES, "benchmark-counts-failures", "Predictions that are not finite are failed cases, and the benchmark is not passed.")
def _benchmark_failures(case: BenchmarkCase) -> None:
    record = _measured(case, case.failing)[1]
    require(any(m["n_ok"] < m["n_total"] for m in record["metrics"]), "NaN was counted as a good prediction, or not at all")
    require(record["passed"] is False, "it is passed although cases failed")
