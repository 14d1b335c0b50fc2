"""Before a frame is interpreted: is its cell understood, is it periodic by the file's word, did its calculation converge?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnconvergedError
from mlipfm_interfaces.raw_frame import RawFrame

from .label_names import as_numbers
from .options import ReadOptions

if TYPE_CHECKING:
    from .interpret import Decisions

#: Names under which files write a cell. One that is there although no cell was read must not be passed over.
_CELLS = ("lattice", "cell", "cells", "lattices", "box", "unit_cell", "unitcell", "lattice_vectors", "cell_vectors", "supercell",
          "latticevectors")  # fmt: skip
#: Names of what says whether the electronic calculation converged.
_CONVERGED = ("converged", "scf_converged", "electronic_converged", "converged_electronic", "converged_scf", "is_converged", "dft_converged",
              "scf_convergence", "electronic_convergence", "data_converged", "outputs_converged")  # fmt: skip


def check_frame(frame: RawFrame, options: ReadOptions, seen: Decisions) -> None:
    """Refuse a frame whose cell was not understood, or whose labels are no converged calculation; note what the reader remarks.

    Raises:
        InvalidStructureError, UnconvergedError: see above; the message says how to take the frame all the same.
    """
    if not frame.cell.any() and options.periodic is None:
        names = {name: None for name in frame.unread if name.lower() in _CELLS}
        for key, value in {**dict(seen.spelt(_CELLS)), **names}.items():
            if value is None or _is_cell(value):
                raise InvalidStructureError(
                    f"no cell is read here, but {key!r} looks like one",
                    hint=f'write it as the format does (extended XYZ: Lattice="nine numbers"); for molecules --option ignore={key}',
                )
    seen.notes += frame.remarks
    if frame.periodic_assumed and options.periodic is None and frame.pbc.any():
        gap = _vacuum(frame) * seen.unit("length")
        seen.notes.append(
            "periodic: assumed, since a cell is there"
            if gap < VACUUM
            else f"warning: periodic: assumed, since a cell is there, but with more than {VACUUM:g} Angstrom of vacuum on all sides: "
            "if these are molecules, --option periodic=False"
        )
    unconverged = frame.unconverged
    for key, value in seen.spelt(_CONVERGED, one_place=True):
        seen.touched.add(key)
        if str(value).strip().lower() in ("f", "false", "0", "0.0", "no", "n", ".false."):
            unconverged = unconverged or f"the file says {key}={value}"
    if unconverged and not options.accept_unconverged:
        raise UnconvergedError(
            unconverged,
            hint="compute it again; --accept-unconverged (--read accept_unconverged=true, in Python `accept_unconverged=True`) takes it as it is",
        )
    if unconverged:
        seen.effective.add("accept_unconverged")
        seen.notes.append("warning: not converged, and taken as asked")


def _is_cell(value: Any) -> bool:
    try:
        numbers = as_numbers(value, "cell")
    except MlipfmError:
        return False
    return numbers.size in (3, 6, 9) and bool(numbers.any())


#: Å of empty space between the images of a molecule along every direction, from which on it is probably alone in its box.
VACUUM = 5.0


def _vacuum(frame: RawFrame) -> float:
    """Smallest empty space between the atoms and their images along the three lattice vectors, in the file's unit of length."""
    if not np.all(frame.pbc) or abs(np.linalg.det(frame.cell)) < 1e-12 or not len(frame.positions):
        return 0.0
    heights = 1 / np.linalg.norm(np.linalg.inv(frame.cell), axis=0)
    fractional = np.sort(np.asarray(frame.positions, dtype=np.float64) @ np.linalg.inv(frame.cell) % 1.0, axis=0)
    gaps = np.diff(np.concatenate([fractional, fractional[:1] + 1]), axis=0).max(axis=0)
    return float((gaps * heights).min())
