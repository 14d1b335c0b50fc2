"""Lists that say the same thing in several places agree."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
FOLDERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
MODULES = [folder.replace("-", "_") for folder in FOLDERS]


def test_uv_and_other_installers_get_the_same_versions() -> None:
    assert SETTINGS["uv"]["constraint-dependencies"] == (ROOT / "constraints.txt").read_text().splitlines()


def test_constraints_are_names_and_versions_only() -> None:
    assert not [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.count("==") != 1 or set(line) & set(" @;/+")]


def test_every_package_stands_in_the_layers() -> None:
    layers = next(contract["layers"] for contract in SETTINGS["importlinter"]["contracts"] if contract["id"] == "direction")
    beside = {Path(path).name.replace("-", "_") for path in SETTINGS["uv"]["workspace"]["exclude"]}  # compiled: not installed everywhere
    members = [name for name in MODULES if name not in beside]
    assert sorted(name.strip() for layer in layers for name in layer.split("|")) == members
    assert SETTINGS["importlinter"]["root_packages"] == members


def test_every_package_is_typed() -> None:
    assert [path for path in SETTINGS["mypy"]["files"] if path.startswith("packages/")] == [f"packages/{folder}/src" for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_distribution_is_called_like_its_folder_and_holds_one_package(folder: str) -> None:
    project = tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == folder
    assert [path.name for path in (ROOT / "packages" / folder / "src").iterdir() if not path.name.startswith(("__", "."))] == [
        folder.replace("-", "_")
    ]
