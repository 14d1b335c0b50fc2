"""What an entry of a JSON file of structures means: one `JsonLayout` for each way of writing them, with the units and signs that come with it.

Units and signs were checked on public files: energies of strained crystals against their stress (SNAP and mlearn: kbar, positive under
compression, order of VASP), and against forces along trajectories.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnitError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, Conventions, RawFrame

from .ase_db import row_frame
from .interpret import LEVEL_KEY
from .label_names import regular, whole_entry
from .options import VOIGT_ASE

#: What VASP prints: kbar, positive under compression, xy before yz and xz.
VASP_STRESS = {"stress_unit": "kbar", "stress_sign": -1, "stress_order": "xx,yy,zz,xy,yz,xz"}


@dataclass(frozen=True)
class Entry:
    """One entry: its value, and the names of the places that lead to it."""

    value: Mapping[str, Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class JsonLayout:
    """An arrangement of a structure in an entry: whether an entry has it, its frames, and the units and signs that come with it."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    frames: Callable[[Entry], list[RawFrame | MlipfmError]]
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def conventions(self) -> Conventions:
        return Conventions(self.name, self.options)


def _frame(
    entry: Entry,
    geometry: _Geometry,
    results: Mapping[str, Any],
    taken: Collection[str],
    info: Mapping[str, Any] | None = None,
    group: str | None = None,
    value: Mapping[str, Any] | None = None,
) -> RawFrame:
    """Return the frame of an entry: what its layout understands, and everything else of `value` (default: the whole entry) that is not `taken`."""
    results = {key: x for key, x in results.items() if x is not None}
    rest = {key: x for key, x in (entry.value if value is None else value).items() if key not in taken}
    more, arrays, unread = whole_entry(rest, len(geometry.numbers))
    return RawFrame(
        geometry.numbers, geometry.positions, geometry.cell, geometry.pbc, {**more, **(info or {})}, {**arrays, **geometry.arrays}, results,
        group, unread,
    )  # fmt: skip


@dataclass(frozen=True)
class _Geometry:
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    arrays: Mapping[str, Any] = field(default_factory=dict)


def _pymatgen(value: Mapping[str, Any]) -> _Geometry:
    """Of a Structure or Molecule of pymatgen. Raises `InvalidStructureError` for sites that are partly occupied."""
    sites = value["sites"]
    numbers = np.array([_element(site) for site in sites], dtype=np.int64)
    lattice = value.get("lattice")
    cell = np.zeros((3, 3)) if lattice is None else np.array(lattice["matrix"], dtype=np.float64)
    pbc = np.array([False] * 3 if lattice is None else lattice.get("pbc", [True] * 3), dtype=bool)
    if all("xyz" in site for site in sites):
        positions = np.array([site["xyz"] for site in sites], dtype=np.float64)
    else:
        positions = np.array([site["abc"] for site in sites], dtype=np.float64) @ cell
    return _Geometry(numbers, positions.reshape(len(numbers), 3), cell, pbc, _site_properties(value, sites))


