"""A measured figure: its median with quartiles beside a peer or floor, as one line of JSON and as one line for people."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: The keys of a JSON object, in this order.
KEYS = ("bench", "name", "value", "unit", "n", "q1", "q3", "threads", "peer", "peer_value", "ratio", "commit")


class Spread(NamedTuple):
    """Median, first and third quartile of n repeats."""

    value: float
    q1: float
    q3: float
    n: int


@dataclass(frozen=True)
class Figure:
    """One object of a result file.

    Attributes:
        bench, name: what was measured. value, q1, q3: median and quartiles of n repeats, in `unit`. threads: of the numerical libraries.
        peer: what it is compared with, measured in the same run; None without one. peer_value: its median, in `unit`.
        ratio: value / peer_value. commit: of the repository, with `+` behind it if files were changed since.
    """

    bench: str
    name: str
    value: float
    unit: str
    n: int
    q1: float
    q3: float
    threads: int
    peer: str | None
    peer_value: float | None
    ratio: float | None
    commit: str


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (by linear interpolation, ends included) of at least one value."""
    q1, _, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Spread(median(values), q1, q3, len(values))


def figure(
    bench: str, name: str, unit: str, found: Sequence[float], threads: int, peer: str | None = None, theirs: Sequence[float] = ()
) -> Figure:
    """A Figure of repeated measurements, compared with those of a peer if it has one."""
    own, other = spread(found), spread(theirs).value if peer is not None else None
    ratio = None if other is None else own.value / other
    return Figure(bench, name, own.value, unit, own.n, own.q1, own.q3, threads, peer, other, ratio, commit())


def clock(threads: int) -> Callable[[], float]:
    """Seconds: CPU time of this process for one thread, which other processes do not lengthen; else the time on the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def seconds(action: Callable[[], object], threads: int) -> float:
    """What one call takes, see `clock`."""
    now = clock(threads)
    begin = now()
    action()
    return now() - begin


def commit() -> str:
    """Short hash of the checked-out commit, `+` for changed files; `unknown` outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def append(path: Path, item: Figure) -> None:
    """Add one line to a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({key: _rounded(value) for key, value in asdict(item).items()}, allow_nan=False) + "\n")


def read(path: Path) -> list[Figure]:
    """The figures of a result file.

    Raises:
        ValueError: a line that is no figure, with file and line.
    """
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            value = json.loads(text)
            if tuple(value) != KEYS:
                raise ValueError(f"the keys are {', '.join(value)}")
            found.append(Figure(**value))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a figure: {error}") from None
    return found


def line(item: Figure) -> str:
    """`data  shuffled, flat arrays: 151,000 structures/s [148,000, 153,000] (5 x, 1 thread); .aselmdb 1,310, ratio 115`."""
    threads = f"{item.threads} thread{'s' if item.threads > 1 else ''}"
    text = f"{item.bench:6s} {item.name}: {short(item.value)} {item.unit} [{short(item.q1)}, {short(item.q3)}] ({item.n} x, {threads})"
    if item.peer is None or item.peer_value is None or item.ratio is None:
        return text
    return f"{text}; {item.peer} {short(item.peer_value)}, ratio {short(item.ratio)}"


def short(value: float) -> str:
    """Three digits that count: 151,000, 12.3, 0.00123."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.4g}"


def _rounded(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
