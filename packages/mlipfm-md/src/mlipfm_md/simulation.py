"""`simulate`: the one driver of molecular dynamics. Many systems at once, restartable, stops at an explosion and says so.

With `out` every recorded frame is appended to `out/trajectory.frames` (checksummed records with velocities) and the state is saved to
`out/restart.safetensors` every `restart_every` steps, and at a recorded frame when the last is ten seconds old. Calling `simulate` again with
the same arguments continues from there, and the result has the same bits as a run that was never stopped (same machine, threads and dtype).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.compiled import CompiledPotential, lost_shape
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, PropertyNotAvailableError, SimulationError
from mlipfm_interfaces.potential import Potential, not_finite
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure

from ._first_velocities import first_velocities, scale_drawn, temperatures_of
from ._plausible_settings import check_plausible
from .compiled_forces import CompiledForces
from .energy_table import volumes
from .ensembles import MAX_TEMPERATURE, Ensemble, Values, centre_of_mass_axes, check_temperatures
from .forces import PotentialForces, SplitForces, TeacherForces
from .initial_state import InitialState, as_initial_states, joined_bonds
from .state import State
from .trajectory import Trajectory
from .uncertainty_gate import UncertaintyGate

__all__ = ["Run", "Settings", "simulate", "simulate_frames"]

Array = np.ndarray
Engine = Literal["auto", "kernel", "torch"]
AnyForces = PotentialForces | CompiledForces | TeacherForces

#: Of wall time, after which a slow model's state is saved at the next recorded frame: a kill costs no more.
RESTART_SECONDS = 10.0
#: Ten microseconds at 1 fs: more is a slip of the pen.
MAX_STEPS = 10**10


@dataclass
class Run:
    """What a simulation recorded. F frames, S systems.

    Attributes:
        steps: [F] step numbers. times: [F] fs. potential, kinetic: [F, S] eV. temperature: [F, S] K, by the degrees of freedom of `state`.
        conserved: [F, S] eV, what exact dynamics of this ensemble conserve; NaN where there is none (Langevin).
        volume: [F, S] Å³, NaN without a cell in three directions. pressure: [F, S] eV/Å³, NaN in dynamics that keep the cell,
            unless `Settings.record_pressure`.
        uncertainty: [F, S] eV/Å, largest standard deviation of a force; NaN where it was not asked.
        status: `ok`; `unstable` when energies or forces were not finite, atoms met, the temperature passed the limit or the cell collapsed or burst;
            `uncertain` when the uncertainty passed its limit; `stopped` when `stop` said so.
        reason: why it is not ok. state: the last good state.
        n_atoms: [S].
    """

    n_atoms: Array
    state: State
    dt: float
    steps: list[int] = field(default_factory=list)
    potential: list[Array] = field(default_factory=list)
    kinetic: list[Array] = field(default_factory=list)
    temperature: list[Array] = field(default_factory=list)
    status: Literal["ok", "unstable", "uncertain", "stopped"] = "ok"
    reason: str | None = None
    conserved: list[Array] = field(default_factory=list)
    volume: list[Array] = field(default_factory=list)
    pressure: list[Array] = field(default_factory=list)
    uncertainty: list[Array] = field(default_factory=list)

    @property
    def times(self) -> Array:
        return np.array(self.steps) * self.dt

    @property
    def total(self) -> Array:
        """[F, S] total energy, eV."""
        return np.array(self.potential) + np.array(self.kinetic)

    def record(self, state: State, conserved: Array | None = None, uncertainty: Array | None = None) -> None:
        """Add the energies, temperatures, volumes and pressures of `state` to those of the run."""
        none = np.full(state.n_systems, np.nan)
        self.steps.append(state.step)
        self.potential.append(state.energies.copy())
        self.kinetic.append(state.kinetic())
        self.temperature.append(state.temperature())
        self.conserved.append(none if conserved is None else conserved)
        self.volume.append(volumes(state))
        self.pressure.append(state.pressure())
        self.uncertainty.append(none if uncertainty is None else uncertainty)


@dataclass(frozen=True)
class Settings:
    """How to integrate.

    Attributes:
        dt: fs; 0.5 with hydrogen, at most 10. steps: number of steps. temperature: K, of velocities that are drawn, for all systems or
            one for each. seed: of velocities and noise.
        every, restart_every: steps between recorded frames, and between restart files. skin: Å, of the neighbour list; changes no result.
        max_temperature: K. max_expansion: factor by which a cell may grow or shrink in volume, or change shape, before the run is unstable.
        scale_velocities: drawn velocities are scaled to exactly `temperature`; else they have it on average over many draws.
        record_pressure: the stress is computed at recorded frames, for the pressure of dynamics at constant volume.
        engine: `kernel` runs compiled code, `torch` the model itself; `auto` is the kernel where the model has one. threads: of the kernel.
    """

    dt: float = 0.5
    steps: int = 1000
    temperature: Values = 300.0
    seed: int = 0
    every: int = 10
    restart_every: int = 500
    skin: float = 0.5
    max_temperature: float = MAX_TEMPERATURE
    max_expansion: float = 4.0
    engine: Engine = "auto"
    threads: int = 1
    scale_velocities: bool = False
    record_pressure: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.dt <= 10:
            raise SimulationError(
                f"the time step must be above 0 and at most 10 fs, got {self.dt}", hint="0.5 fs with hydrogen, 1 to 2 fs without"
            )
        if not 0 <= self.steps <= MAX_STEPS or self.every < 1 or self.restart_every < 1:
            raise SimulationError(f"`steps` must be 0 to {MAX_STEPS:,}; `every` and `restart_every` at least 1")
        check_temperatures(self.temperature)
        if not 0 <= self.skin <= 10:
            raise SimulationError(f"the skin of the neighbour list must be 0 to 10 Angstrom, got {self.skin}")
        if not self.max_temperature > 0:
            raise SimulationError(f"`max_temperature` must be positive, got {self.max_temperature}")
        if not self.max_expansion > 1:
            raise SimulationError(f"`max_expansion` must be above 1, got {self.max_expansion}")
        if self.seed < 0:
            raise SimulationError(f"the seed must not be negative, got {self.seed}")
        if self.engine not in ("auto", "kernel", "torch"):
            raise SimulationError(f"there is no engine {self.engine!r}", hint="auto, kernel or torch")
        if not 1 <= self.threads <= 1024:
            raise SimulationError(f"threads must be 1 to 1024, got {self.threads}")


def simulate(
    model: Potential | Teacher | Labeler,
    structures: Sequence[Structure | InitialState],
    ensemble: Ensemble,
    settings: Settings,
    *,
    out: Path | str | None = None,
    inner: Potential | Teacher | Labeler | None = None,
    gate: UncertaintyGate | None = None,
    on_record: Callable[[State], None] | None = None,
    on_step: Callable[[State], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Run:
    """Run `settings.steps` steps of all `structures` at once (they do not interact).

    Atoms that a structure's label `fixed`, or an `InitialState`, fixes stay where they are; bonds of an `InitialState` keep their length. Its
    velocities and masses are used; others are drawn at the temperature of the ensemble (at constant energy at `settings.temperature`) and taken
    from the elements.

    Args:
        model: a Potential, or anything that evaluates or labels structures.
        out: folder for trajectory and restart; without it only energies are kept, in memory.
        inner: the cheap model of multiple time stepping (`Respa`).
        gate: stops the run where the model is too uncertain; asked at recorded frames.
        on_record: called with the state at every recorded frame after the first.
        on_step: the same after every step; of compiled dynamics after as many as take about half a second.
        stop: asked whenever `on_step` is called; where it says True, the state is saved and the run returns.

    Raises:
        SimulationError: for impossible settings, or if `out` holds a run with other settings, structures or model.
        UnknownElementError, OverlapError: for structures the model cannot start from.
    """
    starts = as_initial_states(structures)
    check_plausible(ensemble, settings.dt, starts, inner is not None)
    trajectory = None if out is None else Trajectory(Path(out), _fingerprint(model, inner, starts, ensemble, settings), starts)
    try:
        return _simulate(_Job(model, inner, starts, ensemble, settings, trajectory, gate), on_record, on_step, stop)
    finally:
        if trajectory is not None:
            trajectory.close()


@dataclass(frozen=True)
class _Job:
    """What `simulate` was given."""

    model: Potential | Teacher | Labeler
    inner: Potential | Teacher | Labeler | None
    starts: list[InitialState]
    ensemble: Ensemble
    settings: Settings
    trajectory: Trajectory | None
    gate: UncertaintyGate | None
    forces: Any = None

    def record(self, run: Run, state: State) -> None:
        """Record `state` in the run and on disk; says in `run.status` if the model is too uncertain of it."""
        if self.settings.record_pressure and not self.ensemble.changes_cell:
            state = replace(state, stress=_stress(self.forces, state))
        conserved = self.ensemble.conserved(state)
        sigma = np.full(state.n_systems, np.nan) if self.gate is None else self.gate.sigma([s.structure for s in self.starts], state)
        run.record(state, conserved, sigma)
        if self.trajectory is not None:
            self.trajectory.append(state, self.settings.dt, conserved, sigma)
        self.stop_if_uncertain(run)

    def stop_if_uncertain(self, run: Run) -> None:
        """Set status and reason of `run` if the last recorded uncertainty is above the limit."""
        if self.gate is not None and (reason := self.gate.reason(run.uncertainty[-1], run.steps[-1])):
            run.status, run.reason = "uncertain", reason

    def next_stop(self, step: int) -> int:
        """Return the next step at which something is recorded or saved."""
        s = self.settings
        return min(s.steps, *(step + n - step % n for n in (s.every, s.restart_every)))


def _simulate(
    job: _Job,
    on_record: Callable[[State], None] | None,
    on_step: Callable[[State], None] | None,
    stop: Callable[[], bool] | None,
) -> Run:
    settings, trajectory = job.settings, job.trajectory
    state, forces = _start(job)
    job = replace(job, forces=forces)
    run, stride = Run(np.diff(state.first), state, settings.dt), 1
    if trajectory is not None:
        for instant, conserved, sigma in trajectory.recorded(state):
            run.record(instant, conserved, sigma)
    if not run.steps:
        job.record(run, state)
    job.stop_if_uncertain(run)
    saved = time.monotonic()
    while state.step < settings.steps and run.status == "ok":
        until = job.next_stop(state.step) if on_step is None and stop is None else min(job.next_stop(state.step), state.step + stride)
        began, before = time.perf_counter(), state.step
        run.reason = _advance(state, job.ensemble, forces, settings, until, job.starts)
        if isinstance(forces, CompiledForces) and forces.can_advance(state, job.ensemble):
            stride = 1 + int((state.step - before) * 0.5 / max(time.perf_counter() - began, 1e-6))
        if run.reason is not None:
            run.status = "unstable"
            if trajectory is not None:
                trajectory.save_last_good(state, settings.dt)
            break
        if on_step is not None:
            on_step(state)
        if state.step % settings.every == 0:
            job.record(run, state)
            if on_record is not None:
                on_record(state)
        if run.status == "ok" and state.step < settings.steps and stop is not None and stop():
            run.status, run.reason = "stopped", f"stopped at step {state.step}"
        due = state.step % settings.restart_every == 0 or (state.step % settings.every == 0 and time.monotonic() - saved > RESTART_SECONDS)
        if trajectory is not None and (due or state.step == settings.steps or run.status != "ok"):
            trajectory.save_restart(state, forces.memory())
            saved = time.monotonic()
    return run


def simulate_frames(
    model: Potential | Teacher | Labeler, structure: Structure | InitialState, ensemble: Ensemble, settings: Settings
) -> tuple[Run, list[tuple[int, Array]]]:
    """Run `simulate` of one structure in memory and return the recorded (step, positions [N, 3])."""
    frames: list[tuple[int, Array]] = []
    run = simulate(model, [structure], ensemble, settings, on_record=lambda state: frames.append((state.step, state.positions.copy())))
    return run, frames


def _advance(state: State, ensemble: Ensemble, forces: Any, settings: Settings, until: int, starts: Sequence[InitialState]) -> str | None:
    """Take steps up to the step `until`; the reason if the simulation is no longer physical, and then `state` is the last good one."""
    if isinstance(forces, CompiledForces) and forces.can_advance(state, ensemble):
        return forces.advance(state, ensemble, settings, until, np.stack([start.structure.cell for start in starts]))
    while state.step < until:
        before = state.copy()
        reason = _one_step(state, ensemble, forces, settings) or _broken_cell(state, ensemble, settings, starts)
        if reason is not None:
            state.restore(before)
            return reason
    return None


def _one_step(state: State, ensemble: Ensemble, forces: Any, settings: Settings) -> str | None:
    step = state.step + 1
    try:
        ensemble.step(state, forces, settings.dt, settings.seed)
    except (InvalidStructureError, np.linalg.LinAlgError) as error:
        if not np.isfinite(state.positions).all():
            return f"positions are not finite at step {step}"
        return f"atoms met at step {step}: {error}"
    except SimulationError as error:  # bond lengths that cannot be kept
        return error.what
    except MlipfmError as error:
        raise SimulationError(f"the model failed at step {step}: {error}") from error
    if not (np.isfinite(state.energies).all() and np.isfinite(state.forces).all() and np.isfinite(state.stress).all()):
        return f"energy or forces are not finite at step {step}"
    hottest = float(state.temperature().max())
    if not np.isfinite(hottest):
        return f"velocities are not finite at step {step}"
    if not hottest <= settings.max_temperature:
        return f"temperature {hottest:.0f} K passed {settings.max_temperature:.0f} K at step {step}"
    return None


def _broken_cell(state: State, ensemble: Ensemble, settings: Settings, starts: Sequence[InitialState]) -> str | None:
    """Why the cell of a system is no longer one, if so."""
    if not ensemble.changes_cell:
        return None
    stretches = np.linalg.svd(np.linalg.solve(np.stack([start.structure.cell for start in starts]), state.cells), compute_uv=False)
    for k, (value, stretch) in enumerate(zip(stretches.prod(axis=1), stretches, strict=True)):
        if not stretch[0] <= settings.max_expansion * stretch[2]:
            return lost_shape(k, state.step, stretch[0] / stretch[2])
        if not 1 / settings.max_expansion <= value <= settings.max_expansion:
            what = "collapsed" if value < 1 else "burst"
            return f"the cell of system {k} {what} at step {state.step}: its volume is {value:.3g} times that of the start"
    return None


def _start(job: _Job) -> tuple[State, AnyForces | SplitForces]:
    starts, ensemble, settings = job.starts, job.ensemble, job.settings
    saved = job.trajectory.load_restart() if job.trajectory is not None else None
    structures = [start.structure.replace(labels={}, label_std={}) for start in starts]
    memory = {} if saved is None else saved[1]
    outer = forces_of(job.model, structures, settings, memory)
    forces: AnyForces | SplitForces = outer
    if job.inner is not None:
        remembered = {name.removeprefix("inner_"): values for name, values in memory.items() if name.startswith("inner_")}
        forces = SplitForces(outer, forces_of(job.inner, structures, settings, remembered))
    movable = np.concatenate([start.movable for start in starts])
    centre = np.stack([centre_of_mass_axes(start.movable, ensemble) for start in starts])
    bonds, cells = joined_bonds(starts), np.stack([s.cell for s in structures])
    if saved is not None:
        cells = saved[0].cells if ensemble.changes_cell else cells
        return replace(saved[0], movable=movable, centre=centre, bonds=bonds, cells=cells), forces
    masses = np.concatenate([start.amu for start in starts])
    positions = np.concatenate([s.positions for s in structures])
    velocities = np.concatenate(first_velocities(starts, ensemble, settings))
    nothing = np.zeros_like(positions)
    none = np.zeros(len(starts))
    state = State(positions, velocities, nothing, none, masses, forces.first, movable=movable, centre=centre, cells=cells, bonds=bonds)
    if state.bonds is not None:
        state.bonds.settle(state)
    if settings.scale_velocities:
        scale_drawn(state, starts, temperatures_of(ensemble, settings, len(starts)))
    _compute_first(state, forces, ensemble, job.model)
    hottest = float(state.temperature().max())
    if hottest > settings.max_temperature:
        raise SimulationError(
            f"the velocities of the start are those of {hottest:,.0f} K, above {settings.max_temperature:,.0f} K",
            hint="are they in another unit? --velocity-unit names it, --new-velocities draws others",
        )
    ensemble.begin(state)
    return state, forces


def forces_of(model: Potential | Teacher | Labeler, structures: list[Structure], settings: Settings, memory: dict[str, Array]) -> AnyForces:
    if not isinstance(model, Potential):
        return TeacherForces(model, structures)
    remembered = {"reference": memory.get("reference"), "reference_cells": memory.get("reference_cells")}
    compiled = compiled_form(model, settings)
    if compiled is not None:
        return CompiledForces(model, compiled, structures, skin=settings.skin, threads=settings.threads, **remembered)
    return PotentialForces(model, structures, skin=settings.skin, **remembered)


def compiled_form(model: Any, settings: Settings) -> CompiledPotential | None:
    """Return the compiled form of the model that the engine of `settings` asks for, if any.

    Raises:
        SimulationError: the kernel was requested, and there is none.
    """
    found = model.compiled() if settings.engine != "torch" and isinstance(model, Potential) else None
    if found is None and settings.engine == "kernel":
        reason = model.why_not_compiled() if isinstance(model, Potential) else "it is a model of another package"
        raise SimulationError(f"this model has no compiled kernel: {reason}", where="engine", hint="use the engine auto or torch")
    return found


def _compute_first(state: State, forces: AnyForces | SplitForces, ensemble: Ensemble, model: Potential | Teacher | Labeler) -> None:
    """Energies, forces and, if the cell changes, stress of the first positions."""
    if ensemble.changes_cell:
        try:
            state.energies, state.forces, state.stress = forces.with_stress(state.positions, state.cells)
        except PropertyNotAvailableError as error:
            raise SimulationError(f"constant pressure needs the stress: {error.what}", hint=error.hint) from error
    else:
        state.energies, state.forces = forces(state.positions)
    if not (np.isfinite(state.energies).all() and np.isfinite(state.forces).all() and np.isfinite(state.stress).all()):
        raise _no_number(model)


def _stress(forces: AnyForces | SplitForces, state: State) -> Array:
    """[systems, 3, 3] eV/Å³, for the pressure of recorded frames."""
    if not (state.volume() > 0).all():
        raise SimulationError(
            "a pressure needs a cell in three directions", where="--record-pressure", hint="leave it out for molecules and slabs"
        )
    try:
        return forces.with_stress(state.positions, state.cells)[2]
    except PropertyNotAvailableError as error:
        raise SimulationError(f"a pressure needs the stress: {error.what}", where="--record-pressure", hint=error.hint) from error


def _no_number(model: Potential | Teacher | Labeler) -> SimulationError:
    """Return the error of a model whose predictions for valid structures are not finite: it is the model's."""
    what, weights = "the model's energy or forces of the first structures are not finite", not_finite(model)
    if weights:
        return SimulationError(f"{what}: {weights}", hint="its training has diverged or the weights were damaged: take another checkpoint")
    return SimulationError(what, hint="`mlipfm check` shows whether it predicts ordinary molecules; look at contacts in the structures")


