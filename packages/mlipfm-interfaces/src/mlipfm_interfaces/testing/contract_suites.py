"""The contracts as pytest classes: subclass one, name what is tested, and get one test per rule.

class TestPainn(PotentialContract):
    def potential(self) -> Potential:
        return build("painn", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": 16}, "dtype": "float64"})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import pytest

from mlipfm_interfaces.potential import Potential

from .data_rules import LABELER_RULES, READER_RULES, SAMPLER_RULES, TEACHER_RULES, LabelerCase, ReaderCase, SamplerCase, TeacherCase
from .potential_rules import POTENTIAL_RULES
from .rules import Rule
from .training_rules import (
    BENCHMARK_RULES,
    OBJECTIVE_RULES,
    SOURCE_RULES,
    STRATEGY_RULES,
    WEIGHT_RULE_RULES,
    BenchmarkCase,
    ObjectiveCase,
    SourceCase,
    StrategyCase,
    WeightRuleCase,
)

T = TypeVar("T")


def _judge(rule: Rule[T], subject: T) -> None:
    verdict = rule.check(subject)
    if verdict.status == "skipped":
        pytest.skip(verdict.remark)


def _rules(rules: tuple[Rule[Any], ...] | list[Rule[Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.name)


class PotentialContract(ABC):
    """Every rule of `POTENTIAL_RULES`."""

    @abstractmethod
    def potential(self) -> Potential:
        """Return a potential in float64, small, with fresh or trained weights; asked anew for every rule."""

    @_rules(POTENTIAL_RULES)
    def test_potential_rule(self, rule: Rule[Potential]) -> None:
        _judge(rule, self.potential())


class ReaderContract(ABC):
    """Every rule of `READER_RULES`."""

    @abstractmethod
    def reader_case(self) -> ReaderCase: ...

    @_rules(READER_RULES)
    def test_reader_rule(self, rule: Rule[ReaderCase]) -> None:
        _judge(rule, self.reader_case())


class SamplerContract(ABC):
    """Every rule of `SAMPLER_RULES`."""

    @abstractmethod
    def sampler_case(self) -> SamplerCase: ...

    @_rules(SAMPLER_RULES)
    def test_sampler_rule(self, rule: Rule[SamplerCase]) -> None:
        _judge(rule, self.sampler_case())


class LabelerContract(ABC):
    """Every rule of `LABELER_RULES`."""

    @abstractmethod
    def labeler_case(self) -> LabelerCase: ...

    @_rules(LABELER_RULES)
    def test_labeler_rule(self, rule: Rule[LabelerCase]) -> None:
        _judge(rule, self.labeler_case())


class TeacherContract(ABC):
    """Every rule of `TEACHER_RULES`."""

    @abstractmethod
    def teacher_case(self) -> TeacherCase: ...

    @_rules(TEACHER_RULES)
    def test_teacher_rule(self, rule: Rule[TeacherCase]) -> None:
        _judge(rule, self.teacher_case())


class SourceContract(ABC):
    """Every rule of `SOURCE_RULES`."""

    @abstractmethod
    def source_case(self) -> SourceCase: ...

    @_rules(SOURCE_RULES)
    def test_source_rule(self, rule: Rule[SourceCase]) -> None:
        _judge(rule, self.source_case())


class ObjectiveContract(ABC):
    """Every rule of `OBJECTIVE_RULES`."""

    @abstractmethod
    def objective_case(self) -> ObjectiveCase: ...

    @_rules(OBJECTIVE_RULES)
    def test_objective_rule(self, rule: Rule[ObjectiveCase]) -> None:
        _judge(rule, self.objective_case())


class WeightRuleContract(ABC):
    """Every rule of `WEIGHT_RULE_RULES`."""

    @abstractmethod
    def weight_rule_case(self) -> WeightRuleCase: ...

    @_rules(WEIGHT_RULE_RULES)
    def test_weight_rule_rule(self, rule: Rule[WeightRuleCase]) -> None:
        _judge(rule, self.weight_rule_case())


class StrategyContract(ABC):
    """Every rule of `STRATEGY_RULES`."""

    @abstractmethod
    def strategy_case(self) -> StrategyCase: ...

    @_rules(STRATEGY_RULES)
    def test_strategy_rule(self, rule: Rule[StrategyCase]) -> None:
        _judge(rule, self.strategy_case())


class BenchmarkContract(ABC):
    """Every rule of `BENCHMARK_RULES`."""

    @abstractmethod
    def benchmark_case(self) -> BenchmarkCase: ...

    @_rules(BENCHMARK_RULES)
    def test_benchmark_rule(self, rule: Rule[BenchmarkCase]) -> None:
        _judge(rule, self.benchmark_case())
