"""`mlipfm train FILE` and `mlipfm finetune FILE`: from a file to a model and a page, and what each mistake is refused with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from mlipfm.own_file.result import print_errors
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.cli import main
from users_files import TINY, labelled, run


def changed(frames: list[Atoms], change: Callable[[Atoms, dict[str, Any]], None]) -> list[Atoms]:
    """Frames with other labels: `change(atoms, results)` alters both in place."""
    for atoms in frames:
        results = dict(atoms.calc.results)
        change(atoms, results)
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def walk(n: int, key: str, factor: float) -> list[Atoms]:
    """A random walk of a crystal in small steps, with one kind of label multiplied and without stress."""
    rng, atoms, frames = np.random.default_rng(0), bulk("Cu", cubic=True), []
    for _ in range(n):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        step = atoms.copy()
        step.calc = EMT()
        results = {"energy": step.get_potential_energy(), "forces": step.get_forces()}
        results[key] = factor * results[key]
        step.calc = SinglePointCalculator(step, **results)
        frames.append(step)
    return frames


def times(key: str, factor: float) -> Callable[[Atoms, dict[str, Any]], None]:
    def change(atoms: Atoms, results: dict[str, Any]) -> None:
        results[key] = results[key] * factor

    return change


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of copper clusters, made by the command, with everything that it leaves."""
    folder = tmp_path_factory.mktemp("pretrained")
    write(folder / "copper.xyz", labelled(40))
    with pytest.raises(SystemExit) as end:
        main(["train", str(folder / "copper.xyz"), *TINY, "--level", "emt", "--steps", "30", "--out", str(folder / "out")])
    assert end.value.code == 0
    return folder / "out"


def test_a_file_becomes_a_model_for_ase_with_errors_uncertainty_a_page_and_a_card(pretrained, capsys):
    from mlipfm_md import MlipfmCalculator

    result = json.loads((pretrained / "result.json").read_text())
    assert result["after"]["force_mae"]["value"] < result["before"]["force_mae"]["value"]
    assert result["sizes"] == {"train": 32, "valid": 4, "test": 4}
    atoms = labelled(1)[0]
    atoms.calc = MlipfmCalculator(pretrained / "model.safetensors")
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.get_property("energy_uncertainty", atoms) > 0
    page = (pretrained / "report.html").read_text()
    assert all(
        word in page for word in ("MlipfmCalculator", "before training", "trained, test: forces", "Training loss", "Preflight", "Data")
    )
    assert not re.search(r"(src|href)=.https?:", page)  # complete in itself
    predicted = read(pretrained / "predictions.xyz", ":")
    assert len(predicted) == 4
    assert "Errors on the test part" in (pretrained / "card.md").read_text()
    copper = pretrained.parent / "copper.xyz"
    status, out, _ = run(capsys, "train", copper, *TINY, "--level", "emt", "--steps", 30, "--out", pretrained)
    assert (status, "imported by an earlier command" in out, "nothing to train" in out) == (0, True, True)
    status, _, err = run(capsys, "train", copper, *TINY, "--level", "pbe", "--steps", 30, "--out", pretrained)
    assert (status, "belongs to another request (level: emt -> pbe)" in err) == (2, True)


def test_fine_tuning_to_another_level_fits_its_atomic_energies_and_says_the_errors_before(pretrained, tmp_path, capsys):
    """Energies 7 eV per atom away are no error of the model: the references are fitted before the first step."""
    shifted = changed(labelled(30, seed=1), lambda atoms, results: results.update(energy=results["energy"] + 7.0 * len(atoms)))
    write(tmp_path / "other.xyz", shifted)
    words = ("--from", pretrained / "model.safetensors", "--steps", 20, "--json", "--out", tmp_path / "out")
    status, out, err = run(capsys, "finetune", tmp_path / "other.xyz", *words)
    assert status == 0, err
    result = json.loads(out)
    assert result["before"]["energy_mae"]["value"] < 1000  # meV/atom
    assert result["level"] == "other"
    assert "level 'other' is new to the model: it starts from 'emt'" in err
    assert "before training, on the test part: force MAE" in err


def _write(frames: list[Atoms], path: Path) -> Path:
    write(path, frames)
    return path


def _without(label: str) -> Callable[[Atoms, dict[str, Any]], None]:
    def change(atoms: Atoms, results: dict[str, Any]) -> None:
        del results[label]

    return change


def _unknown_key(path: Path) -> Path:
    frames = labelled(12)
    for atoms in frames:
        atoms.info["my_E"] = atoms.calc.results["energy"]
        atoms.calc = None
    return _write(frames, path)


def _spin_zero(path: Path) -> Path:
    frames = labelled(12)
    for atoms in frames:
        atoms.info |= {"charge": 0, "spin": 1 + len(atoms) * 29 % 2 + 1}  # of the wrong parity
    return _write(frames, path)


