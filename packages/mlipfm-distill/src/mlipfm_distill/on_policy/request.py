"""What the user of `mlipfm distill` asks for, and the folder that belongs to it: the same request goes on where it stopped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import RecipeError, UnreadableFileError
from mlipfm_interfaces.files import sha256
from mlipfm_md.ensembles import check_temperature

from .student import SIZES

#: Seconds in each unit of a budget.
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
#: Most labels and seconds that are no slip of the pen.
MOST_LABELS, MOST_SECONDS = 1_000_000, 30 * 86400.0


@dataclass(frozen=True)
class Budget:
    """What a distillation may cost: `seconds` of this computer, or a number of `labels` of the teacher; one of them."""

    seconds: float | None = None
    labels: int | None = None

    def __str__(self) -> str:
        return f"{self.labels} labels" if self.labels is not None else f"{(self.seconds or 0) / 60:.3g} min"


def parse_budget(text: str) -> Budget:
    """Read `45min`, `2h`, `90s` or `300labels`.

    Raises:
        RecipeError: anything else, and budgets that are nothing or beyond reason.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|labels?)\s*", text)
    if not found:
        raise RecipeError(f"{text!r} is not a budget", where="--budget", hint="give a time, 45min or 2h, or a number of labels, 300labels")
    value, unit = float(found[1]), found[2]
    if unit.startswith("label"):
        if not 10 <= value <= MOST_LABELS:
            raise RecipeError(f"a budget of {value:g} labels is not possible", where="--budget", hint=f"give 10 to {MOST_LABELS:,} labels")
        return Budget(labels=int(value))
    seconds = value * UNITS[unit]
    if not 1 <= seconds <= MOST_SECONDS:
        raise RecipeError(f"a budget of {text} is not possible", where="--budget", hint="give a time from 1 s to 30 d")
    return Budget(seconds=seconds)


@dataclass(frozen=True)
class DistillationRequest:
    """One distillation.

    Attributes:
        teacher: address or checkpoint. start: file with structures. out: folder of the result.
        temperatures: K, of the student's dynamics. budget: what it may cost. sizes: of the students, the first is trained in the loop.
        level: of theory, of a teacher that knows several. dt: fs; None: 0.5 with hydrogen, 1 without.
        charge, multiplicity: of structures whose file gives none. timeout: s, of one label. seed: of displacements, velocities and training.
        hessian_rows, hessian_products: of the teacher's Hessian (with random vectors), on every frame that is trained on.
    """

    teacher: str
    start: Path
    out: Path
    temperatures: tuple[float, ...]
    budget: Budget
    sizes: tuple[str, ...] = ("medium",)
    level: str | None = None
    dt: float | None = None
    charge: int | None = None
    multiplicity: int | None = None
    timeout: float = 600.0
    seed: int = 0
    hessian_rows: int = 0
    hessian_products: int = 0

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UnreadableFileError: no such file. RecipeError: naming the option. SimulationError: a temperature that nothing has.
        """
        if not self.start.is_file():
            raise UnreadableFileError("there is no such file", where=str(self.start), hint="give a file with structures that ASE reads")
        if not self.temperatures:
            raise RecipeError("no temperature is given", where="--temperature", hint="--temperature 300 600, in K")
        for kelvin in self.temperatures:
            check_temperature(kelvin)
            if kelvin <= 0:
                raise RecipeError("dynamics at 0 K do not move", where="--temperature", hint="--temperature 300 600, in K")
        unknown = [size for size in self.sizes if size not in SIZES]
        if unknown or not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise RecipeError(f"sizes cannot be {' '.join(self.sizes)}", where="--sizes", hint=f"each of {', '.join(SIZES)} once at most")

    def decides(self) -> dict[str, Any]:
        """Return what decides the result, JSON-ready; neither the budget, which may grow, nor where the folder is."""
        second = {"hessian_rows": self.hessian_rows, "hessian_products": self.hessian_products}
        return {key: number for key, number in second.items() if number} | {
            "teacher": self.teacher,
            "start": sha256(self.start),
            "temperatures": list(self.temperatures),
            "level": self.level,
            "dt": self.dt,
            "charge": self.charge,
            "multiplicity": self.multiplicity,
            "seed": self.seed,
        }
