"""`Run`: the parts of a training run, wired from a recipe, saved and continued. The loop that drives it is `loop.fit`.

A run folder holds `recipe.yaml` (resolved), `initial.safetensors` (the potential at step 0), `state/` (training states), `events.jsonl`,
`last.safetensors` and, with validation data, `best.safetensors` (model checkpoints with the averaged weights).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.display import html_table, line
from mlipfm_interfaces.errors import TrainingError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from .events import EventLog
from .preflight import Report
from .recipe import Recipe
from .step import Step
from .training_state import save_state
from .validation import score, validated, validation_errors, validation_metrics
from .views import StepBatch, collate_step

#: Validations in a row with an error this many times the best, after which training has diverged.
DIVERGED, DIVERGED_IN_A_ROW = 10.0, 3
#: Steps after which a model that started at random should be better than at its start: no force says that it has collapsed.
LEARNED = 1000


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves behind.

    Attributes:
        last: model checkpoint after the last step. best: the one with the lowest validation error, None without validation data.
        metrics: of the last validation. steps: done so far. skipped: steps whose loss or gradient was not finite.
        ended: why training is over, or why this command stopped; a sentence.
    """

    folder: Path
    last: Path
    best: Path | None
    metrics: list[Metric]
    steps: int
    skipped: int
    ended: str = ""

    def __repr__(self) -> str:
        return line("FitResult", repr(str(self.best or self.last)), f"{self.steps} steps", *map(str, self.metrics))

    def _repr_html_(self) -> str:
        rows: dict[str, object] = {
            "best model": self.best,
            "last model": self.last,
            "steps": self.steps,
            "skipped steps": self.skipped or None,
        }
        return html_table(rows | {m.name: str(m) for m in self.metrics} | {"ended": self.ended})