def _mixed_levels(path: Path) -> Path:
    frames = labelled(40, periodic=True)
    return _write(frames[:20] + changed(frames[20:], lambda atoms, results: results.update(energy=results["energy"] - 4000.0)), path)


def _text(text: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_text(text)
        return path

    return make


def _folder(path: Path) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    (folder / "notes.txt").write_text("none")
    return folder


#: Mistake -> file, further words, and what the one line says.
MISTAKES: dict[str, tuple[Callable[[Path], Path], tuple[object, ...], str]] = {
    "labels under a key that is not read": (_unknown_key, (), "missing-labels.*my_E"),
    "gradients in place of forces": (lambda p: _write(walk(40, "forces", -1), p), (), "forces-sign.*--read forces_sign=-1"),
    "energies in another unit": (lambda p: _write(walk(40, "energy", 23.06), p), (), "energy-unit|energy-force-mismatch"),
    "stress positive under compression": (lambda p: _write(changed(labelled(40, periodic=True), times("stress", -1)), p), (), "stress-sign"),
    "two levels of theory under one name": (_mixed_levels, (), "mixed-levels"),
    "a multiplicity that the electrons forbid": (_spin_zero, (), "impossible-multiplicity"),
    "one frame": (lambda p: _write(labelled(1), p), (), "holds 1 structures with labels; 10 are the least"),
    "an empty file": (_text(""), (), "unreadable-file"),
    "a folder": (_folder, (), "is a folder of no format that is read"),
    "copies of one frame": (lambda p: _write(labelled(1) * 20, p), (), "10 are the least|near-duplicates of each other"),
    "a backbone that does not exist": (lambda p: _write(labelled(12), p), ("--backbone", "mase"), "did you mean 'mace'"),
    "a weight of a label that no structure has": (
        lambda p: _write(labelled(12), p), ("objectives.0.stress_weight=1",), "none of 10 structures has the label 'stress'"
    ),
    "another key of the recipe": (lambda p: _write(labelled(12), p), ("optimizer.rate=1",), "unknown key 'optimizer.rate'"),
    "references of an element that the data do not have": (
        lambda p: _write(labelled(12), p), ("potential.elements=[Cu, Ni]",), "no training structure has Ni"
    ),
    "several processes in one": (lambda p: _write(labelled(12), p), ("strategy.name=ddp",), "needs several processes"),
    "an option of a recipe": (lambda p: _write(labelled(12), p), ("--time-limit", "1h"), "belongs? to a recipe"),
    "minutes and steps": (lambda p: _write(labelled(12), p), ("--minutes", 1, "--steps", 5), "give one of them"),
    "a licence that is none": (lambda p: _write(labelled(12), p), ("--licence", "free!!"), "licence"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_name_in_one_line_before_training(mistake, tmp_path, capsys):
    make, words, message = MISTAKES[mistake]
    status, _, err = run(capsys, "train", make(tmp_path / "set.xyz"), *words, "--out", tmp_path / "out")
    assert status == 2, err
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out" / "trained").exists()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda: labelled(12, element="Ni"), "the file has Ni, which the model does not support.*it supports Cu; --new-elements"),
        (lambda: changed(labelled(12), times("forces", -1)), "forces-sign.*--read forces_sign=-1"),
        (lambda: changed(labelled(12), times("forces", 23.0605)), "forces-unit|energy-force-mismatch|energy-unit"),
    ],
)
def test_what_does_not_fit_to_the_model_is_refused_by_name(frames, message, pretrained, tmp_path, capsys):
    path = _write(frames(), tmp_path / "set.xyz")
    status, _, err = run(capsys, "finetune", path, "--from", pretrained / "model.safetensors", "--out", tmp_path / "out")
    assert status == 2
    assert re.search(message, err.splitlines()[-1]), err


def test_a_model_that_training_has_made_worse_is_named_where_the_paired_interval_says_so():
    def errors(force: float, energy: float, groups: int, spread: float = 0.0) -> dict[str, Any]:
        found = {"force_mae": ("force MAE", "meV/Å", force), "energy_mae": ("energy MAE", "meV/atom", energy)}
        sums = {f"g{k}": [energy * (1 + k) + spread * (-1) ** k, 1.0] for k in range(groups)}  # molecules differ much in difficulty
        return {
            "metrics": [
                {"key": key, "name": name, "unit": unit, "value": value, "ci95": None, "n_total": groups}
                for key, (name, unit, value) in found.items()
            ],
            "details": {"errors": {"test": {"energy": sums, "forces": {}}}},
        }

    def told(*pair: dict[str, Any]) -> list[str]:
        return [line for line in print_errors(*pair, print) if "worse" in line or "too few" in line]

    assert not told(errors(40, 3, 8), errors(39, 3, 8))
    (line,) = told(errors(40, 3, 8), errors(39, 4, 8))
    assert "worse: energy MAE by" in line
    assert "force MAE" not in line
    assert "--minutes" in line
    for few in (told(errors(40, 3, 1), errors(39, 4, 1)), told(errors(40, 3, 8), errors(39, 3.01, 8, spread=5.0))):
        (line,) = few
        assert "test structures are too few to tell: energy MAE" in line
        assert "worse" not in line


def test_energies_alone_can_be_learned(tmp_path, capsys):
    path = _write(changed(labelled(14), _without("forces")), tmp_path / "set.xyz")
    status, out, err = run(capsys, "train", path, *TINY, "--steps", 4, "--out", tmp_path / "out")
    assert status == 0, err
    assert "energy MAE" in out


MODES: dict[str, tuple[object, ...]] = {
    "layerwise": (), "frozen": (), "heads": (), "lora": ("--rank", 2), "replay": ("--replay", "STORE", "--replay-choice", "farthest"),
}  # fmt: skip


@pytest.mark.ci
@pytest.mark.parametrize("mode", [mode if mode in ("heads", "lora") else pytest.param(mode, marks=pytest.mark.full) for mode in MODES])
def test_every_mode_trains_says_what_trains_and_measures_forgetting(mode, pretrained, tmp_path, capsys):
    path = _write(labelled(20, seed=2), tmp_path / "set.xyz")
    store = pretrained / "data" / "train"
    words = [store if word == "STORE" else word for word in MODES[mode]]
    steps = () if mode == "heads" else ("--steps", 4)
    start = ("--from", pretrained / "model.safetensors", "--forgetting", pretrained / "data" / "valid", "--level", "emt")
    status, out, err = run(capsys, "finetune", path, *start, "--mode", mode, *words, *steps, "data.budget=60", "--out", tmp_path / "out")
    assert status == 0, err
    assert "forgetting: force MAE on 4 structures of valid" in out
    assert (f"mode {mode} trains" in out) or mode == "replay"
    if mode == "replay":
        assert "labels that the model predicts at level 'emt'" in out


@pytest.mark.ci
def test_errors_on_structures_of_the_pre_training_say_so(pretrained, tmp_path, capsys):
    words = ("--from", pretrained / "model.safetensors", "--steps", 4, "--out", tmp_path / "out", "data.budget=60")
    status, out, err = run(capsys, "finetune", pretrained / "data" / "train", *words)
    assert status == 0, err
    assert re.search(
        r"test part: the model was pre-trained on (\d+) of these \1 structures: errors on them say little about new ones", out
    ), out


@pytest.mark.ci
def test_a_new_head_learns_a_quantity_and_leaves_the_forces_as_they_were(pretrained, tmp_path, capsys):
    frames = labelled(20, seed=3)
    for atoms in frames:
        atoms.info["REF_band_gap"] = 3.0 - 0.1 * float(np.abs(atoms.calc.results["forces"]).max())
        atoms.info["dipole"] = atoms.positions[0] - atoms.positions.mean(axis=0)
        atoms.calc = None
    path = _write(frames, tmp_path / "gaps.xyz")
    words = ("--from", pretrained / "model.safetensors", "--mode", "new-head", "--steps", 4, "--level", "emt")
    status, out, err = run(capsys, "finetune", path, *words, "--quantity", "band_gap", "--out", tmp_path / "out")
    assert status == 0, err
    assert "on the test part: band_gap MAE" in out
    head = load_checkpoint(tmp_path / "out" / "model.safetensors")[0]["config"]["heads"]["band_gap"]
    gaps = [atoms.info["REF_band_gap"] for atoms in frames]
    assert head["shift"] == pytest.approx(np.mean(gaps), abs=np.std(gaps))  # from the labels, so that it starts near them
    assert head["scale"] == pytest.approx(np.std(gaps), rel=0.5)  # of the 16 that are trained on, not of all 20
    assert re.search("have changed by 0 ", out), out
    status, _, err = run(capsys, "finetune", path, *words, "--quantity", "homo", "--out", tmp_path / "other")
    assert (status, "missing-labels" in err) == (2, True)
    status, _, err = run(capsys, "finetune", path, *words, "--quantity", "dipole", "--out", tmp_path / "another")
    assert (status, "'dipole' depends on 'total_charge'" in err) == (2, True)  # which this model does not take


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mode", "replay"), "--mode replay needs the structures to train on again"),
        (("--replay", "store"), "--replay has no effect with --mode naive; add --mode replay"),
        (("--rank", 3), "--rank has no effect with --mode naive; add --mode lora"),
        (("--mode", "new-head"), "needs the quantity to predict"),
        (("--mode", "heads", "--steps", 3), "--steps has no effect with --mode heads"),
        (("--mode", "heads", "--minutes", 3), "--minutes has no effect with --mode heads"),
        (("level_starts.set=pbe",), "pbe"),
    ],
)
def test_an_option_without_effect_is_refused(words, message, pretrained, tmp_path, capsys):
    path = _write(labelled(20, seed=2), tmp_path / "set.xyz")
    status, _, err = run(capsys, "finetune", path, "--from", pretrained / "model.safetensors", *words, "--out", tmp_path / "out")
    assert (status, message in err) == (2, True), err
