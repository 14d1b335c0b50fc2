"""Recipes, objectives, the one training loop, strategies and tracking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .events import EventLog, read_events
    from .loop import fit
    from .objectives.energy_force import EnergyForce
    from .recipe import Recipe, dump_recipe, load_recipe, make_recipe
    from .recipe_library import ShippedRecipe, shipped_recipes
    from .run import FitResult
    from .sources import SourceContext, StoreSource
    from .step import Step
    from .views import StepBatch, collate_step


__all__ = [
    "EnergyForce",
    "EventLog",
    "FitResult",
    "Recipe",
    "ShippedRecipe",
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
    "shipped_recipes",
]

__getattr__, __dir__ = lazy_imports(__name__)
