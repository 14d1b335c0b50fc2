"""A student is under the licences of its geometries and of its teacher, whichever way the teacher's labels come to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlipfm_data.store.merge import StoreFilter, filter_store, merge_stores
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_distill import distill_recipe, label_geometries, label_hessian_rows
from mlipfm_interfaces.checkpoint import load_checkpoint, load_model, save_potential
from mlipfm_interfaces.registry_promote import licence_faults
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_train.loop import fit

MakeTeacher = Callable[..., Path]


@pytest.fixture
def licensed_teacher(tmp_path: Path) -> MakeTeacher:
    """`licensed_teacher(licences)`: a checkpoint that gives them; without licences it states nothing."""

    def make(licences: list[str] | None = None) -> Path:
        path = tmp_path / "teacher.safetensors"
        save_potential(path, Morse(ClosedFormConfig(elements=(1, 6, 8), cutoff=4.0, switch_on=2.5)), {"licences": licences or []})
        return path

    return make


def student_of(teacher: Path, store: Path, out: Path) -> dict[str, Any]:
    """The manifest of a student of two steps."""
    recipe = distill_recipe(teacher, [store], backbone={"channels": 8, "cutoff": 3.0}, steps=2, budget=100)
    return load_model(fit(recipe, out).last)[1]


def test_labels_have_the_licences_of_geometries_and_teacher(
    licensed_teacher: MakeTeacher, molecules: list[Structure], tmp_path: Path
) -> None:
    label_geometries(molecules[:2], licensed_teacher(["MIT"]), tmp_path / "labels")
    with Store(tmp_path / "labels") as store:
        assert [s.provenance.licence for s in store] == ["CC0-1.0 AND MIT"] * 2


def test_labels_have_the_licence_of_the_teacher_also_where_the_rows_of_its_hessian_never_came(
    licensed_teacher: MakeTeacher, molecules: list[Structure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlipfm_distill.teacher_labels.hessian_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        label_geometries(molecules[:2], licensed_teacher(["MIT"]), tmp_path / "labels")
    with Store(tmp_path / "labels") as store:
        assert [(s.provenance.licence, "hessian_rows" in s.labels) for s in store] == [("CC0-1.0 AND MIT", False)] * 2


def test_a_student_has_the_licences_of_geometries_and_teacher(
    licensed_teacher: MakeTeacher, molecules: list[Structure], tmp_path: Path
) -> None:
    teacher = licensed_teacher(["CC-BY-4.0", "MIT OR Apache-2.0"])
    label_geometries(molecules[:4], teacher, tmp_path / "labels", rows=2)
    student = student_of(teacher, tmp_path / "labels", tmp_path / "run")
    assert student["extra"]["licences"] == ["CC0-1.0 AND CC-BY-4.0 AND (MIT OR Apache-2.0)"]
    (entry,) = student["extra"]["data"]
    assert entry["sources"] == [f"teacher:{load_checkpoint(teacher)[0]['digest'][:12]}"]
    assert licence_faults(student) == []


def test_a_teacher_of_unknown_licence_makes_students_of_unknown_licence(
    licensed_teacher: MakeTeacher, molecules: list[Structure], tmp_path: Path
) -> None:
    teacher = licensed_teacher()
    report = label_geometries(molecules[:4], teacher, tmp_path / "labels", rows=2)
    assert "the teacher's licence is not known (NOASSERTION)" in report.lines()[-1]
    student = student_of(teacher, tmp_path / "labels", tmp_path / "run")
    assert licence_faults(student) == ["licence 'CC0-1.0 AND NOASSERTION' is not known"]


def test_rows_laid_over_true_labels_bring_the_teachers_licence_also_through_filters_and_merges(
    licensed_teacher: MakeTeacher, molecules: list[Structure], tmp_path: Path
) -> None:
    teacher = licensed_teacher(["", "MIT"])
    with StoreWriter(tmp_path / "true", name="true") as writer:
        for s in molecules[:4]:
            licence = replace(s.provenance, licence="ISC")
            writer.add(s.replace(level="closed-form", labels={"energy": -7.0, "forces": 0.5 * s.positions}, provenance=licence))
    label_hessian_rows(tmp_path / "true", teacher, rows=2)
    merge_stores([tmp_path / "true"], tmp_path / "merged", "merged")
    filter_store(tmp_path / "merged", tmp_path / "filtered", StoreFilter(max_atoms=3))
    for name, n in (("true", 4), ("merged", 4), ("filtered", 2)):
        assert [s.provenance.licence for s in Store(tmp_path / name)] == ["ISC AND NOASSERTION AND MIT"] * n, name
    student = student_of(teacher, tmp_path / "filtered", tmp_path / "run")
    assert licence_faults(student) == ["licence 'ISC AND NOASSERTION AND MIT' is not known"]
