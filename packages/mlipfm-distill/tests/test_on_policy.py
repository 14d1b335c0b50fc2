"""The parts of `mlipfm distill`: budgets, displaced frames, choice of frames, labels that survive a broken teacher, measurements."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mlipfm_distill.on_policy import teacher as teachers
from mlipfm_distill.on_policy.exploration import Trajectory, explore, load_trajectory, save_trajectory
from mlipfm_distill.on_policy.label_folder import Labels
from mlipfm_distill.on_policy.measurements import _asymmetry, _block, _exact_block, birch
from mlipfm_distill.on_policy.page import _panels
from mlipfm_distill.on_policy.plan import extended, make_plan
from mlipfm_distill.on_policy.request import Budget, parse_budget
from mlipfm_distill.on_policy.result import copy_start, needed
from mlipfm_distill.on_policy.selection import most_informative, variances
from mlipfm_distill.on_policy.start_frames import rattled, read_starts, strain, vacuum
from mlipfm_distill.on_policy.teacher import DistillationTeacher
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import LabelingError, RecipeError, SimulationError
from mlipfm_interfaces.foreign import ForeignModel, ForeignPackage
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.units import GPA
from mlipfm_md.initial_files import FrameOptions

#: A small student of copper, not trained.
COPPER = {"elements": ["Cu"], "levels": ["emt"], "backbone": {"channels": 8}, "scale": 0.1}
#: Springs to the origin, E = r^2: the second and later frames die, hang or give NaN where an atom is beyond x = 5 Å.
ADAPTER = """
import os, time
import numpy as np

class Springs:
    outputs = ("energy", "forces")
    versions = {"springs": "1.0"}

    def __init__(self, misdeed):
        self.misdeed = misdeed

    def evaluate(self, numbers, positions, cell, pbc, charge, multiplicity, outputs):
        forces = -2.0 * positions
        if (positions[:, 0] > 5).any():
            if self.misdeed == "die":
                os._exit(3)
            if self.misdeed == "hang":
                time.sleep(60)
            if self.misdeed == "nan":
                forces = forces * np.nan
        return {"energy": np.float64((positions**2).sum()), "forces": forces}

def load(argument):
    return Springs(argument)