@dataclass
class Run:
    """One training run: its parts, and where it is.

    Attributes:
        exported: complete copy of the potential, for validation, export and Sources that simulate; `step.potential` may be sharded.
        train: training structures.
        valid_runs: batches of the validation structures, as slices.
        valid_groups: group (molecule or trajectory) of each validation structure.
        extra: entries that are added to the manifest of every model checkpoint.
        began: start of the command on the monotonic clock, s.
        stale: number of validations in a row without a new best.
        ended: reason to stop after this step; "" while the run goes on.
        interrupted: whether the user stopped the run, see `mlipfm_interfaces.interruption`.
        preflight: results of preflight; of a new run only.
        identity: digest of the potential at step 0. A training state of another potential is refused.
    """

    recipe: Recipe
    folder: Path
    step: Step
    strategy: Any
    source: Any
    weight_rule: Any
    exported: Potential
    events: EventLog
    train: Sequence[Structure]
    valid: Sequence[Structure]
    valid_runs: list[slice]
    valid_groups: list[str]
    extra: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    ended: str = ""
    interrupted: Callable[[], bool] = lambda: False
    preflight: Report = field(default_factory=Report)
    identity: str = ""
    next_step: int = 0
    best: float | None = None
    skipped: int = 0
    skipped_in_row: int = 0
    worse_in_row: int = 0
    stale: int = 0
    metrics: list[Metric] = field(default_factory=list)
    _clock: float = field(default_factory=time.perf_counter)

    def begin(self, step: int) -> None:
        """Start the clock and the step's own stream of torch's random numbers (dropout): there is no generator state to save."""
        self._clock = time.perf_counter()
        torch.manual_seed(int(stream(self.recipe.seed, "dropout", step, self.strategy.share[0]).integers(2**63)))

    def current_potential(self) -> Potential | None:
        """Return the potential with the weights that would be exported now; None if the Source says that it does not use it."""
        if not getattr(self.source, "uses_potential", True):
            return None
        self._load(self._weights())
        return self.exported

    def collate(self, structures: Sequence[Structure], step: int) -> StepBatch:
        """Views of all objectives in one Batch. Their random numbers are keyed by the Source's epoch, or by the step if it has none."""
        spec = self.exported.spec
        epoch = getattr(self.source, "epoch", step)
        return collate_step(self.step.objectives, structures, spec.graphs, spec.torch_dtype, self.strategy.device, self.recipe.seed, epoch)

    def record(self, step: int, terms: dict[str, float], batch: StepBatch) -> None:
        """Log a step; stop if too many in a row had to be skipped.

        Raises:
            TrainingError: after more than `max_skipped` skipped steps in a row, naming the structures of the last.
        """
        seconds = time.perf_counter() - self._clock
        values: dict[str, Any] = {
            **terms,
            "seconds": round(seconds, 4),
            "systems": batch.batch.n_systems,
            "atoms": len(batch.batch.positions),
        }
        if terms["skipped"]:
            values["keys"] = list(batch.batch.keys)
        self.skipped += int(terms["skipped"])
        self.skipped_in_row = self.skipped_in_row + 1 if terms["skipped"] else 0
        self.events.emit("step", step, **values)
        if self.skipped_in_row > self.recipe.max_skipped:
            keys = ", ".join(batch.batch.keys[:3])
            raise TrainingError(
                f"loss or gradient was not finite in {self.skipped_in_row} steps in a row, the last with structures {keys} ...",
                where=f"step {step}",
                hint="lower optimizer.lr, check these structures, or start again from an earlier checkpoint",
            )

    def due(self, step: int, every: int) -> bool:
        """Return whether something that happens every `every` steps happens after this one; always after the last."""
        return (step + 1) % every == 0 or step + 1 == self.recipe.steps

    def steps_left(self) -> range:
        """Steps that are still to be done; none once validation has shown no progress for `patience` times."""
        return range(self.next_step, self.next_step if self.out_of_patience else self.recipe.steps)

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run."""
        return self.recipe.patience is not None and self.stale >= self.recipe.patience

    def ends(self, step: int) -> bool:
        """Return whether this step is the last of the run or of the command: all steps done, early stopping, the time limit, or an interrupt by the
        user. All ranks agree."""
        limit = self.recipe.time_limit
        if step + 1 == self.recipe.steps:
            self.ended = "all steps"
        elif self.out_of_patience:
            self.ended = "early stop"
        elif limit is not None and self.strategy.collect(time.monotonic() - self.began >= limit)[0]:
            self.ended = "time limit"
        elif self.strategy.collect(self.interrupted())[0]:
            self.ended = "interrupted"
        return bool(self.ended)

    def why_ended(self, kind: str) -> str:
        """`kind` (see `ends`) as a sentence, with the way to go on."""
        step, steps = self.next_step, self.recipe.steps
        if kind == "early stop":
            times = f"{self.stale} validations in a row were not better than the best"
            return f"stopped early after step {step} of {steps}: {times} (patience {self.recipe.patience}); a larger patience goes on"
        if kind in ("time limit", "interrupted"):
            why = "the time limit is reached" if kind == "time limit" else "interrupted"
            return f"{why} after step {step} of {steps}: the state is saved, the same command goes on with step {step + 1}"
        return f"all {steps} steps are done"

    def validate(self, step: int) -> None:
        """Measure the exported weights on the validation structures, split over the ranks; keep the best model.

        Raises:
            TrainingError: for `DIVERGED_IN_A_ROW` validations the error has been `DIVERGED` times the best, or that before training and more (from
                random weights, after `LEARNED` steps); or it is not finite after the last step.
        """
        if not self.valid_runs:
            return
        self._load(self._weights())
        mine = self.valid_runs[self.strategy.rank :: self.strategy.world_size]
        errors = self.strategy.collect(validation_errors(self.exported, self.valid, mine, validated(self.step.learned)))
        self.metrics = validation_metrics({k: v for part in errors for k, v in part.items()}, self.valid_groups)
        if not self.metrics:
            return
        error = score(self.metrics)
        better = self.best is None or error < self.best
        if (step + 1) % self.recipe.evaluate_every == 0:  # the one after the last step does not count: a longer run has not got it
            self.stale = 0 if better else self.stale + 1
        if self.best is None or better:
            self.best = error
            self._export("best.safetensors", step)
        self.events.emit("validation", step, metrics=[m.as_dict() for m in self.metrics])
        before = self._untrained_error() if step >= LEARNED else float("inf")
        self.worse_in_row = self.worse_in_row + 1 if error > DIVERGED * self.best > 0 or error >= before else 0
        if self.worse_in_row >= DIVERGED_IN_A_ROW or (step + 1 == self.recipe.steps and error == float("inf")):
            kept = f"; the best model is kept: {self.folder / 'best.safetensors'}" if self.best < float("inf") else ""
            raise TrainingError(
                f"training has diverged: {self.metrics[0].name} is {error:.4g} {self.metrics[0].unit}, the best was {self.best:.4g}"
                + (f", before training {before:.4g}" if error >= before < float("inf") else ""),
                where=f"step {step}",
                hint=f"lower optimizer.lr or optimizer.clip and train in another folder{kept}",
            )

    def _untrained_error(self) -> float:
        """Return the force error of the random weights that this run started from, as preflight found it; infinite where it is not known."""
        if self.recipe.init_from is not None or self.metrics[0].name != "force MAE":
            return float("inf")
        return 1000 * float(self.preflight.facts.get("baseline_force_mae", float("inf")))

    def save(self, step: int) -> None:
        """Write the model checkpoint, then the training state from which the next step follows. Rank 0 writes the first, all ranks the second."""
        self.next_step = step + 1
        state = self.state_dict()
        self._load(self._weights())
        self._export("last.safetensors", step)
        if self.strategy.rank == 0:
            self.events.sync()
        save_state(self.folder / "state", self.next_step, state, self.strategy, self.identity)

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs, whole and on the CPU."""
        return {
            "next_step": self.next_step,
            "world_size": self.strategy.world_size,
            "strategy": self.strategy.state_dict(),
            "weight_rule": self._moved(self.weight_rule.state_dict(), self.strategy.gather),
            "sources": self.strategy.collect(self.source.state_dict()),
            "best": None if self.best == float("inf") else self.best,
            "skipped": [self.skipped, self.skipped_in_row],
            "worse_in_row": self.worse_in_row,
            "stale": self.stale,
            "metrics": [m.as_dict() for m in self.metrics],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. With another number of ranks every rank gets the Source state of rank 0."""
        self.next_step, self.best = state["next_step"], state["best"]
        self.skipped, self.skipped_in_row = state["skipped"]
        self.worse_in_row, self.stale = state.get("worse_in_row", 0), state.get("stale", 0)
        self.metrics = [_metric(m) for m in state["metrics"]]
        self.strategy.load_state_dict(state["strategy"])
        self.weight_rule.load_state_dict(self._moved(state["weight_rule"], self.strategy.scatter))
        same = state["world_size"] == self.strategy.world_size
        self.source.load_state_dict(state["sources"][self.strategy.rank if same else 0])

    def result(self) -> FitResult:
        """Return what there is now. The run is over.

        Raises:
            TrainingError: every step that was done has been skipped.
        """
        if self.next_step and self.skipped >= self.next_step:
            raise TrainingError(
                f"every one of {self.next_step} steps was skipped, loss or gradient was not finite: nothing was learnt",
                where=str(self.folder),
                hint="lower optimizer.lr and the weights of the objectives, and look at the labels: `mlipfm data check-labels STORE`",
            )
        best = self.folder / "best.safetensors"
        return FitResult(
            self.folder,
            self.folder / "last.safetensors",
            best if best.exists() else None,
            self.metrics,
            self.next_step,
            self.skipped,
            self.why_ended(self.ended) if self.ended else "",
        )

    def _weights(self) -> dict[str, Tensor]:
        """Return what is exported: averaged parameters, or the live ones. Whole, on the CPU."""
        averaged = self.weight_rule.averaged()
        found: dict[str, Tensor] = self.strategy.gather(averaged) if averaged is not None else self.strategy.full_parameters()
        return found if self.step.adapter is None else self.step.adapter.exported(found)

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.exported.named_parameters():
            parameter.copy_(weights[f"potential.{name}"])
        settle = getattr(self.exported, "settle_states", None)
        if settle is not None and "trained_states" in self.extra:
            settle(self.extra["trained_states"])

    def _export(self, name: str, step: int) -> None:
        if self.strategy.rank == 0:
            figures = [m.as_dict() for m in self.metrics]
            save_potential(self.folder / name, self.exported, {**self.extra, "step": step + 1, "validation": figures})

    def _moved(self, state: Any, move: Any) -> Any:
        """Return a weight rule's state with every dict of parameters gathered or scattered: they lie like the live ones."""
        if not isinstance(state, dict):
            return state
        if state and state.keys() <= self.strategy.live_parameters().keys():
            return move(state)
        return {key: self._moved(value, move) for key, value in state.items()}


def _metric(values: dict[str, Any]) -> Metric:
    value = float("nan") if values["value"] is None else values["value"]
    ci95 = None if values["ci95"] is None else (values["ci95"][0], values["ci95"][1])
    return Metric(values["name"], values["unit"], value, ci95, values["n_ok"], values["n_total"])
