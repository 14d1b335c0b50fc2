"""Do intervals hold: judged on answers of known distribution, and from the command line on a real model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_eval.uncertainty import _few, _wilson, calibration
from mlipfm_interfaces.calibration import conformal_quantile
from mlipfm_interfaces.checkpoint import build, load_potential, save_potential
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.structures import rattled, water
from mlipfm_interfaces.uncertainty import Uncertain


@dataclass
class Known:
    """An uncertainty that was calibrated with these answers."""

    seen: list[Uncertain]
    details: dict[str, Any] = field(default_factory=dict)
    quantities = ("energy", "forces")

    def quantile(self, quantity: str, level: float = 0.9) -> float:
        return conformal_quantile([u.score(quantity) for u in self.seen], level)


def answers(n: int, seed: int, worse: float = 1.0) -> list[Uncertain]:
    """Errors are normal, of a sigma that differs from structure to structure and is known up to the factor `worse`."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        sigma = np.exp(rng.normal(scale=0.3))
        s = Structure([8, 1, 1], water().positions, labels={"energy": 0.0, "forces": np.zeros((3, 3))})
        energy, forces = 3 * worse * sigma * rng.normal(), worse * sigma * rng.normal(size=(3, 3))
        out.append(Uncertain(s, energy, sigma, forces, np.full((3, 3), sigma)))
    return out


def test_intervals_of_structures_like_those_of_the_calibration_cover_what_they_say():
    for v in calibration(Known(answers(1000, 0)), answers(1000, 1)):  # type: ignore[arg-type]  # it only calibrates
        assert 0.88 <= v.coverage <= 0.92
        assert v.ci95[0] < v.coverage < v.ci95[1]
        assert v.ratio < 2
        assert abs(v.figures["signed_miscalibration"]) < 0.02
        assert v.figures["spearman"] == pytest.approx(v.figures["spearman_ideal"], abs=0.06)


def test_intervals_of_others_do_not_and_the_sign_says_so():
    for v in calibration(Known(answers(1000, 0)), answers(1000, 1, worse=2.0)):  # type: ignore[arg-type]  # it only calibrates
        assert v.coverage < 0.7
        assert v.figures["signed_miscalibration"] > 0.15


def test_the_ideal_width_is_that_of_the_narrowest_constant_interval():
    seen = answers(10, 3)
    energy, forces = calibration(Known(answers(50, 0)), seen)  # type: ignore[arg-type]  # it only calibrates
    assert energy.ideal == pytest.approx(1000 * sorted(abs(u.energy_error()) for u in seen)[8])
    assert forces.ideal == pytest.approx(1000 * sorted(np.linalg.norm(u.force_errors(), axis=1).max() for u in seen)[8])
    with pytest.raises(MissingLabelsError, match="no structure to compare with"):
        calibration(Known(seen), [])  # type: ignore[arg-type]  # it only calibrates


def test_a_calibration_of_200_structures_is_not_warned_of():
    assert _few(200) is None


