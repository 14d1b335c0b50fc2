"""Building a model from a file of unknown origin without allocating more than the file has.

A checkpoint of a kilobyte can have a configuration of terabytes. Its digest is right all the same: anybody can compute one. What a configuration
implies is known only when the model is built, so it is built under watch: a tensor larger than the weights in the file allow is refused before it
is allocated, and so is the first parameter too many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode

from .errors import RefusedFileError

#: Numbers that tables (Clebsch-Gordan coefficients, grids, references), which no file holds, may take: 64 MiB of float32.
TABLES = 2**24
#: A model may register each of its tensors this many times while it is built (moved, stacked, tied), and a few more.
REPEATS, FEW = 2, 64
#: Of a configuration: depth, characters of a name, entries of a list or mapping.
MAX_DEPTH, MAX_TEXT, MAX_ENTRIES = 16, 1000, 100_000

_BY_SHAPE = {
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "randint",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "empty_strided",
}
_BY_LENGTH = {"arange", "linspace", "logspace", "range", "randperm", "hann_window"}
_BY_SQUARE = {"eye", "tril_indices", "triu_indices"}


def check_plain(config: Mapping[str, Any], where: str) -> None:
    """A configuration is small, shallow and has finite numbers.

    Raises:
        RefusedFileError: naming the entry.
    """
    waiting: list[tuple[str, Any, int]] = [("config", config, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        fault = _plain_fault(value, depth)
        if fault is not None:
            raise RefusedFileError(f"its configuration cannot be that of a model: {place[:200]} {fault}", where=where)
        if isinstance(value, dict):
            waiting += [(f"{place}.{key[:100]}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{place}[{k}]", item, depth + 1) for k, item in enumerate(value)]


def _plain_fault(value: Any, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"is nested more than {MAX_DEPTH} deep"
    if isinstance(value, dict | list) and len(value) > MAX_ENTRIES:
        return f"has {len(value)} entries"
    if (isinstance(value, str) and len(value) > MAX_TEXT) or (isinstance(value, dict) and any(len(key) > MAX_TEXT for key in value)):
        return f"has a text of more than {MAX_TEXT} characters"
    if isinstance(value, int | float) and not abs(value) < 2**63:
        return f"is {str(value)[:30]}"
    return None


@contextmanager
def within(tensors: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """What is built inside has no more tensors and numbers than `tensors`, within a factor of `REPEATS`.

    Raises:
        RefusedFileError: at the first tensor or parameter too many.
    """
    watch = _Watch(tensors, where)
    hooks = [
        torch_modules.register_module_parameter_registration_hook(watch.registered),
        torch_modules.register_module_buffer_registration_hook(watch.registered),
    ]
    try:
        with watch:
            yield
    except MemoryError:
        watch.refuse("more memory than there is")
    finally:
        for hook in hooks:
            hook.remove()


class _Watch(TorchFunctionMode):
    """Watches every call of torch, refuses those whose result would be too large, and counts what modules register."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        self.where, self.count, self.numbers = where, len(tensors), sum(value.numel() for value in tensors.values())
        self.found, self.taken = 0, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = _asked(getattr(function, "__name__", ""), args, kwargs or {})
        self._check(size)
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._check(made.numel())
        return made

    def registered(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """A parameter or buffer of a module."""
        if value is None:
            return
        self.found, self.taken = self.found + 1, self.taken + value.numel()
        if isinstance(value, nn.Parameter) and self.found > REPEATS * self.count + FEW:
            self.refuse(f"more than {self.found - 1} tensors")
        self._check(self.taken)

    def refuse(self, what: str) -> None:
        raise RefusedFileError(
            f"its configuration asks for {what}, but the file holds {self.count} tensors of {self.numbers} numbers in all",
            where=self.where,
            hint="do not use this file; download the model again from its source",
        )

    def _check(self, numbers: int) -> None:
        if numbers > REPEATS * self.numbers + TABLES:
            self.refuse(f"{numbers} numbers")


def _asked(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Numbers of the tensor that a call is going to allocate; 0 if its arguments do not say."""
    if name in _BY_SHAPE:
        sizes = kwargs.get("size", args[1:] if name.startswith("new_") else args)
        return math.prod(_integers(sizes))
    if name in _BY_LENGTH:
        return max([abs(n) for n in (*args, kwargs.get("end", 0), kwargs.get("steps", 0)) if isinstance(n, int)], default=0)
    if name in _BY_SQUARE:
        sides = _integers(args)
        return math.prod(sides) ** (2 if len(sides) == 1 else 1)
    return 0


def _integers(sizes: Any) -> list[int]:
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        return [sizes]
    return [n for part in sizes for n in _integers(part)] if isinstance(sizes, tuple | list) else []
