"""Training state: everything that an exact resume needs. Private to its run folder, never exchanged, never accepted as a model.

One file per state, `state/step-000000200.safetensors`, in the container of `mlipfm_interfaces.checkpoint` under a kind of its own: tensors and
JSON under one SHA-256, which is verified before anything is used. The state before the newest one is kept and used if the newest is damaged.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint, save_checkpoint
from mlipfm_interfaces.errors import DamagedFileError, MlipfmError
from torch import Tensor

KIND = "mlipfm-training-state"

#: Format of the JSON part. Training states live as long as their run: there is no upgrade chain, an older one is refused by name.
FORMAT = 1

#: Newest states that are kept.
KEPT = 2

_NAME = re.compile(r"step-(\d{9})\.safetensors")
_log = logging.getLogger("mlipfm.train")


def save_state(folder: Path, next_step: int, state: dict[str, Any]) -> Path:
    """Write one state (nested dicts and lists of JSON values, Tensors and arrays), verify it, and only then drop older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    document = _pack(state, "", tensors)
    path = folder / f"step-{next_step:09d}.safetensors"
    save_checkpoint(path, tensors, {"kind": KIND, "state_format": FORMAT, "state": document})
    load_checkpoint(path, KIND)
    for old in states(folder)[KEPT:]:
        old.unlink()
    return path


def load_newest_state(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that is whole; None if there never was one. A damaged one is reported loudly and passed over.

    Raises:
        DamagedFileError: if there are states and none is usable.
    """
    found = states(folder)
    for path in found:
        try:
            return load_state(path)
        except MlipfmError as error:
            _log.warning("training state %s cannot be used, falling back to the one before: %s", path.name, error)
    if found:
        raise DamagedFileError(
            "no training state is usable", where=str(folder), hint="start again in another folder; the model checkpoints may be whole"
        )
    return None


def load_state(path: Path) -> dict[str, Any]:
    """Return one state, verified. Raises what `load_checkpoint` raises, and `DamagedFileError` for a state of another format."""
    manifest, tensors = load_checkpoint(path, KIND)
    if manifest.get("state_format") != FORMAT:
        raise DamagedFileError(
            f"training state of format {manifest.get('state_format')}, this version resumes format {FORMAT}", where=str(path)
        )
    state: dict[str, Any] = _unpack(manifest["state"], tensors)
    return state


def states(folder: Path) -> list[Path]:
    """Files of states, the newest first."""
    return sorted((path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name)), reverse=True)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON of `value`, with tensors and arrays replaced by their names."""
    if isinstance(value, dict):
        return {str(key): _pack(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}/{k}", tensors) for k, item in enumerate(value)]
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
        return {"$array": name}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$tensor"}:
        return tensors[value["$tensor"]]
    if value.keys() == {"$array"}:
        return tensors[value["$array"]].numpy()
    return {key: _unpack(item, tensors) for key, item in value.items()}
