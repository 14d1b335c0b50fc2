"""The plug-ins of the group `potentials`: one builder for each backbone, all assembled in the same way."""

from __future__ import annotations

import json
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
    "behler_parrinello": ("behler_parrinello", "BehlerParrinelloConfig", "BehlerParrinello"),
    "deeppot_se": ("deeppot_se", "DeepPotSeConfig", "DeepPotSe"),
    "density": ("density", "DensityConfig", "Density"),
    "escaip": ("escaip", "EscaipConfig", "Escaip"),
    "mace": ("mace", "MaceConfig", "Mace"),
    "painn": ("painn", "PainnConfig", "Painn"),
    "pet": ("pet", "PetConfig", "Pet"),
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
    assembly = replace(assembly, backbone=json.loads(json.dumps(asdict(options))))  # as a checkpoint will give it back
    make = getattr(home, backbone)
    arguments = (options, assembly.atomic_numbers) if make.element_resolved else (options,)
    return AssembledPotential(plugin, built(lambda: make(*arguments), DTYPES[assembly.dtype]), assembly)


build_behler_parrinello = partial(build_potential, "behler_parrinello")
build_deeppot_se = partial(build_potential, "deeppot_se")
build_density = partial(build_potential, "density")
build_escaip = partial(build_potential, "escaip")
build_mace = partial(build_potential, "mace")
build_painn = partial(build_potential, "painn")
build_pet = partial(build_potential, "pet")
