"""Errors with intervals over molecules; failures are counted; drift of a known field."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval import error_metrics, force_error_ratio, nve_drift, predict
from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.metrics import Metric
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


def test_three_atoms_off_by_thirty_meV_have_an_error_of_ten_meV_per_atom():
    class Shifted(Spring):
        def evaluate(self, structures, outputs):
            return [{**row, "energy": row["energy"] + 0.03} for row in super().evaluate(structures, outputs)]

    found = error_metrics(predict(Shifted(), labelled(12, 4)))["energy_mae"]
    assert (found.value, found.unit) == (pytest.approx(10.0), "meV/atom")


@pytest.mark.parametrize(("oxygen", "noise", "said"), [(2043.0, 0.003, True), (2043.0, 900.0, False), (0.0, 0.003, False)])
def test_another_zero_of_energy_is_told_from_a_wrong_model(oxygen, noise, said):
    """The labels contain another energy of each oxygen; noise of 3 meV on three atoms is 1 meV/atom."""

    class Elsewhere(Spring):
        def evaluate(self, structures, outputs):
            rng = np.random.default_rng(1)
            return [
                {**row, "energy": row["energy"] - oxygen + noise * rng.choice([-1, 1])} for row in super().evaluate(structures, outputs)
            ]

    found = error_metrics(predict(Elsewhere(), labelled(40, 8)))
    assert ("energy_mae_shifted" in found) == said
    if said:
        assert found["energy_mae_shifted"].value == pytest.approx(1.0, rel=0.1)
        assert found["energy_mae"].value == pytest.approx(1000 * oxygen / 3, rel=1e-3)


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


def test_structures_without_labels_to_compare_with_are_refused():
    with pytest.raises(MissingLabelsError, match="no structure has energy, forces or stress to compare with; there are: charges"):
        predict(Spring(), [Structure([1], [[0, 0, 0]], labels={"charges": np.zeros(1)})])


def test_errors_are_of_the_labels_that_are_there_with_their_counts():
    frames = labelled(12, 4)
    bare = [s.replace(labels={"energy": s.labels["energy"]} if k % 3 else {"forces": s.labels["forces"]}) for k, s in enumerate(frames)]
    found = error_metrics(predict(Spring(error=0.01), bare))
    assert (found["energy_mae"].n_total, found["force_mae"].n_total) == (8, 4)
    assert found["force_mae"].value == pytest.approx(10.0)
    only = error_metrics(predict(Spring(error=0.01), [s for s in bare if "energy" in s.labels]))
    assert set(only) == {"energy_mae", "energy_rmse"}


def test_atoms_of_force_weight_zero_and_structures_of_weight_zero_do_not_count():
    frames = labelled(12, 4)
    wrong = [s.labels["forces"] + np.array([[100.0], [0.0], [0.0]]) for s in frames]
    masked = [
        s.replace(labels=dict(s.labels, forces=f, forces_weight=np.array([0.0, 1.0, 1.0]))) for s, f in zip(frames, wrong, strict=True)
    ]
    masked.append(frames[0].replace(labels={"energy": 1e6, "forces": np.full((3, 3), 1e3), "weight": 0.0}))
    found = error_metrics(predict(Spring(error=0.01), masked))
    assert found["force_mae"].value == pytest.approx(10.0)
    assert found["energy_mae"].value == pytest.approx(0.0, abs=1e-9)
    assert found["energy_mae"].n_total == 12


class Lattice(Spring):
    """A constant stress of 0.002 eV/Å³ for periodic structures."""

    outputs = ("energy", "forces", "stress")

    def evaluate(self, structures, outputs):
        rows = super().evaluate(structures, outputs)
        assert "stress" not in outputs or all(s.pbc.all() for s in structures)
        return [row | ({"stress": 0.002 * np.eye(3)} if "stress" in outputs else {}) for row in rows]


def test_stress_is_asked_of_the_periodic_structures_that_have_it_beside_molecules():
    molecules = labelled(4, 2)
    crystals = [
        s.replace(cell=9 * np.eye(3), pbc=[True] * 3, labels=dict(s.labels, stress=0.001 * np.eye(3))) for s in labelled(6, 3, seed=1)
    ]
    found = error_metrics(predict(Lattice(), [molecules[0], crystals[0], *molecules[1:], *crystals[1:]]))
    assert found["stress_mae"].value == pytest.approx(1000 * 0.001 / 3)
    assert (found["stress_mae"].n_total, found["force_mae"].n_total) == (6, 10)


def trajectory(n: int, tau: float, seed: int) -> list[Structure]:
    """One molecule whose displacement remembers itself for tau frames: x' = a x + sqrt(1 - a²) noise."""
    rng, a, x, made = np.random.default_rng(seed), np.exp(-1 / tau), 0.0, []
    for k in range(n):
        x = a * x + np.sqrt(1 - a * a) * rng.normal()
        r = np.array([[1.0 + 0.2 * x, 0, 0], [0, 2, 0], [0, 0, 3]])
        (row,) = Spring().evaluate([Structure([8, 1, 1], r)], ())
        made.append(Structure([8, 1, 1], r, labels=row, provenance=Provenance(group="one", index=k)))
    return made


def force_mae(predictions) -> Metric:
    cases = predictions.cases["forces"]
    return metrics.mae(cases.predicted, cases.reference, predictions.resampled, name="force MAE", unit="meV/Å")


@pytest.mark.ci
def test_interval_of_one_trajectory_covers_the_mean_of_many_and_is_wider_than_that_of_independent_frames():
    """The force error of a wrong spring constant follows x, which has a correlation time of 5 frames."""
    model, length = Spring(k=1.1), 300
    truth = np.mean([predict(model, trajectory(length, 5.0, seed)).cases["forces"].errors().mean() for seed in range(100, 120)])
    found = [force_mae(predict(model, trajectory(length, 5.0, seed))).ci95 for seed in range(20)]
    assert sum(low <= truth <= high for low, high in found) >= 16  # of 20; frames drawn one by one would hold it about 9 times
    alone = force_mae(
        predict(model, [s.replace(provenance=Provenance(group=f"{k}")) for k, s in enumerate(trajectory(length, 5.0, 0))])
    ).ci95
    assert np.mean([high - low for low, high in found]) > 2 * (alone[1] - alone[0])


def test_order_of_the_frames_does_not_matter_where_their_index_is_known():
    frames = trajectory(200, 5.0, 0)
    shuffled = [frames[k] for k in np.random.default_rng(0).permutation(200)]
    first, second = (force_mae(predict(Spring(k=1.1), s)).ci95 for s in (frames, shuffled))
    assert second == pytest.approx(first, rel=0.005)  # blocks are the same, and are drawn in another order


def test_few_frames_of_one_molecule_have_no_interval_and_the_reason_is_told():
    predictions = predict(Spring(k=1.1), trajectory(8, 5.0, 0))
    assert error_metrics(predictions)["force_mae"].ci95 is None
    assert predictions.interval_over.startswith("no intervals, which need two molecules")


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
