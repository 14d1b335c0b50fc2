"""Parts of backbones as compiled code of mlipfm-kernels, where it is installed: vectors to neighbours
and functions of them, messages and expansions, and polynomials of densities.

All are sums of products, which torch computes as many operations on large temporary arrays, and their first and second derivatives as more. Here
each derivative is one pass over the atoms. Third derivatives (Hessian rows in a loss) are those of plain torch. Weights are arguments: nothing is
compiled for a model. Results equal those of plain torch to rounding (decisions/0016). Without the package, on a GPU, in other precisions and with
MLIPFM_INSTRUCTIONS=none backbones use plain torch.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.errors import MlipfmWarning
from mlipfm_interfaces.neighbors import DenseView
from mlipfm_interfaces.structure import Structure
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode

if TYPE_CHECKING:
    from mlipfm_kernels import CubicForm, Expansion, Messages, PairFunctions

__all__ = ["Polynomial", "displacements", "expansion", "message", "pair_functions", "plain_torch", "trusted", "usable"]

#: Numbers of an array for which another thread is started.
SHARE = 100_000


#: Largest difference to plain torch, as a part of the largest number.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
NUMPY: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


_plain = ContextVar("plain torch", default=False)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it nothing of this module computes: what other compiled code is compared with."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def usable(*tensors: Tensor, channels: int = 16) -> bool:
    """Whether compiled code computes with these tensors: on the CPU, of one precision, `channels` a multiple of 16. What watches torch's operations
    (counts them, or writes down a graph) finds all of them."""
    dtype = tensors[0].dtype
    return (
        dtype in ROUNDING
        and channels % 16 == 0
        and all(x.dtype == dtype and x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) for x in tensors)
        and not _plain.get()
        and _get_current_dispatch_mode() is None
        and trusted(dtype)
    )


@lru_cache(maxsize=2)
def trusted(dtype: torch.dtype) -> bool:
    """Return whether mlipfm-kernels is installed and gives what plain torch gives, values and derivatives; looked at once in a process.

    Warns:
        MlipfmWarning: it gives something else, and is not used.
    """
    from ..density_kernel import kernels_missing

    if kernels_missing() is not None:
        return False
    try:
        from mlipfm_kernels import CubicForm, Displacements, Expansion, Messages, PairFunctions  # noqa: F401
    except ImportError:  # of an older version
        return False
    with torch.inference_mode(False), torch.enable_grad():
        off = max(_difference(product, x) for product, x in _trials(dtype))
    if not off <= ROUNDING[dtype]:
        warnings.warn(
            f"compiled products of mlipfm-kernels are not used: off by {off:.1e} of the largest number", MlipfmWarning, stacklevel=3
        )
    return off <= ROUNDING[dtype]


class Product(Protocol):
    """A function of tensors with its derivatives, and the same in plain torch."""

    @property
    def plain(self) -> Callable[..., Tensor]: ...
    def value(self, *x: Tensor) -> Tensor: ...
    def gradient(self, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Sequence[Tensor | None]:
        """Gradients of sum(g x value) by those x that are wanted."""

    def second(self, wanted: Sequence[bool], g: Tensor, x: Sequence[Tensor], v: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Gradients of sum(v[k] x gradient[k]) by g and each x; v is None where it is zero."""


def _asked(ctx: Any) -> tuple[bool, ...]:
    """Return for each tensor given to a Function whether this backward pass goes on to it; of leaves torch does not say, they count as asked.

    Forces ask for no gradients of weights, and training asks for none of positions: `ctx.needs_input_grad` would say yes to both.
    """
    return tuple(
        node is not None and (hasattr(node, "variable") or torch._C._will_engine_execute_node(node)) for node, _ in ctx.next_functions
    )


