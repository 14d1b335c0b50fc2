"""AdamW against the one of torch, and its groups against the roles of parameters."""

from __future__ import annotations

import torch
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.optimizers import AdamW, adamw
from mlipfm_train.recipe import Optimizer
from mlipfm_train.step import Step
from torch.optim.adamw import adamw as torch_adamw


def test_adamw_takes_the_steps_of_torch():
    torch.manual_seed(0)
    start = torch.randn(5, 3, dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), start.clone()
    optimizer = AdamW([{"params": [ours], "weight_decay": 0.1}], 0.01, (0.8, 0.95), 1e-6)
    first, second, count = torch.zeros_like(start), torch.zeros_like(start), torch.zeros(())
    flags = {"foreach": False, "capturable": False, "differentiable": False, "fused": False, "has_complex": False, "amsgrad": False}
    numbers = {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1, "eps": 1e-6, "maximize": False}
    for k in range(20):
        grad = torch.sin(ours.detach() * (k + 1))
        ours.grad, optimizer.param_groups[0]["lr"] = grad, 0.01 * (k + 1)
        optimizer.step()
        torch_adamw([theirs], [grad], [first], [second], [], [count], lr=0.01 * (k + 1), **flags, **numbers)
    assert torch.allclose(ours.detach(), theirs, rtol=1e-12, atol=1e-14)


def test_parameters_without_a_gradient_are_left_alone():
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([{"params": [idle], "weight_decay": 0.5}], 0.1, (0.9, 0.999), 1e-8)
    optimizer.step()
    assert idle.tolist() == [1.0, 1.0]
    assert optimizer.state == {}


def test_weight_decay_acts_where_the_roles_say():
    class Decaying(Morse):
        def parameter_roles(self):
            roles = super().parameter_roles()
            return roles | {"table.depth": roles["table.depth"].__class__(1, "hidden", decay=True)}

    step = Step(Decaying(), {"energy-force": EnergyForce()})
    step.auxiliary["extra"] = torch.nn.Linear(2, 2)
    decayed, plain = adamw(Optimizer(weight_decay=0.3))(step).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [p is step.potential.table.depth for p in decayed["params"]] == [True]
    assert len(plain["params"]) == len(list(step.parameters())) - 1
