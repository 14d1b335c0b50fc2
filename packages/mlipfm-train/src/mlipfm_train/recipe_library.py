"""Recipes that come with this package, each a YAML file in `recipes/`: every backbone from scratch, direct pre-training, fine-tuning.

The first comment line of a file says what the recipe is for, the second how long it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of this package.

    Attributes:
        name: to give to `mlipfm train`. backbone: potential plug-in; `any` for a recipe that starts from a model.
        purpose: what it is for. time: what it took, and on which data.
    """

    name: str
    backbone: str
    purpose: str
    time: str


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all recipes of this package, in order of their names."""
    return [_described(path) for path in sorted(_FOLDER.glob("*.yaml"))]


def recipe_file(recipe: Path | str) -> Path:
    """Return the file of a recipe: `recipe` itself if there is such a file (or store) or no shipped recipe of that name. A folder with the name of a
    recipe is one that a run of it has left."""
    shipped, path = _FOLDER / f"{recipe}.yaml", Path(recipe)
    theirs = path.is_file() or (path / "manifest.json").is_file()
    return shipped if not theirs and shipped.parent == _FOLDER and shipped.exists() else path


def is_recipe(path: Path) -> bool:
    """Return whether a path of the command line is meant as a recipe, and not as a file or store with structures: by its name, a shipped recipe, or
    a small file whose keys are those of a recipe. A file that does not exist is a recipe unless its name has another ending."""
    if path.suffix.lower() in (".yaml", ".yml") or (path.suffix == "" and not path.exists()) or recipe_file(path) != path:
        return True
    if not path.is_file() or path.stat().st_size > 1_000_000:
        return False
    from mlipfm_data.strict_yaml import parse_yaml
    from mlipfm_interfaces.errors import MlipfmError

    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, MlipfmError):
        return False
    return isinstance(document, dict) and bool(document.keys() & {"potential", "init_from"})


def _described(path: Path) -> ShippedRecipe:
    from mlipfm_data.strict_yaml import parse_yaml

    text = path.read_text(encoding="utf-8")
    purpose, time = (line.removeprefix("# ").removeprefix("time: ") for line in text.splitlines()[:2])
    return ShippedRecipe(path.stem, parse_yaml(text)["potential"].get("name", "any"), purpose, time)
