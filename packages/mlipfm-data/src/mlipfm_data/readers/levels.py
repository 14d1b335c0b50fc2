"""One geometry, one or several levels of theory: the frames that follow from it, each with the options that apply to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import LevelError, MissingLabelsError, MlipfmError, UnitError
from mlipfm_interfaces.raw_frame import Conventions, LevelKeys, RawFrame
from mlipfm_interfaces.theory import canonical_level
from mlipfm_interfaces.units import factor

from .options import ReadOptions, option_words, options_from
from .report import ReadReport

_NONE = Conventions("format")


class FramesOfLevels:
    """Makes the frames of geometries: one for each level of theory that has an energy, with the options that apply to it.

    Args:
        conventions: of the format. user: options that the user gives. report: counts labels that are NaN.
    """

    def __init__(self, conventions: Conventions | None, user: Mapping[str, Any], report: ReadReport) -> None:
        self.conventions, self.user, self.report = conventions or _NONE, dict(user), report
        self._options: dict[Any, ReadOptions] = {}
        self._levels: dict[Conventions, tuple[LevelKeys, ...]] = {}

    def frames(self, item: RawFrame | MlipfmError, place: str) -> Iterator[tuple[RawFrame | MlipfmError, ReadOptions, str]]:
        """Yield the frames of a geometry, or errors that stand for frames, with their options and their place in words.

        Raises:
            LevelError: the option `level` is none of several levels. UnitError: an option that the format does not allow.
        """
        error = item if isinstance(item, MlipfmError) else self._unknown_unit(item)
        if error is not None or isinstance(item, MlipfmError):
            yield error or item, ReadOptions(), place
            return
        conventions = item.conventions or self.conventions
        levels, several = self._wanted(conventions), len(conventions.levels) > 1
        made = not levels
        if not levels:
            yield item, self._merged(conventions, item), place
        for labels in levels:
            words = f"{place} at {labels.level}" if several and labels.level else place
            present = self._present(item, labels, several)
            if not several or "energy" in present:
                yield self._of_level(item, conventions, labels, several), self._merged(conventions, item, labels, present), words
            elif labels.keys["energy"] in item.missing:
                yield item.missing[labels.keys["energy"]], ReadOptions(), words
            else:
                continue
            made = True
        if not made:
            wanted = ", ".join(labels.keys["energy"] for labels in levels)
            yield MissingLabelsError(f"none of the energies {wanted} is there"), ReadOptions(), place

    def _wanted(self, conventions: Conventions) -> tuple[LevelKeys, ...]:
        """Return the levels of a format that the user wants: all, or the one named. Raises `LevelError` if there is none of this name."""
        if conventions not in self._levels:
            chosen = conventions.levels
            if len(chosen) > 1 and "level" in self.user:
                wanted = canonical_level(self.user["level"])
                chosen = tuple(labels for labels in chosen if labels.level == wanted)
                if not chosen:
                    known = ", ".join(str(labels.level) for labels in conventions.levels)
                    raise LevelError(f"the file has no level {wanted!r}", hint=f"it has {known}; leave `level` out to read all of them")
            self._levels[conventions] = chosen
        return self._levels[conventions]

    def _unknown_unit(self, frame: RawFrame) -> UnitError | None:
        """Return the error for a unit that the file gives, that is not known, and that the user does not replace."""
        for option, unit in frame.stated.items():
            if option.endswith("_unit") and option not in self.user:
                try:
                    factor(unit, option.removesuffix("_unit"))
                except UnitError:
                    return UnitError(
                        f"the file gives the {option.replace('_', ' ')} {unit!r}, which is not known",
                        hint=f"give one with {option_words(option)}",
                    )
        return None

    def _present(self, frame: RawFrame, labels: LevelKeys, several: bool) -> frozenset[str]:
        """Quantities of a level that the geometry has. Files of several levels have NaN for what was not computed."""
        there = {quantity: value for quantity, key in labels.keys.items() if (value := frame.find(key)) is not None}
        if not several:
            return frozenset(there)
        finite = {quantity for quantity, value in there.items() if np.isfinite(np.asarray(value, dtype=np.float64)).all()}
        for quantity in there.keys() - finite:
            self.report.notes[f"{labels.keys[quantity]!r} is NaN: not computed"] += 1
        return frozenset(finite)

    def _of_level(self, frame: RawFrame, conventions: Conventions, labels: LevelKeys, several: bool) -> RawFrame:
        """Return the frame without the labels of other levels, which then do not count as not used."""
        if not several:
            return frame
        others = {key for other in conventions.levels for key in other.keys.values()} - set(labels.keys.values())
        info, arrays = ({key: value for key, value in place.items() if key not in others} for place in (frame.info, frame.arrays))
        return replace(frame, info=info, arrays=arrays)

    def _merged(
        self, conventions: Conventions, frame: RawFrame, labels: LevelKeys | None = None, present: frozenset[str] = frozenset()
    ) -> ReadOptions:
        key = (conventions, labels and labels.level, present, str(sorted(frame.stated.items())))
        if key not in self._options:
            for option, why in conventions.fixed.items():
                given = self.user.get(option)
                if given is not None and given != conventions.options[option]:
                    raise UnitError(f"{option_words(option)} {given!r}: {why}", hint="leave it out")
            user, format_says = self.user, dict(conventions.options)
            if labels is not None:
                keys = {quantity: name for quantity, name in labels.keys.items() if quantity in present}
                format_says = {"level": labels.level, **format_says, **labels.options, "keys": keys}
                user = user | ({"keys": keys | dict(user["keys"])} if "keys" in user else {})
            self._options[key] = options_from(user, file=frame.stated, layout=format_says, name=conventions.name)
        return self._options[key]
