"""Python is as friendly as the command line: paths may be text, and objects say in one line what they are."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data import Store, StoreWriter
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.structure import Structure
from mlipfm_train import FitResult

PACKAGES = ("data", "models", "train", "md", "eval", "distill")


def public_functions():
    """(name, function) of every public function, and of the methods of public classes that are no plain records."""
    for package in PACKAGES:
        module = importlib.import_module(f"mlipfm_{package}")
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield f"{package}.{name}", found
            elif inspect.isclass(found) and not hasattr(found, "__dataclass_fields__"):
                yield from (
                    (f"{package}.{name}.{n}", f) for n, f in inspect.getmembers(found, inspect.isfunction) if n == "__init__" or n[0] != "_"
                )


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_path_may_be_given_as_text(name, function):
    for parameter in inspect.signature(function).parameters.values():
        kind = str(parameter.annotation)
        assert not re.search(r"\bPath\b", kind) or re.search(r"\bstr\b", kind), f"{parameter.name}: {kind}"


@pytest.fixture
def store(tmp_path):
    with StoreWriter(tmp_path / "water", name="water") as writer:
        labels = {"energy": -76.0, "forces": np.zeros((3, 3))}
        for k in range(3):
            writer.add(
                Structure(
                    [8, 1, 1], [[0, 0, 0.1], [0, 0.76, -0.5], [0, -0.76, -0.5 - 0.01 * k]], level="pbe", labels=labels, total_charge=0
                )
            )
    return Store(str(tmp_path / "water"))


def test_objects_say_in_one_short_line_what_they_are(store):
    assert repr(store[0]) == "Structure(H2O, 3 atoms, charge 0, level 'pbe', energy, forces)"
    assert repr(Structure([29], [[0, 0, 0]], cell=3.6 * np.eye(3), pbc=[True, True, False])) == "Structure(Cu, 1 atoms, pbc ab)"
    assert repr(store) == f"Store({str(store.path)!r}, 3 structures, level 'pbe')"
    metric = Metric("force MAE", "meV/Å", 12.345, (10.0, 15.0), 9, 9)
    assert repr(metric) == "Metric(force MAE 12.35 [10, 15] meV/Å)"
    result = FitResult(Path("run"), Path("run/last.safetensors"), None, [metric], 100, 0)
    assert repr(result) == "FitResult('run/last.safetensors', 100 steps, force MAE 12.35 [10, 15] meV/Å)"
    for thing in (store, store[0], metric, result):
        assert len(repr(thing)) < 200
        assert "\n" not in repr(thing)


def test_notebooks_show_tables_and_text_of_files_is_escaped(store):
    metric = Metric("<b>", "meV/Å", 1.0, None, 1, 1)
    for thing in (store, store[0], metric, FitResult(Path("run"), Path("last"), None, [metric], 1, 0)):
        html = thing._repr_html_()
        assert html.startswith("<table>")
        assert "<b>" not in html
    assert "3 to 3" in store._repr_html_()
    assert "pbe" in store[0]._repr_html_()


def test_pip_is_there_for_users_of_the_environment():
    assert importlib.util.find_spec("pip") is not None
