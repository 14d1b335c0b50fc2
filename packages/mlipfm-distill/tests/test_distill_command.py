"""`mlipfm distill` from a file to a student, as a user types it, with effective medium theory as the teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlipfm_distill.commands import app
from mlipfm_distill.on_policy import distillation, measurements, result, student
from mlipfm_interfaces.errors import LabelingError, RefusedFileError
from typer.testing import CliRunner

FCC = """4
Lattice="3.61 0 0 0 3.61 0 0 0 3.61" pbc="T T T" Properties=species:S:1:pos:R:3
{0} 0 0 0
{0} 0 1.805 1.805
{0} 1.805 0 1.805
{0} 1.805 1.805 0
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short dynamics and trainings."""
    monkeypatch.setattr(student, "FIRST_STEPS", 30)
    monkeypatch.setattr(student, "STEPS", (10, 20))
    monkeypatch.setattr(distillation, "LENGTHS", (0.1,))
    monkeypatch.setattr(distillation, "FRAMES", 12)
    monkeypatch.setattr(measurements, "TIMED", (1, 20))
    for name, value in (("TEST_PS", 0.2), ("OUTSIDE_PS", 0.1), ("DRIFT_PS", 0.2), ("STABILITY", 1e-9)):
        monkeypatch.setattr(result, name, value)


@pytest.mark.full  # 30 s of a core
@pytest.mark.usefixtures("small")
def test_one_command_gives_a_student_with_errors_speed_range_page_and_inputs_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "cu.xyz").write_text(FCC.format("Cu"))
    out = tmp_path / "out"
    line = [
        "--teacher",
        "emt:",
        "--start",
        str(tmp_path / "cu.xyz"),
        "--temperature",
        "300",
        "500",
        "--budget",
        "60labels",
        "--out",
        str(out),
    ]
    ran = CliRunner().invoke(app, line, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "times faster" in ran.output
    assert "energy drift" in ran.output
    assert "plan: " in ran.output
    found = json.loads((out / "result.json").read_text())
    assert sum(found["labels"].values()) <= 60
    assert found["temperatures"] == [300.0, 500.0]
    assert found["students"]["medium"]["errors"]["force_mae"]["n_ok"] == found["labels"]["test"]
    assert found["asymmetry"]["student"] < 1e-6
    assert found["asymmetry"]["teacher"] < 1e-4
    for name in ("student.safetensors", "student.uncertainty.safetensors", "student.range.json", "report.html", "report.png", "run_ase.py"):
        assert (out / name).stat().st_size > 50, name
    assert (out / "lammps" / "in.lammps").exists()
    before = (out / "student.safetensors").read_bytes()
    again = CliRunner().invoke(app, line, catch_exceptions=False)
    assert again.exit_code == 0
    assert (out / "student.safetensors").read_bytes() == before
    assert "training medium" not in again.output
    with pytest.raises(RefusedFileError, match="another distillation: temperatures"):
        CliRunner().invoke(app, [*line[:5], "700", *line[7:]], catch_exceptions=False)


def test_an_element_that_the_teacher_does_not_know_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "fe.xyz").write_text(FCC.format("Fe"))
    line = ["--teacher", "emt:", "--start", str(tmp_path / "fe.xyz"), "--temperature", "300", "--out", str(tmp_path / "out")]
    with pytest.raises(LabelingError, match=r"cannot label the first structure.*26"):
        CliRunner().invoke(app, line, catch_exceptions=False)
