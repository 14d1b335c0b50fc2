"""What backbones spend their time on, with arrays of numpy (float32 or float64, contiguous): polynomials of the densities of atoms, messages of
neighbours, and expansions of neighbours. Polynomials and messages are linear in each of their arrays, so that derivatives are again these functions.

`threads` share columns or atoms; results of `Messages` that are sums over pairs of several atoms depend on their number in the last digits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .kernel import INSTRUCTIONS

__all__ = ["CubicForm", "Expansion", "Messages"]

Array = NDArray[Any]


class CubicForm:
    """out[o] = sum of c x[i] y[j] z[k] over the terms {(o, i, j, k): c}, for every column of x, y and z.

    Behind the last row of each operand stands a row of ones, for terms of lower degree.

    Args:
        terms: at most 31 rows for each operand. outputs: rows of the result.
    """

    def __init__(self, terms: Mapping[tuple[int, int, int, int], float], outputs: int) -> None:
        ordered = sorted(terms.items())
        self.outputs = outputs
        self._first = np.searchsorted([key[0] for key, _ in ordered], np.arange(outputs + 1)).astype(np.int32)
        self._term = np.array([key[1:] for key, _ in ordered], dtype=np.int32).reshape(-1, 3)
        weights = np.array([value for _, value in ordered])
        self._weights = {kind: weights.astype(kind) for kind in (np.float32, np.float64)}

    def __call__(self, x: Array, y: Array, z: Array, threads: int = 1) -> Array:
        """Return [outputs, columns] of operands [rows, columns].

        Raises:
            ValueError: for arrays whose sizes do not fit each other or the terms. TypeError: for arrays that are not of one precision.
        """
        out = np.empty((self.outputs, x.shape[1]), x.dtype)
        weights = self._weights[x.dtype.type]
        _kernels.cubic(self._first, self._term, weights, x, y, z, out, threads, os.environ.get(INSTRUCTIONS, ""))
        return out


class Messages:
    """Sums over the neighbours of A atoms: message[m, a, c] = sum over the pairs p of a of Y[m, p] F[p, c] s[neighbor(p), c], F = R^T W.

    Factors are Y [M, P], R [N, P], W [N, C] and s [atoms, C]; channels C are a multiple of 16.

    Args:
        first: [A + 1] int64, pairs first[a] to first[a + 1] are those of atom a. neighbor: [P] int64, rows of s.
    """

    def __init__(self, first: NDArray[np.int64], neighbor: NDArray[np.int64], threads: int = 1) -> None:
        self._pairs, self._atoms, self._threads = (first, neighbor), len(first) - 1, threads

    def __call__(self, *factors: Array) -> Array:
        """Return the messages [M, A, C].

        Raises:
            ValueError: for sizes that do not fit each other. TypeError: for arrays that are not of one precision.
        """
        out = np.empty((len(factors[0]), self._atoms, factors[2].shape[1]), factors[2].dtype)
        _kernels.message(*self._pairs, *factors, out, *self._how())
        return out

    def gradient(self, wanted: tuple[bool, ...], g: Array, *factors: Array) -> list[Array | None]:
        """Return the gradients of sum(g x message) by the factors that are `wanted`, None for the others; raises as a call does."""
        by = _zeros(wanted, factors)
        _kernels.message_gradient(*self._pairs, *factors, g, *by, *self._how())
        return by

    def second(
        self, wanted: tuple[bool, ...], g: Array, factors: tuple[Array, ...], v: tuple[Array | None, ...]
    ) -> tuple[Array, list[Array | None]]:
        """Return the gradients of sum(v[k] x gradient[k]) by g and by the factors that are `wanted`; v is None where it is zero."""
        by_g, by = np.empty_like(g), _zeros(wanted, factors)
        _kernels.message_second(*self._pairs, *factors, g, *v, by_g, *by, *self._how())
        return by_g, by

    def _how(self) -> tuple[int, str]:
        return self._threads, os.environ.get(INSTRUCTIONS, "")


class Expansion:
    """Expansion of the neighbours of A atoms in radial functions and spherical harmonics up to `degree`, for each kind of neighbour by itself:
    a[t N + n, a, m] = factor x sum over the pairs p of a whose other atom is of kind t of R_n(r) Y_m(d[p]/r), r = |d[p]|.

    R_n are sqrt(2/cutoff) sin(n pi r/cutoff)/r for n = 1 to N - 1, then a one, all times the envelope of `mlipfm_models`; Y_0 is one and the other
    harmonics have sums of squares one for each degree.

    Args:
        first: [A + 1] int64, pairs first[a] to first[a + 1] are those of atom a. kind: [P] int32 in [0, kinds), -1 for a pair that does not count.
    """

    def __init__(
        self,
        first: NDArray[np.int64],
        kind: NDArray[np.int32],
        kinds: int,
        *,
        degree: int,
        functions: int,
        cutoff: float,
        factor: float,
        threads: int = 1,
    ) -> None:
        self._of = (first, kind, kinds, degree, functions, cutoff, factor)
        self.shape = (kinds * functions, len(first) - 1, (degree + 1) ** 2)
        self._threads = threads

    def __call__(self, d: Array, along: Array | None = None) -> Array:
        """Return the expansion [kinds N, A, M] of the vectors d [P, 3], or its derivative where d goes along `along` [P, 3].

        Raises:
            ValueError: for sizes that do not fit each other. TypeError: for arrays that are not of one precision.
        """
        out = np.empty(self.shape, d.dtype)
        _kernels.expansion(*self._of, d, along, out, self._threads, os.environ.get(INSTRUCTIONS, ""))
        return out

    def gradient(self, g: Array, d: Array, along: Array | None = None) -> Array:
        """Return the gradient [P, 3] of sum(g x expansion) by d, or its derivative where d goes along `along`; raises as a call does."""
        out = np.empty_like(d)
        _kernels.expansion_gradient(*self._of, d, along, g, out, self._threads, os.environ.get(INSTRUCTIONS, ""))
        return out


def _zeros(wanted: tuple[bool, ...], factors: tuple[Array, ...]) -> list[Array | None]:
    """Weights and scalars are added to."""
    return [np.zeros_like(x) if want else None for want, x in zip(wanted, factors, strict=True)]
