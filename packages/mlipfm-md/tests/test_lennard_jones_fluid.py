"""Energy and pressure of the Lennard-Jones fluid, run with our driver, against Monte Carlo values of the NIST Standard Reference Simulation Website.

https://mmlapps.nist.gov/srs/LJ_PURE/mc.htm: 500 particles, truncated at 3 sigma with long-range corrections; the last digits are uncertain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import GPA, KB
from mlipfm_md import Langevin, Settings, simulate
from mlipfm_md.observables import block_average, pressure, radial_distribution, read_run
from vesin import NeighborList

EPSILON, SIGMA = 0.0103, 3.4  # eV, Å
CUT = 3.0


class Truncated:
    """The potential cut off at 3 sigma, not shifted, without corrections."""

    outputs = ("energy", "forces", "stress")

    def __init__(self) -> None:
        self.search = NeighborList(cutoff=CUT * SIGMA, full_list=False)

    def evaluate(self, structures, outputs):
        return [self.one(s) for s in structures]

    def one(self, s: Structure) -> dict[str, np.ndarray]:
        inside = s.positions - np.floor(s.positions @ np.linalg.inv(s.cell)) @ s.cell
        i, j, vectors = self.search.compute(inside, s.cell, True, "ijD")
        r2 = (vectors**2).sum(axis=1)
        sixth = (SIGMA**2 / r2) ** 3
        pull = (24 * EPSILON * (2 * sixth**2 - sixth) / r2)[:, None] * vectors  # on j
        forces = np.stack([np.bincount(j, pull[:, k], len(s)) - np.bincount(i, pull[:, k], len(s)) for k in range(3)], axis=1)
        volume = abs(np.linalg.det(s.cell))
        return {"energy": np.array((4 * EPSILON * (sixth**2 - sixth)).sum()), "forces": forces, "stress": -(vectors.T @ pull) / volume}


def corrections(density: float) -> tuple[float, float]:
    """Long-range corrections of U* per particle and of p* at the reduced density (Allen and Tildesley, equations 2.144 and 2.145)."""
    third = CUT**-3
    return 8 / 9 * np.pi * density * (third**3 - 3 * third), 32 / 9 * np.pi * density**2 * (third**3 - 1.5 * third)


@pytest.mark.full
@pytest.mark.parametrize(
    ("density", "energy", "pressure_star", "dt", "steps"),
    [(0.776, -5.5121, 6.7714e-3, 8.0, 8000), (0.86, -6.0305, 1.2660, 8.0, 8000), (0.009, -0.093973, 7.1641e-3, 10.0, 12000)],
)
def test_energy_and_pressure_at_reduced_temperature_0_85_are_those_of_nist(tmp_path, density, energy, pressure_star, dt, steps):
    length = SIGMA * (256 / density) ** (1 / 3)
    corner = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    lattice = (corner + np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])).reshape(-1, 3) * length / 4
    kelvin = 0.85 * EPSILON / KB
    start = Structure(np.full(256, 18), lattice, np.eye(3) * length, [True] * 3)
    model = Truncated()
    simulate(model, [start], Langevin(kelvin, 0.002), Settings(dt=dt, steps=steps, temperature=2 * kelvin, every=20), out=tmp_path / "run")

    data = read_run(tmp_path / "run")
    data = data.frames(slice(len(data) // 5, None))
    rows = [model.one(start.replace(positions=positions)) for positions in data.positions]
    data = replace(data, stress=np.stack([row["stress"] for row in rows]))
    tail_u, tail_p = corrections(density)
    u = block_average("U*", "epsilon", data.energies / 256 / EPSILON + tail_u, data.interval)
    p = pressure(data)
    unit = EPSILON / SIGMA**3 / GPA
    reduced, error = p.value / unit + tail_p, p.error / unit
    print(f"rho* {density}: U* {u.value:.4f} +- {u.error:.4f} ({energy}), p* {reduced:.5f} +- {error:.5f} ({pressure_star})")
    assert u.error < 0.02
    assert abs(u.value - energy) < 3.5 * u.error + 0.001
    assert error < 0.06
    assert abs(reduced - pressure_star) < 3.5 * error + 0.003 * (density > 0.1)
    if density > 0.5:
        g = radial_distribution(data, "Ar", "Ar")
        assert g.peak()[0] == pytest.approx(1.08 * SIGMA, abs=0.1)
