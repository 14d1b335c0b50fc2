"""What a quickstart found: figures of every model, the comparisons that decide, and what they allow to say, losers included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import Record

from .training_stage import TITLES

#: Set -> what it is, and what that means. The second decides.
SETS = {"known": "known molecules", "test": "held-out molecules", "hot": "hotter"}
MEANING = {
    "known": "in distribution, new conformations of the molecules of fine-tuning",
    "test": "out of distribution, molecules that no model saw",
    "hot": "out of distribution, the known molecules along normal modes at a temperature above all training",
}

#: Comparison -> the model that should win, and the one it is measured against.
COMPARED = {
    "finetuned_over_scratch": ("finetuned", "scratch"),
    "student_over_teacher": ("student", "finetuned"),
    "student_over_without_rows": ("student", "student-without-rows"),
    "student_over_without_teacher": ("student", "student-without-teacher"),
}


@dataclass(frozen=True)
class Findings:
    """Figures of one quickstart. Models go by their names.

    Attributes:
        evaluations, checks: model -> result record.
        ratios: comparison -> set -> force MAE of the first model over that of the second, paired, interval over molecules.
        dynamics: model -> figure -> Metric. speeds: model or `gfn2-xtb` -> steps per second of each timing.
        registry: see `publish`; or `skipped` or `failed` with the reason.
    """

    evaluations: dict[str, Record]
    checks: dict[str, Record]
    ratios: dict[str, dict[str, Metric]]
    dynamics: dict[str, dict[str, Metric]]
    speeds: dict[str, list[float]]
    registry: Mapping[str, Any]

    def figures(self, model: str, name: str) -> dict[str, Metric]:
        """Key -> Metric of a model on a set."""
        rows = [m for m in self.evaluations[model]["metrics"] if m.get("set") == name and "element" not in m]
        return {m["key"]: metric(m) for m in rows}

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each question."""
        said = [
            verdict("Fine-tuning", "that from scratch at equal steps", self.ratios["finetuned_over_scratch"]["test"]),
            verdict("Distillation", "that of the same student without a teacher", self.ratios["student_over_without_teacher"]["test"]),
            verdict("Rows of the Hessian", "that of the same student without them", self.ratios["student_over_without_rows"]["test"]),
        ]
        return [*said, self._against_teacher(), self._best(), *self._losers()]

    def _best(self) -> str:
        """The winner on each set by the force error, whether or not it is the model one would expect."""
        said = []
        for name, what in SETS.items():
            errors = {model: self.figures(model, name)["force_mae"].value for model in self.evaluations if model != "pretrained"}
            best = min(errors, key=lambda model: errors[model] if errors[model] == errors[model] else float("inf"))  # NaN: it failed on all
            said.append(f"{what}: {TITLES[best]}, {errors[best]:.3g}")
        return f"Lowest force MAE in meV/Å: {'; '.join(said)}."

    def _against_teacher(self) -> str:
        """Speed and error of the student beside those of its teacher."""
        ratio, faster = self.ratios["student_over_teacher"]["test"], median(self.speeds["student"]) / median(self.speeds["finetuned"])
        speed = f"The student makes {faster:.2f} times the steps per second of its teacher"
        error = f"its force error is {_interval(ratio)} of the teacher's on held-out molecules"
        return f"{speed}; {error}." if faster > 1 else f"{speed}: at this size it is no faster. And {error}."

    def _losers(self) -> list[str]:
        broken = {name: record["details"]["broken"] for name, record in self.checks.items() if not record["passed"]}
        failed = [f"{TITLES[name]} fails its check ({', '.join(rules)}) and is not promoted" for name, rules in broken.items()]
        off = {name: row["drift"].failed for name, row in self.dynamics.items() if row["drift"].failed}
        total = {name: row["drift"].n_total for name, row in self.dynamics.items()}
        failed += [f"{n} of {total[name]} trajectories of {TITLES[name]} at constant energy broke off" for name, n in off.items()]
        return [f"Losers: {'; '.join(failed)}."] if failed else []

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready. `accuracy`: title -> figures on the held-out molecules; `sets`: the same for every set."""
        conservative = [name for name in self.evaluations if name != "pretrained"]
        sets = {name: {TITLES[m]: _dicts(self.figures(m, name)) for m in conservative} for name in SETS}
        return {
            "accuracy": sets["test"],
            "sets": {name: {"what": what, "meaning": MEANING[name], "figures": sets[name]} for name, what in SETS.items()},
            "ratios": {name: _dicts(row) for name, row in self.ratios.items()},
            "dynamics": {TITLES[m]: _dicts(row) for m, row in self.dynamics.items()},
            "steps_per_second": {TITLES.get(m, m): values for m, values in self.speeds.items()},
            "checks": {TITLES[m]: {"passed": r["passed"], "broken": r["details"]["broken"]} for m, r in self.checks.items()},
            "registry": dict(self.registry),
            "verdicts": self.verdicts,
        }


def verdict(what: str, of: str, ratio: Metric) -> str:
    """What the interval of a ratio of force errors allows to say, in one sentence."""
    low, high = ratio.ci95 or (0.0, float("inf"))
    measured = f"force error on held-out molecules {_interval(ratio)} of {of}"
    if ratio.failed:
        return f"No verdict on {what[0].lower()}{what[1:]}: a model failed on {ratio.failed} of {ratio.n_total} structures; on the others {measured}."
    if high < 1:
        return f"{what} helped: {measured}."
    if low > 1:
        return f"{what} did not help, it hurt: {measured}."
    return f"{what} did not help beyond the noise: {measured}; the interval contains 1."


def metric(found: Mapping[str, Any]) -> Metric:
    """The Metric that `as_dict` wrote."""
    value = float("nan") if found["value"] is None else float(found["value"])
    ci95 = None if found["ci95"] is None else (float(found["ci95"][0]), float(found["ci95"][1]))
    return Metric(found["name"], found["unit"], value, ci95, found["n_ok"], found["n_total"])


def median(values: list[float]) -> float:
    """Of at least one value."""
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _interval(ratio: Metric) -> str:
    low, high = ratio.ci95 or (0.0, float("inf"))
    return f"{ratio.value:.2f} [{low:.2f}, {high:.2f}]"


def _dicts(row: Mapping[str, Metric]) -> dict[str, Any]:
    return {key: figure.as_dict() for key, figure in row.items()}
