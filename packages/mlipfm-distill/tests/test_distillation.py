"""Distillation end to end: at equal steps, a student that learned rows of the Hessian has the better curvature (arXiv:2501.09009)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.store.store import Store
from mlipfm_distill import Distill, distill_recipe, label_geometries
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_interfaces.testing.contract_suites import ObjectiveContract
from mlipfm_interfaces.testing.training_rules import ObjectiveCase
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe
from mlipfm_train.views import make_views

Molecules = Callable[..., list[Structure]]


def hessian(potential: Potential, s: Structure) -> np.ndarray:
    """All rows, [3N, N, 3] eV/Å²."""
    every_row = np.array([[atom, axis] for atom in range(len(s)) for axis in range(3)], dtype=float)
    probed = s.replace(labels={"hessian_rows": np.zeros((len(every_row), len(s), 3)), "hessian_rows_index": every_row})
    return evaluate(potential, [probed], ("hessian_rows",))[0]["hessian_rows"]


def errors(student: Potential, teacher: Potential, structures: list[Structure]) -> tuple[float, float]:
    """Mean absolute errors of Hessian entries, eV/Å², and force components, eV/Å."""
    curvature = [np.abs(hessian(student, s) - hessian(teacher, s)).mean() for s in structures]
    pairs = zip(evaluate(student, structures), evaluate(teacher, structures), strict=True)
    return float(np.mean(curvature)), float(np.mean([np.abs(a["forces"] - b["forces"]).mean() for a, b in pairs]))


class TestDistillIsAnObjective(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def labelled(self, teacher: Path, make_molecules: Molecules, tmp_path: Path) -> None:
        label_geometries(make_molecules(4, seed=0), teacher, tmp_path / "labels", rows=3)
        student = Morse(ClosedFormConfig(elements=(1, 6, 8), cutoff=4.0, switch_on=2.5, depth=0.7))
        self.case = ObjectiveCase(lambda: Distill(rows=2), student, list(Store(tmp_path / "labels")))

    def objective_case(self) -> ObjectiveCase:
        return self.case


@pytest.mark.parametrize("student", [pytest.param("density", marks=pytest.mark.full), pytest.param("painn", marks=pytest.mark.full)])
def test_rows_halve_the_error_of_the_hessian_on_unseen_geometries_at_equal_steps(
    student: str, teacher: Path, make_molecules: Molecules, tmp_path: Path
) -> None:
    label_geometries(make_molecules(6, seed=0), teacher, tmp_path / "labels", rows=4)
    backbone = {"channels": 16, "cutoff": 4.0} | ({"layers": 2} if student == "painn" else {})
    found = {}
    for weight in (400.0, 0.0):
        recipe = distill_recipe(
            teacher, [tmp_path / "labels"], student=student, backbone=backbone, steps=300, lr=1e-2, hessian_weight=weight, budget=200
        )
        document = recipe.model_dump(mode="json")
        document["potential"]["short_range"] = "none"  # the teacher has none
        result = fit(make_recipe(document), tmp_path / f"run-{weight:.0f}")
        found[weight] = errors(load_potential(result.last), load_potential(teacher), make_molecules(6, seed=1))
    assert 2 * found[400.0][0] < found[0.0][0]
    assert found[400.0][1] < 1.1 * found[0.0][1]  # not paid for with forces


def test_a_step_costs_as_many_rows_as_are_drawn_not_as_are_stored(teacher: Path, make_molecules: Molecules, tmp_path: Path) -> None:
    """One view of each structure, with the drawn rows only: energies, forces and rows are learned from the same systems."""
    label_geometries(make_molecules(3, seed=0), teacher, tmp_path / "labels", rows=6)
    structures = list(Store(tmp_path / "labels"))
    views, groups = make_views({"distill": Distill(rows=2)}, structures, seed=0, epoch=0)
    assert groups == {"distill": [0, 1, 2]}
    assert [v.labels["hessian_rows"].shape for v in views] == [(2, len(s), 3) for s in structures]
    assert [v.labels["energy"] for v in views] == [s.labels["energy"] for s in structures]


def test_the_recipe_trains_and_its_student_speaks_the_teachers_level(teacher: Path, make_molecules: Molecules, tmp_path: Path) -> None:
    label_geometries(make_molecules(4, seed=0), teacher, tmp_path / "labels", rows=2)
    label_geometries(make_molecules(4, seed=1), teacher, tmp_path / "valid", rows=2)
    recipe = distill_recipe(
        teacher, [tmp_path / "labels"], [tmp_path / "valid"], backbone={"channels": 8, "cutoff": 3.0}, steps=4, budget=50
    )
    result = fit(recipe, tmp_path / "run")
    student = load_potential(result.best or result.last)
    assert (student.plugin, student.spec.levels, student.spec.kind) == ("density", ("closed-form",), "conservative")
    assert {m.name for m in result.metrics} == {"force MAE", "energy MAE"}


def test_options_that_cannot_be_are_refused(teacher: Path) -> None:
    with pytest.raises(RecipeError, match="rows=0"):
        Distill(rows=0)
    with pytest.raises(RecipeError, match="hessian_weight=-1"):
        Distill(hessian_weight=-1.0)
    assert Distill(hessian_weight=0.0).outputs == ("energy", "forces")
