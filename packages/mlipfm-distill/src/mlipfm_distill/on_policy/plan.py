"""How a budget is divided: labels and training in rounds, and what is kept back for measuring the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlipfm_interfaces.errors import RecipeError

from .request import Budget

#: Shares of the time: labels, training, and the rest for dynamics and measurements.
LABELS, TRAINING = 0.4, 0.42
#: Seconds that a label counts for at least: a teacher of a millisecond would leave no time to learn from its labels.
LEAST_PER_LABEL = 0.5
#: Share of the training time that the last training gets, and share of the labels in the first round.
LAST, FIRST = 0.5, 0.3
#: Fewest labels from which anything is learned. Labels for the equation of state and the Jacobian, which are measured with the teacher too.
FEWEST, MEASURED = 30, 15
#: Fewest and most frames of the test part, and their share of all labels; half as many are labelled outside of the range.
TEST, TEST_SHARE = (10, 60), 0.12
#: Share of the labels for frequencies and distributions of the teacher.
PHYSICS = 0.08


@dataclass(frozen=True)
class Plan:
    """What each stage may cost.

    Attributes:
        per_label: s, measured. learn: frames to learn from, in each round. test, outside: frames of the measurements.
        physics: labels for frequencies and distributions of the teacher.
        rows, products: of the Hessian (with random vectors) that come with each frame of `learn`, two labels each.
        training: s, of the training after each round; the last is for each size of student.
        seconds: of everything.
    """

    per_label: float
    learn: tuple[int, ...]
    test: int
    outside: int
    training: tuple[float, ...]
    seconds: float
    physics: int = 0
    rows: int = 0
    products: int = 0

    def line(self) -> str:
        """Say the plan in a sentence."""
        labels = sum(self.learn) * (1 + 2 * (self.rows + self.products)) + self.test + self.outside + self.physics + MEASURED
        with_hessian = _said(self.rows, self.products)
        return (
            f"plan: {labels} labels of {self.per_label:.2g} s: {' + '.join(map(str, self.learn))} in {len(self.learn)} rounds"
            f"{f' with {with_hessian} each, ' if with_hessian else ', '}"
            f"{self.test} to test, {self.outside} outside of the range, {self.physics} for frequencies and distributions; "
            f"{sum(self.training) / 60:.3g} min of training; about {self.seconds / 60:.3g} min in all"
        )


def _said(rows: int, products: int) -> str:
    parts = [f"{number} {name}{'s' * (number > 1)}" for number, name in ((rows, "row"), (products, "product")) if number]
    return f"{' and '.join(parts)} of the Hessian" if parts else ""


def make_plan(budget: Budget, per_label: float, sizes: int, rows: int = 0, products: int = 0) -> Plan:
    """Divide a budget, given the seconds of a label and the number of students.

    Args:
        rows, products: see `Plan`.

    Raises:
        RecipeError: it is too small, with what would do.
    """
    counted = max(per_label, LEAST_PER_LABEL)
    seconds = budget.seconds if budget.seconds is not None else (budget.labels or 0) * counted / LABELS
    total = budget.labels if budget.labels is not None else int(LABELS * seconds / counted)
    if total < FEWEST + TEST[0] + MEASURED:
        least = FEWEST + TEST[0] + MEASURED
        raise RecipeError(
            f"{budget} are {total} labels of {counted:.3g} s with the time to learn from them, of which nothing is learned",
            where="--budget",
            hint=f"give {least}labels or {least * counted / LABELS / 60 + 0.5:.0f}min at least, or start from smaller cells",
        )
    test = int(min(max(TEST_SHARE * total, TEST[0]), TEST[1]))
    physics = int(PHYSICS * total)
    left = (total - test - test // 2 - physics - MEASURED) // (1 + 2 * (rows + products))
    if left < FEWEST // 2:
        raise RecipeError(
            f"{budget} are {left} frames with {_said(rows, products)} each, of which nothing is learned",
            where="--hessian-rows" if rows else "--hessian-products",
            hint="give fewer, or a larger budget",
        )
    rounds = 4 if left < 120 else 5 if left < 400 else 7
    first = int(FIRST * left)
    learn = (first, *[(left - first) // (rounds - 1)] * (rounds - 1))
    training = (LABELS + TRAINING) * seconds - total * per_label  # what quick labels leave
    early = training * (1 - LAST) / sizes if sizes > 1 else training * (1 - LAST)
    last = (training - early) / sizes
    return Plan(per_label, learn, test, test // 2, (*[early / (rounds - 1)] * (rounds - 1), last), seconds, physics, rows, products)


def extended(plan: Plan, done: Sequence[int]) -> Plan:
    """Return the plan of a larger budget in a folder that has rounds of `done` frames already: they count, and two or more rounds follow.

    Raises:
        RecipeError: nothing is left to learn.
    """
    left = sum(plan.learn) - sum(done)
    if left < FEWEST:
        raise RecipeError(
            f"the folder has learned {sum(done)} frames already, and this budget is for {sum(plan.learn)}",
            where="--budget",
            hint="give a larger budget, or another folder by --out",
        )
    rounds = max(2, len(plan.learn) - len(done))
    return replace(
        plan,
        learn=(*done, *[left // rounds] * rounds),
        training=(*[0.0] * len(done), *[sum(plan.training[:-1]) / (rounds - 1)] * (rounds - 1), plan.training[-1]),
    )
