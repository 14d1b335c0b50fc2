"""The contracts themselves: right plug-ins pass, every rule has a counterexample, and every counterexample is rejected by the name of its rule."""

from dataclasses import replace

import pytest
import torch
from mlipfm_interfaces import dev_command
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.derivatives import forces
from mlipfm_interfaces.errors import ContractError, PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, DirectPairs, HarmonicPairs, LennardJones, Morse, noble_gas
from mlipfm_interfaces.testing.contract_suites import (
    BenchmarkContract,
    LabelerContract,
    ObjectiveContract,
    PotentialContract,
    ReaderContract,
    SamplerContract,
    SourceContract,
    StrategyContract,
    TeacherContract,
    WeightRuleContract,
)
from mlipfm_interfaces.testing.contracts import CONTRACTS
from mlipfm_interfaces.testing.potential_rules import POTENTIAL_RULES, check_potential
from mlipfm_interfaces.testing.rules import Rule, broken, rule
from mlipfm_interfaces.testing.structures import ethanol
from typer.testing import CliRunner

from .counterexamples import POTENTIAL_COUNTEREXAMPLES
from .minimal_plugins import cases
from .plugin_counterexamples import PLUGIN_COUNTEREXAMPLES

EVERYTHING = ClosedFormConfig(
    layout="dense", levels=("first", "second"), conditions=("total_charge", "spin_multiplicity", "external_field")
)
RULES = {item.name: item for rules in CONTRACTS.values() for item in rules}
COUNTEREXAMPLES = {found.rule: found for found in (*POTENTIAL_COUNTEREXAMPLES, *PLUGIN_COUNTEREXAMPLES)}


class TestMorseOnTheDenseLayoutWithAllConditions(PotentialContract):
    def potential(self) -> Potential:
        return Morse(EVERYTHING)


class TestDirectPairs(PotentialContract):
    def potential(self) -> Potential:
        return DirectPairs()


class TestSeams(
    ReaderContract,
    SamplerContract,
    LabelerContract,
    TeacherContract,
    SourceContract,
    ObjectiveContract,
    WeightRuleContract,
    StrategyContract,
    BenchmarkContract,
):
    def reader_case(self):
        return cases()["reader"]

    def sampler_case(self):
        return cases()["sampler"]

    def labeler_case(self):
        return cases()["labeler"]

    def teacher_case(self):
        return cases()["teacher"]

    def source_case(self):
        return cases()["source"]

    def objective_case(self):
        return cases()["objective"]

    def weight_rule_case(self):
        return cases()["weight-rule"]

    def strategy_case(self):
        return cases()["strategy"]

    def benchmark_case(self):
        return cases()["benchmark"]


def test_every_rule_has_one_name_and_one_counterexample():
    names = [item.name for rules in CONTRACTS.values() for item in rules]
    assert len(names) == len(set(names))
    assert set(names) == set(COUNTEREXAMPLES)


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
def test_a_counterexample_is_rejected_by_the_name_of_its_rule(name):
    with pytest.raises(ContractError, match=f"^{name}: "):
        RULES[name].check(COUNTEREXAMPLES[name].make())


@pytest.mark.ci
@pytest.mark.parametrize("make", [Morse, LennardJones, noble_gas, lambda: HarmonicPairs(ClosedFormConfig(elements=(6,)))])
def test_honest_potentials_break_no_rule(make):
    assert [str(finding.error) for finding in check_potential(make()) if finding.error] == []


def test_a_potential_in_float32_is_judged_as_its_float64_copy():
    potential = Morse(replace(EVERYTHING, dtype="float32"))
    assert [str(finding.error) for finding in check_potential(potential) if finding.error] == []
    assert next(potential.parameters()).dtype == torch.float32


def test_an_unconstrained_potential_is_measured_and_not_failed():
    potential = COUNTEREXAMPLES["rotation"].make()
    potential.spec = replace(potential.spec, invariant=False)
    verdict = RULES["rotation"].check(potential)
    assert verdict.status == "measured"
    assert verdict.remark.startswith("energy 0.")


def test_derivatives_inside_no_grad_are_refused_and_not_silently_zero():
    model = Morse()
    batch = collate([ethanol()], model.spec.graphs, torch.float64).with_leaves()
    with torch.no_grad(), pytest.raises(PropertyNotAvailableError, match=r"inside torch.no_grad\(\); compute it under torch.enable_grad"):
        forces(batch.sum_per_system(model.atomic_energies(batch)), batch)


def test_direct_forces_are_measured_against_the_slope_of_the_energy():
    verdict = RULES["forces-are-gradient"].check(DirectPairs())
    assert verdict.status == "measured"
    assert "asymmetry of the force Jacobian" in verdict.remark


def test_an_exception_inside_a_rule_is_a_broken_rule_that_says_what_was_raised():
    table: list[Rule[int]] = []

    @rule(table, "some-rule", "Numbers have no inverse of zero.")
    def _check(subject: int) -> None:
        if 1 / subject < 0:
            raise broken("negative")

    with pytest.raises(ContractError, match="^some-rule: raised ZeroDivisionError: division by zero"):
        table[0].check(0)
    with pytest.raises(ContractError, match="^some-rule: negative"):
        table[0].check(-1)
    assert table[0].check(1).status == "held"


def test_the_command_lists_every_rule_or_those_of_one_contract():
    listed = CliRunner().invoke(dev_command.app, ["contracts"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in RULES)
    one = CliRunner().invoke(dev_command.app, ["contracts", "--contract", "weight-rule"], env={"COLUMNS": "200"})
    assert "weight-rule-constant" in one.stdout
    assert "benchmark-records" not in one.stdout


def test_a_contract_holds_at_least_the_rules_that_models_rely_on():
    assert {"forces-are-gradient", "extensivity", "smooth-cutoff", "checkpoint-round-trip", "no-stale-state"} <= {
        r.name for r in POTENTIAL_RULES
    }
