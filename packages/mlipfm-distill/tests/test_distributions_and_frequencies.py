"""Distributions and frequencies of student and teacher beside closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from mlipfm_distill.on_policy.distributions import boltzmann_weights, distributions, effective
from mlipfm_distill.on_policy.frequencies import frequencies
from mlipfm_distill.on_policy.teacher import DistillationTeacher
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.units import KB
from mlipfm_md.observables import TrajectoryData, radial_distribution

KELVIN = 300.0


def springs(k: float, n: int, seed: int) -> np.ndarray:
    """Positions of an oscillator E = k x^2 / 2 at `KELVIN`, Å."""
    return np.random.default_rng(seed).normal(0, np.sqrt(KB * KELVIN / k), n)


def test_frames_of_one_spring_give_the_ensemble_of_another() -> None:
    x = springs(1.0, 200_000, 0)
    w = boltzmann_weights(1.3 * x**2 / 2, x**2 / 2, KELVIN)
    assert np.average(x**2, weights=w) == pytest.approx(KB * KELVIN / 1.3, rel=0.01)
    assert np.average(x**2, weights=boltzmann_weights(x**2 / 2, 1.3 * x**2 / 2, KELVIN)) > 1.2 * KB * KELVIN  # the sign matters


def test_normal_errors_of_energies_leave_the_share_of_frames_that_theory_says() -> None:
    """Of errors with standard deviation s the weights are log-normal: N_eff / N = exp(-(s / kT)^2)."""
    s = 0.8 * KB * KELVIN
    w = boltzmann_weights(np.random.default_rng(0).normal(0, s, 100_000), np.zeros(100_000), KELVIN)
    assert effective(w) / len(w) == pytest.approx(np.exp(-0.64), rel=0.02)
    assert effective(np.ones(7)) == pytest.approx(7)
    assert effective(np.zeros(0)) == 0


def test_a_distribution_with_weights_is_that_of_the_frames_that_have_them() -> None:
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.uniform(0, 8, (40, 12, 3)), rng.normal(4, 0.7, (40, 12, 3))])
    data = TrajectoryData(np.arange(80.0), np.full(12, 18), positions, 8 * np.eye(3), np.ones(3, dtype=bool))
    half = radial_distribution(data, "Ar", "Ar", bins=20, weights=np.repeat([0.0, 1.0], 40))
    alone = radial_distribution(data.frames(slice(40, None)), "Ar", "Ar", bins=20)
    assert half.values == pytest.approx(alone.values)
    assert half.coordination == pytest.approx(alone.coordination)
    same = radial_distribution(data, "Ar", "Ar", bins=20, weights=np.full(80, 0.3))
    plain = radial_distribution(data, "Ar", "Ar", bins=20)
    assert same.values == pytest.approx(plain.values)
    assert same.error == pytest.approx(plain.error)


@pytest.mark.parametrize("weights", [np.ones(3), np.zeros(4), np.array([1.0, -1, 1, 1]), np.array([1.0, np.nan, 1, 1])])
def test_weights_that_cannot_be_are_refused(weights: np.ndarray) -> None:
    positions = np.random.default_rng(0).uniform(0, 8, (4, 2, 3))
    data = TrajectoryData(np.arange(4.0), np.full(2, 18), positions, 8 * np.eye(3), np.ones(3, dtype=bool))
    with pytest.raises(ObservableError, match="weights are one number for each of 4 frames"):
        radial_distribution(data, "Ar", "Ar", bins=5, weights=weights)


def argon(folder: Path, epsilon: float) -> Path:
    """Checkpoint of a Lennard-Jones potential; frequencies are proportional to the root of `epsilon`."""
    path = folder / f"{epsilon}.safetensors"
    save_potential(path, noble_gas(epsilon=epsilon, sigma=3.4))
    return path


def structure(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.mark.ci
def test_phonons_of_a_stiffer_student_are_off_by_the_root_of_the_stiffness(tmp_path: Path) -> None:
    crystal = structure(bulk("Ar", "fcc", a=5.3, cubic=True))
    with DistillationTeacher(str(argon(tmp_path, 0.0104))) as teacher:
        same = frequencies(argon(tmp_path, 0.0104), teacher, crystal, 100)
        stiffer = frequencies(argon(tmp_path, 0.0104 * 1.21), teacher, crystal, 100)
    assert (same["kind"], same["unit"]) == ("phonons", "THz")
    assert same["mae"] < 1e-3
    assert same["largest"]["teacher"] == pytest.approx(1.9, abs=0.3)  # argon: 2.0 THz
    assert stiffer["largest"]["student"] / stiffer["largest"]["teacher"] == pytest.approx(1.1, abs=1e-3)
    assert stiffer["mae"] > 0.05


def test_the_vibration_of_two_atoms_is_the_root_of_curvature_over_mass(tmp_path: Path) -> None:
    pair = Structure([18, 18], [[0, 0, 0], [3.9, 0, 0]])
    with DistillationTeacher(str(argon(tmp_path, 0.0104))) as teacher:
        found = frequencies(argon(tmp_path, 0.0104 * 1.44), teacher, pair, 200)
    curvature = 57.15 * 0.0104 / 3.4**2  # at the minimum of Lennard-Jones's potential; the cutoff changes it a little
    wanted = np.sqrt(curvature / (39.948 / 2)) * units._hbar * 1e10 / np.sqrt(units._e * units._amu) / units.invcm
    assert (found["kind"], found["unit"]) == ("vibrations", "cm-1")
    assert found["teacher"] == pytest.approx([wanted], rel=0.03)
    assert found["student"][0] / found["teacher"][0] == pytest.approx(1.2, abs=2e-3)


def test_what_costs_more_than_is_left_is_not_begun_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DistillationTeacher(str(argon(tmp_path, 0.0104))) as teacher:
        found = frequencies(argon(tmp_path, 0.0104), teacher, structure(bulk("Ar", "fcc", a=5.3, cubic=True)), 10)
        assert "cost as much as 27 labels, and 10 are left" in found["reason"]
        slab = Structure([18, 18], [[0, 0, 0], [3.7, 0, 0]], np.diag([8.0, 8, 30]), [True, True, False])
        assert "slab or chain" in frequencies(argon(tmp_path, 0.0104), teacher, slab, 1000)["reason"]
        hot = bulk("Ar", "fcc", a=5.3, cubic=True)
        hot.rattle(0.2, seed=0)
        assert "need a relaxed structure" in frequencies(argon(tmp_path, 0.0104), teacher, structure(hot), 1000)["reason"]


def test_a_molecule_in_a_box_has_the_vibrations_of_the_molecule(tmp_path: Path) -> None:
    pair = Structure([18, 18], [[0, 0, 0], [3.9, 0, 0]])
    with DistillationTeacher(str(argon(tmp_path, 0.0104))) as teacher:
        free = frequencies(argon(tmp_path, 0.0104), teacher, pair, 200)
        boxed = frequencies(argon(tmp_path, 0.0104), teacher, pair.replace(cell=20 * np.eye(3), pbc=np.ones(3, dtype=bool)), 200)
    assert boxed["teacher"] == pytest.approx(free["teacher"])


def test_dynamics_that_end_at_once_are_said_and_nothing_is_labelled(tmp_path: Path) -> None:
    crushed = structure(bulk("Ar", "fcc", a=2.4, cubic=True))
    asked: list[int] = []
    (found,) = distributions(argon(tmp_path, 0.0104), crushed, [300.0], 1.0, 100, lambda part, frames: asked.append(len(frames)) or [], 0)
    assert "the dynamics ended after" in found["reason"]
    assert not asked
