"""The report of a folder: complete in itself, safe against what files say, made of result records and event logs alone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from mlipfm_eval import evaluate_set, evaluation_record, open_sets, write_report
from mlipfm_eval._charts import bar_chart, line_chart, parity_chart
from mlipfm_eval.report import report_html
from mlipfm_eval.report_data import Found, read_folder
from mlipfm_interfaces.benchmark import OpenModel
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.result_records import make_record, write_record
from mlipfm_interfaces.structure import Provenance
from mlipfm_interfaces.testing import structures as known


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of a small PaiNN, and the record of one on its own answers, 10 meV/Å off."""
    from mlipfm_data.store.writer import StoreWriter
    from mlipfm_interfaces.checkpoint import build

    path = tmp_path_factory.mktemp("runs")
    model = build("painn", {"elements": [1, 8], "levels": ["gfn2-xtb"], "backbone": {"channels": 8, "layers": 1}})
    for name in ("first", "second"):
        run = path / name
        run.mkdir()
        digest = save_potential(run / "best.safetensors", model, {"recipe": {"note": f"<script>alert(1)</script> {name}"}})
        lines = [{"kind": "step", "step": k, "time": 0.0, "values": {"loss": 10.0 / (k + 1)}} for k in range(30)]
        figure = {"name": "force MAE", "unit": "meV/A", "value": 50.0, "ci95": None, "n_ok": 1, "n_total": 1}
        lines += [{"kind": "validation", "step": k, "time": 0.0, "values": {"metrics": [figure]}} for k in (9, 19)]
        (run / "events.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind":"st')
    with StoreWriter(path / "data" / "test", name="test") as writer:
        for k in range(6):
            s = known.rattled(known.water(), 0.05, seed=k).replace(level="gfn2-xtb", provenance=Provenance(group=f"g{k % 3}"))
            (row,) = evaluate(model, [s])
            writer.add(s.replace(labels={"energy": row["energy"], "forces": row["forces"] + 0.01}))
    results = [evaluate_set(model, data) for data in open_sets([path / "data" / "test"], [])]
    write_record(path / "second" / "test.json", evaluation_record(OpenModel("second/best.safetensors", digest, model), results))
    return path


def figure(name: str, value: float, unit: str = "1", low: float = 0.0, high: float = 0.0, n_ok: int = 5) -> dict:
    return {"name": name, "unit": unit, "value": value, "ci95": [low, high] if high else None, "n_ok": n_ok, "n_total": 5}


def test_page_asks_for_nothing_runs_nothing_and_fits_a_phone(folder):
    text = write_report(folder, first="<p>what you get</p>").read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!["']?(?:data:|#))\S*""", text) == []
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert 'name="viewport" content="width=device-width' in text
    assert text.count("<svg") == 4  # parity of energies and forces, loss and validation
    assert "<p>what you get</p>" in text


def test_chart_that_two_records_hold_is_shown_once(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "twice")
    shutil.copy(folder / "second" / "test.json", tmp_path / "twice" / "second" / "again.json")
    text = write_report(tmp_path / "twice").read_text()
    assert text.count("<svg") == 4
    assert text.count("stroke: var(--line)") < 10  # the styles of grid lines are in the page once
    assert ".gridline{" in text


def test_error_of_ten_meV_is_in_the_table_under_the_name_of_the_run(folder):
    text = report_html(read_folder(folder))
    assert "<td>second</td>" in text
    assert ">10<small>[10, 10]</small>" in text
    assert "test, 6 structures, intervals over 3 molecules or trajectories" in text
    assert "second, test: forces, 54 points" in text


def test_curve_of_a_log_that_was_cut_by_a_kill_has_all_whole_lines(folder):
    (first, _) = read_folder(folder).runs
    assert list(first.steps) == list(range(30))
    assert list(first.validation["force MAE, meV/Å"][0]) == [9, 19]


def test_folder_that_is_itself_a_training_run_has_its_curve_and_its_model(folder, monkeypatch):
    found = read_folder(folder / "second")
    assert [run.name for run in found.runs] == ["second"]
    assert list(found.manifests) == ["second"]
    monkeypatch.chdir(folder / "first")
    assert "<h1>first</h1>" in write_report(".").read_text()


def test_records_of_checks_and_of_any_benchmark_are_shown(tmp_path):
    broken = figure("forces-are-gradient", 0.52, "eV/Å") | {"limit": 0.005, "status": "broken"}
    details = {"broken": ["forces-are-gradient"]}
    write_record(tmp_path / "c.json", make_record("check", "emt:", passed=False, metrics=[broken], details=details))
    for model, drift in (
        ("a:", figure("drift", -0.002, "meV/atom/ps", -0.03, 0.02)),
        ("b:", figure("drift", 1450.0, "meV/atom/ps", n_ok=3)),
    ):
        details = {"benchmark": "dynamics", "statements": [f"{model} was <run>"], "notes": ["one thread"]}
        path = tmp_path / "records" / f"{model[0]}.json"
        path.parent.mkdir(exist_ok=True)
        write_record(path, make_record("evaluation", model, passed=True, metrics=[drift], details=details))
    (tmp_path / "other.json").write_text('{"a": 1}')
    text = report_html(read_folder(tmp_path))
    for said in (
        "forces-are-gradient (0.52 eV/Å, limit 0.005)",
        "<h2>Dynamics</h2>",
        "b: was &lt;run&gt;",
        "-0.002<small>[-0.03, 0.02]</small>",
        '1450<small class="bad">2 of 5 failed</small>',
        "one thread",
    ):
        assert said in text, said


def test_data_that_a_model_was_trained_on_are_marked_also_where_a_later_record_is_of_other_data():
    records = []
    for name, marked in (("test", {"test": "the model was trained on 2 of these"}), ("hot", {})):
        error = figure("force MAE", 1.0, "meV/Å") | {"set": name, "key": "force_mae"}
        element = error | {"element": "O"}
        records.append(make_record("evaluation", "a:", passed=True, metrics=[error, element], details={"address": "a:", "known": marked}))
    text = report_html(Found("x", records))
    assert "a:: the model was trained on 2 of these" in text
    assert text.count("force MAE by element") == 2


def test_record_that_was_changed_is_a_note_and_no_figure(tmp_path):
    write_record(tmp_path / "good.json", make_record("check", "emt:", passed=True, metrics=[]))
    (tmp_path / "bad.json").write_text((tmp_path / "good.json").read_text().replace("true", "false"))
    found = read_folder(tmp_path)
    assert len(found.records) == 1
    assert "the record was changed or damaged" in found.notes[0]


def test_speed_is_drawn_beside_the_error_of_two_models():
    records = []
    for model, steps in (("a:", 100.0), ("b:", 400.0)):
        error = figure("force MAE", steps, "meV/Å") | {"set": "test", "key": "force_mae"}
        records.append(make_record("evaluation", model, passed=True, metrics=[error], details={"address": model}))
        speed = figure("speed", steps, "steps/s")
        records.append(make_record("evaluation", model, passed=True, metrics=[speed], details={"benchmark": "dynamics", "address": model}))
    assert "<h2>Speed and accuracy</h2>" in report_html(Found("x", records))
    assert "<h2>Speed and accuracy</h2>" not in report_html(Found("x", records[:2]))


def test_folder_without_a_record_or_a_run_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="holds neither a result record nor a training run"):
        write_report(tmp_path)


