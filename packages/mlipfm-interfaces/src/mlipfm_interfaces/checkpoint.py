"""Checkpoints: one `.safetensors` file whose digest is verified before anything is used.

All metadata is one key, `mlipfm`, of canonical JSON (several keys come out of the library in random order). The digest in it covers the manifest
without the digest and every tensor's name, dtype, shape and bytes, so that no changed bit of weights or settings goes unnoticed, and saving twice
gives the same bytes. A *model* checkpoint (kind `mlipfm-model`) is what users exchange, and its digest is the model's identity. Training states and
simulation restarts use the same container under other kinds and are never accepted where a model is expected.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from . import plugins
from .checkpoint_file import FORMAT, MODEL_KIND, read_header
from .errors import ContractError, DamagedFileError, FormatVersionError, PluginError, RefusedFileError, ShapeError, UnreadableFileError
from .examples import examples_of
from .files import atomic_write, canonical_json, read_bytes
from .limited_build import check_plain, within
from .potential import Potential
from .trained_states import states_of

_KEY = "mlipfm"
_RESERVED = ("digest", "format", "tied")

Manifest = dict[str, Any]
Tensors = dict[str, Tensor]

#: From format n to n + 1. Files of every format are read for ever; `tests/museum` keeps one of each.
UPGRADES: dict[int, Callable[[Manifest, Tensors], tuple[Manifest, Tensors]]] = {}


def save_checkpoint(path: Path | str, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> str:
    """Write tensors and manifest as one file, atomically; the same input gives the same bytes.

    Tensors that are the same memory in the same shape (tied weights) are stored once and come back tied. Other views are stored as their values.

    Args:
        manifest: JSON-ready; `kind` (default `mlipfm-model`) says what it is a checkpoint of. `digest`, `format` and `tied` are set here.

    Returns:
        The digest, 64 hex digits.

    Raises:
        ShapeError: a tensor that has no plain memory (sparse, quantized, meta). ContractError: a manifest that JSON cannot say.
        UnwritableFileError: the old file is intact.
    """
    stored, tied = _without_ties(tensors)
    entries: Manifest = {"kind": MODEL_KIND} | {key: value for key, value in manifest.items() if key not in _RESERVED}
    entries["format"] = FORMAT
    if tied:
        entries["tied"] = tied
    try:
        digest = _digest(entries, stored)
    except (TypeError, ValueError) as error:
        raise ContractError(f"the manifest of a checkpoint must be JSON without NaN: {error}", where=str(path)) from error
    text = canonical_json(entries | {"digest": digest}).decode()
    atomic_write(path, safetensors.torch.save(stored, metadata={_KEY: text}))
    return digest


def load_checkpoint(path: Path | str, kind: str = MODEL_KIND) -> tuple[Manifest, Tensors]:
    """Read and verify a checkpoint of this kind.

    Returns:
        The manifest (with its `digest`) and the tensors on the CPU, in the dtype they were saved in.

    Raises:
        RefusedFileError: a pickle or zip (`torch.save`), a file of another program, or a checkpoint of another kind.
        DamagedFileError: the digest does not match. UnreadableFileError: missing, a folder, truncated. FormatVersionError: newer than this mlipfm.
    """
    _refuse_folder(Path(path))
    data = read_bytes(path)
    manifest = _manifest(data, str(path))
    _check_kind(manifest, kind, str(path))
    if manifest["format"] > FORMAT:
        raise FormatVersionError(
            f"checkpoint format {manifest['format']}, this mlipfm reads up to {FORMAT}", where=str(path), hint="upgrade mlipfm-interfaces"
        )
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise DamagedFileError(f"is truncated or damaged: {error}", where=str(path), hint="copy it again") from error
    if _digest({key: value for key, value in manifest.items() if key != "digest"}, tensors) != manifest.get("digest"):
        raise DamagedFileError(
            "the digest does not match the content: the file was changed or damaged", where=str(path), hint="copy it again"
        )
    tensors = _with_ties(tensors, manifest.pop("tied", {}), str(path))
    for version in range(manifest["format"], FORMAT):
        manifest, tensors = UPGRADES[version](manifest, tensors)
        manifest["format"] = version + 1
    return manifest, tensors


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
    check_plain({"plugin": name, **config}, where)
    try:
        with torch.random.fork_rng(devices=[]), within(tensors, where):  # loading a model leaves the stream of random numbers as it was
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
        return Path(uri)
    if scheme[1] in plugins.names("foreign"):
        raise RefusedFileError(
            f"{uri} is a model of another package", hint="it runs in a process of its own: mlipfm_interfaces.foreign.open_foreign"
        )
    resolver = plugins.load("resolvers", scheme[1])()
    return Path(resolver.resolve(str(uri)))


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (64 hex digits) over name, dtype, shape and bytes of all tensors, sorted by name."""
    return _digest({}, tensors)


def _digest(entries: Manifest, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(canonical_json(entries))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """Plain CPU copies by name, and alias -> name for tensors that are one memory in one shape."""
    stored: Tensors = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ShapeError(
                "a checkpoint holds plain dense tensors only", where=f"tensor {name!r}", hint="call .to_dense() or materialise it"
            )
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            tied[name] = seen[place]
            continue
        seen[place] = name
        stored[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    return stored, tied


def _with_ties(tensors: Tensors, tied: Any, where: str) -> Tensors:
    if not isinstance(tied, dict) or not all(name in tensors and alias not in tensors for alias, name in tied.items()):
        raise DamagedFileError(f"ties tensors that do not exist: {str(tied)[:200]}", where=where)
    return tensors | {alias: tensors[name] for alias, name in tied.items()}


def _refuse_folder(path: Path) -> None:
    """A run folder is taken for its model: name the file that is meant."""
    if not path.is_dir():
        return
    first = [path / name for name in ("best.safetensors", "last.safetensors")]
    models = [file for file in [*first, *sorted(path.glob("*.safetensors"))] if file.is_file()]
    hint = f"give {models[0]}" if models else "it holds no checkpoint (.safetensors)"
    raise UnreadableFileError("is a folder, a file is wanted", where=str(path), hint=hint)


def _manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest in the header; everything that is not a checkpoint of ours is refused here, before tensors are looked at."""
    return read_header(data, len(data), where)[1]


def _check_kind(manifest: Manifest, kind: str, where: str) -> None:
    found = manifest.get("kind")
    if found != kind:
        hint = "give a model checkpoint; a training state belongs to its run folder" if kind == MODEL_KIND else None
        raise RefusedFileError(f"is a checkpoint of kind {found!r}, wanted {kind!r}", where=where, hint=hint)


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
