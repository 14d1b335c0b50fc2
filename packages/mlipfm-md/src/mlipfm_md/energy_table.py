"""`energies.csv` of a run: one line for each recorded frame of each system, in plain text that a spreadsheet opens."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mlipfm_interfaces.files import atomic_write, unwritable
from mlipfm_interfaces.units import GPA

from .state import State

__all__ = ["COLUMNS", "EnergyTable", "volumes"]

Array = np.ndarray

#: Names of the columns, with units. `conserved` is the energy that exact dynamics conserve, `sigma_forces` the largest standard deviation of a force.
COLUMNS = (
    "step", "time/fs", "system", "temperature/K", "potential/eV", "kinetic/eV", "conserved/eV", "volume/A^3", "pressure/GPa",
    "sigma_forces/(eV/A)",
)  # fmt: skip
_HEAD = (",".join(COLUMNS) + "\n").encode()


class EnergyTable:
    """The file, appended to with every recorded frame."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, state: State, dt: float, conserved: Array, sigma: Array) -> None:
        """Write the lines of one instant. NaN is written as nothing.

        Args:
            conserved, sigma: [systems], eV and eV/Å.

        Raises:
            UnwritableFileError: disk full, ...
        """
        columns = (state.temperature(), state.energies, state.kinetic(), conserved, volumes(state), state.pressure() / GPA, sigma)
        lines = [
            f"{state.step},{state.step * dt!r},{k}," + ",".join("" if np.isnan(x[k]) else repr(float(x[k])) for x in columns) + "\n"
            for k in range(state.n_systems)
        ]
        try:
            with self.path.open("ab") as stream:
                stream.write((b"" if stream.tell() else _HEAD) + "".join(lines).encode())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def flush(self) -> None:
        """Return when everything is on the device."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def cut_back(self, last: int) -> dict[tuple[int, int], tuple[float, float]]:
        """Drop lines of steps after `last`, and a torn one; return (step, system) -> (conserved, sigma) of those that stay.

        A line that is missing is no error: what it says of energies is in the trajectory as well.
        """
        if not self.path.exists():
            return {}
        kept, found = [], {}
        for line in self.path.read_bytes().decode(errors="replace").splitlines(keepends=True)[1:]:
            words = line.rstrip("\n").split(",")
            if not line.endswith("\n") or len(words) != len(COLUMNS) or not words[0].isdigit() or int(words[0]) > last:
                continue
            kept.append(line)
            found[int(words[0]), int(words[2])] = (_number(words[6]), _number(words[9]))
        atomic_write(self.path, _HEAD + "".join(kept).encode())
        return found


def volumes(state: State) -> Array:
    """Return the volume [systems] Å³, NaN where there is no cell in three directions."""
    volume = state.volume()
    return np.where(volume > 0, volume, np.nan)


def _number(word: str) -> float:
    return float(word) if word else float("nan")
