"""Rules of derivatives: forces and stress against the slope of the energy, for every element by itself."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import STENCIL, moved, strained

from ._check_model_input import CheckedModel, offers, relative
from ._model_checks import Measured, model_check, worst

#: What derivatives may differ by, relative, where differences of energies tell so much; three times their uncertainty otherwise, to this most.
DERIVATIVE, LOOSEST = 1e-3, 1e-2
#: eV/Å and eV/Å³: forces and stresses below are no scale to compare with.
LEAST_FORCE, LEAST_STRESS = 1e-3, 1e-4


def _slopes_of(values: np.ndarray, steps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return slopes along directions from energies [steps, directions, stencil]: at the step that agrees best with the next larger one.

    A small step measures rounding, or where an iteration ended; a large one curvature. The choice does not look at the forces.

    Returns:
        Slopes [directions]; their uncertainty [directions], the difference to the other step, and its mean over the directions at least; the step.
    """
    weights = np.array([weight for _, weight in STENCIL])
    slopes = np.array([table @ weights / h for table, h in zip(values, steps, strict=True)])
    apart = np.abs(np.diff(slopes, axis=0))
    best = int(np.argmin(np.sqrt(np.mean(apart**2, axis=1))))
    return slopes[best], np.maximum(apart[best], float(np.mean(apart[best]))), steps[best]


@model_check("forces-are-gradient", "Forces are minus the gradient of the energy, for every element by itself.", "conservative")
def _gradient(subject: CheckedModel) -> Measured:
    return worst(*(found for s in subject.samples for found in _gradient_gaps(subject, s)))


def _gradient_gaps(subject: CheckedModel, s: Structure) -> list[Measured]:
    """For every element of a structure: along its forces, and along a random direction of its atoms."""
    (here,) = subject.ask([s])
    forces = here["forces"]
    rng = np.random.default_rng(2)
    names, directions = [], []
    for z in np.unique(s.atomic_numbers):
        mask = (s.atomic_numbers == z)[:, None]
        for direction in (forces * mask, rng.normal(size=forces.shape) * mask):
            if np.abs(direction).max() > 0:
                names.append(int(z))
                directions.append(direction / np.abs(direction).max())
    steps = subject.limits.steps
    points = [moved(s, s.positions + step * h * d) for h in steps for d in directions for step, _ in STENCIL]
    values = subject.energies(points).reshape(len(steps), len(directions), len(STENCIL))
    slopes, unsure, step = _slopes_of(values, steps)
    found = []
    for z, d, slope, doubt in zip(names, directions, slopes, unsure, strict=True):
        own = np.linalg.norm(forces[s.atomic_numbers == z])
        scale = np.linalg.norm(d) * max(own, LEAST_FORCE * np.sqrt(len(s)))
        limit = min(DERIVATIVE + 3 * doubt / scale, LOOSEST)
        gap = abs(float((d * forces).sum() + slope)) / scale
        found.append(Measured(100 * gap, 100 * limit, "% of the rms force", f"{symbol(z)} in {s.formula}, step {step:g} Å"))
    return found


@model_check("stress-is-strain-derivative", "The stress is +(1/V) dE/dstrain: negative for a crystal that is compressed.", "conservative")
def _stress(subject: CheckedModel) -> Measured | None:
    if subject.crystal is None or not offers(subject, "stress"):
        return None
    # compressed and sheared, so that no component is small
    s = strained(subject.crystal, np.array([[-0.03, 0.01, 0.004], [0.01, -0.02, 0.006], [0.004, 0.006, -0.025]]))
    stress = subject.ask([s], ("stress",))[0]["stress"]
    units = [0.5 * (np.outer(a, b) + np.outer(b, a)) for k, a in enumerate(np.eye(3)) for b in np.eye(3)[k:]]
    steps = tuple(h / 3 for h in subject.limits.steps)
    points = [strained(s, step * h * unit) for h in steps for unit in units for step, _ in STENCIL]
    volume = abs(np.linalg.det(s.cell))
    slopes, unsure, step = _slopes_of(subject.energies(points).reshape(len(steps), 6, len(STENCIL)) / volume, steps)
    got = np.array([(stress * unit).sum() for unit in units])
    size = max(float(np.abs(slopes).max()), LEAST_STRESS)
    gap = float(np.abs(got - slopes).max()) / size if np.isfinite(got).all() else float("inf")
    opposite = float(np.abs(got + slopes).max()) / size
    remark = "it has the opposite sign" if opposite < 0.1 * gap else f"stress up to {size:.2g} eV/Å³, step {step:.1g}"
    return Measured(100 * gap, 100 * min(DERIVATIVE + 3 * float(unsure.max()) / size, LOOSEST), "% of the largest stress", remark)


@model_check("net-force", "The forces on a free molecule add up to zero.", "conservative")
def _net_force(subject: CheckedModel) -> Measured:
    forces = subject.ask([subject.molecule])[0]["forces"]
    limit = subject.limits.forces * len(forces)
    return Measured(float(np.abs(forces.sum(axis=0)).max()) / relative(forces), limit, "eV/Å")


@model_check("net-torque", "The torques on a free molecule add up to zero.", "conservative")
def _net_torque(subject: CheckedModel) -> Measured | None:
    if "invariant" not in subject.properties:  # it learns rotations: the rule on them says how well
        return None
    s = subject.molecule
    forces = subject.ask([s])[0]["forces"]
    torque = np.cross(s.positions - s.positions.mean(axis=0), forces).sum(axis=0)
    limit = 3 * subject.limits.forces * len(forces)
    return Measured(float(np.abs(torque).max()) / relative(forces), limit, "eV")


@model_check("jacobian-symmetric", "The Jacobian of the forces is symmetric, as second derivatives of an energy are.", "conservative")
def _jacobian(subject: CheckedModel) -> Measured:
    s = subject.small
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(8, len(s), 3))
    found = []
    for h in subject.limits.steps[-2:]:
        points = [moved(s, s.positions + step * h * d) for d in directions for step, _ in STENCIL]
        forces = np.stack([row["forces"].ravel() for row in subject.ask(points)]).reshape(len(directions), len(STENCIL), -1)
        rows = np.einsum("ksc,s->kc", forces, [weight for _, weight in STENCIL]) / h
        jacobian = rows @ directions.reshape(len(directions), -1).T
        ratio = float(np.linalg.norm(jacobian - jacobian.T)) / 2 / max(float(np.linalg.norm(jacobian)), 1e-300)
        found.append(Measured(ratio, subject.limits.jacobian, "1", f"step {h:g} Å"))
    return min(found, key=lambda m: m.ratio)  # what is no second derivative is asymmetric with every step
