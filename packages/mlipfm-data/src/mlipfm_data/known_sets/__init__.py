"""Public data sets whose files are known by name: reader, level of theory, units, licence and citation of each. See `schema.KnownSet`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from .schema import KnownFiles, KnownSet

__all__ = ["KNOWN", "KnownFiles", "KnownSet"]

_MODULES = ("materials", "molecules", "properties")

#: Name of the set's folder -> what is known of it.
KNOWN: dict[str, KnownSet] = {
    known.name: known
    for module in _MODULES
    if find_spec(f"{__name__}.{module}") is not None
    for known in import_module(f".{module}", __name__).SETS
}
