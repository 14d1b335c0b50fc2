"""The quickstart's registry: every model pushed, the best promoted on its records, and pulled back by its alias in another process."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.result_records import make_record, read_record, write_record

from . import local_hub

#: Name of all models of a quickstart in its registry, each of which is a version; alias of the best.
NAME, ALIAS = "quickstart", "production"


def missing() -> str | None:
    """Return why there can be no registry; None if there can."""
    return None if importlib.util.find_spec("mlflow") else "mlflow is not installed (pip install 'mlipfm-train[mlflow]')"


def start_hub(folder: Path) -> None:
    """Start the hub in the folder, unless one that a killed run left is there.

    Raises:
        RegistryError: it does not start.
    """
    if local_hub.find(folder) is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        local_hub.start(folder, port)


def stop_hub(folder: Path) -> None:
    """End the hub, if it runs."""
    running = local_hub.find(folder)
    if running is not None:
        local_hub.stop(running)


def publish(models: Sequence[str], best: str) -> None:
    """Push all models with their records, promote the best, try what must not be promoted, pull the best back; write `records/registry.json`.

    Runs in a worker, in the folder of the run, whose hub must run; the cache is one of the run, so that what a user has pulled is not touched.

    Raises:
        RegistryError: the hub does not run, or what was pulled is not what was pushed.
    """
    from mlipfm_interfaces.registry_promote import promote
    from mlipfm_interfaces.registry_push import push

    os.environ |= {"MLIPFM_REGISTRY": str(Path("hub").resolve()), "MLIPFM_CACHE": str(Path("hub/cache").resolve())}
    pushed = {
        name: push(f"{name}/best.safetensors", NAME, [Path(f"records/{kind}-{name}.json") for kind in ("evaluation", "check")])
        for name in models
    }
    promoted = promote(NAME, pushed[best].number, ALIAS)
    said = [f"The registry of this run keeps {len(pushed)} models (`mlipfm hub up --dir hub` starts it); {NAME}@{ALIAS} is {best}."]
    for name, version in pushed.items():
        if not read_record(f"records/check-{name}.json")["passed"]:
            try:
                promote(NAME, version.number, "candidate")
            except RegistryError as error:
                said.append(f"{name} is refused: {error.what}.")
            else:
                raise RegistryError("was promoted, although its check failed", where=f"{NAME}/{version.number}")
    if _pulled() != promoted.digest:
        raise RegistryError(f"{promoted.digest} was promoted, another model was pulled", where=f"{NAME}@{ALIAS}")
    details = {"benchmark": "registry", "statements": said, "versions": {name: version.number for name, version in pushed.items()}}
    write_record("records/registry.json", make_record("evaluation", promoted.digest, passed=True, metrics=[], details=details))


def _pulled() -> str:
    """Return the digest of what another process gets for the alias; with an empty cache, so that it has to ask the hub."""
    from mlipfm_interfaces.checkpoint import load_model

    target = Path("hub/pulled.safetensors")
    target.unlink(missing_ok=True)
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "pull", f"{NAME}@{ALIAS}", "--out", str(target)]
    environment = os.environ | {"MLIPFM_CACHE": str(Path("hub/cache-of-the-puller").resolve())}
    answer = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if answer.returncode:
        raise RegistryError(f"pulling it back failed: {answer.stderr.strip()}", where=f"{NAME}@{ALIAS}")
    return str(load_model(target)[1]["digest"])
