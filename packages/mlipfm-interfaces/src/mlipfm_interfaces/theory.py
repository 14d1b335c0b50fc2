"""Levels of theory and the atomic reference energies that belong to each.

Total energies of two levels differ by electronvolts per atom for reasons that no neural network should learn. A level therefore has a
canonical id (`wb97m-d3bj/def2-tzvppd`), and every level has its own references: one energy per element, fitted by least squares on
compositions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .errors import LevelError, MissingLabelsError
from .level_names import DISPERSIONS, canonical_level as canonical_level, find_level as find_level
from .structure import Structure

#: Parts that follow method and basis in an id, by the field of `LevelOfTheory`.
_PARTS = {"pseudopotential": "pp", "k_mesh": "k", "spin_treatment": "spin", "code": "code"}


class LevelOfTheory(BaseModel):
    """How labels were computed. Only what is known is set, and everything that is set is in the `id`: what differs is another level.

    Attributes:
        method: functional or method (`PBE`, `wB97M`, `CCSD(T)`, `GFN2-xTB`).
        basis: basis set (`def2-TZVPPD`) or plane-wave cutoff (`520eV`).
        dispersion: correction (`D3BJ`, `VV10`), if separate from the method.
        pseudopotential: family and version; hubbard_u: element and +U in eV, zeros mean none; k_mesh; spin_treatment; code with version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str
    basis: str | None = None
    dispersion: str | None = None
    pseudopotential: str | None = None
    hubbard_u: tuple[tuple[str, Annotated[float, Field(ge=-100, le=100)]], ...] = ()
    k_mesh: str | None = None
    spin_treatment: str | None = None
    code: str | None = None

    @property
    def id(self) -> str:
        """Canonical id in lower case, joined of `method`, `+u(fe=5.3)`, `-dispersion`, `/basis`, `:pp=...`, `:k=...`, `:spin=...`, `:code=...`."""
        values = "+".join(f"{element}={u:g}" for element, u in sorted(self.hubbard_u, key=lambda item: item[0].lower()) if u)
        name = self.method + (f"+u({values})" if values else "") + (f"-{self.dispersion}" if self.dispersion else "")
        parts = [f":{short}={value}" for field, short in _PARTS.items() if (value := getattr(self, field))]
        return canonical_level(name + (f"/{self.basis}" if self.basis else "") + "".join(parts))


def parse_level(text: str) -> LevelOfTheory:
    """Return the parts of an id, as a user writes it: `wB97M-D3(BJ)/def2-TZVPPD` has method, dispersion and basis. `parse_level(x.id).id == x.id`.

    Raises:
        LevelError: for an empty name, or a +U that is no number within 100 eV.
    """
    shorts = {short: field for field, short in _PARTS.items()}
    head, *pairs = re.split(rf":({'|'.join(shorts)})=", canonical_level(text))
    parts: dict[str, Any] = {shorts[short]: value for short, value in zip(pairs[::2], pairs[1::2], strict=True)}
    method, _, basis = head.partition("/")
    dispersion = next((d for d in sorted(DISPERSIONS, key=len, reverse=True) if method.endswith(f"-{d}")), None)
    method = method.removesuffix(f"-{dispersion}") if dispersion else method
    plus_u = re.fullmatch(r"(.+)\+u\(([^()]+)\)", method)
    if plus_u is not None:
        method, values = plus_u[1], [item.partition("=") for item in plus_u[2].split("+")]
        try:
            parts["hubbard_u"] = tuple((element, float(u)) for element, _, u in values)
            return LevelOfTheory(method=method, basis=basis or None, dispersion=dispersion, **parts)
        except ValueError:  # pydantic's ValidationError is one
            raise LevelError(
                f"{plus_u[2]!r} is no list of +U values", where=text, hint="for instance 'pbe+u(co=3.32+fe=5.3)/520ev'"
            ) from None
    return LevelOfTheory(method=method, basis=basis or None, dispersion=dispersion, **parts)


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
    """Return atomic references of every level in `structures`: the fit of `reference_fit.report_references`, without its report.

    Rank-deficient compositions give the solution of smallest norm; `rank` tells.

    Raises:
        MissingLabelsError: if a level has no structure with an energy label.
        LevelError: if a structure with an energy gives no level.
    """
    from .reference_fit import report_references

    reports = report_references(structures) if any("energy" in s.labels for s in structures) else {}
    for s in structures:
        if s.level is not None and s.level not in reports:
            raise MissingLabelsError(f"no structure of level {s.level!r} has an energy label")
    return {level: report.references for level, report in reports.items()}
