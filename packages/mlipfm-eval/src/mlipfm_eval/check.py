"""Model checks: every rule with its figure, its limit and its outcome, and the result record of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal

import numpy as np
from mlipfm_interfaces.benchmark import BenchmarkResult, OpenModel, benchmark_record
from mlipfm_interfaces.errors import ContractError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.result_records import Record
from mlipfm_interfaces.structure import Structure

from ._check_model_input import CheckedModel, Precision, prepare_model
from ._model_checks import MODEL_CHECKS, ModelCheck, within

for _module in (
    "_check_symmetries",
    "_check_derivatives",
    "_check_reproducibility",
    "_check_repulsion",
):  # they enter their rules, in this order
    import_module(f".{_module}", __package__)

_Status = Literal["held", "measured", "skipped", "broken"]


@dataclass(frozen=True)
class Outcome:
    """How one rule ended.

    Attributes:
        suite: `contract` (the rules of potentials, on a float64 copy) or `behaviour` (from outside, on structures that the model supports).
        value, limit: the figure and what it may be; None for rules without one.
        status: `broken` fails the check; `measured`: the model does not declare this; `skipped`: it cannot apply.
    """

    suite: Literal["contract", "behaviour"]
    rule: str
    status: _Status
    value: float | None = None
    limit: float | None = None
    unit: str = "1"
    remark: str = ""


def check_model(
    model: Potential | Teacher,
    precision: Precision | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    rules: Collection[str] | None = None,
    data: Sequence[Structure] = (),
    elements: Sequence[int] = (),
    quick: bool = False,
) -> list[Outcome]:
    """Apply every rule that can be: the contract of potentials to a potential, and the model checks to any model.

    Args:
        precision, data, elements: see `prepare_model`. progress: called with the number of rules done, and of all.
        rules: names of those to run; None: all.
        quick: shorter dynamics and smaller systems, for models that need seconds for one structure.

    Raises:
        ContractError: if the model predicts nothing that is tried, or no rule has one of these names.
    """
    from mlipfm_interfaces.testing.potential_rules import POTENTIAL_RULES
    from mlipfm_interfaces.testing.probes import float64_copy
    from mlipfm_interfaces.testing.rules import findings

    known = [item.name for item in MODEL_CHECKS] + [item.name for item in POTENTIAL_RULES]
    unknown = sorted(set(rules or ()) - set(known))
    if unknown:
        raise ContractError(f"no rule has the name {unknown[0]!r}", hint=f"choose of: {', '.join(known)}")
    subject = prepare_model(
        model, precision, data=data, elements=elements, quick=quick
    )  # first: a model that predicts nothing breaks every rule, and none of them says why
    outcomes: list[Outcome] = []
    contract = [rule for rule in POTENTIAL_RULES if isinstance(model, Potential) and (rules is None or rule.name in rules)]
    behaviours = [item for item in MODEL_CHECKS if rules is None or item.name in rules]
    total = len(contract) + len(behaviours)
    if isinstance(subject.model, Potential):
        twin = subject.model if subject.model.spec.dtype == "float64" else float64_copy(subject.model)
        for rule in contract:
            (found,) = findings((rule,), twin)
            status: _Status = found.verdict.status if found.verdict else "broken"
            remark = found.verdict.remark if found.verdict else str(found.error and found.error.what).removeprefix(f"{rule.name}: ")
            outcomes.append(Outcome("contract", rule.name, status, remark=remark))
            progress(len(outcomes), total)
    for item in behaviours:
        outcomes.append(_outcome(item, subject))
        progress(len(outcomes), total)
    return outcomes


def rules_of(property_name: str) -> list[str]:
    """Return the names of the rules that only models which declare this can fail: `conservative`, `invariant`, `local-charge`.

    Raises:
        ContractError: no rule is about such a property; those that are are named.
    """
    known = dict.fromkeys(item.needs for item in MODEL_CHECKS if item.needs is not None)
    if property_name not in known:
        raise ContractError(f"no rule is about the property {property_name!r}", hint=f"choose of: {', '.join(known)}")
    return [item.name for item in MODEL_CHECKS if item.needs == property_name]


def require_properties(outcomes: list[Outcome], *properties: str) -> list[Outcome]:
    """Require rules that were only measured because the model does not declare them: what is to drive dynamics must be `conservative`, whatever
    it declares; return all outcomes.

    Raises:
        ContractError: as `rules_of`.
    """
    rules = {rule for property_name in properties for rule in rules_of(property_name)}
    return [apply_limit(o) if o.status == "measured" and o.rule in rules else o for o in outcomes]


def undeclared_measurements(outcomes: list[Outcome], property_name: str) -> list[Outcome]:
    """Rules about a property that the model does not declare, so that they were measured and cannot fail."""
    return [o for o in outcomes if o.status == "measured" and o.value is not None and o.rule in rules_of(property_name)]


def broken(outcomes: list[Outcome]) -> list[str]:
    """Return the names of the rules that failed, each once, in order."""
    return list(dict.fromkeys(outcome.rule for outcome in outcomes if outcome.status == "broken"))


def check_record(model: OpenModel, outcomes: list[Outcome], required: Collection[str] = ()) -> Record:
    """Return the result record of a check. required: properties that were required (`require_properties`), declared or not."""
    return benchmark_record("check", _check_result(outcomes, required), model)


def _check_result(outcomes: list[Outcome], required: Collection[str] = ()) -> BenchmarkResult:
    """Return the figures, statuses and remarks of a check as a benchmark result."""
    metrics = [
        {"name": o.rule, "unit": o.unit, "value": _finite(o.value), "ci95": None, "n_ok": int(_finite(o.value) is not None), "n_total": 1,
         "limit": o.limit, "suite": o.suite, "status": o.status}
        for o in outcomes if o.value is not None
    ]  # fmt: skip
    rules = [{"suite": o.suite, "rule": o.rule, "status": o.status, "remark": o.remark} for o in outcomes]
    failed = broken(outcomes)
    return BenchmarkResult(metrics, not failed, {"broken": failed, "rules": rules, "required": list(required)}, "check")


def _outcome(item: ModelCheck, subject: CheckedModel) -> Outcome:
    """Run one rule; whatever a model raises is a broken rule with the reason."""
    try:
        found = item.check(subject.exact if item.exact else subject)
    except Exception as error:  # a model may fail in any way; what it raised is the finding
        what = error.what if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
        return Outcome("behaviour", item.name, "broken", remark=what)
    if found is None:
        return Outcome("behaviour", item.name, "skipped", remark="it cannot apply: see the README for what the rule needs")
    status: _Status = "held" if found.holds else "broken"
    if item.needs is not None and item.needs not in subject.properties:
        status = "measured"
    return Outcome("behaviour", item.name, status, found.value, found.limit, found.unit, found.remark)


def apply_limit(o: Outcome) -> Outcome:
    if o.value is None or o.limit is None:
        return o
    remark = f"{o.remark}; " * bool(o.remark) + "not declared by the model, but required"
    return replace(o, status="held" if within(o.value, o.limit) else "broken", remark=remark)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
