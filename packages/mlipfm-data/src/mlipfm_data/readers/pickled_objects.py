"""What the data of pickles is made of: the closed list of names that are understood, and how numbers become arrays of numpy.

The functions here take the place of those that a pickle asks for; nothing of what it names is imported or called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError

if TYPE_CHECKING:
    from .safe_pickle import Machine

#: Bytes that one record may become: a record of a data set is some kilobytes.
MAX_BYTES = 1 << 28
MAX_DEPTH = 32

TORCH_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
    "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"f8": "f8", "f4": "f4", "f2": "f2", "i8": "i8", "i4": "i4", "i2": "i2", "i1": "i1", "u1": "u1", "u2": "u2", "u4": "u4",
           "u8": "u8", "b1": "?"}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names: never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Pending:
    """An object that is being built: what it is of, and the state that BUILD gives it."""

    of: Name
    state: Any = None


@dataclass(eq=False)
class DType:
    code: str
    order: str = "<"


@dataclass(eq=False)
class Array:
    """An array of numpy between its creation and BUILD, which brings the numbers."""

    value: np.ndarray | None = None


class _Mark:
    """Where a list begins on the stack."""


MARK = _Mark()
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
#: Objects whose state is a dictionary of what we want.
RECORDS = {
    Name("torch_geometric.data.data", "Data"), Name("torch_geometric.data.storage", "GlobalStorage"), Name("torch_geometric.data", "Data"),
    Name("torch_geometric.data.batch", "Batch"),
}  # fmt: skip


def refuse(what: str) -> RefusedFileError:
    return RefusedFileError(f"the pickle {what}, which no data needs: it is not run", hint="do not use this file")


def numpy_array(m: Machine, state: Any) -> np.ndarray:
    _, shape, dtype, fortran, raw = state
    if isinstance(raw, list):
        raise refuse("holds an array of objects")
    return _from_bytes(m, raw, dtype, tuple(shape), bool(fortran))


def _from_bytes(m: Machine, raw: Any, dtype: Any, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    if not isinstance(dtype, DType) or not isinstance(raw, bytes | bytearray | str):
        raise refuse("holds an array of no numbers")
    m.spend(2 * len(raw))
    raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    kind = np.dtype(_DTYPES[dtype.code]).newbyteorder(dtype.order)  # type: ignore[arg-type]  # checked in `_build`
    array = np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if fortran else "C")
    return array.astype(kind.newbyteorder("="))


def _dtype(m: Machine, arguments: tuple[Any, ...]) -> DType:
    code = arguments[0]
    if not isinstance(code, str) or code.lstrip("<>|=") not in _DTYPES:
        raise refuse(f"holds an array of type {str(code)[:20]!r}")
    return DType(code.lstrip("<>|="), ">" if code.startswith(">") else "<")


def _scalar(m: Machine, arguments: tuple[Any, ...]) -> Any:
    return _from_bytes(m, arguments[1], arguments[0], (), False)[()].item()


def _from_buffer(m: Machine, arguments: tuple[Any, ...]) -> np.ndarray:
    raw, dtype, shape, order = arguments
    return _from_bytes(m, raw, dtype, tuple(shape), order == "F")


def _encode(m: Machine, arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise refuse("encodes text")
    m.spend(len(text))
    return text.encode("latin1")


def _empty(m: Machine, arguments: tuple[Any, ...]) -> bytes:
    """`bytes()`, as the old protocols spell no bytes."""
    if arguments:
        raise refuse("makes bytes of something else")
    return b""


def _dict(m: Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, or of pairs."""
    if not arguments:
        return {}
    m.spend(100 * len(arguments[0]))
    return dict(arguments[0])


