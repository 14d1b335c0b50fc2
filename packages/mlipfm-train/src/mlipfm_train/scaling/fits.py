"""What the points of a sweep say: laws with intervals for every group and loss, best allocation of compute, and the held-out runs predicted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write

from .bootstrap import RESAMPLES, Fit, check_span, fit_with_intervals, gamma_differences
from .execute import POINTS, PREDICTION, collected
from .laws import Law, ScalingError, allocation, fit_log_sum_exp, isoflop
from .plan import Cost
from .points import Point, table

AXES = ("parameters", "atoms")
#: Floors are fitted unless they are given.
NO_FLOORS: Mapping[str, float] = MappingProxyType({})
#: Format of `fit.json`. 2: `gamma_differences` has pairs in an order given before the fit, with a sign.
FORMAT = 2


def fit_points(
    points: Sequence[Point],
    held_out: Sequence[Cost] = (),
    floors: Mapping[str, float] = NO_FLOORS,
    resamples: int = RESAMPLES,
    unconstrained: Collection[str] = (),
) -> dict[str, Any]:
    """Return the document of `fit.json`: for each group and loss its law, or the reason why there is none.

    Args:
        points: of all runs; those of `held_out` and those that failed are listed and not fitted.
        held_out: the runs to predict, by what the plan says of them.
        floors: loss, or a part of its name -> what it does not fall below, in its unit.
        unconstrained: groups whose models do not turn with the system by construction: equivariant ones are compared with them first.

    Raises:
        ScalingError: no law at all can be fitted; the first reason. A floor of no loss, or of several with different units.
    """
    waiting = {cost.name for cost in held_out}
    used = [point for point in points if not point.failed and point.run not in waiting]
    groups = list(dict.fromkeys(point.group for point in points))
    losses = list(dict.fromkeys(name for point in used for name in point.losses))
    floor_of = _floors(floors, losses)
    fitted: dict[str, dict[str, Fit]] = {}
    found: dict[str, dict[str, Any]] = {}
    refused = []
    for group in groups:
        own = [point for point in used if point.group == group]
        for loss in losses:
            if own and not any(loss in point.losses for point in own):
                continue  # such as the rotation error of models that are invariant
            try:
                fit = _fit(own, loss, floor_of.get(loss), resamples)
            except ScalingError as error:
                refused.append(error)
                found.setdefault(group, {})[loss] = {"refused": str(error)}
                continue
            fitted.setdefault(loss, {})[group] = fit
            found.setdefault(group, {})[loss] = _described(fit, own, loss, [cost for cost in held_out if cost.group == group], points)
    if not fitted:
        raise refused[0] if refused else ScalingError("no run has a loss", hint="give validation data: data.valid of the recipe")
    failed = [{"run": point.run, "group": point.group, "reason": point.failed} for point in points if point.failed]
    pairs = _pairs(groups, unconstrained)
    compared = {}
    for loss, fits in fitted.items():
        joint = {group: fit for group, fit in fits.items() if len(fit.law.axes) == 2}
        rows = gamma_differences(joint, [pair for pair in pairs if set(pair) <= set(joint)])
        compared[loss] = [{**asdict(row), "interval": list(row.interval), "sign": row.sign} for row in rows]
    found_all = {"format": FORMAT, "points": len(used), "failed": failed, "groups": found, "unconstrained": sorted(unconstrained)}
    return found_all | {"gamma_differences": {loss: rows for loss, rows in compared.items() if rows}}


def _floors(given: Mapping[str, float], losses: Sequence[str]) -> dict[str, float]:
    """Floors by the whole names of losses; an empty name is that of the only one, and zero is a floor in every unit."""
    found: dict[str, float] = {}
    for name, value in given.items():
        if not name and value == 0:
            found |= dict.fromkeys(losses, 0.0)
            continue
        meant = [loss for loss in losses if name.lower() in loss.lower()]
        exact = [loss for loss in meant if loss.lower() == name.lower()]
        if len(exact or meant) != 1:
            said = f"--floor {name}={value:g}" if name else f"--floor {value:g}"
            why = f"{said} may be that of {len(meant)} losses" if meant else f"{said} is that of no loss"
            raise ScalingError(why, hint=f"--floor LOSS=VALUE with a part of one name: {'; '.join(losses)}")
        found[(exact or meant)[0]] = value
    return found


def without_law(costs: Sequence[Cost]) -> dict[str, str]:
    """Return the groups of a plan whose runs, once made, determine no law, each with the reason: too few values or decades of an axis."""
    found = {}
    for group in dict.fromkeys(cost.group for cost in costs):
        own = [cost for cost in costs if cost.group == group and not cost.largest]
        try:
            axes = _axes(own)
            check_span(np.array([[float(getattr(cost, axis)) for axis in axes] for cost in own]), axes, floor=None)
        except ScalingError as error:
            found[group] = str(error)
    return found


def _axes(runs: Sequence[Point] | Sequence[Cost]) -> list[str]:
    """What varies of runs."""
    axes = [axis for axis in AXES if len({getattr(run, axis) for run in runs}) > 1]
    if not axes:
        raise ScalingError("all runs have one size and one amount of data: nothing scales", hint="give width, structures or steps")
    return axes


def _pairs(groups: Sequence[str], unconstrained: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of groups: equivariant minus unconstrained, then those of one kind in the order of the sweep."""
    ordered = sorted(groups, key=lambda group: group in unconstrained)
    return sorted(combinations(ordered, 2), key=lambda pair: (pair[0] in unconstrained) == (pair[1] in unconstrained))


