"""What models do in dynamics: is energy kept at constant energy, is the temperature kept by a thermostat, and how many steps are made in a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.metrics import Metric, group_of, mean
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import KB

from .kept import kept
from .plan import Plan

if TYPE_CHECKING:
    from mlipfm_interfaces.potential import Potential
    from mlipfm_interfaces.protocols import Labeler
    from mlipfm_md.simulation import Settings

#: K, of all runs; fs, their time step; 1/fs, the friction of the thermostat; timings of each model.
TEMPERATURE, DT, FRICTION, REPEATS = 300.0, 0.5, 0.02, 5


def dynamics_of(model: str, test: Path, plan: Plan, path: Path, thermostat: bool) -> dict[str, Any]:
    """Drift at constant energy and, with `thermostat`, the temperature under Langevin dynamics; kept in `path`. Runs in a worker.

    Returns:
        `drift`, `size` (of the drift), `fluctuation` and, with `thermostat`, `temperature`: Metrics as dictionaries, over molecules.
    """
    import torch
    from mlipfm_eval.conservation import nve_drift

    torch.set_num_threads(1)
    potential, manifest = load_model(model)

    def measure() -> dict[str, Any]:
        starts = starts_of(test)
        found = nve_drift(potential, starts, _settings(plan.nve_fs, plan))
        figures = {"drift": found.drift, "size": found.absolute, "fluctuation": found.fluctuation}
        if thermostat:
            figures["temperature"] = nvt_temperature(potential, starts, _settings(plan.nvt_fs, plan))
        return {key: figure.as_dict() for key, figure in figures.items()}

    identity = {"model": manifest["digest"], "nve_fs": plan.nve_fs, "nvt_fs": plan.nvt_fs if thermostat else None, "seed": plan.seed}
    return dict(kept(path, identity, measure))


def nvt_temperature(model: Potential, starts: Sequence[Structure], settings: Settings) -> Metric:
    """Mean temperature in K over the second half of Langevin dynamics, with the interval over molecules.

    If a trajectory becomes unstable, each start is run alone; an unstable one is a failed case.
    """
    from mlipfm_md.ensembles import Langevin
    from mlipfm_md.simulation import simulate

    run = simulate(model, starts, Langevin(TEMPERATURE, FRICTION), settings)
    runs = [run] if run.status == "ok" else [simulate(model, [s], Langevin(TEMPERATURE, FRICTION), settings) for s in starts]
    means = [
        2 * np.array(r.kinetic)[len(r.kinetic) // 2 :].mean(axis=0) / (3 * r.n_atoms * KB)
        if r.status == "ok"
        else np.full(len(r.n_atoms), np.nan)
        for r in runs
    ]
    return mean(np.concatenate(means), [group_of(s) for s in starts], name="temperature", unit="K")


def speeds(models: Mapping[str, str], test: Path, plan: Plan, path: Path) -> dict[str, list[float]]:
    """Steps per second at constant energy of all held-out molecules at once, one thread; `REPEATS` figures of each model; kept in `path`.

    Models take turns, so that a busy machine slows them alike. `gfn2-xtb` is the method of the labels itself. Runs in a worker.
    """
    import torch
    from mlipfm_interfaces import plugins

    torch.set_num_threads(1)
    loaded = {name: load_model(model) for name, model in models.items()}

    def measure() -> dict[str, list[float]]:
        starts = starts_of(test)
        drivers: dict[str, Potential | Labeler] = {name: potential for name, (potential, _) in loaded.items()}
        drivers["gfn2-xtb"] = plugins.load("labelers", "gfn2-xtb")()
        found: dict[str, list[float]] = {name: [] for name in drivers}
        for driver in drivers.values():
            _steps_per_second(driver, starts, 3, plan)  # the first steps pay for start-up
        for _ in range(REPEATS):
            for name, driver in drivers.items():
                few = max(3, plan.speed_steps // 10) if name == "gfn2-xtb" else plan.speed_steps
                found[name].append(_steps_per_second(driver, starts, few, plan))
        return found

    identity = {"models": {name: manifest["digest"] for name, (_, manifest) in loaded.items()}, "steps": plan.speed_steps}
    return dict(kept(path, identity, measure))


def starts_of(test: Path) -> list[Structure]:
    """The structure of lowest energy of each molecule in a store."""
    from mlipfm_data.store.store import Store

    lowest: dict[str, Structure] = {}
    with Store(test) as store:
        for s in store:
            group = group_of(s)
            if group not in lowest or s.labels["energy"] < lowest[group].labels["energy"]:
                lowest[group] = s
    return [s.replace(labels={}, label_std={}, level=None) for s in lowest.values()]  # each model is asked at the level it has


def checkpoint_digest(path: Path | str) -> str:
    """Identity of a model."""
    return str(load_model(path)[1]["digest"])


def _settings(length: float, plan: Plan) -> Settings:
    from mlipfm_md.simulation import Settings

    return Settings(dt=DT, steps=int(length / DT), temperature=TEMPERATURE, seed=plan.seed, every=4)


def _steps_per_second(driver: Potential | Labeler, starts: list[Structure], steps: int, plan: Plan) -> float:
    """Of one run, without its first forces and neighbour list."""
    from mlipfm_md.ensembles import NVE
    from mlipfm_md.simulation import Settings, simulate

    begun: list[float] = []

    def first(state: Any) -> None:
        if not begun:
            begun.append(time.perf_counter())

    simulate(driver, starts, NVE(), Settings(dt=DT, steps=steps + 1, temperature=TEMPERATURE, seed=plan.seed, every=1), on_record=first)
    return steps / (time.perf_counter() - begun[0])
