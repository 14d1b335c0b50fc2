"""The contents of a pickle as plain data, without running it.

Some public data sets are LMDB files of pickles. A pickle is a program that may call any function of Python; this module is an interpreter of its
own for the few instructions that data needs. It never imports a module that a file names, never looks up an attribute, and calls nothing: names
stay names, and those on the closed list below are understood here (arrays of numpy and torch become copies in numpy, objects of torch_geometric
become dictionaries). Whatever is not on the list is refused by name. Sizes, depth and the number of instructions are bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlipfm_interfaces.errors import UnreadableFileError

from .pickled_objects import (
    CALLS,
    INERT,
    MARK,
    MAX_BYTES,
    RECORDS,
    TORCH_TYPES,
    Array,
    DType,
    Finishing,
    Name,
    Pending,
    Token,
    numpy_array,
    refuse,
)

#: A record of a data set is some kilobytes; these are far beyond and far below what would hurt.
MAX_INSTRUCTIONS = 500_000
MAX_KEYS = 10_000


def plain(data: bytes) -> Any:
    """What a pickle holds: None, bool, int, float, str, bytes, list, tuple, dict, and numpy arrays.

    Raises:
        RefusedFileError: it names something that is not on the list, or uses an instruction that data does not need. UnreadableFileError: it is
            cut off, damaged, or larger than any record.
    """
    try:
        machine = Machine(memoryview(data))
        value, _ = machine.run(0)
        return Finishing(machine.left).finished(value, 0)
    except (IndexError, struct.error, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, MemoryError) as error:
        raise UnreadableFileError(f"this is no whole pickle of data ({type(error).__name__}: {str(error)[:80]})") from None


@dataclass(eq=False)
class Machine:
    """The interpreter: a stack, a memo, the position in the bytes, and how many bytes may still be made of them."""

    data: memoryview
    left: list[int] = field(default_factory=lambda: [MAX_BYTES])
    inner: bool = False
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    here: int = 0

    def run(self, start: int) -> tuple[Any, int]:
        """The value of the pickle that begins at `start`, and where it ends."""
        self.stack, self.memo, self.here = [], {}, start
        for _ in range(MAX_INSTRUCTIONS):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.stack.pop(), self.here
            step = _STEPS.get(code)
            if step is None:
                raise refuse(f"uses the instruction {bytes([code])!r} at byte {self.here - 1}")
            step(self)
        raise UnreadableFileError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")

    def take(self, n: int) -> bytes:
        if n < 0 or n > MAX_BYTES or self.here + n > len(self.data):
            raise UnreadableFileError(f"the pickle is cut off: {n} bytes are wanted at byte {self.here} of {len(self.data)}")
        self.here += n
        return bytes(self.data[self.here - n : self.here])

    def nested(self, data: bytes) -> Machine:
        """An interpreter for a pickle inside the pickle."""
        return Machine(memoryview(data), self.left, inner=True)

    def spend(self, size: int) -> None:
        """Count `size` bytes that are made anew: something in the memo can be copied a million times by a short pickle."""
        self.left[0] -= size
        if self.left[0] < 0:
            raise UnreadableFileError(f"the pickle grows beyond {MAX_BYTES} bytes")

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> bytes:
        end = bytes(self.data[self.here : self.here + 4096]).find(b"\n")
        if end < 0:
            raise UnreadableFileError("the pickle is cut off: a line has no end")
        return self.take(end + 1)[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        k = len(self.stack) - 1
        while self.stack[k] is not MARK:
            k -= 1
            if k < 0:
                raise UnreadableFileError("the pickle closes what it did not open")
        items = self.stack[k + 1 :]
        del self.stack[k:]
        return items

    def remember(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]


def _name(m: Machine, module: str, name: str) -> None:
    found = Name(module, name)
    if not _known(found):
        raise refuse(f"names {found}")
    m.push(found)


def _known(name: Name) -> bool:
    return name in CALLS or name in RECORDS or (name.module == "torch" and name.name in TORCH_TYPES) or name in INERT


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise refuse("names something that is no name")
    _name(m, module, name)


def _reduce(m: Machine) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    if not isinstance(function, Name) or function not in CALLS or not isinstance(arguments, tuple):
        raise refuse(f"calls {function if isinstance(function, Name) else type(function).__name__}")
    m.push(CALLS[function](m, arguments))


def _new(m: Machine) -> None:
    arguments, kind = m.stack.pop(), m.stack.pop()
    if not isinstance(kind, Name) or kind not in RECORDS or arguments != ():
        raise refuse(f"makes an object of {kind if isinstance(kind, Name) else type(kind).__name__}")
    m.push(Pending(kind))


def _build(m: Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Pending):
        if isinstance(state, dict):
            state.pop("_parent", None)  # the way back makes a ring, which only the garbage collector would free
        target.state = state
    elif isinstance(target, Array):
        target.value = numpy_array(m, state)
    elif isinstance(target, DType):
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            target.order = "<" if state[1] in "|=" else state[1]
    elif isinstance(target, dict) and state in ({}, None):
        pass
    else:
        raise refuse(f"sets the state of {type(target).__name__}")


def _persistent(m: Machine) -> None:
    """('storage', type, key, device, length, view) of torch's old format; allowed only inside `_load_from_bytes`."""
    value = m.stack.pop()
    if not m.inner or not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage" or not isinstance(value[1], Name):
        raise refuse("refers to something outside itself")
    if value[1].name not in TORCH_TYPES or (len(value) > 5 and value[5] is not None):
        raise refuse(f"holds a tensor of {value[1]}")
    m.push(Token(value[1].name, value[2], int(value[4])))


