"""Pages: what they say is what the registry has, without scripts and on a phone; the full tier looks at them in Chromium."""

from __future__ import annotations

import html
import re

import pytest
from browser import CHROMIUM, Browser
from mlipfm_hub.services import viewer_key

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


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_pages_fit_a_phone_work_with_the_keyboard_and_log_no_error(filled, tmp_path):
    key = viewer_key(filled.tokens["admin"])
    with Browser(390, 800) as browser:
        browser.go(f"{filled.address}/login?key={key}")
        for k, path in enumerate(("/", "/models/argon", "/models/argon/2", "/leaderboard", "/data", "/try", "/nothing")):
            browser.go(filled.address + path)
            browser.picture(tmp_path / f"{k}.png")
            assert browser.run("document.documentElement.scrollWidth") <= 390, path
            unnamed = "[...document.querySelectorAll('input:not([type=hidden]),select,textarea')].filter(e => !e.labels.length).length"
            assert browser.run(unnamed) == 0, path
            browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            assert browser.run("document.activeElement.className") == "skip", path
        assert [line for line in browser.said if "404" not in line] == []
