"""Teacher labels: rows against finite differences, overlays joined when read, resuming, refusals, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_distill import label_geometries, label_hessian_rows
from mlipfm_distill.commands import app
from mlipfm_distill.teacher_labels import RECORD, batches_of, chosen_rows
from mlipfm_interfaces.checkpoint import build, load_checkpoint, load_potential, save_potential
from mlipfm_interfaces.errors import LabelingError, LevelError, PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, DirectPairs, Morse
from typer.testing import CliRunner


def finite_difference_row(potential: Potential, s: Structure, atom: int, axis: int, h: float = 3e-4) -> np.ndarray:
    """d2E/dr_(atom, axis) dr = -dF/dr by central differences of fourth order."""
    step = np.zeros_like(s.positions)
    step[atom, axis] = h
    moved = [s.replace(positions=s.positions + k * step, labels={}) for k in (-2, -1, 1, 2)]
    f = [found["forces"] for found in evaluate(potential, moved, ("forces",))]
    return -(f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)


@pytest.mark.parametrize("name", ["teacher", "density", "painn"])
def test_a_stored_row_is_the_central_difference_of_the_forces(name: str, teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    path = teacher
    if name != "teacher":
        path = tmp_path / "student.safetensors"
        config = {"elements": ["H", "C", "O"], "levels": ["closed-form"], "dtype": "float64", "backbone": {"channels": 8, "layers": 2}}
        save_potential(path, build(name, config))
    potential = load_potential(path)
    label_geometries(molecules[:4], path, tmp_path / "labels", rows=3)
    for s in Store(tmp_path / "labels"):
        for row, (atom, axis) in zip(s.labels["hessian_rows"], s.labels["hessian_rows_index"].astype(int), strict=True):
            expected = finite_difference_row(potential, s, atom, axis)
            np.testing.assert_allclose(row, expected, atol=1e-6 * np.abs(expected).max())
            assert np.abs(row).max() > 1e-4
            np.testing.assert_allclose(row.sum(axis=0), 0.0, atol=1e-9)  # moving everything together changes nothing


def test_geometries_get_the_teachers_energy_forces_and_rows_and_say_whose_they_are(
    teacher: Path, molecules: list[Structure], tmp_path: Path
) -> None:
    report = label_geometries([*molecules, molecules[0]], teacher, tmp_path / "labels", rows=4, seed=3)
    assert (report.total, report.labelled, report.present, report.duplicates) == (9, 8, 0, 1)
    stored = list(Store(tmp_path / "labels"))
    expected = evaluate(load_potential(teacher), molecules)
    digest = load_checkpoint(teacher)[0]["digest"]
    for s, plain, values in zip(stored, molecules, expected, strict=True):
        assert s.labels["energy"] == pytest.approx(float(values["energy"]), abs=1e-12)
        np.testing.assert_allclose(s.labels["forces"], values["forces"], atol=1e-12)
        assert np.array_equal(s.labels["hessian_rows_index"], chosen_rows(plain, 4, seed=3))
        assert (s.level, s.provenance.source) == ("closed-form", f"teacher:{digest[:12]}")
        assert (s.provenance.group, s.provenance.licence) == (plain.provenance.group, "CC0-1.0")
    assert json.loads((tmp_path / "labels" / RECORD).read_text()) == {"teacher": digest, "level": "closed-form", "rows": 4, "seed": 3}


def test_rows_laid_over_a_store_leave_its_energies_and_forces(teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "true", name="true") as writer:
        for k, s in enumerate(molecules):
            writer.add(s.replace(level="closed-form" if k < 5 else "other", labels={"energy": -7.0, "forces": np.full((len(s), 3), 0.5)}))
    report = label_hessian_rows(tmp_path / "true", teacher, rows=2)
    assert (report.labelled, report.other_levels) == (5, 3)
    for k, s in enumerate(Store(tmp_path / "true")):
        assert (s.labels["energy"], s.labels["forces"][0, 0]) == (-7.0, 0.5)
        assert ("hessian_rows" in s.labels) == (k < 5)


def test_geometries_that_a_store_holds_twice_are_labelled_once(teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "twice", name="twice") as writer:
        for k, s in enumerate((*molecules[:3], molecules[0])):
            writer.add(s.replace(level="closed-form", labels={"energy": -7.0 - k}))
    report = label_hessian_rows(tmp_path / "twice", teacher, rows=2)
    assert (report.total, report.labelled, report.duplicates) == (4, 3, 1)
    first, _, _, again = Store(tmp_path / "twice")
    assert np.array_equal(first.labels["hessian_rows"], again.labels["hessian_rows"])


def test_an_interrupted_labelling_goes_on_and_gives_the_same_labels(
    teacher: Path, molecules: list[Structure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlipfm_distill.teacher_labels.BATCH_ATOMS", 7)
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_geometries(molecules, teacher, tmp_path / "labels", rows=2, advance=stop)
    report = label_geometries(molecules, teacher, tmp_path / "labels", rows=2)
    assert (report.present, report.labelled) == (4, 4)
    label_geometries(molecules, teacher, tmp_path / "once", rows=2)
    for a, b in zip(Store(tmp_path / "labels"), Store(tmp_path / "once"), strict=True):
        assert all(np.array_equal(a.labels[key], b.labels[key]) for key in ("energy", "forces", "hessian_rows", "hessian_rows_index"))
    assert label_geometries(molecules, teacher, tmp_path / "labels", rows=2).labelled == 0


def test_labels_of_another_input_are_not_mixed_in(teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    label_geometries(molecules[:4], teacher, tmp_path / "labels", rows=2)
    with pytest.raises(LabelingError, match="2 of 4 structures there are not among those to be labelled: they are of another input"):
        label_geometries(molecules[2:], teacher, tmp_path / "labels", rows=2)
    assert Store(tmp_path / "labels").complete
    assert label_geometries(molecules, teacher, tmp_path / "labels", rows=2).labelled == len(molecules) - 4  # more structures of one input


def test_every_row_is_chosen_when_there_are_fewer_and_every_row_equally_often(molecules: list[Structure]) -> None:
    water = molecules[0]
    assert chosen_rows(water, 99, 0).tolist() == [[a, x] for a in range(3) for x in range(3)]
    counts = np.zeros((3, 3))
    for seed in range(900):
        (pair,) = chosen_rows(water, 1, seed).astype(int)
        counts[tuple(pair)] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 26.1  # chi squared of 8 degrees of freedom, p = 0.001


def test_batches_hold_at_most_so_many_atoms(molecules: list[Structure]) -> None:
    groups = list(batches_of(molecules, 10))
    assert [s for group in groups for s in group] == molecules
    assert max(sum(map(len, group)) for group in groups) == 10
    assert [len(group) for group in batches_of(molecules, 1)] == [1] * 8


def test_what_cannot_be_is_refused_by_name(teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    label_geometries(molecules[:2], teacher, tmp_path / "labels", rows=2)
    with pytest.raises(LabelingError, match="rows was 2, now 3"):
        label_geometries(molecules[:2], teacher, tmp_path / "labels", rows=3)
    with pytest.raises(LevelError, match=r"does not support the level 'gfn2'.*closed-form"):
        label_geometries(molecules[:2], teacher, tmp_path / "new", level="gfn2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(LabelingError, match="holds something else"):
        label_geometries(molecules[:2], teacher, tmp_path / "full")
    with StoreWriter(tmp_path / "other", name="other") as writer:
        writer.add(molecules[0].replace(level="gfn1-xtb"))
    with pytest.raises(LevelError, match="no structure has a level that the teacher supports"):
        label_hessian_rows(tmp_path / "other", teacher)
    save_potential(tmp_path / "direct.safetensors", DirectPairs(ClosedFormConfig()))
    with pytest.raises(PropertyNotAvailableError, match="not symmetric.*conservative"):
        label_geometries(molecules[:2], tmp_path / "direct.safetensors", tmp_path / "new")


def test_the_command_labels_and_writes_a_recipe(teacher: Path, molecules: list[Structure], tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "bare", name="bare") as writer:
        for s in molecules[:3]:
            writer.add(s)
    out, recipe = tmp_path / "labels", tmp_path / "student.yaml"
    done = CliRunner().invoke(app, ["label", str(tmp_path / "bare"), "--teacher", str(teacher), "--out", str(out), "--rows", "2"])
    assert done.exit_code == 0, done.output
    assert "3 structures at closed-form: 3 labelled with Hessian rows" in done.output
    done = CliRunner().invoke(app, ["label", str(out), "--teacher", str(teacher), "--rows", "2"])
    assert "0 labelled with Hessian rows, 3 had them" in done.output
    done = CliRunner().invoke(app, ["recipe", str(out), "--teacher", str(teacher), "--steps", "40", "--out", str(recipe)])
    assert done.exit_code == 0, done.output
    assert "name: density" in recipe.read_text()


def test_labels_are_of_the_level_the_teacher_was_asked_at_whatever_the_structures_had(molecules: list[Structure], tmp_path: Path) -> None:
    """Level k of the closed form lies 0.1 k eV for each atom above the first."""
    path = tmp_path / "teacher.safetensors"
    save_potential(path, Morse(ClosedFormConfig(elements=(1, 6, 8), levels=("one", "two"))))
    labelled = [s.replace(level="one" if k % 2 else "pbe", labels={"energy": -1.0}) for k, s in enumerate(molecules)]
    first, second = (label_geometries(labelled, path, tmp_path / level, rows=1, level=level) for level in ("one", "two"))
    assert (first.level, second.level) == ("one", "two")
    for low, high in zip(Store(tmp_path / "one"), Store(tmp_path / "two"), strict=True):
        assert (low.level, high.level) == ("one", "two")
        assert float(high.labels["energy"] - low.labels["energy"]) == pytest.approx(0.1 * len(low))
