"""Compiled kernels of the `density` potential: energies, forces, virials, features of the last layer, and whole steps of molecular dynamics.

Weights are data: nothing is compiled for a model. The best instruction set that the machine has is chosen when a model is made
(`instruction_sets`); `MLIPFM_INSTRUCTIONS` names another. Only numpy is needed here; `mlipfm_models` makes kernels of its potentials.
"""

from __future__ import annotations

from .kernel import INSTRUCTIONS, ClosedForm, DensityKernel, Systems, Trouble, build_id, instruction_sets, normals, peak
from .products import CubicForm, Displacements, Expansion, Messages, PairFunctions
from .weights import AtomTypes, DensityShape, fold_weights

__all__ = [
    "INSTRUCTIONS", "AtomTypes", "ClosedForm", "CubicForm", "DensityKernel", "DensityShape", "Displacements", "Expansion", "Messages",
    "PairFunctions", "Systems", "Trouble", "build_id", "fold_weights", "instruction_sets", "normals", "peak",
]  # fmt: skip
