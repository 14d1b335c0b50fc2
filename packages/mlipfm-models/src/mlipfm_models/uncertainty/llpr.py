"""LLPR, last-layer prediction rigidities (arXiv:2403.02251): the variance that Bayesian linear regression on the last layer has.

    G = sum over training structures f f^T        sigma^2(x) = alpha^2 f(x)^T (G + s 1)^-1 f(x)

f is the mean of the last layer over the atoms for energies per atom, and its derivative by a position for a component of a force. alpha is fitted on
other structures than G, one for each quantity, and the scores of these give intervals whose coverage is guaranteed (`calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.calibration import conformal_quantile, nll_optimal_scale
from mlipfm_interfaces.checkpoint import load_checkpoint, save_checkpoint
from mlipfm_interfaces.errors import DamagedFileError, MissingLabelsError, RefusedFileError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain, errors_and_sigma
from torch import Tensor

from ._features import Observed, in_batches, observe

__all__ = ["Llpr"]

#: Kind of the file; its number is `format` of the checkpoint container.
KIND = "mlipfm-uncertainty"
#: A sigma is never smaller than this part of the typical one: the forces on an isolated atom have none at all.
FLOOR = 1e-3
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Llpr:
    """The fitted uncertainty of one model.

    Attributes:
        model: digest of the checkpoint it belongs to. factor: [channels, channels] float64, lower Cholesky factor of G + s 1. regularizer: s.
        alpha, floor: by quantity (`energy`, `forces`). scores: by quantity, sorted, one of each calibration structure.
        details: JSON-ready: sizes and digests of the data.
    """

    model: str
    factor: Tensor
    regularizer: float
    alpha: Mapping[str, float]
    floor: Mapping[str, float]
    scores: Mapping[str, np.ndarray]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantities(self) -> tuple[str, ...]:
        """`energy`, and `forces` of conservative models."""
        return tuple(self.alpha)

    @classmethod
    def fit(
        cls,
        potential: Potential,
        model: str,
        train: Iterable[Structure],
        calibrate: Iterable[Structure],
        *,
        details: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Llpr:
        """Fit from the training structures (their labels are not used) and labelled others, each read once.

        Args:
            model: digest of the checkpoint. details: kept in the file. progress: called with the number of structures done.

        Raises:
            MissingLabelsError: no training or no calibration structure, or one without labels. what `observe` raises.
        """
        gram, n_train = gram_matrix(potential, train, progress)
        factor, regularizer = factorise(gram)
        quantities = ("energy", "forces") if potential.spec.kind == "conservative" else ("energy",)
        ones, zeros = dict.fromkeys(quantities, 1.0), dict.fromkeys(quantities, 0.0)
        plain = cls(model, factor, regularizer, ones, zeros, {})
        seen = list(plain.predict(potential, _counted(calibrate, progress, n_train)))
        if not seen:
            raise MissingLabelsError("no structure to calibrate with", hint="give structures of the same kind that were not trained on")
        alpha, floor = {}, {}
        for key in quantities:
            errors, sigma = errors_and_sigma(seen, key)
            least = FLOOR * float(np.sqrt(np.mean(sigma**2)))
            alpha[key] = nll_optimal_scale(errors, np.maximum(sigma, least))
            floor[key] = least * alpha[key]
        final = [_scaled(u, alpha, floor) for u in seen]
        scores = {key: np.sort([u.score(key) for u in final]) for key in quantities}
        return cls(model, factor, regularizer, alpha, floor, scores, {**(details or {}), "train": n_train, "calibrate": len(seen)})

    def predict(self, potential: Potential, structures: Iterable[Structure]) -> Iterator[Uncertain]:
        """Yield predictions with sigma, in order; the potential must be the one of `model`."""
        for chunk in in_batches(structures):
            seen = observe(potential, chunk, forces="forces" in self.quantities)
            yield from (_scaled(u, self.alpha, self.floor) for u in _answers(self.factor, chunk, seen))

    def energy_sigma(self, features: np.ndarray) -> np.ndarray:
        """Return standard deviations [systems], eV per atom, of means of the last layer over the atoms [systems, channels]."""
        sigma = raw_sigma(self.factor, torch.as_tensor(features, dtype=self.factor.dtype)).numpy()
        return np.asarray(np.maximum(self.alpha["energy"] * sigma, self.floor["energy"]))

    def quantile(self, quantity: str, level: float = 0.9) -> float:
        """Return q such that sigma times q covers a new exchangeable structure with probability `level`: the energy, or the forces of all its atoms.

        Raises:
            MissingLabelsError: too few calibration structures for this level.
        """
        return conformal_quantile(self.scores[quantity], level)

    def save(self, path: Path | str) -> str:
        """Write one safetensors file with a JSON manifest and return its digest."""
        tensors = {"factor": self.factor} | {f"scores.{key}": torch.as_tensor(value) for key, value in self.scores.items()}
        plain = {"alpha": dict(self.alpha), "floor": dict(self.floor), "regularizer": self.regularizer, "details": dict(self.details)}
        return save_checkpoint(path, tensors, {"kind": KIND, "method": "llpr", "model": self.model, **plain})

    @classmethod
    def load(cls, path: Path | str, model: str) -> Llpr:
        """Read and verify a file that belongs to the checkpoint of digest `model`.

        Raises:
            RefusedFileError: it belongs to another model. what `load_checkpoint` raises.
        """
        manifest, tensors = load_checkpoint(path, KIND)
        if manifest.get("model") != model:
            raise RefusedFileError(
                f"is the uncertainty of the model {str(manifest.get('model'))[:12]}, not of {model[:12]}",
                where=str(path),
                hint="fit one for this model: mlipfm uncertainty fit",
            )
        try:
            scores = {key: tensors[f"scores.{key}"].numpy() for key in manifest["alpha"]}
            return cls(model, tensors["factor"], manifest["regularizer"], manifest["alpha"], manifest["floor"], scores, manifest["details"])
        except (KeyError, TypeError) as error:
            raise DamagedFileError(f"lacks an entry: {error}", where=str(path), hint="fit it again") from error


def gram_matrix(potential: Potential, structures: Iterable[Structure], progress: Progress | None = None) -> tuple[Tensor, int]:
    """G [channels, channels] float64 of the energy features, and the number of structures; one pass, nothing kept.

    Raises:
        MissingLabelsError: no structure.
    """
    gram, n = None, 0
    for chunk in in_batches(structures):
        f = observe(potential, chunk, forces=False).energy_features
        gram = f.T @ f if gram is None else gram + f.T @ f
        n += len(chunk)
        if progress is not None:
            progress(n)
    if gram is None:
        raise MissingLabelsError("no training structure", hint="give the structures that the model was trained on")
    return gram, n


def factorise(gram: Tensor, regularizer: float | None = None) -> tuple[Tensor, float]:
    """Lower Cholesky factor of (G + G^T)/2 + s 1, and s: the smallest of 1e-20, 1e-19, ... that makes it positive definite, unless given."""
    symmetric, eye = (gram + gram.T) / 2, torch.eye(len(gram), dtype=gram.dtype)
    for s in [regularizer] if regularizer is not None else [10.0**k for k in range(-20, 21)]:
        factor, info = torch.linalg.cholesky_ex(symmetric + s * eye)
        if int(info) == 0:
            return factor, s
    raise MissingLabelsError("the features of the training structures are not finite", hint="check the model")


def raw_sigma(factor: Tensor, features: Tensor) -> Tensor:
    """sqrt(f^T (L L^T)^-1 f) of features [..., channels], by a triangular solve: [...]."""
    flat = features.reshape(-1, features.shape[-1])
    return torch.linalg.solve_triangular(factor, flat.T, upper=False).norm(dim=0).reshape(features.shape[:-1])


def _answers(factor: Tensor, structures: list[Structure], seen: Observed) -> Iterator[Uncertain]:
    """With sigma before it is scaled."""
    sigma = raw_sigma(factor, seen.energy_features).numpy()
    if seen.forces is None or seen.force_features is None:
        yield from (Uncertain(s, float(e), float(d)) for s, e, d in zip(structures, seen.energy, sigma, strict=True))
        return
    ends = np.cumsum(seen.sizes)[:-1]
    forces, spread = (np.split(t.numpy(), ends) for t in (seen.forces, raw_sigma(factor, seen.force_features)))
    for s, e, d, f, g in zip(structures, seen.energy, sigma, forces, spread, strict=True):
        yield Uncertain(s, float(e), float(d), f, g)


def _scaled(u: Uncertain, alpha: Mapping[str, float], floor: Mapping[str, float]) -> Uncertain:
    energy = max(alpha["energy"] * u.energy_sigma, floor["energy"])
    forces = None if u.force_sigma is None else np.maximum(alpha["forces"] * u.force_sigma, floor["forces"])
    return Uncertain(u.structure, u.energy, energy, u.forces, forces)


def _counted(structures: Iterable[Structure], progress: Progress | None, start: int) -> Iterator[Structure]:
    for n, s in enumerate(structures, start + 1):
        yield s
        if progress is not None:
            progress(n)
