"""The benchmark `check`: the rules of a model check as one result, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel
from mlipfm_interfaces.console import progress_bar
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import ContractError
from mlipfm_interfaces.examples import chosen
from rich.markup import escape
from rich.table import Table

from ._check_model_input import LIMITS
from ._model_checks import within
from .check import Outcome, _check_result, broken, check_model, require_properties, rules_of, undeclared_measurements

#: What is printed for an outcome that a record spells so.
_WORDS = {"held": "passed", "broken": "failed"}
_STYLE = {"held": "green", "measured": "cyan", "skipped": "dim", "broken": "bold red"}


def check(
    model: OpenModel,
    data: Sequence[LabelledSet],
    *,
    precision: str | None = None,
    require: str = "",
    elements: str = "",
    quick: bool = False,
    verbose: bool = False,
) -> BenchmarkResult:
    """Symmetries, derivatives, smoothness, reproducibility, repulsion and energy conservation, each with its limit.

    Args:
        data: a few of its structures are checked on; without any, those in the checkpoint, or what is made of its elements.
        precision: limits to hold the model to: float64, converged or float32; found out if not given.
        require: what it must keep although it does not declare it, separated by commas: conservative, invariant, local-charge.
        elements: elements to check on, such as `Si` or `Li,P,S`. quick: shorter dynamics and smaller systems. verbose: all rules and remarks.

    Raises:
        ContractError: an unknown precision or property, or a model that predicts nothing that is tried. UnknownElementError: an unknown element.
    """
    required = [name.strip() for name in require.split(",") if name.strip()]
    numbers = _elements_of(elements)
    if precision is not None and precision not in LIMITS:
        raise ContractError(f"no precision is named {precision!r}", hint=f"choose one of: {', '.join(LIMITS)}")
    for property_name in required:
        rules_of(property_name)  # refuses what no rule is about before anything is measured
    own = chosen([s for one in data for s in chosen(one.structures)])
    with progress_bar("rules") as advance:
        outcomes = check_model(model.model, precision, advance, data=own, elements=numbers, quick=quick)
    outcomes = require_properties(outcomes, *required)
    failed = broken(outcomes)
    printed: list[Table | str] = [_table(outcomes, verbose)]
    held = sum(_plain(o) for o in outcomes)
    if held and not verbose:
        printed.append(f"[dim]and {held} rules of the contract passed (--verbose shows them)[/]")
    if not failed:
        style = "bold yellow" if undeclared_measurements(outcomes, "conservative") else "bold green"
        printed.append(f"[{style}]{escape(_verdict(model.address, outcomes))}[/]")
    failure = f"{model.address} breaks {len(failed)} rule{'s' * (len(failed) > 1)}: {', '.join(failed)}" if failed else ""
    return replace(_check_result(outcomes, required), printed=printed, failure=failure)


def _verdict(address: str, outcomes: list[Outcome]) -> str:
    """Return one sentence on a model that breaks no rule, and which rules cannot fail if it is not conservative."""
    count = {status: sum(o.status == status for o in outcomes) for status in _STYLE}
    rest = ", ".join(f"{count[status]} {status}" for status in ("measured", "skipped") if count[status])
    text = f"{address} breaks no rule: {count['held']} passed" + (f", {rest}" if rest else "")
    loose = undeclared_measurements(outcomes, "conservative")
    if not loose:
        return text
    figures = ", ".join(f"{o.rule} {o.value:.2g} {o.unit} (limit {o.limit:.2g})" for o in loose if o.rule == "nve-drift")
    others = ", ".join(o.rule for o in loose if o.rule != "nve-drift")
    return (
        f"{text}. It is NOT CONSERVATIVE: its forces are no gradient of its energy, and energy conservation was measured, not required: "
        f"{figures}{', ' * bool(figures and others)}{others}. --require conservative does"
    )


def _plain(outcome: Outcome) -> bool:
    """Return a rule of which there is nothing to say but that it passed."""
    return outcome.status == "held" and outcome.value is None


def _elements_of(names: str | None) -> list[int]:
    """Return the atomic numbers of `H,C,O` or `H C O`.

    Raises:
        UnknownElementError: for a name that no element has.
    """
    return sorted({number(name) for name in (names or "").replace(",", " ").split()})


def _figure(value: float | None, limit: float | None) -> tuple[str, str]:
    """Return both as text, with as many digits as keep them in their order: what is above its limit is shown above it, what is not is not."""
    if value is None or limit is None:
        return "-" if value is None else f"{value:.2g}", "-" if limit is None else f"{limit:.2g}"
    for digits in range(2, 18):
        shown = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if (float(shown[0]) <= float(shown[1])) == within(value, limit):
            break
    return shown


def _once(outcomes: list[Outcome]) -> list[Outcome]:
    """Return a rule of both suites in one row, that with the figure, unless the contract alone is broken: then in two, each with its own outcome."""
    seen = {o.rule: o for o in outcomes if o.suite == "behaviour"}
    inside = {o.rule: o for o in outcomes if o.suite == "contract" and o.rule in seen}
    rows = []
    for o in outcomes:
        if o.suite == "contract" and o.rule in seen:
            if o.status == "broken" and seen[o.rule].status != "broken":
                rows.append(replace(o, remark=f"contract: {o.remark}"))
        elif o.suite == "behaviour" and o.status == "broken" and o.rule in inside and inside[o.rule].status == "broken":
            rows.append(replace(o, remark="; ".join(filter(None, [f"contract: {inside[o.rule].remark}", o.remark]))))
        else:
            rows.append(o)
    return rows


def _table(outcomes: list[Outcome], verbose: bool = True) -> Table:
    """Return a row for each outcome: rule, figure, limit, what became of it and a remark.

    Without `verbose` each rule stands once, only if it has a figure, failed or was skipped, and with its remark only where that explains one. With
    it a column says to which suite the rule belongs.
    """
    if not verbose:
        outcomes = _once(outcomes)
        outcomes = [o if o.status in ("broken", "skipped") else replace(o, remark="") for o in outcomes if not _plain(o)]
    remarks = any(o.remark for o in outcomes)
    shown = Table()
    names = [("suite", "left")] * verbose + [("rule", "left")]
    columns = [*names, ("figure", "right"), ("limit", "right"), ("unit", "left"), ("outcome", "left")]
    for name, justify in columns + [("remark", "left")] * remarks:
        shown.add_column(name, justify=justify, overflow="fold", no_wrap=name in ("suite", "rule", "outcome"))  # type: ignore[arg-type]  # the two words are what rich takes
    for k, o in enumerate(outcomes):
        if k and o.suite != outcomes[k - 1].suite:
            shown.add_section()
        value, limit = _figure(o.value, o.limit)
        named = [o.suite, o.rule] if verbose else [o.rule]
        cells = [*named, value, limit, o.unit if o.value is not None else "", f"[{_STYLE[o.status]}]{_WORDS.get(o.status, o.status)}[/]"]
        shown.add_row(*cells, *([escape(o.remark)] if remarks else []))
    return shown