def test_chart_leaves_out_what_has_no_place_on_its_axes():
    text = line_chart("a & b", "x", "y", {"a": ([1, 2, 3, 4], [1.0, np.nan, -1.0, 100.0])}, {"a": 0})
    (path,) = re.findall(r'd="(M[^"]*)"[^>]*stroke: var\(--c0\)', text)
    assert len(re.findall("[ML]", path)) == 2
    assert 'aria-label="a &amp; b"' in text


def test_diagonal_of_a_parity_plot_is_where_both_values_are_equal():
    text = parity_chart("p", "eV", [0.0, 3.0], [1.0, 3.0])
    ends, dots = (re.search(rf'id="{name}">.*?d="M ([^"]*)"', text, re.DOTALL)[1] for name in ("diagonal", "points"))
    x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", ends))
    points = [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+) L", dots)]
    assert [abs((y - y1) / (y2 - y1) - (x - x1) / (x2 - x1)) < 0.01 for x, y in points] == [False, True]


def test_names_stand_at_their_places_on_a_horizontal_axis():
    text = bar_chart("t", "y", ["a", "b"], {"m": [(1.0, 0.5, 2.0), (2.0, None, None)]}, {"m": 0})
    first, second = (text.index(f">{name}</text>") for name in "ab")
    assert first < second


def test_axis_of_a_narrow_range_has_numbers_that_differ():
    text = parity_chart("p", "eV/atom", [0.0, 0.004], [0.001, 0.004])
    ticks = [t for t in re.findall(r">([^<]*)</text>", text) if re.fullmatch(r"[−\d.]+", t)]
    assert len(ticks) > 6
    assert "0.002" in ticks
    values = [float(t) for t in ticks]
    assert max(values.count(v) for v in values) == 2  # once on each axis


def test_marker_of_a_model_has_the_colour_of_its_legend():
    """matplotlib leaves out a black fill."""
    text = bar_chart("t", "y", ["a"], {"first": [(1.0, None, None)], "second": [(2.0, None, None)]}, {"first": 0, "second": 1})
    assert [re.search(rf"fill: var\(--c{k}\)", text) is not None for k in (0, 1)] == [True, True]


def test_chart_of_errors_without_intervals_says_why():
    records = []
    for model in ("a:", "b:"):
        error = figure("force MAE", 1.0, "meV/Å") | {"set": "test", "key": "force_mae", "ci95": None}
        details = {"address": model, "structures": {"test": 4}, "intervals": {"test": "no intervals, which need two molecules"}}
        records.append(make_record("evaluation", model, passed=True, metrics=[error], details=details))
    text = report_html(Found("x", records))
    assert "Force MAE; test: 4 structures, no intervals, which need two molecules" in text
    assert "Force MAE with 95 % intervals" not in text
