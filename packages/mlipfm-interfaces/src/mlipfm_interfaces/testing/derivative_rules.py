"""Rules of the contract of potentials: forces, stress, smoothness, second derivatives, and gradients for training. Everything in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure

from .probes import (
    STENCIL,
    Floats,
    ask,
    bond,
    crystal_of,
    force_tolerance,
    molecule_of,
    moved,
    numerical_forces,
    numerical_hessian,
    numerical_stress,
    offered,
    some_elements,
)
from .rules import Rule, RuleResult, deviation, require, rule, same
from .structures import atoms, rattled

RULES: list[Rule[Potential]] = []


def _lacks(potential: Potential, *outputs: str) -> RuleResult | None:
    missing = [key for key in outputs if key not in potential.spec.outputs]
    return RuleResult("skipped", f"the potential does not predict {', '.join(missing)}") if missing else None


@rule(RULES, "forces-are-gradient", "Conservative forces are minus the gradient of the energy, in molecules and crystals.")
def _gradient(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "energy", "forces")) is not None:
        return lacking
    worst = 0.0
    for s in (molecule_of(potential, 6), crystal_of(potential, 3)):
        forces = ask(potential, [s], ("forces",))[0]["forces"]
        numerical = numerical_forces(potential, s)
        worst = max(worst, deviation(forces, numerical))
        if potential.spec.kind == "conservative":
            same(f"forces of {s.formula} and the slope of its energy", forces, numerical, force_tolerance(numerical, 1e-6))
    if potential.spec.kind == "conservative":
        return None
    return RuleResult("measured", f"forces differ from the slope of the energy by up to {worst:.2g} eV/Å; {_asymmetry(potential)}")


def _asymmetry(potential: Potential) -> str:
    jacobian = numerical_hessian(potential, molecule_of(potential, 4))
    ratio = float(np.linalg.norm(jacobian - jacobian.T)) / 2 / max(float(np.linalg.norm(jacobian)), 1e-300)
    return f"asymmetry of the force Jacobian {ratio:.2g}"


@rule(RULES, "stress-is-strain-derivative", "The stress is +(1/V) dE/dstrain and symmetric, so a compressed crystal has the sign of ASE.")
def _stress(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "energy", "stress")) is not None:
        return lacking
    s = crystal_of(potential, 3)
    stress = ask(potential, [s], ("stress",))[0]["stress"]
    same("stress and its transpose", stress, stress.T, 1e-10 * max(1.0, float(np.abs(stress).max())))
    numerical = numerical_stress(potential, s)
    gap = deviation(stress, numerical)
    if potential.spec.kind != "conservative":
        return RuleResult("measured", f"stress differs from the strain derivative by {gap:.2g} eV/Å³")
    same("stress and the strain derivative of the energy", stress, numerical, 1e-7 * max(1.0, float(np.abs(numerical).max())))
    return None


@rule(RULES, "net-force", "The forces of a free system add up to zero.")
def _net_force(potential: Potential) -> RuleResult | None:
    promised = potential.spec.kind == "conservative"  # translations are exact also where rotations are learned
    return _total(potential, "net force", promised, lambda s, forces: forces.sum(axis=0))


@rule(RULES, "net-torque", "The torques of a free system add up to zero.")
def _net_torque(potential: Potential) -> RuleResult | None:
    promised = potential.spec.kind == "conservative" and potential.spec.invariant
    return _total(potential, "net torque", promised, lambda s, forces: np.cross(s.positions - s.positions.mean(axis=0), forces).sum(axis=0))


def _total(potential: Potential, what: str, promised: bool, total: Callable[[Structure, Floats], Floats]) -> RuleResult | None:
    if (lacking := _lacks(potential, "forces")) is not None:
        return lacking
    s = molecule_of(potential, 8)
    forces = ask(potential, [s], ("forces",))[0]["forces"]
    size = float(np.abs(total(s, forces)).max())
    if not promised:
        return RuleResult("measured", f"{what} {size:.2g} eV/Å of forces up to {np.abs(forces).max():.2g}")
    require(size <= len(s) * force_tolerance(forces), f"the {what} is {size:.3g} where forces reach {np.abs(forces).max():.3g} eV/Å")
    return None


# Smoothness


@rule(RULES, "smooth-cutoff", "An atom that passes the cutoff makes no step in energy, in forces, or in the slope of the forces.")
def _smooth_cutoff(potential: Potential) -> None:
    for graph in potential.spec.graphs:
        _scan_cutoff(potential, graph.cutoff)


def _scan_cutoff(potential: Potential, radius: float) -> None:
    step = 1e-4
    near = step * np.array([-2.0, -1.0, 1.0, 2.0])
    wide = np.arange(-0.40, -0.01, 0.02)
    coarse, fine = (_passing(potential, radius, offsets) for offsets in (wide, near))
    for key, values in fine.items():
        noise = 1e-11 + 1e-12 * float(np.abs(values).max())
        slope = np.abs(np.diff(coarse[key], axis=0)).max() / 0.02
        bend = np.abs(np.diff(coarse[key], n=2, axis=0)).max() / 0.02**2
        same(f"{key} on both sides of the cutoff", values[1], values[2], 20 * slope * 2 * step + 10 * noise)
        if key == "forces":
            inside, outside = (values[1] - values[0]) / step, (values[3] - values[2]) / step
            same("slopes of the forces on both sides of the cutoff", inside, outside, 20 * bend * 3 * step + 10 * noise / step)


def _passing(potential: Potential, radius: float, offsets: Floats) -> dict[str, Floats]:
    """Predictions while the last atom moves away from the first, at `radius` + offsets."""
    z = some_elements(potential)
    cluster = molecule_of(potential, 4, seed=41)
    direction = np.array([0.6, -0.48, 0.64])
    path = [
        cluster.replace(
            atomic_numbers=np.append(cluster.atomic_numbers, z[-1]),
            positions=np.concatenate(
                [cluster.positions, (cluster.positions[_corner(cluster, direction)] + (radius + x) * direction)[None]]
            ),
        )
        for x in offsets
    ]
    outputs = offered(potential, "energy", "forces")
    answers = ask(potential, path, outputs)
    return {key: np.stack([answer[key] for answer in answers]) for key in outputs}


def _corner(cluster: Structure, direction: Floats) -> int:
    """Return the atom farthest along the direction: the mover meets no other atom on its way."""
    return int(np.argmax(cluster.positions @ direction))


@rule(
    RULES, "smooth-path", "Along a path through a crowd of neighbours nothing jumps: no hard choice of nearest neighbours, no angular step."
)
def _smooth_path(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "forces")) is not None:
        return lacking
    crowd = crystal_of(potential, 5, seed=43)
    # The direction is fixed and general: symmetric paths hide events that cancel.
    step = 0.4 * bond(potential) * np.array([0.36, -0.48, 0.8])
    grid = np.linspace(0.0, 1.0, 49)

    def forces(fractions: Floats) -> Floats:
        shift = np.zeros((len(fractions), len(crowd), 3))
        shift[:, 0] = fractions[:, None] * step
        answers = ask(potential, [moved(crowd, crowd.positions + d) for d in shift], ("forces",))
        return np.stack([answer["forces"] for answer in answers])

    values = forces(grid)
    steepest = np.abs(np.diff(values, axis=0)).max() * (len(grid) - 1)
    bends = np.abs(np.diff(values, n=2, axis=0)).max(axis=(1, 2))
    worst = np.argsort(bends)[-4:]
    first = np.concatenate([worst, worst + 1])
    jump, width = _bisected(forces, grid[first], grid[first + 1], values[first], values[first + 1])
    require(
        jump <= 20 * steepest * width + force_tolerance(values),
        f"forces jump by {jump:.3g} eV/Å within {np.linalg.norm(step) * width:.1g} Å of a path",
    )
    return None


def _bisected(forces: Callable[[Floats], Floats], left: Floats, right: Floats, low: Floats, high: Floats) -> tuple[float, float]:
    """Largest change of the forces over intervals halved 14 times, each time to the half in which more happens, and the width that is left."""
    for _ in range(14):
        middle = (left + right) / 2
        mid = forces(middle)
        lower = np.abs(mid - low).max(axis=(1, 2)) >= np.abs(high - mid).max(axis=(1, 2))
        left, right = np.where(lower, left, middle), np.where(lower, middle, right)
        keep = lower[:, None, None]
        low, high = np.where(keep, low, mid), np.where(keep, mid, high)
    return float(np.abs(high - low).max()), float((right - left).max())


# Second derivatives


@rule(
    RULES,
    "second-derivatives",
    "Second derivatives exist where vectors cancel: linear molecules, inversion centres, a crystal of one atom.",
)
def _second(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "forces")) is not None:
        return lacking
    for s in _symmetric(potential):
        hessian = numerical_hessian(potential, s, h=1e-4)  # features of trained models may be rounded on a scale of 0.003 Å
        scale = float(np.abs(hessian).max(initial=0.0))
        require(np.isfinite(scale), f"the forces of {s.formula} are not finite about a symmetric geometry")
        if potential.spec.kind == "conservative":
            same(f"the Hessian of {s.formula} and its transpose", hessian, hessian.T, 1e-5 * max(1.0, scale))
        for key, value in _offered_hessians(potential, s).items():
            # Row p is minus the row dF_p/dr of the force Jacobian; the differences have the coordinate that moves as their row.
            same(f"{key} of {s.formula} and differences of its forces", value, hessian.T, 1e-5 * max(1.0, scale))
        if "energy" in potential.spec.outputs:
            _finite_training_gradient(potential, s)
    return None


def _symmetric(potential: Potential) -> list[Structure]:
    z = some_elements(potential)
    a, b = z[0], z[1 % len(z)]
    long, short = bond(potential, 0, 1), bond(potential, 1, 1)
    line = np.array([-short / 2 - long, -short / 2, short / 2, short / 2 + long])[:, None] * [0.0, 0.0, 1.0]
    octahedron = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * 1.1 * long
    cube = max(1.15 * bond(potential), 1.1) * np.eye(3)
    return [
        atoms([a, b, b, a], line),
        atoms([b, *[a] * 6], octahedron),
        atoms([a], np.zeros((1, 3)), cell=cube),
    ]


def _offered_hessians(potential: Potential, s: Structure) -> dict[str, Floats]:
    """Hessians by the potential's own second derivatives, where it offers them, as [3 atoms, 3 atoms]."""
    n = len(s)
    result = {}
    rows = np.zeros((3 * n, n, 3))
    if "hvp" in potential.spec.outputs:
        probe = s.replace(labels={"hvp": rows, "hvp_probe": np.eye(3 * n).reshape(-1, n, 3)})
        result["hvp"] = ask(potential, [probe], ("hvp",))[0]["hvp"].reshape(3 * n, 3 * n)
    if "hessian_rows" in potential.spec.outputs:
        index = np.stack(np.meshgrid(np.arange(n), np.arange(3), indexing="ij"), -1).reshape(-1, 2)
        probe = s.replace(labels={"hessian_rows": rows, "hessian_rows_index": index})
        result["hessian_rows"] = ask(potential, [probe], ("hessian_rows",))[0]["hessian_rows"].reshape(3 * n, 3 * n)
    return result


