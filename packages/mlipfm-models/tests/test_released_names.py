"""A released model is found by its name, and predicts its default level where none is given."""

from pathlib import Path

import pytest
from mlipfm_interfaces import plugins
from mlipfm_interfaces.checkpoint import load_potential, resolve, save_potential
from mlipfm_interfaces.errors import LevelError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.structures import ethanol
from mlipfm_models import build_potential

LEVELS = ["pbe", "gfn2-xtb"]
CONFIG = {"elements": ["H", "C", "O"], "levels": LEVELS, "references": {"pbe": {"H": -1.0, "C": -2.0, "O": -3.0}},
          "backbone": {"channels": 4, "layers": 1}}  # fmt: skip


def test_a_released_model_is_found_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plugins, "names", lambda group: ["small"] if group == "released" else [])
    monkeypatch.setattr(plugins, "load", lambda group, name: lambda: tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    assert resolve("small") == tmp_path / "small.safetensors"
    with pytest.raises(UnreadableFileError, match="no model of this name is installed; check the path; installed: small"):
        resolve("smal")
    assert resolve("smal.safetensors") == Path("smal.safetensors")
    (tmp_path / "small").write_bytes(b"")
    assert resolve("small") == Path("small")


def test_the_default_level_of_a_checkpoint_counts_where_none_is_stated(tmp_path) -> None:
    potential, s = build_potential("density", CONFIG), ethanol()
    save_potential(tmp_path / "plain.safetensors", potential)
    save_potential(tmp_path / "default.safetensors", potential, {"default_level": "gfn2-xtb"})
    with pytest.raises(LevelError, match="no level of theory"):
        evaluate(load_potential(tmp_path / "plain.safetensors"), [s.replace(level=None)])
    model = load_potential(tmp_path / "default.safetensors")
    energies = {level: float(evaluate(model, [s.replace(level=level)])[0]["energy"]) for level in (None, *LEVELS)}
    assert energies[None] == energies["gfn2-xtb"] != energies["pbe"]
    with pytest.raises(LevelError, match="does not support"):
        evaluate(model, [s.replace(level="hf/sto-3g")])


def test_a_default_that_is_no_level_of_the_model_is_refused(tmp_path) -> None:
    save_potential(tmp_path / "model.safetensors", build_potential("density", CONFIG), {"default_level": "hf"})
    with pytest.raises(RefusedFileError, match="'hf' is no level"):
        load_potential(tmp_path / "model.safetensors")
