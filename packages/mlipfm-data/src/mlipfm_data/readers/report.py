"""The report of `read`: which key was read as what, which units and signs were applied and who gave them, and what was not used."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from mlipfm_interfaces.errors import MlipfmError

from .options import option_words

#: Spellings of keys that may hold forces or stresses, with the options that read them, and words that mean something else about them.
_LIKE = {"forces": (re.compile("force|gradient"), "--forces-key KEY, with --forces-unit and --forces-sign"),
         "stress": (re.compile("stress|virial"), "--stress-key KEY or --virial-key KEY, with --stress-unit and --stress-sign")}  # fmt: skip
_NO_LABEL = re.compile("abs|max|norm|rms|mean|const|weight|mask|unit|error|std|tol|field")


@dataclass
class ReadReport:
    """Every decision a reader took, counted; `lines()` prints it.

    Attributes:
        frames: frames seen. accepted: frames that became Structures.
        used: quantity -> Counter of the keys it was read from.
        conventions: (option, value, who gives it) -> frames in which it was applied.
        stated: options that the user gave, `factors` and `ignore` with what they are for; effective: those of them that any frame needed.
        unused: Counter of keys that were found and not used. notes: Counter of remarks.
        refused: Counter of error codes.
    """

    frames: int = 0
    accepted: int = 0
    used: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    conventions: Counter[tuple[str, Any, str]] = field(default_factory=Counter)
    stated: set[str] = field(default_factory=set)
    effective: set[str] = field(default_factory=set)
    unused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, error: MlipfmError) -> None:
        self.refused[error.code] += 1

    def lines(self) -> list[str]:
        """Return one line per quantity (`energy <- REF_energy in 500 of 500 frames`); units and signs, and who gives them; what was left unread."""
        out = []
        for name, keys in self.used.items():
            said = ", ".join(f"{key} in {count}" for key, count in keys.most_common())
            out.append(f"{name} <- {said} of {self.accepted} accepted frames")
        out += [f"{name}: not given" for name in ("level", "total_charge", "spin_multiplicity") if name not in self.used]
        out += self._convention_lines()
        out += [f"{note} ({count} frames)" for note, count in self.notes.most_common()]
        out += self._unread_labels()
        if self.unused:
            out.append("found and not used: " + ", ".join(sorted(self.unused)))
        return out

    def applied(self, option: str) -> dict[Any, str]:
        """Return values of a convention that were applied, and who gave each."""
        return {value: who for name, value, who in self.conventions if name == option}

    def without_effect(self) -> list[str]:
        """Return options that the user gave and no accepted frame needed."""
        return sorted(self.stated - self.effective) if self.accepted else []

    def _unread_labels(self) -> list[str]:
        """Return a warning for forces and for stress if none were read, and keys that were not used have names like them."""
        lines = []
        for name, (spelling, options) in _LIKE.items():
            keys = sorted(key for key in self.unused if spelling.search(key.lower()) and not _NO_LABEL.search(key.lower()))
            if self.accepted and name not in self.used and keys:
                verb = "are" if name == "forces" else "is"
                lines.append(f"warning: no {name} {verb} read; a key looks like it: {', '.join(map(repr, keys))}: {options}")
        return lines

    def _convention_lines(self) -> list[str]:
        """`units and signs: energy Hartree, forces sign -1 (layout SPICE)`, a line for each who gives some; then those without effect."""
        by_origin: dict[str, list[str]] = defaultdict(list)
        for (name, value, who), count in self.conventions.items():
            times = f" in {count} frames" if len(self.applied(name)) > 1 else ""
            by_origin[who].append(f"{name.removesuffix('_unit').replace('_', ' ')} {value}{times}")
        lines = [f"units and signs: {', '.join(words)} ({who})" for who, words in by_origin.items()]
        return lines + [f"warning: {option_words(name)} had no effect: nothing that was read needs it" for name in self.without_effect()]
