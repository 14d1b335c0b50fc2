"""The recipes that come with the package: one for each backbone, found by name, in the built wheel, and fit for what they train."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import RecipeError
from mlipfm_train.loop import fit
from mlipfm_train.recipe import dump_recipe, load_recipe
from mlipfm_train.recipe_library import recipe_file, shipped_recipes

PACKAGE = Path(__file__).parents[1]
NAMES = [recipe.name for recipe in shipped_recipes()]
BACKBONES = [recipe.name for recipe in shipped_recipes() if recipe.name == recipe.backbone]


def test_every_backbone_of_mlipfm_has_a_recipe():
    points = entry_points(group="mlipfm.backbones")
    assert set(BACKBONES) == {point.name for point in points if point.module.startswith("mlipfm_models")}


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=NAMES)
def test_a_recipe_says_what_it_is_for_and_its_backbone_takes_it(recipe):
    assert len(recipe.purpose) > 20
    assert "min" in recipe.time
    if recipe.backbone == "any":
        with pytest.raises(RecipeError, match="init_from"):
            load_recipe(recipe.name)
        assert load_recipe(recipe.name, ["init_from=m.safetensors"]).potential.options == {"forces": "conservative"}
        return
    choice = load_recipe(recipe.name, train=["a"], valid=["b", "c"])
    assert (choice.data.train, choice.data.valid) == (["a"], ["b", "c"])
    build(recipe.backbone, {"elements": ["H", "O"], "levels": ["pbe"], **choice.potential.options})


def test_the_built_wheel_holds_every_recipe(tmp_path):
    line = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(line, cwd=PACKAGE, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert {f"mlipfm_train/recipes/{name}.yaml" for name in NAMES} <= set(wheel.namelist())


def test_a_file_goes_before_a_shipped_recipe_of_its_name_and_other_names_stay_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("mace").name == "mace.yaml"
    assert recipe_file("../recipes/mace") == Path("../recipes/mace")
    Path("mace").write_text(dump_recipe(load_recipe("painn")))
    assert load_recipe("mace").potential.name == "painn"


@pytest.mark.ci
def test_a_shipped_recipe_trains_on_a_store(stores, tmp_path):
    few = ["steps=4", "evaluate_every=4", "checkpoint_every=4", "schedule.warmup=1", "data.budget=40"]
    assert fit(load_recipe("density", few, train=[stores["train"]]), tmp_path / "run").last.exists()


def test_the_folder_that_a_run_of_a_recipe_left_is_not_taken_for_the_recipe(tmp_path, monkeypatch):
    """`mlipfm train mace --out mace` goes on with the same command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mace").mkdir()
    assert load_recipe("mace").potential.name == "mace"
    (tmp_path / "mace" / "manifest.json").write_text("{}")
    assert recipe_file("mace") == Path("mace")
