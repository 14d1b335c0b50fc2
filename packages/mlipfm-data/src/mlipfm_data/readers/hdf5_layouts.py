"""The published HDF5 layouts: which data sets tell them apart, what they hold, in which units, at which level of theory, and who says so.

A level is given here only where the keys of the file give it; otherwise it is the user's (`level`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlipfm_interfaces.errors import UnitError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, Conventions, LevelKeys
from mlipfm_interfaces.units import KJ_MOL

from . import mapped_smiles
from .hdf5_files import text, whole
from .interpret import LEVEL_KEY


@dataclass
class Molecule:
    """A group of a file that holds conformations of one molecule (or of molecules of one size).

    Attributes:
        group: the HDF5 group. data: its data sets by name, or arrays [conformations, ...] put in their place. single: without that first axis.
        numbers: [N] or [conformations, N]. info: values that all conformations share. options: what the file gives here.
    """

    group: Any
    data: dict[str, Any]
    single: bool
    numbers: Any = None
    info: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hdf5Layout:
    """A published arrangement of data sets.

    Attributes:
        needs: data sets (and attributes, as `@name`) by which a group is recognised. positions, numbers: their data sets.
        levels: see `raw_frame.LevelKeys`. options: units and signs as `ReadOptions`.
        group: which part of a group's path must never be split: -1 the group itself (a molecule), -2 the one above, None: it is no molecule.
        states: data sets that are read as they are called (charge, mult).
        prepare: reads what is particular to the layout. reads: the data sets and attributes that it takes, beside `needs`.
    """

    name: str
    needs: frozenset[str]
    positions: str
    numbers: str
    levels: tuple[LevelKeys, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    group: int | None = -1
    states: tuple[str, ...] = ()
    prepare: Callable[[Molecule], None] = lambda molecule: None
    reads: frozenset[str] = frozenset()

    @cached_property
    def conventions(self) -> Conventions:
        return Conventions(self.name, self.options, self.levels)


_HARTREE_ANGSTROM = {"length_unit": "Angstrom", "forces_sign": 1, "energy_unit": "Hartree", "forces_unit": "Hartree/Angstrom"}


_EV_DIPOLE = EV_ANGSTROM | {"dipole_unit": "e Angstrom"}


def _level_of_lot(molecule: Molecule) -> None:
    if "lot" in molecule.data:
        molecule.info[LEVEL_KEY] = text(whole(molecule.data["lot"])).replace("*", "(d)")


def declared_units(molecule: Molecule, layout: Hdf5Layout) -> dict[str, str]:
    """Return the unit options that attributes of the data sets state; a unit that is not known as it is spelt.

    Raises:
        UnitError: two units for one quantity.
    """
    dimensions = ("energy", "forces", "dipole")
    keys = [(quantity, key) for labels in layout.levels for quantity, key in labels.keys.items() if quantity in dimensions]
    stated: dict[str, str] = {}
    for dimension, name in (("length", layout.positions), *keys):
        attributes = getattr(molecule.data.get(name), "attrs", {})
        unit = next((text(attributes[key]) for key in _UNIT_ATTRIBUTES if key in attributes), None)
        if unit is not None:
            known = _SPELLED.get(unit.replace(" ", "").lower(), unit)
            if stated.setdefault(f"{dimension}_unit", known) != known:
                raise UnitError(
                    f"{name!r} has the unit {unit!r}, another {dimension} has {stated[f'{dimension}_unit']!r}",
                    hint="choose one with `level`",
                )
    return stated


#: Attributes that give the unit of a data set, and units by their spelling there, in small letters without spaces.
_UNIT_ATTRIBUTES = ("units", "unit", "u")
_SPELLED = {
    "bohr": "bohr", "a0": "bohr", "nanometer": "nm", "nanometers": "nm", "nm": "nm", "angstrom": "Angstrom", "angstroms": "Angstrom",
    "ang": "Angstrom",
    "hartree": "Hartree", "ha": "Hartree", "ev": "eV", "electronvolt": "eV", "kcal/mol": "kcal/mol", "kilocalorie_per_mole": "kcal/mol",
    "kj/mol": "kJ/mol", "kilojoule_per_mole": "kJ/mol", "hartree/bohr": "Hartree/bohr",
    "ha/bohr": "Hartree/bohr", "hartree/angstrom": "Hartree/Angstrom",
    "ha/angstrom": "Hartree/Angstrom", "ev/angstrom": "eV/Angstrom", "ev/ang": "eV/Angstrom", "kcal/mol/angstrom": "kcal/mol/Angstrom",
    "kilocalorie_per_mole/angstrom": "kcal/mol/Angstrom", "kj/mol/nm": "kJ/mol/nm", "kilojoule_per_mole/nanometer": "kJ/mol/nm",
    "elementary_charge*bohr": "e bohr", "e*bohr": "e bohr", "elementary_charge*nanometer": "e nm", "e*nm": "e nm", "e*angstrom": "e Angstrom",
    "elementary_charge*angstrom": "e Angstrom", "debye": "Debye",
}  # fmt: skip


def _spice(molecule: Molecule) -> None:
    """The charge is the sum of formal charges in `smiles`; inputs without labels have elements only there."""
    if "smiles" in molecule.data:
        smiles = text(whole(molecule.data["smiles"]))
        molecule.info["charge"] = mapped_smiles.total_charge(smiles)
        if "atomic_numbers" not in molecule.data:
            molecule.numbers = mapped_smiles.elements(smiles)


def _qm9(molecule: Molecule) -> None:
    """The electronic energy is U0 without the zero-point energy; orbital energies are labels. Their units are attributes `u`."""
    values = {}
    for name in ("internal_energy_at_0K", "zero_point_vibrational_energy", "energy_of_homo", "energy_of_lumo", "lumo-homo_gap"):
        dataset = molecule.data.get(name)
        if dataset is not None:
            unit = text(dataset.attrs["u"])
            if unit != "kilojoule_per_mole":
                raise UnitError(f"{name!r} is in {unit!r}", hint="known here: kilojoule_per_mole")
            values[name] = whole(dataset)
    if "zero_point_vibrational_energy" in values:
        molecule.data["U0 - ZPE"] = values["internal_energy_at_0K"] - values["zero_point_vibrational_energy"]
    for key, name in {"REF_homo": "energy_of_homo", "REF_lumo": "energy_of_lumo", "REF_band_gap": "lumo-homo_gap"}.items():
        if name in values:
            molecule.data[key] = values[name]
    if "dipole_moment_per_system" in molecule.data:
        molecule.data["dipole"] = molecule.data["dipole_moment_per_system"]
    if "u" not in molecule.data["positions"].attrs:
        raise UnitError("the unit of the positions is not given", where=molecule.group.name)


def _attributes(molecule: Molecule) -> None:
    molecule.info |= {"energy": float(molecule.group.attrs["energy"]), "charge": float(molecule.group.attrs["charge"])}


_QM9 = frozenset({"zero_point_vibrational_energy", "energy_of_homo", "energy_of_lumo", "lumo-homo_gap", "dipole_moment_per_system"})
_WB97X = "wb97x/6-31g(d)"

LAYOUTS = (
    # Smith, Isayev, Roitberg, Sci. Data 4, 170193 (2017): Hartree, Angstrom; the file names no level. High-energy conformers lie in `coordinatesHE`.
    Hdf5Layout("ANI-1", frozenset({"coordinates", "energies", "species"}), "coordinates", "species",
           (LevelKeys(None, {"energy": "energies", "forces": "forces"}),), _HARTREE_ANGSTROM),
    # Smith et al., J. Chem. Phys. 148, 241733 (2018). `forces` are gradients: along the S66x8 curves dE = +F dx (measured). Level in `lot`.
    Hdf5Layout("COMP6", frozenset({"coordinates", "energies", "species", "cm5", "hirshfeld"}), "coordinates", "species",
           (LevelKeys(None, {"energy": "energies", "forces": "forces"}),), _HARTREE_ANGSTROM | {"forces_sign": -1}, prepare=_level_of_lot,
           reads=frozenset({"lot"})),
    # Smith et al., Sci. Data 7, 134 (2020), table 2: Hartree, Hartree/Angstrom, e Angstrom; one group per formula; NaN where not computed.
    Hdf5Layout("ANI-1x", frozenset({"coordinates", "atomic_numbers", "wb97x_dz.energy"}), "coordinates", "atomic_numbers", (
        LevelKeys(_WB97X, {"energy": "wb97x_dz.energy", "forces": "wb97x_dz.forces", "dipole": "wb97x_dz.dipole",
                        "charges": "wb97x_dz.hirshfeld_charges"}),
        LevelKeys("wb97x/def2-tzvpp", {"energy": "wb97x_tz.energy", "forces": "wb97x_tz.forces", "dipole": "wb97x_tz.dipole",
                                    "charges": "wb97x_tz.mbis_charges"}),
        LevelKeys("ccsd(t)*/cbs", {"energy": "ccsd(t)_cbs.energy"}),
    ), _HARTREE_ANGSTROM),
    # Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020): groups by number of atoms, species per conformation; forces are -dE/dr (measured).
    Hdf5Layout("ANI-2x", frozenset({"coordinates", "energies", "forces", "species"}), "coordinates", "species",
           (LevelKeys(None, {"energy": "energies", "forces": "forces"}),), _HARTREE_ANGSTROM, group=None),
    # Eastman et al., Sci. Data 10, 11 (2023) and J. Chem. Theory Comput. 20, 8583 (2024): gradients; wB97M-D3(BJ)/def2-TZVPPD throughout.
    Hdf5Layout("SPICE", frozenset({"conformations", "atomic_numbers", "dft_total_energy"}), "conformations", "atomic_numbers",
           (LevelKeys("wb97m-d3bj/def2-tzvppd", {"energy": "dft_total_energy", "forces": "dft_total_gradient", "dipole": "scf_dipole",
                                              "charges": "mbis_charges"}),),
           {"energy_unit": "Hartree", "forces_unit": "Hartree/bohr", "forces_sign": -1, "length_unit": "bohr", "dipole_unit": "e bohr"},
           prepare=_spice, reads=frozenset({"smiles", "atomic_numbers"})),
    Hdf5Layout("SPICE inputs", frozenset({"conformations", "smiles"}), "conformations", "smiles", (LevelKeys(None, {}),), {"length_unit": "nm"},
           prepare=_spice, reads=frozenset({"smiles", "atomic_numbers"})),
    # Schreiner et al., Sci. Data 9, 779 (2022): data/FORMULA/REACTION, eV and Angstrom.
    Hdf5Layout("Transition1x", frozenset({"positions", "atomic_numbers", "wB97x_6-31G(d).energy"}), "positions", "atomic_numbers",
           (LevelKeys(_WB97X, {"energy": "wB97x_6-31G(d).energy", "forces": "wB97x_6-31G(d).forces"}),), EV_ANGSTROM),
    # Hoja et al., Sci. Data 8, 43 (2021), table 2: MOLECULE/CONFORMATION, eV, Angstrom, e Angstrom; PBE0+MBD with FHI-aims, tight.
    Hdf5Layout("QM7-X", frozenset({"atXYZ", "atNUM", "ePBE0+MBD"}), "atXYZ", "atNUM",
           (LevelKeys("pbe0-mbd/fhi-aims-tight", {"energy": "ePBE0+MBD", "forces": "totFOR", "dipole": "vDIP", "charges": "hCHG", "homo": "eH",
                                               "lumo": "eL", "band_gap": "HLgap"}),), _EV_DIPOLE, group=-2),
    # github.com/isayevlab/aimnetcentral, training data: groups by number of atoms; eV, Angstrom, e Angstrom (dipole against charges: measured).
    Hdf5Layout("AIMNet2", frozenset({"coord", "numbers", "energy", "mult"}), "coord", "numbers",
           (LevelKeys(None, {"energy": "energy", "forces": "forces", "dipole": "dipole", "charges": "charges", "spin_charges": "spin_charges"}),),
           _EV_DIPOLE, group=None, states=("charge", "mult")),
    # QM9 as github.com/choderalab/modelforge curates it; Ramakrishnan et al., Sci. Data 1, 140022 (2014): B3LYP/6-31G(2df,p); units in attributes.
    Hdf5Layout("modelforge QM9", frozenset({"positions", "atomic_numbers", "internal_energy_at_0K"}), "positions", "atomic_numbers",
           (LevelKeys("b3lyp/6-31g(2df,p)", {"energy": "U0 - ZPE", "dipole": "dipole", "charges": "partial_charges", "homo": "REF_homo",
                                          "lumo": "REF_lumo", "band_gap": "REF_band_gap"}),),
           {"length_unit": "nm", "energy_unit": "kJ/mol", "dipole_unit": "e nm", "factors": dict.fromkeys(("homo", "lumo", "band_gap"), KJ_MOL)},
           prepare=_qm9, reads=_QM9),
    # github.com/instadeepai/mlip: one group per structure, energy and charge as attributes; eV, Angstrom.
    Hdf5Layout("mlip", frozenset({"positions", "elements", "@energy", "@charge"}), "positions", "elements",
           (LevelKeys(None, {"energy": "energy", "forces": "forces", "charges": "atomic_charges"}),), EV_ANGSTROM, prepare=_attributes, group=None),
)  # fmt: skip
