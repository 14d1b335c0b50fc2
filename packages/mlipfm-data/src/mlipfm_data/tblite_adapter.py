"""GFN1-xTB and GFN2-xTB single points with tblite. Needs numpy and tblite only, so that it also serves a foreign worker as it is.

Methods: Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13 (2017) 1989; Bannwarth, Ehlert, Grimme, ibid. 15 (2019) 1652. Every call is a
cold start on one thread: the result depends on nothing that was computed before, and the same machine gives the same bits each time (with two
threads tblite 0.8 gave other bits from run to run, and water took 56 ms instead of 0.7).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.metadata
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

METHODS = ("GFN1-xTB", "GFN2-xTB")
OUTPUTS = ("energy", "forces", "stress", "charges", "dipole")
#: What a labeller of rich labels adds, for molecules: orbital energies in eV, and Wiberg bond orders [N, N].
RICH = ("bond_orders", "homo", "lumo", "band_gap")

#: CODATA 2018, equal to mlipfm_interfaces.units, which a worker's environment does not have.
HARTREE, BOHR = 27.211386245988, 0.529177210903  # eV, Å

#: tblite's thresholds times 0.1. Forces of H2O, C6H6, C4H4S are then within 0.004 meV/Å of full convergence (default 0.05), for 15 % more time.
ACCURACY = 0.1


class _Kept(threading.local):
    """Calculators of a thread, for molecules of the same atoms and state. They hold parameters alone: each result starts from a new guess."""

    def __init__(self) -> None:
        self.calculators: dict[tuple[str, bytes, int, int], Any] = {}


_KEPT = _Kept()
atexit.register(lambda: _KEPT.calculators.clear())  # tblite's own clean-up fails once the interpreter is being torn down


#: Electrons in the core, from this element on.
_CORES = {80: 78, 72: 68, 55: 54, 48: 46, 37: 36, 30: 28, 19: 18, 11: 10, 3: 2, 1: 0}


class TbliteError(RuntimeError):
    """tblite refused the structure or did not converge; the text is tblite's."""


class TbliteModel:
    """What `load` returns: one method, without state."""

    outputs = OUTPUTS
    versions: dict[str, str]

    def __init__(self, method: str) -> None:
        self.method = method

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        charge: int | None,
        multiplicity: int | None,
        outputs: Sequence[str],
        field: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Quantities of one structure, in eV, Å and e; signs as in mlipfm's table of quantities.

        Args:
            positions: [N, 3] Å. cell: [3, 3] Å, rows; read only if periodic. pbc: [3] bool, all or none.
            charge: e. multiplicity: 2S+1; None is the lowest possible.
            outputs: of `OUTPUTS` and `RICH`; stress needs periodicity, the dipole a molecule without charge, what is in `RICH` a molecule.
            field: [3] V/Å, molecules only.

        Raises:
            TbliteError: not converged, atoms too close, an element above 86, electrons that cannot be paired.
            ValueError: a question that has no answer: no charge given, more or fewer electrons than orbitals take, periodic in one or two
                directions, the stress of a molecule.
        """
        periodic = check(np.asarray(pbc, dtype=bool), charge, outputs, field)
        assert charge is not None  # refused by `check`
        unpaired = (int(np.sum(numbers)) - charge) % 2 if multiplicity is None else multiplicity - 1
        result = _single_point(self.method, numbers, positions, cell if periodic else None, charge, unpaired, field)
        partial = result.get("charges")
        if abs(partial.sum() - charge) > 1e-3:
            raise TbliteError(f"the partial charges add up to {partial.sum():.3g} and not to {charge:+d}")
        values: dict[str, Any] = {}
        if "energy" in outputs:
            values["energy"] = np.float64(result.get("energy") * HARTREE)
        if "forces" in outputs:
            values["forces"] = result.get("gradient") * (-HARTREE / BOHR)
        if "stress" in outputs:
            # tblite's virial is dE/dstrain
            virial = result.get("virial")
            values["stress"] = (virial + virial.T) * (0.5 * HARTREE / abs(np.linalg.det(cell)))
        if "charges" in outputs:
            values["charges"] = partial
        if "dipole" in outputs:
            values["dipole"] = result.get("dipole") * BOHR
        if any(key in outputs for key in RICH):
            values |= _rich(result)
        return {key: np.asarray(values[key], dtype=np.float64) for key in outputs}


def _rich(result: Any) -> dict[str, Any]:
    """Bond orders and frontier orbitals; the gap is that between the highest orbital with an electron and the lowest with room for two."""
    energies, occupations = result.get("orbital-energies") * HARTREE, result.get("orbital-occupations")
    if (occupations > 0.5).all():
        raise ValueError("all orbitals of the minimal basis are occupied: there is no LUMO")
    homo, lumo = energies[occupations > 0.5].max(initial=-np.inf), energies[occupations <= 0.5].min()
    if not np.isfinite(homo):
        raise ValueError("no orbital is occupied: there is no HOMO")
    orders = result.get("bond-orders")
    return {"bond_orders": orders.reshape(*orders.shape[:2], -1).sum(axis=2), "homo": homo, "lumo": lumo, "band_gap": lumo - homo}


def load(argument: str) -> TbliteModel:
    """Return the model of a method: `GFN2-xTB`, `gfn2-xtb` or `GFN2`. Raises ValueError for another, ImportError without tblite."""
    model = TbliteModel(method_name(argument))
    model.versions = {"tblite": importlib.metadata.version("tblite")}
    return model


def method_name(argument: str) -> str:
    """tblite's spelling of a method. Raises ValueError for one it does not have."""
    for method in METHODS:
        if argument.lower() in (method.lower(), method.lower().removesuffix("-xtb")):
            return method
    raise ValueError(f"tblite has no method {argument!r}; choose one of: {', '.join(METHODS)}")


