"""For every rule of the other contracts something that breaks it: the example of `minimal_plugins` with one mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.potential import Potential, Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.raw_frame import At, RawFrame
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import LennardJones
from torch import Tensor

from .counterexamples import Counterexample
from .minimal_plugins import (
    ClosedFormLabeler,
    Deck,
    EnergyForces,
    ForceBenchmark,
    LinesReader,
    MovingAverage,
    PotentialTeacher,
    Rattler,
    added_loss,
    cases,
    trained,
    waters,
)

PLUGIN_COUNTEREXAMPLES: list[Counterexample[Any]] = []


def breaks(seam: str, rule: str, mistake: str) -> Callable[[type[Any]], type[Any]]:
    """Class decorator: enter a counterexample; it takes the place of the honest example in its case."""

    def enter(cls: type[Any]) -> type[Any]:
        def make() -> Any:
            honest = cases()[seam]
            return replace(honest, make=cls) if hasattr(honest, "make") else replace(honest, **{seam: cls()})

        PLUGIN_COUNTEREXAMPLES.append(Counterexample(rule, mistake, make))
        return cls

    return enter


# Reader


@breaks("reader", "reader-order", "drops the first frame as if it were a header")
class _Headless(LinesReader):
    def frames(self, path: Path, **options: Any) -> Iterator[At]:
        frames = super().frames(path)
        next(frames)
        yield from frames


@breaks("reader", "reader-deterministic", "labels that depend on the time of reading")
class _Noisy(LinesReader):
    def frame(self, line: str) -> RawFrame:
        return replace(super().frame(line), info={"energy": np.random.default_rng().normal()})


@breaks("reader", "reader-streams", "reads the whole file before it gives the first frame")
class _Greedy(LinesReader):
    def frames(self, path: Path, **options: Any) -> Iterator[At]:
        yield from list(super().frames(path))


@breaks("reader", "reader-refuses-frames", "skips frames it cannot use")
class _Skipping(LinesReader):
    def frames(self, path: Path, **options: Any) -> Iterator[At]:
        for item in super().frames(path):
            with contextlib.suppress(ValueError):
                item.make(*item.arguments)
                yield item


@breaks("reader", "reader-missing-file", "an empty answer for a missing file")
class _Careless(LinesReader):
    def frames(self, path: Path, **options: Any) -> Iterator[At]:
        if path.exists():
            yield from super().frames(path)


@breaks("reader", "reader-names-unread", "drops the fields that it does not know in silence")
class _Silent(LinesReader):
    def frame(self, line: str) -> RawFrame:
        frame = super().frame(line)
        return replace(frame, info={"energy": frame.info["energy"]})


# Sampler


@breaks("sampler", "sampler-same-system", "gives one structure less than asked")
class _Stingy(Rattler):
    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        return super().sample(structure, n - 1, rng)


@breaks("sampler", "sampler-reproducible", "uses a generator of its own")
class _Moody(Rattler):
    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        return super().sample(structure, n, np.random.default_rng())


@breaks("sampler", "sampler-provenance", "loses the group, so that a molecule gets into training and test")
class _Uprooted(Rattler):
    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        return super().sample(structure.replace(provenance=Provenance()), n, rng)


@breaks("sampler", "sampler-no-labels", "carries the energy of the start to every sample")
class _Sticky(Rattler):
    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        return [s.replace(labels=dict(structure.labels)) for s in super().sample(structure, n, rng)]


# Labeler


@breaks("labeler", "labeler-level", "forgets to set the level")
class _Nameless(ClosedFormLabeler):
    def label(self, structure: Structure) -> Structure:
        return super().label(structure).replace(level=None)


@breaks("labeler", "labeler-same-bits", "starts from what the last call left behind")
class _Warm(ClosedFormLabeler):
    calls = 0

    def label(self, structure: Structure) -> Structure:
        self.calls += 1
        done = super().label(structure)
        return done.replace(labels={**done.labels, "energy": done.labels["energy"] + 1e-9 * self.calls})


@breaks("labeler", "labeler-forces", "writes gradients as forces")
class _Uphill(ClosedFormLabeler):
    def label(self, structure: Structure) -> Structure:
        done = super().label(structure)
        return done.replace(labels={**done.labels, "forces": -done.labels["forces"]})


# Teacher


class _Taught(PotentialTeacher):
    def __init__(self) -> None:
        super().__init__(LennardJones())


@breaks("teacher", "teacher-outputs", "forces as one long row")
class _Flat(_Taught):
    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        return [{key: value.reshape(-1) for key, value in answer.items()} for answer in super().evaluate(structures, outputs)]


@breaks("teacher", "teacher-order", "sorts the structures and answers in that order")
class _Sorting(_Taught):
    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        return super().evaluate(sorted(structures, key=lambda s: s.key), outputs)


@breaks("teacher", "teacher-refuses", "answers what it cannot with zero")
class _Bluffing(_Taught):
    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        try:
            return super().evaluate(structures, outputs)
        except MlipfmError:
            return [{key: np.zeros(quantity(key).shape) for key in outputs} for _ in structures]


# Source


class _Shuffled(Deck):
    def __init__(self) -> None:
        super().__init__(waters(5))


@breaks("source", "source-batches", "an empty batch at the end of an epoch")
class _Running(_Shuffled):
    def next_batch(self, potential: Potential | None) -> list[Structure]:
        batch = super().next_batch(potential)
        return [] if self.drawn % 3 == 0 else batch


@breaks("source", "source-reproducible", "a new order on every start")
class _Unseeded(_Shuffled):
    def __init__(self) -> None:
        super().__init__()
        self.seed = int(np.random.default_rng().integers(2**31))


@breaks("source", "source-resume", "remembers the epoch and forgets the place in it")
class _Epochal(_Shuffled):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"] // 2 * 2


@breaks("source", "source-state-is-a-snapshot", "hands out its own state instead of a copy")
class _Sharing(_Shuffled):
    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


# Objective


@breaks("objective", "objective-additive", "returns means instead of sums")
class _Averaging(EnergyForces):
    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        return {name: (value / count, count) for name, (value, count) in super().terms(prediction, batch).items()}


@breaks("objective", "objective-views", "noise from the global generator")
class _Global(EnergyForces):
    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        noise = 0.01 * torch.randn(structure.positions.shape, dtype=torch.float64).numpy()
        return [structure.replace(positions=structure.positions + noise)]


@breaks("objective", "objective-trains", "cuts the graph")
class _Detached(EnergyForces):
    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        return {name: (value.detach(), count) for name, (value, count) in super().terms(prediction, batch).items()}


@breaks("objective", "objective-missing-labels", "takes a missing label for zero")
class _Zeroing(EnergyForces):
    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        square = (prediction["energy"] - batch.labels["energy"]) ** 2
        return {"energy": (square.sum(), torch.tensor(float(len(square))))}


# WeightRule


@breaks("weight-rule", "weight-rule-resume", "saves nothing")
class _Amnesiac(MovingAverage):
    def state_dict(self) -> dict[str, Any]:
        return {"shadow": None}


@breaks("weight-rule", "weight-rule-constant", "an average that starts at zero and is not corrected")
class _Biased(MovingAverage):
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        if self.shadow is None:
            self.shadow = {name: torch.zeros_like(value) for name, value in parameters.items()}
        super().update(parameters, step)


@breaks("weight-rule", "weight-rule-own-memory", "hands out the live weights as their average")
class _Alias(MovingAverage):
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        self.shadow = dict(parameters)


# Strategy


def _strategy(rule: str, mistake: str, **changes: Any) -> None:
    PLUGIN_COUNTEREXAMPLES.append(Counterexample(rule, mistake, lambda: replace(cases()["strategy"], **changes)))


def _mean_of_means(potential: Potential, parts: list[list[Structure]], variation: str) -> Tensor:
    return torch.stack([added_loss(potential, [part], variation) for part in parts]).mean()


def _racing(variation: str) -> dict[str, Any]:
    return {name: value + 1e-13 * np.random.default_rng().normal() for name, value in trained(variation, 2).items()}


def _restarted(variation: str) -> dict[str, Any]:
    half = trained(variation, 2, steps=2)
    return half | {"losses": np.concatenate([half["losses"], half["losses"]])}


_strategy("strategy-equals-one-process", "every worker divides by its own count", run=lambda v: trained(v, 2, loss=_mean_of_means))
_strategy("strategy-deterministic", "the order of a reduction depends on who comes first", run=_racing)
_strategy("strategy-resume", "starts again instead of resuming", resume=_restarted)


# Benchmark


@breaks("benchmark", "benchmark-described", "says nothing of itself")
class _Undescribed(ForceBenchmark):
    pass


@breaks("benchmark", "benchmark-records", "a number without a unit")
class _Unitless(ForceBenchmark):
    """Force error without a unit."""

    def __call__(self, model: OpenModel, data: Sequence[LabelledSet]) -> BenchmarkResult:
        return BenchmarkResult([{key: value for key, value in self.figure(model).as_dict().items() if key != "unit"}])


@breaks("benchmark", "benchmark-reproducible", "cases drawn anew every time")
class _Lottery(ForceBenchmark):
    """A number of chance."""

    def __call__(self, model: OpenModel, data: Sequence[LabelledSet]) -> BenchmarkResult:
        return BenchmarkResult([self.figure(model).as_dict() | {"value": np.random.default_rng().normal(), "ci95": None}])


@breaks("benchmark", "benchmark-counts-failures", "averages over the survivors")
class _Survivors(ForceBenchmark):
    """Force error of what was answered."""

    def __call__(self, model: OpenModel, data: Sequence[LabelledSet]) -> BenchmarkResult:
        figure = self.figure(model)
        return BenchmarkResult([replace(figure, n_total=figure.n_ok)])
