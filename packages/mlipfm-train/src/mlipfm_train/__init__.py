"""Recipes, objectives, the one training loop, strategies and tracking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .events import EventLog as EventLog, read_events as read_events
    from .loop import fit as fit
    from .objectives.energy_force import EnergyForce as EnergyForce
    from .recipe import Recipe as Recipe, dump_recipe as dump_recipe, load_recipe as load_recipe, make_recipe as make_recipe
    from .recipe_library import ShippedRecipe as ShippedRecipe, shipped_recipes as shipped_recipes
    from .run import FitResult as FitResult
    from .sources import SourceContext as SourceContext, StoreSource as StoreSource
    from .step import Step as Step
    from .views import StepBatch as StepBatch, collate_step as collate_step


__getattr__, __dir__, __all__ = lazy_imports(__name__)
