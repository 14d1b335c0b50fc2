"""`mlipfm distill` from a file to a student, as a user types it, with effective medium theory as the teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlipfm_distill.commands import app
from mlipfm_distill.on_policy import distillation, measurements, result, student
from mlipfm_interfaces.errors import LabelingError, RecipeError, RefusedFileError, RegistryError
from typer.testing import CliRunner

FCC = """4
Lattice="3.61 0 0 0 3.61 0 0 0 3.61" pbc="T T T" Properties=species:S:1:pos:R:3
{0} 0 0 0
{0} 0 1.805 1.805
{0} 1.805 0 1.805
{0} 1.805 1.805 0
"""
#: THz, largest phonon frequency of copper by effective medium theory on the lattice of `FCC`: `mlipfm phonons cu.xyz --model emt:`,
#: whose displacements are a third of those of a distillation: 0.1 THz is left to that.
EMT_LARGEST = 7.806


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


@pytest.mark.parametrize("labels", [60, pytest.param(1700, marks=pytest.mark.full)])  # 10 and 40 s of a core
@pytest.mark.usefixtures("small")
def test_one_command_gives_a_student_with_errors_speed_range_page_and_inputs_and_resumes(tmp_path: Path, labels: int) -> None:
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
        f"{labels}labels",
        "--out",
        str(out),
    ]
    ran = CliRunner().invoke(app, line, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "times faster" in ran.output
    assert "energy drift" in ran.output
    assert "plan: " in ran.output
    found = json.loads((out / "result.json").read_text())
    assert sum(found["labels"].values()) <= labels
    assert found["temperatures"] == [300.0, 500.0]
    assert found["students"]["medium"]["errors"]["force_mae"]["n_ok"] == found["labels"]["test"]
    assert found["asymmetry"]["student"] < 1e-6
    assert found["asymmetry"]["teacher"] < 1e-4
    if labels == 60:
        assert "forces of a supercell cost as much as 64 labels, and 4 are left" in ran.output
    else:
        assert found["frequencies"]["largest"]["teacher"] == pytest.approx(EMT_LARGEST, abs=0.1)
        assert [at["kelvin"] for at in found["distributions"]] == [300.0, 500.0]
        assert all(("teacher" in at["pairs"]["Cu-Cu"]) == (at["effective"] >= 50) for at in found["distributions"])
    for name in (
        "student.safetensors",
        "student.uncertainty.safetensors",
        "student.range.json",
        "student.errors.json",
        "report.html",
        "report.png",
        "run_ase.py",
    ):
        assert (out / name).stat().st_size > 50, name
    assert (out / "lammps" / "in.lammps").exists()
    before = (out / "student.safetensors").read_bytes()
    again = CliRunner().invoke(app, line, catch_exceptions=False)
    assert again.exit_code == 0
    assert (out / "student.safetensors").read_bytes() == before
    assert "training medium" not in again.output
    with pytest.raises(RefusedFileError, match=r"another distillation \(temperatures"):
        CliRunner().invoke(app, [*line[:5], "700", *line[7:]], catch_exceptions=False)


def test_an_element_that_the_teacher_does_not_know_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "fe.xyz").write_text(FCC.format("Fe"))
    line = ["--teacher", "emt:", "--start", str(tmp_path / "fe.xyz"), "--temperature", "300", "--out", str(tmp_path / "out")]
    with pytest.raises(LabelingError, match=r"cannot label the first structure.*26"):
        CliRunner().invoke(app, line, catch_exceptions=False)


def test_a_registry_that_does_not_answer_is_said_before_anything_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIPFM_REGISTRY", "http://127.0.0.1:9")
    (tmp_path / "cu.xyz").write_text(FCC.format("Cu"))
    line = ["--teacher", "emt:", "--start", str(tmp_path / "cu.xyz"), "--temperature", "300", "--out", str(tmp_path / "out")]
    with pytest.raises(RegistryError):
        CliRunner().invoke(app, [*line, "--register", "copper"], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_after_a_budget_that_is_too_small_for_the_rows_fewer_rows_are_taken_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "cu.xyz").write_text(FCC.format("Cu"))
    line = ["--teacher", "emt:", "--start", str(tmp_path / "cu.xyz"), "--temperature", "300", "--out", str(tmp_path / "out")]
    for rows in ("20", "19"):  # the second is refused for the same reason, and not because the folder belongs to the first
        with pytest.raises(RecipeError, match=f"frames with {rows} rows"):
            CliRunner().invoke(app, [*line, "--budget", "100labels", "--hessian-rows", rows], catch_exceptions=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock"]
