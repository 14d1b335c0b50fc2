"""What a rule of a contract is, and how it is run: plain functions, free of any test framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mlipfm_interfaces.errors import ContractError

Subject = TypeVar("Subject")


class RuleResult(NamedTuple):
    """How a rule that was not broken ended.

    Attributes:
        status: `held`; `measured` where the subject does not declare the property (the remark has the figures); `skipped` where it cannot apply.
        remark: figures or reason.
    """

    status: Literal["held", "measured", "skipped"]
    remark: str = ""


HELD = RuleResult("held")


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """One rule of a contract.

    Attributes:
        name: kebab-case, stable; every message of a broken rule starts with it.
        statement: the rule in one sentence.
        check: raises `ContractError` if the subject breaks the rule.
    """

    name: str
    statement: str
    check: Callable[[Subject], RuleResult]


Check = Callable[[Subject], RuleResult | None]


def rule(table: list[Rule[Subject]], name: str, statement: str) -> Callable[[Check[Subject]], Check[Subject]]:
    """Decorator: enter a check into a table of rules. The check raises `ContractError` (any other exception counts as one, by its type)."""

    def enter(check: Check[Subject]) -> Check[Subject]:
        def named(subject: Subject) -> RuleResult:
            try:
                return check(subject) or HELD
            except ContractError as error:
                raise ContractError(f"{name}: {error.what}") from error
            except Exception as error:  # a subject may fail in any way; what it raised is the finding
                raise ContractError(f"{name}: raised {type(error).__name__}: {error}") from error

        table.append(Rule(name, statement, named))
        return check

    return enter


@dataclass(frozen=True)
class Finding:
    """Outcome of one rule: its result, or the error that says how it failed."""

    rule: str
    statement: str
    verdict: RuleResult | None
    error: ContractError | None


def findings(rules: tuple[Rule[Subject], ...], subject: Subject) -> list[Finding]:
    """Run all rules on one subject; nothing is raised."""
    results = []
    for item in rules:
        try:
            results.append(Finding(item.name, item.statement, item.check(subject), None))
        except ContractError as error:
            results.append(Finding(item.name, item.statement, None, error))
    return results


def broken(what: str) -> ContractError:
    """Return the error of a broken rule; its name is put in front by `rule`."""
    return ContractError(what)


def require(condition: bool, what: str) -> None:
    """Raise `ContractError` with `what` unless the condition holds."""
    if not condition:
        raise broken(what)


def deviation(got: ArrayLike, want: ArrayLike) -> float:
    """Largest absolute difference; NaN anywhere gives infinity, as do shapes that do not fit."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    largest = float(np.abs(a - b).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


def same(what: str, got: ArrayLike, want: ArrayLike, tolerance: float) -> None:
    """Raise `ContractError` if the two differ by more than `tolerance` anywhere."""
    gap = deviation(got, want)
    require(gap <= tolerance, f"{what} differ by {gap:.3g}, allowed {tolerance:.3g}")


def refused(what: str, action: Callable[[], object], error: type[Exception], *words: str) -> None:
    """Raise `ContractError` unless `action` raises `error` with all `words` in its message."""
    try:
        action()
    except error as reason:
        missing = [word for word in words if word not in str(reason)]
        require(not missing, f"{what} is refused, but the message does not name {', '.join(missing)}: {reason}")
        return
    raise broken(f"{what} is not refused with {error.__name__}")
