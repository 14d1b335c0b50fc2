"""Plug-ins of a recipe: found by name, their options checked against their signature, defaults filled in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import RecipeError

from .recipe import Named, nearest


def plugin_of(group: str, named: Named, given: int = 0, reserved: tuple[str, ...] = ()) -> tuple[Callable[..., Any], Named]:
    """The plug-in and its options with all defaults.

    Args:
        given: leading arguments that the caller passes itself. reserved: keyword arguments that the caller passes itself.

    Raises:
        PluginError: unknown name. RecipeError: unknown option, with the nearest, or one that is missing.
    """
    factory = plugins.load(group, named.name)
    known = {name: p for name, p in list(inspect.signature(factory).parameters.items())[given:] if name not in reserved}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for option in named.options:
        if option not in known and not takes_any:
            raise RecipeError(f"{named.name!r} has no option {option!r}", where=group, mend=nearest(option, list(known)))
    filled = {name: p.default for name, p in known.items() if p.default is not inspect.Parameter.empty} | named.options
    missing = [name for name, p in known.items() if name not in filled and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if missing:
        raise RecipeError(f"{named.name!r} needs the option {missing[0]!r}", where=group)
    return factory, Named(name=named.name, **filled)


def make(group: str, named: Named, *given: Any, **reserved: Any) -> tuple[Any, Named]:
    """Build a plug-in; see `plugin_of`. Returns it and its resolved options."""
    factory, resolved = plugin_of(group, named, len(given), tuple(reserved))
    try:
        return factory(*given, **reserved, **resolved.options), resolved
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{named.name!r} cannot be built with these options: {error}", where=group) from error
