"""The rotation error: zero for invariant models, in closed form for a field that does not turn, and what `check` says of an unconstrained model."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval import broken, check_model, rotation_metrics
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.metrics import rotation_error
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.structures import random_rotation, rattled, water


class Wind:
    """A constant force along z on every atom, whatever the system: the opposite of turning with it."""

    outputs = ("energy", "forces")

    def evaluate(self, structures: list[Structure], outputs: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
        return [{"energy": -s.positions[:, 2].sum(), "forces": np.tile([0.0, 0.0, 1.0], (len(s), 1))} for s in structures]


def test_a_wind_is_off_by_the_mean_distance_of_two_directions() -> None:
    """|Q^-1 z - z| of uniform orientations has the mean 4/3: distance of two random points of the unit sphere."""
    metrics = rotation_metrics(Wind(), [water()], orientations=1000)
    assert metrics["rotation_error"].value == pytest.approx(4 / 3, abs=0.06)
    assert metrics["energy_spread"].value > 10


def test_an_invariant_potential_has_no_rotation_error() -> None:
    metrics = rotation_metrics(Morse(), [rattled(water(), 0.1)], orientations=4)
    assert metrics["rotation_error"].value < 1e-12
    assert metrics["energy_spread"].value < 1e-9


def test_failed_structures_are_counted() -> None:
    good, turns = np.ones((2, 3)), [random_rotation(k) for k in range(3)]
    metric = rotation_error([np.stack([good] * 3), np.stack([good @ q for q in turns]) * np.nan], [good, good])
    assert (metric.value, metric.n_ok, metric.n_total) == (0.0, 1, 2)


def test_check_measures_the_rotations_of_an_unconstrained_model_and_asserts_the_rest() -> None:
    potential = build(
        "pet",
        {
            "elements": ["H", "O"],
            "levels": ["any"],
            "dtype": "float64",
            "backbone": {"channels": 8, "attention_layers": 1, "layers": 1, "heads": 2, "radial": 4},
        },
    )
    rules = ("rotation", "reflection", "translation", "permutation", "net-force", "net-torque", "extensivity")
    outcomes = check_model(potential, rules=rules)
    assert not broken(outcomes)
    measured = {(o.suite, o.rule) for o in outcomes if o.status == "measured"}
    assert measured == {(suite, rule) for suite in ("contract", "behaviour") for rule in ("rotation", "reflection")} | {
        ("contract", "net-torque")
    }
    (figure,) = [o for o in outcomes if (o.suite, o.rule) == ("behaviour", "rotation")]
    assert figure.value > 1e3 * figure.limit
    assert "forces are off by" in figure.remark
