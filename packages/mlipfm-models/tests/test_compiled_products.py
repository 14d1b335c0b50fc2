"""Compiled messages, expansions and invariants: values and derivatives of every order equal those of plain torch, or they are not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.errors import MlipfmWarning
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import methane, silicon, water
from mlipfm_models import build_potential
from mlipfm_models.backbones import _compiled_products as products, density, mace
from mlipfm_models.backbones._harmonics import harmonics_table
from mlipfm_models.backbones._pair_functions import PairFunctions
from mlipfm_models.backbones.density import DensityConfig, expand
from mlipfm_models.backbones.mace import Invariants
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

kernels = pytest.importorskip("mlipfm_kernels", reason="mlipfm-kernels is not installed")


@pytest.fixture(autouse=True)
def fresh_trust() -> Iterator[None]:
    products.trusted.cache_clear()
    yield
    products.trusted.cache_clear()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def derivatives(function: Callable[..., Tensor], x: list[Tensor]) -> list[Tensor]:
    """Values, and gradients of sums of squares of what came before, up to the third."""
    found = [function(*x)]
    last = found
    for _ in range(3):
        last = list(torch.autograd.grad(sum((v.square() / 2 + v).sum() for v in last), x, create_graph=True))  # type: ignore[arg-type]
        found += last
    return found


def relative(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((p - q).detach().abs().max() / q.detach().abs().max()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("degree", "correlation", "columns"),
    [(3, 3, 13), *(pytest.param(*case, marks=pytest.mark.full) for case in product((1, 2, 3), (2, 3), (1, 64)))],
)
def test_compiled_invariants_and_their_derivatives_are_those_of_plain_torch(degree: int, correlation: int, columns: int) -> None:
    invariants = Invariants(degree, correlation).double()
    x = [random((degree + 1) ** 2, columns)]
    assert relative(derivatives(invariants, x), derivatives(invariants.plain, x)) < 1e-12


def neighborhood(*counts: int) -> tuple[Tensor, Tensor]:
    first = torch.tensor([0, *counts]).cumsum(0)
    return first, torch.randint(len(counts), (sum(counts),))


@pytest.mark.parametrize(
    ("rows", "counts", "threads"),
    [
        (16, (5, 0, 17, 1, 8, 2), 3),
        *(pytest.param(*case, marks=pytest.mark.full) for case in product((1, 4), ((1,), (0, 3, 0), (9, 4)), (1, 3))),
    ],
)
def test_compiled_messages_and_their_derivatives_are_those_of_plain_torch(rows: int, counts: tuple[int, ...], threads: int) -> None:
    first, neighbor = neighborhood(*counts)
    message = products._Message(first, neighbor, 0)
    message._messages = kernels.Messages(first.numpy(), neighbor.numpy(), threads)
    x = [random(9 + rows, sum(counts)), random(9, 32), random(len(counts), 32)]
    assert relative(derivatives(lambda *x: products._Value.apply(message, *x), x), derivatives(message.plain, x)) < 1e-12


@pytest.mark.parametrize(
    ("degree", "kinds", "counts", "threads"),
    [
        (3, 3, (5, 0, 40, 1, 8, 2), 3),
        *(pytest.param(*case, marks=pytest.mark.full) for case in product((1, 2), (1, 4), ((40,), (0, 30, 0)), (1, 3))),
    ],
)
def test_compiled_expansions_and_their_derivatives_are_those_of_plain_torch(
    degree: int, kinds: int, counts: tuple[int, ...], threads: int
) -> None:
    first, _ = neighborhood(*counts)
    kind = torch.randint(-1, kinds, (sum(counts),), dtype=torch.int32)
    how = {"degree": degree, "functions": 6, "cutoff": 2.5}
    made = kernels.Expansion(first.numpy(), kind.numpy(), kinds, **how, factor=0.5, threads=threads)
    config, table = DensityConfig(degree=degree, radial=5, cutoff=2.5, mean_neighbors=4.0), harmonics_table(degree)
    function = products._OfVectors(made, lambda d: expand(d, first, kind, kinds, config, table))
    d = [random(sum(counts), 3)]  # some are longer than the cutoff
    assert relative(derivatives(lambda d: products._Value.apply(function, d), d), derivatives(function.plain, d)) < 1e-11


@pytest.mark.parametrize(("degree", "even"), [(1, True), (2, False), (3, True)])
def test_compiled_functions_of_pairs_and_their_derivatives_are_those_of_plain_torch(degree: int, even: bool) -> None:
    functions = PairFunctions(DensityConfig(degree=degree, radial=5, cutoff=2.5, mean_neighbors=4.0), even=even).double()  # type: ignore[arg-type]
    d = [random(45, 3)]  # some are longer than the cutoff
    assert relative(derivatives(functions, d), derivatives(functions.plain, d)) < 1e-11


@pytest.mark.parametrize("strained", [False, True])
def test_compiled_vectors_to_neighbours_and_their_derivatives_are_those_of_plain_torch(strained: bool) -> None:
    graph = GraphSpec(4.0, layout="dense")
    batch = collate([silicon(), water(), silicon()], [graph], torch.float64).with_leaves(strain=strained)
    if strained:  # derivatives also where the strain is not zero
        batch = replace(batch, strain=(torch.randn(3, 3, 3, dtype=torch.float64) / 10).requires_grad_())
    x = [batch.positions, batch.strain] if strained else [batch.positions]
    made = products._Displacements(batch, graph)
    assert relative(*([made_by(*x)] for made_by in (made.value, made.plain))) < 1e-15

    def first(function: Callable[..., Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad((function(*x).square() / 2).sum(), x, create_graph=True))

    fast, plain = (first(function) for function in (lambda *x: products._Value.apply(made, *x), made.plain))
    assert relative(fast, plain) < 1e-13
    second = [torch.autograd.grad(sum((v.square() / 2 + v).sum() for v in found), x) for found in (fast, plain)]  # type: ignore[arg-type]
    assert relative(*map(list, second)) < 1e-12


def test_an_expansion_is_the_sum_over_neighbours_of_sines_and_harmonics() -> None:
    """By hand, of two neighbours of one kind and one of another."""
    d, kind = np.array([[0.3, -0.4, 1.2], [0.0, 0.0, 2.0], [-1.5, 0.0, 0.0]]), np.array([0, 1, 0], dtype=np.int32)
    made = kernels.Expansion(np.array([0, 3]), kind, 2, degree=1, functions=2, cutoff=3.0, factor=0.25)(d)
    r = np.linalg.norm(d, axis=1)
    x = r / 3.0
    smooth = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8  # arXiv:2003.03123, equation 8 with p = 6
    radial = np.stack([np.sqrt(2 / 3.0) * np.sin(np.pi * x) / r, np.ones(3)]) * smooth / 4
    harmonics = np.concatenate([np.ones((3, 1)), d / r[:, None]], axis=1)
    for t in (0, 1):
        np.testing.assert_allclose(made[2 * t : 2 * t + 2, 0], (radial * (kind == t)) @ harmonics, rtol=1e-13, atol=1e-16)


def test_polynomials_have_the_same_bits_with_any_number_of_threads() -> None:
    form = kernels.CubicForm({(0, 0, 1, 2): 1.5, (1, 2, 2, 3): -0.5}, 2)
    x = np.random.default_rng(0).normal(size=(3, 1001))
    assert (form(x, x, x, threads=1) == form(x, x, x, threads=4)).all()
    np.testing.assert_allclose(form(x, x, x), [1.5 * x[0] * x[1] * x[2], -0.5 * x[2] * x[2]], rtol=1e-14)


@pytest.mark.parametrize("instructions", kernels.instruction_sets())
@pytest.mark.parametrize("dtype", products.ROUNDING)
def test_every_instruction_set_of_this_machine_agrees(instructions: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.INSTRUCTIONS, instructions)
    assert max(products._difference(function, x) for function, x in products._trials(dtype)) < (1e-6 if dtype == torch.float32 else 1e-13)


STRUCTURES = [
    [Structure(np.array([1]), np.zeros((1, 3)))],
    [water()],
    [water(), Structure(np.array([8]), np.zeros((1, 3))), methane()],
    [silicon()],
    [silicon(), water(), silicon(), methane(), water()],
]


def results(potential: Any, structures: list[Structure]) -> list[Tensor]:
    """Energies, forces, Hessian-vector products, and gradients by all parameters of a loss that contains all three."""
    batch = collate(structures, potential.spec.graphs, torch.float64).with_leaves()
    made = potential(batch, ("energy", "forces"), create_graph=True).values
    (row,) = torch.autograd.grad((made["forces"] * torch.arange(3.0)).sum(), batch.positions, create_graph=True, allow_unused=True)
    values = [made["energy"], made["forces"], *([] if row is None else [row])]
    loss: Tensor = sum((v.square() / 2 + v).sum() for v in values)  # type: ignore[assignment]  # not empty
    grads = torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True)
    return [*values, torch.cat([g.flatten() for g in grads if g is not None])]


@pytest.mark.parametrize(
    "structures",
    [*(pytest.param(s, marks=pytest.mark.full) for s in STRUCTURES[:-1]), STRUCTURES[-1]],
    ids=["one atom", "molecule", "with an isolated atom", "crystal", "mixed"],
)
def test_compiled_mace_equals_mace_in_plain_torch(structures: list[Structure], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = {"channels": 16, "layers": 2, "cutoff": 4.0, "mean_neighbors": 20.0}
    potential = build_potential("mace", {"elements": ["H", "C", "O", "Si"], "levels": ["pbe"], "dtype": "float64", "backbone": backbone})
    calls: list[Any] = []
    monkeypatch.setattr(mace, "message", lambda *x: calls.append(x) or products.message(*x))
    fast = results(potential, structures)
    assert calls
    monkeypatch.setattr(mace, "usable", lambda *x, **options: False)
    plain = results(potential, structures)
    assert len(calls) == 3  # one for each layer and one for the vectors between them, none in plain torch
    for a, b in zip(fast, plain, strict=True):
        assert float((a - b).detach().abs().max()) < 1e-10 * max(float(b.detach().abs().max()), 1.0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mixed", [None, 4])
def test_compiled_density_equals_density_in_plain_torch(layers: int, mixed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two levels, with charge and spin given and not given, ions among them, so that atoms of one element are of several kinds."""
    backbone = {"channels": 16, "mixed": mixed, "layers": layers, "cutoff": 4.0, "mean_neighbors": 20.0}
    options = {"levels": ["pbe", "r2scan"], "conditions": ["total_charge", "spin_multiplicity"], "heads": {"dipole": {}}}
    potential = build_potential("density", {"elements": ["H", "C", "O", "Si"], "dtype": "float64", "backbone": backbone, **options})
    with torch.no_grad():
        for parameter in potential.parameters():  # embeddings of charge and spin are small at first
            parameter.add_(0.3 * torch.randn_like(parameter))
    states = [{}, {"total_charge": 0, "spin_multiplicity": 1}, {"total_charge": 1, "spin_multiplicity": 2}, {"level": "r2scan"}]
    structures = [s.replace(**{"level": "pbe", **state}) for s in (water(), methane()) for state in states]
    structures.append(silicon().replace(level="pbe"))
    calls: dict[str, int] = {}
    for name in ("expansion", "message"):
        monkeypatch.setattr(
            density, name, lambda *x, name=name, **y: calls.update({name: calls.get(name, 0) + 1}) or getattr(products, name)(*x, **y)
        )
    fast = results(potential, structures)
    assert calls == ({"expansion": 1} if layers == 1 else {"expansion": 1, "message": 1})
    with products.plain_torch():
        plain = results(potential, structures)
    for a, b in zip(fast, plain, strict=True):
        assert float((a - b).detach().abs().max()) < 1e-10 * max(float(b.detach().abs().max()), 1.0)


