"""The process group of torchrun, and who is missing from it when a rank does not answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mlipfm_interfaces.errors import RecipeError, TrainingError
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # public, but not in its __all__

#: Seconds within which the ranks that are left report after one has failed.
PATIENCE = 5.0

_store: Any = None  # a torch.distributed.Store


def join(strategy: str, timeout: float, device: torch.device) -> bool:
    """Join the group of this torchrun, if there is none yet; whether this call did. CPUs talk by gloo, NVIDIA GPUs by NCCL.

    Args:
        timeout: seconds that a rank waits for another before it gives up.

    Raises:
        RecipeError: a timeout that cannot be, this process was not started by torchrun, or by one that cannot restart it (see `of_this_start`).
        TrainingError: the other ranks did not come within `timeout`, or their address cannot be reached.
    """
    global _store
    if not 0 < timeout <= 1e7:
        raise RecipeError(f"timeout must be above 0 and at most 1e7 s, got {timeout:g}", where=f"strategy {strategy!r}")
    if dist.is_initialized():
        return False
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        hint = "start it with `torchrun --nproc-per-node 2 --no-python mlipfm train ...`, or use strategy.name=single"
        raise RecipeError(f"strategy {strategy!r} needs several processes", hint=hint)
    wait = timedelta(seconds=timeout)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=wait))
        store = of_this_start(store, os.environ)
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=wait)
        _store = PrefixStore("mlipfm", store)
        _store.set(f"who/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
    except dist.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not meet the others at {place}: {_short(error)}",
            hint=f"look at the messages of the other ranks; a rank waits timeout={timeout:g} s for them (option of the strategy)",
        ) from error
    return True


@contextmanager
def missing_ranks_named(world_size: int) -> Iterator[None]:
    """Turn a connection that breaks or times out into an error that names the ranks that are gone.

    Raises:
        TrainingError: in place of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))
        if world_size < 2 or not lost:
            raise
        gone = " and ".join(missing_ranks()) or "another process of this run"
        raise TrainingError(
            f"{gone} ended or does not answer", hint="look at its messages; the same command goes on from the last training state"
        ) from error


def _short(error: Exception) -> str:
    """Return the first line of an error of torch, without the place in its source that it begins with."""
    return str(error).splitlines()[0].rpartition("] ")[2]


def of_this_start(store: Any, environment: Mapping[str, str]) -> Any:
    """Return the part of torchrun's `store` that belongs to this start of the processes.

    torchrun keeps one store over all restarts (pytorch issue 135712), and with it the addresses of processes that have died: whoever reads them waits
    for nobody. On one node the number of the restart keeps them apart. Agents of several nodes count only the restarts that each caused.

    Args:
        environment: what torchrun has set.

    Raises:
        RecipeError: restarts on several nodes with a store that torchrun keeps.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # made anew by rank 0 at every start
    if int(environment.get("GROUP_WORLD_SIZE", 1)) > 1 and int(environment.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0:
        raise RecipeError(
            "torchrun cannot restart processes on several nodes while it shares its store with them",
            where="--max-restarts",
            hint="use --rdzv-backend c10d and `export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` before torchrun on each node",
        )
    return PrefixStore(f"restart/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def leave(joined: bool) -> None:
    """Leave the group, if `join` entered it."""
    global _store
    _store = None
    if joined:
        dist.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """`cuda` as the GPU of this rank: `cuda:1` for the second process of a node."""
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    mine = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(mine)
    return mine


def collect(value: Any, world_size: int) -> list[Any]:
    """Return the `value` of every rank of this torchrun, in the order of ranks."""
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values


def missing_ranks(patience: float = PATIENCE) -> list[str]:
    """After a failed communication: the ranks that do not report within `patience` seconds, such as "rank 1 (process 4711 on node7)"."""
    if _store is None:
        return []
    rank, world_size = dist.get_rank(), dist.get_world_size()
    missing, end = set(range(world_size)), time.monotonic() + patience
    names: dict[int, str] = {}
    try:
        _store.set(f"here/{rank}", "")
        names = {k: _store.get(f"who/{k}").decode() for k in range(world_size)}
        while missing and time.monotonic() < end:
            missing -= {k for k in missing if _store.check([f"here/{k}"])}
            time.sleep(0.05)
    except (RuntimeError, dist.DistError):  # the store lives in the process of rank 0, unless torchrun has it
        if 0 in missing or not names:
            return ["rank 0, or its machine"]
    return [f"rank {k} ({names[k]})" for k in sorted(missing)]  # rank 0 may have reported and left with the store
