"""Public data sets as the measures of `inspect` use them: a bounded number of frames of each, with the faults of their own mended."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mlipfm_data.readers.registry import read
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import GPA

from . import KNOWN, jobs
from .planted_labels import relabelled

KBAR = GPA / 10
#: Known sets without energies and forces.
_PLAIN = {"conformers", "gmtkn55_dev", "prop_molecules", "prop_nmr_csd500", "prop_perov5", "prop_phonons_matbench", "prop_polarizability",
          "rdb7_barriers", "refdata_barriers_bh9", "refdata_crystals_x23_ice", "refdata_nci", "unlabelled_spice_geometries",
          "water_dipole_polarizability"}  # fmt: skip


def labelled_names() -> list[str]:
    """Sets that carry energies or forces, in alphabetical order."""
    return [name for name in sorted(KNOWN) if KNOWN[name].files and name not in _PLAIN]


def read_set(name: str, folder: Path, cap: int) -> list[Structure]:
    """At most about `cap` structures, evenly over the files of the set, neighbours together."""
    todo = list(jobs(KNOWN[name], folder))
    per_file = max(6, math.ceil(cap / max(1, len(todo))))
    out: list[Structure] = []
    for path, reader, options in todo[:: max(1, len(todo) * per_file // cap)]:
        count = 0
        for item in read(path, reader, **options):
            if isinstance(item, Structure):
                out.append(item)
                count += 1
            if count >= per_file:
                break
    return out


def _poet(s: Structure) -> Structure:
    """Cu-POET-19: the numbers are minus kbar divided by the volume (slabs are 10 and bulk 4 times off, with the other sign)."""
    if s.level != "pbe/vasp-poet-19":
        return s
    return relabelled(s, stress=-s.labels["stress"] * abs(np.linalg.det(s.cell)) * KBAR)


def _mlearn(s: Structure) -> Structure:
    """mlearn: shear components of molecular dynamics of Ge and Si are in another order (xy, xz, yz) than those of their strained cells."""
    dynamics = "AIMD" in (s.provenance.group or "")
    if "stress" not in s.labels or s.atomic_numbers[0] not in (14, 32) or not dynamics:
        return s
    m = np.array(s.labels["stress"])
    m[1, 2], m[0, 2] = m[0, 2], m[1, 2]
    m[2, 1], m[2, 0] = m[1, 2], m[0, 2]
    return relabelled(s, stress=m)


#: Sets with faults of their own: what is done to them before they count as right.
MENDED: dict[str, Callable[[list[Structure]], list[Structure]]] = {
    "cu_sets": lambda frames: [_poet(s) for s in frames],
    "mlearn": lambda frames: [_mlearn(s) for s in frames],
    # MPtrj: two of eight frames of AlMg14Sb lie 1.26 eV above geometries that differ by 0.005 Angstrom
    "fixtures_misc": lambda frames: [s for s in frames if s.formula != "AlMg14Sb"],
}


def right_set(name: str, folder: Path, cap: int) -> list[Structure]:
    """Structures of a set without its known faults."""
    return MENDED.get(name, list)(read_set(name, folder, cap))
