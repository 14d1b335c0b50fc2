"""Hostile client: an objective with two views, a trainable projector and a loss that is no sum over systems, on FSDP2 with two ranks.

It needs everything at once that sharded training usually breaks: a second backward through the forces, several views, parameters outside the
potential, and a gradient that has to travel back to the rank each embedding came from. Two ranks with unequal shares must equal one process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

SCRIPT = Path(__file__).parent / "two_views_case.py"


def run(folder: Path, strategy: str, ranks: int) -> list[dict[str, torch.Tensor]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        group = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **group}
        command = [sys.executable, "-W", "error", str(SCRIPT), strategy, str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr[-3000:]
    return [safetensors.torch.load_file(folder / f"rank{rank}.safetensors") for rank in range(ranks)]


def flat(results: dict[str, torch.Tensor], prefix: str, part: str = "") -> torch.Tensor:
    return torch.cat([results[key].flatten() for key in sorted(results) if key.startswith(f"{prefix}/{part}")])


@pytest.mark.full  # the cases of test_strategies are in the ci tier: two views, an auxiliary head, gathered rows
@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
def test_two_views_and_a_projector_on_two_ranks_equal_one_process(tmp_path, strategy):
    (one,) = run(tmp_path / "one", "single", 1)
    for rank in run(tmp_path / "two", strategy, 2):
        assert torch.equal(flat(rank, "before"), flat(one, "before"))
        for part in ("potential", "auxiliary"):
            change = flat(one, "after", part) - flat(one, "before", part)
            assert change.norm() > 1e-3
            assert (flat(rank, "after", part) - flat(one, "after", part)).norm() <= 1e-10 * change.norm()
        assert torch.allclose(flat(rank, "term"), flat(one, "term"), rtol=1e-10, atol=1e-12)
    assert one["term/0/twins/twins"] > 0.1
