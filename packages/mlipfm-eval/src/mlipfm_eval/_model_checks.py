"""What a model check is, its figure and its limit, and how two predictions are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.testing.rules import deviation

from ._check_model_input import Answer, CheckedModel, relative


@dataclass(frozen=True)
class Measured:
    """One figure: a rule passes if `value <= limit`. remark: what else is to be known."""

    value: float
    limit: float
    unit: str
    remark: str = ""

    @property
    def holds(self) -> bool:
        """The one comparison by which a rule passes or fails; what is not a number always fails."""
        return within(self.value, self.limit)

    @property
    def ratio(self) -> float:
        """Figure over limit; infinite where it is no number."""
        if np.isnan(self.value):
            return float("inf")
        return self.value / self.limit if self.limit > 0 else (0.0 if self.value <= self.limit else float("inf"))


@dataclass(frozen=True)
class ModelCheck:
    """A rule with its name and statement.

    Attributes:
        check: returns None where it cannot apply.
        needs: the property that a model must declare, without which the check only measures.
        exact: whether a float64 copy of a potential is asked, so that rounding does not hide the rule; else the model in its own arithmetic.
    """

    name: str
    statement: str
    check: Callable[[CheckedModel], Measured | None]
    needs: str | None
    exact: bool = True


MODEL_CHECKS: list[ModelCheck] = []
Check = Callable[[CheckedModel], Measured | None]


def model_check(name: str, statement: str, needs: str | None = None, *, exact: bool = True) -> Callable[[Check], Check]:
    """Register a function as a model check (a decorator)."""

    def enter(check: Check) -> Check:
        MODEL_CHECKS.append(ModelCheck(name, statement, check, needs, exact))
        return check

    return enter


def within(value: float | None, limit: float | None) -> bool:
    """Tell whether a figure is within its limit; NaN is not."""
    return value is not None and limit is not None and bool(value <= limit)


def worst(*found: Measured) -> Measured:
    """Return the figure that is largest in units of its limit."""
    return max(found, key=lambda m: m.ratio)


def _energy_gap(subject: CheckedModel, got: np.ndarray | float, want: np.ndarray | float, n: int, remark: str = "") -> Measured:
    """Compare two energies of `n` atoms that should be equal, eV/atom. The last digits of large totals are allowed for."""
    return Measured(deviation(got, want) / n, subject.limits.energy + rounding(subject) * abs(float(want)) / n, "eV/atom", remark)


def rounding(subject: CheckedModel) -> float:
    """Return the relative rounding of a total energy: a few last digits. Potentials add up theirs in float64, whatever they compute in."""
    return 4e-7 if subject.precision == "float32" and not isinstance(subject.model, Potential) else 1e-14


def _forces_gap(subject: CheckedModel, got: np.ndarray, want: np.ndarray, remark: str = "") -> Measured:
    """Compare forces that should be equal, relative to the largest component, or to 1 eV/Å where they are smaller."""
    return Measured(deviation(got, want) / relative(want), subject.limits.forces, "of the largest force or 1 eV/Å", remark)


def answer_gap(subject: CheckedModel, got: Answer, want: Answer, remark: str = "") -> Measured:
    """Compare energies and forces that should be equal; return the worse of the two."""
    gaps = _energy_gap(subject, got["energy"], want["energy"], len(want["forces"])), _forces_gap(subject, got["forces"], want["forces"])
    return replace(worst(*gaps), remark=remark)
