"""Small stores with labels of a closed form, made once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import Morse

SHAPES = {
    "water": ([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]),
    "methane": ([6, 1, 1, 1, 1], [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]),
    "methanal": ([6, 8, 1, 1], [[0, 0, 0], [0, 0, 1.21], [0, 0.94, -0.54], [0, -0.94, -0.54]]),
}


def _morse(n: int, seed: int, labels: tuple[str, ...] = ("energy", "forces"), level: str = "morse") -> list[Structure]:
    """Rattled molecules labelled by `Morse`, in float64."""
    rng = np.random.default_rng(seed)
    bare = []
    for k in range(n):
        name = list(SHAPES)[k % len(SHAPES)]
        numbers, positions = SHAPES[name]
        place = np.array(positions, dtype=float) + rng.normal(scale=0.05, size=(len(numbers), 3))
        bare.append(
            Structure(np.array(numbers), place, level=level, provenance=Provenance(source="morse", group=name, index=k, licence="CC0-1.0"))
        )
    answers = evaluate(Morse(), bare, ("energy", "forces"), level="closed-form")
    return [s.replace(labels={key: a[key] for key in labels}) for s, a in zip(bare, answers, strict=True)]


def _write(path: Path, structures: list[Structure]) -> Path:
    with StoreWriter(path, name=path.name) as writer:
        for s in structures:
            writer.add(s)
    return path


@pytest.fixture(scope="session")
def morse_structures() -> Callable[..., list[Structure]]:
    """`morse_structures(n, seed, labels, level)`."""
    return _morse


@pytest.fixture(scope="session")
def write_store() -> Callable[[Path, list[Structure]], Path]:
    """`write_store(path, structures)`."""
    return _write


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`train` (24 structures) and `valid` (6)."""
    root = tmp_path_factory.mktemp("stores")
    return {name: _write(root / name, _morse(n, seed)) for name, n, seed in (("train", 24, 0), ("valid", 6, 1))}


@pytest.fixture(scope="session")
def tiny(stores: dict[str, Path]) -> dict[str, Any]:
    """A recipe of 12 steps that takes about a second."""
    return {
        "potential": {"name": "painn", "backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}},
        "data": {"train": [str(stores["train"])], "valid": [str(stores["valid"])], "budget": 40},
        "optimizer": {"lr": 5e-3},
        "steps": 12,
        "evaluate_every": 6,
        "checkpoint_every": 4,
    }
