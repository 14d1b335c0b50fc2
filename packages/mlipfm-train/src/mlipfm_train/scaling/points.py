"""Points of a sweep: one JSON line for each run that has ended, also for those that diverged, with the reason. The file is the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from mlipfm_interfaces.errors import DamagedFileError

from .laws import Floats, ScalingError


@dataclass(frozen=True)
class Point:
    """One run that has ended.

    Attributes:
        run: its name in the sweep. group: what is fitted apart: architecture and objective.
        parameters: N. atoms: D, seen in training, repeats counted. flops: of matrix products in the whole training, as torch counts them.
        core_seconds: processor time of training, s. losses: name -> error in physical units, such as `force MAE (meV/A)`.
        digest: of the model checkpoint, under which the registry has it. failed: why the run gave no losses; "" if it did.
    """

    run: str
    group: str
    seed: int
    parameters: int
    atoms: int
    flops: float
    core_seconds: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""
    failed: str = ""


def line_of(point: Point) -> str:
    """Return the line of a point, without its end."""
    return json.dumps(asdict(point), sort_keys=True, allow_nan=False, ensure_ascii=False)


def read_points(path: Path) -> list[Point]:
    """Read all points; none where there is no file. A last line that was cut off by a kill is left out: its run is made again.

    Raises:
        DamagedFileError: another line is no point.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_read(text, path, number) for number, text in enumerate(lines[:-1], 1) if text]  # the last one ends the file, or was cut off


def _read(text: bytes, path: Path, number: int) -> Point:
    try:
        point = Point(**json.loads(text))
        counts = [point.parameters, point.atoms, point.flops, *point.losses.values()]
        if not all(math.isfinite(value) and value >= 0 for value in counts):
            raise ValueError("a number is negative or not finite")
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"this line is no point of a sweep: {error}", where=f"{path}, line {number}", hint="remove the line, its run is made again"
        ) from None
    return point


def check_distinct(points: Iterable[Point]) -> None:
    """Raise `ScalingError` if two points are the same run: equal group, seed, size and data. Counted twice, it would narrow every interval."""
    seen: dict[tuple[str, int, int, int], str] = {}
    for point in points:
        key = (point.group, point.seed, point.parameters, point.atoms)
        if key in seen:
            raise ScalingError(
                f"{point.run!r} and {seen[key]!r} are the same point: {point.parameters:,} parameters, {point.atoms:,} atoms, seed {point.seed}",
                hint="give it once, or another seed",
            )
        seen[key] = point.run


def table(points: Sequence[Point], loss: str, axes: Sequence[str]) -> tuple[Floats, Floats]:
    """Return sizes [n, axes] and losses [n] of the points that have this loss.

    Raises:
        ScalingError: none has it, or one is zero: nothing is left to scale.
    """
    having = [point for point in points if loss in point.losses]
    if not having:
        known = sorted({name for point in points for name in point.losses})
        raise ScalingError(f"no point has the loss {loss!r}", hint=f"known: {', '.join(known) or 'none'}")
    values = np.array([point.losses[loss] for point in having], np.float64)
    if not (values > 0).all():
        raise ScalingError(f"the loss {loss!r} of {having[int(values.argmin())].run!r} is zero: a law of it has no logarithm")
    return np.array([[getattr(point, axis) for axis in axes] for point in having], np.float64), values
