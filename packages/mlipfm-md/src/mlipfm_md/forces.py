"""Forces of many systems at once, from a potential (with a neighbour list that is reused) or from anything that evaluates structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.potential import Potential, check_elements, device_of
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.undetermined import warn_if_undetermined

__all__ = ["PotentialForces", "TeacherForces"]

Array = np.ndarray


class PotentialForces:
    """Energies and forces of `structures` at new positions.

    Neighbours are collected up to cutoff + `skin` and reused until an atom has moved by skin / 2; pairs between cutoff and cutoff + skin
    contribute exactly 0, so the result is that of a fresh list. `reference` is where the list was built: a restart rebuilds it there.
    """

    def __init__(self, potential: Potential, structures: Sequence[Structure], *, skin: float = 0.5, reference: Array | None = None) -> None:
        check_elements(potential.spec, structures)
        warn_if_undetermined(potential, structures)
        self.potential = potential.eval()
        self.structures = list(structures)
        self.skin = skin
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self.reference = np.concatenate([s.positions for s in structures]) if reference is None else reference
        self.rebuilds = 0
        self.batch = self._collate(self.reference)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """(energies [systems] eV, forces [atoms, 3] eV/Å) at `positions` [atoms, 3]."""
        if np.square(positions - self.reference).sum(axis=1).max() > (self.skin / 2) ** 2:
            self.reference, self.batch = positions.copy(), self._collate(positions)
        batch = replace(self.batch, positions=torch.as_tensor(positions, dtype=torch.float64, device=self.batch.positions.device).clone())
        prediction = self.potential(batch, ("energy", "forces"))
        energy, forces = (prediction[key].detach().to("cpu", torch.float64).numpy() for key in ("energy", "forces"))
        return energy, forces

    def _collate(self, positions: Array) -> Batch:
        self.rebuilds += 1
        moved = [
            Structure.trusted(**{**_fields(s), "positions": positions[a:b]})
            for s, a, b in zip(self.structures, self.first[:-1], self.first[1:], strict=True)
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
        moved = [
            s.replace(positions=positions[a:b], labels={}) for s, a, b in zip(self.structures, self.first[:-1], self.first[1:], strict=True)
        ]
        if isinstance(self.teacher, Labeler):
            rows: Sequence[Mapping[str, Array]] = [self.teacher.label(s).labels for s in moved]
        else:
            rows = self.teacher.evaluate(moved, ("energy", "forces"))
        return np.array([float(row["energy"]) for row in rows]), np.concatenate([row["forces"] for row in rows])


def _fields(s: Structure) -> dict[str, object]:
    return {name: getattr(s, name) for name in Structure.__dataclass_fields__}


def _k(spec: GraphSpec) -> bool:
    return spec.kspace is not None
