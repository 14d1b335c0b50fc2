"""The contents of a pickle as plain data: nothing that a pickle names is imported or called.

Some public data sets are LMDB files of pickles, and a pickle is a program that may call any function of Python. Here `pickletools` first reads its
instructions, and only those that data needs are allowed. Then the `Unpickler` of the standard library runs it with a closed list of stand-ins in the
place of what it names: arrays of numpy and torch become copies in numpy, objects of torch_geometric dictionaries. Stand-ins have no attributes that
a pickle could set, and what they return is packed (`_Packed`), so that a pickle never holds an array. Sizes, depth and instructions are bounded.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

import numpy as np
from mlipfm_interfaces.errors import MlipfmError, RefusedFileError, UnreadableFileError

#: Bytes that a record may become, instructions that it may have, and levels of nesting: a record of a data set is some kilobytes.
MAX_BYTES, MAX_INSTRUCTIONS, MAX_DEPTH = 1 << 28, 100_000, 32
#: Instructions that build data. INST, OBJ, EXT, PERSID, NEWOBJ_EX, sets, and buffers outside the pickle are not here.
_NAMES = """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT LONG LONG1 LONG4 BININT BININT1 BININT2 BINFLOAT FLOAT BINSTRING
    SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE EMPTY_LIST EMPTY_TUPLE EMPTY_DICT
    LIST TUPLE DICT TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
    REDUCE NEWOBJ BUILD BINPERSID"""
_ALLOWED = frozenset(_NAMES.split())
_TORCH_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
    "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {**{code: code for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8")}, "b1": "?"}


def plain(data: bytes) -> Any:
    """Return what a pickle holds: None, bool, int, float, str, bytes, list, tuple, dict, and numpy arrays.

    Raises:
        RefusedFileError: it names something that is not on the list, or uses an instruction that data does not need. UnreadableFileError: it is
            cut off, damaged, or larger than any record.
    """
    try:
        loader = _Loader(BytesIO(data))
        return loader.unpacked(loader.checked_load(), 0, {})[0]
    except MlipfmError:
        raise
    except Exception as error:  # whatever the Unpickler meets in a damaged pickle
        raise UnreadableFileError(f"this is no whole pickle of data ({type(error).__name__}: {str(error)[:80]})") from None


def _refuse(what: str) -> NoReturn:
    raise RefusedFileError(f"the pickle {what}, which no data needs: it is not run", hint="do not use this file")


class _StandIn:
    """Takes the place of a function or class that a pickle names; `call` is None for a name that is only an argument."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None) -> None:
        self.name, self._call = name, call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments) if self._call is not None else _refuse(f"calls {self.name}")

    def __setstate__(self, state: Any) -> None:
        _refuse(f"sets the state of {self.name}")


class _Packed:
    """A value that a pickle can pass on, and neither read nor change."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _refuse(f"sets the state of {type(self.value).__name__}")


class _Storage(NamedTuple):
    """A storage that torch keeps outside the pickle: type, key and length."""

    kind: str
    key: Any
    length: int


class _DType(_Packed):
    """A type of numbers; its state says the order of the bytes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.value = self.value.newbyteorder(">")


class _Record:
    """An object whose state is a dictionary of what we want (of torch_geometric)."""

    __slots__ = ("values",)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict) and isinstance(state.get("_store"), _Record):  # torch_geometric 2 and later
            state = state["_store"].values
        state = state.get("_mapping", state) if isinstance(state, dict) else {}
        self.values = {key: value for key, value in state.items() if key != "_parent"}  # `_parent` leads back, and makes a ring