class _Value(Function):
    @staticmethod
    def forward(ctx: Any, of: Product, *x: Tensor) -> Tensor:
        ctx.of = of
        ctx.save_for_backward(*x)
        return of.value(*x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, *_Gradient.apply(ctx.of, _asked(ctx), g, *ctx.saved_tensors)


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, of: Product, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Any:
        ctx.of = of
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, *x)
        return tuple(of.gradient(wanted, g, *x))

    @staticmethod
    def backward(ctx: Any, *v: Tensor | None) -> Any:
        return None, None, *_Second.apply(ctx.of, _asked(ctx), *ctx.saved_tensors, *v)


class _Second(Function):
    @staticmethod
    def forward(ctx: Any, of: Product, wanted: Sequence[bool], *given: Tensor | None) -> Any:
        ctx.of, ctx.count = of, len(wanted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given)
        (g, *x), v = given[: ctx.count], given[ctx.count :]
        return tuple(of.second(wanted, g, x, v))  # type: ignore[arg-type]  # only v can be None

    @staticmethod
    def backward(ctx: Any, *w: Tensor | None) -> Any:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():  # aliases, because v may depend on x: partial derivatives are wanted
            given = [t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in ctx.saved_tensors]
            (g, *x), v = given[: ctx.count], given[ctx.count :]
            first = torch.autograd.grad((ctx.of.plain(*x) * g).sum(), x, create_graph=True)  # type: ignore[arg-type]  # no x is None
            second = _slopes(first, v, [g, *x], create_graph=True)
            third = _slopes(second, w, given, create_graph=keep)
        return None, None, *third


def _slopes(
    values: Sequence[Tensor | None], weights: Sequence[Tensor | None], by: Sequence[Tensor | None], *, create_graph: bool
) -> list[Tensor | None]:
    """Gradients of the sum of values x weights; None counts as zero, as a value, a weight or a variable."""
    pairs = [(a, b) for a, b in zip(values, weights, strict=True) if a is not None and b is not None]
    if not pairs:
        return [None] * len(by)
    total: Tensor = sum((a * b).sum() for a, b in pairs)  # type: ignore[assignment]  # `grad_outputs` would import sympy, a second or more
    variables = [x for x in by if x is not None]
    found = iter(torch.autograd.grad(total, variables, create_graph=create_graph, allow_unused=True))
    return [None if x is None else next(found) for x in by]


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _tensors(arrays: Sequence[Any]) -> list[Tensor | None]:
    return [None if x is None else torch.from_numpy(x) for x in arrays]


