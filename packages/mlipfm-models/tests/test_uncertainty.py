"""LLPR against Bayesian linear regression, its file, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces import plugins
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import DamagedFileError, MissingLabelsError, PropertyNotAvailableError, RefusedFileError, ShapeError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.structures import methane, rattled, water
from mlipfm_models.uncertainty._features import observe
from mlipfm_models.uncertainty.ensembles import draw_heads, predict_members
from mlipfm_models.uncertainty.llpr import Llpr, factorise, gram_matrix, raw_sigma

LEVEL = "gfn2-xtb"
LABELLED = [
    rattled(water(), 0.1, seed).replace(level=LEVEL, labels={"energy": 0.3 * seed, "forces": np.full((3, 3), 0.02 * seed)})
    for seed in range(40)
]
TRAIN, CALIBRATE, NEW = LABELLED[:15], LABELLED[15:35], LABELLED[35:]


@pytest.fixture(scope="module")
def fitted(small):
    potential = small()
    return potential, Llpr.fit(potential, "a" * 64, TRAIN, CALIBRATE)


def test_variance_of_a_linear_model_is_the_posterior_predictive_of_bayesian_regression():
    """The posterior by the rank-one updates of recursive least squares, which knows neither a Gram matrix nor a factor of it."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 7, dtype=torch.float64, generator=generator)
    noise, prior = 0.3, 1e-2  # standard deviation of the noise; precision of the prior in units of 1/noise^2
    covariance = noise**2 / prior * torch.eye(7, dtype=torch.float64)
    for f in features:
        gain = covariance @ f / (noise**2 + f @ covariance @ f)
        covariance = covariance - torch.outer(gain, f @ covariance)
    new = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    want = torch.einsum("ni,ij,nj->n", new, covariance, new)
    factor, s = factorise(features.T @ features, prior)
    assert s == prior
    torch.testing.assert_close((noise * raw_sigma(factor, new)) ** 2, want, rtol=0, atol=1e-8)


def test_a_singular_gram_matrix_gets_the_smallest_power_of_ten_that_helps():
    f = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    factor, s = factorise(f.T @ f)
    assert 0 < s < 1e-10
    assert torch.isfinite(factor).all()
    assert factorise(torch.eye(3, dtype=torch.float64))[1] == 1e-20


def test_alpha_gives_the_calibration_errors_a_mean_square_of_one(fitted):
    potential, llpr = fitted
    seen = list(llpr.predict(potential, CALIBRATE))
    assert np.mean([u.score("energy") ** 2 for u in seen]) == pytest.approx(1)
    assert np.mean([(u.force_errors() / u.force_sigma) ** 2 for u in seen]) == pytest.approx(1)


def test_sigma_of_forces_turns_with_the_molecule_and_does_not_know_its_batch(fitted):
    potential, llpr = fitted
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = [s.replace(positions=s.positions @ turn.T, labels={}) for s in NEW]
    together, alone = list(llpr.predict(potential, NEW)), [next(llpr.predict(potential, [s])) for s in turned]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.atom_sigma, b.atom_sigma, rtol=1e-9)
        assert a.energy_sigma == pytest.approx(b.energy_sigma, rel=1e-9)


def test_the_order_and_batches_of_training_do_not_matter(small, monkeypatch):
    potential = small()
    gram, n = gram_matrix(potential, TRAIN)
    monkeypatch.setattr("mlipfm_models.uncertainty._features.BATCH_ATOMS", 7)
    other, m = gram_matrix(potential, iter(TRAIN[::-1]))
    assert n == m == 15
    torch.testing.assert_close(gram, other, rtol=1e-12, atol=1e-12)


def test_an_atom_alone_is_not_certain_of_its_forces(fitted):
    potential, llpr = fitted
    (lone,) = llpr.predict(potential, [Structure([8], np.zeros((1, 3)), level=LEVEL)])
    assert (lone.force_sigma == llpr.floor["forces"]).all()
    assert llpr.floor["forces"] > 0


def test_members_of_the_ensemble_scatter_as_llpr_says(fitted):
    potential, llpr = fitted
    heads = draw_heads(llpr, 4000)
    assert heads.sum(dim=0).abs().max() < 1e-6 * heads.abs().max()
    features = observe(potential, NEW, forces=False).energy_features
    torch.testing.assert_close((features @ heads.T).std(dim=1, correction=0), raw_sigma(llpr.factor, features), rtol=0.05, atol=0)
    first, again = (list(predict_members(llpr, potential, NEW, 4, seed=3)) for _ in range(2))
    assert all((a.forces == b.forces).all() and a.forces.shape == (4, 3, 3) for a, b in zip(first, again, strict=True))
    with pytest.raises(ShapeError, match="two members or more, got 1"):
        draw_heads(llpr, 1)


