"""Coordinate check of muP: activations, and what training changes of them, keep their size at every width (arXiv:2203.03466, D.1).

Models of several widths take a few steps of AdamW with `optimizer.width_ratio` on the same random labels. Of every block two sizes are measured after
each step: the mean absolute value of its output, and that of the change of its output since before the first step. The slope of each
against width, both logarithmic, is zero where a learning rate means the same at all widths. A matrix with the wrong role
shows in the changes: the output may be dominated by initial weights, whose size is right at every width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from ..objectives.energy_force import EnergyForce
from ..optimizers import adamw
from ..recipe import Optimizer
from ..step import Step
from ..views import collate_step
from .laws import Floats, ScalingError

#: Largest slope of the output of a block that counts as flat, and of what training changes of it: a wrong role gives 0.5 or 1 there, and that
#: the narrowest model is no limit of wide ones up to 0.13 (decisions/0008).
FLAT, FLAT_CHANGE = 0.1, 0.2
#: Widths that every backbone of ours can have.
WIDTHS = (32, 64, 128, 256)
#: Elements of the structures. Initial scalars are a row of a table for each: few elements are few samples of their size.
ELEMENTS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 16: "S"}
LEVEL = "random"


@dataclass(frozen=True)
class Slopes:
    """Slopes of log size in log width, [steps, blocks], after each step, and their standard errors from the scatter of the seeds."""

    values: Floats
    errors: Floats

    @property
    def steepest(self) -> tuple[float, float]:
        """The largest slope by its size, with its standard error."""
        k = int(np.abs(self.values).argmax())
        return float(self.values.ravel()[k]), float(self.errors.ravel()[k])


@dataclass(frozen=True)
class Coordinates:
    """Outcome for one backbone.

    Attributes:
        blocks: their names. outputs: slopes of the sizes of their outputs. changes: slopes of the sizes of the changes since before the first step.
    """

    backbone: str
    widths: tuple[int, ...]
    seeds: int
    blocks: tuple[str, ...]
    outputs: Slopes
    changes: Slopes

    @property
    def steepest(self) -> float:
        """The largest slope of outputs and changes, by its size."""
        return max((self.outputs.steepest[0], self.changes.steepest[0]), key=abs)

    @property
    def outcome(self) -> Literal["flat", "not flat", "undecided"]:
        """`flat` if no slope is above its bound; `not flat` if one is by more than two standard errors; otherwise more seeds are needed."""
        bounded = [(self.outputs, FLAT), (self.changes, FLAT_CHANGE)]
        if all(abs(slopes.steepest[0]) < bound for slopes, bound in bounded):
            return "flat"
        surely = any(bool((np.abs(slopes.values) - 2 * slopes.errors > bound).any()) for slopes, bound in bounded)
        return "not flat" if surely else "undecided"

    @property
    def passed(self) -> bool:
        """Whether no block grows or shrinks with the width."""
        return self.outcome == "flat"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "backbone": self.backbone,
            "widths": list(self.widths),
            "seeds": self.seeds,
            "blocks": list(self.blocks),
            **{
                name: {"slopes": slopes.values.tolist(), "standard_errors": slopes.errors.tolist()}
                for name, slopes in (("outputs", self.outputs), ("changes", self.changes))
            },
            "steepest": self.steepest,
            "outcome": self.outcome,
            "passed": self.passed,
        }


def check_coordinates(
    backbone: str,
    widths: Sequence[int] = WIDTHS,
    *,
    steps: int = 4,
    lr: float = 1e-3,
    seeds: int = 12,
    mup: bool = True,
    options: Any = None,
) -> Coordinates:
    """Train models of several widths for `steps` steps and measure their blocks, mean over `seeds`.

    Args:
        lr: of the narrowest. mup: whether rates follow the width; False shows what happens without.
        options: of the backbone, besides `channels`.

    Raises:
        ScalingError: fewer than two widths, or one seed, whose scatter is unknown. PluginError, RecipeError: an unknown backbone or a width that it
            cannot have.
    """
    if len(set(widths)) < 2:
        raise ScalingError("a slope needs two widths or more", where="--width")
    if seeds < 2:
        raise ScalingError("the scatter of a slope needs two seeds or more", where="--seeds")
    base = min(widths)
    structures = _structures()
    runs: list[list[tuple[dict[str, Floats], dict[str, Floats]]]] = []
    for width in sorted(widths):
        ratio = width / base if mup else None
        config = {"backbone": {**(options or {}), "channels": width}, "elements": list(ELEMENTS.values()), "levels": [LEVEL]}
        try:
            runs.append([_sizes(build(backbone, {**config, "seed": seed}), structures, lr, ratio, steps) for seed in range(seeds)])
        except RecipeError as error:
            raise RecipeError(f"{backbone!r} has no width {width}: {error.what}", where="--width", hint=error.hint) from None
    blocks = tuple(runs[0][0][0])
    found = [_slopes(np.array([[[seed[k][block] for block in blocks] for seed in run] for run in runs]), sorted(widths)) for k in (0, 1)]
    return Coordinates(backbone, tuple(sorted(widths)), seeds, blocks, *found)


def _slopes(sizes: Floats, widths: Sequence[int]) -> Slopes:
    """Slopes of sizes [widths, seeds, blocks, steps]: of the mean over seeds, with standard errors by the jackknife (leaving out one seed after the
    other)."""
    n = sizes.shape[1]

    def slope(chosen: Floats) -> Floats:
        logs = np.log(np.maximum(chosen.mean(axis=1), 1e-30)).reshape(len(widths), -1)
        return np.asarray(np.polyfit(np.log(widths), logs, 1)[0].reshape(sizes.shape[2:]).T)

    left_out = np.array([slope(np.delete(sizes, k, axis=1)) for k in range(n)])
    return Slopes(slope(sizes), left_out.std(axis=0) * (n - 1) ** 0.5)


def _sizes(
    potential: Any, structures: Sequence[Structure], lr: float, ratio: float | None, steps: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Mean absolute output of every block after each step, and mean absolute change since before the first, [steps] each."""
    objectives = {"energy-force": EnergyForce(forces_weight=1.0)}
    step = Step(potential.train(), objectives)
    optimizer = adamw(Optimizer(lr=lr, weight_decay=0.0, width_ratio=ratio))(step)
    spec = potential.spec
    batch = collate_step(objectives, structures, spec.graphs, spec.torch_dtype, torch.device("cpu"), 0, 0)
    outputs: list[dict[str, Tensor]] = []
    seen: dict[str, Tensor] = {}
    hooks = [block.register_forward_hook(_keep(f"{k} {type(block).__name__}", seen)) for k, block in enumerate(potential.blocks())]
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = sum((total / count.clamp_min(1) for total, count in step(batch).values()), start=torch.zeros(()))
        outputs.append(dict(seen))
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        optimizer.step()
    for hook in hooks:
        hook.remove()
    first, later = outputs[0], outputs[1:]
    sizes = {block: np.array([float(step[block].abs().mean()) for step in later]) for block in first}
    changes = {block: np.array([float((step[block] - start).abs().mean()) for step in later]) for block, start in first.items()}
    return sizes, changes


def _keep(name: str, seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else [t for t in output if isinstance(t, Tensor) and t.numel()]
        if tensors and tensors[0].is_floating_point():
            seen[name] = tensors[0].detach().clone()

    return hook


def _structures() -> list[Structure]:
    """Eight clusters of eight atoms with random labels: only sizes matter."""
    rng = stream(0, "coordinate-check")
    corners = 1.6 * np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=np.float64)
    return [
        Structure(
            rng.choice(list(ELEMENTS), 8),
            corners + rng.normal(scale=0.1, size=(8, 3)),
            level=LEVEL,
            labels={"energy": np.asarray(rng.normal()), "forces": rng.normal(size=(8, 3))},
        )
        for _ in range(8)
    ]
