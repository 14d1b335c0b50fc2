"""Conformers of glycol, thermal distortions around the best one, and batches of equal cost. Needs RDKit."""

import numpy as np
from mlipfm_data import NormalModeSampler, edge_costs, plan_batches, plan_quality
from mlipfm_data.conformers import conformers

glycol = conformers("OCCO", n=20, seed=0)
print(f"{len(glycol)} conformers of {glycol[0].formula}, charge {glycol[0].total_charge}, multiplicity {glycol[0].spin_multiplicity}")

samples = NormalModeSampler(temperature=300.0).sample(glycol[0], 200, np.random.default_rng(0))
moves = np.array([s.positions - glycol[0].positions for s in samples])
print(
    f"{len(samples)} geometries at 300 K ({samples[0].provenance.sampling}), rms displacement {np.sqrt((moves**2).mean()):.3f} A per coordinate"
)

costs = edge_costs(samples, cutoff=5.0)
batches = plan_batches(costs, budget=200.0, rng=np.random.default_rng(0), world_size=2)
print(plan_quality(batches, costs, 200.0, world_size=2))