def _finite_training_gradient(potential: Potential, s: Structure) -> None:
    twin = copy.deepcopy(potential)
    for name, gradient in _loss_gradient(twin, [s], _weights([s])).items():
        require(bool(torch.isfinite(gradient).all()), f"the gradient of a force loss of {s.formula} is not finite for parameter {name}")


@rule(RULES, "isolated-atom", "An atom alone has a finite energy, the same in any box, no force, no stress, and defined gradients.")
def _isolated(potential: Potential) -> None:
    outputs = offered(potential, "energy", "forces")
    box = 4 * max(graph.cutoff for graph in potential.spec.graphs) * np.eye(3)
    for z in some_elements(potential, 3):
        free = atoms([z], [[0.3, -0.2, 0.1]])
        boxed = free.replace(cell=box, pbc=np.ones(3, bool))
        alone = ask(potential, [free], outputs)[0]
        periodic = ask(potential, [boxed], offered(potential, "energy", "forces", "stress"))[0]
        for key, value in {**periodic, **alone}.items():
            require(bool(np.isfinite(value).all()), f"{key} of an isolated atom is not finite")
        for key in ("forces", "stress"):
            same(f"{key} of an isolated atom and zero", periodic.get(key, 0.0), 0.0 * periodic.get(key, np.zeros(())), 1e-12)
        if "energy" in outputs and potential.spec.interaction_range is not None:
            same(
                "energies of an isolated atom, free and boxed,",
                alone["energy"],
                periodic["energy"],
                1e-10 + 1e-12 * abs(float(alone["energy"])),
            )
        if "energy" in outputs:
            _finite_training_gradient(potential, free)


