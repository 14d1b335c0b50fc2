"""Plug-ins that somebody else wrote: built as wheels, installed beside nothing but our wheels, used by their names.

Each is a folder of `packages/mlipfm/examples/plugins`: a `pyproject.toml` and one file that imports public names only. `Outside` is an empty
environment with our wheels; libraries of others come from the environment of the tests, in which our packages are installed in place and
hence cannot be imported from there.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib import import_module
from pathlib import Path

import check_wheels
import numpy as np
import pytest

PLUGINS = check_wheels.ROOT / "packages" / "mlipfm" / "examples" / "plugins"
#: Runs lines of commands in one process, so that torch is imported once.
RUNNER = """
import sys, pytest
from mlipfm_interfaces.cli import main
for program, *words in map(str.split, sys.argv[1:]):
    try:
        status = pytest.main(words) if program == "pytest" else main(words)
    except SystemExit as exit:
        status = exit.code
    if status:
        sys.exit(f"{program} {words} ended with {status}")
"""
#: Most lines that each kind of plug-in may take.
LINES = {"mlipfm-schnet": 70, "mlipfm-eos": 20, "mlipfm-runner": 25}


class Outside:
    """An environment in `folder` with our wheels, and what a user does in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "environment" / "bin"
        venv.create(folder / "environment", with_pip=False)
        (packages,) = (folder / "environment").glob("lib/*/site-packages")
        (packages / "libraries_of_others.pth").write_text(sysconfig.get_path("purelib"))
        self.pip(*check_wheels.build(folder / "wheels").values())

    def pip(self, *wheels: Path) -> None:
        """Install wheels, and nothing that they require."""
        python = ["--python", str(self.bin / "python")]
        self.run(sys.executable, "-m", "pip", *python, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))

    def install(self, plugin: str) -> Path:
        """Build the plug-in as a wheel, install it, and return its folder of sources."""
        wheels = self.folder / plugin
        self.run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels), cwd=PLUGINS / plugin)
        self.pip(*wheels.glob("*.whl"))
        return PLUGINS / plugin

    def mlipfm(self, *lines: str) -> str:
        """Run some lines `mlipfm ...` in one process, and a line `pytest ...` likewise; return what they print."""
        return self.run(str(self.bin / "python"), "-c", RUNNER, *lines)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=cwd or self.folder, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    return Outside(tmp_path_factory.mktemp("outside"))


def labelled_water(path: Path) -> Path:
    """Twelve rattled molecules with the energies and forces of a Morse potential, as extxyz."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write
    from mlipfm_interfaces.potential import evaluate
    from mlipfm_interfaces.testing.closed_forms import Morse
    from mlipfm_interfaces.testing.structures import rattled, water

    structures = [rattled(water(), 0.05, seed) for seed in range(12)]
    frames = []
    for s, answer in zip(structures, evaluate(Morse(), structures, level="closed-form"), strict=True):
        frames.append(Atoms(s.atomic_numbers, s.positions))
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=float(answer["energy"]), forces=np.array(answer["forces"]))
    write(path, frames, format="extxyz")
    return path


RECIPE = """
potential: {name: schnet, backbone: {channels: 16, layers: 2, cutoff: 4.0}}
data: {train: [water], budget: 40}
steps: 20
"""

CONTRACT = """
from mlipfm_interfaces.checkpoint import build, load_potential
from mlipfm_interfaces.testing.contract_suites import PotentialContract


class TestSchNet(PotentialContract):
    def potential(self):
        return build("schnet", {"elements": ["H", "C", "O"], "levels": ["any"], "dtype": "float64", "backbone": {"channels": 8, "layers": 1}})


def test_the_trained_checkpoint_opens():
    assert load_potential("run/last.safetensors").config["backbone"] == {"channels": 16, "layers": 2, "cutoff": 4.0, "gaussians": 32}
