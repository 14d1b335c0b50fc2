"""Every strategy takes the same steps as one process: two real ranks against one, whatever is trained."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from bench.strategies import CASES, COLUMNS, MORE, RESUMES, SHARDED, WHOLE, cases_of, deviation, flat, more_results, results, resumed
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import RecipeError, TrainingError
from mlipfm_interfaces.plugins import load
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.step import Step

CLIP = 0.2  # as in the script
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """`run(strategy, dtype, ranks)` is what every rank has after all cases, computed in one start of the ranks and remembered."""
    return Ranks(tmp_path_factory.mktemp("ranks"))


class Ranks:
    """See the fixture `run`; `more` has the cases that CI does not compute, `resumed` the second half of runs that another number of ranks began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, strategy: str, dtype: str, ranks: int = 2) -> list[dict[str, torch.Tensor]]:
        return results(self.folder, strategy, dtype, 1 if strategy == "single" else ranks)

    def more(self, strategy: str, dtype: str, ranks: int = 2) -> list[dict[str, torch.Tensor]]:
        return more_results(self.folder, strategy, dtype, 1 if strategy == "single" else ranks)

    def resumed(self, strategy: str, dtype: str, before: int, after: int) -> list[dict[str, torch.Tensor]]:
        return resumed(self.folder, strategy, dtype, before, after)


def check_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], case: str, tolerance: float) -> None:
    """The change of the parameters agrees relative to its norm, and so does every term of every step."""
    before = [key for key in want if key.startswith(f"{case}/before/")]
    assert torch.equal(flat(got, before), flat(want, before))
    after = [key.replace("/before/", "/after/") for key in before]
    assert (flat(want, after) - flat(want, before)).norm() > 1e-3
    assert deviation(got, want, case) <= tolerance
    assert {key for key in got if key.startswith(f"{case}/")} == {key for key in want if key.startswith(f"{case}/")}
    for key in (key for key in want if key.startswith(f"{case}/term/")):
        assert float(got[key]) == pytest.approx(float(want[key]), rel=tolerance, abs=1e-12, nan_ok=True), key


def check_all(run, strategy: str, dtype: str, ranks: int, case: str) -> None:
    (single,) = run("single", dtype)
    for rank in run(strategy, dtype, ranks):
        check_equal(rank, single, case, TOLERANCE[dtype])


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.full)])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(run, strategy, case, dtype):
    check_all(run, strategy, dtype, 2, case)


@pytest.mark.ci
@pytest.mark.parametrize("case", cases_of("graph-parallel", CASES))
def test_two_ranks_that_share_every_structure_equal_one_process(run, case):
    check_all(run, "graph-parallel", "float64", 2, case)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("strategy", "case"), [(s, c) for s in ("ddp", "fsdp2", "graph-parallel") for c in cases_of(s, CASES)])
def test_three_ranks_equal_one_process(run, strategy, case, dtype):
    check_all(run, strategy, dtype, 3, case)


@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("strategy", SHARDED)
@pytest.mark.parametrize("case", CASES)
def test_ranks_of_deepspeed_equal_one_process(run, strategy, case, ranks):
    pytest.importorskip("deepspeed")
    check_all(run, strategy, "float32", ranks, case)


@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("strategy", "dtype"), COLUMNS)
@pytest.mark.parametrize("case", MORE)
def test_ranks_equal_one_process_in_what_ci_does_not_run(run, case, strategy, dtype, ranks):
    if strategy == "graph-parallel" and case in WHOLE:
        pytest.skip("refused by name")
    if strategy in SHARDED:
        pytest.importorskip("deepspeed")
    check_all(run.more, strategy, dtype, ranks, case)


@pytest.mark.full
@pytest.mark.parametrize(("before", "after"), RESUMES)
@pytest.mark.parametrize(("strategy", "dtype"), COLUMNS)
def test_another_number_of_ranks_goes_on_as_one_process_would(run, strategy, dtype, before, after):
    """Parameters and momentum are saved in the middle by some ranks and loaded by others, whose shards begin elsewhere."""
    if strategy in SHARDED:
        pytest.importorskip("deepspeed")
    (single,) = run.more("single", dtype)
    for rank in run.resumed(strategy, dtype, before, after):
        assert deviation({**single, **rank}, single, "momentum") <= TOLERANCE[dtype]
        terms = {key for key in single if key.startswith(("momentum/term/3/", "momentum/term/4/", "momentum/term/5/"))}
        assert {key for key in rank if key.startswith("momentum/term/")} == terms
        for key in terms:
            assert float(rank[key]) == pytest.approx(float(single[key]), rel=TOLERANCE[dtype], abs=1e-12), key


@pytest.mark.parametrize("strategy", SHARDED)
def test_deepspeed_refuses_float64_by_name(strategy):
    """Its flat partitions are float32: a potential of float64 would be trained in another precision than the recipe says."""
    config = {"elements": ["H"], "levels": ["a"], "backbone": {"channels": 4, "layers": 1, "cutoff": 3.0}}
    bare = object.__new__(load("strategies", strategy))
    bare.check(Step(build("painn", {**config, "dtype": "float32"}), {"energy-force": EnergyForce()}))
    with pytest.raises(
        RecipeError, match="DeepSpeed keeps parameters in float32, this potential has float64; use dtype: float32, or .*fsdp2"
    ):
        bare.check(Step(build("painn", {**config, "dtype": "float64"}), {"energy-force": EnergyForce()}))


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


@pytest.mark.ci
@pytest.mark.parametrize(("rank", "said"), [("0", "1/2 clients joined"), ("1", "timed out|refused")])
def test_a_rank_that_nobody_meets_says_so_in_one_line(monkeypatch, rank, said):
    """Rank 0 waits for a second one; rank 1 finds nobody at the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=f"rank {rank} of 2 did not meet the others at 127.0.0.1:{port}: .*({said})") as caught:
        load("strategies", "ddp")(timeout=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.ci)])
def test_strategies_of_several_processes_need_torchrun(strategy):
    with pytest.raises(RecipeError, match=f"strategy '{strategy}' needs several processes; start it with `torchrun"):
        load("strategies", strategy)()
