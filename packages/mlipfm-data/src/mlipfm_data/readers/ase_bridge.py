"""Between ASE's Atoms and Structure, both ways. The only module beside `ase_reader` that imports ase, and only when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import PluginError
from mlipfm_interfaces.structure import Structure

from .conventions import LEVEL_KEY, PROVENANCE_KEY, structure_from
from .extxyz_writer import provenance_values
from .frames_in import RawFrame, ReadReport, options_from
from .label_places import placed

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
    for key, value in _flat(atoms.info).items():
        shape = np.shape(value) if isinstance(value, list | tuple | np.ndarray) else ()
        per_atom = len(shape) > 0 and shape[0] == len(atoms) and (len(shape) > 1 or len(atoms) > 1)
        (arrays if per_atom and key not in arrays else info)[key] = value
    results = {} if atoms.calc is None else {key: value for key, value in getattr(atoms.calc, "results", {}).items() if value is not None}
    return RawFrame(index, where, source, atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, info, arrays, results)


def _flat(info: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in info.items() if key not in ("data", "key_value_pairs")}
    for inner in ("key_value_pairs", "data"):
        values = info.get(inner)
        out |= values if isinstance(values, dict) else {}
    return out
