"""Published potentials are checked by address."""

from __future__ import annotations

import pytest
from mlipfm_eval.check import broken, check_model
from mlipfm_interfaces.benchmark import open_model
from mlipfm_interfaces.errors import ForeignModelError


@pytest.mark.full
@pytest.mark.parametrize("address", ["sevennet:7net-0", "chgnet:0.3.0"])
def test_published_potential_keeps_the_symmetries_of_silicon_dioxide(address):
    rules = [
        "rotation",
        "permutation",
        "translation",
        "batch-equals-singles",
        "no-stale-state",
        "cell-choice",
        "elements-matter",
        "forces-are-gradient",
    ]
    try:
        with open_model(address) as found:
            outcomes = check_model(found.model, elements=[8, 14], quick=True, rules=rules)
    except ForeignModelError as error:
        pytest.skip(f"the environment could not be made: {error}")
    assert broken(outcomes) == []
