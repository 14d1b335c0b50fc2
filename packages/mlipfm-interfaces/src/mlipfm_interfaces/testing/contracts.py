"""Every contract with its rules and, for each rule, the violator that it must reject by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlipfm_interfaces.errors import ContractError

from .potential_rules import POTENTIAL_RULES
from .rules import Rule
from .seam_violators import SEAM_RULES, SEAM_VIOLATORS
from .violators import VIOLATORS, Violator

#: Rules by the name of their contract.
CONTRACTS: dict[str, tuple[Rule[Any], ...]] = {"potential": POTENTIAL_RULES, **SEAM_RULES}

#: The planted violator of every rule, by the rule's name.
PLANTED: dict[str, Violator[Any]] = {violator.rule: violator for violator in (*VIOLATORS, *SEAM_VIOLATORS)}


@dataclass(frozen=True)
class Trial:
    """A rule and its violator, put to the test.

    Attributes:
        rejection: what the rule said; None if the violator got through, or if there is none.
    """

    contract: str
    rule: Rule[Any]
    violator: Violator[Any] | None
    rejection: str | None

    @property
    def rejected(self) -> bool:
        """Whether the rule rejected its violator by its own name."""
        return self.rejection is not None and self.rejection.startswith(f"{self.rule.name}:")


def trials(names: Iterable[str] = tuple(CONTRACTS)) -> Iterator[Trial]:
    """Run every violator of these contracts against its rule, one after the other; a few seconds for all."""
    for contract in names:
        for rule in CONTRACTS[contract]:
            violator = PLANTED.get(rule.name)
            yield Trial(contract, rule, violator, None if violator is None else _rejection(rule, violator))


def _rejection(rule: Rule[Any], violator: Violator[Any]) -> str | None:
    try:
        rule.check(violator.make())
    except ContractError as error:
        return str(error)
    return None
