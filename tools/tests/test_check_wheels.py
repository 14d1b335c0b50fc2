"""The checks on wheels, on handmade metadata and a handmade distribution: nothing is built or installed here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from check_wheels import LARGEST, WEIGHTS, metadata_faults, test_material as material

TRY_DISTRIBUTION = Path(__file__).parents[1] / "try_distribution.py"

METADATA = """Metadata-Version: 2.4
Name: mlipfm-train
Version: 0.1.0
Requires-Dist: numpy>=2.0
Requires-Dist: mlipfm-interfaces<0.2,>=0.1
Requires-Dist: {requirement}

A readme with the line
Requires-Dist: mlipfm-eval
"""


@pytest.mark.parametrize(
    "requirement", ["mlipfm-data<0.2,>=0.1", "mlipfm-data[ase]~=0.1", "mlipfm-data==0.1.0", "mlipfm-data<0.2,>=0.1; extra == 'x'"]
)
def test_bounds_on_both_sides_pass(requirement: str) -> None:
    assert metadata_faults(METADATA.format(requirement=requirement)) == []


@pytest.mark.parametrize("requirement", ["mlipfm-data", "mlipfm-data>=0.1", "mlipfm-data[ase]<0.2", "mlipfm-data!=0.1.3,>=0.1"])
def test_an_internal_dependency_without_both_bounds_is_named(requirement: str) -> None:
    (fault,) = metadata_faults(METADATA.format(requirement=requirement))
    assert fault.startswith("mlipfm-train: `mlipfm-data")
    assert fault.endswith("needs a lower and an upper bound, such as mlipfm-data>=0.1,<0.2")


def test_metadata_without_a_version_is_refused() -> None:
    assert metadata_faults("Metadata-Version: 2.4\nName: mlipfm-md\n") == ["mlipfm-md: no version"]


def test_test_material_and_large_data_are_refused_and_the_testing_kit_is_not() -> None:
    wanted = {
        "m/testing/contract_suites.py": 9,
        "m/report.css": 9,
        "m/store.py": LARGEST + 1,
        "m/promotion_evidence.py": 9,
        "m.dist-info/RECORD": LARGEST + 1,
        "m/released/small.safetensors": LARGEST + 1,
    }
    assert material(wanted) == []
    names = [
        "m/tests/a.py",
        "m/test_a.py",
        "m/testing/seam_violators.py",
        "m/trust/planting.py",
        "m/catalogue/evidence.json",
        "m/testing/kills.py",
    ]
    assert len(material(dict.fromkeys(names, 9))) == len(names)
    assert "at most" in material({"m/table.json": LARGEST + 1})[0]
    assert "at most" in material({"m/released/table.json": LARGEST + 1})[0]
    assert "at most" in material({"m/released/small.safetensors": WEIGHTS + 1})[0]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An installed distribution `planted` with the extra `pretty`; tests add modules and entry points to it."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").touch()
    info = tmp_path / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: planted\nVersion: 1.0\nRequires-Dist: absent-plots>=1 ; extra == 'pretty'\n"
    )
    return tmp_path


def faults_of(installed: Path) -> str:
    """What try_distribution.py prints about the planted distribution; its exit status says the same."""
    command = [sys.executable, TRY_DISTRIBUTION, "planted"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(installed)}, text=True, capture_output=True)
    assert bool(done.returncode) == bool(done.stdout.strip()), done.stderr
    return done.stdout


def test_a_module_may_miss_what_an_extra_brings(installed: Path) -> None:
    (installed / "planted" / "extra_only.py").write_text("import absent_plots.lines")
    assert faults_of(installed).strip() == ""


def test_an_undeclared_import_is_named(installed: Path) -> None:
    (installed / "planted" / "undeclared.py").write_text("import absent_tables")
    assert "planted.undeclared needs `absent_tables`, which is not installed" in faults_of(installed)


def test_a_module_that_raises_is_named(installed: Path) -> None:
    (installed / "planted" / "raising.py").write_text("1 / 0")
    assert "planted.raising does not import: ZeroDivisionError" in faults_of(installed)


def test_an_entry_point_that_does_not_load_is_named(installed: Path) -> None:
    (installed / "planted-1.0.dist-info" / "entry_points.txt").write_text("[mlipfm.readers]\nxyz = planted:read\n")
    assert "entry point mlipfm.readers:xyz = planted:read does not load" in faults_of(installed)
