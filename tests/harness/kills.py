"""kill -9 at random moments: is the resumed result that of an undisturbed run?

The command is run once undisturbed, which gives the reference and the time it takes. Then, for each moment, it is started anew, killed, and run to
its end. Moments are stratified: one in each n-th of the undisturbed time, so that start, work and the last step are all hit. A run that is over
before its moment comes (the machine was busier when the time was taken) is repeated under another name with the shorter time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Stands in a command for a name that differs from run to run: "whole" for the undisturbed one, then "0", "1", ...
RUN = "{run}"

#: Seconds that processes have to notice that the first of them was killed.
PATIENCE = 10.0


@dataclass(frozen=True)
class Outcome:
    """One kill.

    Attributes:
        run: what stood for `{run}` in the command. moment: seconds after the start.
        whole_group: all processes were killed at once; if False, only the first, and the others had to end by themselves.
        status: of the run to the end afterwards; 0 if it succeeded. stderr: of that run.
        orphans: processes of the killed run that were still there ten seconds later.
    """

    run: str
    moment: float
    whole_group: bool
    status: int
    stderr: str
    orphans: tuple[int, ...]


def kill_at_random_moments(
    command: Sequence[str], env: Mapping[str, str], moments: int, seed: int, *, timeout: float = 300.0
) -> list[Outcome]:
    """Run `command` undisturbed, then `moments` times with a kill and a resumption. Kills by turns all processes or the first alone.

    Args:
        command: `{run}` in any word is replaced by the name of the run, so that each works in a folder of its own.
        env: added to the environment of this process.
        timeout: seconds for one run to the end.

    Raises:
        RuntimeError: the undisturbed run failed; with its stderr.
    """
    start = time.monotonic()
    whole = _run(command, env, "whole", timeout)
    duration = time.monotonic() - start
    if whole.returncode:
        raise RuntimeError(f"the undisturbed run failed with status {whole.returncode}: {whole.stderr}")
    rng, outcomes = random.Random(seed), list[Outcome]()
    for k in range(moments):
        part, run = (k + rng.random()) / moments, str(k)
        while (outcome := _disturb(command, env, run, part * duration, k % 2 == 0, timeout)) is None:
            duration, run = 0.8 * duration, f"{run}+"
        outcomes.append(outcome)
    return outcomes


def same_bytes(a: Path, b: Path) -> list[str]:
    """Names of the files that two folders do not have in common, or have with different content; empty if they are equal."""
    first, second = ({path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (a, b))
    differing = [name for name in first.keys() & second.keys() if first[name].read_bytes() != second[name].read_bytes()]
    return sorted(map(str, [*(first.keys() ^ second.keys()), *differing]))


def _disturb(command: Sequence[str], env: Mapping[str, str], run: str, moment: float, whole_group: bool, timeout: float) -> Outcome | None:
    """Start, kill, run to the end; None if it was over before the moment came."""
    words = [word.replace(RUN, run) for word in command]
    # a session of its own, so that the group is those it started and no one else
    process = subprocess.Popen(
        words, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        return None
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    orphans = _wait_for_group(process.pid)
    end = _run(command, env, run, timeout)
    return Outcome(run, moment, whole_group, end.returncode, end.stderr, orphans)


def _run(command: Sequence[str], env: Mapping[str, str], run: str, timeout: float) -> subprocess.CompletedProcess[str]:
    words = [word.replace(RUN, run) for word in command]
    return subprocess.run(
        words, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False
    )


def _wait_for_group(group: int) -> tuple[int, ...]:
    """Processes of a group that are still there after `PATIENCE` seconds; those are killed."""
    deadline = time.monotonic() + PATIENCE
    while members := _members(group):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            return members
        time.sleep(0.02)
    return ()


def _members(group: int) -> tuple[int, ...]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, _, its_group = entry.read_text().rpartition(") ")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(entry.parent.name))
    return tuple(found)
