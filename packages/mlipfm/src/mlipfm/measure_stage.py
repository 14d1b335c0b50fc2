"""What the quickstart measures: errors on held-out molecules, the gain of fine-tuning, and the drift of the energy with each kind of forces."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.structure import Structure

from .data_stage import Stores
from .plan import Plan
from .stages import Stages
from .training_stage import Models


@dataclass(frozen=True)
class Findings:
    """Figures of one quickstart.

    Attributes:
        accuracy: model -> figure -> Metric, on the held-out molecules at GFN2-xTB.
        ratio: force MAE of the fine-tuned model over that of the one from scratch, paired over held-out molecules.
        drift: model -> mean drift; size: model -> mean of its size (drifts of both signs cancel in the first). unstable: model -> number of
            trajectories that broke off.
    """

    accuracy: dict[str, dict[str, Metric]]
    ratio: Metric
    drift: dict[str, Metric]
    size: dict[str, Metric]
    unstable: dict[str, int]

    @property
    def verdict(self) -> str:
        """What the interval of the ratio allows to say, in one sentence."""
        low, high = self.ratio.ci95 or (0.0, float("inf"))
        measured = f"force error {self.ratio.value:.2f} [{low:.2f}, {high:.2f}] of that from scratch at equal steps"
        if self.ratio.failed:
            return f"No verdict on fine-tuning: a model failed on {self.ratio.failed} of {self.ratio.n_total} structures; on the others {measured}."
        if high < 1:
            return f"Fine-tuning helped: {measured}."
        if low > 1:
            return f"Fine-tuning did not help, it hurt: {measured}."
        return f"Fine-tuning did not help beyond the noise: {measured}; the interval contains 1."

    def as_dict(self) -> dict[str, Any]:
        return {
            "accuracy": {model: {key: m.as_dict() for key, m in row.items()} for model, row in self.accuracy.items()},
            "finetuned_over_scratch": self.ratio.as_dict(),
            "drift": {model: m.as_dict() for model, m in self.drift.items()},
            "drift_size": {model: m.as_dict() for model, m in self.size.items()},
            "unstable_trajectories": self.unstable,
            "verdict": self.verdict,
        }


def measure(plan: Plan, stores: Stores, models: Models, stages: Stages, pool: Executor) -> Findings:
    """Errors of both conservative models, and the drift of the direct and the fine-tuned one from the same starts."""
    from mlipfm_data.store import Store
    from mlipfm_eval.accuracy import error_metrics, force_error_ratio

    test = list(Store(stores.test))
    drifting = {"direct": models.pretrained, "fine-tuned": models.finetuned}
    paths = {"fine-tuned": models.finetuned, "from scratch": models.scratch}
    with stages.stage("errors and dynamics", len(drifting) + len(paths)) as advance:
        dynamics = {name: pool.submit(_drift, path, _starts(test), plan) for name, path in drifting.items()}
        predictions = {}
        for name, path in paths.items():
            predictions[name] = _predict(path, test)
            advance(1)
        errors = {name: error_metrics(found) for name, found in predictions.items()}
        ratio = force_error_ratio(predictions["fine-tuned"], predictions["from scratch"])
        drifts, sizes, unstable = {}, {}, {}
        for name, future in dynamics.items():
            drifts[name], sizes[name], unstable[name] = future.result()
            advance(1)
    return Findings(errors, ratio, drifts, sizes, unstable)


def _predict(path: Path, test: list[Structure]) -> Any:
    from mlipfm_eval.accuracy import predict
    from mlipfm_interfaces.checkpoint import load_potential

    return predict(load_potential(path), test)


def _drift(path: Path, starts: list[Structure], plan: Plan) -> tuple[Metric, Metric, int]:
    """Drift, its size and number of unstable trajectories of one model; runs in a worker."""
    import torch
    from mlipfm_eval.conservation import nve_drift
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_md.simulation import Settings

    torch.set_num_threads(1)
    settings = Settings(dt=0.5, steps=int(plan.nve_fs / 0.5), temperature=300.0, seed=plan.seed, every=4)
    found = nve_drift(load_potential(path), starts, settings)
    return found.drift, found.absolute, len(found.unstable)


def _starts(test: list[Structure]) -> list[Structure]:
    """The structure of lowest energy of each held-out molecule."""
    lowest: dict[str, Structure] = {}
    for s in test:
        group = s.provenance.group or s.formula
        if group not in lowest or s.labels["energy"] < lowest[group].labels["energy"]:
            lowest[group] = s
    return [s.replace(labels={}, label_std={}, level=None) for s in lowest.values()]  # each model is asked at the level it has


def checkpoint_digest(path: Path) -> str:
    """Identity of a model."""
    from mlipfm_interfaces.checkpoint import load_checkpoint

    return str(load_checkpoint(path)[0]["digest"])
