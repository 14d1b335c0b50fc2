"""`mlipfm evaluate` and `mlipfm compare` on the files that users have: labels in part, data the model knows, predictions to take along."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from mlipfm_data import Importer
from mlipfm_data.readers.extxyz import export_extxyz
from mlipfm_data.store.writer import StoreWriter
from mlipfm_eval._training_overlap import known_structures, overlap_text
from mlipfm_eval.cli import compare_app, evaluate_app
from mlipfm_eval.comparison import differences
from mlipfm_eval.data_sets import open_sets
from mlipfm_eval.evaluation import evaluate_set
from mlipfm_eval.prediction_errors import predict
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, OptionError
from mlipfm_interfaces.frame_hashes import encode, frame_hashes
from mlipfm_interfaces.structure import Provenance, Structure
from typer.testing import CliRunner

from .test_prediction_errors import Spring, labelled


def copper(n: int, group: str = "a", seed: int = 0) -> list[Structure]:
    """Rattled fcc cells of four atoms, labelled by ASE's effective medium theory."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    rng, made = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(scale=0.08, size=(4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress(voigt=False)}
        made.append(Structure(atoms.numbers, atoms.positions, cell=atoms.cell.array, pbc=[True] * 3, level="emt", labels=labels,
                              provenance=Provenance(group=f"{group}{k % 3}", index=k)))  # fmt: skip
    return made


