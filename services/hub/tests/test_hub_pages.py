"""Pages: what they say is what the registry has, without scripts and on a phone; the full tier looks at them in Chromium."""

from __future__ import annotations

import html
import re

import pytest
from browser import CHROMIUM, Browser
from mlipfm_interfaces.hub_folder import viewer_key

pytestmark = pytest.mark.ci


@pytest.fixture
def filled(hub, make_model):
    """A hub with two versions of a model, the second in production."""
    for number, error in ((1, 0.6), (2, 0.5)):
        model = make_model(number, error)
        hub.push("argon", model.data, model.records)
        hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": number})
    return hub


def text_of(hub, path):
    status, page, _ = hub.ask("GET", path, role="read")
    assert status == 200
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.decode())))


def test_pages_show_figures_with_intervals_units_and_hashes(filled, make_model):
    card = text_of(filled, "/models/argon/2")
    assert "force MAE 0.0185 0.0167 to 0.0204 eV/Å 9 of 9" in card
    assert make_model(2, 0.5).digest in card
    assert "CC0-1.0" in card
    assert 'MlipfmCalculator("argon@production")' in card
    assert "argon/2 production 0.0185".replace(" ", "") in text_of(filled, "/leaderboard").replace(" ", "")
    assert "argon/1" not in text_of(filled, "/leaderboard")
    assert "argon/1" in text_of(filled, "/leaderboard?all=true")
    assert "1 of 1 models" in text_of(filled, "/?element=Ar&level=closed-form")
    assert "No model fits" in text_of(filled, "/?element=U")
    assert "tested" in text_of(filled, "/data")


def test_an_empty_hub_says_how_to_fill_it(hub):
    assert "mlipfm push best.safetensors" in text_of(hub, "/")
    for path in ("/leaderboard", "/data", "/try"):
        assert "yet" in text_of(hub, path) or "No model" in text_of(hub, path)


def test_text_of_others_is_not_markup(hub, make_model):
    model = make_model(licences=("LicenseRef-<script>alert(1)</script>",))
    hub.push("argon", model.data, model.records)
    page = hub.ask("GET", "/models/argon/1", role="read")[1]
    assert b"<script>alert" not in page
    assert b"&lt;script&gt;" in page


def test_a_page_that_is_not_there_says_so_in_a_page(hub):
    status, page, headers = hub.ask("GET", "/models/nothing", role="read")
    assert status == 404
    assert b"There is no such page" in page
    assert "default-src 'none'" in headers["content-security-policy"]


PAGES = (
    "/",
    "/models/argon",
    "/models/argon/2",
    "/leaderboard",
    "/data",
    "/scaling",
    "/compare",
    "/compare?model=argon/1&model=argon/2",
    "/try",
    "/nothing",
)


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_pages_fit_a_phone_work_with_the_keyboard_and_log_no_error(filled, tmp_path):
    filled.ask("POST", "/api/v1/sweeps/oxides", sweep_of(), "push")
    key = viewer_key(filled.tokens["admin"])
    with Browser(390, 800) as browser:
        browser.go(f"{filled.address}/login?key={key}")
        for k, path in enumerate(PAGES):
            browser.go(filled.address + path)
            browser.picture(tmp_path / f"{k}.png")
            assert browser.run("document.documentElement.scrollWidth") <= 390, path
            unnamed = "[...document.querySelectorAll('input:not([type=hidden]),select,textarea')].filter(e => !e.labels.length).length"
            assert browser.run(unnamed) == 0, path
            browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            assert browser.run("document.activeElement.className") == "skip", path
        assert [line for line in browser.said if "404" not in line] == []


