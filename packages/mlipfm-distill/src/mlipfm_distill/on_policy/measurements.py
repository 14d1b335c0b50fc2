"""What is measured of a student beside its teacher: errors, speed, energy drift, symmetry of the Jacobian, equation of state, stability, range."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_eval.closed_loops import force_floor
from mlipfm_eval.energy_drift import nve_drift
from mlipfm_interfaces import metrics
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain
from mlipfm_md.atoms_and_models import in_float64
from mlipfm_md.ensembles import NVE
from mlipfm_md.simulation import Settings, simulate

from .start_frames import vacuum
from .student import predictions
from .teacher import DistillationTeacher

#: Steps of the teacher and of the student that are timed.
TIMED = (3, 2000)
#: Coordinates whose block of the Jacobian is compared with its transpose, and displacements, Å: larger of a model that may compute in float32.
COORDINATES, STEPS = 4, {"float64": 3e-4, "unknown": 1e-2}
#: Scale factors of the cell for the equation of state, and the force, eV/Å, above which a start is no crystal at rest.
SCALES, AT_REST = np.linspace(0.97, 1.03, 7), 0.05
#: Share of the held-out frames in the range that are surer than its limit.
IN_RANGE = 0.95


def errors(student: Path, test: Sequence[Structure]) -> dict[str, Any]:
    """Return the errors on frames with labels, and those at each temperature; intervals are over trajectories."""
    found = predictions(student, test)
    groups = [metrics.group_of(s) for s in test]
    sizes = np.array([len(s) for s in test])
    forces = [p["forces"] for p in found], [s.labels["forces"] for s in test]
    shift = np.array([float(p["energy"] - s.labels["energy"]) for p, s in zip(found, test, strict=True)]) / sizes
    rows = {
        "force_mae": _milli(metrics.mae(*forces, groups, name="force MAE", unit="eV/Å")),
        "energy_mae": _milli(metrics.mae(list(shift), list(0 * shift), groups, name="energy MAE", unit="eV/atom")),
        "force_rms": {"value": 1000 * float(np.sqrt(np.mean(np.concatenate([f.ravel() for f in forces[1]]) ** 2))), "unit": "meV/Å"},
    }
    for kind in sorted({str(s.provenance.sampling) for s in test}):
        which = [k for k, s in enumerate(test) if s.provenance.sampling == kind]
        some = [forces[0][k] for k in which], [forces[1][k] for k in which]
        rows[f"force_mae {kind}"] = _milli(metrics.mae(*some, [groups[k] for k in which], name=f"force MAE, {kind}", unit="eV/Å"))
    return rows


def _milli(metric: metrics.Metric) -> dict[str, Any]:
    plain = metric.as_dict()
    scaled = {key: None if plain[key] is None else (1000 * np.array(plain[key])).tolist() for key in ("value", "ci95")}
    return {**plain, **scaled, "unit": f"m{plain['unit']}"}


def speed(student: Path, teacher: DistillationTeacher, start: Structure, kelvin: float, dt: float) -> dict[str, Any]:
    """Return the microseconds per atom of a whole step of constant-energy dynamics of both, one after the other on this machine."""
    bare = start.replace(labels={}, label_std={})
    potential = load_potential(student)
    compiled = potential.compiled()
    found: dict[str, Any] = {"atoms": len(start), "student_code": compiled.description if compiled is not None else "torch"}
    asked = bare.replace(level=teacher.level) if isinstance(teacher.model, Potential) else bare
    for name, model, system, steps in (("teacher", teacher.model, asked, TIMED[0]), ("student", potential, bare, TIMED[1])):
        simulate(model, [system], NVE(), _settings(dt, 1, kelvin))
        begin = time.perf_counter()
        simulate(model, [system], NVE(), _settings(dt, steps, kelvin))
        found[f"{name}_us_per_atom_step"] = 1e6 * (time.perf_counter() - begin) / (steps + 1) / len(start)
    found["ratio"] = found["teacher_us_per_atom_step"] / found["student_us_per_atom_step"]
    return found


def floor(teacher: DistillationTeacher, starts: Sequence[Structure]) -> dict[str, Any] | None:
    """Return the least force error that any conservative student of a teacher with direct forces can have, meV/Å, from loops around the starts.

    None if the teacher is conservative, or is a model of another package, of which this is not known.
    """
    model = teacher.model
    if not isinstance(model, Potential) or model.spec.kind == "conservative":
        return None
    wide = in_float64(model)

    def forces(structures: Sequence[Structure]) -> list[np.ndarray]:
        return [found["forces"] for found in evaluate(wide, [s.replace(level=teacher.level) for s in structures], ("forces",))]

    return force_floor(forces, starts).as_dict()


def teacher_drift(teacher: DistillationTeacher, start: Structure, kelvin: float, dt: float, picoseconds: float) -> dict[str, Any] | None:
    """Return the same as `drift` of a teacher with direct forces, None of others."""
    if not isinstance(teacher.model, Potential) or teacher.model.spec.kind == "conservative":
        return None
    steps = round(1000 * picoseconds / dt)
    settings = Settings(dt=dt, steps=steps, temperature=kelvin, every=max(1, steps // 50), restart_every=steps)
    found = nve_drift(teacher.model, [start.replace(labels={}, label_std={}, level=teacher.level)], settings)
    return {"ps": picoseconds, "drift": found.absolute.as_dict(), "unstable": len(found.unstable)}


def drift(student: Path, starts: Sequence[Structure], kelvin: float, dt: float, picoseconds: float) -> dict[str, Any]:
    """Return the drift of the total energy in dynamics at constant energy, meV/atom/ps, and its fluctuation, meV/atom."""
    steps = round(1000 * picoseconds / dt)
    bare = [s.replace(labels={}, label_std={}, level=None) for s in starts]
    settings = Settings(dt=dt, steps=steps, temperature=kelvin, every=max(1, steps // 200), restart_every=steps)
    found = nve_drift(load_potential(student), bare, settings)
    row = {"ps": picoseconds, "dt": dt, "kelvin": kelvin, "unstable": len(found.unstable)}
    return row | {"drift": found.absolute.as_dict(), "fluctuation": found.fluctuation.as_dict()}


def stability(student: Path, start: Structure, kelvin: float, dt: float, seconds: float, seeds: int = 10) -> dict[str, Any]:
    """Run Langevin dynamics with `seeds` seeds for up to 100 ps each, as far as `seconds` reach, and count those that end as they should."""
    from .exploration import explore

    potential = load_potential(student)
    begin = time.perf_counter()
    explore(potential, [start], [kelvin], 1.0, dt, 2, 0)
    picoseconds = min(100.0, max(1.0, seconds / seeds / (time.perf_counter() - begin)))
    runs = [run for seed in range(seeds) for run in explore(potential, [start], [kelvin], picoseconds, dt, 10, seed + 1)]
    broken = [run.reason for run in runs if run.reason is not None]
    return {"ps": picoseconds, "kelvin": kelvin, "seeds": seeds, "stable": seeds - len(broken), "reasons": broken}


def asymmetry(student: Path, teacher: DistillationTeacher, frame: Structure, seed: int = 0) -> dict[str, Any]:
    """Return |J - J^T| / 2 |J| of a block of the Jacobian of the forces, of teacher and student; 0 for a potential.

    Of the student by automatic differentiation in float64, of the teacher by central differences of its forces: in float64 where it is a checkpoint.
    """
    rng = np.random.default_rng(seed)
    places = rng.permutation(3 * len(frame))[:COORDINATES]
    bare = frame.replace(labels={}, label_std={})
    found: dict[str, Any] = {"student": _asymmetry(_exact_block(in_float64(load_potential(student)), bare, places))}
    if isinstance(teacher.model, Potential):
        model, step, asked = in_float64(teacher.model), STEPS["float64"], bare.replace(level=teacher.level)
        found["teacher"] = _asymmetry(_block(lambda s: evaluate(model, [s], ("forces",))[0]["forces"], asked, places, step))
    else:
        step = STEPS["unknown"]
        found["teacher"] = _asymmetry(_block(lambda s: teacher.label(s).labels["forces"], bare, places, step))
    return found | {"student_dtype": "float64", "teacher_dtype": "float64" if step == STEPS["float64"] else "its own", "teacher_step": step}


def _exact_block(potential: Potential, s: Structure, places: np.ndarray) -> np.ndarray:
    """Return the Jacobian of the forces in some coordinates, by automatic differentiation."""
    index = np.stack(np.divmod(places, 3), axis=1).astype(float)
    probe = s.replace(labels={"hessian_rows": np.zeros((len(places), len(s), 3)), "hessian_rows_index": index})
    rows = evaluate(potential, [probe], ("hessian_rows",))[0]["hessian_rows"]
    return -np.asarray(rows.reshape(len(places), -1)[:, places])


def _block(forces: Callable[[Structure], np.ndarray], s: Structure, places: np.ndarray, h: float) -> np.ndarray:
    """Return the same by central differences with displacements of `h` Å."""
    columns = []
    for place in places:
        shift = np.zeros(3 * len(s))
        shift[place] = h
        ends = [forces(s.replace(positions=s.positions + sign * shift.reshape(-1, 3))).ravel()[places] for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(columns, axis=1)


def _asymmetry(jacobian: np.ndarray) -> float:
    return float(np.linalg.norm(jacobian - jacobian.T) / 2 / max(float(np.linalg.norm(jacobian)), 1e-300))


def equilibrium(student: Path, teacher: DistillationTeacher, start: Structure) -> dict[str, Any] | None:
    """Return factor of the cell's length at the lowest energy, and bulk modulus in GPa, of both; None for what is no crystal at rest.

    Energies of cells scaled with their positions, Birch's cubic polynomial in V^(-2/3).
    """
    if not start.pbc.all() or all(vacuum(start)) or any(vacuum(start)):
        return None
    first = teacher.label(start)
    if float(np.abs(first.labels["forces"]).max()) > AT_REST:
        return None
    scaled = [start.replace(positions=f * start.positions, cell=f * start.cell, labels={}, label_std={}) for f in SCALES]
    energies = {"teacher": [float(teacher.label(s).labels["energy"]) for s in scaled]}
    energies["student"] = [float(p["energy"]) for p in predictions(student, scaled)]
    volume = abs(float(np.linalg.det(start.cell)))
    found: dict[str, Any] = {name: birch(volume * SCALES**3, np.array(e)) for name, e in energies.items()}
    if any(value is None for value in found.values()):
        return None
    factors = {name: (v0 / volume) ** (1 / 3) for name, (v0, _) in found.items()}
    moduli = {name: b for name, (_, b) in found.items()}
    difference = 100 * (factors["student"] / factors["teacher"] - 1)
    curves = {name: (np.array(e) - min(e)).tolist() for name, e in energies.items()}
    return {
        "scale": factors,
        "length_difference_percent": difference,
        "bulk_modulus_gpa": moduli,
        "scales": SCALES.tolist(),
        "energies": curves,
    }


def birch(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float] | None:
    """Return the volume (Å³) and bulk modulus (GPa) at the minimum of a cubic polynomial in V^(-2/3); None if there is none in the range."""
    from mlipfm_interfaces.units import GPA

    x = volumes ** (-2 / 3)
    fit = np.polynomial.Polynomial.fit(x, energies, 3)
    bend = fit.deriv(2)
    roots = [float(r.real) for r in fit.deriv().roots() if abs(r.imag) < 1e-12]
    inside = [r for r in roots if x.min() < r < x.max() and bend(r) > 0]
    if not inside:
        return None
    v0 = inside[0] ** (-3 / 2)
    return v0, float(bend(inside[0]) * (4 / 9) * v0 ** (-7 / 3) / GPA)


def validity(valid: Sequence[Uncertain], test: Sequence[Uncertain], outside: Sequence[Uncertain]) -> dict[str, Any]:
    """Return the largest standard deviation of a force, eV/Å, of the range, and how well it tells frames that the student predicts badly.

    `valid` and `test` are frames of the student's dynamics, of which the range leaves out one of twenty.
    A frame is bad if its mean force error exceeds three times the median of the test frames; it is flagged if its largest sigma is above the limit.
    """
    limit = float(np.quantile([u.atom_sigma.max() for u in [*valid, *test]], IN_RANGE))
    every = [*test, *outside]
    errors_of = np.array([float(np.abs(u.force_errors()).mean()) for u in every])
    sigma = np.array([float(u.atom_sigma.max()) for u in every])
    bad = errors_of > 3 * float(np.median(errors_of[: len(test)]))
    flagged = sigma > limit
    return {
        "largest_sigma": limit,
        "bad": int(bad.sum()),
        "bad_flagged": int((bad & flagged).sum()),
        "test": len(test),
        "test_flagged": int(flagged[: len(test)].sum()),
        "outside": len(outside),
        "points": [[float(s), float(e)] for s, e in zip(sigma, errors_of, strict=True)],
    }


def _settings(dt: float, steps: int, kelvin: float) -> Settings:
    return Settings(dt=dt, steps=steps, temperature=kelvin, every=max(1, steps), restart_every=max(1, steps))
