"""Spread of energies over orientations, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval.rotations import rotation_metrics
from mlipfm_interfaces.structure import Structure


def test_the_spread_over_orientations_is_a_standard_deviation_per_atom_without_the_first_place():
    class Alternating:
        """0 and 1 eV by turns; the upright structure, which is asked first, has 50 eV."""

        outputs = ("energy", "forces")

        def evaluate(self, structures, outputs):
            energies = [50.0, *(float(k % 2) for k in range(len(structures) - 1))]
            return [{"energy": np.array(e), "forces": np.ones((len(s), 3))} for e, s in zip(energies, structures, strict=True)]

    two, four = (Structure([18] * n, np.arange(n)[:, None] * [4.0, 0, 0]) for n in (2, 4))
    found = rotation_metrics(Alternating(), [two, four], orientations=8)
    assert found["energy_spread"].value == pytest.approx((500 / 2 + 500 / 4) / 2)
    assert found["energy_spread"].unit == "meV/atom"
