"""`evaluate`: one dict per structure, rows and probes of each its own, and refusals that name what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.errors import PropertyNotAvailableError, UnknownElementError
from mlipfm_interfaces.potential import evaluate, ignored_conditions, implausible_geometry_remarks, not_finite
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse, noble_gas

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
    with pytest.raises(PropertyNotAvailableError, match="structure 1: the structure does not say which 'hessian_rows' to compute"):
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


def test_a_level_that_is_asked_wins_over_that_of_the_structure():
    """Level k of a closed form lies 0.1 k eV for each atom above the first."""
    potential = Morse(ClosedFormConfig(levels=("one", "two", "three")))
    first, second = (Structure([1, 1], [[0, 0, 0], [0, 0, 0.8]], level=level) for level in ("one", "two"))
    own = [float(row["energy"]) for row in evaluate(potential, [first, second], ["energy"])]
    asked = [float(row["energy"]) for row in evaluate(potential, [first, second], ["energy"], level="three")]
    assert own[1] - own[0] == pytest.approx(0.2)
    assert asked == [pytest.approx(own[0] + 0.4)] * 2


def test_a_model_with_one_level_answers_structures_of_any():
    bare = Structure([1, 1], [[0, 0, 0], [0, 0, 0.8]])
    one, other = evaluate(Morse(), [bare, bare.replace(level="elsewhere")], ["energy"])
    assert one["energy"] == other["energy"]


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_mode_of_the_model_and_asks_in_that_of_evaluation(training):
    class Watching(Morse):
        seen: list[bool] = []  # noqa: RUF012

        def forward(self, *arguments, **options):
            self.seen.append(self.training)
            return super().forward(*arguments, **options)

    potential = Watching().train(training)
    evaluate(potential, [Structure([1, 1], [[0, 0, 0], [0, 0, 0.8]])])
    assert (potential.seen, potential.training) == ([False], training)


def test_systems_of_a_batch_have_the_rows_of_their_own_atoms():
    rng = np.random.default_rng(0)
    chain = [Structure([1] * n, np.arange(n)[:, None] * [0.9, 0, 0] + rng.normal(size=(n, 3)) * 0.05) for n in (3, 1, 2, 5)]
    together, alone = evaluate(Morse(), chain), [evaluate(Morse(), [s])[0] for s in chain]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a["forces"], b["forces"], atol=1e-12)
        assert a["energy"] == pytest.approx(float(b["energy"]), abs=1e-12)


def test_contacts_are_told_across_periodic_boundaries_too():
    """Two oxygens 0.6 Å apart through the boundary; 6 Å inside the cell."""
    cell = np.diag([6.6, 9.0, 9.0])
    close = Structure([8, 8], [[0.3, 0, 0], [6.3, 0, 0]], cell=cell, pbc=[True] * 3)
    assert len(implausible_geometry_remarks(close, 5.0)) == 1
    assert "are 0.600 Angstrom apart, 0.45 of a single bond" in implausible_geometry_remarks(close, 5.0)[0]
    apart = Structure([8, 8], [[0.3, 0, 0], [6.3, 0, 0]])
    assert implausible_geometry_remarks(apart, 7.0) == []
    assert "no two of its 2 atoms are within 5 Angstrom" in implausible_geometry_remarks(apart, 5.0)[0]


def test_states_that_a_model_does_not_hear_are_told_unless_they_are_the_usual_ones():
    s = Structure([8, 1, 1], np.eye(3), total_charge=0, spin_multiplicity=1)
    assert ignored_conditions(s, ()) == ignored_conditions(s.replace(total_charge=None, spin_multiplicity=None), ()) == []
    ion = s.replace(total_charge=1, spin_multiplicity=2)
    assert [text.split(":")[0] for text in ignored_conditions(ion, ())] == [
        "the model does not support total_charge",
        "the model does not support spin_multiplicity",
    ]
    assert [text.split(":")[0] for text in ignored_conditions(ion, ("total_charge",))] == ["the model does not support spin_multiplicity"]
    assert ignored_conditions(s.replace(external_field=[0, 0, 0.5]), ()) == [
        "the model does not support external_field: [0.0, 0.0, 0.5] changes nothing in its prediction"
    ]
    assert (
        ignored_conditions(s.replace(external_field=[0, 0, 0.5]), ("external_field",))
        == ignored_conditions(s.replace(external_field=[0, 0, 0]), ())
        == []
    )
