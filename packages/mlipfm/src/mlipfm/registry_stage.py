"""The end of the path: every model in a registry, the best promoted on its records, and pulled back by its alias in another process.

The registry is a hub of the run itself, in its folder, with a cache of its own: what a user has pulled from registries of theirs is not touched.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import MlipfmError, RegistryError
from mlipfm_interfaces.result_records import Record, read_record

from . import hub
from .dynamics_stage import checkpoint_digest
from .kept import kept

#: Name of all models of a quickstart in its registry; each is a version. Alias of the best.
NAME, ALIAS = "quickstart", "production"

_PULL = "from mlipfm_interfaces.cli import main; main()"


def missing() -> str | None:
    """Why there can be no registry; None if there can."""
    if importlib.util.find_spec("mlflow") is None:
        return "mlflow is not installed (pip install 'mlipfm-train[mlflow]')"
    return None


def is_done(out: Path) -> bool:
    """An earlier run has come to the end of this stage."""
    return (out / "measured" / "registry.json").exists()


def start_hub(folder: Path) -> str | None:
    """Start the hub, or find the one that a killed run left; None, or why it does not start. Runs in a worker."""
    try:
        if hub.find(folder) is None:
            hub.start(folder, _free_port())
    except MlipfmError as error:
        return str(error)
    return None


def stop_hub(folder: Path) -> None:
    """End the hub, if it runs."""
    running = hub.find(folder)
    if running is not None:
        hub.stop(running)


def publish(out: Path, models: Mapping[str, str], by: str) -> dict[str, Any]:
    """Push all, promote the best, try what must not be promoted, pull the best back; the hub must run, unless this was done before.

    Args:
        models: name -> checkpoint. Their records are `evaluation-NAME.json` and `check-NAME.json` in `out/records`.
        by: name of the set whose force MAE decides.

    Returns:
        `versions` (model -> number), `best`, `promoted` (address -> digest), `pulled` (its digest after a pull), `refused` (model -> why).

    Raises:
        RegistryError: the hub does not run, or what was pulled is not what was pushed.
    """
    paths = {name: [out / "records" / f"{kind}-{name}.json" for kind in ("evaluation", "check")] for name in models}
    records = {name: [read_record(path) for path in pair] for name, pair in paths.items()}
    path = out / "measured" / "registry.json"
    identity = {name: [record["sha256"] for record in pair] for name, pair in records.items()} | {"by": by}

    def work() -> dict[str, Any]:
        running = hub.find(out / "hub")
        if running is None:
            path.unlink(missing_ok=True)  # of other models: the next run starts the hub
            raise RegistryError(
                "the hub has ended", where=str(out / "hub"), mend=f"see {out / 'hub' / 'server.log'}; run the command again"
            )
        with _environment(MLIPFM_REGISTRY=str(running.folder.resolve()), MLIPFM_CACHE=str(out / "hub" / "cache")):
            return _publish(models, paths, records, by, out)

    return dict(kept(path, identity, work))


def best_of(records: Mapping[str, list[Record]], by: str) -> str:
    """The model of lowest force MAE on the set `by`, among those whose check passed.

    Raises:
        RegistryError: none did.
    """
    errors = {name: force_error(pair[0], by) for name, pair in records.items() if pair[1]["passed"]}
    good = {name: error for name, error in errors.items() if error is not None}
    if not good:
        raise RegistryError("no model has passed its check", mend="see the records")
    return min(good, key=lambda name: good[name])


def force_error(record: Record, name: str) -> float | None:
    """Force MAE in meV/Å of a set in the record of an evaluation; None if it has none."""
    found = [m["value"] for m in record["metrics"] if m.get("key") == "force_mae" and m.get("set") == name and "element" not in m]
    return float(found[0]) if found and found[0] is not None else None


def _publish(
    models: Mapping[str, str], paths: Mapping[str, list[Path]], records: Mapping[str, list[Record]], by: str, out: Path
) -> dict[str, Any]:
    from mlipfm_interfaces.registry_promote import promote
    from mlipfm_interfaces.registry_push import push

    versions = {name: push(model, NAME, paths[name]).number for name, model in models.items()}
    best = best_of(records, by)
    promoted = promote(NAME, versions[best], ALIAS)
    refused = {}
    for name in models:
        if not records[name][1]["passed"]:
            try:
                promote(NAME, versions[name], "candidate")
                refused[name] = "was not refused, although its check failed"
            except RegistryError as error:
                refused[name] = str(error)
    pulled = _pull(out)
    if pulled != promoted.digest:
        raise RegistryError(f"{promoted.digest} was promoted, {pulled} was pulled", where=f"{NAME}@{ALIAS}")
    return {"versions": versions, "best": best, "promoted": {f"{NAME}@{ALIAS}": promoted.digest}, "pulled": pulled, "refused": refused}


def _pull(out: Path) -> str:
    """Digest of what another process gets for the alias; with an empty cache, so that it has to ask the hub."""
    target = out / "hub" / "pulled.safetensors"
    target.unlink(missing_ok=True)
    line = [sys.executable, "-c", _PULL, "pull", f"{NAME}@{ALIAS}", "--out", str(target)]
    environment = os.environ | {"MLIPFM_CACHE": str(out / "hub" / "cache-of-the-puller")}
    answer = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if answer.returncode:
        raise RegistryError(f"pulling it back failed: {answer.stderr.strip()}", where=f"{NAME}@{ALIAS}")
    return checkpoint_digest(target)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
