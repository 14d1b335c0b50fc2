"""A checkpoint as a file: one `.safetensors` container whose digest is verified before anything is used.

All metadata is one key, `mlipfm`, of canonical JSON (several keys come out of the library in random order). The digest in it is the SHA-256 over the
manifest without its digest, then name, dtype, shape and bytes of each tensor, by name, so that no changed bit of weights or settings goes unnoticed,
and saving twice gives the same bytes. A *model* checkpoint (kind `mlipfm-model`) is what users exchange, and its digest is the model's identity.
Training states and simulation restarts use the same container under other kinds and are never accepted where a model is expected.

`verify_checkpoint` needs no torch: registries store models and build none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import ContractError, DamagedFileError, FormatVersionError, RefusedFileError, ShapeError, UnreadableFileError
from .files import atomic_write, canonical_json, read_bytes, strict_json

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 16 * 2**20  # bytes of JSON; the largest model we know needs less than 1 MiB
FORMAT = 1
MODEL_KIND = "mlipfm-model"
_KEY = "mlipfm"
_RESERVED = ("digest", "format", "tied")
_CHUNK = 2**20

Manifest = dict[str, Any]
Tensors = dict[str, "Tensor"]

#: dtype of the safetensors format -> name in torch, bytes of an element.
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I64": ("int64", 8), "I32": ("int32", 4),
    "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1), "BOOL": ("bool", 1), "C64": ("complex64", 8),
}  # fmt: skip


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
    from safetensors.torch import save

    stored, tied = _without_ties(tensors)
    entries: Manifest = {"kind": MODEL_KIND} | {key: value for key, value in manifest.items() if key not in _RESERVED}
    entries["format"] = FORMAT
    if tied:
        entries["tied"] = tied
    try:
        digest = _digest(entries, _torch_parts(stored))
    except (TypeError, ValueError) as error:
        raise ContractError(f"the manifest of a checkpoint must be JSON without NaN: {error}", where=str(path)) from error
    text = canonical_json(entries | {"digest": digest}).decode()
    atomic_write(path, save(stored, metadata={_KEY: text}))
    return digest


def load_checkpoint(path: Path | str, kind: str = MODEL_KIND) -> tuple[Manifest, Tensors]:
    """Read and verify a checkpoint of this kind.

    Returns:
        The manifest (with its `digest`) and the tensors on the CPU, in the dtype they were saved in.

    Raises:
        RefusedFileError: a pickle or zip (`torch.save`), a file of another program, or a checkpoint of another kind.
        DamagedFileError: the digest does not match. UnreadableFileError: missing, a folder, truncated. FormatVersionError: newer than this mlipfm.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    where = str(path)
    _refuse_folder(Path(path))
    data = read_bytes(path)
    manifest = _read_header(data, len(data), where)[1]
    _check_kind(manifest, kind, where)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise DamagedFileError(f"is truncated or damaged: {error}", where=where, hint="copy it again") from error
    _check_digest(manifest, _torch_parts(tensors), where)
    tensors = _with_ties(tensors, manifest.pop("tied", {}), where)
    for version in range(manifest["format"], FORMAT):
        manifest, tensors = UPGRADES[version](manifest, tensors)
        manifest["format"] = version + 1
    return manifest, tensors


def verify_checkpoint(path: Path | str, kind: str = MODEL_KIND) -> dict[str, Any]:
    """Return the manifest of a checkpoint whose digest was computed anew from its bytes; memory does not grow with the file.

    Raises:
        RefusedFileError: a pickle or zip, a file of another program, or a checkpoint of another kind. DamagedFileError: header, offsets or digest do
        not fit the content. UnreadableFileError: missing or truncated. FormatVersionError: newer than this mlipfm.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(min(size, 16))
            refuse_other_files(first, where)
            length = int.from_bytes(first[:8], "little")
            file.seek(0)
            header, manifest = _read_header(file.read(8 + min(length, MAX_HEADER)), size, where)
            _check_kind(manifest, kind, where)
            _check_digest(manifest, _file_parts(file, header, 8 + length, size, where), where)
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}", where=where) from error
    return manifest


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (64 hex digits) over name, dtype, shape and bytes of all tensors, sorted by name."""
    return _digest({}, _torch_parts(tensors))


