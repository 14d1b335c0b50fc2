"""`strategies`: how far training on several processes is from one process, case by case: the table in the README of mlipfm-train.

Two and three real ranks with unequal shares of six systems, and runs that another number of ranks takes over. FOLDER keeps what the ranks computed;
what is there already is not computed again.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.figures import ROOT

#: Runs the cases as one rank of a strategy; also in the tests.
SCRIPT = ROOT / "packages" / "mlipfm-train" / "tests" / "strategy_cases.py"
CASES = (
    "forces", "direct forces", "stress", "hessian row", "hvp", "two views", "auxiliary head", "gathered", "disjoint levels", "labels on one rank",
    "clipped", "overflow on one rank", "masks", "hidden elements", "encoded forces",
)  # fmt: skip
#: Computed by a start of their own, which CI does not make. "momentum" leaves the training states of `resumed`.
MORE = ("uneven batches", "mixed losses", "heads", "momentum")
#: Numbers of processes before and after a resume. The run that begins with one process is `single`, with its training state.
RESUMES = ((1, 2), (1, 3), (2, 1), (2, 3), (3, 2))
SHARDED = ("deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
#: What `graph-parallel` refuses, by name: quantities and features of all atoms, which no rank has.
WHOLE = ("hessian row", "hvp", "labels on one rank", "auxiliary head", "gathered", "hidden elements", "encoded forces", "heads")
#: Columns of the table. DeepSpeed refuses float64 by name.
COLUMNS = [*((s, d) for d in ("float64", "float32") for s in ("ddp", "fsdp2", "graph-parallel")), *((s, "float32") for s in SHARDED)]
Results = list[dict[str, torch.Tensor]]


def results(folder: Path, strategy: str, dtype: str, ranks: int) -> Results:
    """Parameters and terms of all of `CASES` on every rank."""
    return _results(folder / f"{strategy}-{dtype}-{ranks}", strategy, dtype, ranks, cases_of(strategy, CASES))


def more_results(folder: Path, strategy: str, dtype: str, ranks: int) -> Results:
    """Parameters and terms of all of `MORE` on every rank."""
    return _results(_folder_of_more(folder, strategy, dtype, ranks), strategy, dtype, ranks, cases_of(strategy, MORE))


def cases_of(strategy: str, cases: Sequence[str]) -> list[str]:
    """Those of `cases` that the strategy computes."""
    return [case for case in cases if strategy != "graph-parallel" or case not in WHOLE]


def resumed(folder: Path, strategy: str, dtype: str, before: int, after: int) -> Results:
    """Parameters and terms on every rank of the second half of the case "momentum", whose first half `before` other ranks have done."""
    starts = {n: _folder_of_more(folder, "single" if n == 1 else strategy, dtype, n) for n, m in RESUMES if m == after}
    for n in starts:
        more_results(folder, "single" if n == 1 else strategy, dtype, n)
    names = {n: f"begun by {start / 'state'}" for n, start in starts.items()}
    found = _results(folder / f"{strategy}-{dtype}-{after}-resumed", strategy, dtype, after, tuple(names.values()))
    prefix = f"{names[before]}/"
    return [{"momentum/" + key.removeprefix(prefix): value for key, value in rank.items() if key.startswith(prefix)} for rank in found]


def _folder_of_more(folder: Path, strategy: str, dtype: str, ranks: int) -> Path:
    return folder / f"{strategy}-{dtype}-{ranks}-more"


def _results(folder: Path, strategy: str, dtype: str, ranks: int, cases: Sequence[str]) -> Results:
    files = [folder / f"rank{rank}.safetensors" for rank in range(ranks)]
    if not all(path.exists() for path in files):
        _compute(folder, strategy, dtype, ranks, cases)
    return [safetensors.torch.load_file(path) for path in files]


def _compute(folder: Path, strategy: str, dtype: str, ranks: int, cases: Sequence[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "error", str(SCRIPT), strategy, dtype, str(folder), *cases]
    processes = []
    for rank in range(ranks):
        group = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        group = {} if strategy == "single" else group
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **group}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, stderr = process.communicate(timeout=900)
        assert process.returncode == 0, stderr[-3000:]


def deviation(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], case: str) -> float:
    """Norm of the difference of the parameters after the steps, relative to the norm of their change."""
    after = [key for key in want if key.startswith(f"{case}/after/")]
    before = [key.replace("/after/", "/before/") for key in after]
    change = flat(want, after) - flat(want, before)
    return float((flat(got, after) - flat(want, after)).norm() / change.norm())


def flat(source: dict[str, torch.Tensor], keys: list[str]) -> torch.Tensor:
    """The tensors of `keys` as one vector of float64."""
    return torch.cat([source[key].double().flatten() for key in keys])


def deviations(folder: Path, strategies: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The worst deviation of all ranks, of every case with two and with three processes; of some strategies only, if they are named."""
    columns = [(s, d) for s, d in COLUMNS if not strategies or s in strategies]
    single = {d: results(folder, "single", d, 1)[0] | more_results(folder, "single", d, 1)[0] for d in sorted({d for _, d in columns})}
    same = [
        {"strategy": s, "dtype": d, "ranks": n, "case": c, "deviation": max(deviation(r, single[d], c) for r in made(folder, s, d, n))}
        for s, d in columns
        for n in (2, 3)
        for made, cases in ((results, CASES), (more_results, MORE))
        for c in cases_of(s, cases)
    ]
    other = [
        {
            "strategy": s,
            "dtype": d,
            "ranks": m,
            "case": f"resumed, {n} to {m} processes",
            "deviation": max(deviation({**single[d], **rank}, single[d], "momentum") for rank in resumed(folder, s, d, n, m)),
        }
        for s, d in columns
        for n, m in RESUMES
    ]
    return [*same, *other]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown: the worst of two and three processes."""
    columns = list(dict.fromkeys((line["strategy"], line["dtype"]) for line in found))
    lines = [f"| case | {' | '.join(f'{s}, {d}' for s, d in columns)} |", "|---|" + "---|" * len(columns)]
    for case in dict.fromkeys(line["case"] for line in found):
        worst = {(x["strategy"], x["dtype"], x["case"]): x["deviation"] for x in sorted(found, key=lambda x: x["deviation"])}
        cells = [worst.get((*column, case)) for column in columns]
        if any(cell is not None for cell in cells):
            lines.append(f"| {case} | {' | '.join('-' if cell is None else f'{cell:.0e}' for cell in cells)} |")
    return "\n".join(lines)
