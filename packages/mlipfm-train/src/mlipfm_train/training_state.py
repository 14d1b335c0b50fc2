"""Training state: everything that an exact resume needs. Private to its run folder, never exchanged, never accepted as a model.

One file per state, `state/step-000000200.safetensors`, in the container of `mlipfm_interfaces.checkpoint` under a kind of its own: tensors and
JSON under one SHA-256, which is verified before anything is used. The state before the newest one is kept and used if the newest is damaged.

Several ranks share the tensors: rank 1 of 4 writes `state/step-000000200.rank-1-of-4.safetensors`, and the file of rank 0, which is written last, has
the digests of the others. Every tensor is whole, in one file, so that any number of ranks can go on.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint, save_checkpoint
from mlipfm_interfaces.errors import DamagedFileError, MlipfmError, RefusedFileError
from mlipfm_interfaces.protocols import Strategy
from torch import Tensor

KIND = "mlipfm-training-state"

#: Format of the JSON part. Training states live as long as their run: there is no upgrade chain, an older one is refused by name.
FORMAT = 1

#: Newest states that are kept.
KEPT = 2

_NAME = re.compile(r"step-(\d{9})\.safetensors")
_log = logging.getLogger("mlipfm.train")


def save_state(folder: Path, next_step: int, state: dict[str, Any], ranks: Strategy | None = None, run: str = "") -> Path:
    """Write one state (nested dicts and lists of JSON values, Tensors and arrays), verify it, and only then drop older ones.

    Args:
        ranks: all of them call this with the same state, and each writes its share; None for one process.
        run: digest of the potential that the run started from, by which a state of another run is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    document = _pack(state, "", tensors)
    path = folder / f"step-{next_step:09d}.safetensors"
    rank, world = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    mine = {name: tensors[name] for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name))[rank::world]}
    if ranks is not None and world > 1:
        part = path.with_suffix(f".rank-{rank}-of-{world}.safetensors")
        parts = ranks.collect((part.name, _written(part, mine, {"step": next_step})) if rank else None)[1:]
    if rank == 0:
        shares = {"parts": dict(parts)} if world > 1 else {}
        _written(path, mine, {"state_format": FORMAT, "state": document, "torch": torch.__version__, "run": run, **shares})
        _remove_old(folder)
    return path


def _written(path: Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> str:
    digest = save_checkpoint(path, tensors, {"kind": KIND, **manifest})
    load_checkpoint(path, KIND)
    return digest


def _remove_old(folder: Path) -> None:
    """Keep the newest states, and no file of another rank that belongs to none of them."""
    for old in states(folder)[KEPT:]:
        old.unlink()
    kept = {path.stem for path in states(folder)}
    for part in folder.glob("step-*.rank-*.safetensors"):
        if part.name.partition(".")[0] not in kept:
            part.unlink()


def load_newest_state(folder: Path, run: str = "") -> dict[str, Any] | None:
    """Return the newest state that is whole; None if there never was one. A damaged one is reported loudly and passed over.

    Args:
        run: digest of the potential that the run started from; "" accepts any.

    Raises:
        DamagedFileError: if there are states and none is usable.
    """
    found = states(folder)
    for path in found:
        try:
            return load_state(path, run)
        except MlipfmError as error:
            _log.warning("training state %s cannot be used, falling back to the one before: %s", path.name, error)
    if found:
        raise DamagedFileError(
            "no training state is usable", where=str(folder), hint="start again in another folder; the model checkpoints may be whole"
        )
    return None


def load_state(path: Path, run: str = "") -> dict[str, Any]:
    """Return one state, verified, whatever number of ranks wrote it.

    Raises:
        what `load_checkpoint` raises; DamagedFileError: a state of another format, or without the file of a rank. RefusedFileError: a state, or the
        file of a rank, of another run.
    """
    manifest, tensors = load_checkpoint(path, KIND)
    if manifest.get("state_format") != FORMAT:
        raise DamagedFileError(
            f"training state of format {manifest.get('state_format')}, this version resumes format {FORMAT}", where=str(path)
        )
    if run and manifest.get("run", "") not in ("", run):
        raise RefusedFileError("is a training state of another run", where=str(path), hint="a training state belongs to its run folder")
    for name, digest in manifest.get("parts", {}).items():
        tensors |= _part(path.with_name(name), digest)
    written = manifest.get("torch", torch.__version__)
    if written != torch.__version__:
        _log.warning(
            "training state %s was written with torch %s, this is %s: the run goes on, but not to the bit",
            path.name,
            written,
            torch.__version__,
        )
    state: dict[str, Any] = _unpack(manifest["state"], tensors)
    return state


def _part(path: Path, digest: str) -> dict[str, Tensor]:
    """Return the tensors of the file of another rank, which must have this digest."""
    if not path.exists():
        raise DamagedFileError("the file of this rank is missing", where=str(path), hint="copy the whole folder of states")
    manifest, tensors = load_checkpoint(path, KIND)
    if manifest["digest"] != digest:
        raise RefusedFileError("the file of this rank belongs to another training state", where=str(path))
    return tensors


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
