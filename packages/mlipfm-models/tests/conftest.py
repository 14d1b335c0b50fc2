"""Small float64 models that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

BACKBONE = {"channels": 8, "layers": 2, "cutoff": 4.0, "radial": 6}
LEVELS = ("gfn1-xtb", "gfn2-xtb")
REFERENCES = {"gfn1-xtb": {"H": -11.0, "C": -48.0, "O": -110.0}, "gfn2-xtb": {"H": -10.7, "C": -48.8, "O": -102.6}}


@pytest.fixture(scope="session")
def small() -> Callable[..., Any]:
    """Builder of a painn of 8 channels and 2 layers for H, C, O at one level; keywords change its configuration."""
    from mlipfm_models import build_potential

    def build(**changes: Any) -> Any:
        return build_potential(
            "painn", {"elements": ["H", "C", "O"], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": BACKBONE} | changes
        )

    return build


@pytest.fixture(scope="session")
def two_levels(small: Callable[..., Any]) -> Callable[..., Any]:
    """The same with two levels and their references, charge and spin."""
    conditions = ["total_charge", "spin_multiplicity"]

    def build(**changes: Any) -> Any:
        return small(**{"levels": list(LEVELS), "references": REFERENCES, "conditions": conditions, "scale": 1.7} | changes)

    return build


@pytest.fixture(scope="session")
def with_heads(two_levels: Callable[..., Any]) -> Callable[..., Any]:
    """The same with every head that fits the forces, scaled and shifted."""
    from mlipfm_models.configuration import HEADS

    def build(forces: str = "conservative", **changes: Any) -> Any:
        heads: dict[str, dict[str, Any]] = {key: {"scale": 1.3} for key in HEADS if forces == "direct" or key != "stress"}
        heads["band_gap"]["shift"] = 2.5
        heads["shieldings"]["shift"] = {"H": 30.0, "C": 120.0, "O": 300.0}
        return two_levels(**{"forces": forces, "heads": heads} | changes)

    return build
