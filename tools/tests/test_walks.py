"""How many files a reader passes on the three ways that most readers go."""

import pytest
import walks

#: Files that each way may pass at most; to lower one is welcome.
MOST = {"structures to loss": 13, "checkpoint to first force": 16, "further force": 8}


@pytest.mark.ci
def test_the_ways_through_the_code_stay_short() -> None:
    assert {name: len(walk.passed) for name, walk in walks.walks().items() if len(walk.passed) > MOST[name]} == {}
