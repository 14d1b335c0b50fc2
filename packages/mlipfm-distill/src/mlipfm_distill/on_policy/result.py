"""The end of a distillation: frames that nothing was learned from, what is measured on them, and what the user takes away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_data.store.manifest import is_store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_eval.benchmarks import run_by_name
from mlipfm_eval.uncertainty import fit_uncertainty
from mlipfm_interfaces import plugins
from mlipfm_interfaces.checkpoint import load_model, load_potential
from mlipfm_interfaces.errors import LabelingError, MlipfmError
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.resampling import student_t_quantile
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain
from mlipfm_md.lammps_engine import export_lammps

from . import measurements
from .distributions import Label, distributions
from .exploration import DYNAMICS, Trajectory, explore
from .frequencies import frequencies
from .page import write_page
from .plan import Plan
from .start_frames import rattled, strain
from .student import Trained
from .work import FLOOR_STARTS, FRAMES, Work, stored

#: ps of the dynamics that the test frames are taken from, of the runs that leave the range, and of those at constant energy.
TEST_PS, OUTSIDE_PS, DRIFT_PS = 20.0, 0.5, 20.0
#: ps of dynamics at constant energy of a teacher with direct forces, whose total energy drifts.
DIRECT_PS = 1.0
#: Factor of the highest temperature, and strain of cells, outside of the range.
HOTTER, STRAINED = 2.5, 0.08
#: Exponent of the errors' fall with the labels beyond which it is no law of learning.
STEEPEST = -1.5
#: Share of the time for runs that test the stability.
STABILITY = 0.05

SNIPPET = """\
from pathlib import Path

from ase.io import read
from mlipfm_md import MlipfmCalculator

