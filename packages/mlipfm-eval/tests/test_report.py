"""The report of a quickstart's folder: complete in itself, safe against what files say, honest about what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mlipfm_eval.report import page, write_report
from mlipfm_eval.report_data import collect
from mlipfm_eval.svg import Axis, Series, chart
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.metrics import mean
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.result_records import make_record, write_record
from mlipfm_interfaces.structure import Provenance
from mlipfm_interfaces.testing import structures as known


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a small PaiNN, whose own answers, 10 meV/Å off, are the test set."""
    from mlipfm_data.store.store import StoreWriter
    from mlipfm_interfaces.checkpoint import build

    path = tmp_path_factory.mktemp("quickstart")
    model = build("painn", {"elements": [1, 8], "levels": ["gfn2-xtb"], "backbone": {"channels": 8, "layers": 1}})
    for name in ("pretrained", "finetuned"):
        run = path / name
        run.mkdir()
        save_potential(run / "best.safetensors", model, {"recipe": {"note": "<script>alert(1)</script>"}})
        lines = [{"kind": "step", "step": k, "time": 0.0, "values": {"loss": 10.0 / (k + 1)}} for k in range(30)]
        figure = {"name": "force MAE", "unit": "meV/A", "value": 50.0, "ci95": None, "n_ok": 1, "n_total": 1}
        lines += [{"kind": "validation", "step": k, "time": 0.0, "values": {"metrics": [figure]}} for k in (9, 19)]
        (run / "events.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind":"st')
    (path / "data").mkdir()
    with StoreWriter(path / "data" / "test", name="test") as writer:
        for k in range(6):
            s = known.rattled(known.water(), 0.05, seed=k).replace(
                level="gfn2-xtb", total_charge=0, provenance=Provenance(group=f"g{k % 3}")
            )
            (row,) = evaluate(model, [s])
            writer.add(s.replace(labels={"energy": row["energy"], "forces": row["forces"] + 0.01}))
    return path


def test_page_asks_for_nothing_runs_nothing_and_fits_a_phone(folder):
    text = write_report(folder).read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!["']?data:)\S*""", text) == []
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert 'name="viewport" content="width=device-width' in text
    assert text.count("<svg") >= 6


def test_error_of_ten_meV_is_in_the_table_of_the_page(folder):
    content = collect(folder)
    assert [t.name for t in content.tried] == ["pre-trained", "fine-tuned"]
    assert content.tried[0].figures["force_mae"].value == pytest.approx(10.0, rel=1e-4)
    assert ">10<small>[10, 10]</small>" in page(content)


def test_curve_of_a_log_that_was_cut_by_a_kill_has_all_whole_lines(folder):
    (first, _) = collect(folder).runs
    assert list(first.steps) == list(range(30))
    assert list(first.validation["force MAE, meV/Å"][0]) == [9, 19]


def test_records_and_what_could_not_be_compared_are_shown(folder, tmp_path):
    (folder / "records").mkdir(exist_ok=True)
    figure = mean([1.0, 2.0], name="force MAE", unit="meV/Å")
    write_record(folder / "records" / "e.json", make_record("evaluation", "tblite:GFN2", passed=True, metrics=[figure]))
    write_record(folder / "records" / "c.json", make_record("check", "emt:", passed=False, metrics=[], details={"broken": ["rotation"]}))
    text = page(collect(folder))
    assert "breaks rotation" in text
    assert "force MAE 1.5 meV/Å" in text


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="holds no training run"):
        write_report(tmp_path)


def test_chart_leaves_out_what_has_no_place_on_its_axes():
    text = chart([Series("a", [1, 2, 3, 4], [1.0, np.nan, -1.0, 100.0])], Axis("x"), Axis("y", log=True), kind="line", title="a & b")
    assert len(re.search('points="([^"]*)"', text)[1].split()) == 2
    assert 'aria-label="a &amp; b"' in text


def test_diagonal_of_a_parity_plot_is_where_both_values_are_equal():
    text = chart([Series("a", [0.0, 3.0], [1.0, 3.0])], Axis("x"), Axis("y"), kind="points", title="p", equal=True)
    x1, y1, x2, y2 = (float(v) for v in re.search(r'class="diagonal" d="M(\S+) (\S+)L(\S+) (\S+)"', text).groups())
    points = [tuple(map(float, p)) for p in re.findall(r"M(\S+) (\S+)h0", text)]
    on_line = [abs((y - y1) / (y2 - y1) - (x - x1) / (x2 - x1)) < 0.01 for x, y in points]
    assert on_line == [False, True]


def test_folder_that_is_itself_a_training_run_has_its_curve_and_its_model(folder, tmp_path, monkeypatch):
    content = collect(folder / "pretrained")
    assert [run.name for run in content.runs] == ["pre-trained"]
    assert list(content.manifests) == ["pre-trained"]
    assert "<h1>Training report</h1>" in page(content)
    monkeypatch.chdir(folder / "finetuned")
    assert [run.name for run in collect(Path()).runs] == ["fine-tuned"]
