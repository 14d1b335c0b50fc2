"""The kernels with arrays of numpy: `DensityKernel` is a model, `Systems` are the atoms it is evaluated for, and moves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .weights import AtomTypes, DensityShape, fold_weights

__all__ = ["ClosedForm", "DensityKernel", "Systems", "Trouble", "build_id", "instruction_sets", "normals", "peak"]

Array = NDArray[np.float64]
Dtype = Literal["float32", "float64"]

#: Environment variable that names the instruction set to use.
INSTRUCTIONS = "MLIPFM_INSTRUCTIONS"
KINDS = ("", "not-finite", "overlap", "crowd", "crowded-cell", "too-many")
STOPS = ("", "not-finite", "hot", "met", "collapsed", "burst", "sheared")


class Trouble(NamedTuple):
    """What is wrong with a geometry, or why a simulation stopped.

    Attributes:
        kind: `not-finite` (a position of atom `first`), `overlap` (atoms `first` and `second`, `value` Å apart), `crowd` (`second` atoms within 0.5 Å
            of `first`), `crowded-cell` (`value` atoms per Å³ in system `first`), `too-many` (neighbours of atom `first`); of a simulation also `hot`
            (system `first`, `value` K), `collapsed` and `burst` (its volume is `value` times that of the start), `sheared` (stretched
            `value` times more along one direction than along another).
    """

    kind: str
    first: int
    second: int
    value: float


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets that are built in and that this machine has, best first: `v4` (AVX-512), `v3` (AVX2), `v2` (SSE4.2),
    levels of the x86-64 psABI; `base` elsewhere."""
    return _kernels.instruction_sets()


def build_id() -> str:
    """Return the size and time of the compiled module: another build has another."""
    found = os.stat(_kernels.__file__)
    return f"{found.st_size}-{found.st_mtime_ns}"


def peak(dtype: Dtype = "float32", instructions: str = "", repeats: int = 1_000_000) -> int:
    """Run `repeats` times twelve independent vector multiply-adds in registers and return the floating-point operations done: time it to know what
    one core can do at most."""
    _kernels.peak(dtype == "float32", instructions, repeats)
    lanes = {"v4": 64, "v3": 32}.get(instructions or instruction_sets()[0], 16) // (4 if dtype == "float32" else 8)
    return repeats * 12 * 2 * lanes


def normals(seed: int, purpose: int, system: int, step: int, count: int) -> Array:
    """Return the standard normal numbers [count] of a stream; `purpose` is 1 for atoms, 2 for the kinetic energy, 3 for the cell."""
    out = np.empty(count)
    _kernels.normals(seed, purpose, system, step, out)
    return out


class DensityKernel:
    """A `density` model for the atom types of a set of systems.

    Args:
        parameters, shape, types: see `fold_weights`. dtype: in which it computes; energies are summed and positions kept in float64.
        instructions: one of `instruction_sets()`; "" takes that of the environment variable MLIPFM_INSTRUCTIONS, else the best.

    Raises:
        ValueError: for an instruction set that this machine or this build lacks, or weights of other sizes than `shape` says.
    """

    def __init__(
        self, parameters: Mapping[str, Array], shape: DensityShape, types: AtomTypes, *, dtype: Dtype = "float32", instructions: str = ""
    ) -> None:
        arrays, numbers = fold_weights(parameters, shape, types)
        wanted = instructions or os.environ.get(INSTRUCTIONS, "")
        self.model = _kernels.density(arrays, numbers, dtype == "float32", wanted)
        self.dtype, self.channels = dtype, types.scalars.shape[1]

    @property
    def instructions(self) -> str:
        """Name of the instruction set in use."""
        return self.model.instructions


class ClosedForm:
    """Atoms on springs of one stiffness (eV/Å²) at `places` [atoms, 3], or without any force (stiffness 0): what thermostats are tested on."""

    def __init__(self, stiffness: float, places: Array) -> None:
        self.model = _kernels.springs(stiffness, np.ascontiguousarray(places, dtype=np.float64))
        self.channels = 0


