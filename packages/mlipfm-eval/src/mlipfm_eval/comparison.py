"""`mlipfm compare`: two models or more on the same data, by paired differences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.metrics import Metric

from .accuracy import Predictions, Quantity
from .evaluation import Evaluated

Verdict = Literal["better", "worse", "no difference seen", "no interval"]

NAMES: dict[Quantity, tuple[str, str]] = {"energy": ("energy", "meV/atom"), "forces": ("force", "meV/Å"), "stress": ("stress", "meV/Å³")}


@dataclass(frozen=True)
class Difference:
    """An error of one model less that of the first model, on the structures that both answered.

    Attributes:
        key: `force_mae`, `energy_rmse`, ... metric: of the difference; negative is better. cases: [answered by both, with the label].
    """

    key: str
    metric: Metric

    @property
    def verdict(self) -> Verdict:
        """By the 95 % interval: `no difference seen` if it holds zero."""
        if self.metric.ci95 is None:
            return "no interval"
        low, high = self.metric.ci95
        return "better" if high < 0 else "worse" if low > 0 else "no difference seen"


def differences(one: Predictions, base: Predictions) -> list[Difference]:
    """Errors of `one` less those of `base` on the same structures, MAE and RMSE of every label that is there.

    Groups are drawn for both at once (paired bootstrap), so that what is hard for both cancels. A structure counts where both gave an answer.

    Raises:
        MlipfmError: if they are not of the same structures.
    """
    if [s.key for s in one.structures] != [s.key for s in base.structures]:
        raise MlipfmError("two models are compared on the same structures", mend="evaluate both on one set")
    found = []
    for key, cases in base.cases.items():
        other = one.cases.get(key)
        if other is None or other.rows != cases.rows:
            continue  # one of them has no stress
        name, unit = NAMES[key]
        groups = [base.resampled[k] for k in cases.rows]
        for error in ("mae", "rmse"):
            options: dict[str, Any] = {"error": error, "how": "difference", "name": f"{name} {error.upper()}", "unit": unit}
            found.append(
                Difference(f"{name}_{error}", metrics.compare(other.predicted, cases.predicted, cases.reference, groups, **options))
            )
    return found


def compared(results: Sequence[Sequence[Evaluated]]) -> list[list[list[Difference]]]:
    """For each model after the first, for each set: its differences from the first model. `results` [models][sets]."""
    first = results[0]
    return [[differences(r.predictions, base.predictions) for r, base in zip(row, first, strict=True)] for row in results[1:]]
