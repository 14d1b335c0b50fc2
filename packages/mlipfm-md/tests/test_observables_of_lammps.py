"""The same observables by another code: LAMMPS (22 Jul 2025) wrote the dump of argon in a triclinic cell, positions wrapped, and computed them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces.errors import ObservableError
from mlipfm_md.observables import TrajectoryData, radial_distribution, read_trajectory

FOLDER = Path(__file__).parent / "lammps"


@pytest.fixture(scope="module")
def argon() -> TrajectoryData:
    """Frames of steps 0, 100, ... 400 at 4 fs."""
    return read_trajectory(FOLDER / "dump.lammpstrj", 400.0, ensemble="nve", elements=["Ar"])


def test_temperatures_are_those_of_lammps(argon):
    theirs = np.loadtxt(FOLDER / "msd.dat")[:, 2]
    assert argon.temperatures == pytest.approx(theirs, rel=2e-6)


def test_velocities_of_units_real_are_read_in_their_unit(argon, tmp_path):
    """`units real` has Å/fs, `units metal` Å/ps, and a dump does not say which."""
    lines = (FOLDER / "dump.lammpstrj").read_text().splitlines()
    columns = next(line for line in lines if line.startswith("ITEM: ATOMS")).split()[2:]
    places, atoms = [columns.index(name) for name in ("vx", "vy", "vz")], False
    for k, line in enumerate(lines):
        if line.startswith("ITEM:"):
            atoms = line.startswith("ITEM: ATOMS")
        elif atoms:
            words = line.split()
            for place in places:
                words[place] = f"{float(words[place]) / 1000:.9g}"
            lines[k] = " ".join(words)
    (tmp_path / "real.lammpstrj").write_text("\n".join(lines) + "\n")
    same = read_trajectory(tmp_path / "real.lammpstrj", 400.0, ensemble="nve", elements=["Ar"], velocity_unit="A/fs")
    assert same.temperatures == pytest.approx(argon.temperatures, rel=1e-6)
    with pytest.raises(ObservableError, match="no unit of velocity"):
        read_trajectory(tmp_path / "real.lammpstrj", 400.0, elements=["Ar"], velocity_unit="furlong/s")


def test_g_and_coordination_numbers_are_those_of_lammps(argon):
    """LAMMPS averages steps 100 to 400; it prints six digits, and a pair at the edge of a bin may fall to the other side."""
    r, g, around = np.loadtxt(FOLDER / "rdf.dat", skiprows=4)[:, 1:].T
    ours = radial_distribution(argon.frames(slice(1, None)), "Ar", "Ar", r_max=8.0, bins=40)
    assert ours.x == pytest.approx(r)
    assert np.abs(ours.values - g).max() < 0.02
    assert np.abs(ours.values - g).mean() < 1e-3
    assert np.abs(ours.coordination - around).max() < 0.02


def test_displacements_are_those_of_lammps(argon):
    theirs = np.loadtxt(FOLDER / "msd.dat")[:, 1]
    ours = ((argon.positions - argon.positions[0]) ** 2).sum(axis=2).mean(axis=1)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
