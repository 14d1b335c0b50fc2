"""The moving average against its closed form, and the contract of weight rules."""

from __future__ import annotations

import pytest
import torch
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import WEIGHT_RULE_RULES, WeightRuleCase
from mlipfm_train.weight_rules import Ema, LiveWeights


def test_ema_of_a_step_is_a_geometric_approach():
    """Weights jump from 0 to 1: the distance shrinks by d in every update, d = min(decay, (1 + n) / (10 + n))."""
    rule = Ema(decay=0.3)
    rule.update({"w": torch.zeros(2)}, 0)
    distance = 1.0
    for n in range(1, 8):
        rule.update({"w": torch.ones(2)}, n)
        distance *= min(0.3, (1 + n) / (10 + n))
    assert rule.averaged()["w"].tolist() == pytest.approx([1 - distance] * 2, abs=1e-7)


@pytest.mark.parametrize("make", [Ema, LiveWeights])
def test_weight_rules_keep_their_contract(make):
    broken = [f.error for f in findings(tuple(WEIGHT_RULE_RULES), WeightRuleCase(make)) if f.error]
    assert not broken


def test_live_weights_export_nothing_of_their_own():
    assert LiveWeights().averaged() is None
