"""What backbones spend their time on, with arrays of numpy (float32 or float64, contiguous): polynomials of the densities of atoms, vectors to
neighbours and functions of them, messages and expansions of neighbours. Polynomials and messages are linear in each of their arrays, so that their
derivatives are again these functions.

`threads` share columns or atoms; results of `Messages` that are sums over pairs of several atoms depend on their number in the last digits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .kernel import INSTRUCTIONS

__all__ = ["CubicForm", "Displacements", "Expansion", "Messages", "PairFunctions"]

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

    Factors are functions of the pairs [N + M, P], R above Y, weights W [N, C] and scalars s [atoms, C]; channels C are a multiple of 16.

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
        functions, weights, _ = factors
        out = np.empty((max(len(functions) - len(weights), 0), self._atoms, weights.shape[1]), weights.dtype)
        _kernels.message(*self._pairs, *_split(factors, len(weights)), out, *self._how())
        return out

    def gradient(self, wanted: tuple[bool, ...], g: Array, *factors: Array) -> list[Array | None]:
        """Return the gradients of sum(g x message) by the factors that are `wanted`, None for the others; raises as a call does."""
        by, n = _zeros(wanted, factors), len(factors[1])
        _kernels.message_gradient(*self._pairs, *_split(factors, n), g, *_split(by, n), *self._how())
        return by

    def second(
        self, wanted: tuple[bool, ...], g: Array, factors: tuple[Array, ...], v: tuple[Array | None, ...]
    ) -> tuple[Array, list[Array | None]]:
        """Return the gradients of sum(v[k] x gradient[k]) by g and by the factors that are `wanted`; v is None where it is zero."""
        by_g, by, n = np.empty_like(g), _zeros(wanted, factors), len(factors[1])
        _kernels.message_second(*self._pairs, *_split(factors, n), g, *_split(v, n), by_g, *_split(by, n), *self._how())
        return by_g, by

    def _how(self) -> tuple[int, str]:
        return self._threads, os.environ.get(INSTRUCTIONS, "")


def _split(factors: Sequence[Array | None], n: int) -> tuple[Array | None, ...]:
    """Return Y, R, W and s: the functions of the pairs are `n` rows of R and below them Y."""
    functions, weights, scalars = factors
    return (None, None, weights, scalars) if functions is None else (functions[n:], functions[:n], weights, scalars)


class Displacements:
    """Vectors from A atoms to their neighbours: d[p] = (x[neighbor(p)] - x[a] + shift(p) h) (1 + e), rows, for the pairs p of atom a; h is the cell
    and e the symmetric part of the strain of its system. Positions and strains are float64, vectors of either precision.

    Args:
        first: [A + 1] int64, pairs first[a] to first[a + 1] are those of atom a. neighbor, shift, mask: int64 [P], int64 [P, 3] and bool [P] (where
            it is false the vector is (far, 0, 0)). system: [A] int64. cell: [S, 3, 3] float64.
    """

    def __init__(self, first: Array, neighbor: Array, shift: Array, mask: Array, system: Array, cell: Array, far: float) -> None:
        self._of, self._pairs = (first, neighbor, shift, mask, system, cell, far), neighbor.size

    def __call__(
        self,
        dtype: type[np.floating[Any]],
        positions: Array,
        strain: Array | None,
        along_positions: Array | None = None,
        along_strain: Array | None = None,
    ) -> Array:
        """Return the vectors [P, 3], or with `along_...` their derivative as positions and strain go along these.

        Raises:
            ValueError: for sizes that do not fit each other.
        """
        out = np.empty((self._pairs, 3), dtype)
        _kernels.displacements(*self._of, positions, strain, along_positions, along_strain, out)
        return out

    def gradient(
        self,
        wanted: tuple[bool, bool],
        g: Array,
        positions: Array,
        strain: Array | None,
        along_positions: Array | None = None,
        along_strain: Array | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Return the gradients of sum(g x vectors) by positions [A, 3] and strain [S, 3, 3], or their derivatives; None for those not `wanted`."""
        by = np.empty_like(positions) if wanted[0] else None, np.empty_like(self._of[5]) if wanted[1] else None
        _kernels.displacements_gradient(*self._of, positions, strain, along_positions, along_strain, g, *by)
        return by


class PairFunctions:
    """Functions of the vectors of P pairs, each row times its factor: N radial ones and below them the spherical harmonics up to `degree`, those of
    `Expansion`.

    Args:
        factors: [N + (degree + 1)^2] float64, one of each row.
    """

    def __init__(self, *, degree: int, functions: int, cutoff: float, factors: Array, threads: int = 1) -> None:
        self._of, self._rows, self._threads = (degree, functions, cutoff, factors), len(factors), threads

    def __call__(self, d: Array, along: Array | None = None) -> Array:
        """Return [N + M, P] of the vectors d [P, 3], or the derivative where d goes along `along` [P, 3].

        Raises:
            ValueError: for sizes that do not fit each other. TypeError: for arrays that are not of one precision.
        """
        out = np.empty((self._rows, len(d)), d.dtype)
        _kernels.pair_functions(*self._of, d, along, out, self._threads, os.environ.get(INSTRUCTIONS, ""))
        return out

    def gradient(self, g: Array, d: Array, along: Array | None = None) -> Array:
        """Return the gradient [P, 3] of sum(g x functions) by d, or its derivative where d goes along `along`; raises as a call does."""
        out = np.empty_like(d)
        _kernels.pair_functions_gradient(*self._of, d, along, g, out, self._threads, os.environ.get(INSTRUCTIONS, ""))
        return out


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
