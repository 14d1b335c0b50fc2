"""Levels of theory and the atomic reference energies that belong to each.

Total energies of two levels differ by electronvolts per atom for reasons that no neural network should learn. A level therefore has a
canonical id (`wb97m-d3bj/def2-tzvppd`), and every level has its own references: one energy per element, fitted by least squares on
compositions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from .errors import LevelError, MissingLabelsError
from .structure import Structure


class LevelOfTheory(BaseModel):
    """How labels were computed. Only what is known is set; `id` joins method, dispersion and basis.

    Attributes:
        method: functional or method (`PBE`, `wB97M`, `CCSD(T)`, `GFN2-xTB`).
        basis: basis set (`def2-TZVPPD`) or plane-wave cutoff (`520eV`).
        dispersion: correction (`D3BJ`, `VV10`), if separate from the method.
        pseudopotential: family and version; hubbard_u: +U values by element; k_mesh; spin_treatment; code with version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    basis: str | None = None
    dispersion: str | None = None
    pseudopotential: str | None = None
    hubbard_u: tuple[tuple[str, float], ...] = ()
    k_mesh: str | None = None
    spin_treatment: str | None = None
    code: str | None = None

    @property
    def id(self) -> str:
        """Canonical id: lower case, `method[+u][-dispersion][/basis]`."""
        name = self.method + ("+u" if self.hubbard_u else "") + (f"-{self.dispersion}" if self.dispersion else "")
        return canonical_level(name + (f"/{self.basis}" if self.basis else ""))


def canonical_level(text: str) -> str:
    """`GFN2-xTB` -> `gfn2-xtb`: lower case, `ω` as `w`, spaces as `-`. Raises `LevelError` for an empty name."""
    name = re.sub(r"\s+", "-", text.strip().lower().replace("ω", "w").replace("omega", "w"))
    if not name:
        raise LevelError("a level of theory needs a name", mend="for instance 'pbe/520ev' or 'gfn2-xtb'")
    return name


@dataclass(frozen=True)
class AtomicReferences:
    """Reference energies of one level.

    Attributes:
        level: canonical id.
        energies: atomic number -> eV.
        rank, n_elements: of the composition matrix the fit used; rank < n_elements means that only combinations of them are determined.
        residual: root-mean-square energy left over, eV per atom; None if the energies were given and not fitted.
    """

    level: str
    energies: Mapping[int, float]
    rank: int | None = None
    n_elements: int | None = None
    residual: float | None = None

    def energy(self, atomic_numbers: np.ndarray) -> float:
        """Sum of the references, eV. Raises `LevelError` naming elements without a reference."""
        missing = sorted({int(z) for z in atomic_numbers} - set(self.energies))
        if missing:
            raise LevelError(f"level {self.level!r} has no reference energy for atomic numbers {missing}")
        return float(sum(self.energies[int(z)] for z in atomic_numbers))


def fit_references(structures: Sequence[Structure]) -> dict[str, AtomicReferences]:
    """Atomic references of every level in `structures`: the fit of `reference_fit.report_references`, without its report.

    Rank-deficient compositions give the solution of smallest norm; `rank` tells.

    Raises:
        MissingLabelsError: if a level has no structure with an energy label.
        LevelError: if a structure with an energy states no level.
    """
    from .reference_fit import report_references

    reports = report_references(structures) if any("energy" in s.labels for s in structures) else {}
    for s in structures:
        if s.level is not None and s.level not in reports:
            raise MissingLabelsError(f"no structure of level {s.level!r} has an energy label")
    return {level: report.references for level, report in reports.items()}