def test_the_file_comes_back_and_belongs_to_one_model(fitted, tmp_path):
    potential, llpr = fitted
    path = tmp_path / "sure.safetensors"
    assert llpr.save(path) == llpr.save(tmp_path / "again.safetensors")
    back = plugins.load("uncertainties", "llpr").load(path, "a" * 64)
    for a, b in zip(llpr.predict(potential, NEW), back.predict(potential, NEW), strict=True):
        assert (a.energy_sigma, a.energy) == (b.energy_sigma, b.energy)
        assert (a.force_sigma == b.force_sigma).all()
    assert back.quantile("forces", 0.9) == llpr.quantile("forces", 0.9)
    with pytest.raises(RefusedFileError, match="is the uncertainty of the model aaaaaaaaaaaa, not of bbbbbbbbbbbb.*fit one for this model"):
        Llpr.load(path, "b" * 64)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="digest does not match"):
        Llpr.load(path, "a" * 64)


def test_direct_models_know_their_energies_alone(small):
    potential = small(forces="direct")
    llpr = Llpr.fit(potential, "a" * 64, TRAIN, CALIBRATE)
    assert llpr.quantities == ("energy",)
    (answer,) = llpr.predict(potential, NEW[:1])
    (members,) = predict_members(llpr, potential, NEW[:1], 3)
    assert answer.energy_sigma > 0
    assert members.forces is None
    with pytest.raises(PropertyNotAvailableError, match="uncertainty of forces was not fitted"):
        answer.force_errors()
    with pytest.raises(PropertyNotAvailableError, match="direct forces are no derivative of the last layer"):
        observe(potential, NEW, forces=True)


def test_what_cannot_be_fitted_is_refused(small):
    with pytest.raises(PropertyNotAvailableError, match="shows no last layer"):
        observe(Morse(), [NEW[0].replace(level=None, labels={})], forces=False)
    with pytest.raises(MissingLabelsError, match="no training structure"):
        Llpr.fit(small(), "a" * 64, [], CALIBRATE)
    with pytest.raises(MissingLabelsError, match="no structure to calibrate with"):
        Llpr.fit(small(), "a" * 64, TRAIN, [])
    with pytest.raises(MissingLabelsError, match="needs the label 'energy'"):
        Llpr.fit(small(), "a" * 64, TRAIN, [NEW[0].replace(labels={})])


def test_the_potential_is_left_as_it_was(small):
    potential = small().train()
    observe(potential, NEW, forces=True)
    assert potential.training
    assert all(p.grad is None for p in potential.parameters())


def test_sigma_is_that_of_linear_regression_on_the_mean_of_the_last_layer(small):
    """arXiv:2403.02251, equation 14, written out: f is the mean over the atoms, and G the sum of f f^T over the training structures."""
    potential = small()
    train = [rattled(s, 0.1, seed=k) for k in range(12) for s in (water(), methane())]
    with torch.no_grad():
        features = []
        for s in train:
            layer = potential(collate([s], potential.spec.graphs, torch.float64), ("energy",)).features["last_layer"].value.numpy()
            features.append(layer.mean(axis=0))
    f = np.array(features)
    gram, n = gram_matrix(potential, train)
    assert n == len(train)
    np.testing.assert_allclose(gram.numpy(), f.T @ f, rtol=1e-10)
    factor, s = factorise(gram, 1e-3)
    inverse = np.linalg.inv(f.T @ f + 1e-3 * np.eye(f.shape[1]))
    expected = np.sqrt(np.einsum("na,ab,nb->n", f, inverse, f))
    np.testing.assert_allclose(raw_sigma(factor, torch.from_numpy(f)).numpy(), expected, rtol=1e-8)
    seen = observe(potential, train[:3], forces=True)
    np.testing.assert_allclose(seen.energy_features.numpy(), f[:3], rtol=1e-10)

    def sums(positions):
        batch = collate([train[0].replace(positions=positions)], potential.spec.graphs, torch.float64)
        return potential(batch, ("energy",)).features["last_layer"].value.sum(0)

    step = np.zeros((3, 3))
    step[1, 2] = 1e-4
    slope = (sums(train[0].positions + step) - sums(train[0].positions - step)) / 2e-4
    assert seen.force_features is not None
    np.testing.assert_allclose(seen.force_features[1, 2].numpy(), -slope.detach().numpy(), atol=1e-7)


@pytest.mark.parametrize("members", [2, 5, 50])
def test_members_have_the_variance_of_the_posterior_however_few_they_are(members):
    """Centring takes a degree of freedom, which is given back: the mean square of every entry is (L L^T)^-1, here 1/4, and the mean is zero."""
    llpr = Llpr("a" * 64, 2 * torch.eye(4, dtype=torch.float64), 0.0, {"energy": 1.0}, {"energy": 0.0}, {})
    drawn = torch.stack([draw_heads(llpr, members, seed) for seed in range(500)])
    assert float(drawn.mean(dim=1).abs().max()) < 1e-12
    assert float(drawn.square().mean()) == pytest.approx(0.25, rel=0.08)
