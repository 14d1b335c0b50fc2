"""Parameters, floating-point operations and time per atom of every installed backbone at some widths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces import plugins
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure

__all__ = ["Row", "Skipped", "speed_rows"]

WATER = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
SPACING = 3.104  # Å between molecules at the density of water
LEVEL = "any"


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        parameters: that are trained. mflop: million operations of matrix products (what torch counts; sums over neighbours are not) per atom, for
            energy and forces. microseconds: per atom, CPU time of energy and forces, and of a training step on both.
    """

    backbone: str
    channels: int
    parameters: int
    mflop: float
    call_microseconds: float
    step_microseconds: float


@dataclass(frozen=True)
class Skipped:
    """A potential plug-in that is no model of this kind, and why."""

    backbone: str
    reason: str


def water_box(side: int = 4) -> Structure:
    """side³ molecules of water, rotated at random, in a periodic box of the density of water; 192 atoms by default."""
    rng = np.random.default_rng(0)
    places = SPACING * np.stack(np.meshgrid(*3 * [np.arange(side)], indexing="ij"), -1).reshape(-1, 3)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in places]
    positions = np.concatenate([WATER @ turn.T + place for turn, place in zip(turns, places, strict=True)])
    return Structure(np.tile([8, 1, 1], len(places)), positions, side * SPACING * np.eye(3), np.ones(3, dtype=bool), level=LEVEL)


def speed_rows(widths: Sequence[int], side: int = 4, repeats: int = 3, only: Sequence[str] = ()) -> list[Row | Skipped]:
    """Measure a row for every width of every potential plug-in that is built from `elements`, `levels` and `backbone.channels`; others are skipped.

    Times are of one process on as many threads as torch has, medians of `repeats` after one warm-up.
    """
    found: list[Row | Skipped] = []
    s = water_box(side)
    for name in only or plugins.names(plugins.POTENTIALS):
        for width in widths:
            try:
                potential = build(name, {"elements": ["H", "O"], "levels": [LEVEL], "backbone": {"channels": width}})
            except (MlipfmError, TypeError, ValueError) as error:  # a plug-in with a configuration of its own
                found.append(Skipped(name, " ".join(str(error).split())))
                break
            found.append(_row(name, width, potential, s, repeats))
    return found


def _row(name: str, width: int, potential: Potential, s: Structure, repeats: int) -> Row:
    from torch.utils.flop_counter import FlopCounterMode

    batch = collate([s], potential.spec.graphs, potential.spec.torch_dtype)
    potential.eval()
    with FlopCounterMode(display=False) as counter:
        potential(batch, ("energy", "forces"))
    calls = [_seconds(lambda: potential(batch, ("energy", "forces"))) for _ in range(repeats + 1)]
    steps = [_seconds(lambda: _step(potential, batch)) for _ in range(repeats + 1)]
    parameters = sum(p.numel() for p in potential.parameters())
    per_atom = [1e6 * float(np.median(times[1:])) / len(s) for times in (calls, steps)]
    return Row(name, width, parameters, counter.get_total_flops() / 1e6 / len(s), *per_atom)


def _seconds(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _step(potential: Potential, batch: Batch) -> None:
    """Gradients of all parameters of a loss on energies and forces."""
    got = potential(batch, ("energy", "forces"), create_graph=True)
    potential.zero_grad(set_to_none=True)
    torch.autograd.backward(got["energy"].sum() + got["forces"].square().sum())


def as_dicts(rows: Sequence[Row | Skipped]) -> list[dict[str, Any]]:
    """JSON-ready; a plug-in that was skipped has a `reason`."""
    return [asdict(row) for row in rows]


def table_lines(rows: Sequence[Row | Skipped]) -> list[str]:
    """Markdown."""
    out = ["| backbone | channels | parameters | MFLOP/atom | call, µs/atom | step, µs/atom |", "|---|---|---|---|---|---|"]
    for row in rows:
        if isinstance(row, Row):
            figures = f"{row.mflop:.3g} | {row.call_microseconds:.0f} | {row.step_microseconds:.0f}"
            out.append(f"| {row.backbone} | {row.channels} | {row.parameters:,} | {figures} |")
    return out + [f"{row.backbone}: left out, {row.reason}" for row in rows if isinstance(row, Skipped)]
