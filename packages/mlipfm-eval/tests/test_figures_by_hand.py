"""Coverage, widths and penalised errors of a few structures, worked out by hand."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from mlipfm_eval.evaluation import _composition_energies, penalised
from mlipfm_eval.prediction_errors import Predictions, force_error_ratio
from mlipfm_eval.uncertainty import calibration
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain

PAIR = Structure([1, 1], [[0.0, 0, 0], [0.8, 0, 0]], labels={"energy": 0.0, "forces": np.zeros((2, 3))})


class Fixed:
    """Intervals of two sigma."""

    quantities = ("energy", "forces")
    details: dict[str, Any] = {}  # noqa: RUF012

    def quantile(self, quantity: str, level: float = 0.9) -> float:
        return 2.0


def answer(energy: float, first: float, second: float) -> Uncertain:
    """Forces off by these lengths along x; sigma is 0.1 eV per atom, and of the atoms 1 and 0.5 eV/Å."""
    sigma = np.array([[2, 2, 1], [1, 1, 0.5]]) / 3
    return Uncertain(PAIR, energy, 0.1, np.array([[first, 0, 0], [second, 0, 0]]), sigma)


def test_coverage_is_of_structures_and_of_all_their_atoms():
    """Energies per atom off by 0.15, 0.25 and 0.05: two of three within 0.2. Forces: limits are 2 and 1 eV/Å for the two atoms."""
    seen = [answer(0.3, 1.9, 0.9), answer(-0.5, 1.9, 1.1), answer(0.1, -2.1, 0.1)]
    energy, forces = calibration(Fixed(), seen)  # type: ignore[arg-type]  # it only gives intervals
    assert (energy.coverage, forces.coverage) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (energy.half_width, forces.half_width) == (pytest.approx(200.0), pytest.approx(1000 * 2 * (1 + 0.5) / 2))
    assert (energy.ideal, forces.ideal) == (pytest.approx(250.0), pytest.approx(2100.0))
    assert energy.rmse == pytest.approx(1000 * sqrt((0.15**2 + 0.25**2 + 0.05**2) / 3))
    assert forces.rmse == pytest.approx(1000 * sqrt((1.9**2 + 0.9**2 + 1.9**2 + 1.1**2 + 2.1**2 + 0.1**2) / 18))
    assert (energy.unit, forces.unit) == ("meV/atom", "meV/Å")


def three(energies: list[float]) -> list[Structure]:
    """H2, HO and O2 with these energies and forces of 2 eV/Å."""
    return [
        Structure(z, [[0.0, 0, 0], [1.0, 0, 0]], labels={"energy": e, "forces": np.array([[2.0, 0, 0], [-2.0, 0, 0]])})
        for z, e in zip(([1, 1], [1, 8], [8, 8]), energies, strict=True)
    ]


def test_a_refused_structure_has_the_error_of_a_composition_and_of_zero_forces():
    """Least squares over (2, 0), (1, 1), (0, 2) of -2, -9, -20 eV: H -0.667, O -9.667; HO is then at -10.333, 1.333 eV from -9."""
    structures = three([-2.0, -9.0, -20.0])
    numbers = _composition_energies(structures, np.array([-2.0, -9.0, -20.0]))
    exact = np.linalg.lstsq(np.array([[2.0, 0], [1, 1], [0, 2]]), np.array([-2.0, -9.0, -20.0]), rcond=None)[0]
    assert numbers == pytest.approx([2 * exact[0], exact.sum(), 2 * exact[1]])
    labels = [s.labels["forces"] for s in structures]
    forces = [labels[0], np.full((2, 3), np.nan), labels[2]]
    found = penalised(Predictions(structures, np.array([-2.0, np.nan, -20.0]), forces, {1: "refused"}))
    miss = abs(exact.sum() + 9.0)
    assert miss > 0.1
    assert found["energy_mae"] == pytest.approx(1000 * miss / 2 / 3)
    assert found["energy_rmse"] == pytest.approx(1000 * miss / 2 / sqrt(3))
    assert found["force_mae"] == pytest.approx(1000 * 4.0 / 18)
    assert found["force_rmse"] == pytest.approx(1000 * sqrt(8.0 / 18))


def test_a_ratio_below_one_says_that_the_first_is_better():
    structures = three([-2.0, -9.0, -20.0])
    labels = [s.labels["forces"] for s in structures]
    close, far = ([1.1 * f for f in labels], [1.4 * f for f in labels])
    first, second = (Predictions(structures, np.array([-2.0, -9.0, -20.0]), forces) for forces in (close, far))
    assert force_error_ratio(first, second).value == pytest.approx(0.25)
