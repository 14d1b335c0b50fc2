"""The kernels built otherwise: with the flag that breaks them, which the comparison notices, and without any AVX, which it does not mind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mlipfm-kernels"
COMPARE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mlipfm_kernels
assert mlipfm_kernels.__file__.startswith(sys.argv[1]), mlipfm_kernels.__file__
from mlipfm_interfaces.checkpoint import build
from mlipfm_models.density_kernel import CompiledDensity, differences
found = {}
for name in mlipfm_kernels.instruction_sets():
    for channels in (16, 32):  # of 16 the sizes are constants of the kernel
        model = build("density", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": channels}})
        seen = differences(CompiledDensity(model, instructions=name))
        found[f"{name} {channels}"] = [seen.agree, seen.forces]
print(json.dumps(found))
"""

pytestmark = [pytest.mark.full, pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")]


def built(folder: Path, **variables: str) -> dict[str, list[float]]:
    """Instruction set and channels -> [whether it agrees with the model, difference of forces] of kernels built with these environment variables."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), f"-Cbuild-dir={folder / 'build'}", str(PACKAGE)]
    subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "unpacked")
    done = subprocess.run([sys.executable, "-c", COMPARE, str(folder / "unpacked")], check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def test_fast_math_is_noticed(tmp_path: Path) -> None:
    found = built(tmp_path, CXXFLAGS="-ffast-math")
    assert not any(agree for agree, _ in found.values()), found


def test_a_machine_without_avx_gets_the_same(tmp_path: Path) -> None:
    found = built(tmp_path, CMAKE_ARGS="-DISAS=v2")
    assert list(found) == ["v2 16", "v2 32"]
    assert all(agree for agree, _ in found.values()), found
