"""`Structure`: one arrangement of atoms with what is known about it. Frozen, arrays read-only, checked when it is made.

`None` means "not given" and never zero: a charge that nobody wrote down stays None. One level of theory per Structure; a geometry labelled
at two levels is two Structures of one `provenance.group`, and their labels join by (`key`, `level`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .display import html_table, line
from .elements import N_ELEMENTS, formula
from .errors import InvalidStructureError, MultiplicityError, ShapeError, UnknownElementError
from .lattice import adjugate
from .quantities import quantity

Array = NDArray[Any]

#: Positions are rounded to this many decimals (Å) before hashing, so that a round trip through a text format keeps the key.
KEY_DECIMALS = 6


@dataclass(frozen=True)
class Provenance:
    """Where a structure comes from.

    Attributes:
        source: data set, file or generator.
        group: what must never be split between training and test: a molecule, a trajectory, a reaction.
        index: position in the source.
        sampling: how the geometry was made (`conformer`, `langevin-600K`, `normal-modes-300K`, `relaxation`, ...).
        licence: SPDX identifier of the data, if known.
    """

    source: str | None = None
    group: str | None = None
    index: int | None = None
    sampling: str | None = None
    licence: str | None = None


def _frozen(name: str, value: ArrayLike, dtype: Any) -> Array:
    """Return a read-only copy. What NumPy would repair silently (text, masked entries, 6.5 as an atomic number) is refused."""
    if type(value) is np.ndarray and value.dtype == dtype:
        array = value.copy()
        array.setflags(write=False)
        return array
    try:
        given = np.asanyarray(value)
        if given.dtype == object:
            given = given.astype(np.float64)
        if given.dtype.kind not in "biuf" or np.ma.is_masked(given):
            raise ShapeError(f"`{name}` must be a numeric array without masked entries, got {given.dtype}")
        if given.dtype.kind == "f" and given.dtype.itemsize < 4:
            raise ShapeError(f"`{name}` has {given.dtype}, which resolves 0.01 at 10", hint="give float64 (float32 at least)")
        if given.dtype == dtype:
            array = np.array(given, copy=True, order="C")
        else:
            with np.errstate(invalid="ignore"):  # NaN as an integer: refused below
                array = np.array(given, dtype=dtype, copy=True, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError(f"`{name}` must be a numeric array: {error}") from None
    if array.dtype.kind in "ib" and given.dtype != dtype and not (array == given).all():
        raise ShapeError(f"`{name}` must hold {'whole numbers' if array.dtype.kind == 'i' else 'true or false'}, got {given.tolist()}")
    array.setflags(write=False)
    return array


def _decimals(values: Array) -> Array:
    """Rounded to `KEY_DECIMALS` as text formats round: `np.round` multiplies first and turns 1.0000015 the other way than `%.6f`."""
    scaled = values * 10.0**KEY_DECIMALS
    whole = np.rint(scaled)
    rounded = whole / 10.0**KEY_DECIMALS
    halves = np.abs(scaled - whole) > 0.499
    if halves.any():
        for k in zip(*np.nonzero(halves), strict=True):
            rounded[k] = round(float(values[k]), KEY_DECIMALS)
    return rounded + 0.0


def _has_volume(cell: Array) -> bool:
    """Return whether three vectors are surely neither short nor coplanar: unit vectors of determinant d have no singular value below 2d/3."""
    a, b, c = (math.hypot(*vector) for vector in cell.tolist())
    return min(a, b, c) > 1e-2 and abs(adjugate(cell)[1]) > 1e-5 * a * b * c


def _no_labels() -> Mapping[str, Array]:
    return MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms, cell, state and labels.

    Attributes:
        atomic_numbers: [N] int64, 1..118. N = 0 is refused.
        positions: [N, 3] float64, Å.
        cell: [3, 3] float64, Å, lattice vectors as rows; zero where there is none.
        pbc: [3] bool.
        total_charge: e, None if not given.
        spin_multiplicity: 2S+1 (1 is a singlet), None if not given.
        external_field: [3] float64, V/Å, None if not given.
        level: canonical id of the level of theory of the labels, see `theory.LevelOfTheory`.
        labels: quantity key -> float64 array with the shape that `quantities` gives it (companions of probes included).
        label_std: quantity key -> standard deviation of the label, same shape.
        provenance: where it comes from.

    Raises:
        ShapeError, InvalidStructureError, UnknownElementError, MultiplicityError: see `__post_init__`; nothing is repaired silently.
    """

    atomic_numbers: Array
    positions: Array
    cell: Array = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: Array = field(default_factory=lambda: np.zeros(3, dtype=bool))
    total_charge: int | None = None
    spin_multiplicity: int | None = None
    external_field: Array | None = None
    level: str | None = None
    labels: Mapping[str, Array] = field(default_factory=_no_labels)
    label_std: Mapping[str, Array] = field(default_factory=_no_labels)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "atomic_numbers", _frozen("atomic_numbers", self.atomic_numbers, np.int64))
        put(self, "positions", _frozen("positions", self.positions, np.float64))
        put(self, "cell", _frozen("cell", self.cell, np.float64))
        pbc = _frozen("pbc", self.pbc, bool)
        if pbc.shape not in ((), (3,)):
            raise ShapeError(f"`pbc` must have shape [3], got {list(pbc.shape)}")
        put(self, "pbc", pbc if pbc.shape else _frozen("pbc", np.broadcast_to(pbc, 3), bool))
        if self.external_field is not None:
            put(self, "external_field", _frozen("external_field", self.external_field, np.float64))
        for name in ("labels", "label_std"):
            arrays = {key: _frozen(key, value, np.float64) for key, value in getattr(self, name).items()}
            put(self, name, MappingProxyType(arrays))
        self._check_geometry()
        self._check_state()
        self._check_labels()

    @classmethod
    def trusted(cls, **values: Any) -> Structure:
        """Return a Structure from sealed storage: fields are taken as they are, without copies and checks."""
        new = object.__new__(cls)
        new.__dict__.update(values)  # readers of large stores come here 50,000 times a second
        if len(values) < len(cls.__dataclass_fields__):
            for item in fields(cls):
                if item.name not in values:
                    new.__dict__[item.name] = item.default_factory() if callable(item.default_factory) else item.default
        return new

    def replace(self, **changes: Any) -> Structure:
        """Return a checked copy with some fields changed (cached values such as `key` are not carried over)."""
        return Structure(**({item.name: getattr(self, item.name) for item in fields(self)} | changes))

    def replace_trusted(self, **changes: Any) -> Structure:
        """Return a copy with some fields changed, at a tenth of the cost of `replace`: nothing is copied and nothing checked."""
        return self.trusted(**{name: getattr(self, name) for name in self.__dataclass_fields__} | changes)

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes: mapping proxies do not pickle, and arrays would come back writable."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return _received, (values | {"labels": dict(self.labels), "label_std": dict(self.label_std)},)

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def __repr__(self) -> str:
        rows = self._shown()
        state = [f"charge {self.total_charge}" if self.total_charge is not None else ""]
        state += [f"multiplicity {self.spin_multiplicity}" if self.spin_multiplicity is not None else ""]
        periodic = f"pbc {rows['periodic along']}" if self.pbc.any() else ""
        return line(
            "Structure", self.formula, f"{len(self)} atoms", periodic, *state, f"level {self.level!r}" if self.level else "", *self.labels
        )

    def _repr_html_(self) -> str:
        return html_table(self._shown())

    def _shown(self) -> dict[str, object]:
        """Return what a reader wants to know of it, without its numbers."""
        axes = "".join(axis for axis, periodic in zip("abc", self.pbc, strict=True) if periodic)
        lengths = " × ".join(f"{float(np.linalg.norm(row)):.3f}" for row in self.cell)
        return {
            "formula": self.formula,
            "atoms": len(self),
            "periodic along": axes or "no axis",
            "cell lengths, Å": lengths if self.cell.any() else None,
            "total charge, e": self.total_charge,
            "spin multiplicity": self.spin_multiplicity,
            "level of theory": self.level,
            "energy, eV": f"{float(self.labels['energy']):.6f}" if "energy" in self.labels else None,
            "labels": ", ".join(self.labels),
            "group": self.provenance.group,
            "source": self.provenance.source,
        }

    @cached_property
    def key(self) -> str:
        """Hash (32 hex digits) of canonical geometry, charge, spin and field; labels and level do not enter."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.atomic_numbers.astype("<i4").tobytes())
        n, periodic = len(self), self.pbc.any()
        rounded = _decimals(np.concatenate([self.positions, self.cell]) if periodic else self.positions).astype("<f8", copy=False)
        digest.update(rounded[:n].tobytes())
        digest.update(self.pbc.astype("u1").tobytes())
        if periodic:
            digest.update(rounded[n:].tobytes())
        field_text = None if self.external_field is None else np.round(self.external_field, 9).tolist()
        digest.update(repr((self.total_charge, self.spin_multiplicity, field_text)).encode())
        return digest.hexdigest()

    @property
    def formula(self) -> str:
        """Composition in alphabetical order, `C2H6O`."""
        return formula(self.atomic_numbers)

    def _check_geometry(self) -> None:
        n = len(self.atomic_numbers) if self.atomic_numbers.ndim == 1 else -1
        if n < 0:
            raise ShapeError(f"`atomic_numbers` must have shape [atoms], got {list(self.atomic_numbers.shape)}")
        if n == 0:
            raise InvalidStructureError("a structure needs at least one atom")
        if self.positions.shape != (n, 3):
            raise ShapeError(f"`positions` must have shape [{n}, 3] for {n} atoms, got {list(self.positions.shape)}")
        if self.cell.shape != (3, 3):
            raise ShapeError(
                f"`cell` must have shape [3, 3], got {list(self.cell.shape)}", hint="lattice vectors are rows; lengths only? use np.diag"
            )
        wrong = (self.atomic_numbers < 1) | (self.atomic_numbers > N_ELEMENTS)
        if wrong.any():
            bad = np.flatnonzero(wrong)
            raise UnknownElementError(
                f"atomic number {self.atomic_numbers[bad[0]]} does not exist", where=f"atom {bad[0]}", hint="use 1 (H) to 118 (Og)"
            )
        if not np.isfinite(self.positions).all():
            bad = np.flatnonzero(~np.isfinite(self.positions).all(axis=1))
            raise InvalidStructureError(f"position {self.positions[bad[0]].tolist()} is not finite", where=f"atom {bad[0]}")
        if not np.isfinite(self.cell).all():
            raise InvalidStructureError(f"`cell` is not finite: {self.cell.tolist()}")
        if self.external_field is not None and (self.external_field.shape != (3,) or not np.isfinite(self.external_field).all()):
            raise InvalidStructureError(f"`external_field` must be three finite numbers in V/Angstrom, got {self.external_field.tolist()}")
        self._check_cell()

    def _check_cell(self) -> None:
        vectors = self.cell[self.pbc]
        if not len(vectors) or (len(vectors) == 3 and _has_volume(vectors)):
            return
        lengths = np.linalg.norm(vectors, axis=1)
        if (lengths < 1e-3).any():
            axis = int(np.flatnonzero(self.pbc)[np.argmin(lengths)])
            raise InvalidStructureError(
                f"periodic along axis {axis}, but that lattice vector is zero",
                hint="give a cell, or set pbc to False (mlipfm data import: --option periodic=false)",
            )
        spread = np.linalg.svd(vectors / lengths[:, None], compute_uv=False)[-1]
        if spread < 1e-6:
            raise InvalidStructureError(
                "the periodic lattice vectors are coplanar or parallel: the cell has no volume", hint="check the cell"
            )

    def _check_state(self) -> None:
        for name, value in (("total_charge", self.total_charge), ("spin_multiplicity", self.spin_multiplicity)):
            if value is None:
                continue
            number = np.asarray(value)
            if number.shape != () or number.dtype.kind not in "iuf" or not np.isfinite(number) or number % 1:
                raise InvalidStructureError(f"`{name}` must be a whole number or None, got {value!r}")
            object.__setattr__(self, name, int(value))
        charge, multiplicity = self.total_charge, self.spin_multiplicity
        if multiplicity is not None and multiplicity < 1:
            raise MultiplicityError(
                f"spin multiplicity {multiplicity} is impossible", hint="give 2S+1: 1 is a singlet (0 unpaired electrons), 2 a doublet"
            )
        if charge is None:
            return
        electrons = int(self.atomic_numbers.sum()) - charge
        if electrons < 0:
            raise MultiplicityError(f"{self.formula} cannot have the charge {charge:+d}: it has {electrons + charge} electrons to lose")
        if multiplicity is None:
            return
        unpaired = multiplicity - 1
        if unpaired > electrons or (electrons - unpaired) % 2:
            wanted = "even" if electrons % 2 else "odd"
            raise MultiplicityError(
                f"{self.formula} with charge {charge:+d} has {electrons} electrons, which multiplicity {multiplicity} cannot pair",
                hint=f"the multiplicity must be {wanted} and at most {electrons + 1}",
            )

    def _check_labels(self) -> None:
        companions = {q.companion for q in map(quantity, self._plain_labels()) if q.companion}
        for key, value in self.labels.items():
            if key in companions:
                continue
            self._check_label(key, value)
        for key, value in self.label_std.items():
            if key not in self.labels or value.shape != self.labels[key].shape:
                raise ShapeError(f"standard deviation of {key!r} needs a label {key!r} of the same shape")
            if not (np.isfinite(value) & (value >= 0)).all():
                raise InvalidStructureError(
                    f"standard deviation of {key!r} is negative, NaN or infinite", hint="leave out what is not known"
                )

    def _plain_labels(self) -> list[str]:
        return [key for key in self.labels if not key.endswith(("_index", "_probe"))]

    def _check_label(self, key: str, value: Array) -> None:
        kind, n = quantity(key), len(self)
        if kind.layout == "probe":
            companion = self.labels.get(kind.companion or "")
            if companion is None or value.ndim != 3 or value.shape[1:] != (n, 3) or companion.shape[:1] != value.shape[:1]:
                raise ShapeError(f"label {key!r} needs shape [rows, {n}, 3] and its companion {kind.companion!r} with as many rows")
            _check_companion(kind.companion or "", companion, value)
        elif kind.layout != "pair":
            wanted = kind.shape if kind.layout == "system" else (n, *kind.shape)
            if value.shape != wanted:
                raise ShapeError(f"label {key!r} must have shape {list(wanted)} ({kind.unit}), got {list(value.shape)}")
        if not np.isfinite(value).all():
            raise InvalidStructureError(f"label {key!r} contains NaN or infinity", hint="drop the label or the frame")
        if key in ("weight", "forces_weight") and (value < 0).any():
            raise InvalidStructureError(f"label {key!r} is negative: {float(value.min())}", hint="weights are 0 (leave out) or more")
        if key == "fixed" and not np.isin(value, (0.0, 1.0)).all():
            raise InvalidStructureError("label 'fixed' must be 0 or 1 for each atom", hint="1 marks atoms that are fixed")


def _check_companion(key: str, companion: Array, value: Array) -> None:
    """An index out of range would reach into the next structure of a batch."""
    rows, n = value.shape[:2]
    if key == "hessian_rows_index":
        if companion.shape != (rows, 2):
            raise ShapeError(f"label {key!r} must have shape [{rows}, 2]: atom and axis of each row, got {list(companion.shape)}")
        if not ((companion >= 0) & (companion < [n, 3]) & (companion % 1 == 0)).all():
            raise InvalidStructureError(f"label {key!r} must hold atoms 0..{n - 1} and axes 0..2, got {companion.tolist()}")
    elif companion.shape != value.shape:
        raise ShapeError(f"label {key!r} must have shape {list(value.shape)}, got {list(companion.shape)}")
    elif not np.isfinite(companion).all():
        raise InvalidStructureError(f"label {key!r} contains NaN or infinity", hint="drop the label or the frame")


def _received(values: dict[str, Any]) -> Structure:
    """Return a Structure from another process, with read-only arrays again."""
    labels = {name: MappingProxyType(values[name]) for name in ("labels", "label_std")}
    for array in (*values.values(), *values["labels"].values(), *values["label_std"].values()):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return Structure.trusted(**(values | labels))
