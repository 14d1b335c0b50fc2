"""What a store held before an import, and how frames that come again differ from it: nothing is kept or doubled without a word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlipfm_interfaces.structure import Structure

from .store import Store

#: Of the provenance, what an import can be asked to set; the source may differ, since two files may hold one calculation.
_ASKED = ("group", "sampling", "licence")
#: Labels that differ by less are those of one calculation, rounded by a text format or by float32.
_ABSOLUTE, _RELATIVE = 1e-5, 1e-6


@dataclass
class Differences:
    """How frames differ from what the store holds, counted, with the first of each.

    Attributes:
        kept: what differs -> frames that were there already; the store keeps what it has. first: what differs -> (stored, now).
        levels: (levels that the geometry was there at, level now) -> frames that were stored at another level.
    """

    kept: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[object, object]] = field(default_factory=dict)
    levels: Counter[tuple[str, str]] = field(default_factory=Counter)

    def same_frame(self, stored: Structure, now: Structure) -> None:
        """A frame that is there already."""
        for name in _ASKED:
            was, new = getattr(stored.provenance, name), getattr(now.provenance, name)
            if new is not None and was != new:
                self._keep(name, was, new)
        for key, value in now.labels.items():
            if key not in stored.labels:
                self._keep(key, "none", "one")
            elif not np.allclose(value, stored.labels[key], rtol=_RELATIVE, atol=_ABSOLUTE):
                k = int(np.argmax(np.abs(value - stored.labels[key])))
                self._keep(key, float(stored.labels[key].flat[k]), float(value.flat[k]))

    def other_level(self, stored: set[str | None], now: str | None) -> None:
        """A frame whose geometry is there, at other levels only."""
        self.levels[", ".join(sorted(str(level) for level in stored)), str(now)] += 1

    def _keep(self, what: str, was: object, new: object) -> None:
        self.kept[what] += 1
        self.first.setdefault(what, (was, new))

    def lines(self) -> list[str]:
        """Warnings for people."""
        out = []
        for what, count in self.kept.most_common():
            was, new = self.first[what]
            said = f"  warning: {count} frames are there already with another {what} (first: {was!r}, now {new!r})"
            out.append(f"{said}; the store keeps what it has: import into a new store if the new one is right")
        for (stored, now), count in self.levels.most_common():
            said = f"  warning: {count} frames were there at level {stored} and are now stored at {now} too"
            out.append(f"{said}: right for two calculations, wrong if one level was a mistake")
        return out


class Before:
    """The structures of a store when it was opened, by key and level; empty for a store that is not there yet.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[str, dict[str | None, int]] = {}
        self._store = store = Store(path) if (path / "manifest.json").exists() else None
        if store is not None:
            for k, level in enumerate(store.levels):
                self._places.setdefault(store.key(k), {}).setdefault(level, k)

    def levels(self, key: str) -> set[str | None]:
        """At which the geometry was there."""
        return set(self._places.get(key, ()))

    def get(self, key: str, level: str | None) -> Structure | None:
        """The structure, None if it was not there."""
        place = self._places.get(key, {}).get(level)
        return None if place is None or self._store is None else self._store[place]

    def close(self) -> None:
        """Give back the open files."""
        if self._store is not None:
            self._store.close()
