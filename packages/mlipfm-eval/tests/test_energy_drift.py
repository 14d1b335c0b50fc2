"""Drift of free particles whose reported energy runs away by a known amount, and the rule that holds models to it."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval.check import check_model
from mlipfm_eval.energy_drift import nve_drift
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_md.simulation import Settings


class Free:
    """Free particles; every call adds `rate` eV to the energy of the first system and takes as much from the second, and so on."""

    outputs = ("energy", "forces")

    def __init__(self, rate: float) -> None:
        self.rate, self.calls = rate, 0

    def evaluate(self, structures, outputs):
        self.calls += 1
        return [{"energy": np.array(self.rate * self.calls * (-1) ** k), "forces": np.zeros((len(s), 3))} for k, s in enumerate(structures)]


def atoms(n: int, group: str) -> Structure:
    return Structure([18] * n, np.arange(n)[:, None] * [4.0, 0.0, 0.0], provenance=Provenance(source="here", group=group))


def test_drift_is_the_slope_of_the_energy_per_atom_and_opposite_ones_do_not_cancel_in_their_size():
    """0.001 eV in each step of 0.5 fs: 2 eV/ps, 1,000 meV/atom/ps for two atoms; the other has four atoms and -500."""
    found = nve_drift(Free(1e-3), [atoms(2, "a"), atoms(4, "b")], Settings(dt=0.5, steps=40, temperature=100.0, every=2, seed=0))
    assert found.drift.value == pytest.approx((1000 - 500) / 2, rel=1e-6)
    assert found.absolute.value == pytest.approx((1000 + 500) / 2, rel=1e-6)
    assert found.fluctuation.value == pytest.approx(0.0, abs=1e-6)
    assert (found.drift.unit, found.absolute.n_total) == ("meV/atom/ps", 2)
    assert found.energies[0][-1] == pytest.approx(40 * 1e-3 / 2)
    assert found.times[-1] == 20.0


def test_a_trajectory_that_broke_off_has_a_reason_and_no_drift():
    class Breaking(Free):
        """Free particles whose forces are no numbers from the 30th call on."""

        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            return rows if self.calls < 30 else [row | {"forces": np.full_like(row["forces"], np.nan)} for row in rows]

    found = nve_drift(Breaking(1e-3), [atoms(2, "a")], Settings(dt=0.5, steps=40, temperature=100.0, every=2, seed=0))
    assert list(found.unstable) == [0]
    assert len(found.energies[0]) > 3  # enough for a slope, which would be that of what came before
    assert np.isnan(found.drift.value)
    assert found.drift.n_ok == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_whose_energy_runs_away_in_either_direction_breaks_the_rule(sign):
    class Leaking:
        """Atoms on springs to their centre, k = 0.5 eV/Å²; 2e-5 eV more or less in every call: about 27 meV/atom/ps."""

        outputs = ("energy", "forces")
        calls = 0

        def evaluate(self, structures, outputs):
            self.calls += 1
            away = [s.positions - s.positions.mean(axis=0) for s in structures]
            return [{"energy": np.array(0.25 * (d**2).sum() + sign * 2e-5 * self.calls), "forces": -0.5 * d} for d in away]

    (outcome,) = check_model(Leaking(), "float64", rules=["nve-drift"])
    assert outcome.status == "broken"
    assert outcome.value == pytest.approx(27, abs=3)
