"""`evaluate`: one dict per structure, rows and probes of each its own, and refusals that name what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.errors import PropertyNotAvailableError, UnknownElementError
from mlipfm_interfaces.potential import evaluate, not_finite
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas

POTENTIAL = noble_gas()
Z = POTENTIAL.spec.elements[0]


def dimer(distance: float, rows: int) -> Structure:
    index = np.array([[k % 2, k % 3] for k in range(rows)], dtype=float)
    labels = {"hessian_rows": np.zeros((rows, 2, 3)), "hessian_rows_index": index} if rows else {}
    return Structure([Z, Z], [[0, 0, 0], [0, 0, distance]], labels=labels)


def test_each_structure_gets_the_rows_it_asked_for():
    first, second = evaluate(POTENTIAL, [dimer(3.8, 3), dimer(4.2, 1)], ["hessian_rows"])
    assert first["hessian_rows"].shape == (3, 2, 3)
    assert second["hessian_rows"].shape == (1, 2, 3)
    (alone,) = evaluate(POTENTIAL, [dimer(4.2, 1)], ["hessian_rows"])
    assert second["hessian_rows"] == pytest.approx(alone["hessian_rows"], abs=1e-12)


def test_rows_of_a_structure_that_names_none_are_refused():
    with pytest.raises(PropertyNotAvailableError, match="structure 1: 'hessian_rows' is asked, but which is not said"):
        evaluate(POTENTIAL, [dimer(3.8, 2), dimer(4.0, 0)], ["hessian_rows"])


def test_untrained_element_is_refused_by_name():
    with pytest.raises(UnknownElementError, match="structure 0: this model was not trained on Au"):
        evaluate(POTENTIAL, [Structure([79], [[0, 0, 0]])])


def test_weights_that_are_not_finite_are_counted():
    model = torch.nn.Linear(60, 20)
    assert not_finite(model) == ""
    with torch.no_grad():
        model.weight[0, :3] = torch.tensor([float("nan"), float("inf"), 1.0])
    assert not_finite(model) == "2 of its 1,220 weights are not finite"
    assert not_finite("another code") == ""
