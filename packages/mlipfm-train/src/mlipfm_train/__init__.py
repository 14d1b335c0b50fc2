"""Recipes, objectives, the one training loop, strategies and tracking."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .events import EventLog, read_events
    from .loop import fit
    from .objectives.energy_force import EnergyForce
    from .recipe import Recipe, dump_recipe, load_recipe, make_recipe
    from .run import FitResult
    from .sources import SourceContext, StoreSource
    from .step import Step
    from .views import StepBatch, collate_step

_HOMES = {
    "EventLog": "events", "read_events": "events",
    "fit": "loop",
    "EnergyForce": "objectives.energy_force",
    "Recipe": "recipe", "dump_recipe": "recipe", "load_recipe": "recipe", "make_recipe": "recipe",
    "FitResult": "run",
    "SourceContext": "sources", "StoreSource": "sources",
    "Step": "step",
    "StepBatch": "views", "collate_step": "views",
}  # fmt: skip

__all__ = [
    "EnergyForce",
    "EventLog",
    "FitResult",
    "Recipe",
    "SourceContext",
    "Step",
    "StepBatch",
    "StoreSource",
    "collate_step",
    "dump_recipe",
    "fit",
    "load_recipe",
    "make_recipe",
    "read_events",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are used: `import mlipfm_train` alone stays light."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
