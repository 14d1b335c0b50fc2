"""Run as a script by the test of kills: pushes and promotes two versions each of two models, after checking what an earlier run left.

`python push_and_promote.py FOLDER RUN` with the registry in $MLIPFM_REGISTRY; all names and contents follow from RUN.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

ALIAS = "production"
NAMES = 2
BALLAST = "0" * 1_000_000  # an upload takes long enough to be hit


def names_of(run: str) -> list[str]:
    """Names of the models of a run."""
    return [f"kill-{run.replace('+', 'x')}-{k}" for k in range(NAMES)]


def audit(name: str) -> tuple[list[int], int | None]:
    """Version numbers and the version in production; an exception if anything that is registered cannot be had."""
    from mlipfm_interfaces.registry import pull
    from mlipfm_interfaces.registry_http import server
    from mlipfm_interfaces.registry_versions import list_models, list_versions

    versions = list_versions(server(), name)
    assert len({version.digest for version in versions}) == len(versions), f"{name}: one content twice"
    for version in versions:
        assert pull(f"mlipfm:{version}").name == f"{version.digest}.safetensors"
    promotion = dict(list_models(server())).get(name, {}).get(ALIAS)
    if promotion is None:
        return [version.number for version in versions], None
    digest = next(version.digest for version in versions if version.number == promotion.version)
    assert pull(f"{name}@{ALIAS}").stem == digest
    return [version.number for version in versions], promotion.version


def publish(name: str, number: int, folder: Path) -> None:
    """Save, measure, push and promote one version."""
    from mlipfm_interfaces.checkpoint import save_potential
    from mlipfm_interfaces.metrics import Metric
    from mlipfm_interfaces.registry_promote import promote
    from mlipfm_interfaces.registry_push import push
    from mlipfm_interfaces.result_records import make_record, write_record
    from mlipfm_interfaces.testing.closed_forms import LennardJones

    extra = {"licences": ["CC0-1.0"], "name": name, "number": number, "ballast": BALLAST}
    digest = save_potential(folder / "model.safetensors", LennardJones(), extra)
    figure = Metric("force MAE", "eV/Å", 0.02, (0.01, 0.03), 9, 9)
    for kind in ("evaluation", "check"):
        found = {"data": {"test": "ab" * 32}, "details": {"seen": {}, "errors": {"test": {"forces": {"a": [0.6, 27.0], "b": [0.5, 27.0]}}}}}
        time = datetime(2026, 1, 1, tzinfo=UTC)
        record = make_record(kind, digest, passed=True, metrics=[figure], created=time, **(found if kind == "evaluation" else {}))
        write_record(folder / f"{kind}.json", record)
    version = push(folder / "model.safetensors", name, [folder / "evaluation.json", folder / "check.json"])
    assert version.number == number
    promote(name, number, ALIAS)


def main(folder: Path, run: str) -> None:
    own = folder / run
    own.mkdir(exist_ok=True)
    os.environ["MLIPFM_CACHE"] = str(own / "cache")
    for name in names_of(run):
        numbers, chosen = audit(name)
        with open(own / "found.txt", "a") as file:  # how far the run before this one came, for who wants to know where kills hit
            file.write(f"{name} {numbers} {chosen}\n")
        for number in (1, 2):
            if chosen is None or chosen <= number:  # the command is repeated, as who saw it die would do
                publish(name, number, own)
        assert audit(name) == ([1, 2], 2), f"{name} began with {numbers} and {chosen}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