def _read_header(data: bytes, size: int, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and manifest from the first bytes of a file of `size` bytes; everything that is not a checkpoint of ours is refused."""
    refuse_other_files(data, where)
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise DamagedFileError(f"claims a header of {length} bytes, more than any model has", where=where, hint="copy it again")
    if length > size - 8:
        raise DamagedFileError(f"is truncated: {size} bytes, the header alone needs {length + 8}", where=where, hint="copy it again")
    header = _json_object(data[8 : 8 + length], "header", where)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_KEY), str):
        raise RefusedFileError(
            "is a safetensors file without an mlipfm manifest",
            where=where,
            hint="convert the model with its own package, or open it as a foreign model",
        )
    manifest = _json_object(metadata[_KEY].encode("ascii", "replace"), "manifest", where)
    if type(manifest.get("format")) is not int or manifest["format"] < 1:
        raise DamagedFileError("the manifest gives no format number", where=where)
    return header, manifest


def refuse_other_files(data: bytes, where: str) -> None:
    """Refuse by the first bytes, before anything is parsed: pickles, archives and whatever is no safetensors file."""
    if data[8:9] == b"{":
        return
    if data[:2] == b"PK":
        what = "is a zip archive, as torch.save writes it; it contains pickled code and is never read"
    elif data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        what = "is a pickle; it can run code and is never read"
    elif len(data) < 10:
        raise UnreadableFileError(f"is truncated: {len(data)} bytes", where=where, hint="copy it again")
    else:
        what = "is not a checkpoint (.safetensors)"
    raise RefusedFileError(
        what,
        where=where,
        hint="give a model that `mlipfm train` wrote (best.safetensors); `mlipfm teachers list` names models of other packages",
    )


def _refuse_folder(path: Path) -> None:
    """A run folder is taken for its model: name the file that is meant."""
    if not path.is_dir():
        return
    first = [path / name for name in ("best.safetensors", "last.safetensors")]
    models = [file for file in [*first, *sorted(path.glob("*.safetensors"))] if file.is_file()]
    hint = f"give {models[0]}" if models else "it holds no checkpoint (.safetensors)"
    raise UnreadableFileError("is a folder, a file is wanted", where=str(path), hint=hint)


def _check_kind(manifest: Manifest, kind: str, where: str) -> None:
    found = manifest.get("kind")
    if found != kind:
        hint = "give a model checkpoint; a training state belongs to its run folder" if kind == MODEL_KIND else None
        raise RefusedFileError(f"is a checkpoint of kind {str(found)[:80]!r}, wanted {kind!r}", where=where, hint=hint)
    if manifest["format"] > FORMAT:
        told = f"checkpoint format {manifest['format']}, this mlipfm reads up to {FORMAT}"
        raise FormatVersionError(told, where=where, hint="upgrade mlipfm-interfaces")


#: Name, dtype as torch calls it, shape and bytes of a tensor.
_Part = tuple[str, str, list[int], Iterable[bytes | memoryview]]


def _digest(manifest: Manifest, parts: Iterable[_Part]) -> str:
    """Return the SHA-256 of a manifest without its digest and of tensors, which come sorted by name."""
    hasher = hashlib.sha256(canonical_json({key: value for key, value in manifest.items() if key != "digest"}))
    for name, dtype, shape, chunks in parts:
        hasher.update(canonical_json([name, dtype, shape]))
        for chunk in chunks:
            hasher.update(chunk)
    return hasher.hexdigest()


def _check_digest(manifest: Manifest, parts: Iterable[_Part], where: str) -> None:
    if _digest(manifest, parts) != manifest.get("digest"):
        raise DamagedFileError("the digest does not match the content: the file was changed or damaged", where=where, hint="copy it again")


def _torch_parts(tensors: Mapping[str, Tensor]) -> Iterator[_Part]:
    """Yield the parts of tensors in memory."""
    import torch

    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        yield name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), [tensor.reshape(-1).view(torch.uint8).numpy().data]


def _file_parts(file: BinaryIO, header: dict[str, Any], start: int, size: int, where: str) -> Iterator[_Part]:
    """Yield the parts of the tensors in a file, whose bytes begin at `start`."""
    tensors = {name: _tensor(name, entry, where) for name, entry in header.items() if name != "__metadata__"}
    places = sorted((low, high) for _, _, low, high in tensors.values())
    ends = [0, *(high for _, high in places)]
    if any(low != end for (low, _), end in zip(places, ends, strict=False)) or ends[-1] != size - start:
        raise DamagedFileError("its tensors do not fill the file without gaps and overlaps", where=where, hint="copy it again")
    for name, (dtype, shape, low, high) in sorted(tensors.items()):
        file.seek(start + low)
        yield name, dtype, shape, (file.read(end - place) for place, end in pairwise([*range(low, high, _CHUNK), high]))


def _tensor(name: str, entry: Any, where: str) -> tuple[str, list[int], int, int]:
    """dtype, shape, first and last byte."""
    try:
        (dtype, width), shape, (low, high) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in [*shape, low, high])
        good = whole and isinstance(shape, list) and entry.keys() == {"dtype", "shape", "data_offsets"}
    except (TypeError, ValueError, KeyError, AttributeError):
        good = False
    if not good or high - low != prod(shape) * width:
        raise DamagedFileError(f"tensor {name[:80]!r} has no dtype, shape and place that fit", where=where, hint="copy it again")
    return dtype, shape, low, high


def _json_object(text: bytes, what: str, where: str) -> dict[str, Any]:
    try:
        value = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"the {what} is damaged: {error}", where=where, hint="copy it again") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"the {what} is damaged: no JSON object", where=where, hint="copy it again")
    return value


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """Return plain CPU copies by name, and alias -> name for tensors that are one memory in one shape."""
    import torch

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
