"""Build a small PaiNN and ask it for the energy and forces of water: conservative and direct, neutral and charged. Runs in seconds."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_models import build_potential

CONFIG = {
    "elements": ["H", "O"],
    "levels": ["gfn2-xtb"],
    "conditions": ["total_charge", "spin_multiplicity"],
    "references": {"gfn2-xtb": {"H": -10.7, "O": -102.6}},
    "scale": 2.0,
    "backbone": {"channels": 32, "layers": 2},
}


def main() -> None:
    water = Structure([8, 1, 1], [[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]], total_charge=0, spin_multiplicity=1)
    cation = water.replace(total_charge=1, spin_multiplicity=2)
    direct = build_potential("painn", CONFIG | {"forces": "direct"})
    conservative = build_potential("painn", CONFIG)
    print(f"{sum(p.numel() for p in conservative.parameters())} parameters, {conservative.spec}")
    for name, potential in (("direct", direct), ("conservative", conservative)):
        neutral, charged = evaluate(potential, [water, cation])
        print(f"{name}: H2O {neutral['energy']:.4f} eV, H2O+ {charged['energy']:.4f} eV (untrained)")
        print(np.array2string(neutral["forces"], precision=4, suppress_small=True), "eV/Å; sum", neutral["forces"].sum(axis=0).round(6))
    report = conservative.load_from(direct)
    print(f"direct -> conservative: {len(report['copied'])} copied, {len(report['dropped'])} dropped, {len(report['fresh'])} fresh")


if __name__ == "__main__":
    main()