def _fingerprint(model: Any, inner: Any, starts: list[InitialState], ensemble: Ensemble, settings: Settings) -> dict[str, Any]:
    """Return what must be equal for a run to be continued; more steps may be asked."""
    defaults = Settings()
    chosen = {key: value for key, value in asdict(settings).items() if key not in ("steps", "engine", "threads")}
    later = ("max_expansion", "scale_velocities", "record_pressure")  # runs of earlier versions go on: their records have none of them
    chosen = {key: value for key, value in chosen.items() if key not in later or value != getattr(defaults, key)}
    motion = [start.motion() for start in starts]
    found = {
        "model": _identity(model),
        "structures": [[start.structure.key, start.structure.level] for start in starts],
        "motion": motion if any(motion) else None,
        "ensemble": _described(ensemble),
        "settings": chosen,
    }
    compiled = compiled_form(model, settings)
    engine = {} if compiled is None else {"engine": [compiled.description, settings.threads]}
    return found | engine | ({} if inner is None else {"inner model": _identity(inner)})


def _identity(model: Any) -> list[Any]:
    from mlipfm_interfaces.checkpoint import tensor_digest
    from mlipfm_interfaces.files import sha256

    if isinstance(model, Potential):
        return [model.plugin, model.config, tensor_digest(model.state_dict())]
    uri = getattr(model, "uri", None)  # a foreign model has an address, a labeller its level
    identity = [type(model).__qualname__, uri, getattr(model, "level", None)]
    file = Path(str(uri).partition(":")[2])
    return identity + (
        [sha256(file)] if uri is not None and file.is_file() else []
    )  # `mace:PATH`: another file of that name is another model


def _described(ensemble: Any) -> list[Any]:
    """Name and parameters; those that are ensembles themselves in the same way."""
    if not is_dataclass(ensemble):
        return [type(ensemble).__name__, vars(ensemble)]
    values = {item.name: getattr(ensemble, item.name) for item in fields(ensemble)}
    return [type(ensemble).__name__, {name: _described(value) if is_dataclass(value) else value for name, value in values.items()}]
