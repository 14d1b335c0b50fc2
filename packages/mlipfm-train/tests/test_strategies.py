"""Every strategy takes the same steps as one process: two real ranks against one, whatever is trained."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.plugins import load

SCRIPT = Path(__file__).parent / "strategy_cases.py"
CASES = (
    "forces", "direct forces", "stress", "hessian row", "hvp", "two views", "auxiliary head", "gathered", "disjoint levels", "labels on one rank",
    "clipped", "overflow on one rank", "masks",
)  # fmt: skip
CLIP = 0.2  # as in the script
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
Results = list[dict[str, torch.Tensor]]


def results(folder: Path, strategy: str, dtype: str, cases: tuple[str, ...]) -> Results:
    """What every rank has after running the cases; `single` has one rank, the others two."""
    ranks = 1 if strategy == "single" else 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    processes = []
    for rank in range(ranks):
        group = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
        command = [sys.executable, "-W", "error", str(SCRIPT), strategy, dtype, str(folder), *cases]
        processes.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **group}, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr[-3000:]
    return [safetensors.torch.load_file(folder / f"rank{rank}.safetensors") for rank in range(ranks)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """`run(strategy, dtype)`: all cases in one start of the ranks, remembered."""
    done: dict[tuple[str, str], Results] = {}

    def once(strategy: str, dtype: str) -> Results:
        key = (strategy, dtype)
        if key not in done:
            done[key] = results(tmp_path_factory.mktemp("ranks") / "out", strategy, dtype, CASES)
        return done[key]

    return once


def check_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], case: str, tolerance: float) -> None:
    """The change of the parameters agrees relative to its norm, and so does every term of every step."""
    names = [key for key in want if key.startswith(f"{case}/after/")]
    before = [key.replace("/after/", "/before/") for key in names]
    flat = lambda source, keys: torch.cat([source[key].double().flatten() for key in keys])  # noqa: E731
    change = flat(want, names) - flat(want, before)
    assert torch.equal(flat(got, before), flat(want, before))
    assert change.norm() > 1e-3
    assert (flat(got, names) - flat(want, names)).norm() <= tolerance * change.norm()
    terms = [key for key in want if key.startswith(f"{case}/term/")]
    assert {key for key in got if key.startswith(f"{case}/")} == {key for key in want if key.startswith(f"{case}/")}
    for key in terms:
        assert float(got[key]) == pytest.approx(float(want[key]), rel=tolerance, abs=1e-12, nan_ok=True), key


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.full)])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(run, strategy, case, dtype):
    (single,) = run("single", dtype)
    for rank in run(strategy, dtype):
        check_equal(rank, single, case, TOLERANCE[dtype])


@pytest.mark.ci
def test_extra_objectives_change_the_steps(run):
    """Otherwise the comparison of their cases would compare nothing."""
    (single,) = run("single", "float64")
    for case in ("hessian row", "hvp", "two views", "auxiliary head", "gathered"):
        terms = [key for key in single if key.startswith(f"{case}/term/0/extra/")]
        assert terms
        assert all(abs(float(single[key])) > 1e-6 for key in terms)


@pytest.mark.ci
def test_a_clipped_step_is_as_long_as_the_clip_says_and_an_overflow_of_one_rank_stops_all(run):
    """Steps of gradient descent of rate 0.01; the norm is that of all parameters, not of a shard."""
    for strategy in ("single", "ddp", "fsdp2"):
        for rank in run(strategy, "float64"):
            norms = [float(rank[f"clipped/term/{n}/gradient_norm"]) for n in range(3)]
            assert min(norms) > 1.5 * CLIP
            names = [key.replace("/before/", "/after/") for key in rank if key.startswith("clipped/before/")]
            moved = torch.cat([(rank[key] - rank[key.replace("/after/", "/before/")]).flatten() for key in names]).norm()
            assert 0.8 * 3 * 0.01 * CLIP < float(moved) <= 3 * 0.01 * CLIP * (1 + 1e-9)
            assert [float(rank[f"overflow on one rank/term/{n}/skipped"]) for n in range(3)] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.ci)])
def test_strategies_of_several_processes_need_torchrun(strategy):
    with pytest.raises(RecipeError, match=f"strategy '{strategy}' needs several processes; start it with `torchrun"):
        load("strategies", strategy)()
