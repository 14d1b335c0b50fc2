"""Forces of many systems at once, from a potential (with a neighbour list that is reused) or from anything that evaluates structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mlipfm_interfaces.batch import SKIN, Batch, MovingBatch
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.pieces import predict_in_pieces
from mlipfm_interfaces.potential import Potential, check_elements, device_of
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.reference_rank import warn_if_undetermined
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.trained_states import check_states

from .compiled_forces import CompiledForces
from .memory import keep_freed_memory

__all__ = ["PotentialForces", "SplitForces", "TeacherForces"]

Array = np.ndarray


class PotentialForces:
    """Energies and forces of `structures` at new positions, in their cells or in others.

    Neighbours are collected up to cutoff + `skin` and reused while every pair within the cutoff is sure to be among them: in a constant cell until an
    atom has moved by skin / 2. Those within the cutoff are picked out, so the result is that of a fresh list (see `MovingBatch`). `reference`
    (positions) and `reference_cells` are where the list was built: a restart rebuilds it there.
    """

    def __init__(
        self,
        potential: Potential,
        structures: Sequence[Structure],
        *,
        skin: float = SKIN,
        reference: Array | None = None,
        reference_cells: Array | None = None,
    ) -> None:
        check_elements(potential.spec, structures)
        check_states(potential, structures)
        warn_if_undetermined(potential, structures)
        keep_freed_memory()
        self.potential = potential.eval()
        self.structures = list(structures)
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self._variable = reference_cells is not None
        spec = potential.spec
        self.moving = MovingBatch(
            structures,
            spec.graphs,
            spec.torch_dtype,
            device_of(potential),
            skin=skin,
            reference=reference,
            reference_cells=reference_cells,
        )

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """(energies [systems] eV, forces [atoms, 3] eV/Å) at `positions` [atoms, 3], in the cells of the last call that gave some."""
        energy, forces = self._predicted(self.moving.at(positions), ("energy", "forces"))
        return energy, forces

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Compute the same in `cells` [systems, 3, 3], and the stress [systems, 3, 3] eV/Å³.

        Raises:
            PropertyNotAvailableError: the model has no stress.
        """
        self._variable = True
        energy, forces, stress = self._predicted(self.moving.at(positions, cells), ("energy", "forces", "stress"))
        return energy, forces, stress

    @property
    def rebuilds(self) -> int:
        """How often neighbours were searched."""
        return self.moving.rebuilds

    def memory(self) -> dict[str, Array]:
        """Return what a restart gives back, so that neighbours are searched at the same steps. (On a GPU the last bits depend on it.)"""
        cells = {"reference_cells": self.moving.reference_cells} if self._variable else {}
        return {"reference": self.moving.reference, **cells}

    def _predicted(self, batch: Batch, outputs: tuple[str, ...]) -> list[Array]:
        prediction = predict_in_pieces(self.potential, batch, outputs)
        return [prediction[key].detach().to("cpu", torch.float64).numpy() for key in outputs]


class TeacherForces:
    """The same for a Teacher or a Labeler (quantum chemistry): one structure at a time, nothing reused."""

    def __init__(self, teacher: Teacher | Labeler, structures: Sequence[Structure]) -> None:
        self.teacher = teacher
        self.structures = list(structures)
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self.reference = np.concatenate([s.positions for s in structures])

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Return energies [systems] eV and forces [atoms, 3] eV/Å at these positions."""
        rows = self._rows(positions, [s.cell for s in self.structures], ("energy", "forces"))
        return np.array([float(row["energy"]) for row in rows]), np.concatenate([row["forces"] for row in rows])

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Return energies, forces and stress [systems, 3, 3] eV/Å³ in these cells, as `PotentialForces`."""
        rows = self._rows(positions, cells, ("energy", "forces", "stress"))
        if "stress" not in rows[0]:
            raise PropertyNotAvailableError("this model gives no stress", hint="keep the volume, or choose another model")
        energies = np.array([float(row["energy"]) for row in rows])
        return energies, np.concatenate([row["forces"] for row in rows]), np.stack([row["stress"] for row in rows])

    def memory(self) -> dict[str, Array]:
        """Return what `simulate` saves, as `PotentialForces`."""
        return {"reference": self.reference}

    def _rows(self, positions: Array, cells: Sequence[Array] | Array, outputs: tuple[str, ...]) -> Sequence[Mapping[str, Array]]:
        moved = [
            s.replace(positions=positions[a:b], cell=cell, labels={})
            for s, a, b, cell in zip(self.structures, self.first[:-1], self.first[1:], cells, strict=True)
        ]
        if isinstance(self.teacher, Labeler):
            return [self.teacher.label(s).labels for s in moved]
        return self.teacher.evaluate(moved, outputs)


@dataclass(frozen=True)
class SplitForces:
    """The forces of a model, and those of a cheaper one for the inner steps of multiple time stepping."""

    outer: PotentialForces | CompiledForces | TeacherForces
    inner: PotentialForces | CompiledForces | TeacherForces

    @property
    def first(self) -> Array:
        """[systems + 1] index of the first atom of each system."""
        return self.outer.first

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Compute forces and stress of the outer model, as `PotentialForces`."""
        return self.outer(positions)

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Compute forces and stress of the outer model, as `PotentialForces`."""
        return self.outer.with_stress(positions, cells)

    def memory(self) -> dict[str, Array]:
        """Return as `PotentialForces`, with `inner_` before the names of the inner model."""
        return self.outer.memory() | {f"inner_{name}": values for name, values in self.inner.memory().items()}
