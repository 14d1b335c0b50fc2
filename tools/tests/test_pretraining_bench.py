"""`tools/bench pretraining`: ratios of known laws, what cannot be is refused, and what is done is not done again."""

from __future__ import annotations

import json

import pytest
from bench import pretraining, pretraining_report
from bench.pretraining import Plan
from mlipfm_interfaces.errors import MlipfmError

PLAN = Plan("sets", arms=("none", "denoise", "masked"), tasks=("3bpa", "water"), seeds=(0, 1))


def line(arm, task, n, seed, error):
    return {"arm": arm, "task": task, "n": n, "seed": seed, "error": error, "labels": n, "unit": "eV/Angstrom"}


def law(n, scale=1.0, fall=0.4):
    """error = scale n^-fall"""
    return scale * n**-fall


def test_a_model_that_errs_as_one_from_scratch_with_four_times_the_labels_has_the_ratio_four():
    lines = [line("none", t, n, s, law(n)) for t in PLAN.tasks for n in PLAN.sizes for s in (0, 1)]
    lines += [line("denoise", t, n, s, law(4 * n)) for t in PLAN.tasks for n in PLAN.sizes for s in (0, 1)]
    lines += [line("masked", t, n, s, law(n)) for t in PLAN.tasks for n in PLAN.sizes for s in (0, 1)]
    rows = pretraining_report.table(PLAN, lines)
    found = {(row["arm"], row["n"], row["task"]): row for row in rows}
    for n in PLAN.sizes:
        for task in (*PLAN.tasks, None):
            assert found["denoise", n, task]["ratio"] == pytest.approx(4.0)
            assert found["denoise", n, task]["ci95"] == pytest.approx([4.0, 4.0])
            assert found["masked", n, task]["ratio"] == pytest.approx(1.0)  # what does nothing has the ratio one


def test_the_geometric_mean_of_a_gain_and_an_equal_loss_is_one():
    lines = [line("none", t, n, 0, law(n)) for t in PLAN.tasks for n in PLAN.sizes]
    lines += [line("denoise", t, n, 0, law(n * factor)) for t, factor in (("3bpa", 5.0), ("water", 0.2)) for n in PLAN.sizes]
    rows = {(row["arm"], row["n"], row["task"]): row for row in pretraining_report.table(PLAN, lines)}
    assert rows["denoise", 50, None]["ratio"] == pytest.approx(1.0)
    assert rows["denoise", 50, "water"]["ratio"] == pytest.approx(0.2)
    assert rows["denoise", 50, "water"]["ci95"] is None  # one seed
    assert rows["denoise", 50, None]["ci95"] == pytest.approx([0.2, 5.0])
    assert rows["masked", 50, "3bpa"]["reason"] == "not run"


def test_without_a_fall_of_the_error_there_is_no_ratio_but_a_reason():
    lines = [line(arm, "3bpa", n, 0, 1.0) for arm in ("none", "denoise") for n in PLAN.sizes]
    row = next(r for r in pretraining_report.table(PLAN, lines) if (r["arm"], r["task"]) == ("denoise", "3bpa"))
    assert row["reason"] == "the error from scratch does not fall with the number of labels"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("none", "denoize")}, "'denoize' is unknown"),
        ({"arms": ("denoise",)}, "without the arm `none`"),
        ({"tasks": ("benzene",)}, "'benzene' is unknown"),
        ({"minutes": 0.0}, "minutes above 0"),
        ({"sizes": (3,)}, "at least 10 labels"),
    ],
)
def test_plans_that_cannot_be_are_refused(options, message):
    with pytest.raises(MlipfmError, match=message):
        Plan("sets", **options)


def test_what_is_in_the_results_is_not_trained_again_and_another_plan_is_refused(tmp_path, monkeypatch):
    plan = Plan("sets", arms=("none", "masked"), tasks=("3bpa",), sizes=(50, 500), seeds=(0,))
    plan.write(tmp_path)
    trained = []

    def train(cell, plan, folder):
        trained.append(cell)
        return line(cell.arm, cell.task, cell.n, cell.seed, law(cell.n * (1 if cell.arm == "none" else 2))) | {"steps": 20, "seconds": 1.0}

    monkeypatch.setattr(pretraining, "trained", train)
    monkeypatch.setattr(pretraining_report, "draw", lambda plan, rows, path: None)  # importing matplotlib takes seconds
    pretraining.run(tmp_path)
    results = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(results[:3]) + "\n")  # killed before the last
    pretraining.run(tmp_path)
    assert [cell.n for cell in trained] == [50, 50, 500, 500, 500]
    told = pretraining_report.report(tmp_path)
    assert told[0] == "4 of 4 cells"
    assert "| masked | 50 | 2.00 | 2.00 |" in told
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["ratio"] for row in rows] == pytest.approx([2.0] * 4)
    with pytest.raises(MlipfmError, match="another plan has results in this folder"):
        Plan("elsewhere").write(tmp_path)
    with pytest.raises(MlipfmError, match="the folder has no plan"):
        pretraining.run(tmp_path / "empty")


def test_every_arm_is_a_recipe_and_every_label_kind_is_known():
    from mlipfm_train.recipe import make_recipe

    for name, arm in pretraining.ARMS.items():
        if arm is not None:
            recipe = pretraining._recipe(arm.objectives, 0) | {"potential": pretraining._potential() | arm.potential}
            assert make_recipe(recipe).objectives[0].name, name
            assert arm.labels in ("geometries", "synthetic", "gfn1", "gfn2", "rich")


def test_no_ratio_goes_beyond_the_labels_that_were_tried_and_errors_are_compared_as_they_are():
    lines = [line("none", t, n, 0, law(n, fall=0.02)) for t in PLAN.tasks for n in PLAN.sizes]
    lines += [line("denoise", t, n, 0, 0.5 * law(n, fall=0.02)) for t in PLAN.tasks for n in PLAN.sizes]
    rows = {(row["arm"], row["n"], row["task"]): row for row in pretraining_report.table(PLAN, lines)}
    assert rows["denoise", 50, "3bpa"]["ratio"] == pytest.approx(10.0)  # by the power of n it were 2^50
    (half,) = (row for row in pretraining_report.error_ratios(PLAN, lines, "none") if row.startswith("| denoise"))
    assert half == "| denoise | 0.50 (0.50 to 0.50), 2 tasks | 0.50 (0.50 to 0.50), 2 tasks |"
