"""A model checkpoint as a file, verified without torch: what a registry needs that stores models and builds none.

The digest is that of `checkpoint.py`: SHA-256 over the manifest without its digest, then name, dtype, shape and bytes of each tensor, by name.
"""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DamagedFileError, FormatVersionError, RefusedFileError, UnreadableFileError
from .files import canonical_json, strict_json

MAX_HEADER = 16 * 2**20  # bytes of JSON; the largest model we know needs less than 1 MiB
FORMAT = 1
MODEL_KIND = "mlipfm-model"
_KEY = "mlipfm"
_CHUNK = 2**20

#: dtype of the safetensors format -> name in torch, bytes of an element.
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I64": ("int64", 8), "I32": ("int32", 4),
    "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1), "BOOL": ("bool", 1), "C64": ("complex64", 8),
}  # fmt: skip


def verify_checkpoint(path: Path | str, kind: str = MODEL_KIND) -> dict[str, Any]:
    """Manifest of a checkpoint whose digest was computed anew from its bytes; memory does not grow with the file.

    Raises:
        RefusedFileError: a pickle or zip, a file of another program, or a checkpoint of another kind. DamagedFileError: header, offsets or digest do
        not fit the content. UnreadableFileError: missing or truncated. FormatVersionError: newer than this mlipfm.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(min(size, 16))
            length = int.from_bytes(first[:8], "little")
            refuse_other_files(first, where)
            file.seek(0)
            start = file.read(8 + min(length, MAX_HEADER))
            header, manifest = read_header(start, size, where)
            if manifest.get("kind") != kind:
                raise RefusedFileError(f"is a checkpoint of kind {str(manifest.get('kind'))[:80]!r}, wanted {kind!r}", where=where)
            if manifest["format"] > FORMAT:
                told = f"checkpoint format {manifest['format']}, this mlipfm reads up to {FORMAT}"
                raise FormatVersionError(told, where=where, hint="upgrade mlipfm-interfaces")
            if _digest(file, header, manifest, 8 + length, size, where) != manifest.get("digest"):
                raise DamagedFileError("the digest does not match the content: the file was changed or damaged", where=where)
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}", where=where) from error
    return manifest


def read_header(data: bytes, size: int, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and manifest from the first bytes of a file of `size` bytes; everything that is not a checkpoint of ours is refused."""
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
        what, where=where, hint="give a checkpoint that save_potential wrote; foreign models run in processes of their own"
    )


def _digest(file: BinaryIO, header: dict[str, Any], manifest: dict[str, Any], start: int, size: int, where: str) -> str:
    tensors = {name: _tensor(name, entry, where) for name, entry in header.items() if name != "__metadata__"}
    places = sorted((low, high) for _, _, low, high in tensors.values())
    ends = [0, *(high for _, high in places)]
    if any(low != end for (low, _), end in zip(places, ends, strict=False)) or ends[-1] != size - start:
        raise DamagedFileError("its tensors do not fill the file without gaps and overlaps", where=where, hint="copy it again")
    hasher = hashlib.sha256(canonical_json({key: value for key, value in manifest.items() if key != "digest"}))
    for name, (dtype, shape, low, high) in sorted(tensors.items()):
        hasher.update(canonical_json([name, dtype, shape]))
        file.seek(start + low)
        for place, end in pairwise([*range(low, high, _CHUNK), high]):
            hasher.update(file.read(end - place))
    return hasher.hexdigest()


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
