"""Result records of what the quickstart measures beside `mlipfm evaluate` and `mlipfm check`: dynamics, speed, and which model is better."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.metrics import Metric, group_of, mean
from mlipfm_interfaces.result_records import make_record, write_record
from mlipfm_interfaces.structure import Structure

from .plan import Plan

if TYPE_CHECKING:
    from mlipfm_interfaces.potential import Potential
    from mlipfm_md.simulation import Settings

#: K, of all dynamics; fs, their time step; 1/fs, the friction of the thermostat; timings of each model.
TEMPERATURE, DT, FRICTION, REPEATS = 300.0, 0.5, 0.02, 5

#: What made the labels, as a model of `mlipfm md run`.
REFERENCE = "tblite:GFN2-xTB"


def measure_dynamics(name: str, plan: Plan) -> None:
    """Write `records/dynamics-NAME.json`: energy drift at constant energy and temperature with a thermostat, of the held-out molecules."""
    from mlipfm_eval import nve_drift
    from mlipfm_interfaces.checkpoint import load_model

    model, manifest = load_model(f"{name}/best.safetensors")
    starts = lowest(Path("data/test"))
    found = nve_drift(model, starts, _settings(plan.nve_fs, plan))
    figures = [found.drift, found.fluctuation, nvt_temperature(model, starts, _settings(plan.nvt_fs, plan))]
    details = {
        "benchmark": "dynamics",
        "statements": [f"Molecules no model saw, steps of {DT} fs: {plan.nve_fs:g} fs at constant energy from velocities of {TEMPERATURE:g} K, "
                       f"{plan.nvt_fs:g} fs with a Langevin thermostat at {TEMPERATURE:g} K."],
    }  # fmt: skip
    passed = not any(figure.failed for figure in figures)
    write_record(
        f"records/dynamics-{name}.json", make_record("evaluation", manifest["digest"], passed=passed, metrics=figures, details=details)
    )


def nvt_temperature(model: Potential, starts: Sequence[Structure], settings: Settings) -> Metric:
    """Return the mean temperature in K over the second half of Langevin dynamics, with the interval over molecules.

    If a trajectory becomes unstable, each start is run alone; an unstable one is a failed case.
    """
    from mlipfm_md.ensembles import Langevin
    from mlipfm_md.simulation import simulate

    bath = Langevin(TEMPERATURE, FRICTION)
    run = simulate(model, starts, bath, settings)
    runs = [run] if run.status == "ok" else [simulate(model, [s], bath, settings) for s in starts]
    means = [np.mean(r.temperature[len(r.steps) // 2 :], axis=0) if r.status == "ok" else np.full(len(r.n_atoms), np.nan) for r in runs]
    return mean(np.concatenate(means), [group_of(s) for s in starts], name="temperature with thermostat", unit="K")


def measure_speeds(names: Sequence[str], plan: Plan) -> None:
    """Write `records/speed-NAME.json` for each model and for the method of the labels: steps per second of all held-out molecules at once.

    Models take turns, so that a busy machine slows them alike.
    """
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.checkpoint import load_model

    starts = lowest(Path("data/test"))
    loaded = {name: load_model(f"{name}/best.safetensors") for name in names}
    drivers: dict[str, Any] = {name: model for name, (model, _) in loaded.items()} | {"reference": plugins.load("labelers", "gfn2-xtb")()}
    found: dict[str, list[float]] = {name: [] for name in drivers}
    for repeat in range(REPEATS + 1):
        for name, driver in drivers.items():
            few = 3 if repeat == 0 else max(3, plan.speed_steps // 10) if name == "reference" else plan.speed_steps
            rate = _steps_per_second(driver, starts, few, plan)
            found[name] += [rate] if repeat else []  # the first steps pay for start-up
    for name, rates in found.items():
        model = str(loaded[name][1]["digest"]) if name in loaded else REFERENCE
        details: dict[str, Any] = {"benchmark": "speed", "steps_per_second": rates, "address": REFERENCE if name == "reference" else name}
        metric = Metric("speed", "steps/s", median(rates), None, len(rates), len(rates))
        write_record(f"records/speed-{name}.json", make_record("evaluation", model, passed=True, metrics=[metric], details=details))


def compare_models(pairs: Mapping[str, tuple[str, str, str]], sets: Sequence[str]) -> None:
    """Write `records/comparison-KEY.json` for each pair: the force MAE of the first model over that of the second on each set, paired.

    Args:
        pairs: key -> two models, and the question that they answer.
    """
    from mlipfm_data import Store
    from mlipfm_eval import force_error_ratio, predict
    from mlipfm_interfaces.checkpoint import load_model

    models = {name: load_model(f"{name}/best.safetensors") for first, second, _ in pairs.values() for name in (first, second)}
    answers: dict[str, dict[str, Any]] = {}
    for name in sets:
        with Store(Path("data") / name) as store:
            structures = list(store)
        answers[name] = {model: predict(potential, structures) for model, (potential, _) in models.items()}
    for key, (first, second, question) in pairs.items():
        ratios = {name: force_error_ratio(answers[name][first], answers[name][second]) for name in sets}
        details = {"benchmark": "comparison", "title": f"{first} / {second}", "question": question}
        rows = [ratio.as_dict() | {"set": name} for name, ratio in ratios.items()]
        record = make_record("evaluation", models[first][1]["digest"], passed=True, metrics=rows, details=details)
        write_record(f"records/comparison-{key}.json", record)


def lowest(store: Path) -> list[Structure]:
    """Return the structure of lowest energy of each molecule in a store, without labels."""
    from mlipfm_data import Store

    found: dict[str, Structure] = {}
    with Store(store) as structures:
        for s in structures:
            if group_of(s) not in found or s.labels["energy"] < found[group_of(s)].labels["energy"]:
                found[group_of(s)] = s
    return [s.replace(labels={}, label_std={}) for s in found.values()]


def _settings(length: float, plan: Plan) -> Settings:
    from mlipfm_md.simulation import Settings

    return Settings(dt=DT, steps=int(length / DT), temperature=TEMPERATURE, seed=plan.seed, every=4)


def _steps_per_second(driver: Any, starts: list[Structure], steps: int, plan: Plan) -> float:
    """Time one run, without its first forces and neighbour list."""
    from mlipfm_md.ensembles import NVE
    from mlipfm_md.simulation import Settings, simulate

    begun: list[float] = []

    def first(state: Any) -> None:
        if not begun:
            begun.append(time.perf_counter())

    simulate(driver, starts, NVE(), Settings(dt=DT, steps=steps + 1, temperature=TEMPERATURE, seed=plan.seed, every=1), on_record=first)
    return steps / (time.perf_counter() - begun[0])