def _fit(points: Sequence[Point], loss: str, floor: float | None, resamples: int) -> Fit:
    axes = _axes(points)
    x, values = table(points, loss, axes)
    return fit_with_intervals(x, values, axes, floor, resamples)


def _described(fit: Fit, points: Sequence[Point], loss: str, held_out: Sequence[Cost], everything: Sequence[Point]) -> dict[str, Any]:
    axes = fit.law.axes
    x, values = table(points, loss, axes)
    document: dict[str, Any] = {
        "law": _law(fit.law),
        "exponents": {axis: _value(fit.law.exponents[k], fit.exponents()[k]) for k, axis in enumerate(axes)},
        "floor": _value(fit.law.floor, fit.interval([law.floor for law in fit.laws])),
        "scatter": float(np.std(fit.residuals)),
        "cross_check": {"log_sum_exp": _law(fit_log_sum_exp(x, values, axes))},
    }
    if len(axes) == 2:
        document["allocation"] = _or_reason(lambda: _allocation(fit, points))
        document["cross_check"]["isoflop_a"] = _or_reason(
            lambda: isoflop(x[:, 0], np.array([point.flops for point in points if loss in point.losses]), values)
        )
    document["predictions"] = [_predicted(fit, held_out, loss, everything)] if held_out else []
    return document


def _allocation(fit: Fit, points: Sequence[Point]) -> dict[str, Any]:
    best, intervals = allocation(fit.law), fit.allocations()
    ratios = [point.flops / point.parameters / point.atoms for point in points]
    return {key: _value(getattr(best, key), intervals[key]) for key in ("a", "b", "gamma")} | {
        "factor": best.factor,
        "flops_per_parameter_and_atom": _value(float(np.median(ratios)), (min(ratios), max(ratios))),
    }


def _predicted(fit: Fit, seeds: Sequence[Cost], loss: str, points: Sequence[Point]) -> dict[str, Any]:
    """The held-out run of a group, which may have several seeds: their mean where they have been made."""
    size = {axis: float(np.mean([getattr(cost, axis) for cost in seeds])) for axis in (*AXES, "flops")}
    value, interval = fit.predict([size[axis] for axis in fit.law.axes])
    result = {"run": re.sub(r"-?seed\d+", "", seeds[0].name) or seeds[0].group, **size, "predicted": value, "ci95": list(interval)}
    names = {cost.name for cost in seeds}
    observed = [point.losses[loss] for point in points if point.run in names and loss in point.losses]
    if observed:
        mean = float(np.mean(observed))
        result |= {"observed": mean, "relative_error": value / mean - 1, "inside": bool(interval[0] <= mean <= interval[1])}
    return result


def _or_reason(compute: Any) -> Any:
    try:
        return compute()
    except MlipfmError as error:
        return {"refused": str(error)}


def _law(law: Law) -> dict[str, Any]:
    finite = [value if np.isfinite(value) else None for value in law.coefficients]
    return {"axes": list(law.axes), "floor": law.floor, "coefficients": finite, "exponents": list(law.exponents)}


def _value(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"value": value, "ci95": list(interval)}


def fit_sweep(folder: Path, floors: Mapping[str, float] = NO_FLOORS, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Fit the points of a sweep's folder, write `fit.json`, and into `prediction.json` each architecture whose other runs are made and whose
    held-out runs have not started: none is predicted twice.

    Raises:
        ScalingError: nothing has been run, a prediction is wanted of a law that cannot be fitted, or what `fit_points` raises.
    """
    points, plan_file = collected(folder), folder / "plan.json"
    if not points:
        raise ScalingError("no run has ended yet", where=str(folder), hint="`mlipfm scaling run SWEEP` first")
    costs = [Cost(**cost) for cost in json.loads(plan_file.read_text(encoding="utf-8"))] if plan_file.exists() else []
    held_out = [cost for cost in costs if cost.largest]
    unconstrained = {cost.group for cost in costs if not cost.invariant}
    document = fit_points(points, held_out, floors, resamples, unconstrained) | {"floors": dict(floors), "resamples": resamples}
    file, done = folder / PREDICTION, {point.run for point in points}
    missing = [cost.name for cost in costs if not cost.largest and cost.name not in done]
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"format": FORMAT, "groups": {}}
    waiting = {cost.group for cost in costs if not cost.largest and cost.name not in done}
    started = {cost.group for cost in held_out if (folder / cost.name).exists() or cost.name in done}
    fresh = {cost.group for cost in held_out} - waiting - started - before["groups"].keys()
    if new := _predictions(document, folder, fresh):
        before = before | {"groups": before["groups"] | new}
        atomic_write(file, json.dumps(before, indent=1, ensure_ascii=False).encode())
    document["predicted_before"] = before if before["groups"] else None
    document["missing"] = missing
    atomic_write(folder / "fit.json", json.dumps(document, indent=1, ensure_ascii=False).encode())
    return document


def _predictions(document: dict[str, Any], folder: Path, wanted: Set[str]) -> dict[str, Any]:
    """The predictions of these groups, each with the hash of the points that they rest on and the time."""
    lines = b"".join(file.read_bytes() for file in (folder / POINTS, *sorted(folder.glob("points-*.jsonl"))) if file.exists())
    groups = {
        group: {loss: fit["predictions"] for loss, fit in losses.items() if "predictions" in fit}
        for group, losses in document["groups"].items()
        if group in wanted
    }
    made = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "points_sha256": hashlib.sha256(lines).hexdigest()}
    return {group: {**made, "losses": losses} for group, losses in groups.items() if any(losses.values())}
