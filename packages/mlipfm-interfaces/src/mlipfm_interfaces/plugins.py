"""Plug-ins by entry point: names are listed without importing anything, code is imported on first use.

Groups: `mlipfm.readers`, `mlipfm.samplers`, `mlipfm.labelers`, `mlipfm.backbones`, `mlipfm.potentials`, `mlipfm.objectives`, `mlipfm.sources`,
`mlipfm.strategies`, `mlipfm.weight_rules`, `mlipfm.benchmarks`, `mlipfm.resolvers`, `mlipfm.released`, `mlipfm.foreign`, `mlipfm.uncertainties`,
`mlipfm.workflows`, `mlipfm.commands`. A released model is a function that returns the path of a checkpoint. A workflow is what a command of a lower
package hands over to a higher one: `train-file` is `mlipfm train FILE`.
A plug-in module or object may state `CONTRACT = (1, 2)`, the contract integers it supports; without one it is taken to support the contract it
was released with (1).
"""

from __future__ import annotations

import difflib
import re
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, PackageNotFoundError, entry_points, version
from typing import Any

from .errors import PluginError

#: The contract this version of mlipfm speaks; plug-ins list the integers they support in `CONTRACT`.
CONTRACT = 1

GROUPS = (
    "readers", "samplers", "labelers", "backbones", "potentials", "objectives", "sources", "strategies",
    "weight_rules", "benchmarks", "resolvers", "released", "foreign", "uncertainties", "workflows", "commands",
)  # fmt: skip

#: The released model that is used where none is named.
DEFAULT_MODEL = "mlipfm-mol-medium"
#: What builds a potential: a backbone, around which one is assembled, or the plug-in of a whole potential. One name is in one of the two.
POTENTIALS = ("backbones", "potentials")

#: Packages of this project that bring plug-ins of a group; a test compares it with what they declare.
HOMES = {
    "readers": ("mlipfm-data",), "samplers": ("mlipfm-data", "mlipfm-md"), "labelers": ("mlipfm-data",), "backbones": ("mlipfm-models",),
    "uncertainties": ("mlipfm-models",), "released": ("mlipfm-models",),
    "objectives": ("mlipfm-train", "mlipfm-distill"), "sources": ("mlipfm-train", "mlipfm-md"),
    "strategies": ("mlipfm-train",), "weight_rules": ("mlipfm-train",), "foreign": ("mlipfm-data", "mlipfm-md"), "benchmarks": ("mlipfm-eval",),
    "workflows": ("mlipfm",),
}  # fmt: skip

#: Package of this project that brings a command.
COMMANDS = {
    "data": "mlipfm-data", "train": "mlipfm-train", "md": "mlipfm-md", "check": "mlipfm-eval", "evaluate": "mlipfm-eval",
    "compare": "mlipfm-eval", "report": "mlipfm-eval", "uncertainty": "mlipfm-eval", "distill": "mlipfm-distill",
    "teachers": "mlipfm-distill", "quickstart": "mlipfm", "hub": "mlipfm", "serve": "mlipfm", "scaling": "mlipfm-train",
    "relax": "mlipfm-md", "phonons": "mlipfm-md", "vibrations": "mlipfm-md", "eos": "mlipfm-md", "elastic": "mlipfm-md",
    "neb": "mlipfm-md", "ts": "mlipfm-md", "doctor": "mlipfm-models", "finetune": "mlipfm",
}  # fmt: skip


def names(group: str | tuple[str, ...]) -> list[str]:
    """Return the names in a group, or in several, sorted; nothing is imported."""
    return sorted({point.name for point in _points(group)})


def owner(group: str, name: str) -> str:
    """Return the name of the distribution that brings the plug-in `name` of `group`; nothing is imported."""
    return _owner(_point(group, name))


def load(group: str | tuple[str, ...], name: str) -> Any:
    """Import and return the plug-in `name` of `group`, or of the one of several groups that has it.

    Raises:
        PluginError: unknown name (with the nearest), two distributions that claim one name (both named), a failing import (with the extra
            that brings what is missing), or a contract integer this version does not speak.
    """
    point = _point(group, name)
    try:
        plugin = point.load()
    except Exception as error:  # the code of a plug-in may fail in any way
        raise PluginError(f"{name!r} of {_owner(point)} could not be imported: {error}", hint=_mend_import(error, point)) from error
    _check_contract(plugin, point)
    return plugin


def _point(group: str | tuple[str, ...], name: str) -> EntryPoint:
    """Return the one entry point of this name."""
    groups = (group,) if isinstance(group, str) else group
    kind = {"foreign": "package of foreign models", "strategies": "strategy", "uncertainties": "uncertainty"}.get(
        groups[-1], groups[-1].removesuffix("s")
    )
    found = [point for point in _points(group) if point.name == name]
    if not found:
        known = names(group)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
        missing = [package for one in groups for package in HOMES.get(one, ()) if not _installed(package)]
        if missing:
            hint += (
                f"; of the packages that bring {groups[-1]}, {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            )
            hint += f"pip install {' '.join(missing)}"
        raise PluginError(f"no {kind} is named {name!r}", hint=hint)
    if len({point.value for point in found}) > 1 or (len(found) > 1 and len({_owner(p) for p in found}) > 1):
        owners = " and ".join(sorted({_owner(point) for point in found}))
        raise PluginError(f"{kind} {name!r} is claimed by {owners}", hint="uninstall one of them")
    return found[0]


def _points(group: str | tuple[str, ...]) -> list[EntryPoint]:
    if not isinstance(group, str):
        return [point for one in group for point in _points(one)]
    if group not in GROUPS:
        raise PluginError(f"no plug-in group is named {group!r}", hint=f"groups: {', '.join(GROUPS)}")
    return list(_declared(f"mlipfm.{group}", tuple(sys.path)))


@lru_cache(maxsize=64)
def _declared(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of a group, read once for a search path: about 10 ms where a hundred packages are installed."""
    return entry_points(group=group)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _mend_import(error: Exception, point: EntryPoint) -> str:
    """Return what to install: the extra of the plug-in's distribution that requires the missing module, if one does."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else None
    if missing is None or missing in sys.modules:
        return f"the plug-in is broken ({type(error).__name__}); upgrade or uninstall {_owner(point)}"
    for requirement in (point.dist.requires if point.dist else None) or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        extra = re.search(r"""extra\s*==\s*["']([^"']+)""", requirement)
        if extra and re.sub(r"[-_.]+", "_", name).lower() == missing.lower():
            return f"pip install '{_owner(point)}[{extra.group(1)}]'"
    return f"install {missing!r}, which it needs"


def _check_contract(plugin: Any, point: EntryPoint) -> None:
    supported = getattr(plugin, "CONTRACT", (1,))
    supported = (supported,) if isinstance(supported, int) else tuple(supported)
    if CONTRACT not in supported:
        raise PluginError(
            f"{point.name!r} of {_owner(point)} supports contract {supported}, this mlipfm speaks {CONTRACT}", hint="upgrade it"
        )