"""


@pytest.mark.ci
def test_a_backbone_from_outside_is_listed_trained_opened_and_keeps_the_contract(outside: Outside) -> None:
    outside.install("mlipfm-schnet")
    labelled_water(outside.folder / "water.xyz")
    (outside.folder / "recipe.yaml").write_text(RECIPE)
    (outside.folder / "contract.py").write_text(CONTRACT)
    printed = outside.mlipfm(
        "mlipfm models matrix",
        "mlipfm models table --only schnet --widths 8 --side 2",
        "mlipfm data import water.xyz --out water --level morse --accept-label-errors",
        "mlipfm train recipe.yaml --out run --accept-label-errors",  # bonds softer than any molecule's
        "pytest -q -p no:cacheprovider contract.py",
    )
    header, conservative = (line for line in printed.splitlines() if line.startswith(("| |", "| conservative")))
    assert dict(zip(header.split(" | "), conservative.split(" | "), strict=True))["schnet |"] == "fits |"
    assert "| schnet | 8 | " in printed
    assert "model: run/last.safetensors" in printed


BENCHMARK_CONTRACT = """
import numpy as np
from mlipfm_eos import bulk_modulus
from mlipfm_interfaces.benchmark import OpenModel, open_model
from mlipfm_interfaces.testing.contract_suites import BenchmarkContract
from mlipfm_interfaces.testing.training_rules import BenchmarkCase


class Diverged:
    outputs = ("energy",)

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(np.nan)} for _ in structures]


class TestEos(BenchmarkContract):
    def benchmark_case(self):
        with open_model("emt:") as model:
            return BenchmarkCase(bulk_modulus, model, OpenModel("x:", "x:", Diverged()))
"""


@pytest.mark.ci
def test_a_benchmark_from_outside_is_listed_run_reported_and_keeps_the_contract(outside: Outside) -> None:
    outside.install("mlipfm-eos")
    (outside.folder / "eos_contract.py").write_text(BENCHMARK_CONTRACT)
    (outside.folder / "records").mkdir()
    printed = outside.mlipfm(
        "mlipfm evaluate --list",
        "mlipfm evaluate emt: --benchmark eos --option a=3.6 --record records/eos.json",
        "mlipfm report records",
        "pytest -q -p no:cacheprovider eos_contract.py",
    )
    assert "Bulk modulus and lattice constant of an fcc metal" in printed
    figures = json.loads((outside.folder / "records" / "eos.json").read_text())["metrics"]
    # the parameters of effective medium theory were fitted to 134 GPa and 3.59 Å (Jacobsen et al., Surf. Sci. 366, 394 (1996), table 1)
    assert [m["value"] for m in figures] == [pytest.approx(134, rel=0.05), pytest.approx(3.59, abs=0.02)]
    assert "<h2>Eos</h2>" in (outside.folder / "records" / "report.html").read_text()


RUNNER_FILE = """begin
atom 0 0 0 H 0 0 0 0 0.1
atom 0 0 1.4 H 0 0 0 0 -0.1
energy -1.17
end
"""


@pytest.mark.ci
def test_a_format_from_outside_is_imported_in_its_own_units_and_in_those_of_the_user(outside: Outside) -> None:
    outside.install("mlipfm-runner")
    (outside.folder / "input.data").write_text(RUNNER_FILE)
    printed = outside.mlipfm(
        "mlipfm data import input.data --out hartree --level pbe --option total_charge=0",
        "mlipfm data import input.data --out kcal --level pbe --energy-unit kcal/mol --forces-unit kcal/mol/Angstrom",
        "mlipfm data export kcal --out kcal.xyz",
    )
    assert "energy Hartree" in printed
    assert "(layout RuNNer)" in printed
    assert "energy kcal/mol" in printed
    assert 'REF_energy="-0.0507' in (outside.folder / "kcal.xyz").read_text()


@pytest.mark.parametrize("plugin", LINES)
def test_a_plugin_is_short_and_imports_public_names_only(plugin: str) -> None:
    (file,) = (PLUGINS / plugin).glob("*.py")
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES[plugin]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlipfm"):
            module = import_module(node.module or "")
            public = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
            assert {alias.name for alias in node.names} <= set(public), node.module
