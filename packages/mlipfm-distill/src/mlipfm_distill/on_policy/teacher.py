"""The teacher of a distillation: a checkpoint or a model of another package, which labels one structure at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import ForeignModelError, LevelError, OverlapError, PropertyNotAvailableError
from mlipfm_interfaces.files import canonical_json, sha256
from mlipfm_interfaces.foreign import ForeignModel, is_foreign, open_foreign
from mlipfm_interfaces.licences import UNKNOWN, combined, stated_licences
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure

from ..teacher_labels import chosen_probes, chosen_rows

#: Å, along a direction in which the Hessian is asked: teachers in float32 lose their digits in a smaller one.
DISPLACEMENT = 0.01
#: Forces above this, eV/Å, are labels of atoms on top of each other, from which nothing is learned.
LARGEST_FORCE = 100.0


class DistillationTeacher:
    """Energies, forces and, of crystals, stresses.

    Attributes:
        model: a Potential or a ForeignModel. uri: as it was given. digest: of the weights, or of address, file and versions of another package.
        level: of theory that its labels get. licence: of the model, if it is known.
    """

    def __init__(self, uri: str, *, level: str | None = None, timeout: float = 600.0) -> None:
        """Open the model.

        Args:
            level: of a checkpoint that knows several, by default the one that it predicts where none is given.
            timeout: seconds for one structure of a model of another package.

        Raises:
            LevelError: a level that the model does not support, or none where it supports several. What opening the model raises.
        """
        self.uri = uri
        self.model: Potential | ForeignModel
        if is_foreign(uri):
            if level is not None and uri.startswith(("http:", "https:")):
                raise LevelError(
                    "the level of a served model stands in its address", where="--level", hint=f"--teacher {uri}?level={level}"
                )
            if level is not None:
                raise LevelError("a model of another package has one level of theory", where="--level", hint="leave it out")
            self.model = open_foreign(uri, call_timeout=timeout)
            self.digest, self.level, self.licence = _foreign_digest(self.model), _foreign_level(uri), UNKNOWN
            return
        potential, manifest = load_model(uri)
        known, level = potential.spec.levels, level or potential.implied_level
        if level not in known:
            raise LevelError("the teacher does not say which level it is asked at", where="--level", hint=f"one of {', '.join(known)}")
        self.model, self.digest, self.level = potential.eval(), str(manifest["digest"]), level
        self.licence = combined(stated_licences(manifest.get("extra") or {}))

    def label(self, structure: Structure, rows: int = 0, products: int = 0) -> Structure:
        """Return the structure with energy, forces and, where there are three periodic directions, stress of the teacher, at its level.

        Args:
            rows: of the Hessian, by central differences of the forces; which ones depends on the structure alone.
            products: of the Hessian with random vectors of +1 and -1, by central differences along them.

        Raises:
            ForeignModelError: the worker died, took too long, or gave NaN. PropertyNotAvailableError: labels that are not finite.
            OverlapError: forces above `LARGEST_FORCE`, which are no fault of the teacher.
        """
        outputs = ["energy", "forces"]
        has = self.model.spec.outputs if isinstance(self.model, Potential) else self.model.outputs
        if "stress" in has and structure.pbc.all():
            outputs.append("stress")
        bare = structure.replace(labels={}, label_std={}, level=None)
        found = self._answers(bare, outputs)
        values = np.concatenate([np.ravel(found[key]) for key in outputs])
        if not np.isfinite(values).all():
            raise PropertyNotAvailableError("the teacher's energy or forces are not finite", where=structure.formula)
        largest = float(np.abs(found["forces"]).max())
        if largest > LARGEST_FORCE:
            raise OverlapError(f"the teacher gives a force of {largest:.0f} eV/Å: atoms lie on top of each other")
        labels = {key: found[key] for key in outputs}
        if rows:
            index = chosen_rows(bare, rows, seed=0)
            directions = np.zeros((len(index), len(bare), 3))
            directions[np.arange(len(index)), *index.astype(int).T] = 1.0
            labels |= {"hessian_rows": self._hessian_along(bare, directions), "hessian_rows_index": index}
        if products:
            probes = chosen_probes(bare, products, seed=0)
            labels |= {"hvp": self._hessian_along(bare, probes), "hvp_probe": probes}
        return bare.replace(level=self.level, labels=labels)

    def _hessian_along(self, bare: Structure, directions: np.ndarray) -> np.ndarray:
        """Return the Hessian times each direction, [directions, N, 3] eV/Å²: minus the slope of the forces along it."""
        found = np.zeros(directions.shape)
        for product, direction in zip(found, directions, strict=True):
            for sign in (1, -1):
                moved = bare.replace(positions=bare.positions + sign * DISPLACEMENT * direction)
                product -= sign * self._answers(moved, ["energy", "forces"])["forces"] / (2 * DISPLACEMENT)
        if not np.isfinite(found).all():
            raise PropertyNotAvailableError("the teacher's forces beside a frame are not finite", where=bare.formula)
        return found

    def _answers(self, bare: Structure, outputs: list[str]) -> dict[str, Any]:
        if isinstance(self.model, Potential):
            return evaluate(self.model, [bare], outputs, level=self.level)[0]
        try:
            return self.model.evaluate([bare], outputs)[0]
        except ForeignModelError as error:
            if "stress" not in outputs or "stress" not in str(error):
                raise
            return self.model.evaluate([bare], [key for key in outputs if key != "stress"])[0]

    def close(self) -> None:
        """End the worker of another package."""
        if isinstance(self.model, ForeignModel):
            self.model.close()

    def __enter__(self) -> DistillationTeacher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _foreign_digest(model: ForeignModel) -> str:
    """SHA-256 over the address, the versions of the packages that answer, and the file that the address names, if it names one."""
    import hashlib

    file = Path(model.uri.partition(":")[2])
    said = {"uri": model.uri, "versions": model.versions, "file": sha256(file) if file.is_file() else None}
    return hashlib.sha256(canonical_json(said)).hexdigest()


def _foreign_level(uri: str) -> str:
    """`sevennet:7net-0` -> `sevennet-7net-0`: labels of a potential are at no level of quantum chemistry but its own."""
    package, _, argument = uri.partition(":")
    name = Path(argument).name if Path(argument).is_file() else argument
    return re.sub(r"[^a-z0-9.+-]+", "-", f"{package}-{name}".lower()).strip("-")
