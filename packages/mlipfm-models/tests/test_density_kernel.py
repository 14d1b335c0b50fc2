"""The compiled kernels give what the potential itself gives in float64, for every instruction set that the machine has."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build, load_potential, save_potential
from mlipfm_interfaces.errors import DensityError, InvalidStructureError, LevelError, OverlapError, UnknownElementError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.potential_rules import POTENTIAL_RULES
from mlipfm_interfaces.testing.rules import Rule
from mlipfm_models import density_kernel
from mlipfm_models.assembly import AssembledPotential
from mlipfm_models.density_kernel import CompiledDensity, DensityKernelPotential, Differences, compiled_density, why_not_compiled

kernels = pytest.importorskip("mlipfm_kernels", reason="mlipfm-kernels is not built here: tools/setup builds it where a C++ compiler is")

ELEMENTS = ["H", "C", "O", "Cu"]
OUTPUTS = ("energy", "forces", "stress", "atomic_energies")


def density(dtype: str = "float64", seed: int = 3, **options: Any) -> AssembledPotential:
    """Random weights in which every parameter counts: fresh ones have zero biases and a small readout."""
    assembly = {
        key: options.pop(key) for key in ("levels", "conditions", "level_readout", "references", "short_range", "scale") if key in options
    }
    config = {"elements": ELEMENTS, "levels": ["pbe"], "dtype": dtype, "backbone": options} | assembly
    model = build("density", config)
    assert isinstance(model, AssembledPotential)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            width = 0.2 if p.ndim == 1 or not p.abs().max() else 0.1 * float(p.std(unbiased=False))
            p += width * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    model.eval()
    return model


def rattled(
    numbers: Any, positions: Any, cell: Any = None, pbc: Any = False, seed: int = 0, amplitude: float = 0.1, **fields: Any
) -> Structure:
    positions = np.asarray(positions, dtype=float)
    moved = positions + np.random.default_rng(seed).normal(0, amplitude, positions.shape)
    box = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float)
    return Structure(np.asarray(numbers), moved, box, np.broadcast_to(np.asarray(pbc), 3), **fields)


def shapes() -> dict[str, Structure]:
    """An isolated atom, a pair, no pair, a molecule, a cell much smaller than the cutoff, a skewed one, a slab, a wire, atoms outside their cell."""
    fcc = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 1.81
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.4
    kinds = np.random.default_rng(5).choice([1, 6, 8, 29], len(grid))
    far = grid + np.random.default_rng(6).integers(-3, 4, grid.shape) * 7.2
    return {
        "isolated atom": rattled([29], [[0, 0, 0]]),
        "pair": rattled([1, 8], [[0, 0, 0], [0, 0, 1.1]]),
        "no pair": rattled([1, 8], [[0, 0, 0], [0, 0, 5000.0]]),
        "cluster": rattled(kinds, grid),
        "primitive": rattled([29], [[0.3, 0, 0]], fcc, True),
        "skewed": rattled([29, 6], [[0, 0, 0], [1.7, 1.7, 1.7]], [[3.4, 0, 0], [6.5, 3.4, 0], [1, 8.0, 3.6]], True),
        "crystal": rattled(kinds, grid, np.eye(3) * 7.2, True),
        "slab": rattled(kinds, grid, np.eye(3) * 7.2, [True, True, False]),
        "wire": rattled(kinds, grid, np.diag([0, 7.2, 0]), [False, True, False]),
        "unwrapped": rattled(kinds, far, np.eye(3) * 7.2, True),
    }


def largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max(initial=0.0))


def judge(model: AssembledPotential, structures: list[Structure], dtype: Any, instructions: str = "", threads: int = 1) -> None:
    exact = model.to(torch.float64) if model.spec.dtype == "float64" else model
    compiled = CompiledDensity(exact, dtype=dtype, instructions=instructions)
    forces, energy = (1e-8, 1e-9) if dtype == "float64" else (1e-5, 2e-6)
    for s in structures:
        outputs = OUTPUTS if s.pbc.all() else tuple(key for key in OUTPUTS if key != "stress")
        row = evaluate(exact, [s], outputs)[0]
        found = compiled.systems([s], threads=threads).compute(s.positions, strain=True)
        scale = max(float(np.abs(row["forces"]).max()), 0.1)
        assert largest(found.forces, row["forces"]) < forces * scale
        assert abs(found.energy[0] - row["energy"]) / len(s) < energy
        assert largest(found.atomic_energies, row["atomic_energies"]) < 5 * energy
        if s.pbc.all():
            stress = found.strain_derivative[0] / abs(np.linalg.det(s.cell))  # type: ignore[index]
            assert largest(stress, row["stress"]) < 3 * forces * max(float(np.abs(row["stress"]).max()), 1e-3)


#: Longer than some of the distances of `shapes`, for some of the pairs that stand there; of the others, 0.9 covalent radii.
SHORTEST = {"H-O": 1.3, "Cu-C": 2.45, "Cu-Cu": 2.6, "C-C": 2.0}
MODELS: dict[str, dict[str, Any]] = {
    "16 channels": {"channels": 16},
    "64 channels": {"channels": 64},
    "5 channels of degree 2": {"channels": 5, "degree": 2, "radial": 6},
    "degree 1": {"channels": 24, "degree": 1, "radial": 3},
    "few mixed channels": {"channels": 64, "mixed": 16},
    "two layers": {"channels": 16, "layers": 2},
    "three layers, few mixed": {"channels": 20, "layers": 3, "mixed": 8, "degree": 2},
    "no repulsion": {"channels": 16, "short_range": "none", "scale": 2.5},
    "trained distances": {"channels": 16, "shortest_distances": SHORTEST},
    "two layers, trained distances": {"channels": 24, "layers": 2, "shortest_distances": SHORTEST},
}


def cases() -> list[Any]:
    """Every model, precision and instruction set; two in float64 with the best instructions before every push, the others of the best in ci."""
    best, made = kernels.instruction_sets()[0], []
    for name, dtype, instructions in product(MODELS, ("float64", "float32"), kernels.instruction_sets()):
        small = name in ("16 channels", "two layers", "trained distances")
        tier = (
            []
            if small and dtype == "float64" and instructions == best
            else [pytest.mark.ci if small or instructions == best else pytest.mark.full]
        )
        made.append(pytest.param(name, dtype, instructions, marks=tier))
    return made


@pytest.mark.parametrize(("name", "dtype", "instructions"), cases())
def test_kernel_equals_the_model_in_float64(name: str, dtype: str, instructions: str) -> None:
    judge(density(**MODELS[name]), list(shapes().values()), dtype, instructions)


def test_threads_share_the_atoms() -> None:
    for layers in (1, 2):
        judge(density(channels=16, layers=layers), [shapes()["crystal"], shapes()["isolated atom"]], "float64", threads=3)


def test_level_charge_and_spin_count() -> None:
    for readout in ("shared", "stacked"):
        references = {"pbe": {"H": -13.0, "C": -1000.0, "O": -2000.0, "Cu": -4000.0}}
        model = density(
            channels=16,
            levels=["pbe", "r2scan"],
            level_readout=readout,
            conditions=["total_charge", "spin_multiplicity"],
            references=references,
        )
        base = shapes()["cluster"]
        states = (
            [(None, None), (0, 1), (1, 2), (-2, 3)] if int(base.atomic_numbers.sum()) % 2 == 0 else [(None, None), (1, 1), (0, 2), (-1, 3)]
        )
        asked = [base.replace(level=level, total_charge=q, spin_multiplicity=m) for level in ("pbe", "r2scan") for q, m in states]
        rows = evaluate(model, asked, ("energy", "forces"))
        found = CompiledDensity(model).systems(asked).compute(np.concatenate([s.positions for s in asked]))
        assert largest(found.energy, np.array([row["energy"] for row in rows])) < 1e-9
        assert largest(found.forces, np.concatenate([row["forces"] for row in rows])) < 1e-9
        assert len({round(float(e), 6) for e in found.energy}) == len(asked)


def ions_and_neutrals() -> list[Structure]:
    """Neutral molecules, ions of one charge and several compositions, radicals, and a structure that gives neither charge nor multiplicity."""
    states = [(0, 1), (1, None), (1, None), (None, None), (0, 2), (-1, 1), (0, 1), (None, 2), (1, None)]
    asked = []
    for k, (charge, multiplicity) in enumerate(states):
        numbers = np.random.default_rng(k).choice([1, 6, 8], 6)
        odd = (int(numbers.sum()) - (charge or 0)) % 2
        if multiplicity is not None and odd != (multiplicity - 1) % 2:
            numbers[0] = 8 if numbers[0] == 1 else 1
        asked.append(rattled(numbers, np.arange(18).reshape(6, 3) * 0.9, seed=k, total_charge=charge, spin_multiplicity=multiplicity))
    return asked


def test_ions_keep_their_own_atom_types_and_neutral_molecules_share_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = density(channels=16, conditions=["total_charge", "spin_multiplicity"])
    asked = ions_and_neutrals()
    expected = np.array([row["energy"] for row in evaluate(model, asked)])

    def error(compiled: CompiledDensity) -> float:
        found = [compiled.systems(some).compute(np.concatenate([s.positions for s in some])).energy for some in (asked, asked[::-1])]
        return max(largest(found[0], expected), largest(found[1], expected[::-1]))

    assert error(CompiledDensity(model)) < 1e-9
    waters = [rattled([1, 1, 8], np.eye(3) * 1.5, seed=k, total_charge=0, spin_multiplicity=1) for k in range(40)]
    _, types = CompiledDensity(model).kernel(collate(waters, (), torch.float64))
    assert set(types) == {0, 1}  # H and O

    def shared(batch: Any, conditions: Any) -> Any:  # counterexample: ions of one charge take the share of the first of them
        return (batch.total_charge + 2) * 10 + batch.spin_multiplicity, batch.total_charge != 0

    monkeypatch.setattr(density_kernel, "electronic_states", shared)
    assert error(CompiledDensity(model)) > 1e-6


def test_two_levels_in_one_batch_and_the_strain_of_each_system_are_those_of_the_model() -> None:
    model = density(channels=16, levels=["pbe", "r2scan"])
    asked = [shapes()["crystal"].replace(level=level) for level in ("pbe", "r2scan")]
    rows = evaluate(model, asked, ("energy", "forces", "stress"))
    found = CompiledDensity(model).systems(asked).compute(np.concatenate([s.positions for s in asked]), strain=True)
    assert largest(found.energy, np.array([row["energy"] for row in rows])) < 1e-9
    assert found.strain_derivative is not None
    for strain, row, s in zip(found.strain_derivative, rows, asked, strict=True):
        assert largest(strain / abs(np.linalg.det(s.cell)), row["stress"]) < 1e-9
    assert abs(found.energy[0] - found.energy[1]) > 1e-3


def test_weights_that_change_in_place_are_read_again() -> None:
    model, s = density(channels=8), shapes()["pair"]
    kernel = DensityKernelPotential(model)
    before = evaluate(kernel, [s])[0]["energy"]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    after = evaluate(kernel, [s])[0]["energy"]
    assert abs(after - before) > 1e-6
    assert after == pytest.approx(float(evaluate(model, [s])[0]["energy"]), abs=1e-9)


def test_reference_energies_that_change_are_read_again() -> None:
    model, s = density(channels=8, references={"pbe": {"H": -13.0, "O": -2000.0}}), shapes()["pair"]
    compiled = CompiledDensity(model)
    before = compiled.systems([s]).compute(s.positions).energy[0]
    model.set_references("pbe", {"H": -14.0, "O": -2000.0})
    assert compiled.systems([s]).compute(s.positions).energy[0] == pytest.approx(before - 1, abs=1e-9)


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
def test_a_kernel_that_differs_in_one_of_its_answers_does_not_agree(key: str) -> None:
    right = Differences(0.0, 0.0, 0.0, "float64", 7)
    assert right.agree
    assert not replace(right, **{key: 1e-6}).agree
    single = Differences(5e-6, 5e-5, 1e-4, "float32", 7, 2e-6, 2e-5, 4e-5)  # the potential itself loses nearly as much in float32
    assert single.agree
    assert not replace(single, **{f"{key}_rounding": 0.0}).agree
    assert not replace(single, **{key: 3e-4}).agree


def test_a_position_that_is_not_a_number_is_refused_in_a_later_call_too() -> None:
    s = shapes()["cluster"]
    systems = CompiledDensity(density(channels=16)).systems([s])
    systems.compute(s.positions)
    moved = s.positions.copy()
    moved[3, 1] = np.nan
    with pytest.raises(InvalidStructureError, match="not finite"):
        systems.compute(moved)


def test_list_that_is_reused_gives_what_a_fresh_list_gives() -> None:
    """Atoms that wander through many cells, and a cell that changes, with a list that is rebuilt now and then."""
    model, start = density(channels=16), shapes()["crystal"]
    compiled = CompiledDensity(model)
    systems, rng = compiled.systems([start], skin=0.6), np.random.default_rng(1)
    positions, cell, rebuilds = start.positions.copy(), start.cell.copy(), []
    for step in range(60):
        positions += rng.normal(0, 0.03, positions.shape) + 0.4 * (step % 7 == 0)  # and the crystal drifts
        if step % 3 == 0:
            strain = np.eye(3) + rng.normal(0, 0.003, (3, 3))
            cell, positions = cell @ strain, positions @ strain
        there = start.replace(positions=positions, cell=cell, labels={})
        exact = evaluate(model, [there], ("energy", "forces"))[0]
        found = systems.compute(positions, cell[None])
        assert largest(found.forces, exact["forces"]) < 1e-8 * np.abs(exact["forces"]).max()
        rebuilds.append(systems.rebuilds)
    assert 5 < rebuilds[-1] < 60, "the list was never, or always, made anew"


def test_features_are_those_of_the_last_layer() -> None:
    for layers in (1, 2):
        model, s = density(channels=20, layers=layers), shapes()["crystal"]
        exact = model(collate([s], model.spec.graphs, torch.float64), ("energy",)).features["last_layer"].value.detach().numpy()
        found = CompiledDensity(model).systems([s]).compute(s.positions, features=True)
        assert found.features is not None
        assert found.features.shape == exact.shape
        assert largest(found.features, exact) < 1e-10


def test_wrong_geometries_are_refused_as_by_the_model() -> None:
    model = density(channels=16)
    compiled = CompiledDensity(model)
    crowd = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]])
    wrong = {
        OverlapError: rattled([1, 8], [[0, 0, 0], [0, 0, 0.05]], amplitude=0.0),
        DensityError: Structure(np.array([1, 1, 1, 1]), crowd, np.zeros((3, 3)), np.zeros(3, dtype=bool)),
    }
    for kind, s in wrong.items():
        with pytest.raises(kind) as ours:
            compiled.systems([s]).compute(s.positions)
        with pytest.raises(kind) as theirs:
            evaluate(model, [s])
        assert ours.value.what == theirs.value.what
        assert ours.value.where == theirs.value.where
    image = Structure(np.array([29]), np.zeros((1, 3)), np.diag([0.09, 3, 3]), np.ones(3, dtype=bool))
    with pytest.raises(InvalidStructureError):
        compiled.systems([image]).compute(image.positions)
    s = shapes()["pair"]
    with pytest.raises(InvalidStructureError, match="not finite"):
        compiled.systems([s]).compute(s.positions * np.nan)
    with pytest.raises(UnknownElementError):
        compiled.systems([rattled([79], [[0, 0, 0]])])
    several = CompiledDensity(density(channels=16, levels=["pbe", "r2scan"]))
    with pytest.raises(LevelError, match="no level of theory"):
        several.systems([s])


@pytest.mark.parametrize("scale", [0.85, 0.97, 1.1])
def test_atoms_that_move_with_their_cell_have_the_neighbours_of_the_new_cell(scale: float) -> None:
    """Compressed to 0.85, pairs come within the cutoff that were beyond cutoff and skin, though no atom has moved against the lattice."""
    start = shapes()["crystal"]
    compiled = CompiledDensity(density(channels=16))
    systems = compiled.systems([start], skin=0.5)
    systems.compute(start.positions)
    reused = systems.compute(start.positions * scale, start.cell[None] * scale, strain=True)
    fresh = compiled.systems([start.replace(positions=start.positions * scale, cell=start.cell * scale, labels={})], skin=0.5)
    again = fresh.compute(start.positions * scale, strain=True)
    assert largest(reused.forces, again.forces) < 1e-10 * np.abs(again.forces).max()
    assert largest(reused.energy, again.energy) < 1e-10 * np.abs(again.energy).max()


def test_atoms_that_meet_while_the_list_is_reused_are_refused() -> None:
    compiled = CompiledDensity(density(channels=16))
    s = rattled([1, 1], [[0, 0, 0], [0, 0, 0.4]], amplitude=0.0)
    systems = compiled.systems([s], skin=1.0)
    systems.compute(s.positions)
    with pytest.raises(OverlapError, match="0.08"):
        systems.compute(np.array([[0, 0, 0.16], [0, 0, 0.24]]))
    assert systems.rebuilds == 2, "the list should have been good enough"


def test_more_neighbours_than_a_short_list_holds() -> None:
    """A cutoff of 12 Å in a dense crystal: about 1,100 neighbours of each of few atoms, most of them images."""
    s = rattled([6, 6], [[0, 0, 0], [0.9, 0.9, 0.9]], np.diag([2.5, 2.5, 2.5]), True, amplitude=0.05)
    judge(density(channels=16, cutoff=12.0, short_range="none"), [s], "float64")


def test_what_has_no_kernel_says_why() -> None:
    painn = build("painn", {"elements": ["H"], "levels": ["pbe"], "backbone": {"channels": 8}})
    assert compiled_density(painn) is None
    assert "painn" in str(why_not_compiled(painn))
    direct = build("density", {"elements": ["H"], "levels": ["pbe"], "forces": "direct", "backbone": {"channels": 8}})
    assert "gradient" in str(why_not_compiled(direct))


def test_unknown_instruction_set_is_refused() -> None:
    s = shapes()["pair"]
    with pytest.raises(ValueError, match="no instruction set v9"):
        CompiledDensity(density(channels=16), instructions="v9").systems([s])


class KernelContract(PotentialContract):
    """All rules but one: what is saved is the model, and what is loaded is not compiled until it is requested."""

    @pytest.mark.parametrize("rule", [r for r in POTENTIAL_RULES if r.name != "checkpoint-round-trip"], ids=lambda rule: rule.name)
    def test_potential_rule(self, rule: Rule[Potential]) -> None:
        if rule.check(self.potential()).status == "skipped":
            pytest.skip("does not apply")

    def test_saved_and_loaded_the_kernel_gives_the_same_bits(self, tmp_path: Path) -> None:
        potential, s = self.potential(), rattled([1, 8], [[0, 0, 0], [0, 0, 1.1]], level="pbe")
        digest = save_potential(tmp_path / "kernel.safetensors", potential)
        assert digest == save_potential(tmp_path / "model.safetensors", potential.eager)
        loaded = DensityKernelPotential(load_potential(tmp_path / "kernel.safetensors"))
        before, after = (evaluate(p, [s])[0] for p in (potential, loaded))
        assert np.array_equal(before["forces"], after["forces"])


class TestContract(KernelContract):
    def potential(self) -> Potential:
        return DensityKernelPotential(density(channels=16))


@pytest.mark.ci
class TestContractOfTwoLayersLevelsChargeAndSpin(KernelContract):
    def potential(self) -> Potential:
        conditions = ["total_charge", "spin_multiplicity"]
        return DensityKernelPotential(density(channels=8, layers=2, levels=["pbe", "r2scan"], conditions=conditions))
