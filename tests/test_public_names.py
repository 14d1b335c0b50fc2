"""Public is what the Python reference shows: guides, examples and plug-ins from outside need nothing else, and each name says what it is."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What the reference may grow to before somebody asks whether all of it must be public (decision mlipfm/0009).
MOST = 360
#: A tour of the quickstart, which is read and not built on, and the optional kernels, whose README is their reference.
OTHERS = "mlipfm.quickstart", "mlipfm.plan", "mlipfm_kernels"


def reference_pages():
    place = ROOT / "packages" / "mlipfm" / "docs" / "reference_pages.py"
    spec = importlib.util.spec_from_file_location("reference_pages", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public() -> dict[tuple[str, str], object]:
    """(module, name) -> what it is, of all that the reference shows."""
    pages = reference_pages()
    entries = [pages.public_names(entry) for entries in pages.PYTHON.values() for entry in entries]
    return {(module.__name__, name): getattr(module, name) for module, names in entries for name in names}


def imported(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what Python text imports from mlipfm."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0].startswith("mlipfm") and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def python_of_users() -> Iterator[tuple[Path, str]]:
    """(file, Python text) of READMEs, guides, examples and the plug-in packages from outside."""
    for page in [*ROOT.glob("README.md"), *ROOT.glob("packages/*/README.md"), *ROOT.glob("packages/mlipfm/docs/[eg]*/*.md")]:
        yield from ((page, block) for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    for example in ROOT.glob("packages/*/examples/**/*.py"):
        yield example, example.read_text(encoding="utf-8")


def test_guides_examples_and_outside_plugins_import_public_names_only():
    shown = public()
    values, modules = {id(value) for value in shown.values()}, {module for module, _ in shown}
    found = {(*name, path.name) for path, text in python_of_users() for name in imported(text) if name[0] not in OTHERS}
    assert len(found) > 50
    private = set()
    for module, name, file in found:
        value = getattr(importlib.import_module(module), name, None)
        constant = name.isupper() and module in modules
        if not constant and (module, name) not in shown and id(value) not in values and not module.startswith(Path(file).stem):
            private.add((module, name, file))
    assert not private


def test_public_names_are_few_and_each_has_a_docstring():
    shown = public()
    assert 200 < len(shown) <= MOST, len(shown)
    assert [name for name, value in shown.items() if callable(value) and not (getattr(value, "__doc__", None) or "").strip()] == []


#: First words of sentences without a verb.
NO_VERBS = {
    "The",
    "A",
    "An",
    "What",
    "Whether",
    "How",
    "All",
    "Every",
    "One",
    "Those",
    "That",
    "Which",
    "Of",
    "At",
    "From",
    "This",
    "Called",
}


def begins_with_a_verb(docstring: str) -> bool:
    word = re.match(r"[A-Z][a-z]+\b", docstring)
    return bool(word) and word[0] not in NO_VERBS


def test_docstrings_of_public_functions_begin_with_a_verb():
    assert begins_with_a_verb("Return the energy.")
    assert not any(map(begins_with_a_verb, ("The energy.", "`n` structures.", "[atoms, 3] forces.", "What the model gets.")))
    found = {}
    for (module, name), value in public().items():
        members = {name: value} if inspect.isfunction(value) else vars(value) if inspect.isclass(value) else {}
        found |= {f"{module}.{name}.{key}": f for key, f in members.items() if inspect.isfunction(f) and not key.startswith("_")}
    assert len(found) > 200
    assert [name for name, f in found.items() if not begins_with_a_verb(inspect.getdoc(f) or "Have none. ")] == []
