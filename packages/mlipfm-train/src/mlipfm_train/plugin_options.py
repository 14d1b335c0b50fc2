"""Plug-ins of a recipe: found by name, their options checked against their signature, defaults filled in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import RecipeError
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from .recipe import PluginChoice, nearest

#: No weight, scale or length in the units of the recipe is larger; sums of such losses stay far below what float64 can hold.
LARGEST = 1e9


def plugin_of(group: str, named: PluginChoice, given: int = 0, reserved: tuple[str, ...] = ()) -> tuple[Callable[..., Any], PluginChoice]:
    """Return the plug-in and its options with all defaults.

    Args:
        given: leading arguments that the caller passes itself. reserved: keyword arguments that the caller passes itself.

    Raises:
        PluginError: unknown name. RecipeError: unknown option, with the nearest, one that is missing, or a value of another type than the
            signature says: a number must be finite and no larger than `LARGEST`.
    """
    factory = plugins.load(group, named.name)
    known = {name: p for name, p in list(inspect.signature(factory).parameters.items())[given:] if name not in reserved}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for option in named.options:
        if option not in known and not takes_any:
            raise RecipeError(f"{named.name!r} has no option {option!r}", where=group, hint=nearest(option, list(known)))
    filled = {name: p.default for name, p in known.items() if p.default is not inspect.Parameter.empty} | named.options
    missing = [name for name, p in known.items() if name not in filled and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if missing:
        raise RecipeError(f"{named.name!r} needs the option {missing[0]!r}", where=group)
    _check_values(factory, named, group)
    return factory, PluginChoice(name=named.name, **filled)


def make(group: str, named: PluginChoice, *given: Any, **reserved: Any) -> tuple[Any, PluginChoice]:
    """Build a plug-in; see `plugin_of`. Returns it and its resolved options."""
    factory, resolved = plugin_of(group, named, len(given), tuple(reserved))
    try:
        return factory(*given, **reserved, **resolved.options), resolved
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{named.name!r} cannot be built with these options: {error}", where=group) from error


def _check_values(factory: Callable[..., Any], named: PluginChoice, group: str) -> None:
    """Values are of the types of the signature, and numbers are numbers that can be computed with."""
    hints = _hints(factory)
    for option, value in named.options.items():
        fault = _fault(value, hints[option]) if option in hints else _not_computable(value)
        if fault is not None:
            raise RecipeError(f"{option}: {fault}, got {value!r}", where=f"{group}, {named.name!r}")


def _hints(factory: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        return {}


def _fault(value: Any, hint: Any) -> str | None:
    """Return what is wrong with `value` as a `hint`, in pydantic's words."""
    try:
        TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        return error.errors(include_url=False)[0]["msg"].lower()
    except PydanticUserError:  # a type with a configuration of its own
        pass
    if isinstance(value, bool) and "bool" not in str(hint) and hint is not Any:
        return "input should be a number or a text, not true or false"
    return _not_computable(value)


def _not_computable(value: Any) -> str | None:
    """`value`, or a number in it, is nan, infinite or beyond `LARGEST`."""
    if isinstance(value, Mapping):
        return next((fault for item in value.values() if (fault := _not_computable(item))), None)
    if isinstance(value, list | tuple):
        return next((fault for item in value if (fault := _not_computable(item))), None)
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return f"input should be a finite number of at most {LARGEST:g}"
    return None
