"""Errors before and after on the test part, and what the user takes away: model, uncertainty, page, card and figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_eval.data_sets import open_sets
from mlipfm_eval.report import write_report
from mlipfm_eval.uncertainty import fit_uncertainty
from mlipfm_interfaces import plugins
from mlipfm_interfaces.benchmark import open_model, run_benchmark
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.errors import MlipfmError, PropertyNotAvailableError, TrainingError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.metrics import group_of, measure as measured
from mlipfm_interfaces.model_card import model_card
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.result_records import Record, make_record, read_record, write_record
from mlipfm_train.run import FitResult
from mlipfm_train.validation import validation_errors, validation_metrics

from .parts import Parts
from .replay import forgetting
from .request import Request

Say = Callable[[str], None]

#: Figures that are printed, in this order: key -> name and unit.
FIGURES = {"force_mae": ("force MAE", "meV/Å"), "force_rmse": ("force RMSE", "meV/Å"), "energy_mae": ("energy MAE", "meV/atom"),
           "stress_mae": ("stress MAE", "meV/Å³")}  # fmt: skip

#: Share of the structures that the intervals of the uncertainty shall cover.
COVERAGE = 0.9

USE = """\
from mlipfm_md import MlipfmCalculator
atoms.calc = MlipfmCalculator("{model}"{level})
print(atoms.get_potential_energy(), atoms.get_forces())"""


def measure(model: Path, data: Path, record: Path, name: str, out: Path | None = None, quantity: str | None = None) -> Record:
    """Evaluate a model on a store, or read the record of an earlier command.

    Args:
        name: of the model in tables. out: file for labels and predictions (extended XYZ). quantity: of a new head, in place of energy and forces.
    """
    if record.exists():
        return read_record(record)
    record.parent.mkdir(parents=True, exist_ok=True)
    if quantity is not None:
        found = _quantity_record(model, data, name, quantity)
        write_record(record, found)
        return found
    options = {} if out is None else {"out": str(out)}
    with open_model(str(model)) as opened:
        _, found = run_benchmark(
            "accuracy", plugins.load("benchmarks", "accuracy"), replace(opened, address=name), open_sets([data]), options
        )
    if out is None:  # before training: the same network, which has one speed
        details = {key: value for key, value in found["details"].items() if key != "microseconds_per_atom"}
        found = make_record(found["kind"], found["model"], **{key: found[key] for key in ("passed", "metrics", "data")}, details=details)
    write_record(record, found)
    return found


def _quantity_record(model: Path, data: Path, name: str, quantity: str) -> Record:
    """Return the mean absolute error of one quantity on a store."""
    with open_model(str(model)) as opened, Store(data) as store:
        if not isinstance(opened.model, Potential):
            raise PropertyNotAvailableError("only models of this project have heads", where=str(model))
        errors = validation_errors(opened.model, store, [slice(k, k + 1) for k in range(len(store))], [quantity])
        metrics = validation_metrics(errors, [group_of(s) for s in store])
        figures = [m.as_dict() | {"key": f"{quantity}_mae", "set": data.name, "split": "id"} for m in metrics]
        return make_record("evaluation", opened.identity, passed=True, metrics=figures, details={"benchmark": quantity, "address": name})


def figures_of(record: Record) -> dict[str, Mapping[str, Any]]:
    """Return the figures of the whole set by key."""
    return {m["key"]: m for m in record["metrics"] if "key" in m and "element" not in m and m["value"] is not None}


def figure(metric: Mapping[str, Any] | None) -> str:
    """Return `31.2 [28.0, 35.1]`; `-` without a figure."""
    if metric is None:
        return "-"
    interval = "" if metric["ci95"] is None else f" [{metric['ci95'][0]:.3g}, {metric['ci95'][1]:.3g}]"
    return f"{metric['value']:.3g}{interval}"


def print_errors(before: Record, after: Record | None, say: Say) -> list[str]:
    """Say the errors on the test part, before training or before and after, and return the lines."""
    first, second = figures_of(before), figures_of(after) if after is not None else {}
    lines = []
    others = {key: (m["name"], m["unit"]) for key, m in first.items() if len(first) == 1 and key not in FIGURES}
    for key, (name, unit) in (FIGURES | others).items():
        if key in first and after is None:
            lines.append(f"before training, on the test part: {name} {figure(first[key])} {unit}")
        elif key in second:
            lines.append(f"on the test part: {name} {figure(second[key])} {unit}, before training {figure(first.get(key))}")
    if after is not None:
        lines += _growth(before, after, {key: name for key, (name, _) in (FIGURES | others).items() if not key.endswith("_rmse")})
    times = after["details"].get("microseconds_per_atom", {}) if after is not None else {}
    lines += [f"evaluation in batches: {value:.3g} µs per atom" for value in times.values()]
    lines += [f"test part: {text}" for text in (after or before).get("details", {}).get("known", {}).values()]
    for line in lines:
        say(line)
    return lines


def _growth(before: Record, after: Record, names: Mapping[str, str]) -> list[str]:
    """Say which errors have grown, and of which of them that is not certain from the structures of the test part."""
    first, second = figures_of(before), figures_of(after)
    worse, unclear = list[str](), list[str]()
    for key, name in names.items():
        if key in first and key in second and second[key]["value"] > first[key]["value"]:
            low, high = _difference(before, after, key) or (-np.inf, np.inf)
            text = f"{name} by {low:.3g} to {high:.3g} {second[key]['unit']}" if np.isfinite(low) else name
            (worse if low > 0 else unclear).append(text)
    lines = []
    if worse:
        way_out = "give it more time (--minutes, --steps), or go on with the model of before"
        lines.append(f"training has made the model worse: {', '.join(worse)} (95 % interval of the difference); {way_out}")
    if unclear:
        count = max(second[key].get("n_total", 0) for key in names if key in second)
        lines.append(f"larger than before training, but {count} test structures are too few to tell: {', '.join(unclear)}")
    return lines


def _difference(before: Record, after: Record, key: str) -> tuple[float, float] | None:
    """95 % interval of an error after training less that before, groups drawn for both at once; None where there are too few groups."""
    label = {"force_mae": "forces"}.get(key, key.removesuffix("_mae"))
    sums: list[dict[str, Any]] = [
        next((e[label] for e in r["details"].get("errors", {}).values() if label in e), {}) for r in (before, after)
    ]
    paired = {group: (sums[0][group], sums[1][group]) for group in sums[0] if group in sums[1] and sums[0][group][1] == sums[1][group][1]}
    if paired and len(paired) == len(sums[0]) == len(sums[1]):
        a, b, counts = np.array([(old[0], new[0], new[1]) for old, new in paired.values()]).T
        change = b - a
        return measured("", "", lambda k: float(change[k].sum() / counts[k].sum()), np.ones(len(change))).ci95
    old, new = (figures_of(r)[key]["ci95"] for r in (before, after))  # blocks of time of other lengths: intervals that do not overlap
    return None if old is None or new is None else (new[0] - old[1], new[1] - old[0])


def write_statements(name: str, path: Path, model: Path, lines: Sequence[str], **details: Any) -> None:
    """Write sentences as a record, which the page shows in a section of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = str(load_checkpoint(model)[0]["digest"])
    write_record(
        path, make_record("evaluation", digest, passed=True, metrics=[], details={"benchmark": name, "statements": list(lines), **details})
    )


