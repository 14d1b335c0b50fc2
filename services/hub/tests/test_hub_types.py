"""The hub is typed to the last argument, also against the versions of its dependencies that are resolved for it alone (CI checks the workspace's)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.full
HUB = ROOT / "services/hub/src/mlipfm_hub"


def mypy(python: Path, cache: Path, *words: object) -> str:
    """What mypy prints, with the settings of the repository."""
    line = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", cache, "--follow-imports", "silent", *words]
    return subprocess.run(list(map(str, line)), cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_types_fit_the_dependencies_that_are_resolved_for_the_hub_alone(python, tmp_path):
    modules = [file for file in HUB.glob("*.py") if file.name != "predict_worker.py"]  # which needs the packages of models
    said = mypy(python, tmp_path / "cache", *modules)
    assert "Success" in said, said
    untyped = tmp_path / "gate.py"  # counterexample: a function without types
    untyped.write_text((HUB / "gate.py").read_text() + "\n\ndef untyped(x):\n    return x\n")
    assert "missing a type annotation" in mypy(python, tmp_path / "cache", "--shadow-file", HUB / "gate.py", untyped, *modules)
