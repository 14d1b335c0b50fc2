"""A checkpoint whose configuration asks for more than its tensors hold is refused at once, whatever part of it grows."""

from __future__ import annotations

import json
import resource
import struct
import time

import pytest
import torch
from mlipfm_interfaces.checkpoint import build, load_checkpoint, load_model, save_checkpoint, save_potential
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_models.combinations import own_backbones

SMALL = {"channels": 16, "cutoff": 3.0}
BASE = {"elements": ["H", "O"], "levels": ["pbe"]}

#: Entry of the configuration -> values that no file of a few kilobytes can mean.
HOSTILE = {
    "backbone.channels": (16_000, 10**9, 2**70, -1, 1e300),
    "backbone.layers": (256, 10**9),
    "backbone.attention_layers": (256, 10**9),
    "backbone.radial": (1024, 10**9),
    "backbone.shells": (1024, 10**9),
    "backbone.axis": (16_000, 10**9),
    "backbone.heads": (10**9,),
    "backbone.expansion": (16_000, 10**9),
    "backbone.degree": (16, 10**6),
    "backbone.embedding": ([16_000, 16_000], [64] * 50_000, [64] * 200_000),
    "backbone.zetas": ([4] * 50_000,),
    "backbone.cutoff": (1e6, 1e300),
    "elements": (["H"] * 200_000, [f"X{k}" for k in range(10)], list(range(1, 20_000))),
    "levels": ([f"level-{k}" for k in range(20_000)], ["x" * 10**6]),
    "conditions": (["total_charge"] * 50_000,),
    "heads": ({f"h{k}": {} for k in range(10_000)}, {"x" * 10**6: {}}),
    "dtype": ("x" * 10**6,),
    "scale": (1e300, 0.0, -1.0),
    "seed": (-1, 2**80),
    "references": ({"pbe": {"H": 1e308, "x" * 5000: 0.0}}, {f"l{k}": {} for k in range(10_000)}),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.ci if name == "painn" else pytest.mark.full) for name in own_backbones()],
)
def checkpoint(request, tmp_path_factory):
    """A small model of each backbone, its manifest and tensors."""
    folder = tmp_path_factory.mktemp(request.param)
    save_potential(folder / "model.safetensors", build(request.param, {**BASE, "backbone": SMALL}))
    return folder, *load_checkpoint(folder / "model.safetensors")


def test_a_configuration_beyond_the_tensors_is_refused_within_a_second_and_500_megabytes(checkpoint):
    folder, manifest, tensors = checkpoint
    load_model(folder / "model.safetensors")  # imports are paid here
    for entry, values in HOSTILE.items():
        place, _, name = entry.rpartition(".")
        if place and name not in manifest["config"]["backbone"]:
            continue
        for value in values:
            config = json.loads(json.dumps(manifest["config"]))
            (config["backbone"] if place else config)[name] = value
            path = folder / "hostile.safetensors"
            save_checkpoint(path, tensors, {**manifest, "config": config})
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            with pytest.raises(MlipfmError) as caught:
                load_model(path)
            assert len(str(caught.value)) < 1500, entry
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, (entry, str(value)[:50])
            assert time.process_time() - began < 5, (entry, str(value)[:50])  # seconds of a busy machine; without the bound it is hours


def test_a_file_of_a_kilobyte_that_asks_for_terabytes_is_refused(tmp_path):
    config = {**BASE, "backbone": {"channels": 16_000, "layers": 256}}
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, {"x": torch.zeros(1)}, {"plugin": "painn", "config": config, "spec": {}})
    with pytest.raises(MlipfmError, match=r"its configuration asks for .* but the file holds 1 tensors of 1 numbers in all"):
        load_model(path)


def _rewritten(path, manifest_text: str):
    header = json.dumps({"__metadata__": {"mlipfm": manifest_text}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "format": 1, "kind": "mlipfm-model"}',
        '{"format": NaN}',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"format": ' + "9" * 100_000 + "}",
    ],
    ids=["twice", "nan", "deep-list", "deep-object", "long-number"],
)
def test_json_that_has_no_one_meaning_is_refused(tmp_path, text):
    with pytest.raises(MlipfmError, match=r"the manifest (is damaged|gives no format)"):
        load_model(_rewritten(tmp_path / "hostile.safetensors", text))


def test_a_deep_configuration_is_refused(checkpoint):
    folder, manifest, tensors = checkpoint
    deep: dict = {}
    for _ in range(50):
        deep = {"a": deep}
    save_checkpoint(folder / "deep.safetensors", tensors, {**manifest, "config": {**manifest["config"], "heads": deep}})
    with pytest.raises(MlipfmError, match="nested more than 16 deep"):
        load_model(folder / "deep.safetensors")
