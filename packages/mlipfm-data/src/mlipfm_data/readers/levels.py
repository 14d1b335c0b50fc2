"""One geometry, one or several levels of theory: which keys of a layout hold which labels, and the frames that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import LevelError, MissingLabelsError, MlipfmError
from mlipfm_interfaces.theory import canonical_level

from .frame import RawFrame, ReadOptions, ReadReport, options_from


@dataclass(frozen=True)
class Labels:
    """One level of theory in a layout.

    Attributes:
        level: its canonical id where the keys of the layout say it, else None.
        keys: quantity -> key in the file.
        options: `ReadOptions` that differ from those of the layout (units, sign).
    """

    level: str | None
    keys: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)


class LevelFrames:
    """Makes the frames of geometries: as many as there are levels with an energy, with one running index.

    Args:
        levels: of the layout. defaults: its options (units, signs). user: options of the user, which win. With several levels, `level` chooses one.
        name: of the layout.

    Raises:
        LevelError: `level` is none of several levels.
    """

    def __init__(
        self, levels: Sequence[Labels], defaults: Mapping[str, Any], user: Mapping[str, Any], report: ReadReport, name: str
    ) -> None:
        self.name, self.defaults, self.user, self.report = name, dict(defaults), {k: v for k, v in user.items() if v is not None}, report
        self.levels, self.several = _chosen(levels, self.user)
        self.index = 0
        self._known: dict[Any, ReadOptions] = {}
        options_from(self.user, layout=self.defaults)  # an impossible option is told before the first frame

    def keys(self) -> set[str]:
        """Every key that any frame may need."""
        named = {self.user[item.name] for item in fields(ReadOptions) if item.name.endswith("_key") and item.name in self.user}
        return named | set(self.user.get("keys", {}).values()) | {key for labels in self.levels for key in labels.keys.values()}

    def frames(self, geometry: RawFrame, options: Mapping[str, Any] | None = None) -> Iterator[tuple[RawFrame, ReadOptions] | MlipfmError]:
        """The frames of one geometry; `options`: what the file states of it. With several levels, a geometry that has none is an error."""
        made = False
        for labels in self.levels:
            present = self._present(geometry, labels)
            if self.several and "energy" not in present:
                continue
            made = True
            yield self._numbered(geometry, labels), self._options(labels, present, options or {})
        if not made:
            wanted = ", ".join(labels.keys["energy"] for labels in self.levels)
            yield self.failed(geometry, MissingLabelsError(f"none of the energies {wanted} is there"))

    def failed(self, geometry: RawFrame, error: MlipfmError, labels: Labels | None = None) -> MlipfmError:
        """`error` with the place of the frame that it stands for: the geometry, or its labels at one level."""
        where = self._numbered(geometry, labels or Labels(None, {})).where
        return type(error)(error.what, where=where, hint=error.hint)

    def _numbered(self, geometry: RawFrame, labels: Labels) -> RawFrame:
        words = f" at {labels.level}" if self.several and labels.level else ""
        info, arrays = geometry.info, geometry.arrays
        if self.several:  # what belongs to the other levels is not "left unread"
            others = {key for other in self.levels for key in other.keys.values()} - set(labels.keys.values())
            info, arrays = ({key: value for key, value in place.items() if key not in others} for place in (info, arrays))
        frame = replace(geometry, index=self.index, where=f"{geometry.where}{words} (frame {self.index})", info=info, arrays=arrays)
        self.index += 1
        return frame

    def _present(self, geometry: RawFrame, labels: Labels) -> frozenset[str]:
        """Quantities of this level that the geometry has. Layouts with several levels write NaN for what was not computed."""
        found = {quantity: geometry.find(key) for quantity, key in labels.keys.items()}
        there = {quantity: value for quantity, value in found.items() if value is not None}
        if not self.several:
            return frozenset(there)
        finite = {quantity for quantity, value in there.items() if np.isfinite(np.asarray(value, dtype=np.float64)).all()}
        for quantity in there.keys() - finite:
            self.report.notes[f"{labels.keys[quantity]!r} is NaN: not computed"] += 1
        return frozenset(finite)

    def _options(self, labels: Labels, present: frozenset[str], own: Mapping[str, Any]) -> ReadOptions:
        key = (labels.level, present, str(sorted(own.items())))
        if key not in self._known:
            keys = {quantity: name for quantity, name in labels.keys.items() if quantity in present}
            layout = {"level": labels.level, **self.defaults, **labels.options, "keys": keys}
            user = self.user | ({"keys": keys | dict(self.user["keys"])} if "keys" in self.user else {})
            self._known[key] = options_from(user, file=own, layout=layout, name=self.name)
        return self._known[key]


def _chosen(levels: Sequence[Labels], user: dict[str, Any]) -> tuple[Sequence[Labels], bool]:
    if len(levels) < 2 or "level" not in user:
        return levels, len(levels) > 1
    wanted = canonical_level(user["level"])
    chosen = [labels for labels in levels if labels.level == wanted]
    if not chosen:
        known = ", ".join(str(labels.level) for labels in levels)
        raise LevelError(f"the file has no level {wanted!r}", hint=f"it has {known}; leave `level` out to read all of them")
    return chosen, True