atoms = read(Path(__file__).with_name({start!r}), 0)
atoms.calc = MlipfmCalculator(Path(__file__).with_name({model!r}))
print(atoms.get_potential_energy(), "eV;", abs(atoms.get_forces()).max(), "eV/Å, the largest force")
"""


def finish(work: Work, plan: Plan, students: dict[str, Trained]) -> dict[str, Any]:
    """Measure, write everything, and return what `result.json` holds.

    Raises:
        LabelingError: there is nothing to measure with.
    """
    path = work.out / "result.json"
    if path.exists():
        before = dict(json.loads(path.read_bytes()))
        if before["budget"] == str(work.request.budget) and list(before["students"]) == list(students):
            return before
    models = {size: _placed(work, size, trained) for size, trained in students.items()}
    main, hottest = next(iter(models.values())), max(work.request.temperatures)
    test = _held_out(work, main, plan)
    if not test:
        raise LabelingError(
            "the student cannot be measured: its dynamics break at once, or the teacher labels none of their frames",
            where=str(main),
            hint="the labels are kept: give the same command with a larger --budget, or lower temperatures",
        )
    outside = _outside(work, main, plan)
    found: dict[str, Any] = {
        "teacher": {"uri": work.request.teacher, "digest": work.teacher.digest, "level": work.teacher.level},
        "budget": str(work.request.budget),
        "temperatures": list(work.request.temperatures),
        "dt": work.dt,
        "labels": {part: len(work.labels.read(part)) for part in ("train", "valid")} | {"test": len(test), "outside": len(outside)},
        "refused": len(work.labels.refused),
        "rounds": [json.loads(p.read_bytes()) for p in sorted((work.out / "rounds").glob("*/round.json"))],
        "students": {size: _measured(work, plan, size, model, test, outside) for size, model in models.items()},
    }
    work.say("measuring: energy drift, symmetry of the Jacobian, equation of state, stability")
    found["drift"] = measurements.drift(main, test[:2], hottest, work.dt, DRIFT_PS)
    found["teacher_drift"] = measurements.teacher_drift(work.teacher, test[0], hottest, work.dt, DIRECT_PS)
    found["floor"] = measurements.floor(work.teacher, work.starts[:FLOOR_STARTS])
    found["asymmetry"] = measurements.asymmetry(main, work.teacher, test[0])
    found["equilibrium"] = measurements.equilibrium(main, work.teacher, work.starts[0])
    work.say("measuring: frequencies and radial distributions beside the teacher's")
    found["frequencies"] = frequencies(main, work.teacher, work.starts[0], plan.physics)
    left = plan.physics - found["frequencies"].get("labels", 0)
    found["distributions"] = distributions(
        main, work.starts[0], work.request.temperatures, work.dt, left, _labelled(work, plan), work.request.seed + 4 * 10**6
    )
    found["stability"] = measurements.stability(main, work.starts[0], hottest, work.dt, STABILITY * plan.seconds)
    found["needed"] = needed(found)
    _to_run(work, main)
    atomic_write(path, canonical_json(found))
    write_page(found, work.out)
    return found


def _placed(work: Work, size: str, trained: Trained) -> Path:
    """Return the model under the name that the user finds it by."""
    first = size == work.request.sizes[0]
    path = work.out / ("student.safetensors" if first else f"student-{size}.safetensors")
    atomic_write(path, trained.path.read_bytes())
    return path


def _held_out(work: Work, model: Path, plan: Plan) -> list[Structure]:
    """Labelled frames of new dynamics of the student, at random, that nothing was trained on."""
    part = _test_part(plan)
    folder = work.out / "final" / part
    if not is_store(folder):
        temperatures = work.request.temperatures
        each = max(1, -(-plan.test // (len(temperatures) * min(len(work.starts), plan.test))))
        runs = explore(
            load_potential(model), work.starts, temperatures, TEST_PS, work.dt, max(FRAMES // 3, 2 * each), work.request.seed + 10**6
        )
        _store(folder, _some(runs, plan.test, work.request.seed))
    work.label(part, stored(folder))
    return work.labels.read(part)


def _test_part(plan: Plan) -> str:
    """Return the name of the test frames, of the student after so many rounds."""
    return f"test-{len(plan.learn):02d}"


def _outside(work: Work, model: Path, plan: Plan) -> list[Structure]:
    """Labelled frames hotter, and in cells more strained, than what the student was made for: what its uncertainty must flag."""
    part = f"outside-{len(plan.learn):02d}"  # of the student after so many rounds
    folder = work.out / "final" / part
    if not is_store(folder):
        hot = HOTTER * max(work.request.temperatures)
        runs = explore(load_potential(model), work.starts[:4], [hot], OUTSIDE_PS, work.dt, 10, work.request.seed + 2 * 10**6)
        frames = _some(runs, plan.outside // 2, work.request.seed)
        rng = np.random.default_rng(work.request.seed)
        for s in rattled(work.starts, plan.outside - len(frames) + len(work.starts), hot, work.request.seed + 3)[len(work.starts) :]:
            frames.append(strain(s, rng.choice([-1, 1]) * STRAINED * np.eye(3)) if s.pbc.all() else s)
        _store(folder, frames)
    work.label(part, stored(folder))
    return work.labels.read(part)


def _labelled(work: Work, plan: Plan) -> Label:
    """Return a function that labels frames of the student of this plan."""

    def label(part: str, frames: Sequence[Structure]) -> list[Structure]:
        part = f"{part}-{len(plan.learn):02d}"
        work.label(part, frames)
        return work.labelled_among(frames, [part])

    return label


def _some(runs: Sequence[Trajectory], count: int, seed: int) -> list[Structure]:
    """Return up to `count` frames: one of each run in turn, drawn at random from the last three quarters, so that none resembles the start."""
    rng = np.random.default_rng(seed)
    piles = [[run.frames[k] for k in rng.permutation(np.arange(len(run.frames) // 4, len(run.frames)))] for run in runs]
    found: list[Structure] = []
    while len(found) < count and any(piles):
        found += [pile.pop() for pile in piles if pile]
    return found[:count]


def _store(folder: Path, frames: Sequence[Structure]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(folder, name=folder.name) as writer:
        for s in frames:
            if not writer.has(s):
                writer.add(s)


def _measured(work: Work, plan: Plan, size: str, model: Path, test: list[Structure], outside: list[Structure]) -> dict[str, Any]:
    """Errors, speed and uncertainty of one student."""
    work.say(f"measuring {size}: errors on {len(test)} frames of its own dynamics, speed, uncertainty")
    file = model.with_suffix(".uncertainty.safetensors")
    fit_uncertainty(str(model), [work.out / "labels" / "train"], [work.out / "labels" / "valid"], file)
    potential, manifest = load_model(str(model))
    sure = plugins.load("uncertainties", "llpr").load(file, manifest["digest"])
    held_out = work.out / "labels" / _test_part(plan)
    run_by_name("accuracy", str(model), [held_out], record=model.with_suffix(".errors.json"), level=work.teacher.level, quiet=True)
    own = [
        s for s in work.labels.read("valid") if str(s.provenance.sampling).startswith(DYNAMICS)
    ]  # displaced copies are not where it goes
    seen: list[list[Uncertain]] = [list(sure.predict(potential, some)) for some in (own, test, outside)]
    found = {
        "file": model.name,
        "uncertainty_file": file.name,
        "errors_file": model.with_suffix(".errors.json").name,
        "digest": manifest["digest"],
        "parameters": sum(p.numel() for p in potential.parameters()),
        "errors": measurements.errors(model, test),
        "speed": measurements.speed(model, work.teacher, work.starts[0], max(work.request.temperatures), work.dt),
        "validity": measurements.validity(*seen),
    }
    atomic_write(
        model.with_suffix(".range.json"),
        canonical_json({"model": manifest["digest"], "largest_sigma_eV_per_A": found["validity"]["largest_sigma"]}),
    )
    return found


def needed(found: dict[str, Any]) -> str:
    """Say, by the power law through the errors of the rounds and the 95 % interval of its exponent, how many labels would halve the error."""
    rounds = [r for r in found["rounds"] if r.get("on_policy_force_mae")]
    if len(rounds) < 2:
        return "too few rounds to say what more labels would give"
    counts = np.cumsum([r["labelled"] for r in found["rounds"]])[:-1][-len(rounds) :]
    x, y = np.log(counts), np.log([r["on_policy_force_mae"] for r in rounds])
    slope, start = np.polyfit(x, y, 1)
    if slope < STEEPEST:
        return "errors fall faster than any law from round to round: the training was the limit; a larger budget trains longer"
    if slope > -0.05:
        return (
            "the errors did not fall from round to round: more labels of the same kind will not help; take a larger size, or train longer"
        )
    spread = np.inf
    if len(x) > 2:
        error = np.sqrt(((y - slope * x - start) ** 2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
        spread = student_t_quantile(0.975, len(x) - 2) * float(error)
    if slope + spread > -0.05:
        return (
            f"errors of {len(x)} rounds fell as labels^{slope:.2f}: too few and too scattered to say how many labels would halve the error"
        )
    factor = 2 ** (1 / -slope)
    if factor > 1000:
        return "the errors fell so slowly that labels alone will not halve them: take a larger size, or train longer"
    return f"errors fell as labels^{slope:.2f}; half of the error needs about {factor:.1f} times the budget"


def copy_start(start: Path, out: Path, model: str) -> None:
    """Write `run_ase.py` and the start that it reads into a folder, which can be moved as a whole."""
    atomic_write(out / start.name, start.read_bytes())
    atomic_write(out / "run_ase.py", SNIPPET.format(start=start.name, model=model).encode())


def _to_run(work: Work, model: Path) -> None:
    """A script with the ASE calculator beside a copy of the start, and a folder for LAMMPS; a note where LAMMPS cannot take the start."""
    copy_start(work.request.start, work.out, model.name)
    if (work.out / "lammps").exists():
        return
    from mlipfm_md.initial_files import FrameOptions

    wanted = FrameOptions(None, work.request.charge, work.request.multiplicity, 0)
    try:
        export_lammps(
            str(model), work.request.start, work.out / "lammps", wanted=wanted, dt=work.dt, temperature=max(work.request.temperatures)
        )
    except MlipfmError as error:
        work.say(f"no LAMMPS input: {error}")
