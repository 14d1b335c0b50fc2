"""Environments for foreign models: one virtual environment per set of requirements, under the cache folder, made on first use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import ForeignModelError
from .files import atomic_write, cache_dir, canonical_json, lock

#: Seconds to wait for another process that is making the same environment.
PATIENCE = 3600.0

#: pip's own defaults for a network that is not there (5 tries with growing pauses) keep the user waiting for a minute and a half.
_PIP = ("--disable-pip-version-check", "--no-input", "--retries", "1")


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of the environment with `requirements` and numpy; made if it is not there.

    An environment counts only with the marker that is written last, so one that was cut short is made anew. It is made with this Python's venv
    and pip, which read pip's configuration (index, wheel folders); with uv where this Python has no pip to give.

    Raises:
        ForeignModelError: it could not be made (no network, no such package), with the last line of the installer; the log file is named.
    """
    wanted, folder = sorted({"numpy", *requirements}), environment_folder(name, requirements)
    root = folder.parent
    root.mkdir(exist_ok=True)
    python, marker = folder / "bin" / "python", folder / "complete.json"
    if not marker.exists():
        with lock(root / f"{folder.name}.lock", timeout=PATIENCE), _announced(name):
            if not marker.exists():
                shutil.rmtree(folder, ignore_errors=True)
                _make(name, folder, wanted, root / f"{folder.name}.log")
                atomic_write(marker, canonical_json({"requirements": wanted}))
    return python


def environment_folder(name: str, requirements: Sequence[str]) -> Path:
    """Where the environment with `requirements` is, or will be; `complete.json` in it says that it is made."""
    wanted = sorted({"numpy", *requirements})
    digest = hashlib.sha256(canonical_json([wanted, sys.version_info[:3], os.path.realpath(sys.executable)])).hexdigest()[:16]
    return cache_dir() / "foreign" / f"{name}-{digest}"


def _make(name: str, folder: Path, wanted: list[str], log: Path) -> None:
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    lines = [[sys.executable, "-m", "venv", "--clear", str(folder)], [str(python), "-m", "pip", "install", *_PIP, *wanted]]
    if uv is not None and not _has_pip():
        lines = [[uv, "venv", "--quiet", "--python", sys.executable, str(folder)], [uv, "pip", "install", "--python", str(python), *wanted]]
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    with log.open("wb") as file:
        for line in lines:
            if subprocess.run(line, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env, check=False).returncode:
                break
        else:
            return
    shutil.rmtree(folder, ignore_errors=True)
    said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()] or ["no reason given"]
    errors = [text for text in said if "error" in text.lower()] or said
    raise ForeignModelError(
        f"the environment of {name!r} could not be made: {errors[-1].strip()}",
        where=str(log),
        hint=f"it needs {', '.join(wanted)} from a package index, or from a folder of wheels named in PIP_FIND_LINKS",
    )


def _has_pip() -> bool:
    """Return whether `venv` can put a pip into a new environment (Debian's python3 without python3-venv cannot)."""
    import importlib.util

    return importlib.util.find_spec("ensurepip") is not None


@contextlib.contextmanager
def _announced(name: str) -> Iterator[None]:
    """A line while an environment is made, which takes minutes: packages with torch are gigabytes."""
    if not sys.stderr.isatty():
        print(f"making the environment of {name}, which is installed once and may be gigabytes", file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"making the environment of {name} (first use)"):
        yield