def _site_properties(value: Mapping[str, Any], sites: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of what every site has, as `magmoms`, `forces`, ...; those that some sites lack are named with that remark."""
    listed = [site.get("properties") or {} for site in sites]
    columns: dict[str, Any] = {}
    for key in dict.fromkeys(key for own in listed for key, x in own.items() if x is not None):
        column = [own.get(key) for own in listed]
        whole = all(item is not None for item in column)
        name = {"magmom": "magmoms"}.get(key, key) if whole else f"{key} of some sites"
        columns[name] = np.array(column, dtype=np.float64) if whole and regular(column) else np.array([str(item) for item in column])
    return columns


def _element(site: Mapping[str, Any]) -> int:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        raise InvalidStructureError(f"a site is occupied by {species}", hint="disordered structures are not read")
    return number(str(species[0]["element"]))


def _is_pymatgen(value: Any) -> bool:
    return isinstance(value, Mapping) and "sites" in value


def _in_structure(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: _is_pymatgen(value.get("structure")) and all(key in value for key in keys)


def _mptrj(entry: Entry) -> list[RawFrame | MlipfmError]:
    """MPtrj (Deng et al., CHGNet, 2023): uncorrected energy of the cell, forces, stress in kbar with VASP's sign, magnetic moments, gap."""
    v = entry.value
    results = {"energy": v["uncorrected_total_energy"], "forces": v.get("force", v.get("forces")), "stress": v.get("stress"),
               "magmoms": v.get("magmom", v.get("magmoms"))}  # fmt: skip
    info = {} if v.get("bandgap") is None else {"REF_band_gap": v["bandgap"]}
    taken = {"structure", "uncorrected_total_energy", "force", "forces", "stress", "magmom", "magmoms", "bandgap", "mp_id"}
    return [_frame(entry, _pymatgen(v["structure"]), results, taken, info, group=str(v.get("mp_id") or entry.names[0]))]


def _is_matpes(value: Mapping[str, Any]) -> bool:
    """By its id, or, in extracts without it, by the functional beside forces and stress."""
    return _in_structure("energy")(value) and ("matpes_id" in value or all(key in value for key in ("functional", "forces", "stress")))


def _matpes(entry: Entry) -> list[RawFrame | MlipfmError]:
    """MatPES (Kaplan et al., arXiv:2503.04070): energy of the cell, forces, stress in kbar with VASP's sign and the order of pymatgen's `voigt`."""
    v = entry.value
    info = {} if v.get("bandgap") is None else {"REF_band_gap": v["bandgap"]}
    results = {key: v.get(key) for key in ("energy", "forces", "stress")}
    taken = {"structure", "energy", "forces", "stress", "bandgap", "matpes_id", *_DESCRIPTIONS}
    return [
        _frame(entry, _pymatgen(v["structure"]), results, taken, info, group=str(v.get("mp_id") or v.get("matpes_id") or entry.names[0]))
    ]


#: What pymatgen writes about a structure beside it, and which follows from the structure.
_DESCRIPTIONS = ("nsites", "elements", "nelements", "composition", "composition_reduced", "formula_pretty", "formula_anonymous", "chemsys", "volume",
                 "density", "density_atomic", "symmetry", "@module", "@class", "@version")  # fmt: skip


def _snap(entry: Entry) -> list[RawFrame | MlipfmError]:
    """mlearn (Zuo et al., 2020) and the SNAP sets of the same group: labels in `outputs`."""
    v, out = entry.value, entry.value["outputs"]
    results = {"energy": out.get("energy"), "forces": out.get("forces"), "stress": out.get("stress", out.get("virial_stress"))}
    words = [v.get("element"), v.get("group"), re.sub(r"^Snapshot \d+ of \d+ of ", "", str(v.get("description") or ""))]
    rest = {
        f"outputs_{key}": x for key, x in out.items() if key not in ("energy", "forces", "stress" if "stress" in out else "virial_stress")
    }
    taken = {"structure", "outputs", "element", "group", "description", *_DESCRIPTIONS}
    group = " ".join(str(word) for word in words if word) or None
    return [_frame(entry, _pymatgen(v["structure"]), results, taken, group=group, value={**v, **rest})]


def _computed_entry(entry: Entry) -> list[RawFrame | MlipfmError]:
    """ComputedStructureEntry (Alexandria, Materials Project): `energy` is that of the cell without corrections. What `data` holds has keys as
    `data_stress`; a stress has no unit in the file and is read only if a key is named."""
    v = entry.value
    data = v.get("data") if isinstance(v.get("data"), Mapping) else {}
    group = v.get("entry_id") or (data or {}).get("mat_id")
    taken = {"structure", "energy", "entry_id", "stress", *_DESCRIPTIONS}
    group = None if group is None else str(group)
    return [_frame(entry, _pymatgen(v["structure"]), {"energy": v["energy"]}, taken, _stress_of_no_unit(v), group)]


def _stress_of_no_unit(value: Mapping[str, Any]) -> dict[str, Any]:
    """A stress beside a structure of pymatgen has no unit in the file: kbar with VASP's sign in some files, GPa in others."""
    return {"entry_stress": value["stress"]} if value.get("stress") is not None else {}


def _with_properties(entry: Entry) -> list[RawFrame | MlipfmError]:
    """Return a structure with values beside it: a table of properties. Those that are labels are found by the usual spellings."""
    v = entry.value
    group = next((str(v[k]) for k in ("material_id", "mp_id", "id") if v.get(k) is not None), None)
    return [_frame(entry, _pymatgen(v["structure"]), {}, {"structure", "stress", *_DESCRIPTIONS}, _stress_of_no_unit(v), group)]


def _bare(entry: Entry) -> list[RawFrame | MlipfmError]:
    v = entry.value
    stated = {"charge": v.get("charge"), "spin": v.get("spin_multiplicity")} if v.get("lattice") is None else {}
    taken = {"sites", "lattice", "charge", "spin_multiplicity", "properties", *_DESCRIPTIONS}
    value = {**v, **(v.get("properties") or {})}
    return [_frame(entry, _pymatgen(v), {}, taken, {k: x for k, x in stated.items() if x is not None}, value=value)]


def _jarvis(entry: Entry) -> list[RawFrame | MlipfmError]:
    """ALIGNN's `id_prop.json`: `total_energy` is per atom. Its `stresses` are read only if their key is named: on the public Cu set they
    contradict the energies of strained cells and the same frames of mlearn."""
    v, atoms = entry.value, entry.value["atoms"]
    numbers = np.array([number(str(name).strip()) for name in atoms["elements"]], dtype=np.int64)
    cell = np.array(atoms["lattice_mat"], dtype=np.float64)
    coordinates = np.array(atoms["coords"], dtype=np.float64)
    geometry = _Geometry(numbers, coordinates if atoms.get("cartesian") else coordinates @ cell, cell, np.ones(3, dtype=bool))
    energy = v.get("total_energy")
    results = {"energy": None if energy is None else float(energy) * len(numbers), "forces": v.get("forces")}
    rest = {f"atoms_{key}": x for key, x in atoms.items() if key not in _JARVIS_ATOMS}
    group = None if v.get("jid") is None else str(v["jid"])
    frame = _frame(entry, geometry, results, {"atoms", "total_energy", "forces", "jid"}, group=group, value={**v, **rest})
    return [replace(frame, remarks=() if energy is None else ("total_energy is per atom (layout jarvis): times the number of atoms",))]


_JARVIS_ATOMS = ("elements", "lattice_mat", "coords", "cartesian", "abc", "angles")


def _ase(entry: Entry) -> list[RawFrame | MlipfmError]:
    return [row_frame(entry.value)]


_STRESS_STYLES = {"bar": "bar", "kB": "kbar", "kbar": "kbar", "GPa": "GPa"}


def _fitsnap_style(style: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: isinstance(value.get("Data"), list) and value.get("StressStyle", "bar") == style


def _fitsnap(entry: Entry) -> list[RawFrame | MlipfmError]:
    """FitSNAP's `Dataset`: eV and Å; stress as its style says, positive under compression; rows of the lattice are its vectors. A stress of
    nine zeros was not computed."""
    v = entry.value
    for key, wanted in (("EnergyStyle", "electronvolt"), ("PositionsStyle", "angstrom"), ("LatticeStyle", "angstrom")):
        if v.get(key, wanted) != wanted:
            raise UnitError(f"{key} {v[key]!r} is not read", hint=f"convert it to {wanted}")
    frames: list[RawFrame | MlipfmError] = []
    for data in v["Data"]:
        numbers = np.array([number(str(name)) for name in data["AtomTypes"]], dtype=np.int64)
        cell = np.array(data["Lattice"], dtype=np.float64)
        geometry = _Geometry(numbers, np.array(data["Positions"], dtype=np.float64).reshape(len(numbers), 3), cell, np.ones(3, dtype=bool))
        stress = data.get("Stress")
        results = {"energy": data.get("Energy"), "forces": data.get("Forces"), "stress": stress if np.any(stress) else None}
        taken = {"AtomTypes", "Lattice", "Positions", "Stress", "Energy", "Forces", "NumAtoms"}
        frames.append(_frame(entry, geometry, results, taken, value=data))
    return frames


def _dimers(entry: Entry) -> list[RawFrame | MlipfmError]:
    """Curves of diatomics by distance (Matbench Discovery): the level is the name above the pair, forces tell the axis."""
    v = entry.value
    numbers = np.array([number(name) for name in entry.names[-1].split("-")], dtype=np.int64)
    level = {LEVEL_KEY: entry.names[-2]} if len(entry.names) > 1 else {}
    frames: list[RawFrame | MlipfmError] = []
    for k, distance in enumerate(v["distances"]):
        forces = np.array(v["forces"][k], dtype=np.float64)
        positions = np.zeros((2, 3))
        positions[1, int(np.argmax(np.abs(forces[0])))] = distance
        geometry = _Geometry(numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
        magmoms = v.get("magmoms")
        results = {"energy": v["energies"][k], "forces": forces, "magmoms": None if magmoms is None else magmoms[k]}
        taken = {"distances", "energies", "forces", "magmoms"}
        frames.append(_frame(entry, geometry, results, taken, level, "/".join(entry.names)))
    return frames


#: In the order in which they are tried.
LAYOUTS = (
    JsonLayout("mptrj", _in_structure("uncorrected_total_energy"), _mptrj, VASP_STRESS),
    JsonLayout("matpes", _is_matpes, _matpes, EV_ANGSTROM | VASP_STRESS | {"stress_order": VOIGT_ASE}),
    JsonLayout("snap", lambda v: _is_pymatgen(v.get("structure")) and isinstance(v.get("outputs"), Mapping), _snap, VASP_STRESS),
    JsonLayout("computed-entry", _in_structure("energy", "composition"), _computed_entry),
    JsonLayout("properties", _in_structure(), _with_properties),
    JsonLayout("pymatgen", _is_pymatgen, _bare),
    JsonLayout("jarvis", lambda v: isinstance(v.get("atoms"), Mapping) and "lattice_mat" in v["atoms"], _jarvis),
    *(
        JsonLayout(f"fitsnap-{style}", _fitsnap_style(style), _fitsnap, {"stress_unit": unit, "stress_sign": -1})
        for style, unit in _STRESS_STYLES.items()
    ),
    JsonLayout("dimers", lambda v: "distances" in v and "energies" in v, _dimers),
    JsonLayout("ase", lambda v: "numbers" in v and "positions" in v, _ase),
)
