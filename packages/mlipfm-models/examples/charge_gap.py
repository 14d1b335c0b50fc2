"""How far a charged molecule and a far neutral one are from the sum of both (size consistency), over seeds of untrained models."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_models import build_potential

HYDRONIUM = np.array([[0, 0, 0.1], [0.94, 0, 0], [-0.47, 0.81, 0], [-0.47, -0.81, 0]])
METHANE = 0.6276 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
SEEDS = 12


def gap(charge: int | None, seed: int) -> float:
    """eV: E(both, 50 Å apart) - E(H3O) - E(CH4), the charge on H3O."""
    neutral = None if charge is None else 0
    spin = None if charge is None else 1
    cation = Structure([8, 1, 1, 1], HYDRONIUM, total_charge=charge, spin_multiplicity=spin)
    methane = Structure([6, 1, 1, 1, 1], METHANE, total_charge=neutral, spin_multiplicity=spin)
    positions = np.concatenate([HYDRONIUM, METHANE + [50.0, 0, 0]])
    both = Structure([8, 1, 1, 1, 6, 1, 1, 1, 1], positions, total_charge=charge, spin_multiplicity=spin)
    conditions = ["total_charge", "spin_multiplicity"]
    potential = build_potential(
        "painn", {"elements": ["H", "C", "O"], "levels": ["any"], "dtype": "float64", "conditions": conditions, "seed": seed}
    )
    energies = [float(answer["energy"]) for answer in evaluate(potential, [both, cation, methane], ("energy",))]
    return energies[0] - energies[1] - energies[2]


def main() -> None:
    for name, charge in (("charge +1", 1), ("nothing stated", None)):
        gaps = np.abs([gap(charge, seed) for seed in range(SEEDS)])
        print(f"{name}: median {np.median(gaps):.2g} eV, largest {gaps.max():.2g} eV, {SEEDS} untrained models, scale 1 eV")


if __name__ == "__main__":
    main()
