"""Whole runs on two ranks: exact resume, another number of ranks, and the death of one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.errors import RecipeError, TrainingError
from mlipfm_train.events import read_events
from mlipfm_train.strategies import process_group
from mlipfm_train.strategies.process_group import missing_ranks_named, of_this_start
from mlipfm_train.training_state import KIND, load_newest_state, states
from torch.distributed import DistNetworkError, HashStore

pytestmark = pytest.mark.ci
#: Trained with in the full tier.
OTHERS = ("ddp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
#: Labels of Morse atoms are those of no chemistry.
TRAIN = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "train", "--accept-label-errors"]


@pytest.fixture
def recipe(tiny, tmp_path) -> Path:
    return written(tiny, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> Path:
    """A run of this recipe on two ranks to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(written(tiny, folder), folder / "whole", 2))
    return folder / "whole"


def written(tiny: dict, folder: Path) -> Path:
    """The recipe of all tests here, on two ranks by FSDP2."""
    path = folder / "recipe.yaml"
    objectives = [{"name": "energy-force", "forces_weight": 10.0}]
    document = {**tiny, "steps": 24, "objectives": objectives, "strategy": {"name": "fsdp2", "timeout": 300}, "dtype": "float64"}
    path.write_text(yaml.safe_dump(document))
    return path


def use(recipe: Path, strategy: str) -> None:
    """Change the strategy of a recipe file; DeepSpeed trains in float32."""
    document = yaml.safe_load(recipe.read_text())
    dtype = "float32" if strategy.startswith("deepspeed") else "float64"
    recipe.write_text(yaml.safe_dump({**document, "strategy": {"name": strategy, "timeout": 300}, "dtype": dtype}))


def start(recipe: Path, out: Path, ranks: int) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*TRAIN, str(recipe), "--out", str(out)], env={**os.environ, **group, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, stderr = process.communicate(timeout=1800)
        assert process.returncode == 0, stderr


def wait_for_steps(out: Path, steps: int) -> None:
    for _ in range(6000):  # a busy machine may take minutes
        if (out / "events.jsonl").exists() and sum(e["kind"] == "step" for e in read_events(out / "events.jsonl")) >= steps:
            return
        time.sleep(0.1)
    raise AssertionError("training did not get that far in ten minutes")


def outcome(out: Path) -> tuple[list[str], list[tuple[int, float]]]:
    digests = [load_checkpoint(out / name)[0]["digest"] for name in ("last.safetensors", "best.safetensors")]
    digests.append(load_checkpoint(states(out / "state")[0], KIND)[0]["digest"])
    return digests, [(e["step"], e["values"]["loss"]) for e in read_events(out / "events.jsonl") if e["kind"] == "step"]


MORE = [*((name, 2) for name in OTHERS), *((name, 3) for name in ("fsdp2", *OTHERS))]


@pytest.mark.parametrize(("strategy", "ranks"), [("fsdp2", 2), *(pytest.param(*case, marks=pytest.mark.full) for case in MORE)])
def test_ranks_resume_to_the_bit_after_one_was_killed(recipe, tmp_path, strategy, ranks):
    use(recipe, strategy)
    finish(start(recipe, tmp_path / "whole", ranks))
    assert [step for step, _ in outcome(tmp_path / "whole")[1]] == list(range(24))

    processes = start(recipe, tmp_path / "parts", ranks)
    wait_for_steps(tmp_path / "parts", 6)
    processes[-1].kill()  # one rank dies: the others must notice by themselves, and soon
    for process in processes[:-1]:
        _, stderr = process.communicate(timeout=1800)
        assert process.returncode == 2, stderr
        said = stderr.strip().splitlines()[-1]
        assert f"rank {ranks - 1} (process {processes[-1].pid} on " in said
        assert "ended or does not answer" in said
    processes[-1].communicate()
    finish(start(recipe, tmp_path / "parts", ranks))
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["fsdp2", *OTHERS])
def test_one_rank_takes_over_what_two_began(recipe, tmp_path, strategy):
    use(recipe, strategy)
    finish(start(recipe, tmp_path / "whole", 2))
    losses = outcome(tmp_path / "whole")[1]
    processes = start(recipe, tmp_path / "fewer", 2)
    wait_for_steps(tmp_path / "fewer", 6)
    for process in processes:
        process.kill()
        process.communicate()
    assert load_newest_state(tmp_path / "fewer" / "state")["world_size"] == 2
    finish(start(recipe, tmp_path / "fewer", 1))
    assert load_newest_state(tmp_path / "fewer" / "state")["world_size"] == 1
    _, taken_over = outcome(tmp_path / "fewer")
    assert [step for step, _ in taken_over] == list(range(24))
    assert taken_over[:6] == losses[:6]


SLURM = Path(__file__).parents[1] / "examples" / "slurm.sh"


