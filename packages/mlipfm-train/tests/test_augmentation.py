"""Random orientations: uniform over O(3), labels turn with the geometry, and the random numbers depend on epoch and structure only."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import MissingLabelsError, RecipeError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.structures import random_rotation, rattled, silicon, water
from mlipfm_interfaces.testing.training_rules import OBJECTIVE_RULES, ObjectiveCase
from mlipfm_train.augmentation import random_orthogonal, turned
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.views import make_views


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([random_orthogonal(rng) for _ in range(6_000)])


def test_orientations_have_the_moments_of_the_uniform_measure(sample: np.ndarray) -> None:
    """E[Q] = 0 and E[Q_ij Q_kl] = 1/3 for ij = kl, else 0; the fourth moment of an entry is 1/5 (a coordinate of the unit sphere)."""
    n = len(sample)
    assert np.abs(sample.mean(axis=0)).max() < 4 * np.sqrt(1 / 3 / n)
    second = np.einsum("na,nb->ab", sample.reshape(n, 9), sample.reshape(n, 9)) / n
    np.testing.assert_allclose(second, np.eye(9) / 3, atol=4 * np.sqrt((1 / 5 - 1 / 9) / n))
    np.testing.assert_allclose((sample**4).mean(axis=0), 1 / 5, atol=0.015)
    np.testing.assert_allclose(sample @ sample.mT, np.broadcast_to(np.eye(3), sample.shape), atol=1e-13)


def test_half_of_the_orientations_are_mirror_images(sample: np.ndarray) -> None:
    assert abs((np.linalg.det(sample) > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(sample))


def test_angles_of_rotation_are_distributed_as_in_so3(sample: np.ndarray) -> None:
    """The density of the angle is (1 - cos w)/pi, so that E[cos w] = -1/2: small turns are rare."""
    proper = sample * np.linalg.det(sample)[:, None, None]
    cosine = (np.trace(proper, axis1=1, axis2=2) - 1) / 2
    assert cosine.mean() == pytest.approx(-0.5, abs=4 * 0.5 / np.sqrt(len(sample)))
    assert np.arccos(np.clip(cosine, -1, 1)).mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.04)


def _labelled(s: Structure) -> Structure:
    """Energy, forces, stress (of crystals), all Hessian rows of the first two atoms in no order, and products with two directions."""
    n, rng = len(s), np.random.default_rng(3)
    index = np.array([[1, 2], [0, 0], [1, 0], [0, 2], [0, 1], [1, 1]])
    probes = rng.normal(size=(2, n, 3))
    asked = s.replace(
        labels={"hessian_rows": np.zeros((6, n, 3)), "hessian_rows_index": index, "hvp": np.zeros((2, n, 3)), "hvp_probe": probes}
    )
    outputs = ("energy", "forces", "hessian_rows", "hvp", *(("stress",) if s.pbc.all() else ()))
    return asked.replace(labels={**asked.labels, **evaluate(Morse(), [asked], outputs)[0]})


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("s", [rattled(water(), 0.1), rattled(silicon(), 0.1)], ids=["molecule", "crystal"])
def test_labels_of_a_turned_structure_are_those_a_model_gives_it(s: Structure, improper: bool) -> None:
    view = turned(_labelled(s), random_rotation(5, improper=improper))
    again = evaluate(Morse(), [view], [key for key in view.labels if not key.endswith(("_index", "_probe"))])[0]
    for key, value in again.items():
        np.testing.assert_allclose(view.labels[key], value, atol=1e-9 * max(1.0, np.abs(value).max()), err_msg=key)


def test_dipoles_and_tensors_turn_and_scalars_stay() -> None:
    turn, rng = random_rotation(1, improper=True), np.random.default_rng(0)
    z, field, alpha = rng.normal(size=(3, 3, 3)), np.array([0.0, 0.1, 0.2]), rng.normal(size=(3, 3))
    labels = {"dipole": [1.0, 2.0, 3.0], "polarizability": alpha, "born_charges": z, "charges": [0.1, 0.2, -0.3], "energy": -1.0}
    view = turned(water().replace(labels=labels, external_field=field), turn)
    np.testing.assert_allclose(view.labels["dipole"], turn @ [1.0, 2.0, 3.0])
    np.testing.assert_allclose(view.labels["polarizability"], turn @ alpha @ turn.T)
    np.testing.assert_allclose(view.labels["born_charges"][2], turn @ z[2] @ turn.T)
    np.testing.assert_allclose(view.external_field, turn @ field)
    assert view.labels["charges"].tolist() == [0.1, 0.2, -0.3]
    assert float(view.labels["energy"]) == -1.0


def test_standard_deviations_are_those_of_turned_noise() -> None:
    std = np.array([[0.1, 0.2, 0.3], [0.3, 0.0, 0.1], [0.2, 0.2, 0.2]])
    turn, rng = random_rotation(2), np.random.default_rng(1)
    view = turned(water().replace(labels={"forces": np.zeros((3, 3))}, label_std={"forces": std}), turn)
    noise = (std * rng.normal(size=(200_000, 3, 3))) @ turn.T
    np.testing.assert_allclose(view.label_std["forces"], noise.std(axis=0), rtol=0.01)


def test_single_hessian_rows_cannot_turn() -> None:
    s = water().replace(labels={"hessian_rows": np.zeros((1, 3, 3)), "hessian_rows_index": np.array([[0, 1]])})
    with pytest.raises(MissingLabelsError, match="three rows of their atom"):
        turned(s, np.eye(3))


def test_orientations_depend_on_epoch_and_structure_and_on_nothing_else(morse_structures) -> None:
    data = morse_structures(4, 0)
    objective = {"energy-force": EnergyForce(augment="rotations")}

    def positions(structures, epoch, seed=7):
        views, _ = make_views(objective, structures, seed, epoch)
        return [v.positions for v in views]

    first = positions(data, 0)
    np.testing.assert_array_equal(positions(data[::-1], 0)[::-1][2], first[2])  # not on the batch it is in
    np.testing.assert_allclose(first[1], data[1].positions @ random_orthogonal(stream(7, "views", "energy-force", 0, data[1].key)).T)
    assert not np.allclose(positions(data, 1)[2], first[2])
    assert not np.allclose(positions(data, 0, seed=8)[2], first[2])


def test_augmentation_is_off_by_default_and_must_be_known(morse_structures) -> None:
    (s,) = morse_structures(1, 0)
    assert EnergyForce().views(s, np.random.default_rng(0)) == [s]
    with pytest.raises(RecipeError, match="known: none, rotations"):
        EnergyForce(augment="rotation")  # type: ignore[arg-type]  # what a recipe may say


def test_the_contract_of_objectives_holds_with_augmentation(morse_structures) -> None:
    data = [s.replace(level="closed-form", labels={k: v + 0.1 for k, v in s.labels.items()}) for s in morse_structures(5, 3)]
    case = ObjectiveCase(lambda: EnergyForce(augment="rotations"), Morse(), data)
    assert not [f.error for f in findings(tuple(OBJECTIVE_RULES), case) if f.error]