class _Loader(pickle.Unpickler):
    """Loads pickles from a stream with stand-ins; `left` is the number of bytes that may still be made."""

    def __init__(self, stream: BytesIO, left: list[int] | None = None) -> None:
        super().__init__(stream, fix_imports=False, encoding="bytes")
        self.stream, self.inner, self.left = stream, left is not None, left or [MAX_BYTES]

    def checked_load(self) -> Any:
        """Load the next pickle of the stream, after its instructions were checked."""
        start = self.stream.tell()
        for count, (opcode, argument, place) in enumerate(pickletools.genops(self.stream), 1):
            if opcode.name not in _ALLOWED:
                _refuse(f"uses the instruction {opcode.name} at byte {place}")
            if count > MAX_INSTRUCTIONS:
                raise UnreadableFileError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")
            number = argument if isinstance(argument, int) and opcode.name != "FRAME" else 0
            if number.bit_length() > 512 or ("PUT" in opcode.name and number > MAX_INSTRUCTIONS):
                raise UnreadableFileError(f"the pickle holds a number of {number.bit_length()} bits, or as many places in its memo")
        self.stream.seek(start)
        return self.load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return _Record
        call = _CALLS.get((module, name))
        if call is None and (module, name) not in _INERT and not (module == "torch" and name in _TORCH_TYPES):
            _refuse(f"names {module}.{name}")
        return _StandIn(name, None if call is None else getattr(self, call))

    def persistent_load(self, pid: Any) -> Any:
        """('storage', type, key, device, length, view) of torch's old format; allowed only inside `_load_from_bytes`."""
        if not self.inner or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
            _refuse("refers to something outside itself")
        if not isinstance(pid[1], _StandIn) or pid[1].name not in _TORCH_TYPES or (len(pid) > 5 and pid[5] is not None):
            _refuse("holds a tensor of something that is no storage of torch")
        return _Packed(_Storage(pid[1].name, pid[2], int(pid[4])))

    def _spend(self, size: int) -> None:
        """Count bytes that are made anew: something in the memo can be copied a million times by a short pickle."""
        self.left[0] -= size
        if self.left[0] < 0:
            raise UnreadableFileError(f"the pickle grows beyond {MAX_BYTES} bytes")

    def _numbers(self, raw: Any, dtype: Any, shape: tuple[int, ...], fortran: bool) -> _Packed:
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray | str):
            _refuse("holds an array of no numbers")
        self._spend(2 * len(raw))
        raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        array = np.frombuffer(raw, dtype=dtype.value).reshape(shape, order="F" if fortran else "C")
        return _Packed(array.astype(dtype.value.newbyteorder("=")))

    def _dtype(self, code: Any, *_: Any) -> _DType:
        code = code.decode() if isinstance(code, bytes) else code
        if not isinstance(code, str) or code.lstrip("<>|=") not in _DTYPES:
            _refuse(f"holds an array of type {str(code)[:20]!r}")
        return _DType(np.dtype(_DTYPES[code.lstrip("<>|=")]).newbyteorder(">" if code.startswith(">") else "<"))

    def _array(self, *_: Any) -> _Array:
        return _Array(self)

    def _scalar(self, dtype: Any, raw: Any) -> Any:
        return self._numbers(raw, dtype, (), False).value[()].item()

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Packed:
        return self._numbers(raw, dtype, tuple(shape), order == "F")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            _refuse("encodes text")
        self._spend(len(text))
        return text.encode("latin1")

    def _no_bytes(self) -> bytes:
        """`bytes()`, as the old protocols spell no bytes."""
        return b""

    def _dict(self, pairs: Any = ()) -> _Dict:
        self._spend(100 * len(pairs))
        return _Dict(pairs)

    def _size(self, lengths: Any) -> tuple[Any, ...]:
        self._spend(8 * len(lengths))
        return tuple(lengths)

    def _object(self, kind: Any, *_: Any) -> _Record:
        return _Record() if kind is _Record else _refuse("makes an object that is no record")

    def _tensor(self, packed: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Packed:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; the numbers are copied, and every stride is checked."""
        storage = packed.value if isinstance(packed, _Packed) else None
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            _refuse("makes a tensor of something that holds no numbers")
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        if len(size) != len(stride) or len(size) > 8 or min(*size, *stride, offset, 0) < 0:
            raise UnreadableFileError(f"a tensor of shape {size} and strides {stride} is no record")
        self._spend(16 * math.prod(size))
        if math.prod(size) == 0:
            return _Packed(np.zeros(size, dtype=storage.dtype))
        if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(storage):
            raise UnreadableFileError(f"a tensor of shape {size} reaches beyond its {len(storage)} numbers")
        index = np.full((), offset)
        for n, step in zip(size, stride, strict=True):
            index = index[..., None] + np.arange(n) * step
        return _Packed(storage[index])

    def _storage(self, raw: Any) -> _Packed:
        """`_load_from_bytes`: a file of torch's old format inside the pickle: magic number, version, sizes, a storage, its key, its numbers."""
        if not isinstance(raw, bytes) or self.inner:
            _refuse("holds pickles in pickles")
        self._spend(len(raw))
        stream = BytesIO(raw)
        magic, _, _, packed, keys = (_Loader(stream, self.left).checked_load() for _ in range(5))
        token = packed.value if isinstance(packed, _Packed) else None
        if magic != _TORCH_MAGIC or not isinstance(token, _Storage) or keys != [token.key]:
            raise UnreadableFileError("this is no storage of torch")
        dtype = np.dtype(_TORCH_TYPES[token.kind])
        (count,) = struct.unpack("<q", stream.read(8))
        if count != token.length:
            raise UnreadableFileError(f"a storage of torch says {token.length} numbers and holds {count}")
        return _Packed(np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype, count=count))

    def unpacked(self, value: Any, depth: int, seen: dict[int, tuple[Any, int] | None]) -> tuple[Any, int]:
        """Return plain data, and the bytes it would have if nothing in it were shared; what is reached twice is built once, loops are refused."""
        if depth > MAX_DEPTH:
            raise UnreadableFileError(f"the pickle is nested deeper than {MAX_DEPTH}")
        if isinstance(value, _Record):
            return self.unpacked(getattr(value, "values", {}), depth + 1, seen)
        if isinstance(value, _Packed):
            value = value.value if isinstance(value.value, np.ndarray | np.generic) else None  # a tensor without axes is a number of numpy
        if isinstance(value, _StandIn) or value is _Record:
            value = None
        if not isinstance(value, list | tuple | dict):
            return bytes(value) if isinstance(value, bytearray) else value, value.nbytes if isinstance(value, np.ndarray) else 8
        if id(value) not in seen:
            seen[id(value)] = None
            items = [self.unpacked(item, depth + 1, seen) for item in (value.values() if isinstance(value, dict) else value)]
            size = 8 + sum(size for _, size in items)
            if size > self.left[0]:
                raise UnreadableFileError(f"the pickle grows beyond {MAX_BYTES} bytes")
            done = [item for item, _ in items]
            seen[id(value)] = (dict(zip(map(_key, value), done, strict=True)) if isinstance(value, dict) else type(value)(done)), size
        known = seen[id(value)]
        if known is None:
            raise UnreadableFileError("the pickle contains itself")
        return known