def sweep_of(digest=""):
    """A sweep of two models of one law each, with a held-out run, a run that is a model of the hub, and one that failed; L = 2 + 1000 N^-0.5."""
    points = [
        {"run": f"{group}-w{n}", "group": group, "seed": 0, "parameters": n, "atoms": 10**6, "flops": 20.0 * n * 10**6, "core_seconds": 1.0,
         "losses": {"force MAE (meV/A)": 2 + factor * n**-0.5, "energy MAE (meV/atom)": 3.0}, "digest": digest if n == 100 else "", "failed": ""}
        for group, factor in (("painn", 1000.0), ("<b>pet</b>", 2000.0)) for n in (100, 1000, 10_000)
    ]  # fmt: skip
    points.append({**points[0], "run": "w5", "losses": {}, "failed": "the loss is not finite", "digest": ""})
    value = {"value": 0.5, "ci95": [0.4, 0.6]}
    law = {"law": {"axes": ["parameters"], "floor": 2.0, "coefficients": [1000.0], "exponents": [0.5]}, "exponents": {"parameters": value},
           "floor": {"value": 2.0, "ci95": [1.0, 3.0]}, "predictions": [{"run": "painn-w100000", "parameters": 1e5, "atoms": 1e6, "flops": 2e12,
           "predicted": 5.16, "ci95": [4.9, 5.4], "observed": 5.2, "inside": True}]}  # fmt: skip
    groups = {
        "painn": {"force MAE (meV/A)": law, "energy MAE (meV/atom)": {"refused": "all runs have one loss"}},
        "<b>pet</b>": {"force MAE (meV/A)": {"refused": "fewer than four runs"}},
    }
    return {"points": points, "fit": {"format": 1, "groups": groups, "points": 6}}


def test_a_sweep_is_shown_with_points_law_held_out_run_and_links_to_models(filled, make_model):
    digest = make_model(2, 0.5).digest
    assert filled.ask("POST", "/api/v1/sweeps/oxides", sweep_of(digest), "push")[1] == {"name": "oxides", "number": 1, "new": True}
    assert filled.ask("POST", "/api/v1/sweeps/oxides", sweep_of(digest), "push")[1]["new"] is False
    assert filled.ask("GET", "/api/v1/sweeps/oxides", role="read")[1] == sweep_of(digest)
    shown = text_of(filled, "/scaling")
    assert "6 runs with losses, 1 without" in shown
    assert "exponent of parameters 0.5 0.4 to 0.6" in shown
    assert "floor 2 1 to 3" in shown
    assert "no law fewer than four runs" in shown
    assert "painn-w100000 100,000 parameters, 1,000,000 atoms 5.16 4.9 to 5.4 5.2 yes" in shown
    page = filled.ask("GET", "/scaling", role="read")[1].decode()
    assert page.count("<circle") == 7  # six runs, and the ring of the held-out one
    assert page.count('<a href="/models/argon/2"><circle') == 2
    assert "<b>pet" not in page
    assert filled.ask("GET", "/scaling?axis=flops&group=painn", role="read")[1].count(b"<circle") == 4
    assert "not run" not in text_of(filled, "/scaling?loss=energy MAE (meV/atom)".replace(" ", "%20"))


def test_the_line_of_a_law_is_where_its_formula_is():
    from mlipfm_hub.scaling_chart import Scale, draw
    from mlipfm_hub.sweeps import Sweep

    sweep = Sweep.model_validate(sweep_of())
    chart = draw(sweep, "force MAE (meV/A)", "parameters", ["painn"], {})
    assert chart is not None
    line = [tuple(map(float, place.split(","))) for place in chart.lines[0]["points"].split()]
    for point in chart.points:  # whose losses are those of the law
        nearest = min(line, key=lambda place: abs(place[0] - point["x"]))
        assert abs(nearest[1] - point["y"]) < 12
    values = [2 + 1000 * n**-0.5 for n in (100, 1000, 10_000)] + [4.9, 5.4, 5.16, 5.2]
    assert [point["y"] for point in chart.points] == [Scale(values, chart.bottom, chart.top)(v) for v in values[:3]]
    assert draw(sweep, "no such error", "parameters", ["painn"], {}) is None


def test_a_hub_without_sweeps_says_how_to_make_one_and_a_wrong_choice_is_an_error_page(hub):
    assert "mlipfm scaling push sweep.yaml" in text_of(hub, "/scaling")
    hub.ask("POST", "/api/v1/sweeps/oxides", sweep_of(), "push")
    for query in ("axis=nothing", "loss=nothing", "group=nothing"):
        status, page, _ = hub.ask("GET", f"/scaling?{query}", role="read")
        assert (status, b"no such error, axis or model" in page) == (400, True)
    assert hub.ask("GET", "/scaling?sweep=nothing", role="read")[0] == 404


