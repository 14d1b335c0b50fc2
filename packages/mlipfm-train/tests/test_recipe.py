"""Recipes: what is written is what is meant, and every slip is named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st
from mlipfm_data.strict_yaml import parse_yaml
from mlipfm_interfaces.errors import FormatVersionError, MlipfmError, RecipeError, UnreadableFileError
from mlipfm_train.plugin_options import make, plugin_of
from mlipfm_train.recipe import PluginChoice, Recipe, dump_recipe, load_recipe, make_recipe, recipe_differences
from pydantic import BaseModel

MINIMAL = {"potential": {"name": "painn"}}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_of_format_1_is_read_for_ever():
    recipe = load_recipe(Path(__file__).parent / "museum" / "recipe-1.yaml")
    assert (recipe.seed, recipe.steps, recipe.dtype, recipe.data.train) == (7, 200, "float64", ["a", "b"])
    assert recipe.potential.options == {"forces": "direct", "backbone": {"channels": 16}}
    assert (recipe.optimizer.lr, recipe.optimizer.clip) == (5e-4, None)
    assert (recipe.schedule.decay, recipe.schedule.final) == (0.1, 0.0)
    assert recipe.strategy == PluginChoice(name="ddp", timeout=30)


def test_a_dumped_recipe_reads_back_equal(tmp_path):
    recipe = make_recipe(MINIMAL, ["optimizer.lr=3e-4", "seed=5", "schedule.name=wsd", "data.train=[x, y]"])
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", r"unknown key 'stepz'; did you mean 'steps'"),
        ("optimizer.lrr=1", r"unknown key 'optimizer.lrr'; did you mean 'lr'"),
        ("optimizer.accumulate_grad_batches=4", r"gradients are not accumulated over batches: a larger data.budget, or more processes"),
        ("data.batch_size=8", r"unknown key 'data.batch_size'; batches have equal cost, not equal numbers of structures: data.budget is"),
        ("data.bugdet=1", r"unknown key 'data.bugdet'; did you mean 'budget'"),
        ("schedule.name=constant schedule.decay=0.1", r"schedule 'constant' has no option 'decay'"),
        ("steps=many", r"steps: input should be a valid integer"),
        ("steps=0", r"steps: input should be greater than 0"),
        ("steps", r"override 'steps' is not key=value"),
        ("objectives.3.name=x", r"'3' is no position in a list of 1; count from 0"),
        ("seed.x=1", r"a single value has no key 'x'"),
        ("init_from=model.safetensors", r"either potential.name .* or init_from"),
        ("level_starts.a=b", r"level_starts needs init_from"),
        ("dtype=float16", r"dtype: input should be 'float32' or 'float64'"),
    ],
)
def test_every_slip_is_named(override, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(MINIMAL | {"seed": 0}, override.split())


def test_overrides_reach_into_defaults_and_lists():
    recipe = make_recipe(MINIMAL, ["objectives.0.forces_weight=5", "potential.backbone.channels=32", "tracking.mlflow=null"])
    assert recipe.objectives[0].options == {"forces_weight": 5}
    assert recipe.potential.options == {"backbone": {"channels": 32}}


def test_a_newer_recipe_is_refused():
    with pytest.raises(FormatVersionError, match="recipe of format 2, this version reads up to 1; upgrade mlipfm-train"):
        make_recipe(MINIMAL | {"format": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1, 2]\nb: *x", "the file has aliases"),
        ("steps: 1\nsteps: 2", "key 'steps' is given twice"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("a: [1, 2", "not valid YAML"),
        ("- 1", "a recipe is a mapping"),
    ],
)
def test_yaml_that_is_no_plain_document_is_refused(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(UnreadableFileError, match="cannot read the recipe"):
        load_recipe(tmp_path / "missing.yaml")
    with pytest.raises(UnreadableFileError, match="this is no recipe"):
        load_recipe(write(tmp_path, "x" * 1_000_001))
    (tmp_path / "binary").write_bytes(b"\x80\x04\xff")
    with pytest.raises(UnreadableFileError, match="not UTF-8"):
        load_recipe(tmp_path / "binary")


def test_exponents_without_a_point_are_numbers():
    assert parse_yaml("1e-3") == 1e-3
    assert parse_yaml("'1e-3'") == "1e-3"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.dictionaries(st.text(max_size=5), x, max_size=3)
    )
)
def test_any_document_is_a_recipe_or_a_one_line_error(document):
    problem = ""
    try:
        make_recipe({"potential": {"name": "painn"}, "data": document})
    except MlipfmError as error:
        problem = str(error)
    assert "\n" not in problem


def test_differences_name_keys_and_values():
    old, new = make_recipe(MINIMAL), make_recipe(MINIMAL, ["optimizer.lr=0.1", "potential.forces=direct"])
    assert recipe_differences(old, new) == ["optimizer.lr: 0.001 -> 0.1", "potential.forces: (not set) -> direct"]


def test_options_of_plugins_are_checked_and_filled():
    objective, resolved = make("objectives", PluginChoice(name="energy-force", forces_weight=3.0))
    assert objective.weights["forces"] == 3.0
    assert resolved.options["huber_delta"] == 0.01
    with pytest.raises(RecipeError, match="'energy-force' has no option 'force_weight'; did you mean 'forces_weight'"):
        make("objectives", PluginChoice(name="energy-force", force_weight=3.0))
    with pytest.raises(RecipeError, match="forces_loss: input should be 'mae', .*, got 'mea'"):
        make("objectives", PluginChoice(name="energy-force", forces_loss="mea"))


#: Numbers of a recipe, each with the values that are taken besides the usual ones.
MAY_BE_ZERO = {
    "seed", "data.cost.atom", "data.cost.edge", "data.cost.batch", "data.cost.error", "optimizer.betas.0", "optimizer.betas.1",
    "optimizer.weight_decay", "schedule.warmup", "schedule.final", "max_skipped",
}  # fmt: skip


def numbers(model: Any = Recipe, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all numbers of a recipe, plug-in options aside."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from numbers(inner, f"{prefix}{name}.")
        elif name == "betas":
            yield from (f"{prefix}{name}.{k}" for k in range(2))
        elif name != "format" and {int, float} & {inner, *get_args(inner)}:
            yield prefix + name


def test_no_number_of_a_recipe_may_be_nan_infinite_negative_or_absurd():
    found = list(numbers())
    assert {"steps", "time_limit", "patience", "data.budget", "optimizer.clip", "optimizer.betas.1", "schedule.decay"} <= set(found)
    for key in found:
        for value in (".nan", ".inf", "-.inf", "-1", "1.0e+300", "0"):
            document = MINIMAL | {"optimizer": {"betas": [0.9, 0.999]}, "schedule": {"name": "wsd"}, "data": {"valid": ["x"]}}
            if key == "time_limit" and value == "1.0e+300":
                continue  # longer than anything: no limit at all
            if value == "0" and key in MAY_BE_ZERO:
                make_recipe(document, [f"{key}={value}"])
                continue
            if key == "optimizer.clip" and value == "1.0e+300":
                continue  # no clipping at all
            with pytest.raises(RecipeError, match=rf"^{re.escape(key)}: "):
                make_recipe(document, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("group", "name", "needed"),
    [
        ("objectives", "energy-force", {}),
        ("objectives", "quantities", {"weights": {"dipole": 1.0}}),
        ("weight_rules", "ema", {}),
        ("strategies", "single", {}),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300, "much", [1.0], True])
def test_no_number_of_a_plugin_may_be_nan_infinite_negative_or_absurd(group, name, needed, value):
    given = {"clip": 1.0} if group == "strategies" else {}
    for option, default in plugin_of(group, PluginChoice(name=name, **needed), reserved=tuple(given))[1].options.items():
        if isinstance(default, float):
            with pytest.raises(RecipeError, match=option.removesuffix("_weight")) as caught:
                make(group, PluginChoice(name=name, **(needed | {option: value})), **given)
            assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("decay", [1, 1.5, -5])
def test_an_average_decays_by_less_than_one(decay):
    with pytest.raises(RecipeError, match=r"decay must be in \[0, 1\), got"):
        make("weight_rules", PluginChoice(name="ema", decay=decay))


def test_a_device_that_is_not_there_is_refused():
    for name in ("xpu9", "cuda:77"):
        with pytest.raises(RecipeError, match=f"there is no device '{name}' here"):
            make("strategies", PluginChoice(name="single", device=name), clip=None)


def test_weights_and_scales_of_quantities_are_numbers():
    for options in ({"weights": {"dipole": math.nan}}, {"weights": {"dipole": 1.0}, "scales": {"dipole": math.inf}}):
        with pytest.raises(RecipeError, match="input should be a finite number"):
            make("objectives", PluginChoice(name="quantities", **options))


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90min", 5400), ("1d12h", 129600), ("1.5 h", 5400), (30, 30)])
def test_a_length_of_time_has_a_unit_or_is_seconds(text, seconds):
    assert make_recipe(MINIMAL, [f"time_limit={text}"]).time_limit == seconds


@pytest.mark.parametrize("text", ["2 hours", "h", "1h2", "-1h", "0s"])
def test_what_is_no_length_of_time_is_refused(text):
    with pytest.raises(RecipeError, match="time_limit: "):
        make_recipe(MINIMAL, [f"time_limit={text}"])
