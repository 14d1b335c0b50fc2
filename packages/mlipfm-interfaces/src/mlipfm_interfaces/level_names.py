"""Spell the names of levels of theory in one way. Names on disk stay as they were written; whoever reads or compares them uses these functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .errors import LevelError

#: Corrections that are named after the functional, in their one spelling. `-d` and `-v` are part of a functional's name (`wb97x-d`, `wb97m-v`).
DISPERSIONS = ("d2", "d3", "d3bj", "d3zero", "d3m", "d3mbj", "d3op", "d4", "vv10", "rvv10", "mbd", "mbd-nl", "ts", "xdm", "nl")

_END = r"(?=[/:]|$)"
_JOINED = re.compile(rf"\+({'|'.join(sorted((*DISPERSIONS, 'd3'), key=len, reverse=True))}|g?d3m?[-_/]?\(?(?:bj|0|zero)\)?){_END}")
_BECKE_JOHNSON = re.compile(rf"-g?d3(m?)[-_/]?\(?bj\)?{_END}")
_ZERO = re.compile(rf"-g?d3[-_]?(?:\(0\)|\(zero\)|zero|0){_END}")


@lru_cache(4096)
def canonical_level(text: str) -> str:
    """Return a level in its one spelling: `wB97M-D3(BJ)` -> `wb97m-d3bj`, `PBE0+MBD` -> `pbe0-mbd`, `GFN2-xTB` -> `gfn2-xtb`.

    Lower case, `ω` as `w`, spaces as `-`, one spelling of dispersion corrections.

    Raises:
        LevelError: for an empty name.
    """
    name = re.sub(r"\s+", "-", text.strip().lower().replace("ω", "w").replace("omega", "w"))
    if not name:
        raise LevelError("a level of theory needs a name", hint="for instance 'pbe/520ev' or 'gfn2-xtb'")
    return _ZERO.sub("-d3zero", _BECKE_JOHNSON.sub(r"-d3\1bj", _JOINED.sub(r"-\1", name)))


def find_level(level: str | None, known: Iterable[str]) -> str | None:
    """Return the entry of `known` that is the same level, however the two are spelled; None if there is none."""
    if level is None:
        return None
    return next((name for name in known if name == level or canonical_level(name) == canonical_level(level)), None)
