"""`simulate`: the one driver of molecular dynamics. Many systems at once, restartable, stops at an explosion and says so.

With `out` every recorded frame is appended to `out/trajectory.frames` (checksummed records with velocities) and the state is saved to
`out/restart.safetensors` every `restart_every` steps. Calling `simulate` again with the same arguments continues from there, and the result has the
same bits as a run that was never stopped (same machine, threads and dtype).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, SimulationError
from mlipfm_interfaces.potential import Potential, not_finite
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .ensembles import Ensemble, State, maxwell_boltzmann
from .forces import PotentialForces, TeacherForces
from .trajectory import Trajectory

Array = np.ndarray


@dataclass
class Run:
    """What a simulation recorded. F frames, S systems.

    Attributes:
        steps: [F] step numbers. times: [F] fs. potential, kinetic: [F, S] eV.
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
        self.steps.append(state.step)
        self.potential.append(state.energies.copy())
        self.kinetic.append(state.kinetic())


@dataclass(frozen=True)
class Settings:
    """How to integrate. `dt` in fs (0.5 with hydrogen, at most 10), `temperature` of the first velocities in K, the rest as in `simulate`."""

    dt: float = 0.5
    steps: int = 1000
    temperature: float = 300.0
    seed: int = 0
    every: int = 10
    restart_every: int = 500
    skin: float = 0.5
    max_temperature: float = 20_000.0

    def __post_init__(self) -> None:
        if not 0 < self.dt <= 10:
            raise SimulationError(
                f"the time step must be above 0 and at most 10 fs, got {self.dt}", mend="0.5 fs with hydrogen, 1 to 2 fs without"
            )
        if self.steps < 0 or self.every < 1 or self.restart_every < 1:
            raise SimulationError("`steps` must be 0 or more; `every` and `restart_every` at least 1")
        if not self.temperature >= 0 or not self.skin >= 0:
            raise SimulationError(f"temperature and skin must not be negative, got {self.temperature} K and {self.skin} Angstrom")
        if self.seed < 0:
            raise SimulationError(f"the seed must not be negative, got {self.seed}")


def simulate(
    model: Potential | Teacher | Labeler,
    structures: Sequence[Structure],
    ensemble: Ensemble,
    settings: Settings,
    *,
    out: Path | None = None,
    on_record: Callable[[State], None] | None = None,
) -> Run:
    """Run `settings.steps` steps of all `structures` at once (they do not interact).

    Args:
        model: a Potential, or anything that evaluates or labels structures.
        out: folder for trajectory and restart; without it only energies are kept, in memory.
        on_record: called with the state at every recorded frame after the first.

    Raises:
        SimulationError: for impossible settings, or if `out` holds a run with other settings, structures or model.
        UnknownElementError, OverlapError: for structures the model cannot start from.
    """
    trajectory = None if out is None else Trajectory(out, _fingerprint(model, structures, ensemble, settings), structures)
    try:
        return _simulate(model, structures, ensemble, settings, trajectory, on_record)
    finally:
        if trajectory is not None:
            trajectory.close()


def _simulate(
    model: Potential | Teacher | Labeler,
    structures: Sequence[Structure],
    ensemble: Ensemble,
    settings: Settings,
    trajectory: Trajectory | None,
    on_record: Callable[[State], None] | None,
) -> Run:
    state, force_field = _start(model, structures, settings, trajectory)
    run = Run(np.diff(state.first), state, settings.dt)
    if trajectory is not None:
        for step, potential, kinetic in trajectory.energies():
            run.steps.append(step)
            run.potential.append(potential)
            run.kinetic.append(kinetic)
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
            break
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
    model: Potential | Teacher | Labeler, structure: Structure, ensemble: Ensemble, settings: Settings
) -> tuple[Run, list[tuple[int, Array]]]:
    """`simulate` of one structure, in memory, with the recorded (step, positions [N, 3])."""
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
    model: Potential | Teacher | Labeler, structures: Sequence[Structure], settings: Settings, trajectory: Trajectory | None
) -> tuple[State, PotentialForces | TeacherForces]:
    saved = trajectory.load_restart() if trajectory is not None else None
    reference = None if saved is None else saved[1]
    if isinstance(model, Potential):
        forces: PotentialForces | TeacherForces = PotentialForces(model, structures, skin=settings.skin, reference=reference)
    else:
        forces = TeacherForces(model, structures)
    if saved is not None:
        return saved[0], forces
    masses = np.concatenate([MASSES[s.atomic_numbers] for s in structures])
    positions = np.concatenate([s.positions for s in structures])
    velocities = np.concatenate(
        [
            maxwell_boltzmann(MASSES[s.atomic_numbers], settings.temperature, stream(settings.seed, "velocities", s.key, copy))
            for s, copy in zip(structures, _copies(structures), strict=True)
        ]
    )
    energies, start_forces = forces(positions)
    if not (np.isfinite(energies).all() and np.isfinite(start_forces).all()):
        raise _no_number(model)
    return State(positions, velocities, start_forces, energies, masses, forces.first), forces


def _no_number(model: Potential | Teacher | Labeler) -> SimulationError:
    """The error of a model whose answers to structures that have passed the border are not finite: it is the model's."""
    what, weights = "the model's energy or forces of the first structures are not finite", not_finite(model)
    if weights:
        return SimulationError(f"{what}: {weights}", mend="its training has diverged or the weights were damaged: take another checkpoint")
    return SimulationError(what, mend="`mlipfm check` tells if it answers ordinary molecules; look at contacts in the structures")


def _copies(structures: Sequence[Structure]) -> list[int]:
    """How many equal structures stand before each: copies of one structure get velocities of their own, whatever stands beside them."""
    seen: Counter[str] = Counter()
    copies = []
    for s in structures:
        copies.append(seen[s.key])
        seen[s.key] += 1
    return copies


def _fingerprint(model: Any, structures: Sequence[Structure], ensemble: Ensemble, settings: Settings) -> dict[str, Any]:
    """What must be equal for a run to be continued; more steps may be asked."""
    from mlipfm_interfaces.checkpoint import tensor_digest

    if isinstance(model, Potential):
        identity: list[Any] = [model.plugin, model.config, tensor_digest(model.state_dict())]
    else:  # a foreign model has an address, a labeller its level
        identity = [type(model).__qualname__, getattr(model, "uri", None), getattr(model, "level", None)]
    chosen = {key: value for key, value in asdict(settings).items() if key != "steps"}
    return {
        "model": identity,
        "structures": [[s.key, s.level] for s in structures],
        "ensemble": [type(ensemble).__name__, vars(ensemble)],
        "settings": chosen,
    }