# Training


@rule(
    RULES, "trainable-forces", "With create_graph, the gradient of a loss on energy, forces and stress is its slope along the parameters."
)
def _trainable(potential: Potential) -> RuleResult | None:
    if not any(p.requires_grad for p in potential.parameters()):
        return RuleResult("skipped", "the potential has no trainable parameters")
    twin = copy.deepcopy(potential)
    s = [rattled(molecule_of(twin, 5, seed=51), 0.02), rattled(crystal_of(twin, 3), 0.02)]
    weights = _weights(s)
    gradient = _loss_gradient(twin, s, weights)
    require(any(bool(g.abs().max() > 0) for g in gradient.values()), "no parameter receives a gradient")
    generator = torch.Generator().manual_seed(0)
    start = {name: p.detach().clone() for name, p in twin.named_parameters() if p.requires_grad}
    direction = {n: (0.1 + p.abs().mean()) * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in start.items()}
    analytic = sum(float((gradient[name] * direction[name]).sum()) for name in start)
    scale = sum(float((gradient[name] * direction[name]).norm()) for name in start)
    slopes = [
        _slope(twin, start, direction, s, weights, h) for h in (2e-4, 5e-5, 1e-5)
    ]  # trained weights may be stiff: the best step counts
    numerical = min(slopes, key=lambda slope: abs(slope - analytic))
    same("the gradient of the loss and its slope along the parameters", analytic, numerical, 1e-6 * max(1.0, scale, abs(numerical)))
    return None