class Systems:
    """Systems end to end whose atoms move. N atoms, S systems.

    Neighbours are collected up to cutoff + `skin` and reused while every pair within the cutoff is sure to be among them.

    Args:
        first: [S + 1] index of the first atom of each system. types: [N] rows of `AtomTypes`. cells: [S, 3, 3] Å, rows. periodic: [S, 3] bool.
        skin: Å. threads: that share the atoms.
    """

    def __init__(
        self,
        kernel: DensityKernel | ClosedForm,
        first: Sequence[int] | NDArray[Any],
        types: Sequence[int] | NDArray[Any],
        cells: Array,
        periodic: NDArray[Any],
        *,
        skin: float = 0.5,
        threads: int = 1,
    ) -> None:
        self.kernel = kernel
        self.first = np.asarray(first)
        self._system = _kernels.System(
            kernel.model,
            self.first.tolist(),
            np.asarray(types).tolist(),
            np.ascontiguousarray(cells, dtype=np.float64),
            np.asarray(periodic).astype(int).ravel().tolist(),
            float(skin),
            int(threads),
        )
        self.n = int(self.first[-1])
        self._energy, self._force = np.empty(self.n), np.empty((self.n, 3))

    def compute(
        self, positions: Array, *, virial: bool = False, features: bool = False
    ) -> Trouble | tuple[Array, Array, Array | None, Array | None]:
        """Evaluate at `positions` [N, 3] Å.

        Returns:
            (energies [N] eV, forces [N, 3] eV/Å, virials [N, 6] eV, features of the last layer [N, C]) of the atoms, new arrays; or what is wrong
            with the geometry. The virial of an atom is its part of dE/dstrain, in the order xx, yy, zz, yz, xz, xy.
        """
        virials = np.empty((self.n, 6)) if virial else None
        last = np.empty((self.n, self.kernel.model.channels)) if features else None
        x = np.ascontiguousarray(positions, dtype=np.float64)
        trouble = _trouble(KINDS, self._system.compute(x, self._energy, self._force, virials, last))
        if trouble is not None:
            return trouble
        return self._energy.copy(), self._force.copy(), virials, None if last is None else last[:, : self.kernel.channels]

    def advance(self, state: dict[str, NDArray[Any]], ensemble: Mapping[str, Any], step: int, until: int) -> tuple[int, Trouble | None]:
        """Take steps of molecular dynamics, from `step` to `until`, in place.

        Args:
            state: contiguous arrays `positions`, `velocities`, `forces` [N, 3], `energies` [S], `masses` [N], `movable` [N, 3] and `centre` [S, 3]
                bool; of thermostats and barostats `heat` [S], `chain_position`, `chain_velocity` [S, chain], `cells`, `stress`,
                `cell_velocity` [S, 3, 3].
            ensemble: `kind` (nve, langevin, bussi, nose-hoover, npt), `dt`, `seed`, `friction`, `time`, `chain`, `full`, `temperature` and
                `pressure` [S], `acceleration` and `boltzmann` (constants), and the limits `hottest` (K), `expansion`, with
                `start_cells` [S, 3, 3].

        Returns:
            (step reached, None), or the last good step, with the arrays as they were then, and why it ended there.
        """
        reached, why, system, value, geometry = self._system.advance(state, dict(ensemble), step, until)
        if not why:
            return reached, None
        found = _trouble(KINDS, geometry)
        return reached, found if found is not None else Trouble(STOPS[why], system, 0, value)

    def restore(self, reference: Array, cells: Array) -> Trouble | None:
        """Collect the neighbours as they were at `reference` [N, 3] in `cells`: a restarted run then has the bits of one that was not interrupted."""
        return _trouble(KINDS, self._system.restore(np.ascontiguousarray(reference), np.ascontiguousarray(cells)))

    def set_cells(self, cells: Array) -> None:
        """Change the cells [S, 3, 3] Å."""
        self._system.set_cells(np.ascontiguousarray(cells, dtype=np.float64))

    @property
    def reference(self) -> Array:
        """Positions [N, 3] at which the neighbours were collected; empty before."""
        return np.array(self._system.reference).reshape(-1, 3)

    @property
    def reference_cells(self) -> Array:
        """Cells [S, 3, 3] at which the neighbours were collected."""
        return np.array(self._system.reference_cells).reshape(-1, 3, 3)

    @property
    def builds(self) -> int:
        """How often the neighbours were collected."""
        return self._system.builds

    @property
    def pairs(self) -> int:
        """Neighbours in the list, those in the skin included."""
        return self._system.pairs


def _trouble(kinds: Sequence[str], found: tuple[int, int, int, float]) -> Trouble | None:
    return Trouble(kinds[found[0]], *found[1:]) if found[0] else None
