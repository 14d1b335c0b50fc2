"""Forces of many systems at once, from a potential (with a neighbour list that is reused) or from anything that evaluates structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.kspace import kspace_view
from mlipfm_interfaces.potential import Potential, check_elements, device_of
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.undetermined import warn_if_undetermined

__all__ = ["PotentialForces", "SplitForces", "TeacherForces"]

Array = np.ndarray


class PotentialForces:
    """Energies and forces of `structures` at new positions, in their cells or in others.

    Neighbours are collected up to cutoff + `skin` and reused while every pair within the cutoff is sure to be among them: in a constant cell until an
    atom has moved by skin / 2. Pairs between cutoff and cutoff + skin contribute exactly 0, so the result is that of a fresh list. `reference`
    (positions) and `reference_cells` are where the list was built: a restart rebuilds it there.
    """

    def __init__(
        self,
        potential: Potential,
        structures: Sequence[Structure],
        *,
        skin: float = 0.5,
        reference: Array | None = None,
        reference_cells: Array | None = None,
    ) -> None:
        check_elements(potential.spec, structures)
        warn_if_undetermined(potential, structures)
        self.potential = potential.eval()
        self.structures = list(structures)
        self.skin = skin
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self.cells = np.stack([s.cell for s in structures]) if reference_cells is None else reference_cells
        self.reference = np.concatenate([s.positions for s in structures]) if reference is None else reference
        self.reference_cells = self.cells
        self._variable = reference_cells is not None
        self.cutoff = max(spec.cutoff for spec in potential.spec.graphs)
        self.rebuilds = 0
        self.batch = self._collate(self.reference)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """(energies [systems] eV, forces [atoms, 3] eV/Å) at `positions` [atoms, 3], in the cells of the last call that gave some."""
        energy, forces = self._predicted(positions, ("energy", "forces"))
        return energy, forces

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """The same in `cells` [systems, 3, 3], and the stress [systems, 3, 3] eV/Å³.

        Raises:
            PropertyNotAvailableError: the model has no stress.
        """
        self.cells, self._variable = cells, True
        energy, forces, stress = self._predicted(positions, ("energy", "forces", "stress"))
        return energy, forces, stress

    def memory(self) -> dict[str, Array]:
        """Return what a restart must give back for the same bits."""
        return {"reference": self.reference} | ({"reference_cells": self.reference_cells} if self._variable else {})

    def _predicted(self, positions: Array, outputs: tuple[str, ...]) -> list[Array]:
        if self._must_rebuild(positions):
            self.reference, self.reference_cells = positions.copy(), self.cells
            self.batch = self._collate(positions)
        batch = replace(self.batch, positions=torch.as_tensor(positions, dtype=torch.float64, device=self.batch.positions.device).clone())
        if self.cells is not self.reference_cells:
            batch = self._in_cells(batch)
        prediction = self.potential(batch, outputs)
        return [prediction[key].detach().to("cpu", torch.float64).numpy() for key in outputs]

    def _must_rebuild(self, positions: Array) -> bool:
        """Whether a pair within the cutoff may be missing from the list.

        With F the deformation of the cell since the list was made and u the largest move beyond it, a pair at distance r now was at a distance of
        at most |F^-1| (r + 2 u) then.
        """
        if self.cells is self.reference_cells:
            return bool(np.square(positions - self.reference).sum(axis=1).max() > (self.skin / 2) ** 2)
        deformation = np.linalg.solve(self.reference_cells, self.cells)
        stretch = 1 / np.linalg.svd(deformation, compute_uv=False)[:, -1]
        n_atoms = np.diff(self.first)
        if len(n_atoms) == 1:
            followed = self.reference @ deformation[0]
        else:
            followed = np.einsum("ia,iab->ib", self.reference, np.repeat(deformation, n_atoms, axis=0))
        moved = np.sqrt(np.maximum.reduceat(np.square(positions - followed).sum(axis=1), self.first[:-1]))
        return bool((stretch * (self.cutoff + 2 * moved) > self.cutoff + self.skin).any())

    def _in_cells(self, batch: Batch) -> Batch:
        batch = replace(batch, cell=torch.as_tensor(self.cells, dtype=torch.float64, device=batch.cell.device).clone())
        if not batch.kspace:
            return batch
        here = [replace_trusted(s, cell=cell) for s, cell in zip(self.structures, self.cells, strict=True)]
        kspace = {spec: kspace_view(here, spec.kspace).to(batch.cell.device) for spec in batch.kspace if spec.kspace is not None}
        return replace(batch, kspace=kspace)

    def _collate(self, positions: Array) -> Batch:
        self.rebuilds += 1
        moved = [
            replace_trusted(s, positions=positions[a:b], cell=cell)
            for s, a, b, cell in zip(self.structures, self.first[:-1], self.first[1:], self.cells, strict=True)
        ]
        wide = {spec: replace(spec, cutoff=spec.cutoff + self.skin) for spec in self.potential.spec.graphs}
        batch = collate(moved, tuple(wide.values()), self.potential.spec.torch_dtype, device_of(self.potential))
        return replace(
            batch, views={spec: batch.views[w] for spec, w in wide.items()}, kspace={s: batch.kspace[w] for s, w in wide.items() if _k(s)}
        )


class TeacherForces:
    """The same for a Teacher or a Labeler (quantum chemistry): one structure at a time, nothing reused."""

    def __init__(self, teacher: Teacher | Labeler, structures: Sequence[Structure]) -> None:
        self.teacher = teacher
        self.structures = list(structures)
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self.reference = np.concatenate([s.positions for s in structures])

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As `PotentialForces`."""
        rows = self._rows(positions, [s.cell for s in self.structures], ("energy", "forces"))
        return np.array([float(row["energy"]) for row in rows]), np.concatenate([row["forces"] for row in rows])

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """As `PotentialForces`."""
        rows = self._rows(positions, cells, ("energy", "forces", "stress"))
        if "stress" not in rows[0]:
            raise PropertyNotAvailableError("this model gives no stress", hint="keep the volume, or choose another model")
        energies = np.array([float(row["energy"]) for row in rows])
        return energies, np.concatenate([row["forces"] for row in rows]), np.stack([row["stress"] for row in rows])

    def memory(self) -> dict[str, Array]:
        """As `PotentialForces`."""
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

    outer: PotentialForces | TeacherForces
    inner: PotentialForces | TeacherForces

    @property
    def first(self) -> Array:
        """[systems + 1] index of the first atom of each system."""
        return self.outer.first

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Of the outer model, as `PotentialForces`."""
        return self.outer(positions)

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Of the outer model, as `PotentialForces`."""
        return self.outer.with_stress(positions, cells)

    def memory(self) -> dict[str, Array]:
        """As `PotentialForces`, with `inner_` before the names of the inner model."""
        return self.outer.memory() | {f"inner_{name}": values for name, values in self.inner.memory().items()}


def replace_trusted(s: Structure, **changes: object) -> Structure:
    """The structure with some fields changed, unchecked."""
    return Structure.trusted(**{name: getattr(s, name) for name in Structure.__dataclass_fields__} | changes)


def _k(spec: GraphSpec) -> bool:
    return spec.kspace is not None
