"""Old names: `build_painn(config)` is `build_potential("painn", config)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .assembly import AssembledPotential, assemble
from .backbones.backbone import Backbone


def __getattr__(name: str) -> Callable[[Mapping[str, Any]], AssembledPotential]:
    """Old names: `build_painn(config)` is `build_potential("painn", config)`, also where an installation does not declare backbones yet."""
    plugin = name.removeprefix("build_")
    if plugin == name or find_spec(f".backbones.{plugin}", __package__) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = vars(import_module(f".backbones.{plugin}", __package__)).values()
    (backbone,) = (value for value in found if isinstance(value, type) and issubclass(value, Backbone) and "Config" in vars(value))
    return partial(assemble, plugin, backbone)