def finish(request: Request, parts: Parts, trained: FitResult, before: Record, level: str | None, say: Say) -> dict[str, Any]:
    """Copy the model, evaluate it, fit its uncertainty, write page, card and `result.json`, and say where everything is.

    Raises:
        TrainingError: training has not changed the model.
    """
    out, records = request.out, request.out / "records"
    best = trained.best or trained.last
    _refuse_unmoved(out / "start" / "before-training.safetensors", best)
    model = out / "model.safetensors"
    shutil.copyfile(best, model)
    after = measure(model, parts.test, records / "after.json", "trained", out / "predictions.xyz", quantity=request.quantity)
    lines = print_errors(before, after, say)
    say("uncertainty: one pass over the training part, then over the others with a derivative for each channel of the last layer")
    if request.model is not None and level is not None:
        for line in (forgotten := forgetting(request.model, model, request.forgetting, level)):
            say(line)
        lines += forgotten
    sure = _uncertainty(model, parts, records, say)
    levels = load_checkpoint(model)[0]["spec"]["levels"]
    code = USE.format(model=model, level=f', level="{parts.level}"' if len(levels) > 1 else "")
    page = out / "report.html"
    write_statements("data", records / "data.json", model, [*parts.notes, f"split {parts.how}: {dict(parts.sizes)}"])
    write_statements("result", records / "result.json", model, [f"{model}: " + "; ".join(lines), *sure], title="trained", code=code)
    write_report(out, page)
    manifest = load_checkpoint(model)[0]
    card = model_card(manifest) + "\n".join(["", "## Errors on the test part", "", *(f"- {line}" for line in [*lines, *sure]), ""])
    atomic_write(out / "card.md", card.encode())
    document = {
        "model": str(model),
        "digest": manifest["digest"],
        "level": parts.level,
        "mode": request.mode,
        "steps": trained.steps,
        "skipped_steps": trained.skipped,
        "sizes": dict(parts.sizes),
        "split": parts.how,
        "before": {key: _plain(m) for key, m in figures_of(before).items()},
        "after": {key: _plain(m) for key, m in figures_of(after).items()},
        "uncertainty": list(sure),
        "lines": lines,
        "page": str(page),
    }
    atomic_write(out / "result.json", json.dumps(document, indent=1).encode())
    for line in ["", "Your model, in ASE:", *code.splitlines(), "", f"model: {model}", f"page: {page.resolve().as_uri()}"]:
        say(line)
    return document


