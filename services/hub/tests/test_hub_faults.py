"""Kills: a hub that is ended at any moment of a push or a promotion has whole versions, aliases that mean one, and an unbroken log."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlipfm_hub import audit
from mlipfm_hub.blobs import LocalBlobs
from mlipfm_hub.services import open_services
from mlipfm_hub.settings import Settings
from mlipfm_hub.trials import Trials
from mlipfm_interfaces.asgi import Refused
from mlipfm_interfaces.checkpoint_file import verify_checkpoint


def work(folder: Path, models: list[tuple[bytes, list[dict]]], first: int) -> None:
    """Push and promote all models from the one with the number `first` on, in chunks of a third, and again from the start for ever."""
    services = open_services(Settings(folder))
    while True:
        for k in range(first, first + len(models)):
            data, records = models[k % len(models)]
            sha256 = hashlib.sha256(data).hexdigest()
            state = services.uploads.start("owner", sha256, len(data))
            while not state["complete"]:
                part = data[state["offset"] : state["offset"] + len(data) // 3 + 1]
                state = services.uploads.add("owner", sha256, state["offset"], len(data), part)
            version, _ = services.registry.push(f"model-{k % 3}", sha256, records, "owner")
            back = (services.registry.aliases(version["name"]).get("production") or {"version": 0})["version"] > version["number"]
            services.registry.promote(version["name"], version["number"], "production", "again from the start" if back else "", "owner")


def faults(folder: Path) -> list[str]:
    """What is wrong with a hub that was killed; empty if nothing is."""
    services = open_services(Settings(folder))
    registry, found = services.registry, []
    assert isinstance(services.blobs, LocalBlobs)
    with services.database.reading() as connection:
        if connection.exec_driver_sql("PRAGMA integrity_check").scalar() != "ok":
            found.append("the database is damaged")
        if audit.verify(connection) is not None:
            found.append("the log is broken")
    for name in registry.names():
        versions = registry.versions(name)
        if [version["number"] for version in versions] != list(range(1, len(versions) + 1)):
            found.append(f"{name} lacks a version")
        if len({version["digest"] for version in versions}) != len(versions):
            found.append(f"{name} has one content twice")
        for version in versions:
            if verify_checkpoint(services.blobs.root / version["file"][:2] / version["file"])["digest"] != version["digest"]:
                found.append(f"{name}/{version['number']} has another file")
            if len(registry.records_of(version)) != 2:
                found.append(f"{name}/{version['number']} lacks a record")
        for alias, promotion in registry.aliases(name).items():
            if not registry.stands_by(name, alias, promotion)[0]:
                found.append(f"{name}@{alias} means nothing")
        sequences = [row["sequence"] for row in registry.history(name)]
        if sorted(sequences) != list(range(1, len(sequences) + 1)):
            found.append(f"{name} lost a promotion")
    services.database.engine.dispose()
    return found


@pytest.mark.parametrize("kills", [pytest.param(8, marks=pytest.mark.ci), pytest.param(100, marks=pytest.mark.full)])
def test_killed_at_any_moment_a_hub_is_whole(kills, tmp_path, make_model):
    made = [make_model(k, 0.5) for k in range(9)]  # of one error: no order of versions is refused
    models = [(model.data, model.records) for model in made]
    rng = random.Random(kills)
    for kill in range(kills):
        process = multiprocessing.get_context("fork").Process(target=work, args=(tmp_path / "hub", models, kill % 9), daemon=True)
        process.start()
        time.sleep(0.05 + rng.uniform(0, 0.8))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it did not end by an error of its own
        assert faults(tmp_path / "hub") == [], f"after kill {kill}"
    services = open_services(Settings(tmp_path / "hub"))
    pushed = sum(len(services.registry.versions(name)) for name in services.registry.names())
    moved = sum(len(services.registry.history(name)) for name in services.registry.names())
    services.database.engine.dispose()
    print(json.dumps({"kills": kills, "versions": pushed, "promotions": moved, "faults": 0}))
    assert pushed >= 3
    assert moved >= 3


def test_a_model_whose_bytes_have_changed_in_a_foreign_store_is_not_tried(tmp_path: Path) -> None:
    class Store:
        """A store that is no folder of this machine."""

        def read(self, sha256: str, first: int = 0) -> Iterator[bytes]:
            yield b"other "
            yield b"bytes"

    good = hashlib.sha256(b"other bytes").hexdigest()
    trials, registry = Trials(tmp_path), SimpleNamespace(blobs=Store())
    assert trials._path(registry, good).read_bytes() == b"other bytes"  # type: ignore[arg-type]
    with pytest.raises(Refused, match="other bytes under this model"):
        trials._path(registry, "0" * 64)  # type: ignore[arg-type]
    assert [path.stem for path in tmp_path.iterdir()] == [good]
