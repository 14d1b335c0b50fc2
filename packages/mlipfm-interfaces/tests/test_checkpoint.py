"""Checkpoints on real files, with a closed-form potential that a toy distribution on the path offers as a plug-in."""

import io
import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from damage import flip_bits, truncate_everywhere
from mlipfm_interfaces import checkpoint_file
from mlipfm_interfaces.checkpoint import build, load_checkpoint, load_model, load_potential, save_checkpoint, save_potential, tensor_digest
from mlipfm_interfaces.errors import (
    ContractError,
    DamagedFileError,
    FormatVersionError,
    MlipfmError,
    PluginError,
    RefusedFileError,
    ShapeError,
    UnreadableFileError,
)
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.structures import ethanol

TOY = """
from pathlib import Path
from mlipfm_interfaces.testing.closed_forms import LennardJones

class Toy(LennardJones):
    plugin = "toy-pairs"

class Shelf:
    scheme = "toyshelf"
    def resolve(self, address):
        return Path(__file__).parent / (address.split(":")[1] + ".safetensors")
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Folder of a distribution that offers the potential `toy-pairs` and the resolver `toyshelf`."""
    folder = tmp_path / "toy"
    info = folder / "toy_pairs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-pairs\nVersion: 1.0\n")
    points = "[mlipfm.potentials]\ntoy-pairs = toy_pairs:Toy.from_config\n[mlipfm.resolvers]\ntoyshelf = toy_pairs:Shelf\n"
    (info / "entry_points.txt").write_text(points)
    (folder / "toy_pairs.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("toy_pairs", None)


TENSORS = {
    "weight": torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(8, 12),
    "bias": torch.arange(12, dtype=torch.float32),
    "index": torch.arange(5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "nothing": torch.zeros(0, 4),
    "mask": torch.tensor([True, False]),
}


def equal(a: tuple[dict, dict], b: tuple[dict, dict]) -> bool:
    """Manifests equal; tensors of the same names and dtypes, bit by bit."""
    return a[0] == b[0] and tensor_digest(a[1]) == tensor_digest(b[1])


def small(path: Path) -> Path:
    save_checkpoint(path, TENSORS, {"extra": {"recipe": {"steps": 1000, "cutoff": 5.0}, "licences": ["MIT"]}})
    return path


def test_a_checkpoint_comes_back_bit_by_bit_in_its_dtypes(tmp_path: Path):
    digest = save_checkpoint(tmp_path / "a.safetensors", TENSORS, {"note": "ä"})
    manifest, tensors = load_checkpoint(tmp_path / "a.safetensors")
    assert manifest == {"kind": "mlipfm-model", "format": 1, "note": "ä", "digest": digest}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_saving_twice_gives_the_same_bytes_whatever_the_order(tmp_path: Path):
    manifest = {f"key{k}": k for k in range(10)}
    save_checkpoint(tmp_path / "a", TENSORS, manifest)
    save_checkpoint(tmp_path / "b", dict(reversed(TENSORS.items())), dict(reversed(manifest.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_follows_values_names_shapes_and_settings(tmp_path: Path):
    def digest(tensors: dict[str, torch.Tensor], **manifest: object) -> str:
        return save_checkpoint(tmp_path / "a", tensors, manifest)

    x = torch.arange(6.0)
    variants = [digest({"x": x}), digest({"y": x}), digest({"x": x.reshape(2, 3)}), digest({"x": x + 0}, cutoff=5.0), digest({"x": -x})]
    assert len(set(variants)) == 5
    assert digest({"x": x.clone()}) == variants[0]


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path):
    shared = torch.randn(100, 100)
    save_checkpoint(tmp_path / "a", {"embedding": shared, "readout": shared, "row": shared[3]}, {})
    assert (tmp_path / "a").stat().st_size < 1.1 * shared.numel() * 4
    _, tensors = load_checkpoint(tmp_path / "a")
    assert tensors["readout"].data_ptr() == tensors["embedding"].data_ptr()
    assert torch.equal(tensors["readout"], shared)
    assert torch.equal(tensors["row"], shared[3])


def test_a_strided_view_is_stored_as_its_values(tmp_path: Path):
    x = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "a", {"x": x.T, "y": x[:, ::2]}, {})
    _, tensors = load_checkpoint(tmp_path / "a")
    assert torch.equal(tensors["x"], x.T)
    assert torch.equal(tensors["y"], x[:, ::2])


def test_a_sparse_tensor_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ShapeError, match="tensor 'w': .*dense tensors only"):
        save_checkpoint(tmp_path / "a", {"w": torch.eye(3).to_sparse()}, {})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_a_manifest_that_json_cannot_say_is_refused(value: object, tmp_path: Path):
    with pytest.raises(ContractError, match="must be JSON without NaN"):
        save_checkpoint(tmp_path / "a", TENSORS, {"loss": value})
    assert not (tmp_path / "a").exists()


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


def header(text: object) -> bytes:
    data = json.dumps(text).encode()
    return struct.pack("<Q", len(data)) + data


FOREIGN = {
    "pickle": (pickle.dumps(Bomb()), RefusedFileError, "is a pickle"),
    "pickle of protocol 2": (pickle.dumps({"a": 1}, protocol=2), RefusedFileError, "is a pickle"),
    "text": (b"&control\n calculation = 'scf'\n", RefusedFileError, "is not a checkpoint"),
    "empty": (b"", UnreadableFileError, "truncated: 0 bytes"),
    "foreign safetensors": (safetensors.torch.save({"w": torch.ones(3)}), RefusedFileError, "without an mlipfm manifest"),
    "safetensors with metadata": (
        safetensors.torch.save({"w": torch.ones(3)}, {"format": "pt"}),
        RefusedFileError,
        "without an mlipfm manifest",
    ),
    "huge header": (struct.pack("<Q", 2**40) + b"{" + bytes(100), DamagedFileError, "claims a header of 1099511627776 bytes"),
    "long header": (struct.pack("<Q", 5000) + b"{" + bytes(100), DamagedFileError, "truncated: 109 bytes, the header alone needs 5008"),
    "deep header": (struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 200_000, DamagedFileError, "header is damaged"),
    "manifest that is a list": (header({"__metadata__": {"mlipfm": "[1]"}}), DamagedFileError, "manifest is damaged: no JSON object"),
    "manifest without format": (header({"__metadata__": {"mlipfm": "{}"}}), DamagedFileError, "no format number"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files_are_refused_with_the_reason_and_run_nothing(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, kind, reason = FOREIGN[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(kind, match=reason):
        load_potential(tmp_path / "a.safetensors")
    assert not (tmp_path / "canary").exists()


def test_what_torch_save_writes_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match=r"a\.pt: is a zip archive, as torch.save writes it"):
        load_potential(tmp_path / "a.pt")
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(buffer.getvalue())
    with pytest.raises(RefusedFileError, match="is a pickle"):
        load_potential(tmp_path / "old.pt")


def test_a_training_state_is_no_model(tmp_path: Path):
    save_checkpoint(tmp_path / "state", TENSORS, {"kind": "mlipfm-training-state"})
    with pytest.raises(RefusedFileError, match="kind 'mlipfm-training-state', wanted 'mlipfm-model'; give a model checkpoint"):
        load_potential(tmp_path / "state")
    assert load_checkpoint(tmp_path / "state", kind="mlipfm-training-state")[0]["format"] == 1


def test_missing_files_and_folders_are_named(tmp_path: Path):
    with pytest.raises(UnreadableFileError, match="nothing.safetensors: there is no such file"):
        load_potential(tmp_path / "nothing.safetensors")
    with pytest.raises(UnreadableFileError, match="is a folder"):
        load_potential(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint_file, "FORMAT", 7)
    path = small(tmp_path / "a")
    monkeypatch.undo()
    with pytest.raises(FormatVersionError, match="format 7, this mlipfm reads up to 1; upgrade"):
        load_checkpoint(path)


def test_an_old_format_climbs_the_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = small(tmp_path / "a")
    monkeypatch.setattr(checkpoint_file, "FORMAT", 3)
    monkeypatch.setitem(
        checkpoint_file.UPGRADES, 1, lambda manifest, tensors: (manifest | {"name": "x"}, {"w" + k: v for k, v in tensors.items()})
    )
    monkeypatch.setitem(checkpoint_file.UPGRADES, 2, lambda manifest, tensors: (manifest | {"name": manifest["name"] + "y"}, tensors))
    manifest, tensors = load_checkpoint(path)
    assert (manifest["format"], manifest["name"]) == (3, "xy")
    assert "wbias" in tensors


def test_a_potential_gives_the_same_numbers_after_a_round_trip(tmp_path: Path, toy: Path):
    potential = build("toy-pairs", {"cutoff": 4.5, "layout": "dense"})
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    extra = {"recipe": {"steps": 3}, "licences": {"set": "MIT"}}
    digest = save_potential(tmp_path / "m.safetensors", potential, extra)
    state = torch.random.get_rng_state()
    again, manifest = load_model(str(tmp_path / "m.safetensors"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not again.training
    assert again.spec == potential.spec
    assert (manifest["digest"], manifest["extra"]) == (digest, extra)
    assert manifest["versions"].keys() == {"mlipfm-interfaces", "toy-pairs"}
    ours, theirs = (evaluate(p, [ethanol()])[0] for p in (again, potential))
    assert np.array_equal(ours["forces"], theirs["forces"])
    assert save_potential(tmp_path / "n.safetensors", again, extra) == digest
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_an_address_is_resolved_by_its_scheme(toy: Path):
    save_potential(toy / "water@best.safetensors", build("toy-pairs", {}))
    assert load_potential("toyshelf:water@best").spec.outputs[0] == "energy"
    with pytest.raises(PluginError, match="no resolver is named 'toyshelv'; did you mean 'toyshelf'"):
        load_potential("toyshelv:water@best")


def edited(path: Path, change: dict[str, object], tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A checkpoint as another version of its package would have written it."""
    manifest, found = load_checkpoint(path)
    save_checkpoint(path, found if tensors is None else tensors, manifest | change)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plugin": "toy-pears"}, "no potential is named 'toy-pears'; did you mean 'toy-pairs'"),
        ({"config": {"cutof": 5.0}}, "'toy-pairs' cannot be built from this configuration: .*cutof"),
        ({"config": {"cutoff": 6.0}}, "'toy-pairs' builds another model from this configuration: .*"),
        (
            {"config": {"dtype": "float32"}},
            r"weights do not fit 'toy-pairs': 'table.depth' is torch.float64 \[9\], wanted torch.float32 \[9\]",
        ),
        ({"config": {"elements": [1, 8]}}, r"'table.depth' is torch.float64 \[9\], wanted torch.float64 \[2\]; .* and 1 more"),
        ({"config": [1]}, "of the wrong type"),
    ],
)
def test_weights_and_builder_that_do_not_fit_are_refused(change: dict[str, object], reason: str, tmp_path: Path, toy: Path):
    save_potential(tmp_path / "m", build("toy-pairs", {}))
    with pytest.raises(MlipfmError, match=reason):
        load_potential(edited(tmp_path / "m", change))


def test_missing_and_unwanted_weights_are_named(tmp_path: Path, toy: Path):
    save_potential(tmp_path / "m", build("toy-pairs", {}))
    _, tensors = load_checkpoint(tmp_path / "m")
    tensors["old"] = tensors.pop("table.depth")
    with pytest.raises(UnreadableFileError, match="'table.depth' is missing; 'old' is not wanted"):
        load_potential(edited(tmp_path / "m", {}, tensors))


def test_a_model_without_its_entries_is_refused(tmp_path: Path):
    with pytest.raises(RefusedFileError, match="the manifest has no entry 'plugin'"):
        load_potential(small(tmp_path / "a"))


@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.ci)])
def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(n: int, tmp_path: Path):
    path = small(tmp_path / "a")
    report = flip_bits([path], n, seed=n, read=lambda: load_checkpoint(path), equal=equal)
    print(f"{n} bit flips over a checkpoint of {path.stat().st_size} bytes: {report}")
    assert report.sound, report


def test_no_truncation_of_a_checkpoint_goes_unnoticed(tmp_path: Path):
    path = small(tmp_path / "a")
    report = truncate_everywhere([path], 64, lambda: load_checkpoint(path), equal)
    assert report.detected == -(-path.stat().st_size // 64), report


def test_a_run_folder_in_place_of_a_model_is_answered_with_its_best_model(tmp_path):
    with pytest.raises(UnreadableFileError, match="is a folder, a file is wanted; it holds no checkpoint"):
        load_checkpoint(tmp_path)
    for name in ("initial.safetensors", "last.safetensors", "best.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UnreadableFileError, match=f"give {tmp_path / 'best.safetensors'}$"):
        load_checkpoint(tmp_path)


def test_the_same_bytes_in_another_dtype_or_shape_are_another_model():
    values = torch.arange(12, dtype=torch.int32)
    kinds = [values, values.view(torch.float32), values.reshape(3, 4), values.reshape(4, 3), values.view(torch.uint8)]
    assert len({tensor_digest({"weight": value}) for value in kinds}) == len(kinds)
    assert tensor_digest({"a": values, "b": values + 1}) != tensor_digest({"a": values + 1, "b": values})