def test_wilson_interval_of_90_of_100():
    """Tabulated: 0.8256 to 0.9448 (Brown, Cai and DasGupta, Statist. Sci. 16, 101 (2001), equation 4)."""
    assert _wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An untrained model of water, and stores that Morse labelled."""
    root = tmp_path_factory.mktemp("uncertainty")
    config = {"elements": ["H", "O"], "levels": ["morse"], "backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}}
    for name, seed in (("model", 0), ("other", 1)):
        save_potential(root / f"{name}.safetensors", build("painn", config | {"seed": seed}))
    for name, n, amplitude in (("train", 12, 0.05), ("calibrate", 20, 0.05), ("test", 10, 0.05), ("hot", 10, 0.15)):
        bare = [rattled(water(), amplitude, 100 * len(name) + k) for k in range(n)]
        with StoreWriter(root / name, name=name) as writer:
            for s, labels in zip(bare, evaluate(Morse(), bare, level="closed-form"), strict=True):
                writer.add(s.replace(labels=labels, level="morse"))
    return root


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["uncertainty", *words])
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


def test_the_commands_fit_and_evaluate(files, capsys):
    model, sure = str(files / "model.safetensors"), str(files / "sure.safetensors")
    fitting = ["fit", model, "--train", str(files / "train"), "--calibrate", str(files / "calibrate"), "--out", sure]
    status, out, _ = run(capsys, *fitting)
    assert (status, "12 structures of the training, 20 of the calibration; for energy, forces" in out) == (0, True)
    assert "warning: 20 structures of the calibration are few: standard deviations are right to 16 % at best" in out  # 1/sqrt(40)
    assert "more than 95 % cannot be given; calibrate with 200 or more" in out  # 20/21
    status, out, _ = run(capsys, "evaluate", model, sure, str(files / "test"), "--ood", str(files / "hot"), "--json")
    rows = json.loads(out)["results"]
    assert [(r["set"], r["split"], r["quantity"]) for r in rows] == [
        ("test", "id", "energy"), ("test", "id", "forces"), ("hot", "ood", "energy"), ("hot", "ood", "forces"),
    ]  # fmt: skip
    assert all(r["structures"] == 10 and 0 <= r["coverage"] <= 1 and r["half_width"] > 0 and r["ideal"] > 0 for r in rows)
    status, out, _ = run(capsys, "evaluate", model, sure, str(files / "test"))
    assert "coverage (0.9)" in out
    assert "over the ideal" in out
    trained = str(files / "train")
    refused = {
        "is the uncertainty of the model": ["evaluate", str(files / "other.safetensors"), sure, str(files / "test")],
        "is a store that the model was calibrated on": ["evaluate", model, sure, str(files / "calibrate")],
        "20 structures cannot guarantee a coverage of 99%": ["evaluate", model, sure, str(files / "test"), "--coverage", "0.99"],
        "is a store that the model was trained on": ["fit", model, "--train", trained, "--calibrate", trained, "--out", sure],
    }  # fmt: skip
    with Store(files / "train") as seen, StoreWriter(files / "copies", name="copies") as writer:  # in another order, with one that is new
        for s in [*list(seen)[::-1], Store(files / "test")[0]]:
            writer.add(s)
    copies = str(files / "copies")
    refused["12 of 13 structures are of a store that the model was trained on"] = [
        "fit",
        model,
        "--train",
        trained,
        "--calibrate",
        copies,
        "--out",
        sure,
    ]
    for words, line in refused.items():
        status, _, error = run(capsys, *line)
        assert status == 2
        assert words in error


def test_the_training_stores_are_known_from_the_manifest_of_the_model(files, tmp_path, capsys):
    """`--train` names another store than the one that the model was trained on."""
    found = sha256(files / "train" / "manifest.json")
    recipe = {"data": {"train": [str(files / "train")]}}
    save_potential(
        tmp_path / "told.safetensors", load_potential(files / "model.safetensors"), {"data": [{"manifest": found}], "recipe": recipe}
    )
    model, sure = str(tmp_path / "told.safetensors"), str(tmp_path / "sure.safetensors")
    line = ["fit", model, "--train", str(files / "hot"), "--calibrate", str(files / "train"), "--out", sure]
    status, _, error = run(capsys, *line)
    assert (status, "is a store that the model was trained on" in error) == (2, True)
    assert run(capsys, "fit", model, "--train", str(files / "hot"), "--calibrate", str(files / "calibrate"), "--out", sure)[0] == 0
    status, _, error = run(capsys, "evaluate", model, sure, str(files / "train"))
    assert (status, "is a store that the model was trained on" in error) == (2, True)


def test_file_in_place_of_a_store_is_refused_with_the_command_that_makes_one(files, tmp_path, capsys):
    (tmp_path / "set.xyz").write_text("1\n\nH 0 0 0\n")
    options = [f"--{key}={tmp_path / 'set.xyz'}" for key in ("train", "calibrate")]
    status, _, err = run(capsys, "fit", str(files / "model.safetensors"), *options, f"--out={tmp_path / 'u'}")
    assert status == 2
    assert f"`mlipfm data import {tmp_path / 'set.xyz'} --out STORE`" in err
