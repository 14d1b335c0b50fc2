"""`TbliteLabeler`: labels of the levels `gfn1-xtb` and `gfn2-xtb`. tblite is imported when the first structure is labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, LabelingError, MlipfmError
from mlipfm_interfaces.foreign import ForeignPackage
from mlipfm_interfaces.structure import Structure

from . import tblite_adapter

#: `tblite:GFN2` wherever a model of another package may stand; in this process, since tblite needs no environment of its own.
FOREIGN = ForeignPackage(requirements=("tblite>=0.5,<1",), adapter=Path(tblite_adapter.__file__), in_process=True, electronic=True)


@dataclass(frozen=True)
class TbliteLabeler:
    """Energy, forces, charges; stress of periodic structures; dipole of neutral molecules.

    The charge of a structure must be given. A multiplicity that is not given is taken as the lowest possible one, and the labelled structure
    gives it. Open shells are treated without spin polarisation, as the methods are defined.

    Args:
        method: `GFN1-xTB` or `GFN2-xTB`.

    Raises:
        LabelingError: for another method.
    """

    method: str = "GFN2-xTB"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "method", tblite_adapter.method_name(self.method))
        except ValueError as error:
            raise LabelingError(str(error)) from None

    @property
    def level(self) -> str:
        return self.method.lower()  # canonical, see theory.canonical_level

    def extra(self) -> tuple[str, ...]:
        """Return the labels beside the usual ones."""
        return ()

    def label(self, structure: Structure) -> Structure:
        """Return the structure with level, charge, multiplicity and labels; earlier labels are dropped.

        Raises:
            LabelingError: charge not given, no convergence, atoms too close, elements above 86, more charge than electrons, periodic in one or
                two directions, an external field in a periodic cell.
        """
        s, multiplicity = structure, structure.spin_multiplicity
        if multiplicity is None and s.total_charge is not None:
            multiplicity = 1 + (int(s.atomic_numbers.sum()) - s.total_charge) % 2
        try:
            outputs = (*tblite_adapter.available(s.pbc, s.total_charge), *self.extra())
            model = tblite_adapter.TbliteModel(self.method)
            values = model.evaluate(s.atomic_numbers, s.positions, s.cell, s.pbc, s.total_charge, multiplicity, outputs, s.external_field)
            return _labelled(s, self.level, multiplicity, values)
        except (ValueError, tblite_adapter.TbliteError) as error:
            what, _, hint = str(error).partition("; ")
            raise LabelingError(f"{self.method} of {s.formula}: {what}", where=_place(s), hint=hint or None) from None
        except ImportError as error:
            raise LabelingError(f"tblite could not be imported: {error}", hint="pip install 'mlipfm-data[tblite]'") from error
        except MlipfmError as error:
            raise LabelingError(f"{self.method} of {s.formula}: {error.what}", where=_place(s), hint=error.hint) from None


@dataclass(frozen=True)
class RichTbliteLabeler(TbliteLabeler):
    """Also bond orders, energies of HOMO and LUMO and the gap between them (of a minimal basis): of molecules only, crystals are refused."""

    def extra(self) -> tuple[str, ...]:
        """Return the labels beside the usual ones."""
        return tblite_adapter.RICH


def _labelled(s: Structure, level: str, multiplicity: int | None, values: dict[str, np.ndarray]) -> Structure:
    """Not `s.replace`, which checks: `s` was checked, tblite accepted its state, and the shapes of the values are known."""
    if not math.isfinite(sum(float(np.vdot(value, value)) for value in values.values())):
        raise InvalidStructureError("tblite answered with NaN or infinity")
    for value in values.values():
        value.setflags(write=False)
    labels = MappingProxyType(values)
    return s.replace_trusted(level=level, spin_multiplicity=multiplicity, labels=labels, label_std=MappingProxyType({}))


def gfn1() -> TbliteLabeler:
    """Plug-in `gfn1-xtb` of the group `mlipfm.labelers`."""
    return TbliteLabeler("GFN1-xTB")


def gfn2() -> TbliteLabeler:
    """Plug-in `gfn2-xtb` of the group `mlipfm.labelers`."""
    return TbliteLabeler("GFN2-xTB")


def rich1() -> RichTbliteLabeler:
    """Plug-in `gfn1-xtb-rich` of the group `mlipfm.labelers`."""
    return RichTbliteLabeler("GFN1-xTB")


def rich2() -> RichTbliteLabeler:
    """Plug-in `gfn2-xtb-rich` of the group `mlipfm.labelers`."""
    return RichTbliteLabeler("GFN2-xTB")


def _place(s: Structure) -> str | None:
    """Where the structure comes from, for messages."""
    p = s.provenance
    parts = [str(part) for part in (p.source, p.group, p.index) if part is not None]
    return ":".join(parts) or None