def _set_items(m: Machine, items: list[Any]) -> None:
    if not isinstance(m.stack[-1], dict):
        raise refuse(f"sets items of {type(m.stack[-1]).__name__}")
    m.stack[-1].update(zip(items[::2], items[1::2], strict=True))
    if len(m.stack[-1]) > MAX_KEYS:
        raise UnreadableFileError(f"the pickle has a dictionary of more than {MAX_KEYS} keys")


def _new_dict(m: Machine, items: list[Any]) -> None:
    m.push({})
    _set_items(m, items)


def _append(m: Machine, items: list[Any]) -> None:
    if not isinstance(m.stack[-1], list):
        raise refuse(f"appends to {type(m.stack[-1]).__name__}")
    m.stack[-1].extend(items)


def _pop_tuple(n: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        if len(m.stack) < n:
            raise UnreadableFileError("the pickle takes what it did not put")
        items = tuple(m.stack[-n:])
        del m.stack[-n:]
        m.push(items)

    return step


def _long(m: Machine, n: int) -> None:
    if n > 64:
        raise UnreadableFileError(f"the pickle holds a number of {n} bytes")
    m.push(int.from_bytes(m.take(n), "little", signed=True))


def _decimal(m: Machine) -> None:
    text = m.line()
    if len(text) > 40:
        raise UnreadableFileError(f"the pickle holds a number of {len(text)} digits")
    m.push({b"00": False, b"01": True}.get(text) if text in (b"00", b"01") else int(text.rstrip(b"L")))


def _two(m: Machine) -> list[Any]:
    value, key = m.stack.pop(), m.stack.pop()
    return [key, value]


#: Instructions of protocols 0 to 5 that build data. INST, OBJ, EXT, PERSID, NEWOBJ_EX and the out-of-band buffers are not here.
_STEPS: dict[int, Callable[[Machine], object]] = {
    ord("\x80"): lambda m: m.take(1),
    ord("\x95"): lambda m: m.take(8),
    ord("("): lambda m: m.push(MARK),
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m.to_mark(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    ord("\x88"): lambda m: m.push(True),
    ord("\x89"): lambda m: m.push(False),
    ord("I"): _decimal,
    ord("L"): _decimal,
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("\x8a"): lambda m: _long(m, m.number("<B")),
    ord("\x8b"): lambda m: _long(m, m.number("<I")),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("T"): lambda m: m.push(m.take(m.number("<I"))),
    ord("U"): lambda m: m.push(m.take(m.number("<B"))),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    ord("\x8e"): lambda m: m.push(m.take(m.number("<Q"))),
    ord("\x96"): lambda m: m.push(m.take(m.number("<Q"))),
    ord("X"): lambda m: m.push(m.take(m.number("<I")).decode("utf-8", "surrogatepass")),
    ord("\x8c"): lambda m: m.push(m.take(m.number("<B")).decode("utf-8", "surrogatepass")),
    ord("\x8d"): lambda m: m.push(m.take(m.number("<Q")).decode("utf-8", "surrogatepass")),
    ord("V"): lambda m: m.push(m.line().decode("raw_unicode_escape")),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("}"): lambda m: m.push({}),
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    ord("d"): lambda m: _new_dict(m, m.to_mark()),
    ord("\x85"): _pop_tuple(1),
    ord("\x86"): _pop_tuple(2),
    ord("\x87"): _pop_tuple(3),
    ord("a"): lambda m: _append(m, [m.stack.pop()]),
    ord("e"): lambda m: _append(m, m.to_mark()),
    ord("s"): lambda m: _set_items(m, _two(m)),
    ord("u"): lambda m: _set_items(m, m.to_mark()),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    ord("p"): lambda m: m.remember(int(m.line())),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    ord("\x94"): lambda m: m.remember(len(m.memo)),
    ord("c"): lambda m: _name(m, m.line().decode(), m.line().decode()),
    ord("\x93"): _stack_global,
    ord("R"): _reduce,
    ord("\x81"): _new,
    ord("b"): _build,
    ord("Q"): _persistent,
}