@pytest.mark.parametrize(
    ("given", "processes", "threads"),
    [({"SLURM_GPUS_ON_NODE": "4"}, 4, 8), ({}, 1, 32), ({"PROCESSES": "8"}, 8, 4), ({"PROCESSES": "64", "SLURM_GPUS_ON_NODE": "4"}, 64, 1)],
)
def test_the_slurm_example_starts_torchrun_once_a_node_with_a_process_for_each_gpu(tmp_path, given, processes, threads):
    """`srun` and `scontrol` are stand-ins: the first prints what it is asked to run, the second names more nodes than a pipe holds."""
    for name, text in (("srun", 'echo "$OMP_NUM_THREADS $*"'), ("scontrol", "seq -f node%.0f 7 20000")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_CPUS_PER_TASK": "32", "SLURM_NNODES": "2", "SLURM_JOB_ID": "23456", "SLURM_JOB_NODELIST": "node[7-8]"}
    words = ["bash", str(SLURM), "recipe.yaml", "--out", "runs/a b"]
    done = subprocess.run(
        words, env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **job, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        f"{threads} torchrun --nnodes 2 --nproc-per-node {processes} --max-restarts 3 --rdzv-id 23456 --rdzv-backend c10d "
        "--rdzv-endpoint node7:23456 --no-python mlipfm train recipe.yaml --out runs/a b"
    )


#: Stand-in of srun on a machine that is two nodes: the command twice, and the first failure of both.
TWO_NODES = 'for node in 1 2; do "$@" & nodes+=($!); done; for node in "${nodes[@]}"; do wait "$node" || exit $?; done'


@pytest.mark.full
@pytest.mark.parametrize(("nodes", "srun"), [(1, 'exec "$@"'), (2, TWO_NODES)])
def test_the_slurm_example_restarts_a_killed_rank_and_ends_with_the_same_bytes(recipe, undisturbed, tmp_path, nodes, srun):
    """Two processes on one or two nodes; `srun` and `scontrol` are stand-ins that run the command here and name this machine."""
    for name, text in (("srun", srun), ("scontrol", "echo localhost")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_CPUS_PER_TASK": str(2 // nodes),  # one thread for each process, as in the undisturbed run
        "SLURM_GPUS_ON_NODE": str(2 // nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    check_restart(recipe, undisturbed, tmp_path / "parts", ["bash", str(SLURM)], slurm)


@pytest.mark.full
def test_torchrun_restarts_a_killed_rank_and_ends_with_the_same_bytes(recipe, undisturbed, tmp_path):
    """On one node torchrun keeps its store, with the addresses of the dead."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "--no-python", *TRAIN[:4]]
    check_restart(recipe, undisturbed, tmp_path / "parts", launcher, {"OMP_NUM_THREADS": "1"})


def check_restart(recipe: Path, undisturbed: Path, out: Path, launcher: list[str], environment: dict[str, str]) -> None:
    """Kill rank 1 of a run once: it ends by itself, with the bytes of a run that nobody disturbed."""
    job = subprocess.Popen([*launcher, str(recipe), "--accept-label-errors", "--out", str(out)], env={**os.environ, **environment})
    wait_for_steps(out, 6)
    os.kill(process_of_rank(1, out), signal.SIGKILL)
    assert job.wait(900) == 0
    assert outcome(out) == outcome(undisturbed)


def test_processes_that_start_again_do_not_read_what_those_before_them_wrote():
    """One store over all restarts, as torchrun keeps it."""
    shared = HashStore()
    first, second = ({"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": count} for count in "01")
    of_this_start(shared, first).set("address of rank 0", "a")
    assert of_this_start(shared, first).check(["address of rank 0"])
    assert not of_this_start(shared, second).check(["address of rank 0"])
    assert of_this_start(shared, {}) is shared  # the store of processes that share none
    several = {**first, "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    with pytest.raises(RecipeError, match="cannot restart processes on several nodes .* TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        of_this_start(shared, several)


class StoreOfRank0:
    """A store of three ranks that is gone once rank 1 has looked for the others; `here` have reported before."""

    def __init__(self, here: tuple[int, ...]) -> None:
        self.here, self.asked = {f"here/{k}" for k in here}, 0

    def set(self, key: str, value: str) -> None:
        self.here.add(key)

    def get(self, key: str) -> bytes:
        return f"process {key[-1]}".encode()

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        if self.asked > 3:
            raise DistNetworkError("connection closed")
        return keys[0] in self.here


@pytest.mark.parametrize(("here", "said"), [((0,), ["rank 2 (process 2)"]), ((2,), ["rank 0, or its machine"])])
def test_the_dead_rank_is_named_also_when_the_store_has_left_with_rank_0(monkeypatch, here, said):
    monkeypatch.setattr(process_group, "_store", StoreOfRank0(here))
    monkeypatch.setattr(process_group.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(process_group.dist, "get_world_size", lambda: 3)
    assert process_group.missing_ranks() == said


@pytest.mark.parametrize("error", [RuntimeError("[gloo] Connection closed by peer"), DistNetworkError("timed out")])
def test_a_connection_that_breaks_names_the_rank_that_is_gone(monkeypatch, error):
    """Wherever it breaks: in preflight, in a step, or while a state is saved."""
    monkeypatch.setattr(process_group, "missing_ranks", lambda: ["rank 1 (process 7 on node3)"])
    with pytest.raises(TrainingError, match=r"rank 1 \(process 7 on node3\) ended or does not answer"), missing_ranks_named(2):
        raise error
    with pytest.raises(RuntimeError, match="peer|timed out"), missing_ranks_named(1):  # alone, it is a defect
        raise error
    with pytest.raises(RuntimeError, match="size mismatch"), missing_ranks_named(2):
        raise RuntimeError("size mismatch")


def process_of_rank(rank: int, out: Path) -> int:
    """The process that trains in `out` as this rank of a torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if str(out).encode() in words and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"there is no rank {rank}")
