"""Damage to files, and what a reader makes of it: detected, harmless, or silent.

A reader may answer a damaged file with an `MlipfmError` (detected) or with the value it gave before (harmless: the byte meant nothing). Another
value is silent damage; another exception is a fault of the reader too, since users cannot read it. Files are restored afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mlipfm_interfaces.errors import MlipfmError

T = TypeVar("T")


@dataclass
class FaultReport:
    """Counts by outcome. `silent` and `unclear` (an exception that is no MlipfmError) say where it happened."""

    detected: int = 0
    harmless: int = 0
    silent: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """No damage went unnoticed, and all of it was reported in our own words."""
        return not self.silent and not self.unclear

    def __str__(self) -> str:
        worst = (self.silent + self.unclear)[:3]
        counts = f"{self.detected} detected, {self.harmless} harmless, {len(self.silent)} silent, {len(self.unclear)} unclear"
        return counts + (f": {'; '.join(worst)}" if worst else "")


def flip_bits(paths: Sequence[Path], n: int, seed: int, read: Callable[[], T], equal: Callable[[T, T], bool]) -> FaultReport:
    """Flip one bit at a time, n times, uniformly over all bytes of all `paths`, and read.

    Args:
        read: opens the files from scratch and returns everything that they say. equal: whether two such answers are the same, bit by bit.
    """
    numbers = random.Random(seed)
    files = [(path, path.read_bytes()) for path in paths]
    places = [(path, data) for path, data in files if data]

    def flipped() -> Iterable[tuple[str, Path, bytes]]:
        for _ in range(n):
            path, data = numbers.choices(places, [len(data) for _, data in places])[0]
            byte, bit = numbers.randrange(len(data)), numbers.randrange(8)
            yield f"bit {bit} of byte {byte} of {path.name}", path, data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]

    return _try_all(flipped(), files, read, equal)


def truncate_everywhere(paths: Sequence[Path], step: int, read: Callable[[], T], equal: Callable[[T, T], bool]) -> FaultReport:
    """Cut each file at every multiple of `step` bytes and read."""
    files = [(path, path.read_bytes()) for path in paths]
    cuts = ((f"{path.name} cut at {at} of {len(data)}", path, data[:at]) for path, data in files for at in range(0, len(data), step))
    return _try_all(cuts, files, read, equal)


def _try_all(
    damage: Iterable[tuple[str, Path, bytes]], files: Sequence[tuple[Path, bytes]], read: Callable[[], T], equal: Callable[[T, T], bool]
) -> FaultReport:
    report, sound, originals = FaultReport(), read(), dict(files)
    for what, path, damaged in damage:
        path.write_bytes(damaged)
        try:
            if equal(read(), sound):
                report.harmless += 1
            else:
                report.silent.append(what)
        except MlipfmError:
            report.detected += 1
        except Exception as error:  # the reader must not answer with anything else: counted, and fails the test
            report.unclear.append(f"{what}: {error!r}")
        finally:
            path.write_bytes(originals[path])
    return report
