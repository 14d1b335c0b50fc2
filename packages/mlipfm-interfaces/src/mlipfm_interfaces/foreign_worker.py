"""The far end of `foreign.py`: runs an adapter in an environment of its own. One file; needs the standard library, numpy and what the adapter needs.

    python -I foreign_worker.py ADAPTER ARGUMENT DESCRIPTOR

`DESCRIPTOR` is one end of a socket pair. A message is the length of its head (4 bytes, big-endian), the head as JSON, and the arrays that the
head announces (`"arrays": [[key, bytes], ...]`) in numpy's `.npy` format. The worker greets with `{"protocol", "outputs", "versions"}` and then
answers each `{"outputs", "charge", "multiplicity"}` + numbers, positions, cell, pbc with `{}` + the outputs, or with `{"error": text}`. It ends
when the other end is closed. What the adapter prints goes to the log that stdout and stderr were connected to, and disturbs nothing.
"""

import importlib.util
import io
import json
import platform
import socket
import struct
import sys
import time
import traceback
from typing import Any

import numpy as np

PROTOCOL = 1
MAX_HEAD = 1 << 20  # bytes of JSON
MAX_ARRAY = 1 << 30  # bytes of one array
MAX_ARRAYS = 64
KINDS = "fiub"  # floats, integers, bool


class ProtocolError(Exception):
    """A message that is not what this protocol allows."""


def send(channel: socket.socket, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write one message."""
    blobs = []
    for value in arrays.values():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(value), allow_pickle=False)
        blobs.append(buffer.getvalue())
    announced = [[key, len(blob)] for key, blob in zip(arrays, blobs, strict=True)]
    text = json.dumps({**head, "arrays": announced}).encode()
    channel.sendall(struct.pack(">I", len(text)) + text + b"".join(blobs))


def receive(channel: socket.socket, deadline: "float | None" = None) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    """Read one message until `deadline` (of time.monotonic).

    Raises EOFError at the end of the channel, TimeoutError, and ProtocolError for what is too large or no message.
    """
    (length,) = struct.unpack(">I", _exactly(channel, 4, deadline))
    if length > MAX_HEAD:
        raise ProtocolError(f"a head of {length} bytes; at most {MAX_HEAD} are allowed")
    try:
        head = json.loads(_exactly(channel, length, deadline))
        announced = [(str(key), int(size)) for key, size in head.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"a head that is not understood: {error}") from None
    if len(announced) > MAX_ARRAYS or any(not 0 < size <= MAX_ARRAY for _, size in announced):
        raise ProtocolError(f"{len(announced)} arrays of up to {max(size for _, size in announced)} bytes are too large")
    return head, {key: _array(_exactly(channel, size, deadline)) for key, size in announced}


def _array(blob: bytes) -> np.ndarray:
    try:
        array = np.lib.format.read_array(io.BytesIO(blob), allow_pickle=False)
    except (ValueError, TypeError, EOFError, MemoryError, SyntaxError) as error:
        raise ProtocolError(f"an array that is not understood: {error}") from None
    if array.dtype.kind not in KINDS:
        raise ProtocolError(f"an array of dtype {array.dtype}")
    return array


def _exactly(channel: socket.socket, size: int, deadline: "float | None") -> bytes:
    parts = []
    while size:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 1e-6))
        part = channel.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the channel was closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def load_adapter(path: str, argument: str) -> Any:
    """Return the model that the adapter's `load(argument)` returns: it has `outputs` and `evaluate(...)`."""
    spec = importlib.util.spec_from_file_location("mlipfm_foreign_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(argument)


def _answer(model: Any, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    try:
        values = model.evaluate(
            arrays["numbers"],
            arrays["positions"],
            arrays["cell"],
            arrays["pbc"],
            head["charge"],
            head["multiplicity"],
            tuple(head["outputs"]),
        )
        return {}, {str(key): np.asarray(value) for key, value in values.items()}
    except Exception as error:  # the adapter and its package may fail in any way; the caller gets the message, the log has the traceback
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:2000]}, {}


def main(adapter: str, argument: str, descriptor: int) -> None:
    """Greet, then answer until the channel is closed."""
    channel = socket.socket(fileno=descriptor)
    try:
        model = load_adapter(adapter, argument)
    except Exception as error:
        traceback.print_exc()
        send(channel, {"protocol": PROTOCOL, "error": f"{type(error).__name__}: {error}"[:2000]}, {})
        return
    versions = {"python": platform.python_version(), "numpy": np.__version__, **getattr(model, "versions", {})}
    send(channel, {"protocol": PROTOCOL, "outputs": list(model.outputs), "versions": versions}, {})
    while True:
        try:
            head, arrays = receive(channel)
        except (EOFError, ConnectionError):
            return
        reply, values = _answer(model, head, arrays)
        try:
            send(channel, reply, values)
        except ValueError as error:  # an object array: it would need pickle
            send(channel, {"error": f"an output cannot be sent: {error}"}, {})
        except (BrokenPipeError, ConnectionError):
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