def test_kinds_are_given_up_where_they_are_many_or_somebody_else_made_the_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = build_potential("density", {"elements": ["H", "O"], "levels": ["pbe"], "backbone": {"channels": 16, "layers": 1}})
    batch = collate([water().replace(level="pbe")] * 2, potential.spec.graphs)
    calls: list[Any] = []
    monkeypatch.setattr(density, "expansion", lambda *x, **y: calls.append(x) or products.expansion(*x, **y))
    s = torch.randn(1, 16).expand(6, 16)
    potential.backbone(s.contiguous(), batch)
    assert len(calls) == 1
    potential.backbone(torch.randn(6, 16), batch)
    monkeypatch.setattr(density, "MANY_KINDS", 1)
    potential.backbone(s.contiguous(), batch)
    assert len(calls) == 1


def test_channels_that_do_not_fill_vectors_and_other_precisions_stay_on_torch() -> None:
    x = torch.zeros(4, 8)
    assert products.usable(x, channels=32)
    assert not products.usable(x, channels=24)
    assert not products.usable(x.to(torch.bfloat16))
    assert not products.usable(x, x.double())
    assert not products.usable(x.to("meta"))


def test_compiled_products_that_give_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.Messages.second
    monkeypatch.setattr(kernels.Messages, "second", lambda *x: (1.001 * right(*x)[0], right(*x)[1]))
    with pytest.warns(MlipfmWarning, match=r"not used: off by .* of the largest number"):
        assert not products.usable(torch.zeros(2, 2))


