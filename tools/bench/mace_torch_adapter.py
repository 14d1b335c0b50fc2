"""Runs in the environment of mace-torch, see `mlipfm_interfaces.foreign`: energies and forces of a model file that was trained there."""

import importlib.metadata

import numpy as np


class MaceTorch:
    """What `load` returns."""

    outputs = ("energy", "forces")

    def __init__(self, path):
        from mace.calculators import MACECalculator

        self._calculator = MACECalculator(model_paths=path, device="cpu", default_dtype="float32")
        self.versions = {"mace-torch": importlib.metadata.version("mace-torch")}

    def evaluate(self, numbers, positions, cell, pbc, charge, multiplicity, outputs):
        """Quantities of one structure in eV and Å; neutral singlets only are asked here."""
        from ase import Atoms

        atoms = Atoms(numbers, positions, cell=cell, pbc=pbc, calculator=self._calculator)
        found = {"energy": np.array(atoms.get_potential_energy(), dtype=float), "forces": np.array(atoms.get_forces(), dtype=float)}
        return {key: found[key] for key in outputs}


def load(argument):
    """The model in the file `argument`, which this machine has trained: it is a pickle."""
    return MaceTorch(argument)
