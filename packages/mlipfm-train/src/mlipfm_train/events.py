"""The event log of a run: append-only JSON lines, each with its own checksum. It is the truth; MLflow and progress bars are listeners.

A line is `{"kind": "step", "step": 12, "time": ..., "values": {...}, "crc": "5c2f01aa"}`, crc being CRC-32 of the line's canonical JSON without
it. A resumed run replays the steps after its last training state; they are in the log already and are not written twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlipfm_interfaces.files import canonical_json

Event = dict[str, Any]
_log = logging.getLogger("mlipfm.train")
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class EventLog:
    """Appends events to a file and tells listeners. With `path=None` (ranks other than 0) nothing is written.

    Opening repairs: a torn last line (the process was killed while writing) is cut off.
    """

    def __init__(self, path: Path | str | None, listeners: list[Callable[[Event], None]] | None = None) -> None:
        self.listeners = list(listeners or [])
        self._last: dict[str, int] = {}
        self._descriptor: int | None = None
        if path is not None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(self._descriptor, _whole_length(Path(path)))
            for event in read_events(path):
                self._last[event["kind"]] = max(event["step"], self._last.get(event["kind"], -1))

    def emit(self, kind: str, step: int, **values: Any) -> None:
        """Append one event; one of this kind and step that is in the log already is dropped."""
        if self._descriptor is None:
            return
        self._write(kind, step, values, new=step > self._last.get(kind, -1))

    def note(self, kind: str, step: int, **values: Any) -> None:
        """Append one event of a kind that no replay repeats, whatever is in the log already."""
        if self._descriptor is not None:
            self._write(kind, step, values, new=True)

    def _write(self, kind: str, step: int, values: dict[str, Any], new: bool) -> None:
        event: Event = {"kind": kind, "step": step, "time": round(time.time(), 3), "values": values}
        if new and self._descriptor is not None:
            self._last[kind] = step
            os.write(self._descriptor, _line(event))
        for listener in self.listeners:
            listener(event)

    def sync(self) -> None:
        """Flush to the device: what was emitted survives a power cut."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = None


def read_events(path: Path | str, start: int = 0) -> Iterator[Event]:
    """Yield events from byte `start` on; lines whose checksum does not fit are reported and left out. A torn last line is not an event yet."""
    for event, _ in read_events_with_ends(path, start):
        yield event


def read_events_with_ends(path: Path | str, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Events and the byte where each ends, so that a reader can go on from there later."""
    with open(path, "rb") as file:
        file.seek(start)
        position = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            event = _parse(line)
            if event is None:
                _log.warning("%s: the line that ends at byte %d is damaged and left out", path, position)
            else:
                yield event, position


def _line(event: Event) -> bytes:
    body = canonical_json(_encoded(event))
    return body[:-1] + _tail(body)


def _parse(line: bytes) -> Event | None:
    mark = line.rfind(b',"crc":"')
    body = line[:mark] + b"}"
    if mark < 0 or line[mark:] != _tail(body):
        return None
    event: Event = _decoded(json.loads(body))
    return event


def _tail(body: bytes) -> bytes:
    return f',"crc":"{zlib.crc32(body):08x}"}}\n'.encode()


def _whole_length(path: Path) -> int:
    """Bytes up to the end of the last complete line."""
    data = path.read_bytes()
    return data.rfind(b"\n") + 1


def _encoded(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return _SPECIAL.get(value, value) if isinstance(value, str) else value
