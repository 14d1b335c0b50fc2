"""`simulate`: the one driver of molecular dynamics. Many systems at once, restartable, stops at an explosion and says so.

With `out` every recorded frame is appended to `out/trajectory.frames` (checksummed records with velocities) and the state is saved to
`out/restart.safetensors` every `restart_every` steps. Calling `simulate` again with the same arguments continues from there, and the result has the
same bits as a run that was never stopped (same machine, threads and dtype).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, SimulationError
from mlipfm_interfaces.potential import Potential, not_finite
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .ensembles import MAX_TEMPERATURE, Ensemble, State, centre_of_mass_axes, check_temperature, maxwell_boltzmann
from .forces import PotentialForces, TeacherForces
from .starts import Start, as_starts
from .trajectory import Trajectory

__all__ = ["Run", "Settings", "simulate", "simulate_frames"]

Array = np.ndarray

#: Ten microseconds at 1 fs: more is a slip of the pen.
MAX_STEPS = 10**10


@dataclass
class Run:
    """What a simulation recorded. F frames, S systems.

    Attributes:
        steps: [F] step numbers. times: [F] fs. potential, kinetic: [F, S] eV. temperature: [F, S] K, by the degrees of freedom of `state`.
        status: `ok`, or `unstable` when energies or forces were not finite, atoms met, or the temperature passed the limit.
        reason: why it is unstable. state: the last good state.
        n_atoms: [S].
    """

    n_atoms: Array
    state: State
    dt: float
    steps: list[int] = field(default_factory=list)
    potential: list[Array] = field(default_factory=list)
    kinetic: list[Array] = field(default_factory=list)
    temperature: list[Array] = field(default_factory=list)
    status: Literal["ok", "unstable"] = "ok"
    reason: str | None = None

    @property
    def times(self) -> Array:
        return np.array(self.steps) * self.dt

    @property
    def total(self) -> Array:
        """[F, S] total energy, eV."""
        return np.array(self.potential) + np.array(self.kinetic)

    def record(self, state: State) -> None:
        """Add the energies and temperatures of `state` to those of the run."""
        self.steps.append(state.step)
        self.potential.append(state.energies.copy())
        self.kinetic.append(state.kinetic())
        self.temperature.append(state.temperature())


@dataclass(frozen=True)
class Settings:
    """How to integrate. `dt` in fs (0.5 with hydrogen, at most 10), `temperature` of velocities that are drawn in K, the rest as in `simulate`."""

    dt: float = 0.5
    steps: int = 1000
    temperature: float = 300.0
    seed: int = 0
    every: int = 10
    restart_every: int = 500
    skin: float = 0.5
    max_temperature: float = MAX_TEMPERATURE

    def __post_init__(self) -> None:
        if not 0 < self.dt <= 10:
            raise SimulationError(
                f"the time step must be above 0 and at most 10 fs, got {self.dt}", hint="0.5 fs with hydrogen, 1 to 2 fs without"
            )
        if not 0 <= self.steps <= MAX_STEPS or self.every < 1 or self.restart_every < 1:
            raise SimulationError(f"`steps` must be 0 to {MAX_STEPS:,}; `every` and `restart_every` at least 1")
        check_temperature(self.temperature)
        if not 0 <= self.skin <= 10:
            raise SimulationError(f"the skin of the neighbour list must be 0 to 10 Angstrom, got {self.skin}")
        if not self.max_temperature > 0:
            raise SimulationError(f"`max_temperature` must be positive, got {self.max_temperature}")
        if self.seed < 0:
            raise SimulationError(f"the seed must not be negative, got {self.seed}")


def simulate(
    model: Potential | Teacher | Labeler,
    structures: Sequence[Structure | Start],
    ensemble: Ensemble,
    settings: Settings,
    *,
    out: Path | str | None = None,
    on_record: Callable[[State], None] | None = None,
    on_step: Callable[[State], None] | None = None,
) -> Run:
    """Run `settings.steps` steps of all `structures` at once (they do not interact).

    Atoms that a structure's label `fixed`, or a `Start`, holds stay where they are; velocities and masses of a `Start` are used, others drawn at
    `settings.temperature` and taken from the elements.

    Args:
        model: a Potential, or anything that evaluates or labels structures.
        out: folder for trajectory and restart; without it only energies are kept, in memory.
        on_record: called with the state at every recorded frame after the first. on_step: the same after every step.

    Raises:
        SimulationError: for impossible settings, or if `out` holds a run with other settings, structures or model.
        UnknownElementError, OverlapError: for structures the model cannot start from.
    """
    starts = as_starts(structures)
    trajectory = None if out is None else Trajectory(Path(out), _fingerprint(model, starts, ensemble, settings), starts)
    try:
        return _simulate(model, starts, ensemble, settings, trajectory, on_record, on_step)
    finally:
        if trajectory is not None:
            trajectory.close()


def _simulate(
    model: Potential | Teacher | Labeler,
    starts: list[Start],
    ensemble: Ensemble,
    settings: Settings,
    trajectory: Trajectory | None,
    on_record: Callable[[State], None] | None,
    on_step: Callable[[State], None] | None,
) -> Run:
    state, force_field = _start(model, starts, ensemble, settings, trajectory)
    run = Run(np.diff(state.first), state, settings.dt)
    if trajectory is not None:
        for step, potential, velocities in trajectory.recorded():
            run.record(replace(state, step=step, energies=potential, velocities=velocities))
    if not run.steps:
        run.record(state)
        if trajectory is not None:
            trajectory.append(state, settings.dt)
    while state.step < settings.steps:
        before = (state.positions.copy(), state.velocities.copy(), state.forces, state.energies, state.step)
        run.reason = _advance(state, ensemble, force_field, settings)
        if run.reason is not None:
            state.positions, state.velocities, state.forces, state.energies, state.step = before
            run.status = "unstable"
            if trajectory is not None:
                trajectory.save_last_good(state, settings.dt)
            break
        if on_step is not None:
            on_step(state)
        if state.step % settings.every == 0:
            run.record(state)
            if trajectory is not None:
                trajectory.append(state, settings.dt)
            if on_record is not None:
                on_record(state)
        if trajectory is not None and (state.step % settings.restart_every == 0 or state.step == settings.steps):
            trajectory.save_restart(state, force_field.reference)
    return run


def simulate_frames(
    model: Potential | Teacher | Labeler, structure: Structure | Start, ensemble: Ensemble, settings: Settings
) -> tuple[Run, list[tuple[int, Array]]]:
    """Run `simulate` of one structure in memory and return the recorded (step, positions [N, 3])."""
    frames: list[tuple[int, Array]] = []
    run = simulate(model, [structure], ensemble, settings, on_record=lambda state: frames.append((state.step, state.positions.copy())))
    return run, frames


def _advance(state: State, ensemble: Ensemble, forces: Any, settings: Settings) -> str | None:
    """One step; the reason if the simulation is no longer physical."""
    try:
        ensemble.step(state, forces, settings.dt, settings.seed)
    except InvalidStructureError as error:
        if not np.isfinite(state.positions).all():
            return f"positions are not finite at step {state.step + 1}"
        return f"atoms met at step {state.step + 1}: {error}"
    except MlipfmError as error:
        raise SimulationError(f"the model failed at step {state.step + 1}: {error}") from error
    if not (np.isfinite(state.energies).all() and np.isfinite(state.forces).all()):
        return f"energy or forces are not finite at step {state.step}"
    hottest = float(state.temperature().max())
    if hottest > settings.max_temperature:
        return f"temperature {hottest:.0f} K passed {settings.max_temperature:.0f} K at step {state.step}"
    return None


def _start(
    model: Potential | Teacher | Labeler, starts: list[Start], ensemble: Ensemble, settings: Settings, trajectory: Trajectory | None
) -> tuple[State, PotentialForces | TeacherForces]:
    saved = trajectory.load_restart() if trajectory is not None else None
    structures = [start.structure.replace(labels={}, label_std={}) for start in starts]
    if isinstance(model, Potential):
        reference = None if saved is None else saved[1]
        forces: PotentialForces | TeacherForces = PotentialForces(model, structures, skin=settings.skin, reference=reference)
    else:
        forces = TeacherForces(model, structures)
    movable = np.concatenate([start.movable for start in starts])
    centre = np.stack([centre_of_mass_axes(start.movable, ensemble) for start in starts])
    if saved is not None:
        return replace(saved[0], movable=movable, centre=centre), forces
    masses = np.concatenate([start.amu for start in starts])
    positions = np.concatenate([s.positions for s in structures])
    velocities = np.concatenate(
        [_first_velocities(start, copy, ensemble, settings) for start, copy in zip(starts, _copies(structures), strict=True)]
    )
    energies, start_forces = forces(positions)
    if not (np.isfinite(energies).all() and np.isfinite(start_forces).all()):
        raise _no_number(model)
    state = State(positions, velocities, start_forces, energies, masses, forces.first, movable=movable, centre=centre)
    hottest = float(state.temperature().max())
    if hottest > settings.max_temperature:
        raise SimulationError(
            f"the velocities of the start are those of {hottest:,.0f} K, above {settings.max_temperature:,.0f} K",
            hint="are they in another unit? --velocity-unit names it, --new-velocities draws others",
        )
    return state, forces


def _first_velocities(start: Start, copy: int, ensemble: Ensemble, settings: Settings) -> Array:
    if start.velocities is not None:
        return start.velocities
    rng = stream(settings.seed, "velocities", start.structure.key, copy)
    return maxwell_boltzmann(start.amu, settings.temperature, rng, start.movable, centre_of_mass_axes(start.movable, ensemble))


def _no_number(model: Potential | Teacher | Labeler) -> SimulationError:
    """The error of a model whose answers to structures that have passed the border are not finite: it is the model's."""
    what, weights = "the model's energy or forces of the first structures are not finite", not_finite(model)
    if weights:
        return SimulationError(f"{what}: {weights}", hint="its training has diverged or the weights were damaged: take another checkpoint")
    return SimulationError(what, hint="`mlipfm check` tells if it answers ordinary molecules; look at contacts in the structures")


