"""Models in checkpoints: save a potential, and build it again from a file of unknown origin.

What a checkpoint is as a file is in `checkpoint_file.py`. A checkpoint of a kilobyte can have a configuration of terabytes. Its digest is right all
the same: anybody can compute one. What a configuration implies is known only when the model is built, so it is built under watch (`_Watch`): a tensor
larger than the weights in the file allow is refused before it is allocated, and so is the first parameter too many.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode

from . import plugins
from .checkpoint_file import Manifest, Tensors, load_checkpoint, save_checkpoint, tensor_digest
from .errors import PluginError, RefusedFileError, UnreadableFileError
from .examples import examples_of
from .files import canonical_json
from .potential import Potential
from .trained_states import states_of

__all__ = [
    "build", "load_checkpoint", "load_model", "load_potential", "resolve", "save_checkpoint", "save_potential", "tensor_digest",
]  # fmt: skip

#: Numbers that tables (Clebsch-Gordan coefficients, grids, references), which no file holds, may take: 64 MiB of float32.
TABLES = 2**24
#: A model may register each of its tensors this many times while it is built (moved, stacked, tied), and a few more.
REPEATS, FEW = 2, 64
#: Of a configuration: depth, characters of a name, entries of a list or mapping.
MAX_DEPTH, MAX_TEXT, MAX_ENTRIES = 16, 1000, 100_000

_BY_SHAPE = {
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "randint",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "empty_strided",
}
_BY_LENGTH = {"arange", "linspace", "logspace", "range", "randperm", "hann_window"}
_BY_SQUARE = {"eye", "tril_indices", "triu_indices"}


def save_potential(path: Path | str, potential: Potential, extra: Mapping[str, Any] | None = None) -> str:
    """Write a potential as a model checkpoint and return its digest, the identity of the model.

    Args:
        extra: JSON-ready: recipe, report on the references, provenance and licences of the data. Kept under `extra` of the manifest.
    """
    manifest = {
        "plugin": potential.plugin,
        "config": potential.config,
        "spec": _spec_json(potential),
        "versions": _versions(potential.plugin),
        "extra": dict(extra or {}),
    }
    return save_checkpoint(path, potential.state_dict(), manifest)


def load_potential(uri: Path | str) -> Potential:
    """Return a potential from a model checkpoint, ready to evaluate (`eval()` mode).

    Args:
        uri: a path, or an address such as `mlipfm:NAME@ALIAS` whose scheme an installed resolver knows.

    Raises:
        what `load_checkpoint` raises; RefusedFileError: a configuration that asks for more than the file holds; PluginError: the package that
        builds this model is not installed; UnreadableFileError: the weights do not fit what the package builds.
    """
    return load_model(uri)[0]


def load_model(uri: Path | str) -> tuple[Potential, Manifest]:
    """Load as `load_potential`, and return the manifest, too (digest, recipe, licences, ...)."""
    path = resolve(uri)
    manifest, tensors = load_checkpoint(path)
    where = str(path)
    try:
        name, config, spec = manifest["plugin"], manifest["config"], manifest["spec"]
    except KeyError as error:
        raise RefusedFileError(f"the manifest has no entry {error}", where=where, hint="write models with save_potential") from None
    if not (isinstance(name, str) and isinstance(config, dict) and isinstance(spec, dict)):
        raise RefusedFileError("`plugin`, `config` or `spec` of the manifest is of the wrong type", where=where)
    _check_plain({"plugin": name, **config}, where)
    try:
        with torch.random.fork_rng(devices=[]), _watched(tensors, where):  # loading a model leaves the stream of random numbers as it was
            potential = _built(name, config, initial=False)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnreadableFileError(
            f"{name!r} cannot be built from this configuration: {error}", where=where, hint="upgrade its package"
        ) from error
    _check_fit(potential, tensors, name, where)
    _check_spec(_spec_json(potential), spec, name, where)
    potential.load_state_dict(tensors)
    if "examples" in manifest.get("extra", ()):
        potential.examples = examples_of(manifest["extra"], where)
    if "trained_states" in manifest.get("extra", ()):
        potential.trained_states = states_of(manifest["extra"], where)
    if "default_level" in manifest.get("extra", ()):
        potential.default_level = _default_level(manifest["extra"]["default_level"], potential, where)
    return potential.eval(), manifest


def _default_level(level: object, potential: Potential, where: str) -> str:
    """Return the level that is predicted where none is given, as the checkpoint says; it must be one of the model."""
    if level not in potential.spec.levels:
        raise RefusedFileError(f"`default_level` {str(level)[:80]!r} is no level of this model", where=where)
    return str(level)


def build(name: str, config: Mapping[str, Any]) -> Potential:
    """Build a potential with fresh weights from the plug-in `name`: around a backbone of that name, or as the plug-in of a whole potential does.

    Raises:
        PluginError: unknown name, with the nearest known one; a backbone that is not derived from the base class of backbones.
    """
    return _built(name, config, initial=True)


def _built(name: str, config: Mapping[str, Any], *, initial: bool) -> Potential:
    """Without `initial`, weights are whatever comes: a checkpoint brings others."""
    plugin = plugins.load(plugins.POTENTIALS, name)
    if name not in plugins.names("backbones"):
        return cast(Potential, plugin(dict(config)))
    if not hasattr(plugin, "assemble"):
        raise PluginError(f"the plug-in {name!r} is no backbone", hint="derive its class from mlipfm_models.PairBackbone or DenseBackbone")
    potential: Potential = plugin.assemble(name, dict(config), initial=initial)
    return potential


def resolve(uri: Path | str) -> Path:
    """Return the local file of a path, of an address, or of a released model by its name.

    A path that exists is that path. Resolvers (entry-point group `mlipfm.resolvers`, a class without arguments) own their schemes; a released model
    is an entry point of the group `mlipfm.released`, a function that returns the path of its checkpoint.

    Raises:
        UnreadableFileError: a plain word that is neither a file nor a released model.
        RefusedFileError: the address of a model that belongs to another package.
    """
    scheme = re.match(r"([a-z][a-z0-9_+.-]+):", str(uri))
    if isinstance(uri, Path) or Path(uri).exists():
        return Path(uri)
    if scheme is None and re.fullmatch(r"[^/\\]+@[^/\\.]+", uri):  # NAME@ALIAS of the registry, spelled in short
        return resolve(f"mlipfm:{uri}")
    if scheme is None and uri in plugins.names("released"):  # a model that an installed package brings
        return Path(plugins.load("released", uri)())
    if scheme is None:
        if Path(uri).name == uri and not Path(uri).suffix:
            raise UnreadableFileError(
                "there is no such file, and no model of this name is installed",
                where=uri,
                hint=f"check the path; installed: {', '.join(plugins.names('released')) or 'none'}",
            )
        return Path(uri)
    if scheme[1] in plugins.names("foreign"):
        raise RefusedFileError(
            f"{uri} is a model of another package", hint="it runs in a process of its own: mlipfm_interfaces.foreign.open_foreign"
        )
    try:
        resolver = plugins.load("resolvers", scheme[1])()
    except PluginError as error:
        packages = "models of other packages are " + ", ".join(f"{name}:..." for name in plugins.names("foreign"))
        raise PluginError(error.what, where=str(uri), hint=f"{error.hint}; {packages}" if error.hint else packages) from None
    return Path(resolver.resolve(str(uri)))


def _check_fit(potential: Potential, tensors: Tensors, name: str, where: str) -> None:
    """Names, shapes and dtypes in the file are those of the model that was built."""
    wanted = {key: (str(value.dtype), list(value.shape)) for key, value in potential.state_dict().items()}
    found = {key: (str(value.dtype), list(value.shape)) for key, value in tensors.items()}
    faults = [f"{key!r} is missing" for key in sorted(wanted.keys() - found.keys())]
    faults += [f"{key!r} is not wanted" for key in sorted(found.keys() - wanted.keys())]
    for key in sorted(wanted.keys() & found.keys()):
        if wanted[key] != found[key]:
            faults.append(f"{key!r} is {found[key][0]} {found[key][1]}, wanted {wanted[key][0]} {wanted[key][1]}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        hint = "install the version of its package that wrote it, see `versions` in the manifest"
        raise UnreadableFileError(f"the weights do not fit {name!r}: {'; '.join(faults[:3])}{more}", where=where, hint=hint)


def _check_spec(built: Manifest, saved: Manifest, name: str, where: str) -> None:
    both = sorted(built.keys() & saved.keys())
    changed = [f"{key} was {str(saved[key])[:200]}, now {str(built[key])[:200]}" for key in both if built[key] != saved[key]]
    if changed:
        hint = "install the version of its package that wrote it, see `versions` in the manifest"
        raise UnreadableFileError(f"{name!r} builds another model from this configuration: {'; '.join(changed)}", where=where, hint=hint)


def _spec_json(potential: Potential) -> Manifest:
    spec: Manifest = json.loads(canonical_json(asdict(potential.spec)))
    return spec


def _versions(plugin: str) -> dict[str, str]:
    """Versions of the contract and of the package that builds the model."""
    from importlib.metadata import entry_points, version

    groups = [f"mlipfm.{group}" for group in plugins.POTENTIALS]
    owners = {point.dist.name for group in groups for point in entry_points(group=group, name=plugin) if point.dist}
    return {name: version(name) for name in sorted(owners | {"mlipfm-interfaces"})}


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    """A configuration is small, shallow and has finite numbers.

    Raises:
        RefusedFileError: naming the entry.
    """
    waiting: list[tuple[str, Any, int]] = [("config", config, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        fault = _plain_fault(value, depth)
        if fault is not None:
            raise RefusedFileError(f"its configuration cannot be that of a model: {place[:200]} {fault}", where=where)
        if isinstance(value, dict):
            waiting += [(f"{place}.{key[:100]}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{place}[{k}]", item, depth + 1) for k, item in enumerate(value)]


def _plain_fault(value: Any, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"is nested more than {MAX_DEPTH} deep"
    if isinstance(value, dict | list) and len(value) > MAX_ENTRIES:
        return f"has {len(value)} entries"
    if (isinstance(value, str) and len(value) > MAX_TEXT) or (isinstance(value, dict) and any(len(key) > MAX_TEXT for key in value)):
        return f"has a text of more than {MAX_TEXT} characters"
    if isinstance(value, int | float) and not abs(value) < 2**63:
        return f"is {str(value)[:30]}"
    return None


@contextmanager
def _watched(tensors: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """What is built inside has no more tensors and numbers than `tensors`, within a factor of `REPEATS`.

    Raises:
        RefusedFileError: at the first tensor or parameter too many.
    """
    watch = _Watch(tensors, where)
    hooks = [
        torch_modules.register_module_parameter_registration_hook(watch.registered),
        torch_modules.register_module_buffer_registration_hook(watch.registered),
    ]
    try:
        with watch:
            yield
    except MemoryError:
        watch.refuse("more memory than there is")
    finally:
        for hook in hooks:
            hook.remove()


class _Watch(TorchFunctionMode):
    """Watches every call of torch, refuses those whose result would be too large, and counts what modules register."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        self.where, self.count, self.numbers = where, len(tensors), sum(value.numel() for value in tensors.values())
        self.found, self.taken = 0, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = _asked(getattr(function, "__name__", ""), args, kwargs or {})
        self._check(size)
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._check(made.numel())
        return made

    def registered(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """A parameter or buffer of a module."""
        if value is None:
            return
        self.found, self.taken = self.found + 1, self.taken + value.numel()
        if isinstance(value, nn.Parameter) and self.found > REPEATS * self.count + FEW:
            self.refuse(f"more than {self.found - 1} tensors")
        self._check(self.taken)

    def refuse(self, what: str) -> None:
        raise RefusedFileError(
            f"its configuration asks for {what}, but the file holds {self.count} tensors of {self.numbers} numbers in all",
            where=self.where,
            hint="do not use this file; download the model again from its source",
        )

    def _check(self, numbers: int) -> None:
        if numbers > REPEATS * self.numbers + TABLES:
            self.refuse(f"{numbers} numbers")


def _asked(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Numbers of the tensor that a call is going to allocate; 0 if its arguments do not say."""
    if name in _BY_SHAPE:
        sizes = kwargs.get("size", args[1:] if name.startswith("new_") else args)
        return math.prod(_integers(sizes))
    if name in _BY_LENGTH:
        return max([abs(n) for n in (*args, kwargs.get("end", 0), kwargs.get("steps", 0)) if isinstance(n, int)], default=0)
    if name in _BY_SQUARE:
        sides = _integers(args)
        return math.prod(sides) ** (2 if len(sides) == 1 else 1)
    return 0


def _integers(sizes: Any) -> list[int]:
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        return [sizes]
    return [n for part in sizes for n in _integers(part)] if isinstance(sizes, tuple | list) else []
