"""Check ASE's effective medium theory, and one that was spoilt; a few seconds."""

from mlipfm_eval import broken, check_model
from mlipfm_interfaces.foreign import open_foreign


class Turned:
    """EMT whose stress has the opposite sign, as some codes print it."""

    def __init__(self, inner):
        self.inner, self.outputs = inner, inner.outputs

    def evaluate(self, structures, outputs):
        rows = self.inner.evaluate(structures, outputs)
        return [{key: -value if key == "stress" else value for key, value in row.items()} for row in rows]


RULES = ["rotation", "forces-are-gradient", "stress-is-strain-derivative", "extensivity", "no-stale-state"]

with open_foreign("emt:") as emt:
    for name, model in (("EMT", emt), ("EMT with the pressure for its stress", Turned(emt))):
        print(name)
        outcomes = check_model(model, rules=RULES)
        for found in outcomes:
            print(f"  {found.rule:28} {found.value:8.1e} of {found.limit:.0e} {found.unit:14} {found.status} {found.remark}")
        print(f"  broken: {', '.join(broken(outcomes)) or 'nothing'}")