def _slope(
    twin: Potential, start: dict[str, torch.Tensor], direction: dict[str, torch.Tensor], s: list[Structure], weights: Weights, h: float
) -> float:
    """Slope of the loss along a direction of the parameters, by differences of step `h`; the parameters are left as they were."""
    slope = 0.0
    parameters = {name: p for name, p in twin.named_parameters() if name in start}
    for step, weight in (*STENCIL, (0, 0.0)):
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(start[name] + step * h * direction[name])
        if weight:
            slope += weight * float(_loss(twin, s, weights).detach()) / h
    return slope


Weights = list[tuple[float, Floats, Floats]]


def _weights(structures: list[Structure]) -> Weights:
    rng = np.random.default_rng(7)
    return [(float(rng.normal()), rng.normal(size=s.positions.shape), rng.normal(size=(3, 3))) for s in structures]


def _loss(potential: Potential, structures: list[Structure], weights: Weights) -> torch.Tensor:
    """Return a random linear form of everything a loss may contain: energies, forces, and the stress of crystals."""
    total = torch.zeros((), dtype=torch.float64)
    for s, (w_energy, w_forces, w_stress) in zip(structures, weights, strict=True):
        outputs = offered(potential, *(("energy", "forces", "stress") if s.pbc.all() else ("energy", "forces")))
        values = potential(_batch(potential, [s]), outputs, create_graph=True).values
        for key, weight in (("energy", w_energy), ("forces", w_forces), ("stress", w_stress)):
            if key in values:
                total = total + (values[key] * torch.as_tensor(weight)).sum()
    return total


def _loss_gradient(potential: Potential, structures: list[Structure], weights: Weights) -> dict[str, torch.Tensor]:
    names = [name for name, p in potential.named_parameters() if p.requires_grad]
    parameters = [p for p in potential.parameters() if p.requires_grad]
    loss = _loss(potential.eval(), structures, weights)
    require(loss.requires_grad or not parameters, "with create_graph the predictions carry no graph to the parameters")
    if not parameters:
        return {}
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, grads, strict=True)}


def _batch(potential: Potential, structures: list[Structure]) -> Batch:
    level = potential.spec.levels[-1]
    return collate([s.replace(level=level) for s in structures], potential.spec.graphs, potential.spec.torch_dtype)


@rule(RULES, "no-grad-is-safe", "Inside torch.no_grad() the forces are the same, or refused in plain words; they are never silently zero.")
def _no_grad(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "forces")) is not None:
        return lacking
    s = molecule_of(potential, 5)
    want = ask(potential, [s], ("forces",))[0]["forces"]
    try:
        with torch.no_grad():
            got = ask(potential, [s], ("forces",))[0]["forces"]
    except MlipfmError as error:
        return RuleResult("held", f"refused: {error}")
    same("forces with and without torch.no_grad()", got, want, force_tolerance(want))
    return None


@rule(RULES, "graph-only-on-request", "Without create_graph the forces carry no graph, so that nothing piles up in a simulation.")
def _no_graph(potential: Potential) -> RuleResult | None:
    if (lacking := _lacks(potential, "forces")) is not None or potential.spec.kind != "conservative":
        return lacking or RuleResult("skipped", "direct forces are part of the forward graph")
    forces = potential.eval()(_batch(potential, [molecule_of(potential, 4)]), ("energy", "forces"))["forces"]
    require(not forces.requires_grad, "forces carry a graph although create_graph is False")
    return None
