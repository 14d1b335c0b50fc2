from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.seeds import stream


def test_a_stream_depends_on_nothing_but_its_arguments():
    first = [stream(7, name, 3, "water").random(4) for name in ("data", "md")]
    stream(7, "dropout").random(1000)
    second = [stream(7, name, 3, "water").random(4) for name in ("md", "data")]
    assert np.array_equal(first, second[::-1])


@pytest.mark.parametrize(
    "other", [(8, "data", 1), (7, "views", 1), (7, "data", 2), (7, "data", 1, 1), (7, "data"), (7, "data1"), (7, "data", 11)]
)
def test_streams_of_different_names_keys_or_seeds_are_uncorrelated(other):
    a, b = stream(7, "data", 1).normal(size=10_000), stream(*other).normal(size=10_000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05  # five standard errors


def test_neighbouring_streams_together_are_one_normal_sample():
    """The first number of 4,000 consecutive streams: mean 0, variance 1 within five standard errors."""
    x = np.array([stream(0, "sampler", k).normal() for k in range(4000)])
    assert abs(x.mean()) < 5 / np.sqrt(4000)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / 4000)
