"""Sweeps of tiny models on Morse molecules: what is planned, trained, killed, continued, held out and refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import LevelError, MlipfmError, RecipeError, TrainingError
from mlipfm_train.loop import fit
from mlipfm_train.scaling import execute
from mlipfm_train.scaling.execute import collected, jobs_of, run_sweep, write_array
from mlipfm_train.scaling.fits import fit_points, fit_sweep, without_law
from mlipfm_train.scaling.laws import Law, ScalingError
from mlipfm_train.scaling.plan import Cost, plan
from mlipfm_train.scaling.points import Point, line_of
from mlipfm_train.scaling.sweep import load_sweep, make_sweep, runs_of
from mlipfm_train.training_state import states


def without_seconds(points):
    return [replace(point, core_seconds=0.0) for point in points]


@pytest.fixture
def document(tiny):
    recipe = {key: value for key, value in tiny.items() if key != "steps"}
    return {"recipe": recipe, "width": [4, 8], "structures": [6, 24], "epochs": 2, "seeds": [0], "mup_base": 4}


def test_a_sweep_is_the_product_of_its_axes_with_the_largest_run_last(document):
    runs = runs_of(make_sweep({**document, "seeds": [0, 1], "depth": [1, 2]}))
    assert len(runs) == 16
    assert [run.largest for run in runs] == [False] * 14 + [True] * 2
    assert {run.name for run in runs[-2:]} == {"w8-d2-n24-seed0", "w8-d2-n24-seed1"}
    assert runs[-1].recipe.potential.options["backbone"] == {"channels": 8, "layers": 2, "cutoff": 3.0}
    assert runs[-1].recipe.optimizer.width_ratio == 2.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": [8, 8]}, "width has a value twice"),
        ({"steps": [5]}, "epochs or steps, not both"),
        ({"widht": [8]}, "widht"),
        ({"width": [], "mup_base": 4}, "mup_base needs width"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_a_document_that_cannot_be_is_refused(document, change, said):
    with pytest.raises(RecipeError, match=said):
        make_sweep({**document, **change})


@pytest.mark.full
def test_the_plan_counts_parameters_atoms_and_operations_of_the_runs_that_follow(document, tmp_path):
    sweep = make_sweep({**document, "hold_out": False})
    runs, costs = plan(sweep, tmp_path)
    points = {point.run: point for point in run_sweep(sweep, tmp_path)}
    assert len(points) == 4
    for run, cost in zip(runs, costs, strict=True):
        point = points[run.name]
        assert (cost.parameters, cost.atoms) == (point.parameters, point.atoms)
        assert cost.flops == pytest.approx(point.flops)
        assert set(point.losses) == {"force MAE (meV/A)", "energy MAE (meV/atom)"}
    assert costs[0].atoms == 2 * sum(len(s) for s in map_structures(tmp_path / "data" / "n6"))  # two epochs
    by_width = [next(c for c in costs if c.name.startswith(f"w{w}-n24")).flops for w in (4, 8)]
    assert 2.0 < by_width[1] / by_width[0] < 4.0  # matrices grow with the square of the width, those of the radial functions linearly
    smaller, larger = ({s.key for s in map_structures(tmp_path / "data" / name)} for name in ("n6", "n24"))
    assert smaller < larger


def map_structures(path):
    from mlipfm_data.store.store import Store

    return list(Store(path))


@pytest.mark.full
def test_a_killed_sweep_goes_on_and_its_lines_are_those_of_one_that_was_not(document, tmp_path):
    # in one place after the other: models state the paths of their data, so that digests are of a place
    sweep, folder = make_sweep({**document, "hold_out": False, "structures": [6]}), tmp_path / "sweep"
    whole = run_sweep(sweep, folder)
    folder.rename(tmp_path / "whole")
    script = f"""
import os
from pathlib import Path
from mlipfm_train.scaling import execute
from mlipfm_train.scaling.sweep import make_sweep
append = execute._append
def kill(file, point):
    append(file, point)
    with open(file, "ab") as torn:
        torn.write(b'{{"run": "half a li')
    os._exit(9)