def test_the_hub_takes_the_format_that_mlipfm_writes():
    from mlipfm_hub.sweeps import Fit
    from mlipfm_train.scaling.fits import FORMAT

    assert Fit.model_validate({"format": FORMAT, "groups": {}}).format == FORMAT


def test_what_is_no_sweep_is_refused(hub):
    unknown = {"axes": ["time"], "floor": 0, "coefficients": [1], "exponents": [1]}
    for change in (
        {"points": []},
        {"fit": {"format": 99, "groups": {}}},
        {"fit": {"format": 1, "groups": {"painn": {"loss": {"law": unknown}}}}},
        {"points": [{"run": "x", "group": "y", "parameters": -1, "atoms": 1}]},
        {"page": "<script>"},
    ):
        assert hub.ask("POST", "/api/v1/sweeps/oxides", sweep_of() | change, "push")[0] == 400, change
    assert hub.ask("POST", "/api/v1/sweeps/oxides", sweep_of(), "read")[0] == 403


@pytest.mark.full
def test_the_sweep_of_a_folder_is_pushed_as_mlipfm_fitted_it(hub, tmp_path, monkeypatch, capsys):
    from mlipfm_interfaces.cli import main
    from mlipfm_train.scaling.fits import fit_sweep
    from mlipfm_train.scaling.plan import claim
    from mlipfm_train.scaling.points import Point, line_of
    from mlipfm_train.scaling.sweep import load_sweep

    document, folder = tmp_path / "sweep.yaml", tmp_path / "sweep"
    document.write_text("recipe: {potential: {name: painn}, data: {train: [x]}}\nwidth: [8, 16]\nhold_out: false\n")
    claim(load_sweep(document), folder)
    sizes = [(n, d) for n in (1000, 10_000, 100_000) for d in (10**5, 10**6, 10**7)]
    points = [
        Point(f"w{n}-n{d}", "painn", 0, n, d, 20.0 * n * d, 1.0, {"force MAE (meV/A)": 5 + 3000 * n**-0.4 + 20_000 * d**-0.5})
        for n, d in sizes
    ]
    (folder / "points.jsonl").write_text("".join(line_of(point) + "\n" for point in points))
    found = fit_sweep(folder, resamples=40)
    monkeypatch.setenv("MLIPFM_REGISTRY", hub.address)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", hub.tokens["push"])
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["mlipfm", "scaling", "push", str(document), "--name", "oxides"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == 0
    assert f"{hub.address}/scaling?sweep=oxides" in capsys.readouterr().out
    kept = hub.ask("GET", "/api/v1/sweeps/oxides", role="read")[1]
    assert kept["fit"]["groups"] == found["groups"]
    assert len(kept["points"]) == 9
    assert "exponent of parameters 0.4" in text_of(hub, "/scaling")


def test_versions_are_compared_side_by_side(filled):
    shown = text_of(filled, "/compare?model=argon/1&model=argon/2")
    assert "force MAE set abababababab 0.0222 eV/Å (0.02 to 0.0244) 0.0185 eV/Å (0.0167 to 0.0204)" in shown
    assert "The hub knows no MLflow server" in shown
    assert "Choose a second version" in text_of(filled, "/compare?model=argon/1")
    assert "argon/2" in text_of(filled, "/compare")
    assert filled.ask("GET", "/compare?model=argon/9", role="read")[0] == 404
    assert filled.ask("GET", "/compare?model=../etc", role="read")[0] == 400
    assert filled.ask("GET", "/compare?" + "&".join(f"model=argon/{k}" for k in range(1, 8)), role="read")[0] == 400


def test_a_comparison_says_when_mlflow_does_not_answer(make_hub, make_model):
    hub, model = make_hub(mlflow="http://127.0.0.1:1"), make_model()
    hub.push("argon", model.data, model.records)
    assert "MLflow at http://127.0.0.1:1 does not answer" in text_of(hub, "/compare?model=argon/1")
