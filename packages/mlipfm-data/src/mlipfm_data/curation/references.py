"""Reference energies of each level, and how far they are determined: see `mlipfm_interfaces.reference_fit`, which training uses as well."""

from __future__ import annotations

import math

from mlipfm_interfaces.errors import OptionError
from mlipfm_interfaces.reference_fit import ReferenceReport, report_references

__all__ = ["ReferenceReport", "parse_given", "report_references"]


def parse_given(text: str) -> dict[str, float]:
    """`H=-13.6,O=-2041.3` -> a dict. Raises `OptionError` for anything else."""
    given: dict[str, float] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = part.partition("=")
        try:
            energy = float(value)
        except ValueError:
            energy = math.nan
        if not math.isfinite(energy):
            raise OptionError(f"{part!r} is not ELEMENT=ENERGY in eV", hint="H=-13.6,O=-2041.3")
        if name.strip() in given:
            raise OptionError(f"{name.strip()} is given twice", hint="give one energy for each element")
        given[name.strip()] = energy
    return given
