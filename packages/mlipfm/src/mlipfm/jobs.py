"""Jobs of the quickstart: commands of mlipfm and a few calls, in lanes that run side by side; a job that is done is not done again."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class Job:
    """One piece of work in the folder of a quickstart.

    Attributes:
        name: of its log and of its bar. makes: file that is there when it is done.
        command: words after `mlipfm`; empty if `call`, an importable function of `arguments`, does the work.
        steps: of a training, for its bar.
    """

    name: str
    makes: str
    command: tuple[str, ...] = ()
    call: Callable[..., None] | None = None
    arguments: tuple[Any, ...] = ()
    steps: int = 1

    def __str__(self) -> str:
        return f"$ mlipfm {shlex.join(self.command)}" if self.call is None else f"# {self.name}"

    @property
    def identity(self) -> str:
        """What is done: a job that is changed is done again."""
        return f"{self} {self.arguments}"


def run_lanes(folder: Path, lanes: Sequence[Sequence[Job]], pool: Executor, console: Console) -> None:
    """Run lanes side by side, the jobs of each in order, and print every command when it starts.

    Raises:
        MlipfmError: a command failed; its last line, and where its log is. Whatever a call raises.
    """
    todo = [job for lane in lanes for job in lane if not _is_done(folder, job)]
    for job in todo:
        _log(folder, job).unlink(missing_ok=True)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        shown: dict[str, Any] = {}
        futures = [pool.submit(_run_lane, folder, [job for job in lane if job in todo]) for lane in lanes]
        try:
            running = True
            while running:
                finished, waiting = wait(futures, timeout=0.3, return_when=FIRST_EXCEPTION)
                running = bool(waiting) and not any(future.exception() for future in finished)
                for job in [job for job in todo if _log(folder, job).exists()]:
                    if job.name not in shown:
                        shown[job.name] = bars.add_task(job.name, total=job.steps)
                        console.print(str(job), style="dim", highlight=False, soft_wrap=True, markup=False)
                    bars.update(shown[job.name], completed=job.steps if _is_done(folder, job) else _steps(folder / job.makes))
            for future in futures:
                future.result()
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()  # no Ctrl-C reaches the workers; what they had begun goes on in the next run
            raise


def seconds_of(folder: Path, clock: str = "seconds") -> Mapping[str, float]:
    """Return the seconds that each finished job took: `seconds` on the wall, or `cpu`, which other processes lengthen less."""
    return {path.stem: json.loads(path.read_bytes())[clock] for path in sorted((folder / "log").glob("*.json"))}


def _run_lane(folder: Path, jobs: Sequence[Job]) -> None:
    """Run jobs in the folder, with their output in their logs. Runs in a worker."""
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    for job in jobs:
        start, cpu = time.perf_counter(), time.process_time()
        log = _log(folder, job)
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as out, redirect_stdout(out), redirect_stderr(out):
            _run(job, log)
        done = {"job": job.identity, "seconds": round(time.perf_counter() - start, 1), "cpu": round(time.process_time() - cpu, 1)}
        atomic_write(log.with_suffix(".json"), json.dumps(done).encode())


def _run(job: Job, log: Path) -> None:
    from mlipfm_interfaces.cli import main

    if job.call is not None:
        job.call(*job.arguments)
        return
    try:
        main(job.command)
    except SystemExit as end:
        sys.stdout.flush()
        broken = end.code == 1 and job.command[0] == "check" and Path(job.makes).exists()  # a model that breaks a rule is a result
        if end.code not in (0, None) and not broken:
            said = (log.read_text(errors="replace").splitlines() or ["no output"])[-1]
            hint = "run `mlipfm quickstart` again to go on"
            raise MlipfmError(f"`{str(job)[2:]}` failed: {said.removeprefix('mlipfm: ')}", where=str(log), hint=hint) from None


def _is_done(folder: Path, job: Job) -> bool:
    try:
        return (
            bool(json.loads(_log(folder, job).with_suffix(".json").read_bytes())["job"] == job.identity) and (folder / job.makes).exists()
        )
    except (OSError, ValueError, KeyError):
        return False


def _log(folder: Path, job: Job) -> Path:
    return folder / "log" / f"{job.name}.log"


def _steps(model: Path) -> int:
    """Return the steps that the run of this model has logged, 0 if it is no run."""
    log = model.parent / "events.jsonl"
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = re.findall(rb'"kind":"step","step":([0-9]+)', file.read())
    return int(found[-1]) + 1 if found else 0
