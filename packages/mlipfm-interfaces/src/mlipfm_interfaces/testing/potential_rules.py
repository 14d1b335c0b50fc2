"""The contract of potentials: every rule, in the order in which failures are best read.

    from mlipfm_interfaces.testing.potential_rules import POTENTIAL_RULES, check_potential

Rules run in float64 and need neither pytest nor hypothesis, so that a checkpoint is tested by the same code as a new model in its tests.
"""

from __future__ import annotations

from mlipfm_interfaces.potential import Potential

from . import derivative_rules, reproducibility_rules, symmetry_rules
from .probes import float64_copy
from .rules import Finding, Rule, findings

POTENTIAL_RULES: tuple[Rule[Potential], ...] = (*symmetry_rules.RULES, *derivative_rules.RULES, *reproducibility_rules.RULES)


def check_potential(potential: Potential) -> list[Finding]:
    """Run every rule on a float64 copy of a potential; nothing is raised, the findings say what passed."""
    return findings(POTENTIAL_RULES, potential if potential.spec.dtype == "float64" else float64_copy(potential))
