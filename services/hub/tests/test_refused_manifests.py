"""Models and records with entries of another kind: refused when they are pushed, and never an error on the pages of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlipfm_interfaces.checkpoint_file import load_checkpoint, save_checkpoint
from mlipfm_interfaces.files import canonical_json


def edited(model: Any, folder: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A model whose manifest was changed and hashed anew, as somebody who means harm would."""
    (folder / "given.safetensors").write_bytes(model.data)
    manifest, tensors = load_checkpoint(folder / "given.safetensors")
    change(manifest)
    save_checkpoint(folder / "edited.safetensors", tensors, manifest)
    return (folder / "edited.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["spec"].update(levels=[1]), "spec.levels"),
        (lambda m: m.pop("spec"), "spec"),
        (lambda m: m["spec"].update(outputs=3), "spec.outputs"),
        (lambda m: m["spec"].update(elements=[0]), "spec.elements"),
        (lambda m: m["spec"].update(kind=[]), "spec.kind"),
        (lambda m: m["spec"].update(interaction_range="far"), "spec.interaction_range"),
        (lambda m: m.update(versions=[1]), "versions"),
        (lambda m: m.update(extra=[1]), "extra"),
        (lambda m: m["extra"].update(data=[{"structures": "many"}]), "extra.data"),
    ],
)
def test_a_manifest_that_no_page_can_show_is_refused_at_the_push(
    hub: Any, make_model: Callable[..., Any], tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    """One such version made the front page an error 500 for everybody."""
    good = make_model()
    assert hub.push("good", good.data, good.records)[0] in (200, 201)
    status, answer = hub.push("bad", edited(good, tmp_path, change))
    assert status == 422
    assert named in answer["message"]
    for page in ("/", "/leaderboard?all=true", "/models/good/1"):
        assert hub.ask("GET", page)[0] == 200


@pytest.mark.parametrize("wrong", [{"set": ["x"]}, {"set": {"x": 1}}, "speed"])
def test_a_record_that_no_page_can_show_is_refused_at_the_push(hub: Any, make_model: Callable[..., Any], wrong: Any) -> None:
    good = make_model()
    record = dict(good.evaluation)
    if wrong == "speed":
        record["details"] = record["details"] | {"microseconds_per_atom": 10**400}
    else:
        record["metrics"] = [record["metrics"][0] | wrong]
    record["sha256"] = hashlib.sha256(canonical_json({k: v for k, v in record.items() if k != "sha256"})).hexdigest()
    status, answer = hub.push("bad", good.data, [record])
    assert status in (400, 415, 422), answer
    assert hub.ask("GET", "/")[0] == 200
