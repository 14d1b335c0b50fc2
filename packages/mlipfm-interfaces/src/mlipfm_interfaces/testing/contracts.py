"""Every contract with its rules, by the name of what it is about: potential, reader, sampler, objective, benchmark ..."""

from __future__ import annotations

from typing import Any

from .data_rules import LABELER_RULES, READER_RULES, SAMPLER_RULES, TEACHER_RULES
from .potential_rules import POTENTIAL_RULES
from .rules import Rule
from .training_rules import BENCHMARK_RULES, OBJECTIVE_RULES, SOURCE_RULES, STRATEGY_RULES, WEIGHT_RULE_RULES

CONTRACTS: dict[str, tuple[Rule[Any], ...]] = {
    "potential": tuple(POTENTIAL_RULES),
    "reader": tuple(READER_RULES),
    "sampler": tuple(SAMPLER_RULES),
    "labeler": tuple(LABELER_RULES),
    "teacher": tuple(TEACHER_RULES),
    "source": tuple(SOURCE_RULES),
    "objective": tuple(OBJECTIVE_RULES),
    "weight-rule": tuple(WEIGHT_RULE_RULES),
    "strategy": tuple(STRATEGY_RULES),
    "benchmark": tuple(BENCHMARK_RULES),
}
