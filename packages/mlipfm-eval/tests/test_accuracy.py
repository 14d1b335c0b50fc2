"""Errors with intervals over molecules; failures are counted; drift of a known field."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval import error_metrics, force_error_ratio, nve_drift, predict
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_md.simulation import Settings


class Spring:
    """E = k r²/2 and F = -k r + curl c (-y, x, 0) + a constant error, on every atom."""

    outputs = ("energy", "forces")

    def __init__(self, error: float = 0.0, c: float = 0.0, k: float = 1.0) -> None:
        self.error, self.c, self.k = error, c, k

    def evaluate(self, structures, outputs):
        rows = []
        for s in structures:
            r = s.positions
            curl = self.c * np.stack([-r[:, 1], r[:, 0], 0 * r[:, 0]], axis=1)
            rows.append({"energy": np.array(0.5 * self.k * (r**2).sum()), "forces": -self.k * r + curl + self.error})
        return rows


def labelled(n: int, groups: int, seed: int = 0) -> list[Structure]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        positions = rng.normal(size=(3, 3)) * 2
        (row,) = Spring().evaluate([Structure([8, 1, 1], positions)], ())
        made.append(Structure([8, 1, 1], positions, level="x", labels=row, provenance=Provenance(group=f"g{k % groups}")))
    return made


def test_constant_force_error_of_ten_meV_is_reported_as_ten():
    found = error_metrics(predict(Spring(error=0.01), labelled(12, 4)))
    assert found["force_mae"].value == pytest.approx(10.0)
    assert found["force_rmse"].value == pytest.approx(10.0)
    assert found["energy_mae"].value == pytest.approx(0.0, abs=1e-9)
    assert found["force_mae"].unit == "meV/Å"


def test_duplicating_frames_does_not_shrink_the_interval():
    frames = labelled(12, 4)
    noisy = Spring(error=0.01, c=0.1)
    once, five_times = (error_metrics(predict(noisy, frames * n))["force_mae"].ci95 for n in (1, 5))
    assert five_times == pytest.approx(once)


def test_failed_predictions_are_counted_not_dropped():
    class Half(Spring):
        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            rows[0]["forces"] = rows[0]["forces"] * np.nan
            return rows

    metric = error_metrics(predict(Half(), labelled(6, 3)))["force_mae"]
    assert (metric.n_ok, metric.n_total) == (5, 6)


def test_half_the_error_gives_a_ratio_of_one_half():
    frames = labelled(12, 4)
    ratio = force_error_ratio(predict(Spring(error=0.01), frames), predict(Spring(error=0.02), frames))
    assert ratio.value == pytest.approx(0.5)
    assert ratio.ci95 == pytest.approx((0.5, 0.5))


def test_structures_without_forces_are_refused():
    with pytest.raises(MissingLabelsError, match="needs energy and forces, has energy"):
        predict(Spring(), [Structure([1], [[0, 0, 0]], labels={"energy": 0.0})])


def test_conservative_field_does_not_drift_and_a_curl_does():
    starts = [
        Structure([6], [[0.3, 0, 0]], provenance=Provenance(group="a")),
        Structure([6], [[0, 0.4, 0]], provenance=Provenance(group="b")),
    ]
    settings = Settings(dt=0.5, steps=2000, temperature=300, every=4)
    still, moving = (nve_drift(Spring(c=c, k=3.0), starts, settings) for c in (0.0, 0.05))
    assert abs(still.drift.value) < 0.05
    assert abs(moving.drift.value) > 1.0
    assert still.fluctuation.value < 1.0
    assert still.drift.unit == "meV/atom/ps"


def test_exploding_trajectory_is_a_failed_case_and_the_others_are_kept():
    class Bomb(Spring):
        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            for s, row in zip(structures, rows, strict=True):
                if s.atomic_numbers[0] == 1:
                    row["forces"] = row["forces"] * np.nan if abs(s.positions).max() > 0.35 else row["forces"]
            return rows

    starts = [Structure([6], [[0.3, 0, 0]]), Structure([1], [[0.3, 0, 0]])]
    found = nve_drift(Bomb(), starts, Settings(dt=0.5, steps=400, temperature=600, every=4))
    assert list(found.unstable) == [1]
    assert (found.drift.n_ok, found.drift.n_total) == (1, 2)