def test_none_as_instruction_set_turns_compiled_code_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlipfm_models.density_kernel import kernels_missing

    monkeypatch.setenv(kernels.INSTRUCTIONS, "none")
    kernels_missing.cache_clear()
    assert kernels_missing() == "MLIPFM_INSTRUCTIONS=none asks for none"
    assert not products.usable(torch.zeros(2, 2))
    kernels_missing.cache_clear()


def test_sizes_that_do_not_fit_are_refused_before_any_arithmetic() -> None:
    first, neighbor, f = np.array([0, 2]), np.array([0, 0]), np.ones
    good = (f((7, 2)), f((3, 16)), f((1, 16)))
    assert kernels.Messages(first, neighbor)(*good).shape == (4, 1, 16)
    for place, wrong in [(0, f((7, 3))), (0, f((2, 2))), (1, f((3, 8))), (2, f((1, 32)))]:
        with pytest.raises(ValueError, match="do not fit"):
            kernels.Messages(first, neighbor)(*good[:place], wrong, *good[place + 1 :])
    for where, other in [(first, np.array([0, 1])), (np.array([0, 3]), neighbor)]:
        with pytest.raises(ValueError, match="do not fit"):
            kernels.Messages(where, other)(*good)
    with pytest.raises(ValueError, match="do not fit"):
        kernels.CubicForm({(0, 0, 1, 9): 1.0}, 1)(f((2, 5)), f((2, 5)), f((2, 5)))


def test_what_counts_operations_sees_those_of_plain_torch() -> None:
    """Preflight says what a step costs; it must be the same with and without compiled code."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    invariants, density = Invariants(3, 3), torch.randn(16, 48, dtype=torch.float64)
    assert products.usable(density)
    with Names():
        watched = invariants(density)
    assert "aten.mm.default" in seen
    assert torch.allclose(watched, invariants(density), rtol=1e-12, atol=1e-12)
