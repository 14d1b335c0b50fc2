"""Between ASE's Atoms and Structure, both ways. The only module beside `ase_reader` that imports ase, and only when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, PluginError
from mlipfm_interfaces.structure import Structure

from .conventions import LEVEL_KEY, PROVENANCE_KEY, structure_from
from .extxyz_writer import provenance_values
from .frames_in import RawFrame, ReadReport, options_from
from .label_places import placed, split_by_atoms
from .marks import fixed_by

if TYPE_CHECKING:
    from ase import Atoms

_GEOMETRY = ("numbers", "positions")
#: Our labels under the names of ASE's calculator results; other labels go to info and arrays as REF_<key>.
_RESULTS = {"energy": "energy", "forces": "forces", "dipole": "dipole", "charges": "charges", "magnetic_moments": "magmoms"}


def require_ase() -> None:
    """Raises `PluginError` saying how to install ASE, if it is missing."""
    try:
        import ase  # noqa: F401
    except ImportError:
        raise PluginError("ASE is not installed", mend="pip install 'mlipfm-data[ase]'") from None


def to_ase(structure: Structure) -> Atoms:
    """Atoms with `charge` and `spin` (2S+1) in info where stated, and the labels in a SinglePointCalculator (stress as Voigt xx,yy,zz,yz,xz,xy).

    Labels that ASE's calculators do not know go to info or arrays as `REF_<key>`, deviations as `STD_<key>`.
    """
    require_ase()
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    s = structure
    atoms = Atoms(numbers=s.atomic_numbers, positions=s.positions, cell=s.cell, pbc=s.pbc)
    state = {"charge": s.total_charge, "spin": s.spin_multiplicity, "external_field": s.external_field, LEVEL_KEY: s.level}
    atoms.info.update({key: value for key, value in state.items() if value is not None} | {PROVENANCE_KEY: provenance_values(s)})
    results: dict[str, Any] = {_RESULTS[key]: np.array(value) for key, value in s.labels.items() if key in _RESULTS}
    if "stress" in s.labels:
        results["stress"] = full_3x3_to_voigt_6_stress(s.labels["stress"])
    if "energy" in results:
        results["energy"] = float(results["energy"])
    others = [("REF_", k, v) for k, v in s.labels.items() if k not in _RESULTS and k != "stress"]
    for prefix, key, value in (*others, *(("STD_", k, v) for k, v in s.label_std.items())):
        per_atom, written = placed(key, value)
        place: dict[str, Any] = atoms.arrays if per_atom else atoms.info
        place[prefix + key] = np.array(written)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def from_ase(atoms: Atoms, *, report: ReadReport | None = None, **options: Any) -> Structure:
    """Structure of Atoms: charge, multiplicity and labels by the spellings of `conventions`; options as `frames_in.ReadOptions`.

    Raises:
        MlipfmError: whatever a reader would refuse.
    """
    return structure_from(raw_frame(atoms, 0, "Atoms", "Atoms"), options_from(options), report if report is not None else ReadReport())


def raw_frame(atoms: Atoms, index: int, where: str, source: str) -> RawFrame:
    """What Atoms carry, uninterpreted. `data` and `key_value_pairs` of ASE databases count as info and arrays."""
    info: dict[str, Any] = {}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in _GEOMETRY}
    system, per_atom = split_by_atoms(_flat(atoms.info), len(atoms))
    for key, value in per_atom.items():
        (info if key in arrays else arrays)[key] = value
    info |= system
    _check_occupancy(info, arrays)
    held, unread = fixed_by([constraint.todict() for constraint in atoms.constraints], len(atoms))
    arrays |= held
    results = {} if atoms.calc is None else {key: value for key, value in getattr(atoms.calc, "results", {}).items() if value is not None}
    return RawFrame(
        index, where, source, atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, info, arrays, results, unread=unread
    )


def _check_occupancy(info: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Take the occupancies out of `info`, where ASE keeps those of a CIF: {site: {element: occupancy}}; PDB files have a column.

    Raises:
        InvalidStructureError: a site is partly occupied.
    """
    sites = info.pop("occupancy", None)
    found = [float(x) for site in sites.values() for x in site.values()] if isinstance(sites, Mapping) else []
    shared = isinstance(sites, Mapping) and any(len(site) > 1 for site in sites.values())
    column = np.asarray(arrays.get("occupancy", []), dtype=np.float64)
    if shared or any(abs(x - 1) > 1e-6 for x in found) or ((column > 0) & (column < 1)).any():
        raise InvalidStructureError("a site is partly occupied", mend="disordered structures are not read: write an ordered one")


def _flat(info: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in info.items() if key not in ("data", "key_value_pairs")}
    for inner in ("key_value_pairs", "data"):
        values = info.get(inner)
        out |= values if isinstance(values, dict) else {}
    return out