execute._append = kill
execute.run_sweep(make_sweep({sweep.model_dump(mode="json")!r}), Path({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len(collected(folder)) == 1
    with ThreadPoolExecutor(1) as pool:  # any executor gives the points of one process
        assert without_seconds(run_sweep(sweep, folder, pool)) == without_seconds(whole)
    before = (folder / "points.jsonl").read_bytes()
    run_sweep(sweep, folder)
    assert (folder / "points.jsonl").read_bytes() == before


def test_a_sweep_that_changed_under_its_runs_is_refused_and_one_that_was_only_planned_is_planned_anew(document, tmp_path):
    one, two = ({**document, "structures": [6], "width": [4], "seeds": seeds, "mup_base": None} for seeds in ([0], [0, 1]))
    plan(make_sweep(one), tmp_path)
    assert len(plan(make_sweep(two), tmp_path)[1]) == 2
    (tmp_path / "points.jsonl").write_text(f"{line_of(surface_points()[0])}\n")
    with pytest.raises(ScalingError, match="the sweep has changed since its first run: seeds"):
        run_sweep(make_sweep(one), tmp_path)
    plan(make_sweep({**two, "core_hours": 5.0}), tmp_path)  # a budget is no part of the points
    with pytest.raises(RecipeError, match="optimizer"):
        plan(make_sweep({**one, "architectures": {"wild": {"optimizer.lr": 1e9}}}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_more_structures_than_there_are_and_more_hours_than_the_budget_are_refused(document, tmp_path):
    with pytest.raises(ScalingError, match="25 structures are wanted, the training data have 24"):
        plan(make_sweep({**document, "structures": [25]}), tmp_path / "a")
    with pytest.raises(ScalingError, match="core-hours, its budget is"):
        plan(make_sweep({**document, "structures": [6], "width": [4], "core_hours": 1e-9}), tmp_path / "b")


@pytest.mark.full
def test_a_diverged_run_is_a_point_with_its_reason_and_is_not_fitted(document, tmp_path, monkeypatch):
    def diverge(recipe, folder):
        fit(recipe, folder)
        if folder.name.startswith("w8"):
            raise TrainingError("training has diverged: force MAE is 1e9")

    monkeypatch.setattr(execute, "fit", diverge)
    points = run_sweep(make_sweep({**document, "hold_out": False, "structures": [6]}), tmp_path)
    assert {point.run: bool(point.failed) for point in points} == {"w4-n6-seed0": False, "w8-n6-seed0": True}
    with pytest.raises(ScalingError):
        fit_sweep(tmp_path)
    assert fit_points([*surface_points(), points[-1]])["failed"] == [
        {"run": "w8-n6-seed0", "group": "painn", "reason": "training has diverged: force MAE is 1e9"}
    ]


@pytest.mark.full
def test_a_branch_has_the_bits_of_a_run_that_was_trained_alone(document, tmp_path):
    schedule = {"name": "wsd", "decay": 0.25, "warmup": 2}
    recipe = {**document["recipe"], "schedule": schedule}
    sweep = make_sweep({"recipe": recipe, "steps": [8, 16, 24], "hold_out": True})
    (job,) = jobs_of(runs_of(sweep), held_out=False)
    assert [run.recipe.steps for run in job] == [8, 16]
    points = run_sweep(sweep, tmp_path)
    assert [point.atoms for point in points] == sorted(point.atoms for point in points)
    assert states(tmp_path / "trunk-seed0" / "state")[0].stem == "step-000000012"  # three quarters of 16: the first 6 steps were made once
    alone = fit(job[1].recipe, tmp_path / "alone")
    assert alone.steps == 16
    branch, direct = (tmp_path / name / "state" / "step-000000016.safetensors" for name in (job[1].name, "alone"))
    from mlipfm_interfaces.checkpoint import load_potential

    weights = [load_potential(path.parents[1] / "last.safetensors").state_dict() for path in (branch, direct)]
    assert all(bool((weights[0][key] == value).all()) for key, value in weights[1].items())


LAW = Law(("parameters", "atoms"), 5.0, (3000.0, 20000.0), (0.4, 0.5))


def surface_points(group="painn", law=LAW, noise=0.01, seeds=(0, 1), n=5):
    rng = np.random.default_rng(3)
    grid = [(int(p), int(d), s) for p in np.geomspace(1e3, 1e5, n) for d in np.geomspace(1e4, 4e6, n) for s in seeds]
    return [
        Point(
            f"w{p}-n{d}-seed{s}",
            group,
            s,
            p,
            d,
            20.0 * p * d,
            1.0,
            {"force MAE (meV/A)": float(law(np.array([[p, d]]))[0] * (1 + noise * rng.normal()))},
        )
        for p, d, s in grid
    ]


@pytest.fixture
def synthetic(document, tmp_path):
    """The folder of a sweep whose points follow `LAW`, all but the largest."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    points = surface_points()
    top = max((point.parameters, point.atoms) for point in points)
    costs = [vars(Cost(p.run, p.group, p.parameters, 1, p.atoms, p.flops, 1.0, (p.parameters, p.atoms) == top)) for p in points]
    (folder / "plan.json").write_text(json.dumps(costs))
    small = [point for point in points if (point.parameters, point.atoms) != top]
    (folder / "points.jsonl").write_text("".join(f"{line_of(point)}\n" for point in small))
    return folder, [point for point in points if point not in small]


@pytest.mark.ci
def test_the_largest_run_is_predicted_before_and_compared_after(synthetic):
    folder, largest = synthetic
    found = fit_sweep(folder, resamples=60)["groups"]["painn"]["force MAE (meV/A)"]
    (predicted,) = found["predictions"]
    truth = float(LAW(np.array([[predicted["parameters"], predicted["atoms"]]]))[0])
    assert predicted["ci95"][0] < truth < predicted["ci95"][1]
    assert "observed" not in predicted
    before = (folder / "prediction.json").read_bytes()
    with open(folder / "points.jsonl", "a") as lines:
        lines.writelines(f"{line_of(point)}\n" for point in largest)
    (after,) = fit_sweep(folder, resamples=60)["groups"]["painn"]["force MAE (meV/A)"]["predictions"]
    assert after["inside"]
    assert abs(after["relative_error"]) < 0.05
    assert after["predicted"] == predicted["predicted"]  # the held-out points do not enter the fit
    assert (folder / "prediction.json").read_bytes() == before


@pytest.mark.ci
def test_an_architecture_is_predicted_once_when_its_own_runs_are_made(synthetic):
    folder, _ = synthetic
    costs = json.loads((folder / "plan.json").read_text())
    lines = [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]
    second = [{**line, "run": f"pet-{line['run']}", "group": "pet"} for line in lines]
    (folder / "plan.json").write_text(json.dumps([*costs, *({**c, "name": f"pet-{c['name']}", "group": "pet"} for c in costs)]))
    with open(folder / "points.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in second[:-1])  # one is missing
    first = fit_sweep(folder, resamples=40)
    assert first["predicted_before"]["groups"].keys() == {"painn"}
    assert first["missing"] == [second[-1]["run"]]
    before = json.loads((folder / "prediction.json").read_text())
    with open(folder / "points.jsonl", "a") as file:
        file.write(json.dumps(second[-1]) + "\n")
    fit_sweep(folder, resamples=40)
    after = json.loads((folder / "prediction.json").read_text())
    assert after["groups"].keys() == {"painn", "pet"}
    assert after["groups"]["painn"] == before["groups"]["painn"]


@pytest.mark.ci
def test_runs_of_fewer_steps_are_not_taken_for_the_held_out_one():
    points = [replace(p, run=f"w{p.parameters}-seed{p.seed}-t{p.atoms}") for p in surface_points()]
    top = max((p.parameters, p.atoms) for p in points)
    held_out = [Cost(p.run, p.group, p.parameters, 1, p.atoms, p.flops, 1.0, True) for p in points if (p.parameters, p.atoms) == top]
    found = fit_points(points, held_out, resamples=40)["groups"]["painn"]["force MAE (meV/A)"]["predictions"]
    truth = np.mean([p.losses["force MAE (meV/A)"] for p in points if (p.parameters, p.atoms) == top])
    assert [item["observed"] for item in found] == [truth]
    assert found[0]["run"] == f"w{top[0]}-t{top[1]}"


@pytest.mark.ci
def test_equivariant_groups_are_compared_with_unconstrained_ones_and_not_in_the_order_of_the_outcome():
    shallow = Law(LAW.axes, LAW.floor, LAW.coefficients, (0.3, 0.35))
    points = [p for name, law in (("pet", LAW), ("mace", shallow)) for p in surface_points(name, law)]
    found = fit_points(points, resamples=40, unconstrained={"pet"})
    (row,) = found["gamma_differences"]["force MAE (meV/A)"]
    assert (row["first"], row["second"], row["sign"]) == ("mace", "pet", "-")
    assert row["interval"][0] < row["value"] < row["interval"][1] < 0


@pytest.mark.ci
def test_a_floor_is_that_of_one_loss_and_below_all_of_its_points():
    points = [replace(p, losses={**p.losses, "energy MAE (meV/atom)": 3 * p.losses["force MAE (meV/A)"]}) for p in surface_points()]
    found = fit_points(points, floors={"force": 0.5}, resamples=40)["groups"]["painn"]
    assert found["force MAE (meV/A)"]["law"]["floor"] == 0.5
    assert found["energy MAE (meV/atom)"]["law"]["floor"] != 0.5
    zero = fit_points(points, floors={"": 0.0}, resamples=40)["groups"]["painn"]
    assert {item["law"]["floor"] for item in zero.values()} == {0.0}
    refused = fit_points(points, floors={"force": 1e4}, resamples=40)["groups"]["painn"]["force MAE (meV/A)"]
    assert "the floor 10000 is not below the smallest loss" in refused["refused"]
    for floors, why in (
        ({"": 1.0}, "may be that of 2 losses"),
        ({"stress": 1.0}, "is that of no loss"),
        ({"MAE": 1.0}, "may be that of 2"),
    ):
        with pytest.raises(ScalingError, match=why):
            fit_points(points, floors=floors, resamples=40)


@pytest.mark.ci
def test_what_an_architecture_sets_is_no_axis_and_the_seed_is_that_of_the_sweep(document, tmp_path):
    with pytest.raises(RecipeError, match="architectures.a sets potential.backbone.channels, which is an axis"):
        runs_of(make_sweep({**document, "architectures": {"a": {"potential.backbone.channels": 16}}}))
    seeded = {**document, "recipe": {**document["recipe"], "seed": 5}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(seeded))
    with pytest.raises(RecipeError, match="the seed of the recipe has no effect beside the seeds of the sweep"):
        load_sweep(tmp_path / "sweep.yaml")


@pytest.mark.ci
def test_errors_against_labels_of_another_level_are_no_losses_of_a_sweep(document, tmp_path, morse_structures, write_store):
    other = write_store(tmp_path / "other", [s.replace(level="pbe") for s in morse_structures(4, 3)])
    with pytest.raises(LevelError, match=r"evaluate.ood: its labels are of level pbe, and the models of the sweep learn morse"):
        plan(make_sweep({**document, "evaluate": {"ood": str(other)}}), tmp_path / "sweep")


@pytest.mark.ci
def test_a_plan_says_which_group_will_have_no_law_before_it_is_run():
    def grid(group, sizes, atoms):
        return [Cost(f"{group}-{p}-{d}", group, p, 1, d, 1.0, 1.0, False) for p in sizes for d in atoms]

    wide, narrow = grid("painn", (10, 60, 400), (100, 1000, 10_000)), grid("pet", (10, 60, 280), (100, 1000, 10_000))
    found = without_law([*wide, *narrow])
    assert found.keys() == {"pet"}
    assert "'parameters' has 3 values over 1.45 decades" in found["pet"]


@pytest.mark.full
def test_the_largest_run_does_not_start_without_its_prediction(document, tmp_path):
    sweep = make_sweep({**document, "structures": [6]})
    with pytest.raises(ScalingError, match="1 other runs are not done"):
        run_sweep(sweep, tmp_path, held_out=True)
    run_sweep(sweep, tmp_path)
    with pytest.raises(ScalingError, match="w8-n6-seed0 has not been predicted"):
        run_sweep(sweep, tmp_path, held_out=True)
    assert not (tmp_path / "w8-n6-seed0").exists()


@pytest.mark.full
def test_an_array_of_a_cluster_has_a_task_for_each_job_and_its_points_are_collected(document, tmp_path):
    sweep = make_sweep({**document, "structures": [6], "hold_out": False})
    assert write_array(sweep, tmp_path, Path("sweep.yaml"), tmp_path / "job.sh") == 2
    assert "--array=0-1" in (tmp_path / "job.sh").read_text()
    for k in (1, 0):
        run_sweep(sweep, tmp_path, only=k)
    assert {point.run for point in collected(tmp_path)} == {"w4-n6-seed0", "w8-n6-seed0"}
    with pytest.raises(ScalingError, match="no job 2"):
        run_sweep(sweep, tmp_path, only=2)


@pytest.mark.full
def test_the_commands_print_a_plan_a_fit_and_a_page(document, synthetic, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump({**document, "structures": [6], "width": [4]}))
    assert command("plan", "tiny.yaml", "--speed", "1000") == 0
    said = capsys.readouterr().out
    assert "w4-n6-seed0" in said
    assert "`mlipfm scaling fit` will find no law in these runs" in said
    folder, _ = synthetic
    Path("sweep.yaml").write_text(yaml.safe_dump(document))
    (folder / "sweep.json").write_text(json.dumps(load_sweep("sweep.yaml").model_dump(mode="json")))
    assert command("fit", "sweep.yaml", "--resamples", "40") == 0
    assert "exponent of atoms 0." in capsys.readouterr().out
    assert command("report", "sweep.yaml") == 0
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "held-out run" in page
    assert command("fit", "sweep.yaml", "--resamples", "60", "--floor", "force=0.1") == 0
    capsys.readouterr()
    assert command("report", "sweep.yaml") == 0
    assert "floor force=0.1, as given" in capsys.readouterr().out
    again = json.loads((folder / "fit.json").read_text())
    assert (again["resamples"], again["floors"]) == (60, {"force": 0.1})
    assert command("fit", "sweep.yaml", "--floor", "force=high") == 2
    assert "is not a number >= 0" in capsys.readouterr().err
    assert command("fit", "nowhere.yaml") == 2


def command(*words):
    """Exit status of `mlipfm scaling WORDS`."""
    with pytest.raises(SystemExit) as end:
        main(["scaling", *words])
    return end.value.code


@pytest.mark.full
@pytest.mark.filterwarnings("default")  # mlflow's own warnings are not ours
def test_mlflow_has_a_parent_and_a_child_for_each_run_and_a_dead_server_changes_nothing(document, tmp_path, mlflow_server):
    from mlflow.tracking import MlflowClient

    address, start = mlflow_server
    recipe = {**document["recipe"], "tracking": {"mlflow": address, "experiment": "laws"}}
    sweep, folder = make_sweep({**document, "recipe": recipe, "hold_out": False, "structures": [6]}), tmp_path / "sweep"
    points = run_sweep(sweep, folder)  # nobody answers
    assert [point.failed for point in points] == ["", ""]
    before = (folder / "points.jsonl").read_bytes()
    start()
    run_sweep(sweep, folder)  # delivers what is left, and trains nothing
    assert (folder / "points.jsonl").read_bytes() == before
    client = MlflowClient(tracking_uri=address)
    runs = client.search_runs([client.get_experiment_by_name("laws").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"sweep.json", "plan.json"}
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == {point.run for point in points}
    for point in points:
        child = children[point.run]
        assert child.info.status == "FINISHED"
        assert child.data.metrics["sweep/flops"] == point.flops
        assert child.data.metrics["sweep/core_seconds"] == point.core_seconds
        assert child.data.metrics["final/force MAE _meV/A_"] == point.losses["force MAE (meV/A)"]
        assert int(child.data.params["n_parameters"]) == point.parameters
        assert len(client.get_metric_history(child.info.run_id, "step/loss")) == load_sweep_steps(folder, point.run)


def load_sweep_steps(folder, run):
    return yaml.safe_load((folder / run / "recipe.yaml").read_text())["steps"]


@pytest.fixture
def mlflow_server(tmp_path):
    """Address of a tracking server on this machine that is not running yet, and a function that starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store, processes = tmp_path / "server", []
    store.mkdir()
    address = f"http://127.0.0.1:{port}"

    def start():
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{store}/runs.db", "--artifacts-destination", str(store / "artifacts")]
        with open(store / "log", "wb") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.5)
        raise AssertionError((store / "log").read_text())

    yield address, start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_dask_cluster_gives_the_points_of_one_process(document, tmp_path):
    distributed = pytest.importorskip("distributed")
    sweep, folder = make_sweep({**document, "hold_out": False, "structures": [6]}), tmp_path / "sweep"
    whole = run_sweep(sweep, folder)
    folder.rename(tmp_path / "whole")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        points = run_sweep(sweep, folder, client.get_executor(pure=False))
    assert sorted(without_seconds(points), key=str) == sorted(without_seconds(whole), key=str)


@pytest.mark.full
def test_errors_of_several_levels_of_theory_are_told_apart(document, tmp_path, morse_structures, write_store):
    data = {
        key: [str(write_store(tmp_path / key, [*morse_structures(12, seed), *morse_structures(12, seed, level="other")]))]
        for key, seed in (("train", 0), ("valid", 1))
    }
    recipe = {**document["recipe"], "data": {**document["recipe"]["data"], **data}}
    (point,) = run_sweep(make_sweep({"recipe": recipe, "steps": [4], "hold_out": False}), tmp_path / "sweep")
    assert {"force MAE (meV/A)", "morse: force MAE (meV/A)", "other: force MAE (meV/A)"} <= set(point.losses)
    parts = [point.losses[f"{level}: force MAE (meV/A)"] for level in ("morse", "other")]
    assert point.losses["force MAE (meV/A)"] == pytest.approx(np.mean(parts))


@pytest.mark.full
def test_a_model_is_fine_tuned_and_tested_out_of_distribution_and_both_are_losses_of_its_run(
    document, tmp_path, write_store, morse_structures
):
    other, more = (str(write_store(tmp_path / name, morse_structures(6, seed))) for name, seed in (("other", 5), ("more", 6)))
    changes = {"data.train": [more], "data.valid": [other], "steps": 30, "optimizer.lr": 5e-3}
    given = {"structures": [6], "width": [4], "hold_out": False, "finetune": {"six": changes}, "evaluate": {"ood": other}}
    (point,) = run_sweep(make_sweep({**document, **given}), tmp_path / "sweep")
    before, after = (point.losses[f"{name} force MAE (meV/A)"] for name in ("ood", "fine-tuned on six"))
    assert after < before
    with pytest.raises(RecipeError, match=r"finetune\.six needs data\.train, data\.valid and steps"):
        make_sweep({**document, "finetune": {"six": {"steps": 3}}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer.rate": 1}, "rate"),
        ({"optimizer.lr": -1.0}, "lr"),
        ({"data.valid": ["nowhere"]}, "nowhere"),
        ({"evaluate": "nowhere"}, "nowhere"),
    ],
    ids=["key", "value", "store", "store of further data"],
)
def test_wrong_fine_tuning_and_missing_stores_are_refused_before_the_first_run(changes, said, document, tmp_path):
    store = document["recipe"]["data"]["train"]
    if "evaluate" in changes:
        given = {"evaluate": {"ood": changes["evaluate"]}}
    else:
        given = {"finetune": {"six": {"data.train": store, "data.valid": store, "steps": 3, **changes}}}
    with pytest.raises(MlipfmError, match=said):
        plan(make_sweep({**document, **given}), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_the_sweep_that_is_shipped_has_models_over_one_and_a_half_decades_and_data_over_two():
    sweep = load_sweep(Path(__file__).parents[1] / "sweeps" / "gfn2-molecules.yaml")
    runs = runs_of(sweep)
    assert len(runs) == 3 * 5 * 5 * 2
    assert {run.name for run in runs if run.largest} == {f"{name}-w64-seed{k}-t6400" for name in ("mace", "painn", "pet") for k in (0, 1)}
    assert max(sweep.steps) >= 100 * min(sweep.steps)
    for name in sweep.architectures:
        sizes = []
        for width in (min(sweep.width), max(sweep.width)):
            (run, *_) = [run for run in runs if run.name.startswith(f"{name}-w{width}-")]
            options = run.recipe.potential
            potential = build(options.name, {**options.options, "elements": ["H", "C", "N", "O", "F", "S", "Cl"], "levels": ["gfn2-xtb"]})
            sizes.append(sum(p.numel() for p in potential.parameters()))
        assert sizes[1] > 10**1.5 * sizes[0], name


@pytest.mark.ci
def test_a_run_that_ends_far_above_the_error_before_training_has_diverged_and_is_no_loss(document, tmp_path):
    recipe = {**document["recipe"], "optimizer": {"lr": 50.0, "weight_decay": 0.0, "clip": None}}
    sweep = {**document, "recipe": recipe, "structures": [6], "width": [4], "mup_base": None, "hold_out": False, "epochs": 6}
    (point,) = run_sweep(make_sweep(sweep), tmp_path)
    assert "training has diverged: force MAE is" in point.failed
    assert "before it" in point.failed
    assert not point.losses
    assert point.core_seconds > 0