def available(pbc: np.ndarray, charge: int | None) -> tuple[str, ...]:
    """Return the outputs that exist for such a structure."""
    axes = np.asarray(pbc).tolist()
    return _available(all(axes), any(axes) or bool(charge))


@cache
def _available(periodic: bool, no_dipole: bool) -> tuple[str, ...]:
    nothing = ({"stress"} if not periodic else set()) | ({"dipole"} if no_dipole else set())
    return tuple(key for key in OUTPUTS if key not in nothing)


def check(pbc: np.ndarray, charge: int | None, outputs: Sequence[str], field: np.ndarray | None) -> bool:
    """Return whether the structure is periodic. Raises ValueError for what tblite would answer with a number that means something else."""
    if charge is None:
        raise ValueError("the total charge is not given; set `total_charge`: charge=0 in the comment line of an xyz file, or --charge 0")
    axes = pbc.tolist()
    if any(axes) and not all(axes):
        raise ValueError(f"tblite is periodic in three directions or in none, got pbc {axes}; add a vacuum and set pbc to True")
    if any(axes) and field is not None:
        raise ValueError("an external field in a periodic cell is not defined; remove `external_field`")
    known = (*available(pbc, charge), *(() if any(axes) else RICH))
    wrong = [key for key in outputs if key not in known]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not defined for this structure; available: {', '.join(known)}")
    return all(axes)


def _single_point(
    method: str,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None,
    charge: int,
    unpaired: int,
    field: np.ndarray | None,
) -> Any:
    """tblite's result object, in atomic units."""
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError

    try:
        with _one_thread():
            if cell is not None or field is not None:
                return _calculator(method, numbers, positions, cell, charge, unpaired, field).singlepoint()
            kept = _KEPT.calculators
            key = (method, np.asarray(numbers).tobytes(), charge, unpaired)
            calculator = kept.pop(key, None)
            if calculator is None:
                calculator = _calculator(method, numbers, positions, None, charge, unpaired, None)
            else:
                calculator.update(np.asarray(positions) / BOHR)
            result = calculator.singlepoint()
            if len(kept) >= 32:
                del kept[next(iter(kept))]  # the one that was not used for the longest time
            kept[key] = calculator  # not after an error
            return result
    except (TBLiteRuntimeError, TBLiteValueError) as error:
        raise TbliteError(" ".join(str(error).split())) from None


def _calculator(
    method: str,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None,
    charge: int,
    unpaired: int,
    field: np.ndarray | None,
) -> Any:
    """tblite's calculator with our settings, for electrons that the method has a place for."""
    from tblite.interface import Calculator
    from tblite.library import ffi

    lattice = None if cell is None else np.asarray(cell) / BOHR
    periodic = None if cell is None else np.ones(3, dtype=bool)
    calculator = Calculator(method, np.asarray(numbers), np.asarray(positions) / BOHR, float(charge), int(unpaired), lattice, periodic)
    _check_electrons(numbers, charge, unpaired, len(calculator.get("orbital-map")))
    calculator.set("verbosity", 0)
    calculator.set("accuracy", ACCURACY)
    if field is not None:
        # tblite 0.8 does not convert the array itself; V/Å to Hartree/(e bohr)
        calculator.add("electric-field", ffi.new("double[3]", [float(f) * BOHR / HARTREE for f in field]))
    return calculator


def valence_electrons(z: int) -> int:
    """Electrons of a neutral atom that GFN1 and GFN2 treat; d shells of groups 12 to 18 and all f shells belong to the core."""
    if 57 <= z <= 71:
        return 3
    return z - next(core for first, core in _CORES.items() if z >= first)


def _check_electrons(numbers: np.ndarray, charge: int, unpaired: int, orbitals: int) -> None:
    """Refuse electrons the method has no place for: tblite 0.8 answers with another state, or writes outside its arrays (charge +10 of water)."""
    electrons = sum(map(valence_electrons, np.asarray(numbers).tolist())) - charge
    state = f"{electrons} valence electrons, {unpaired} of them unpaired, in {orbitals} orbitals"
    if (electrons - unpaired) % 2:
        raise ValueError(f"{state}: the f electrons of lanthanides are part of the core here, the multiplicity has no meaning")
    if electrons < unpaired or electrons + unpaired > 2 * orbitals:
        raise ValueError(f"{state}: there is no such state; check total charge and spin multiplicity")


@cache
def _openmp() -> Any:
    """Return the OpenMP runtime that tblite is linked to (torch may share it), or None if it has none that can be set."""
    from tblite import _libtblite

    library = ctypes.CDLL(_libtblite.__file__)
    return library if hasattr(library, "omp_set_num_threads") else None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run OpenMP code of this thread on one thread, and then as before; OMP_NUM_THREADS is read only when the runtime is loaded."""
    openmp = _openmp()
    if openmp is None:
        yield
        return
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)