def _plain(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": metric["value"], "unit": metric["unit"], "ci95": metric["ci95"]}


def _refuse_unmoved(before: Path, best: Path) -> None:
    """A model with the weights of before has learned nothing."""
    old, new = load_checkpoint(before)[1], load_checkpoint(best)[1]
    if old.keys() == new.keys() and all(bool((old[key] == new[key]).all()) for key in old):
        raise TrainingError("training has not changed the model", where=str(best), hint="train longer, or with a larger optimizer.lr")


def _uncertainty(model: Path, parts: Parts, records: Path, say: Say) -> list[str]:
    """Fit standard deviations beside the model, and measure their intervals on the test part; why not, where it cannot be."""
    file = model.with_suffix(".uncertainty.safetensors")
    try:
        found = fit_uncertainty(str(model), [parts.train], [parts.valid], file)
    except MlipfmError as error:
        say(line := f"uncertainty: not fitted: {error}")
        return [line]
    lines = [f"uncertainty: {found['warning']}"] if found["warning"] else []
    try:
        with open_model(str(model)) as opened:
            result, record = run_benchmark(
                "uncertainty",
                plugins.load("benchmarks", "uncertainty"),
                opened,
                open_sets([parts.test]),
                {"file": str(file), "coverage": COVERAGE},
            )
    except MlipfmError as error:
        lines.append(f"uncertainty: fitted, but not tested: {error}")
        for line in lines:
            say(line)
        return lines
    write_record(records / "uncertainty.json", record)
    covered = [m for m in result.figures if "coverage" in m["name"] and m["value"] is not None]
    lines += [
        f"{m['name']}: {100 * m['value']:.0f} % of the test part are inside [{100 * m['ci95'][0]:.0f}, {100 * m['ci95'][1]:.0f}]"
        for m in covered
    ]
    if wrong := [m["name"].partition(":")[0] for m in covered if m["ci95"][1] < COVERAGE]:
        lines.append(
            f"uncertainty: too small on the test part for {' and '.join(wrong)}: it is not like the part that they were calibrated on; do not "
            "rely on them for structures of new kinds, or fit them to such (`mlipfm uncertainty fit`)"
        )
    for line in lines:
        say(line)
    return lines
