"""Coordinate check of muP: activations of a model keep their size at every width while it trains (arXiv:2203.03466, appendix D.1).

Models of several widths take a few steps of AdamW with `optimizer.width_ratio` on the same random labels. Of every block the mean absolute value of
its output is measured after each step; its slope against width, both logarithmic, is zero where a learning rate means the same at all widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from .laws import ScalingError

#: Largest slope of a block that counts as flat.
FLAT = 0.1
#: Widths that every backbone of ours can have.
WIDTHS = (32, 64, 128, 256)
LEVEL = "random"


@dataclass(frozen=True)
class Coordinates:
    """Outcome for one backbone.

    Attributes:
        sizes: [steps + 1, blocks, widths] mean absolute outputs, the first before any step. slopes: [steps + 1, blocks] of log size in log width.
        blocks: their names.
    """

    backbone: str
    widths: tuple[int, ...]
    blocks: tuple[str, ...]
    sizes: np.ndarray
    slopes: np.ndarray

    @property
    def steepest(self) -> float:
        """The largest slope after the first step, by its size."""
        after = self.slopes[1:]
        return float(after.ravel()[np.abs(after).argmax()])

    @property
    def passed(self) -> bool:
        """Whether no block grows or shrinks with the width."""
        return abs(self.steepest) < FLAT

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "backbone": self.backbone,
            "widths": list(self.widths),
            "blocks": list(self.blocks),
            "slopes": self.slopes.tolist(),
            "steepest": self.steepest,
            "passed": self.passed,
        }


def check_coordinates(
    backbone: str,
    widths: Sequence[int] = WIDTHS,
    *,
    steps: int = 4,
    lr: float = 1e-3,
    seeds: int = 3,
    mup: bool = True,
    options: Any = None,
) -> Coordinates:
    """Train models of several widths for `steps` steps and measure their blocks, mean over `seeds`.

    Args:
        lr: of the narrowest. mup: whether rates follow the width; False shows what happens without.
        options: of the backbone, besides `channels`.

    Raises:
        ScalingError: fewer than two widths. PluginError, RecipeError: an unknown backbone or a width that it cannot have.
    """
    if len(set(widths)) < 2:
        raise ScalingError("a slope needs two widths or more", where="--width")
    base = min(widths)
    structures = _structures()
    runs: list[list[list[dict[str, float]]]] = []
    for width in sorted(widths):
        ratio = width / base if mup else None
        config = {"backbone": {**(options or {}), "channels": width}, "elements": ["H", "C", "O"], "levels": [LEVEL]}
        try:
            runs.append([_sizes(build(backbone, {**config, "seed": seed}), structures, lr, ratio, steps) for seed in range(seeds)])
        except RecipeError as error:
            raise RecipeError(f"{backbone!r} has no width {width}: {error.what}", where="--width", hint=error.hint) from None
    blocks = list(runs[0][0][0])
    sizes = np.array([[[[step[block] for block in blocks] for step in seed] for seed in run] for run in runs]).mean(axis=1)
    sizes = np.moveaxis(sizes, 0, -1)  # [steps + 1, blocks, widths]
    logs = np.log(np.maximum(sizes, 1e-30)).reshape(-1, len(runs)).T
    slopes = np.polyfit(np.log(sorted(widths)), logs, 1)[0].reshape(sizes.shape[:2])
    return Coordinates(backbone, tuple(sorted(widths)), tuple(blocks), sizes, slopes)


def _sizes(potential: Any, structures: Sequence[Structure], lr: float, ratio: float | None, steps: int) -> list[dict[str, float]]:
    """Mean absolute output of every block before the first step and after each."""
    objectives = {"energy-force": EnergyForce(forces_weight=1.0)}
    step = Step(potential.train(), objectives)
    optimizer = adamw(Optimizer(lr=lr, weight_decay=0.0, width_ratio=ratio))(step)
    spec = potential.spec
    batch = collate_step(objectives, structures, spec.graphs, spec.torch_dtype, torch.device("cpu"), 0, 0)
    found: list[dict[str, float]] = []
    seen: dict[str, float] = {}
    hooks = [block.register_forward_hook(_measure(f"{k} {type(block).__name__}", seen)) for k, block in enumerate(potential.blocks())]
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = sum((total / count.clamp_min(1) for total, count in step(batch).values()), start=torch.zeros(()))
        found.append(dict(seen))
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        optimizer.step()
    for hook in hooks:
        hook.remove()
    return found


def _measure(name: str, seen: dict[str, float]) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else [t for t in output if isinstance(t, Tensor) and t.numel()]
        if tensors and tensors[0].is_floating_point():
            seen[name] = float(tensors[0].detach().abs().mean())

    return hook


def _structures() -> list[Structure]:
    """Eight clusters of eight atoms with random labels: only sizes matter."""
    rng = stream(0, "coordinate-check")
    corners = 1.6 * np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=np.float64)
    return [
        Structure(
            rng.choice([1, 6, 8], 8),
            corners + rng.normal(scale=0.1, size=(8, 3)),
            level=LEVEL,
            labels={"energy": np.asarray(rng.normal()), "forces": rng.normal(size=(8, 3))},
        )
        for _ in range(8)
    ]
