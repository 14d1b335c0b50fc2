"""What a report shows of the summary of a quickstart; a summary that is not there leaves no empty section."""

from __future__ import annotations

from pathlib import Path

from mlipfm_eval.report import page
from mlipfm_eval.report_data import Content
from mlipfm_eval.svg import Axis, Series, chart
from mlipfm_interfaces.result_records import make_record


def figure(value: float | None, low: float = 0.0, high: float = 0.0, n_ok: int = 5) -> dict:
    return {"name": "x", "unit": "u", "value": value, "ci95": [low, high] if high else None, "n_ok": n_ok, "n_total": 5}


ROW = {"force_mae": figure(255.0, 206.0, 327.0), "energy_mae": figure(85.0, 57.0, 126.0)}
SUMMARY = {
    "verdicts": ["Rows did not help, it hurt: 1.31 <b>", "Losers: pre-trained."],
    "accuracy": {"fine-tuned": ROW, "student": ROW},
    "sets": {"test": {"what": "held-out molecules", "meaning": "no model saw them", "figures": {"fine-tuned": ROW, "student": ROW}}},
    "dynamics": {
        "fine-tuned": {"drift": figure(-0.002, -0.03, 0.02), "temperature": figure(301.0, 290.0, 310.0)},
        "pre-trained": {"drift": figure(1450.0, 1070.0, 1770.0, n_ok=3)},
    },
    "steps_per_second": {"fine-tuned": [98.0, 100.0, 99.0], "student": [210.0, 190.0, 200.0], "gfn2-xtb": [35.0, 36.0, 34.0]},
    "registry": {
        "versions": {"finetuned": 2, "pretrained": 1},
        "best": "finetuned",
        "promoted": {"quickstart@production": "ab" * 32},
        "refused": {"pretrained": "its last check failed"},
    },
}


def content(summary: dict) -> Content:
    metric = figure(0.52) | {"name": "forces-are-gradient", "unit": "eV/Å", "limit": 0.005, "status": "broken"}
    record = make_record("check", "0" * 64, passed=False, metrics=[metric], details={"broken": ["forces-are-gradient"]})
    return Content(Path("run"), summary, [], [], {}, [record])


def test_page_shows_verdicts_sets_dynamics_speed_and_registry():
    text = page(content(SUMMARY))
    for said in (
        "Rows did not help, it hurt: 1.31 &lt;b&gt;",
        "255<small>[206, 327]</small>",
        "held-out molecules: no model saw them",
        "301<small>[290, 310]</small>",
        "<td>2 of 5</td>",
        "200<small>190 to 210</small>",
        "gfn2-xtb, the labels",
        "promoted, and pulled back by another process: the same digest",
        '<span class="bad">not promoted</span>: its last check failed',
        "forces-are-gradient (0.52 eV/Å, limit 0.005)",
    ):
        assert said in text, said


def test_page_without_a_summary_has_no_empty_sections():
    text = page(content({}))
    for title in ("Errors in and out of distribution", "Dynamics", "Speed and accuracy", "Registry"):
        assert title not in text


def test_registry_that_was_left_out_says_why():
    assert "Left out: mlflow is not installed" in page(content({"registry": {"skipped": "mlflow is not installed"}}))


def test_names_stand_at_their_places_on_a_horizontal_axis():
    marks = [Series(name, [float(k)], [1.0 + k], colour=k) for k, name in enumerate("ab")]
    text = chart(marks, Axis("", ticks=False, names=("a", "b")), Axis("y"), kind="marks", title="t")
    first, second = (text.index(f">{name}</text>") for name in "ab")
    assert first < second
