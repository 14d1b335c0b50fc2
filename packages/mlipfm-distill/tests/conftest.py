"""A closed-form teacher (Morse pairs) and rattled molecules, made once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse

METHANAL = [[0, 0, 0], [0, 0, 1.21], [0, 0.94, -0.54], [0, -0.94, -0.54]]
WATER = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]


def rattled_molecules(n: int, seed: int, scale: float = 0.08) -> list[Structure]:
    """Water and methanal by turns, without labels and level."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        numbers, positions = (([8, 1, 1], WATER), ([6, 8, 1, 1], METHANAL))[k % 2]
        place = np.array(positions, dtype=float) + rng.normal(scale=scale, size=(len(numbers), 3))
        group = Provenance(source="rattled", group=("water", "methanal")[k % 2], index=k, licence="CC0-1.0")
        found.append(Structure(numbers, place, provenance=group))
    return found


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of Morse pairs with cutoff 4 Å, under CC0-1.0."""
    path = tmp_path_factory.mktemp("teacher") / "morse.safetensors"
    save_potential(path, Morse(ClosedFormConfig(elements=(1, 6, 8), cutoff=4.0, switch_on=2.5)), {"licences": ["CC0-1.0"]})
    return path


@pytest.fixture(scope="session")
def make_molecules() -> Callable[..., list[Structure]]:
    """`make_molecules(n, seed)`."""
    return rattled_molecules


@pytest.fixture(scope="session")
def molecules() -> list[Structure]:
    return rattled_molecules(8, seed=0)
