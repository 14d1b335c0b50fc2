"""Options of objectives that have no effect beside the others: refused, unless they are the defaults that a resolved recipe writes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlipfm_interfaces.errors import RecipeError


def refuse_idle(objective: str, idle: Mapping[str, tuple[Any, Any]], needs: str) -> None:
    """Refuse options that nothing uses.

    Args:
        idle: option -> its value and its default, of the options that have no effect here. needs: what they would need.

    Raises:
        RecipeError: one of them is not the default; the hint says what it needs.
    """
    given = [name for name, (value, default) in idle.items() if value != default]
    if given:
        raise RecipeError(f"{', '.join(given)} has no effect here", where=objective, hint=f"it needs {needs}: add that, or leave it out")