def run(app, *words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_file_with_all_three_labels_is_evaluated_as_it_is(tmp_path):
    export_extxyz(copper(6), tmp_path / "test.xyz")
    said = run(
        evaluate_app,
        "emt:",
        tmp_path / "test.xyz",
        "--record",
        tmp_path / "r.json",
        "--page",
        tmp_path / "p.html",
        "--out",
        tmp_path / "o.xyz",
    )
    for words in ("structures with energy", "structures with forces", "stress MAE, meV/Å³", "intervals over 3 molecules or trajectories"):
        assert words in said
    assert all(f"written: {tmp_path / file}" in said for file in ("r.json", "p.html", "o.xyz"))
    figures = {m["key"]: m for m in json.loads((tmp_path / "r.json").read_text())["metrics"] if "element" not in m}
    assert {k: figures[k]["n_total"] for k in ("energy_mae", "force_mae", "stress_mae")} == dict.fromkeys(
        ("energy_mae", "force_mae", "stress_mae"), 6
    )
    assert figures["force_mae"]["value"] < 1e-6
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 3
    assert "force RMSE" in page
    assert "<script" not in page


def test_predictions_stand_beside_the_labels_in_a_file_that_ase_opens(tmp_path):
    frames = copper(3)
    export_extxyz([s.replace(labels=dict(s.labels, energy=s.labels["energy"] + 0.4)) for s in frames], tmp_path / "test.xyz")
    run(evaluate_app, "emt:", tmp_path / "test.xyz", "--out", tmp_path / "o.xyz")
    for atoms, s in zip(ase.io.read(tmp_path / "o.xyz", ":"), frames, strict=True):
        assert atoms.info["pred_energy"] == pytest.approx(float(s.labels["energy"]), abs=1e-9)
        assert atoms.info["REF_energy"] == pytest.approx(float(s.labels["energy"]) + 0.4, abs=1e-9)
        np.testing.assert_allclose(atoms.arrays["pred_forces"], s.labels["forces"], atol=1e-9)
        np.testing.assert_allclose(np.reshape(atoms.info["pred_stress"], (3, 3)), s.labels["stress"], atol=1e-9)


def test_structures_without_forces_are_counted_for_what_they_have(tmp_path):
    frames = [s.replace(labels={"energy": s.labels["energy"]}) if k % 2 else s for k, s in enumerate(copper(6))]
    with StoreWriter(tmp_path / "store", name="store") as writer:
        for s in frames:
            writer.add(s)
    (data,) = open_sets([tmp_path / "store"], [])
    from mlipfm_interfaces.benchmark import open_model

    with open_model("emt:") as model:
        found = evaluate_set(model.model, data)
    assert {key: len(cases) for key, cases in found.predictions.cases.items()} == {"energy": 6, "forces": 3, "stress": 3}


def test_option_of_a_reader_reaches_the_file(tmp_path):
    export_extxyz(copper(3), tmp_path / "test.xyz")
    text = (tmp_path / "test.xyz").read_text().replace("REF_energy", "my_energy")
    (tmp_path / "mine.xyz").write_text(text)
    (data,) = open_sets([str(tmp_path / "mine.xyz")], [], energy_key="my_energy")
    assert all("energy" in s.labels for s in data.structures)
    assert "energy" not in open_sets([tmp_path / "mine.xyz"], [])[0].structures[0].labels
    assert "structures with energy" in run(evaluate_app, "emt:", tmp_path / "mine.xyz", "--read", "energy_key=my_energy")


def test_frames_that_cannot_be_used_are_left_out_and_counted_and_a_file_of_such_frames_is_refused(tmp_path):
    export_extxyz(copper(3), tmp_path / "test.xyz")
    text = (tmp_path / "test.xyz").read_text()
    first = text.split("REF_energy=")[1].split()[0]
    (tmp_path / "test.xyz").write_text(text.replace(f"REF_energy={first}", "REF_energy=nan"))
    (data,) = open_sets([tmp_path / "test.xyz"])
    assert len(data.structures) == 2
    assert "1 of 3 frames are left out, the first: " in data.notes[0]
    assert "frame 0" in data.notes[0]
    assert "1 of 3 frames are left out" in run(evaluate_app, "emt:", tmp_path / "test.xyz")
    export_extxyz(copper(1), tmp_path / "one.xyz")
    text = (tmp_path / "one.xyz").read_text()
    (tmp_path / "one.xyz").write_text(text.replace(text.split("REF_energy=")[1].split()[0], "nan"))
    with pytest.raises(InvalidStructureError, match="contains NaN"):
        open_sets([tmp_path / "one.xyz"])


def test_data_the_model_was_trained_on_are_known_by_store_and_by_frame(tmp_path):
    frames = copper(8)
    with StoreWriter(tmp_path / "train", name="train") as writer:
        for s in frames[:6]:
            writer.add(s)
    (known,) = open_sets([tmp_path / "train"], [])
    by_store = {"extra": {"data": [{"name": "train", "manifest": known.digest}]}}
    assert known_structures(by_store, known) == {"training": 6}
    export_extxyz([s.replace(total_charge=None, provenance=Provenance()) for s in frames[4:]], tmp_path / "test.xyz")
    (mixed,) = open_sets([tmp_path / "test.xyz"], [])
    by_frame = {"extra": {"data": [{"frames": encode(frame_hashes(frames[:6]))}]}}
    assert known_structures(by_frame, mixed) == {"training": 2}
    assert known_structures({"extra": {"data": [{"frames": encode(frame_hashes(copper(5, seed=9)))}]}}, mixed) == {}
    found = evaluate_set(Spring(), mixed, manifest=by_frame)
    assert overlap_text(found.seen, 4) == "the model was trained on 2 of these 4 structures: errors on them say little about new ones"


def test_half_the_error_is_better_and_the_same_model_shows_no_difference():
    frames = labelled(24, 6)
    good, bad = (predict(Spring(error=e, c=e), frames) for e in (0.01, 0.02))
    by_key = {d.key: d for d in differences(good, bad)}
    assert by_key["force_mae"].verdict == "better"
    assert by_key["force_mae"].metric.ci95[1] < 0
    assert {d.key: d.verdict for d in differences(bad, good)}["force_rmse"] == "worse"
    assert {d.verdict for d in differences(good, good)} == {"no difference seen"}
    with pytest.raises(MlipfmError, match="on the same structures"):
        differences(good, predict(Spring(), frames[:-1]))


def test_what_is_hard_for_both_models_cancels_in_the_difference():
    """Groups differ tenfold in difficulty, the models by a fifth: each interval alone is wide, that of the difference decides."""
    frames = [s.replace(positions=s.positions * (1 + 9 * (k % 6 == 0)), labels={}) for k, s in enumerate(labelled(36, 6))]
    frames = [s.replace(labels=Spring().evaluate([s], ())[0]) for s in frames]
    one, two = (predict(Spring(k=k), frames) for k in (1.10, 1.12))
    from mlipfm_eval.prediction_errors import error_metrics

    first, second = (error_metrics(p)["force_mae"].ci95 for p in (one, two))
    assert first[1] > second[0]  # the intervals overlap
    assert {d.key: d.verdict for d in differences(one, two)}["force_mae"] == "better"


def test_compare_prints_paired_differences_and_writes_them(tmp_path):
    export_extxyz(copper(6), tmp_path / "test.xyz")
    said = run(compare_app, "emt:", "emt:", "--data", tmp_path / "test.xyz", "--out", tmp_path / "c.json")
    assert "no difference seen" in said
    assert {row["key"] for row in json.loads((tmp_path / "c.json").read_text())} >= {"energy_mae", "force_rmse", "stress_mae"}
    with pytest.raises(OptionError, match="two models or more"):
        run(compare_app, "emt:", "--data", tmp_path / "test.xyz")


def test_imported_store_and_its_file_give_the_same_figures(tmp_path):
    export_extxyz(copper(6), tmp_path / "test.xyz")
    with Importer(tmp_path / "store") as importer:
        importer.add(tmp_path / "test.xyz")
    records = []
    for path in (tmp_path / "test.xyz", tmp_path / "store"):
        run(evaluate_app, "emt:", path, "--record", tmp_path / "r.json")
        records.append([{k: v for k, v in m.items() if k != "set"} for m in json.loads((tmp_path / "r.json").read_text())["metrics"]])
    assert records[0] == records[1]


def test_labels_of_another_zero_of_energy_are_plotted_ranked_and_explained_without_it(tmp_path):
    """Copper with a constant of 600 eV per atom, and one frame that is 40 meV per atom off."""
    frames = copper(9)
    moved = [s.replace(labels=dict(s.labels, energy=s.labels["energy"] - 600.0 * len(s) + 0.16 * (k == 4))) for k, s in enumerate(frames)]
    export_extxyz(moved, tmp_path / "test.xyz")
    said = run(evaluate_app, "emt:", tmp_path / "test.xyz", "--page", tmp_path / "p.html", "--record", tmp_path / "r.json")
    details = json.loads((tmp_path / "r.json").read_text())["details"]
    energy = details["parity"]["test.xyz"]["energy"]
    assert energy["unit"] == "meV/atom"
    assert np.abs(np.subtract(energy["predicted"], energy["reference"])).max() < 40
    assert max(w["energy"] for w in details["worst"]["test.xyz"]) < 40
    page = (tmp_path / "p.html").read_text()
    (sentence,) = details["zero_of_energy"].values()
    assert sentence in page
    assert sentence in said
    assert "energy MAE less constants of elements" in page
    assert "fitted constants of the elements" in page


def test_constant_of_one_molecule_is_found_from_three_frames():
    """Two elements in one composition are one constant."""
    frames = labelled(3, 1)
    moved = [s.replace(labels=dict(s.labels, energy=s.labels["energy"] + 500.0)) for s in frames]
    assert np.allclose(predict(Spring(), moved).energies_less_constants, [s.labels["energy"] * 1000 / len(s) for s in moved])
    assert predict(Spring(), moved[:2]).energies_less_constants is None


def test_file_in_hartree_is_told_by_evaluate_and_compare_with_the_option_that_reads_it(tmp_path):
    frames = copper(12)
    hartree, bohr = 27.211386245988, 0.529177210903
    in_hartree = [
        s.replace(labels={"energy": s.labels["energy"] / hartree, "forces": s.labels["forces"] * bohr / hartree}, provenance=Provenance())
        for s in frames
    ]
    export_extxyz(in_hartree, tmp_path / "test.xyz")
    said = run(evaluate_app, "emt:", tmp_path / "test.xyz", "--page", tmp_path / "p.html")
    both = run(compare_app, "emt:", "emt:", "--data", tmp_path / "test.xyz")
    for text in (said, both, (tmp_path / "p.html").read_text()):
        assert "energy-unit: energies are in Hartree" in text
        assert "--read energy_unit=Hartree" in text
        assert "--read forces_unit=Hartree/bohr" in text
        assert "another level of theory" not in text
    right = run(evaluate_app, "emt:", tmp_path / "test.xyz", "--read", "energy_unit=Hartree", "--read", "forces_unit=Hartree/bohr")
    assert "label error" not in right


def test_models_of_another_zero_of_energy_are_compared_less_constants_of_elements():
    """The first model has energies 500 eV lower; apart from that its energies are right, and those of the second are 10 % off."""

    class Lower(Spring):
        def evaluate(self, structures, outputs):
            return [row | {"energy": row["energy"] - 500.0} for row in super().evaluate(structures, outputs)]

    frames = labelled(24, 6)
    by_key = {d.key: d for d in differences(predict(Spring(k=1.1), frames), predict(Lower(), frames))}
    assert by_key["energy_mae"].metric.ci95[1] < 0
    assert by_key["energy_mae"].verdict == by_key["energy_rmse"].verdict == "zeros differ"
    assert by_key["energy_mae_shifted"].verdict == "worse"
    assert "energy_mae_shifted" not in {d.key for d in differences(predict(Spring(k=1.1), frames), predict(Spring(), frames))}
