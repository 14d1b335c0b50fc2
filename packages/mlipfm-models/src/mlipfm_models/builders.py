"""The plug-ins of the group `potentials`: one builder for each backbone, all assembled in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from typing import Any

from .assembly import DTYPES, AssembledPotential
from .configuration import parse, parse_assembly
from .initial import built

#: Plug-in -> module in `backbones`, configuration and class of its backbone.
BACKBONES = {
    "density": ("density", "DensityConfig", "Density"),
    "painn": ("painn", "PainnConfig", "Painn"),
}


def build_potential(plugin: str, config: Mapping[str, Any]) -> AssembledPotential:
    """A potential with the backbone `plugin`: `config["backbone"]` as its configuration says, the rest as `AssemblyConfig`.

    Raises:
        RecipeError: for unknown keys and values that cannot be. UnknownElementError: for an element that does not exist.
    """
    module, schema, backbone = BACKBONES[plugin]
    home = import_module(f".backbones.{module}", __package__)
    assembly = parse_assembly(config, plugin)
    options = parse(getattr(home, schema), assembly.backbone, f"{plugin}.backbone")
    assembly = replace(assembly, backbone=asdict(options))
    return AssembledPotential(plugin, built(lambda: getattr(home, backbone)(options), DTYPES[assembly.dtype]), assembly)


build_density = partial(build_potential, "density")
build_painn = partial(build_potential, "painn")
