"""What is known of a public data set: which of its files are read by what, at which level of theory, under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlipfm_interfaces.errors import InvalidStructureError


@dataclass(frozen=True)
class KnownFiles:
    """Files of a set that are read in the same way.

    Attributes:
        pattern: glob inside the set's folder, or several joined by `|`; files are read in the order of their names.
        reader: name of a reader, or None: found by the file's name.
        level: canonical id of the level of theory of the labels; None if the file says it or there are no labels.
        options: further options of the reader (units, signs, keys), as `frames_in.ReadOptions`.
        require: labels without which a frame is refused; () for geometries and properties.
        group: what must not be split between training and test: a fixed name, `{stem}` (name of the file), `{folder}`, or None.
    """

    pattern: str
    reader: str | None
    level: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    require: tuple[str, ...] = ("energy",)
    group: str | None = None


@dataclass(frozen=True)
class KnownSet:
    """A data set by the name of its folder.

    Attributes:
        licence: SPDX identifier or words; None: the source states none. citation: of the paper that made the data.
        not_imported: the reason, when nothing of it is imported (or what of it is left out).
    """

    name: str
    files: tuple[KnownFiles, ...] = ()
    licence: str | None = None
    citation: str | None = None
    not_imported: str | None = None

    def __post_init__(self) -> None:
        if not self.files and not self.not_imported:
            raise InvalidStructureError(f"known set {self.name!r} has neither files nor a reason why not", mend="give one of them")