def _threads(numbers: int) -> int:
    return max(1, min(torch.get_num_threads(), numbers // SHARE))


class Polynomial:
    """Polynomials of degree three and less of the rows of x [rows, columns], column by column: out[p] = sum of c x[i] x[j] x[k].

    Args:
        terms: {(p, i, j, k): c} with i <= j <= k; the row number `rows` stands for one. rows: of x, at most 31. outputs: polynomials.
        plain: the same in plain torch.
    """

    def __init__(
        self, terms: Mapping[tuple[int, int, int, int], float], rows: int, outputs: int, plain: Callable[[Tensor], Tensor]
    ) -> None:
        from mlipfm_kernels import CubicForm

        self.plain = plain
        value, slope, change, curve = (defaultdict[tuple[int, int, int, int], float](float) for _ in range(4))
        for (p, *factors), c in terms.items():
            value[p, *factors] += c  # type: ignore[index]  # four numbers
            for i, j, k in permutations(factors):  # every order counts a sixth of 6 (d/dx of x x x, twice) or of 3 (once)
                first, last = sorted((i, j)), sorted((j, k))
                if k < rows:
                    slope[k, p, first[0], first[1]] += c / 2
                if i < rows:
                    change[p, i, last[0], last[1]] += c / 2
                if k < rows and i < rows:
                    curve[k, p, i, j] += c
        self._value, self._slope, self._change, self._curve = (
            CubicForm(found, count) for found, count in ((value, outputs), (slope, rows), (change, outputs), (curve, rows))
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return [outputs, columns]."""
        result: Tensor = _Value.apply(self, x)
        return result

    def value(self, *x: Tensor) -> Tensor:
        return self._of(self._value, x[0], x[0], x[0])

    def gradient(self, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Sequence[Tensor | None]:
        return (self._of(self._slope, g, x[0], x[0]),)

    def second(self, wanted: Sequence[bool], g: Tensor, x: Sequence[Tensor], v: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if v[0] is None:
            return None, None
        by_g = self._of(self._change, v[0], x[0], x[0]) if wanted[0] else None
        return by_g, self._of(self._curve, g, v[0], x[0]) if wanted[1] else None

    @staticmethod
    def _of(form: CubicForm, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return torch.from_numpy(form(_array(x), _array(y), _array(z), _threads(z.numel())))


class _Message:
    """See `message`; x are functions, weights and scalars."""

    def __init__(self, first: Tensor, neighbor: Tensor, numbers: int) -> None:
        from mlipfm_kernels import Messages

        self.first, self.neighbor = first, neighbor
        self._messages: Messages = Messages(first.numpy(), neighbor.numpy(), _threads(numbers))

    def plain(self, *x: Tensor) -> Tensor:
        functions, weights, scalars = x
        radial, angular = functions[: len(weights)], functions[len(weights) :]
        amplitude = (radial.mT @ weights) * scalars.index_select(0, self.neighbor)
        pairs = (angular.T[:, :, None] * amplitude[:, None]).flatten(1)
        center = torch.repeat_interleave(torch.arange(len(self.first) - 1), self.first.diff())[:, None].expand_as(pairs)
        total = pairs.new_zeros(len(self.first) - 1, pairs.shape[1]).scatter_add(0, center, pairs)  # index_add goes row by row
        return total.unflatten(1, (len(angular), -1)).transpose(0, 1)

    def value(self, *x: Tensor) -> Tensor:
        return torch.from_numpy(self._messages(*map(_array, x)))

    def gradient(self, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Sequence[Tensor | None]:
        return _tensors(self._messages.gradient(tuple(wanted), _array(g), *map(_array, x)))

    def second(self, wanted: Sequence[bool], g: Tensor, x: Sequence[Tensor], v: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        change = tuple(None if k is None else _array(k) for k in v)
        by_g, by_x = self._messages.second(tuple(wanted[1:]), _array(g), tuple(map(_array, x)), change)
        return [torch.from_numpy(by_g), *_tensors(by_x)]


def message(functions: Tensor, weights: Tensor, scalars: Tensor, first: Tensor, neighbor: Tensor) -> Tensor:
    """Return sums over neighbours [M, A, C]: of angular [M, P] times radial.T [P, N] @ weights [N, C] times the scalars [atoms, C] of the neighbour.

    `functions` [N + M, P] are radial and below them angular, `first` [A + 1] int64 says where the pairs of each atom begin, `neighbor` [P] int64
    are rows of the scalars.
    """
    result: Tensor = _Value.apply(_Message(first, neighbor, neighbor.numel() * scalars.shape[1]), functions, weights, scalars)
    return result


class _OfVectors:
    """What is a function of vectors [P, 3] and has derivatives along directions: expansions and functions of pairs. `plain` is the same in torch."""

    def __init__(self, made: Expansion | PairFunctions, plain: Callable[[Tensor], Tensor]) -> None:
        self._made, self.plain = made, plain

    def value(self, *x: Tensor) -> Tensor:
        return torch.from_numpy(self._made(_array(x[0])))

    def gradient(self, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Sequence[Tensor | None]:
        return (torch.from_numpy(self._made.gradient(_array(g), _array(x[0]))) if wanted[0] else None,)

    def second(self, wanted: Sequence[bool], g: Tensor, x: Sequence[Tensor], v: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if v[0] is None:
            return None, None
        d, along = _array(x[0]), _array(v[0])
        by_g = torch.from_numpy(self._made(d, along)) if wanted[0] else None
        return by_g, torch.from_numpy(self._made.gradient(_array(g), d, along)) if wanted[1] else None


def pair_functions(
    d: Tensor, factors: Sequence[float], *, degree: int, functions: int, cutoff: float, plain: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return radial functions and below them spherical harmonics [N + M, P] of the vectors d [P, 3], each row times its factor.

    See `mlipfm_kernels.PairFunctions`, whose arguments these are.

    Args:
        plain: the same in plain torch.
    """
    from mlipfm_kernels import PairFunctions

    how: Any = {"degree": degree, "functions": functions, "cutoff": cutoff, "factors": np.array(factors)}
    result: Tensor = _Value.apply(_OfVectors(PairFunctions(**how, threads=_threads(len(factors) * len(d))), plain), d)
    return result


def expansion(
    d: Tensor, first: Tensor, kind: Tensor, kinds: int, *, degree: int, functions: int, cutoff: float, factor: float,
    plain: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Return sums over neighbours [kinds x functions, A, M] of radial functions times spherical harmonics of the vectors d [P, 3].

    See `mlipfm_kernels.Expansion`, whose arguments these are: `first` [A + 1] int64, `kind` [P] int32.

    Args:
        plain: the same in plain torch.
    """
    from mlipfm_kernels import Expansion

    how: Any = {"degree": degree, "functions": functions, "cutoff": cutoff, "factor": factor}
    made = Expansion(first.numpy(), kind.numpy(), kinds, **how, threads=_threads(functions * (degree + 1) ** 2 * len(d)))
    result: Tensor = _Value.apply(_OfVectors(made, plain), d)
    return result


class _Displacements:
    """See `displacements`; x are positions and, where it takes part, strain."""

    def __init__(self, batch: Batch, graph: GraphSpec) -> None:
        from mlipfm_kernels import Displacements

        view, self._dtype = batch.views[graph], batch.dtype
        assert isinstance(view, DenseView)
        atoms, slots = view.index.shape
        index, shift, mask, system, cell = (_array(x) for x in (view.index, view.shift, view.mask, batch.system, batch.cell))
        self._made = Displacements(np.arange(atoms + 1) * slots, index, shift, mask, system, cell, 2 * graph.cutoff)
        self._shape = (atoms, slots, 3)
        self._batch, self._graph = batch, graph

    def plain(self, *x: Tensor) -> Tensor:
        positions, strain = x if len(x) > 1 else (x[0], self._batch.strain)
        return replace(self._batch, positions=positions, strain=strain).displacements(self._graph)

    def value(self, *x: Tensor) -> Tensor:
        found = self._made(NUMPY[self._dtype], *_two([_array(t) for t in x]))
        return torch.from_numpy(found).view(self._shape)

    def gradient(self, wanted: Sequence[bool], g: Tensor, *x: Tensor) -> Sequence[Tensor | None]:
        both = _two([bool(w) for w in wanted])
        found = self._made.gradient((both[0], bool(both[1])), _array(g), *_two([_array(t) for t in x]))
        return _tensors(found[: len(x)])

    def second(self, wanted: Sequence[bool], g: Tensor, x: Sequence[Tensor], v: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if all(k is None for k in v):
            return [None] * (1 + len(x))
        at, along = _two([_array(t) for t in x]), _two([None if k is None else _array(k) for k in v])
        by_g = torch.from_numpy(self._made(NUMPY[self._dtype], *at, *along)).view(self._shape) if wanted[0] else None
        both = _two([bool(w) for w in wanted[1:]])
        return by_g, *_tensors(self._made.gradient((both[0], bool(both[1])), _array(g), *at, *along)[: len(x)])


def _two(values: Sequence[Any]) -> tuple[Any, Any]:
    return (values[0], values[1]) if len(values) > 1 else (values[0], None)


def displacements(batch: Batch, graph: GraphSpec) -> Tensor:
    """Return what `batch.displacements(graph)` returns for a dense graph."""
    x = (batch.positions, batch.strain) if batch.strain.requires_grad else (batch.positions,)
    result: Tensor = _Value.apply(_Displacements(batch, graph), *x)
    return result


def _trials(dtype: torch.dtype) -> Iterator[tuple[Product, list[Tensor]]]:
    """Products and factors of five sizes: none, fewer numbers than a vector of the processor has, some vectors and a rest."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=dtype).requires_grad_()

    def plain(x: Tensor) -> Tensor:
        return torch.stack([x[0], x[0] * x[2] * x[3] - 2.0 * x[1].square(), x[1] ** 3])

    terms = {(0, 0, 4, 4): 1.0, (1, 0, 2, 3): 1.0, (1, 1, 1, 4): -2.0, (2, 1, 1, 1): 1.0}
    for columns in (0, 1, 7, 16, 45):
        yield Polynomial(terms, 4, 3, plain), [draw(4, columns)]
    for counts in ((0,), (1,), (2, 0, 5), (3, 1, 9, 0, 4), (30, 7)):
        first = torch.tensor([0, *counts]).cumsum(0)
        neighbor = torch.randint(len(counts), (sum(counts),), generator=random)
        yield _Message(first, neighbor, 0), [draw(14, sum(counts)), draw(9, 48), draw(len(counts), 48)]
        if sum(counts) != 1:  # of one pair all that is left of the second derivative may be rounding
            direction, length = draw(sum(counts), 3).detach(), 1.0 + 1.8 * torch.rand(sum(counts), 1, generator=random, dtype=dtype)
            vectors = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True) * length
            yield from ((made, [vectors.clone().requires_grad_()]) for made in _vector_trials(first, random))
    yield (
        _displacement_trial(dtype),
        [draw(7, 3).double().detach().requires_grad_(), (draw(2, 3, 3) / 9).double().detach().requires_grad_()],
    )


def _vector_trials(first: Tensor, random: torch.Generator) -> Iterator[Product]:
    """Yield expansions in four radial functions up to degree 3, of three kinds and pairs of none, and the functions of single pairs; some vectors are
    longer than the cutoff."""
    from mlipfm_kernels import Expansion, PairFunctions

    from ._harmonics import harmonics_table
    from ._pair_functions import PairFunctions as Plain
    from .density import DensityConfig, expand

    config, table = DensityConfig(cutoff=2.5, radial=3), harmonics_table(3)
    kind = torch.randint(-1, 3, (int(first[-1]),), generator=random, dtype=torch.int32)
    size: Any = {"degree": 3, "functions": 4, "cutoff": 2.5}
    made = Expansion(first.numpy(), kind.numpy(), 3, **size, factor=config.mean_neighbors**-0.5)
    yield _OfVectors(made, lambda d: expand(d, first, kind, 3, config, table.to(d)))
    factors = np.array([config.mean_neighbors**-0.5] * 4 + [1.0] * 16)
    yield _OfVectors(PairFunctions(**size, factors=factors), Plain(config, even=False).double().plain)


def _displacement_trial(dtype: torch.dtype) -> Product:
    """Return the vectors between five and two atoms in two cells, some over a boundary, some to images."""
    random, graph = np.random.default_rng(0), GraphSpec(3.0, layout="dense")
    grid = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * 1.4
    cells = [np.eye(3) * 2.9 + random.normal(0, 0.1, (3, 3)) for _ in range(2)]
    structures = [Structure(np.ones(n, dtype=int), grid[:n], cell, np.ones(3, dtype=bool)) for n, cell in zip((5, 2), cells, strict=True)]
    return _Displacements(collate(structures, [graph], dtype), graph)


def _difference(product: Product, x: list[Tensor]) -> float:
    """Largest difference of value, gradients and their gradients to those of plain torch in float64, as a part of the largest number of each."""
    results = []
    for function, y in ((lambda *x: _Value.apply(product, *x), x), (product.plain, [t.detach().double().requires_grad_() for t in x])):
        value = function(*y)
        first = torch.autograd.grad((value.square() / 2 + value).sum(), y, create_graph=True)
        second = torch.autograd.grad(sum((g.square() / 2 + g).sum() for g in first), y)  # type: ignore[arg-type]  # a Tensor: y is not empty
        results.append([value, *first, *second])
    pairs = [(a, b) for a, b in zip(*results, strict=True) if b.numel()]
    return max((float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1.0)) for a, b in pairs), default=0.0)
