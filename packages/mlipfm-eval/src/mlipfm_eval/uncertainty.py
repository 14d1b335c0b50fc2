"""Whether a model knows how wrong it is: coverage and width of its intervals, and calibration of its standard deviations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from mlipfm_interfaces.calibration import calibration_figures
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.uncertain import Uncertain, Uncertainty, errors_and_sigma

UNITS = {"energy": "meV/atom", "forces": "meV/Å"}


@dataclass(frozen=True)
class Verdict:
    """One quantity on one set; errors and widths in meV/atom (energy) or meV/Å (forces).

    Attributes:
        level: coverage that was asked. coverage: share of structures inside; for forces, with all atoms inside. ci95: Wilson's interval of it.
        half_width: mean over structures, or over atoms. ideal: of the narrowest constant interval that covers `level` of these errors.
        rmse: of energies per atom, or of force components. figures: see `mlipfm_interfaces.calibration.calibration_figures`.
    """

    quantity: str
    unit: str
    structures: int
    level: float
    coverage: float
    ci95: tuple[float, float]
    half_width: float
    ideal: float
    rmse: float
    figures: dict[str, float]

    @property
    def ratio(self) -> float:
        """Width over the ideal width."""
        return self.half_width / self.ideal if self.ideal > 0 else float("inf")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; figures that are not finite become None."""
        figures = {key: value if np.isfinite(value) else None for key, value in self.figures.items()}
        return asdict(self) | {"ratio": self.ratio if np.isfinite(self.ratio) else None, "figures": figures, "ci95": list(self.ci95)}


def judge(fitted: Uncertainty, seen: Iterable[Uncertain], level: float = 0.9) -> list[Verdict]:
    """A verdict for each quantity that was fitted.

    Raises:
        MissingLabelsError: no structure, one without labels, or too few structures of calibration for this level.
    """
    answers = list(seen)
    if not answers:
        raise MissingLabelsError("no structure to judge with", mend="give a store with labels")
    return [_verdict(key, fitted.quantile(key, level), answers, level) for key in fitted.quantities]


def _verdict(quantity: str, q: float, seen: Sequence[Uncertain], level: float) -> Verdict:
    errors, sigma = errors_and_sigma(seen, quantity)
    errors, sigma = 1000 * errors, 1000 * sigma
    if quantity == "energy":
        widths, largest = q * sigma, np.abs(errors)
    else:
        widths = 1000 * q * np.concatenate([u.atom_sigma for u in seen])
        largest = 1000 * np.array([np.linalg.norm(u.force_errors(), axis=1).max() for u in seen])
    covered = float(np.mean([u.score(quantity) <= q for u in seen]))
    ideal = float(np.sort(largest)[ceil(round(level * len(largest), 9)) - 1])
    return Verdict(
        quantity, UNITS[quantity], len(seen), level, covered, wilson(covered, len(seen)), float(widths.mean()), ideal,
        float(np.sqrt(np.mean(errors**2))), calibration_figures(errors, sigma),
    )  # fmt: skip


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of n (Wilson, J. Am. Stat. Assoc. 22, 209 (1927))."""
    middle, spread = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)