def _size(m: Machine, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    m.spend(8 * len(arguments[0]))
    return tuple(arguments[0])


def _tensor(m: Machine, arguments: tuple[Any, ...]) -> np.ndarray:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; the numbers are copied, and every stride is checked."""
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise refuse("makes a tensor of something that holds no numbers")
    size, stride = tuple([int(n) for n in size]), tuple([int(n) for n in stride])
    if len(size) != len(stride) or len(size) > 8 or min(*size, *stride, offset, 0) < 0:
        raise UnreadableFileError(f"a tensor of shape {size} and strides {stride} is no record")
    m.spend(16 * math.prod(size))
    if math.prod(size) == 0:
        return np.zeros(size, dtype=storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage):
        raise UnreadableFileError(f"a tensor of shape {size} reaches beyond its {len(storage)} numbers")
    index = np.full((), offset)
    for n, step in zip(size, stride, strict=True):
        index = index[..., None] + np.arange(n) * step
    return storage[index]


def _storage(m: Machine, arguments: tuple[Any, ...]) -> np.ndarray:
    """`_load_from_bytes`: a file of torch's old format inside the pickle: magic number, version, sizes, a storage, its numbers."""
    raw = arguments[0]
    if not isinstance(raw, bytes) or m.inner:
        raise refuse("holds pickles in pickles")
    m.spend(len(raw))
    inner = m.nested(raw)
    values, place = [], 0
    for _ in range(5):
        value, place = inner.run(place)
        values.append(value)
    magic, _, _, token, keys = values
    if magic != _TORCH_MAGIC or not isinstance(token, Token) or keys != [token.key]:
        raise UnreadableFileError("this is no storage of torch")
    dtype = np.dtype(TORCH_TYPES[token.kind])
    inner.here = place
    count = inner.number("<q")
    if count != token.count:
        raise UnreadableFileError(f"a storage of torch says {token.count} numbers and holds {count}")
    return np.frombuffer(inner.take(count * dtype.itemsize), dtype=dtype)


@dataclass(frozen=True)
class Token:
    """A storage that torch keeps outside the pickle: type, key and length."""

    kind: str
    key: str
    count: int


CALLS: dict[Name, Callable[[Machine, tuple[Any, ...]], Any]] = {
    Name("collections", "OrderedDict"): _dict,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch.storage", "_load_from_bytes"): _storage,
    Name("torch", "Size"): _size,
    Name("numpy", "dtype"): _dtype,
    Name("_codecs", "encode"): _encode,
    Name("builtins", "bytes"): _empty,
    Name("__builtin__", "bytes"): _empty,
    Name("copyreg", "_reconstructor"): lambda m, a: _object(a[0]),
    **{Name(module, "_reconstruct"): (lambda m, a: Array()) for module in _MULTIARRAY},
    **{Name(module, "scalar"): _scalar for module in _MULTIARRAY},
    **{Name(f"{module.rsplit('.', 1)[0]}.numeric", "_frombuffer"): _from_buffer for module in _MULTIARRAY},
}
#: Names that stand as arguments of the calls above, and say nothing more.
INERT = {Name("numpy", "ndarray"), Name("builtins", "object"), Name("__builtin__", "object")}


def _object(kind: Any) -> Pending:
    if not isinstance(kind, Name) or kind not in RECORDS:
        raise refuse(f"makes an object of {kind}")
    return Pending(kind)


class Finishing:
    """Turns what the interpreter left into plain data. What is reached twice is built once; loops are refused, and so is what only looks small."""

    def __init__(self, left: list[int]) -> None:
        self.left = left
        self.seen: dict[int, tuple[Any, int] | None] = {}

    def finished(self, value: Any, depth: int) -> Any:
        return self._finished(value, depth)[0]

    def _finished(self, value: Any, depth: int) -> tuple[Any, int]:
        """The plain value, and the bytes it would have if nothing in it were shared."""
        if depth > MAX_DEPTH:
            raise UnreadableFileError(f"the pickle is nested deeper than {MAX_DEPTH}")
        if isinstance(value, Pending):
            done, size = self._finished(_mapping(value), depth + 1)
            return dict(done), size
        if isinstance(value, Array):
            return value.value, 0 if value.value is None else value.value.nbytes
        if isinstance(value, Name | DType | Token | _Mark):
            return None, 8
        if not isinstance(value, list | tuple | dict):
            return value, value.nbytes if isinstance(value, np.ndarray) else 8
        if id(value) not in self.seen:
            self.seen[id(value)] = None
            self.seen[id(value)] = self._collected(value, depth)
        known = self.seen[id(value)]
        if known is None:
            raise UnreadableFileError("the pickle contains itself")
        return known

    def _collected(self, value: list[Any] | tuple[Any, ...] | dict[Any, Any], depth: int) -> tuple[Any, int]:
        items = [self._finished(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
        size = 8 + sum(size for _, size in items)
        if size > self.left[0]:
            raise UnreadableFileError(f"the pickle grows beyond {MAX_BYTES} bytes")
        if isinstance(value, dict):
            return dict(zip(map(_key, value), (done for done, _ in items), strict=True)), size
        return type(value)([done for done, _ in items]), size


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | bytes | None):
        raise UnreadableFileError(f"the pickle has a dictionary whose key is a {type(key).__name__}")
    return key


def _mapping(value: Pending) -> dict[str, Any]:
    """The data of an object of torch_geometric: its own dictionary, or that of its store (version 2 and later); the back reference is left out."""
    state = value.state
    if isinstance(state, dict) and isinstance(state.get("_store"), Pending):
        state = state["_store"].state
    if isinstance(state, dict) and "_mapping" in state:
        state = state["_mapping"]
    return state if isinstance(state, dict) else {}