"""


def atoms(*x: float) -> Structure:
    """Two helium atoms, the second at x Å."""
    return Structure([2, 2], [[0, 0, 0], [x[0], 0.5, 0]])


def springs(misdeed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: float = 30.0) -> DistillationTeacher:
    """A teacher in a real process of its own."""
    adapter = tmp_path / "springs.py"
    adapter.write_text(ADAPTER)
    model = ForeignModel(f"springs:{misdeed}", ForeignPackage((), adapter), misdeed, call_timeout=timeout)
    monkeypatch.setattr(teachers, "is_foreign", lambda uri: True)
    monkeypatch.setattr(teachers, "open_foreign", lambda uri, call_timeout: model)
    return DistillationTeacher(f"springs:{misdeed}")


@pytest.mark.parametrize(("text", "wanted"), [("45min", Budget(2700.0)), ("2h", Budget(7200.0)), ("300labels", Budget(labels=300))])
def test_a_budget_is_a_time_or_a_number_of_labels(text: str, wanted: Budget) -> None:
    assert parse_budget(text) == wanted


@pytest.mark.parametrize("text", ["", "45", "fast", "-3min", "3labels", "nan min", "1e9h", "900000000d"])
def test_what_is_no_budget_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_budget(text)
    assert str(caught.value.hint).startswith("give ")


def test_a_budget_of_too_few_labels_says_what_would_do() -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(Budget(seconds=60.0), per_label=2.0, sizes=1)
    assert "12 labels" in str(caught.value)
    assert "55labels" in str(caught.value.hint)
    assert "5min" in str(caught.value.hint)


def test_a_plan_spends_the_labels_it_has() -> None:
    plan = make_plan(Budget(labels=300), per_label=1.0, sizes=3)
    assert 280 <= sum(plan.learn) + plan.test + plan.outside + plan.physics + 15 <= 300
    assert sum(plan.training[:-1]) + 3 * plan.training[-1] == pytest.approx(0.42 * plan.seconds)


def test_a_larger_budget_goes_on_from_what_was_learned_and_an_equal_one_is_refused() -> None:
    small, large = (make_plan(Budget(labels=n), per_label=1.0, sizes=1) for n in (150, 400))
    plan = extended(large, small.learn)
    assert plan.learn[: len(small.learn)] == small.learn
    assert len(plan.learn) >= len(small.learn) + 2
    assert sum(large.learn) - 10 < sum(plan.learn) <= sum(large.learn)
    assert sum(plan.training) == pytest.approx(sum(large.training))
    with pytest.raises(RecipeError, match="already"):
        extended(small, small.learn)


def test_a_slab_is_not_strained_along_its_vacuum() -> None:
    cell = np.diag([4.0, 4.0, 20.0])
    slab = Structure([29] * 4, [[0, 0, 0], [2, 2, 0], [2, 0, 1.8], [0, 2, 1.8]], cell, [True] * 3)
    strained = strain(slab, 0.1 * np.ones((3, 3)))
    assert vacuum(slab) == [False, False, True]
    assert strained.cell[2] == pytest.approx(cell[2])
    assert np.linalg.norm(strained.cell[0]) > 4.3
    fractions = [s.positions @ np.linalg.inv(s.cell) for s in (slab, strained)]
    assert fractions[0] == pytest.approx(fractions[1])


def test_displaced_frames_begin_with_the_starts_and_hydrogen_moves_less() -> None:
    water = Structure([8, *[1] * 400], np.random.default_rng(0).uniform(0, 30, (401, 3)))
    frames = rattled([water], 20, 300.0, 0)
    moved = [s.positions - water.positions for s in frames]
    assert np.all(moved[0] == 0)
    assert 0.01 < np.std(moved[5][1:]) < 0.6 * 0.09 * 1.1


def test_the_copy_of_a_frame_comes_after_a_less_extreme_frame_of_another_kind() -> None:
    known, large, other = np.eye(3), np.array([[9.0, 0, 0]]), np.array([[0, 4.0, 0]])
    assert most_informative([known], [large, large, other], 3) == [0, 2, 1]


def test_frames_are_taken_as_if_the_variances_were_worked_out_anew_each_time() -> None:
    rng = np.random.default_rng(0)
    known, new = [rng.normal(size=(6, 4))], [rng.normal(size=(5, 4)) for _ in range(6)]
    order = most_informative(known, new, 6)
    for k in range(6):
        assert int(np.argmax(variances([*known, *(new[i] for i in order[:k])], [new[i] for i in order[k:]]))) == 0


def test_the_minimum_and_bulk_modulus_of_a_birch_curve_come_back() -> None:
    v0, b = 11.8, 140.0 * GPA
    v = np.linspace(0.92, 1.08, 7) * v0
    eta = (v0 / v) ** (2 / 3) - 1
    energy = 9 / 8 * v0 * b * eta**2 * (1 + 0.6 * eta)  # Birch, Phys. Rev. 71 (1947) 809
    found = birch(v, energy)
    assert found is not None
    assert found == (pytest.approx(v0, rel=1e-8), pytest.approx(140.0, rel=1e-6))


def test_the_jacobian_of_a_rotating_field_is_antisymmetric_and_that_of_springs_symmetric() -> None:
    s, places = atoms(1.0), np.array([0, 1])
    swirl = lambda t: np.stack([-t.positions[:, 1], t.positions[:, 0], 0 * t.positions[:, 2]], axis=1)  # noqa: E731
    assert _asymmetry(_block(swirl, s, places, 1e-3)) == pytest.approx(1.0)
    assert _asymmetry(_block(lambda t: -2 * t.positions, s, places, 1e-3)) < 1e-12


def test_the_exact_block_of_the_jacobian_is_that_of_differences() -> None:
    potential = noble_gas()
    s, places = Structure([18] * 3, [[0, 0, 0], [3.7, 0.2, 0], [0.3, 3.9, 0.4]]), np.array([0, 4, 8, 5])
    differences = _block(lambda t: evaluate(potential, [t], ("forces",))[0]["forces"], s, places, 1e-4)
    assert _exact_block(potential, s, places) == pytest.approx(differences, rel=1e-5, abs=1e-9)


def test_rows_and_products_of_the_hessian_of_springs_are_their_stiffness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with springs("none", tmp_path, monkeypatch) as teacher:
        labels = Labels(tmp_path / "labels", teacher, rows=4, products=2)
        labels.add("train", [atoms(1.0)])
        labels.add("valid", [atoms(1.0)])
    (s,) = labels.read("train")
    index, rows = s.labels["hessian_rows_index"].astype(int), s.labels["hessian_rows"]
    assert rows.shape == (4, 2, 3)
    for (atom, axis), row in zip(index, rows, strict=True):
        wanted = np.zeros((2, 3))
        wanted[atom, axis] = 2.0
        assert row == pytest.approx(wanted)
    probes = s.labels["hvp_probe"]
    assert probes.shape == (2, 2, 3)
    assert set(probes.ravel()) == {-1.0, 1.0}
    assert s.labels["hvp"] == pytest.approx(2.0 * probes)
    assert not {"hessian_rows", "hvp"} & labels.read("valid")[0].labels.keys()


def test_a_plan_counts_two_labels_for_each_row() -> None:
    plain, with_rows = make_plan(Budget(labels=300), 1.0, 1), make_plan(Budget(labels=300), 1.0, 1, rows=2)
    assert sum(with_rows.learn) == pytest.approx(sum(plain.learn) / 5, abs=4)
    assert "with 2 rows of the Hessian each" in with_rows.line()
    assert int(with_rows.line().split()[1]) <= 300
    with pytest.raises(RecipeError, match="of which nothing is learned"):
        make_plan(Budget(labels=300), 1.0, 1, rows=20)
    both = make_plan(Budget(labels=300), 1.0, 1, rows=1, products=1)
    assert both.learn == with_rows.learn
    assert "with 1 row and 1 product of the Hessian each" in both.line()


@pytest.mark.parametrize("misdeed", ["die", "nan"])
def test_a_frame_that_the_teacher_cannot_label_is_left_out_and_no_label_is_lost(
    misdeed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with springs(misdeed, tmp_path, monkeypatch) as teacher:
        labels = Labels(tmp_path / "labels", teacher)
        assert labels.add("train", [atoms(1.0), atoms(6.0), atoms(2.0)]) == 2
        assert [float(s.labels["energy"]) for s in labels.read("train")] == [1.25, 4.25]
        assert len(labels.refused) == 1
        assert {s.level for s in labels.read("train")} == {f"springs-{misdeed}"}
        assert labels.add("train", [atoms(1.0), atoms(6.0), atoms(2.0)]) == 2
        assert len(labels.read("train")) == 2


def test_a_teacher_that_hangs_again_and_again_ends_the_distillation_in_one_line_with_the_labels_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with springs("hang", tmp_path, monkeypatch, timeout=0.3) as teacher:
        labels = Labels(tmp_path / "labels", teacher)
        with pytest.raises(LabelingError, match="3 frames one after another"):
            labels.add("train", [atoms(1.0), atoms(6.0), atoms(7.0), atoms(8.0)])
        assert len(labels.read("train")) == 1


def test_frames_of_colliding_atoms_are_left_out_however_many_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with springs("none", tmp_path, monkeypatch) as teacher:
        labels = Labels(tmp_path / "labels", teacher)
        assert labels.add("train", [atoms(x) for x in (1.0, 200.0, 300.0, 400.0, 500.0, 2.0)]) == 2  # forces of 400 eV/Å and more
        assert len(labels.refused) == 4
        assert all("atoms lie on top of each other" in why for why in labels.refused.values())


def test_a_teacher_that_labels_the_start_still_is_not_taken_to_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with springs("nan", tmp_path, monkeypatch) as teacher:
        labels = Labels(tmp_path / "labels", teacher, atoms(1.0))
        assert labels.add("train", [atoms(x) for x in (2.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 3.0)]) == 2
        assert len(labels.refused) == 7


def test_labels_that_cost_nothing_leave_time_to_learn_from_them() -> None:
    by_labels, by_time = make_plan(Budget(labels=300), 0.001, 1), make_plan(Budget(seconds=2700.0), 0.001, 1)
    assert sum(by_labels.training) > 60
    assert sum(by_time.learn) < 5000
    assert sum(by_time.training) == pytest.approx(0.82 * 2700, rel=1e-3)  # all that dynamics and measurements do not take
    assert sum(make_plan(Budget(seconds=2700.0), 2.0, 1).training) == pytest.approx(0.42 * 2700)


def test_labels_of_an_interrupted_command_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with springs("none", tmp_path, monkeypatch) as teacher:
        labels = Labels(tmp_path / "labels", teacher)

        def interrupt(done: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        frames = [atoms(x) for x in (1.0, 2.0, 3.0)]
        with pytest.raises(KeyboardInterrupt):
            labels.add("train", frames, interrupt)
        asked: list[Structure] = []
        label = teacher.label
        monkeypatch.setattr(teacher, "label", lambda s, **second: asked.append(s) or label(s, **second))
        assert labels.add("train", frames) == 3
        assert len(asked) == 1


def test_errors_that_fall_with_the_root_of_the_labels_need_four_times_as_many_for_half() -> None:
    rounds = [
        {"labelled": n, "on_policy_force_mae": None if k == 0 else 1 / np.sqrt(100 * 2 ** (k - 1))}
        for k, n in enumerate((100, 100, 200, 400))
    ]
    assert "about 4.0 times" in needed({"rounds": rounds})
    rounds[2]["on_policy_force_mae"] /= 30
    assert "training was the limit" in needed({"rounds": rounds[:3]})


def test_three_scattered_rounds_do_not_say_how_many_labels_halve_the_error() -> None:
    """Errors of a molecule: 234.6, 83.1 and 78.6 meV/Å with 7, 13 and 19 labels."""
    rounds = [{"labelled": n, "on_policy_force_mae": e} for n, e in ((7, None), (6, 0.2346), (6, 0.0831), (6, 0.0786))]
    said = needed({"rounds": rounds})
    assert "errors of 3 rounds fell as labels^-1.15: too few" in said
    assert "times the budget" not in said
    assert "too few" in needed({"rounds": rounds[:1] + rounds[2:]})


def test_caption_of_a_molecule_without_scaled_cells_does_not_name_them() -> None:
    assert list(_panels({"students": {"small": {}}, "equilibrium": None})) == [
        "errors of every round over labels",
        "errors of frames over their uncertainty",
    ]
    assert "energies of scaled cells" in _panels({"students": {"small": {}}, "equilibrium": {}})


def test_folder_that_is_moved_still_reads_its_start(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "POSCAR").write_text(POSCAR.format("F F F"))
    (tmp_path / "out").mkdir()
    copy_start(tmp_path / "in" / "POSCAR", tmp_path / "out", "student.safetensors")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "in")
    script = (moved / "run_ase.py").read_text()
    assert str(tmp_path) not in script
    names: dict[str, object] = {"__file__": str(moved / "run_ase.py")}
    exec(script.partition("atoms.calc")[0], names)
    assert len(names["atoms"]) == 4  # type: ignore[arg-type]


POSCAR = """copper
1.0
3.6 0 0
0 3.6 0
0 0 3.6
Cu
4
Selective dynamics
Direct
0.0 0.0 0.0 {0}
0.0 0.5 0.5 T T T
0.5 0.0 0.5 T T T
0.5 0.5 0.0 T T T
"""


def test_atoms_that_the_file_fixes_stay_where_they_are(tmp_path: Path) -> None:
    path, said = tmp_path / "POSCAR", list[str]()
    path.write_text(POSCAR.format("F F F"))
    (start,) = read_starts(path, FrameOptions(), said.append)
    assert "fixed: atom 0" in said[0]
    for s in rattled([start], 8, 600.0, 0)[1:]:
        fractions = s.positions @ np.linalg.inv(s.cell)
        assert fractions[0] == pytest.approx(0, abs=1e-12)
        assert np.abs(fractions[1] - [0, 0.5, 0.5]).max() > 1e-4
    (run,) = explore(build("density", COPPER), [start], [300.0], 0.02, 1.0, 4, 0)
    moved = [s.positions @ np.linalg.inv(s.cell) for s in run.frames]
    assert np.ptp([x[0] for x in moved], axis=0) == pytest.approx(0, abs=1e-9)
    assert np.ptp([x[1] for x in moved], axis=0).max() > 1e-4


def test_atoms_that_are_fixed_along_some_axes_only_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.format("F T T"))
    with pytest.raises(SimulationError, match="fixed along some axes only"):
        read_starts(path, FrameOptions(), print)


def test_a_run_of_dynamics_is_kept_as_it_was_also_one_that_broke_at_once(tmp_path: Path) -> None:
    frames = [atoms(x).replace(labels={"fixed": np.array([1.0, 0.0])}) for x in (1.0, 1.5)]
    for name, run in (("a", Trajectory(2, 300.0, frames, 1.0, 0.5, "too hot")), ("b", Trajectory(0, 600.0, [], 1.0, 0.0, "atoms overlap"))):
        save_trajectory(run, tmp_path / name)
        found = load_trajectory(tmp_path / name)
        assert (found.start, found.kelvin, found.asked, found.reached, found.reason) == (
            run.start,
            run.kelvin,
            1.0,
            run.reached,
            run.reason,
        )
        assert [s.positions.tolist() for s in found.frames] == [s.positions.tolist() for s in run.frames]
        assert all(s.labels["fixed"].tolist() == [1.0, 0.0] for s in found.frames)
    (tmp_path / "a" / "run.json").unlink()  # killed before its end: it is made again
    save_trajectory(Trajectory(2, 300.0, frames[:1], 1.0, 1.0, None), tmp_path / "a")
    assert len(load_trajectory(tmp_path / "a").frames) == 1
