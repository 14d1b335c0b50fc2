"""Write a potential in a few lines, and see the contract suite reject a mistake by name."""

from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.testing.potential_rules import check_potential

findings = check_potential(noble_gas())
print(f"Lennard-Jones argon: {sum(f.verdict.status == "held" for f in findings if f.verdict)} rules hold")
