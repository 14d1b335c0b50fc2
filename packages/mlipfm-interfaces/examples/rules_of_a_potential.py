"""Run the contract of potentials on one and print the rules that it passes."""

from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.testing.potential_rules import check_potential

held = [finding.rule for finding in check_potential(noble_gas()) if finding.verdict is not None and finding.verdict.status == "held"]
print(f"Lennard-Jones argon passes {len(held)} rules, among them: {', '.join(held[:5])}")