def _copies(structures: Sequence[Structure]) -> list[int]:
    """How many equal structures stand before each: copies of one structure get velocities of their own, whatever stands beside them."""
    seen: Counter[str] = Counter()
    copies = []
    for s in structures:
        copies.append(seen[s.key])
        seen[s.key] += 1
    return copies


def _fingerprint(model: Any, starts: list[Start], ensemble: Ensemble, settings: Settings) -> dict[str, Any]:
    """What must be equal for a run to be continued; more steps may be asked."""
    from mlipfm_interfaces.checkpoint import tensor_digest
    from mlipfm_interfaces.files import sha256

    if isinstance(model, Potential):
        identity: list[Any] = [model.plugin, model.config, tensor_digest(model.state_dict())]
    else:  # a foreign model has an address, a labeller its level
        uri = getattr(model, "uri", None)
        identity = [type(model).__qualname__, uri, getattr(model, "level", None)]
        file = Path(str(uri).partition(":")[2])
        identity += [sha256(file)] if uri is not None and file.is_file() else []  # `mace:PATH`: another file of that name is another model
    chosen = {key: value for key, value in asdict(settings).items() if key != "steps"}
    motion = [start.motion() for start in starts]
    return {
        "model": identity,
        "structures": [[start.structure.key, start.structure.level] for start in starts],
        "motion": motion if any(motion) else None,
        "ensemble": [type(ensemble).__name__, vars(ensemble)],
        "settings": chosen,
    }
