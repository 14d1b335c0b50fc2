"""Weights of a `density` model as the kernels read them: everything that depends on the types of atoms alone is multiplied out once, in float64.

In the first layer the weight of a neighbour depends on its type t alone, w_tc, and f_c(r) = sum_n filter_cn R_n(r). With the expansion
a_tnm = sum over the neighbours of type t of R_n(r) Y_m(u), the two mixtures of the density are sum_t sum_n (sum_c mix_qc w_tc filter_cn) a_tnm: one
matrix [R, 2 Q] per type, beside which stands what goes from a_tn0 straight to the hidden layer, [R, C]. Channels are padded with zeros to a multiple
of 16, which fills the widest vector register.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AtomTypes", "DensityShape", "fold_weights"]

Array = NDArray[np.float64]
LANES = 16


@dataclass(frozen=True)
class DensityShape:
    """Options of the model.

    Attributes:
        layers, degree: of the backbone. cutoff: Å. mean_neighbors: densities are divided by its square root. scale: eV, of energies and forces.
        nearest: fraction of the shortest trained distance that no neighbour is given below, where `AtomTypes` has these.
    """

    layers: int
    degree: int
    cutoff: float
    mean_neighbors: float
    scale: float
    nearest: float = 1.0


@dataclass(frozen=True)
class AtomTypes:
    """What atoms may be: one row for each kind that a call needs. T types, C channels.

    A type is an element at a level of theory in a system of some charge and spin; nothing else of an atom enters before its neighbours do.

    Attributes:
        scalars: [T, C] initial scalars. constant: [T] eV, reference energy and the readout's bias (times the scale). readout: [T, C].
        repulsion: None, or [T, 2] nuclear charge and covalent radius in Å of the short-range repulsion.
        shortest: None, or [T, T] Å: shortest distance of two of them in the training data; the model is given nearer ones as little nearer.
    """

    scalars: Array
    constant: Array
    readout: Array
    repulsion: Array | None = None
    shortest: Array | None = None


def fold_weights(parameters: Mapping[str, Array], shape: DensityShape, types: AtomTypes) -> tuple[dict[str, Array], dict[str, float]]:
    """Return the arrays and the numbers that `Model` takes.

    Args:
        parameters: of the backbone (`layers.0.filter.weight`, ...) and of the energy head (`head.inner.weight`, `head.inner.bias`), float64.
    """
    first = parameters["layers.0.mix.weight"]
    channels, mixed = first.shape[1], first.shape[0] // 2
    c, q, n_types = _up(channels), _up(mixed), len(types.scalars)
    filters = [parameters[f"layers.{k}.filter.weight"] * shape.mean_neighbors**-0.5 for k in range(shape.layers)]
    head, head_bias = parameters["head.inner.weight"], parameters["head.inner.bias"]
    out: dict[str, Array] = {}
    for k in range(shape.layers):
        name, last = f"layers.{k}.", k == shape.layers - 1
        inner, mix = parameters[name + "inner.weight"], parameters[name + "mix.weight"]
        own, density, spectrum = inner[:, :channels], inner[:, channels : 2 * channels], inner[:, 2 * channels :]
        outer, outer_bias = parameters[name + "outer.weight"], parameters[name + "outer.bias"]
        halves = np.stack([mix[:mixed], mix[mixed:]])  # [2, Q, C]
        if k == 0:
            weight = types.scalars @ parameters[name + "species.weight"].T  # [T, C]
            radial = weight[:, :, None] * filters[0]  # [T, C, R]
            folded = np.einsum("hqc,tcn->tnhq", halves, radial)
            both, hidden = _padded(folded, q).reshape(n_types, -1, 2 * q), _padded(np.einsum("dc,tcn->tnd", density, radial), c)
            out["layer0.maps"] = np.concatenate([both, hidden], axis=2)
        else:
            out[f"layer{k}.species"] = _padded(parameters[name + "species.weight"].T, c, c)
            out[f"layer{k}.filter"] = _padded(filters[k].T, c)
            out[f"layer{k}.mix"] = np.concatenate([_padded(half.T, q, c) for half in halves], axis=1)
            out[f"layer{k}.density"] = _padded(density.T, c, c)
            out[f"layer{k}.own"] = _padded(own.T, c, c)
        by_degree = spectrum.T.reshape(shape.degree + 1, mixed, channels)
        out[f"layer{k}.spectrum"] = _padded(by_degree, c, q).reshape(-1, c)
        bias = parameters[name + "inner.bias"]
        out[f"layer{k}.bias"] = _padded(types.scalars @ own.T + bias if k == 0 else bias, c)
        out[f"layer{k}.outer"] = _padded((head @ outer if last else outer).T, c, c)
        before = types.scalars + outer_bias if k == 0 else outer_bias
        out[f"layer{k}.outer_bias"] = _padded(before @ head.T + head_bias if last else before, c)
    if shape.layers > 1:
        out["head"] = _padded(head.T, c, c)
    out["readout"] = _padded(types.readout, c)
    out["constant"] = np.asarray(types.constant, dtype=np.float64)
    if types.repulsion is not None:
        z, radius = types.repulsion.T
        out["charge"], out["radius"] = np.stack([z, z**0.23], axis=1), radius
    if types.shortest is not None:
        out["shortest"] = types.shortest
    numbers = {
        "degree": shape.degree,
        "channels": c,
        "mixed": q,
        "functions": filters[0].shape[1],
        "layers": shape.layers,
        "types": n_types,
    }
    return {key: np.ascontiguousarray(value, dtype=np.float64) for key, value in out.items()}, {
        **{key: float(value) for key, value in numbers.items()},
        "cutoff": shape.cutoff,
        "scale": shape.scale,
        "nearest": shape.nearest,
    }


def _up(n: int) -> int:
    return -(-n // LANES) * LANES


def _padded(x: Array, columns: int, rows: int | None = None) -> Array:
    """`x` with zeros after its last axis (and the one before it) up to these lengths."""
    widths = [(0, 0)] * x.ndim
    widths[-1] = (0, columns - x.shape[-1])
    if rows is not None:
        widths[-2] = (0, rows - x.shape[-2])
    return np.pad(x, widths)