class _Array(_Packed):
    """An array of numpy, whose state brings the numbers."""

    __slots__ = ("loader",)

    def __init__(self, loader: _Loader) -> None:
        self.value, self.loader = None, loader

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if isinstance(raw, list):
            _refuse("holds an array of objects")
        self.value = self.loader._numbers(raw, dtype, tuple(shape), bool(fortran)).value


class _Dict(dict[Any, Any]):
    """An `OrderedDict`."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if state:
            _refuse("sets the state of a dictionary")


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | bytes | None):
        raise UnreadableFileError(f"the pickle has a dictionary whose key is a {type(key).__name__}")
    return key


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECORDS = {
    ("torch_geometric.data.data", "Data"), ("torch_geometric.data.storage", "GlobalStorage"), ("torch_geometric.data", "Data"),
    ("torch_geometric.data.batch", "Batch"),
}  # fmt: skip
_INERT = (("numpy", "ndarray"), ("builtins", "object"), ("__builtin__", "object"))
#: (module, name) -> the method of `_Loader` that takes its place.
_CALLS = {
    ("collections", "OrderedDict"): "_dict", ("torch._utils", "_rebuild_tensor_v2"): "_tensor", ("torch.storage", "_load_from_bytes"): "_storage",
    ("torch", "Size"): "_size", ("numpy", "dtype"): "_dtype", ("_codecs", "encode"): "_encode", ("builtins", "bytes"): "_no_bytes",
    ("__builtin__", "bytes"): "_no_bytes", ("copyreg", "_reconstructor"): "_object", ("copy_reg", "_reconstructor"): "_object",
    **{(module, "_reconstruct"): "_array" for module in _MULTIARRAY}, **{(module, "scalar"): "_scalar" for module in _MULTIARRAY},
    **{(f"{module.rsplit('.', 1)[0]}.numeric", "_frombuffer"): "_from_buffer" for module in _MULTIARRAY},
}  # fmt: skip
