"""Rules of the contract of potentials: state, refusals, what it declares, checkpoints, and what training asks of it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mlipfm_interfaces import plugins
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.elements import N_ELEMENTS, symbol
from mlipfm_interfaces.errors import LevelError, PropertyNotAvailableError, UnknownElementError
from mlipfm_interfaces.potential import Potential, Prediction, evaluate
from mlipfm_interfaces.quantities import QUANTITIES, quantity
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import canonical_level

from .probes import ask, bond, crystal_of, energies, force_tolerance, molecule_of, moved, offered, some_elements
from .rules import HELD, Rule, RuleResult, refused, require, rule, same
from .structures import atoms, rattled

RULES: list[Rule[Potential]] = []

#: Quantities that periodic systems do not have: which image of an atom counts would be arbitrary.
FREE_ONLY = ("dipole", "quadrupole", "born_charges")


def _at_level(potential: Potential, structures: list[Structure]) -> list[Structure]:
    return [s.replace(level=potential.spec.levels[-1]) for s in structures]


def _collated(potential: Potential, structures: list[Structure]) -> Batch:
    return collate(_at_level(potential, structures), potential.spec.graphs, potential.spec.torch_dtype)


# State


@rule(RULES, "no-stale-state", "Repeated calls predict for the positions they are given, however small the change; nothing is remembered.")
def _stale(potential: Potential) -> None:
    outputs = offered(potential, "energy", "forces")
    first = molecule_of(potential, 6)
    crystal = crystal_of(potential, 3)
    z = some_elements(potential)
    other = first.replace(atomic_numbers=np.where(first.atomic_numbers == z[0], z[-1], first.atomic_numbers))
    sequence = [
        first,
        rattled(first, 1e-2),
        other,
        first,
        rattled(first, 1e-8),
        crystal,
        moved(crystal, crystal.positions, 1.01 * crystal.cell),
        first,
    ]
    fresh = [ask(copy.deepcopy(potential), [s], outputs)[0] for s in sequence]
    for k, s in enumerate(sequence):
        answer = ask(potential, [s], outputs)[0]
        for key in outputs:
            same(
                f"{key} of call {k + 1} and of a fresh copy",
                answer[key],
                fresh[k][key],
                1e-13 * max(1.0, float(np.abs(fresh[k][key]).max())),
            )
    _same_batch_moved(potential, outputs)


def _same_batch_moved(potential: Potential, outputs: tuple[str, ...]) -> None:
    """A batch whose positions were replaced, as a neighbour list with a skin does it, has the same keys and views but other predictions."""
    batch = _collated(potential, [molecule_of(potential, 6)])
    potential.eval()(batch, outputs)
    shift = 1e-5 * torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    later = replace(batch, positions=batch.positions + shift)
    got, want = potential(later, outputs), copy.deepcopy(potential)(later, outputs)
    for key in outputs:
        same(f"{key} of a batch with moved atoms and of a fresh copy", got[key].detach().numpy(), want[key].detach().numpy(), 1e-10)


@rule(RULES, "inputs-unchanged", "A forward changes nothing in the batch it is given.")
def _unchanged(potential: Potential) -> None:
    outputs = offered(potential, "energy", "forces")
    batch = _collated(potential, [molecule_of(potential), crystal_of(potential)])
    before = {name: value.clone() for name, value in _tensors(batch).items()}
    potential.eval()(batch, outputs)
    after = _tensors(batch)
    require(set(before) == set(after), "labels or views of the batch were added or removed")
    for name, value in before.items():
        require(torch.equal(value, after[name]), f"{name} of the batch was changed")
        require(not after[name].requires_grad, f"{name} of the batch was made to require gradients")


def _tensors(batch: Batch) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name in Batch.__dataclass_fields__:
        value = getattr(batch, name)
        if isinstance(value, Tensor):
            result[name] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                parts = {"": item} if isinstance(item, Tensor) else vars(item)
                result |= {f"{name}[{key}]{'.' if part else ''}{part}": t for part, t in parts.items() if isinstance(t, Tensor)}
    return result


@rule(
    RULES, "deterministic", "The same input gives the same bits, and evaluating leaves the global random state and the training mode alone."
)
def _deterministic(potential: Potential) -> None:
    outputs = offered(potential, "energy", "forces")
    s = [molecule_of(potential), crystal_of(potential)]
    mode, state = potential.training, torch.get_rng_state()
    answers = [ask(potential, s, outputs) for _ in range(3)]
    require(torch.equal(state, torch.get_rng_state()), "evaluating draws from the global random state")
    require(potential.training == mode, "evaluating changes the training mode")
    for again in answers[1:]:
        for k in range(len(s)):
            for key in outputs:
                require(np.array_equal(again[k][key], answers[0][k][key]), f"{key} of the same input differ in their bits")


@rule(RULES, "labels-not-read", "The prediction does not depend on the labels that a batch carries.")
def _labels(potential: Potential) -> None:
    outputs = offered(potential, "energy", "forces")
    s = molecule_of(potential)
    labelled = s.replace(labels={"energy": np.array(123.0), "forces": np.ones((len(s), 3))})
    plain, told = (ask(potential, [item], outputs)[0] for item in (s, labelled))
    for key in outputs:
        require(np.array_equal(plain[key], told[key]), f"{key} changes when the structure carries labels")


@rule(RULES, "checkpoint-round-trip", "Saved and loaded, the potential gives the same bits, and saving it again the same digest.")
def _round_trip(potential: Potential) -> RuleResult | None:
    from mlipfm_interfaces.checkpoint import load_potential, save_potential

    name = getattr(potential, "plugin", None)
    require(isinstance(name, str), "the potential names no plug-in that builds it")
    if name not in plugins.names(plugins.POTENTIALS):
        return RuleResult("skipped", f"no backbone and no potential {name!r} is installed")
    outputs = offered(potential, "energy", "forces")
    s = [molecule_of(potential), crystal_of(potential)]
    with tempfile.TemporaryDirectory() as folder:
        digest = save_potential(Path(folder) / "a.safetensors", potential)
        loaded = load_potential(Path(folder) / "a.safetensors")
        require(save_potential(Path(folder) / "b.safetensors", loaded) == digest, "saving the loaded potential gives another digest")
    require(loaded.spec == potential.spec, "the loaded potential gives another spec")
    for k, (before, after) in enumerate(zip(ask(potential, s, outputs), ask(loaded, s, outputs), strict=True)):
        for key in outputs:
            require(np.array_equal(before[key], after[key]), f"{key} of structure {k} differ in their bits after loading")
    return None


# What it says of itself


@rule(RULES, "elements-honest", "Every element it declares gives a finite prediction, every other is refused by name.")
def _elements(potential: Potential) -> None:
    known = potential.spec.elements
    require(list(known) == sorted(set(known)) and len(known) > 0, f"elements must be distinct and ascending, got {known}")
    alone = [atoms([z], np.zeros((1, 3))) for z in known]
    for s, answer in zip(alone, ask(potential, alone, offered(potential, "energy", "forces")), strict=True):
        require(all(np.isfinite(v).all() for v in answer.values()), f"{s.formula} is given, but its prediction is not finite")
    unknown = [z for z in range(1, N_ELEMENTS + 1) if z not in known]
    if unknown:
        s = atoms([known[0], unknown[-1]], [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
        refused(
            f"the unknown element {symbol(unknown[-1])}", lambda: ask(potential, [s], ("energy",)), UnknownElementError, symbol(unknown[-1])
        )


@rule(
    RULES,
    "level-is-needed",
    "With several levels of theory none is chosen silently: a missing one is refused or is the declared default, an unknown one is refused.",
)
def _levels(potential: Potential) -> RuleResult | None:
    known = potential.spec.levels
    require(len(known) > 0 and all(canonical_level(level) == level for level in known), f"levels must be canonical ids, got {known}")
    s, outputs = molecule_of(potential, 3), offered(potential, "energy", "forces")
    default = potential.implied_level
    if default is not None:
        silent, said = (evaluate(potential, [item], outputs)[0] for item in (s, s.replace(level=default)))
        for key in outputs:
            same(f"{key} with level {default} and with none", silent[key], said[key], 1e-12 * max(1.0, float(np.abs(said[key]).max())))
    if len(known) == 1:
        return RuleResult("held", "one level")
    missing = [("a missing level", s)] if default is None else []
    for what, item in (*missing, ("an unknown level", s.replace(level="no-such-level"))):
        batch = collate([item], potential.spec.graphs, potential.spec.torch_dtype)
        refused(what, lambda batch=batch: potential.eval()(batch, outputs), LevelError, *known)  # type: ignore[misc]  # bound now
    return None


@rule(
    RULES,
    "outputs-honest",
    "Every output it declares has the shape and layout of the table of quantities, is finite, and is of the declared kind.",
)
def _outputs(potential: Potential) -> None:
    spec = potential.spec
    require(spec.kind in ("conservative", "direct"), f"kind must be conservative or direct, got {spec.kind!r}")
    crystals = [crystal_of(potential, 3), crystal_of(potential, 2, seed=9)]
    free = [s.replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool)) for s in crystals]
    outputs = tuple(key for key in spec.outputs if key not in FREE_ONLY)
    batch = _collated(potential, [_with_probes(s) for s in crystals])
    prediction = potential.eval()(batch, outputs)
    _check_values(potential, prediction, outputs)
    if own := tuple(key for key in spec.outputs if key in FREE_ONLY):
        _check_values(potential, potential(_collated(potential, free), own), own)
    if {"energy", "atomic_energies"} <= set(spec.outputs):
        total = batch.sum_per_system(prediction["atomic_energies"])
        same("energies and the sums of atomic energies", prediction["energy"].detach(), total.detach(), 1e-9)


def _check_values(potential: Potential, prediction: Prediction, outputs: tuple[str, ...]) -> None:
    """Kind, shapes and finiteness of a prediction for systems of three and two atoms."""
    counts = {"system": 2, "atom": 5}
    require(prediction.kind == potential.spec.kind, f"states kind {potential.spec.kind}, predicts kind {prediction.kind}")
    for key in outputs:
        kind = quantity(key)
        require(key in prediction.values, f"states {key!r} but does not give it")
        value = prediction[key]
        require(bool(torch.isfinite(value).all()), f"{key} is not finite")
        if kind.layout in counts:
            want = (counts[kind.layout], *kind.shape)
            require(tuple(value.shape) == want, f"{key} must have shape {list(want)}, got {list(value.shape)}")
        elif kind.layout == "probe":
            require(tuple(value.shape) == (2, 5, 3), f"{key} must have shape [probes, atoms, 3] = [2, 5, 3], got {list(value.shape)}")


def _with_probes(s: Structure) -> Structure:
    rows = np.zeros((2, len(s), 3))
    return s.replace(labels={"hvp": rows, "hvp_probe": rows + 1.0, "hessian_rows": rows, "hessian_rows_index": np.array([[0, 0], [1, 2]])})


@rule(RULES, "unknown-output-refused", "An output that it does not have is refused by name, in the forward itself.")
def _unknown_output(potential: Potential) -> RuleResult | None:
    lacking = [key for key, q in QUANTITIES.items() if key not in potential.spec.outputs and q.layout in ("system", "atom")]
    if not lacking:
        return RuleResult("skipped", "the potential predicts every quantity")
    batch = _collated(potential, [molecule_of(potential, 3)])
    for key in lacking:
        refused(f"the output {key!r}", lambda key=key: potential.eval()(batch, (key,)), PropertyNotAvailableError, key)  # type: ignore[misc]  # bound now
    return None


@rule(RULES, "stress-of-molecule-refused", "The stress of a system without three periodic directions is refused, not made up.")
def _molecular_stress(potential: Potential) -> RuleResult | None:
    if "stress" not in potential.spec.outputs:
        return RuleResult("skipped", "the potential does not predict stress")
    crystal = crystal_of(potential, 2)
    slab = crystal.replace(pbc=np.array([True, True, False]))
    for what, systems in (("a molecule", [molecule_of(potential, 3)]), ("a slab", [slab]), ("a slab in a batch", [crystal, slab])):
        batch = _collated(potential, systems)
        refused(f"the stress of {what}", lambda batch=batch: potential.eval()(batch, ("stress",)), PropertyNotAvailableError)  # type: ignore[misc]
    return None


@rule(
    RULES,
    "conditions-honest",
    "Charge, multiplicity and field change the energy exactly if the potential gives them among its conditions.",
)
def _conditions(potential: Potential) -> None:
    stated = set(potential.spec.conditions)
    values = {"total_charge": (0, 1), "spin_multiplicity": (1, 3), "external_field": (np.zeros(3), np.array([0.0, 0.02, 0.05]))}
    require(stated <= set(values), f"unknown conditions: {sorted(stated - set(values))}")
    if "energy" not in potential.spec.outputs:
        return
    # Conditioning may start at zero, so that pre-training without it stays valid: every parameter gets a little noise first.
    twin = copy.deepcopy(potential)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    s = molecule_of(twin, 5)
    for name, (first, second) in values.items():
        one, two = energies(twin, [s.replace(**{name: first}), s.replace(**{name: second})])
        if name in stated:
            require(abs(two - one) > 1e-12 * max(1.0, abs(one)), f"states {name}, but the energy does not depend on it")
        else:
            # Rows of one matrix product may be rounded differently.
            require(
                abs(two - one) <= 1e-13 * max(1.0, abs(one)), f"does not state {name}, but the energy depends on it ({two - one:.3g} eV)"
            )


# Numbers


@rule(
    RULES, "never-nan", "No structure that can be made gives NaN or infinity: close contacts, isolated atoms, straight lines, tiny cells."
)
def _finite(potential: Potential) -> None:
    z = some_elements(potential)
    a, b = z[0], z[-1]
    reach = bond(potential)
    line = np.arange(4)[:, None] * np.array([0.0, 0.0, 1.0]) * bond(potential, 0, -1)
    hard = {
        "a close contact": atoms([a, b], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.3]]),
        "two atoms out of reach": atoms([a, b], [[0.0, 0.0, 0.0], [0.0, 0.0, 60.0]]),
        "a straight line": atoms([a, b, b, a], line),
        "one atom in a tiny cell": atoms([a], np.zeros((1, 3)), cell=max(reach, 1.0) * np.eye(3)),
        "a chain of one atom": atoms([b], np.zeros((1, 3)), bond(potential, -1, -1) * np.eye(3)).replace(
            pbc=np.array([False, False, True])
        ),
    }
    for name, s in hard.items():
        outputs = offered(potential, "energy", "forces", *(("stress",) if s.pbc.all() else ()))
        for key, value in ask(potential, [s], outputs)[0].items():
            require(bool(np.isfinite(value).all()), f"{key} of {name} is not finite")


@rule(RULES, "float64-honest", "In float64 nothing is computed in less: a move of 1e-7 Å changes the energy by force times move.")
def _precise(potential: Potential) -> RuleResult | None:
    require(potential.spec.dtype == "float64", "the rules need a potential in float64")
    s = molecule_of(potential, 6)
    batch = _collated(potential, [s])
    for key, value in potential.eval()(batch, offered(potential, "energy", "forces")).values.items():
        require(value.dtype == torch.float64, f"{key} is {value.dtype}")
    if not {"energy", "forces"} <= set(potential.spec.outputs) or potential.spec.kind == "direct":
        return HELD
    forces = ask(potential, [s], ("forces",))[0]["forces"]
    move = 1e-7 * np.sign(forces)
    low, high = energies(potential, [moved(s, s.positions - move), moved(s, s.positions + move)])
    work = -2 * float((forces * move).sum())
    same(
        "the energy along a tiny move and its work",
        high - low,
        work,
        1e-4 * abs(work) + 1e-13 + 4e-15 * abs(low) + force_tolerance(forces, 1e-14),
    )
    return None


# What training asks


@rule(RULES, "parameter-roles", "parameter_roles() has one role for every parameter, with a depth between 0 and the number of blocks + 1.")
def _roles(potential: Potential) -> None:
    roles, names = potential.parameter_roles(), {name for name, _ in potential.named_parameters()}
    require(not names - set(roles), f"parameters without a role: {sorted(names - set(roles))}")
    require(not set(roles) - names, f"roles of parameters that do not exist: {sorted(set(roles) - names)}")
    last = len(potential.blocks()) + 1
    for name, role in roles.items():
        require(0 <= role.depth <= last, f"{name} has depth {role.depth}, possible are 0 to {last}")
        require(role.scaling in ("input", "hidden", "output", "vector"), f"{name} has unknown scaling {role.scaling!r}")


@rule(RULES, "blocks", "blocks() are modules of the potential, none inside another, and each is called exactly once a forward.")
def _blocks(potential: Potential) -> None:
    blocks = potential.blocks()
    own = set(potential.modules())
    require(all(block in own for block in blocks), "a block is no module of the potential")
    require(len({id(block) for block in blocks}) == len(blocks), "a block is listed twice")
    for block in blocks:
        require(not any(other in set(block.modules()) for other in blocks if other is not block), "a block lies inside another")
    calls = [0] * len(blocks)

    def count(k: int) -> object:
        def hook(module: nn.Module, args: object, result: object) -> None:
            calls[k] += 1

        return blocks[k].register_forward_hook(hook)

    handles = [count(k) for k in range(len(blocks))]
    try:
        potential.eval()(_collated(potential, [molecule_of(potential), crystal_of(potential)]), offered(potential, "energy", "forces"))
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]  # torch does not export the handle's type
    require(all(n == 1 for n in calls), f"calls of the blocks in one forward: {calls}, wanted 1 each")


@rule(RULES, "spec-honest", "The spec is consistent: cutoffs positive, interaction range not below them, outputs in the table.")
def _spec(potential: Potential) -> None:
    spec = potential.spec
    require(len(spec.graphs) > 0 and all(g.cutoff > 0 for g in spec.graphs), "needs at least one graph with a positive cutoff")
    require(len(set(spec.outputs)) == len(spec.outputs) > 0, f"outputs must be distinct and not empty, got {spec.outputs}")
    if spec.interaction_range is not None:
        require(spec.interaction_range >= max(g.cutoff for g in spec.graphs), "the interaction range is shorter than a cutoff")
    for key in spec.outputs:
        require(key in QUANTITIES, f"output {key!r} is not in the table of quantities")
