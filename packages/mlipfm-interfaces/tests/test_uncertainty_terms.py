"""Errors and scores of answers with sigma, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import MissingLabelsError, PropertyNotAvailableError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain, errors_and_sigma

S = Structure([8, 1, 1], np.eye(3), labels={"energy": -10.0, "forces": np.zeros((3, 3))})
#: Forces off by lengths of 5, 1 and 2 eV/Å, sigma of an atom 1, 2 and 0.5 eV/Å.
FORCES = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
SIGMA = np.array([1.0, 2.0, 0.5])[:, None] * np.array([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8], [0.8, 0.0, 0.6]])
SEEN = Uncertain(S, -10.9, 0.1, FORCES, SIGMA)


def test_energy_errors_are_per_atom_and_their_score_is_in_sigmas():
    assert SEEN.energy_error() == pytest.approx(-0.3)
    assert SEEN.score("energy") == pytest.approx(3.0)


def test_the_score_of_forces_is_that_of_the_worst_atom():
    """Scores of the atoms are 5/1, 1/2 and 2/0.5: an interval holds a structure if it holds all its atoms."""
    assert pytest.approx([1.0, 2.0, 0.5]) == SEEN.atom_sigma
    assert SEEN.score("forces") == pytest.approx(5.0)
    other = Uncertain(S, -10.0, 0.1, FORCES[[2, 1, 2]], SIGMA)
    assert other.score("forces") == pytest.approx(4.0)


def test_errors_and_sigma_stand_end_to_end_in_the_order_of_components():
    errors, sigma = errors_and_sigma([SEEN, SEEN], "forces")
    assert errors.tolist() == [*FORCES.ravel(), *FORCES.ravel()]
    assert sigma.tolist() == [*SIGMA.ravel(), *SIGMA.ravel()]
    errors, sigma = errors_and_sigma([SEEN], "energy")
    assert (errors[0], sigma[0]) == (pytest.approx(-0.3), 0.1)


def test_what_is_not_known_has_no_error():
    with pytest.raises(MissingLabelsError, match="needs the label 'energy'"):
        Uncertain(S.replace(labels={}), 0.0, 1.0).energy_error()
    with pytest.raises(PropertyNotAvailableError, match="uncertainty of forces was not fitted"):
        Uncertain(S, 0.0, 1.0).score("forces")
