"""Potentials around a backbone, ours or that of another package: all are assembled in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mlipfm_interfaces import plugins

from .assembly import DTYPES, AssembledPotential
from .backbones.backbone import Backbone
from .configuration import parse, parse_assembly
from .initial import built


def build_potential(name: str, config: Mapping[str, Any]) -> AssembledPotential:
    """Build a potential around the backbone that is the plug-in `name` of the group `mlipfm.backbones`.

    Args:
        config: `backbone` as the backbone's `Config` says, the rest as `AssemblyConfig`.

    Raises:
        PluginError: for an unknown name. RecipeError: for unknown keys and values that cannot be. UnknownElementError: for an element that does
            not exist.
    """
    backbone: type[Backbone] = plugins.load("backbones", name)
    return assemble(name, backbone, config)


def assemble(name: str, backbone: type[Backbone], config: Mapping[str, Any]) -> AssembledPotential:
    """Build a potential around a class of backbone whose plug-in is called `name`; see `build_potential`."""
    assembly = parse_assembly(config, name)
    options: Any = parse(backbone.Config, assembly.backbone, f"{name}.backbone")
    assembly = replace(assembly, backbone=json.loads(json.dumps(asdict(options))))  # as a checkpoint will give it back
    arguments = (options, assembly.atomic_numbers) if backbone.element_resolved else (options,)
    return AssembledPotential(name, built(lambda: backbone(*arguments), DTYPES[assembly.dtype]), assembly)


def __getattr__(name: str) -> Callable[[Mapping[str, Any]], AssembledPotential]:
    """Old names: `build_painn(config)` is `build_potential("painn", config)`, also where an installation does not declare backbones yet."""
    plugin = name.removeprefix("build_")
    if plugin == name or find_spec(f".backbones.{plugin}", __package__) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = vars(import_module(f".backbones.{plugin}", __package__)).values()
    (backbone,) = (value for value in found if isinstance(value, type) and issubclass(value, Backbone) and "Config" in vars(value))
    return partial(assemble, plugin, backbone)
