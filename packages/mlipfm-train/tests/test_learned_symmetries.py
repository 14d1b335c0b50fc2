"""Rotation errors of unconstrained models and asymmetries of direct forces, against rotations and derivatives made here."""

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_train.scaling.execute import run_sweep
from mlipfm_train.scaling.learned_symmetries import _rotation_error, learned_symmetries
from mlipfm_train.scaling.sweep import make_sweep

CONFIG = {"elements": [1, 8], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": {"channels": 8}}
ROTATION, ASYMMETRY = "rotation error (%)", "asymmetry of the force Jacobian (%)"


@pytest.fixture
def water():
    return Structure([8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.48], [0.1, -0.76, -0.48]], level="gfn2-xtb")


def test_only_what_is_not_built_in_is_measured(water):
    expected = {
        ("painn", "conservative"): set(),
        ("painn", "direct"): {ASYMMETRY},
        ("pet", "conservative"): {ROTATION},
        ("pet", "direct"): {ROTATION, ASYMMETRY},
    }
    for (backbone, forces), errors in expected.items():
        found = learned_symmetries(build(backbone, {**CONFIG, "forces": forces}), [water])
        assert set(found) == errors
        assert all(0.1 < value < 300 for value in found.values())


def test_the_rotation_error_of_an_equivariant_model_is_zero(water):
    assert _rotation_error(build("painn", CONFIG), [water]) < 1e-12


def test_the_asymmetry_is_that_of_finite_differences(water):
    potential, h, rows = build("painn", {**CONFIG, "forces": "direct"}), 1e-4, []
    for k in range(9):
        step = h * np.eye(9)[k].reshape(3, 3)
        there, back = (evaluate(potential, [water.replace(positions=water.positions + d)], ("forces",))[0]["forces"] for d in (step, -step))
        rows.append((there - back).ravel() / (2 * h))
    jacobian = np.array(rows)
    expected = 100 * np.linalg.norm(jacobian - jacobian.T) / 2 / np.linalg.norm(jacobian)
    assert learned_symmetries(potential, [water])[ASYMMETRY] == pytest.approx(expected, rel=1e-6)


@pytest.mark.ci
def test_augmentation_by_rotations_lowers_the_rotation_error_of_a_sweep(tiny, tmp_path):
    recipe = {key: value for key, value in tiny.items() if key != "steps"} | {"potential": {"name": "pet", "backbone": {"channels": 8}}}
    objective = "objectives.0.augment"
    sweep = {"recipe": recipe, "objectives": {name: {objective: name} for name in ("none", "rotations")}, "steps": [200], "hold_out": False}
    points = {point.group: point.losses for point in run_sweep(make_sweep(sweep), tmp_path / "sweep")}
    assert points["rotations"][ROTATION] < points["none"][ROTATION]
