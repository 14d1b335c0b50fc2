"""The one table of physical quantities: key, shape, unit, sign, layout.

Readers convert into it, heads are declared from it, reports take their units from it. Shapes are per entry of the layout: `energy` is () per
system, `forces` (3,) per atom. A `probe` quantity belongs to chosen directions and travels with its companion array, which says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import UnknownQuantityError

Layout = Literal["system", "atom", "pair", "probe"]


@dataclass(frozen=True)
class Quantity:
    """One physical quantity.

    Attributes:
        key: its name everywhere (labels, outputs, files, reports).
        shape: shape per entry of the layout; () is a scalar.
        unit: internal unit.
        layout: what an entry belongs to: a system, an atom, a pair, or a probe (see `companion`).
        extensive: grows with the number of atoms.
        meaning: definition with its sign.
        companion: key of the array that says which direction each probe entry belongs to.
        target: whether a model can predict it; False for what says how labels count (weights) or how atoms may move.
    """

    key: str
    shape: tuple[int, ...]
    unit: str
    layout: Layout
    extensive: bool
    meaning: str
    companion: str | None = None
    target: bool = True


_TABLE = [
    Quantity("energy", (), "eV", "system", True, "total potential energy; lower is more stable"),
    Quantity("forces", (3,), "eV/Angstrom", "atom", False, "F = -dE/dr of each atom"),
    Quantity("stress", (3, 3), "eV/Angstrom^3", "system", False, "+(1/V) dE/dstrain: negative when the crystal is compressed (ASE's sign)"),
    Quantity("atomic_energies", (), "eV", "atom", False, "share of each atom in the energy; only their sum has a meaning"),
    Quantity("dipole", (3,), "e Angstrom", "system", True, "sum of q r, from negative to positive charge; of a neutral system"),
    Quantity("polarizability", (3, 3), "e^2 Angstrom^2/eV", "system", True, "d dipole / d field"),
    Quantity("charges", (), "e", "atom", False, "partial charges; their sum is the total charge"),
    Quantity("spin_charges", (), "e", "atom", False, "number of spin-up minus spin-down electrons of each atom"),
    Quantity("magnetic_moments", (), "Bohr magneton", "atom", False, "collinear magnetic moment of each atom"),
    Quantity("born_charges", (3, 3), "e", "atom", False, "Z*[a, b] = d dipole_a / d r_b of each atom"),
    Quantity(
        "hessian_rows",
        (),
        "eV/Angstrom^2",
        "probe",
        False,
        "rows d2E/(dr_(atom,axis) dr) of the Hessian, [rows, atoms, 3]; the force Jacobian is minus this",
        "hessian_rows_index",
    ),
    Quantity("hvp", (), "eV/Angstrom^2", "probe", False, "Hessian times the probe directions, [probes, atoms, 3]", "hvp_probe"),
    Quantity("quadrupole", (3, 3), "e Angstrom^2", "system", True, "sum of q r r, traceless form not implied"),
    Quantity("band_gap", (), "eV", "system", False, "smallest difference between empty and occupied levels"),
    Quantity("homo", (), "eV", "system", False, "energy of the highest occupied orbital"),
    Quantity("lumo", (), "eV", "system", False, "energy of the lowest unoccupied orbital"),
    Quantity("bond_orders", (), "1", "pair", False, "bond order of each pair of atoms, [atoms, atoms], symmetric"),
    Quantity("shieldings", (), "ppm", "atom", False, "isotropic magnetic shielding of each nucleus"),
    Quantity("noise", (3,), "Angstrom", "atom", False, "displacement that was added to each atom: what denoising predicts"),
    Quantity(
        "masked", (), "1", "atom", False, "1 for atoms whose element is hidden from the model, which then predicts it; 0 else", target=False
    ),
    Quantity(
        "original_element", (), "1", "atom", False, "atomic number of each atom before elements were replaced at random", target=False
    ),
    Quantity("weight", (), "1", "system", False, "weight of a structure in training; structures without it count 1", target=False),
    Quantity(
        "forces_weight",
        (),
        "1",
        "atom",
        False,
        "weight of the force on each atom in losses and errors; 0 leaves it out, structures without it count 1",
        target=False,
    ),
    Quantity("fixed", (), "1", "atom", False, "1 for atoms that a constraint of the file fixes, 0 for free ones", target=False),
]

#: Every quantity by its key.
QUANTITIES: dict[str, Quantity] = {quantity.key: quantity for quantity in _TABLE}


def quantity(key: str) -> Quantity:
    """Return the quantity named `key`.

    Raises:
        UnknownQuantityError: with the nearest known name.
    """
    if key not in QUANTITIES:
        import difflib

        near = difflib.get_close_matches(key, QUANTITIES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(QUANTITIES)}"
        raise UnknownQuantityError(f"no quantity is named {key!r}", hint=hint)
    return QUANTITIES[key]
