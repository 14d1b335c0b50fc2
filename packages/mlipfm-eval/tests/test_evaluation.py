"""Evaluation records: sets in and out of distribution, failures that are counted and penalised, intervals over groups."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_data.store.writer import StoreWriter
from mlipfm_eval.benchmarks import run_by_name
from mlipfm_eval.data_sets import open_sets
from mlipfm_eval.evaluation import _composition_energies, evaluate_set, evaluation_record, ood_ratio
from mlipfm_interfaces.benchmark import OpenModel
from mlipfm_interfaces.errors import ForeignModelError, MissingLabelsError, MlipfmError, RefusedFileError
from mlipfm_interfaces.result_records import parse_record, record_bytes
from mlipfm_interfaces.structure import Provenance, Structure


class Off:
    """Knows the labels of the sets below and adds `error` to every component of the forces; refuses structures with an atom beyond `reach`."""

    outputs = ("energy", "forces")

    def __init__(self, error=0.01, reach=np.inf):
        self.error, self.reach = error, reach

    def evaluate(self, structures, outputs):
        for k, s in enumerate(structures):
            if np.abs(s.positions).max() > self.reach:
                raise ForeignModelError("did not converge", where=f"structure {k}")
        return [{"energy": np.array(0.5 * (s.positions**2).sum()), "forces": -s.positions + self.error} for s in structures]


def frames(n, groups, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        r = scale * rng.normal(size=(3, 3)) + [[0, 0, 0], [3, 0, 0], [0, 3, 0]]
        labels = {"energy": 0.5 * (r**2).sum(), "forces": -r}
        made.append(Structure([8, 1, 1], r, total_charge=0, level="gfn2-xtb", labels=labels, provenance=Provenance(group=f"g{k % groups}")))
    return made


def metal(n, z=29, seed=0):
    """Rows of six atoms with forces that are no model's."""
    rng, made = np.random.default_rng(seed), []
    for k in range(n):
        r = np.arange(6)[:, None] * [2.7, 0, 0] + rng.normal(scale=0.05, size=(6, 3))
        labels = {"energy": 1.0, "forces": rng.normal(size=(6, 3))}
        made.append(Structure([z] * 6, r, level="emt", labels=labels, provenance=Provenance(group=f"g{k}")))
    return made


def store(path, structures):
    with StoreWriter(path, name=path.name) as writer:
        for s in structures:
            writer.add(s)
    return path


@pytest.fixture
def sets(tmp_path):
    return open_sets([store(tmp_path / "test", frames(12, 4))], [store(tmp_path / "hot", frames(8, 2, seed=1))])


def test_record_names_sets_splits_elements_and_hashes(sets):
    results = [evaluate_set(Off(), data) for data in sets]
    record = parse_record(record_bytes(evaluation_record(OpenModel("x:", "x:", Off()), results)), "memory")
    assert (record["kind"], record["model"], record["passed"]) == ("evaluation", "x:", True)
    assert record["data"] == {"test": sets[0].digest, "hot": sets[1].digest}
    force = {(m["split"], m.get("element")): m["value"] for m in record["metrics"] if m.get("key") == "force_mae"}
    assert force[("id", None)] == pytest.approx(10.0)
    assert force[("ood", "H")] == pytest.approx(10.0)
    assert set(force) == {(split, e) for split in ("id", "ood") for e in (None, "H", "O")}


def test_error_that_is_three_times_as_large_elsewhere_has_ratio_three(sets):
    near, far = evaluate_set(Off(0.01), sets[0]), evaluate_set(Off(0.03), sets[1])
    ratio = ood_ratio([near, far])
    assert ratio.value == pytest.approx(3.0)
    assert ratio.ci95 == pytest.approx((3.0, 3.0))
    assert ood_ratio([near]) is None


def test_failures_are_counted_named_and_penalised(sets):
    reach = sorted(float(np.abs(s.positions).max()) for s in sets[0].structures)[8]
    result = evaluate_set(Off(0.0, reach), sets[0])
    assert result.reasons == {"did not converge": 3}
    assert (result.figures["force_mae"].n_ok, result.figures["force_mae"].n_total) == (9, 12)
    assert result.figures["force_mae"].value == pytest.approx(0.0)
    # a failed structure counts as if all its forces were predicted zero
    failed = [s for s in sets[0].structures if np.abs(s.positions).max() > reach]
    assert result.penalised["force_mae"] == pytest.approx(1000 * sum(np.abs(s.labels["forces"]).mean() for s in failed) / 12)
    record = evaluation_record(OpenModel("x:", "x:", Off()), [result])
    assert record["passed"] is False
    assert record["details"]["failures"] == {"test": {"did not converge": 3}}


def test_model_that_is_worse_than_knowing_nothing_gains_nothing_by_refusing(sets):
    reach = sorted(float(np.abs(s.positions).max()) for s in sets[0].structures)[8]
    result = evaluate_set(Off(50.0, reach), sets[0])
    assert sum(result.reasons.values()) == 3
    for key in ("force_mae", "force_rmse"):
        assert result.figures[key].value == pytest.approx(50_000)
        assert result.penalised[key] == pytest.approx(50_000)  # zero forces in place of three answers would give 38,000
    for key, value in evaluate_set(Off(0.3, reach), sets[0]).penalised.items():
        assert value >= evaluate_set(Off(0.3, reach), sets[0]).figures[key].value


def test_half_an_answer_is_none(sets):
    """An energy beside forces that are no numbers does not count, so penalised errors are not below the others."""

    class Broken(Off):
        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            first = sets[0].structures[0].positions
            return [
                {"energy": row["energy"] + 30.0, "forces": np.full_like(s.positions, np.nan)} if np.array_equal(s.positions, first) else row
                for row, s in zip(rows, structures, strict=True)
            ]

    result = evaluate_set(Broken(), sets[0])
    assert result.reasons == {"the prediction is not finite": 1}
    assert (result.figures["energy_mae"].n_ok, result.figures["energy_mae"].n_total) == (11, 12)
    assert result.penalised["energy_mae"] >= result.figures["energy_mae"].value == pytest.approx(0.0, abs=1e-9)


def test_duplicated_frames_do_not_shrink_the_intervals_of_a_record(tmp_path):
    class Rough(Off):
        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            return [row | {"forces": row["forces"] * (1 + 0.1 * np.sin(9 * s.positions))} for row, s in zip(rows, structures, strict=True)]

    once, often = open_sets([store(tmp_path / "once", frames(8, 4)), store(tmp_path / "often", frames(8, 4) * 4)], [])
    assert (len(once.structures), len(often.structures)) == (8, 32)
    widths = [evaluate_set(Rough(), data).figures["force_mae"].ci95 for data in (once, often)]
    assert widths[1] == pytest.approx(widths[0])


def test_composition_alone_gives_a_sum_of_energies_per_element():
    group = [Structure(z, np.eye(3)[: len(z)] * 3) for z in ([1, 8], [1, 1, 8], [8])]
    assert _composition_energies(group, np.array([-5.0, -6.0, -4.0])) == pytest.approx([-5.0, -6.0, -4.0])


def test_store_given_twice_is_refused(tmp_path):
    path = store(tmp_path / "test", frames(3, 1))
    with pytest.raises(RefusedFileError, match="given twice"):
        open_sets([path], [path])


def test_level_that_no_label_has_is_refused(tmp_path):
    with pytest.raises(MissingLabelsError, match="no labels of level 'gfn1-xtb'"):
        open_sets([store(tmp_path / "test", frames(3, 1))], [], "gfn1-xtb")


def test_command_that_was_not_answered_at_all_is_no_success(tmp_path):
    """Effective medium theory knows no water."""
    path = store(tmp_path / "water", frames(3, 1))
    with pytest.raises(MlipfmError, match="no structure was predicted"):
        run_by_name("accuracy", "emt:", [path], record=tmp_path / "record.json")
    record = parse_record((tmp_path / "record.json").read_bytes(), "record.json")
    assert not record["passed"]
    assert "penalised" in str(record)
    assert "'penalised': None" in str(record)
    assert "'penalised': 1" not in str(record)


def test_table_is_not_cut_in_a_pipe_and_says_why_one_trajectory_has_no_intervals(tmp_path, capsys):
    rng = np.random.default_rng(0)
    alloys = []
    for group in ("a", "a", "b"):
        r = np.arange(6)[:, None] * [2.7, 0, 0] + rng.normal(scale=0.05, size=(6, 3))
        labels = {"energy": 1.0, "forces": rng.normal(size=(6, 3))}
        alloys.append(Structure([13, 28, 29, 46, 47, 79], r, level="emt", labels=labels, provenance=Provenance(group=group)))
    run_by_name(
        "accuracy", "emt:", [store(tmp_path / "one", alloys[:2])], [store(tmp_path / "a name of a set that is long" / "both", alloys)]
    )
    said = capsys.readouterr().out
    assert "one: no intervals, which need two molecules or trajectories or more" in said
    assert "both: intervals over 2 molecules or trajectories" in said
    for symbol in ("Al", "Ni", "Cu", "Pd", "Ag", "Au"):
        (row,) = (line for line in said.splitlines() if line.startswith(f"│ {symbol} "))
        assert (row.count("["), len(row) <= 80) == (1, True)
    assert "…" not in said


def test_set_is_in_distribution_only_where_the_user_gives_another_that_is_not(tmp_path, capsys):
    paths = [store(tmp_path / name, copper) for name, copper in (("test", metal(3)), ("hot", metal(3, seed=1)))]
    run_by_name("accuracy", "emt:", paths[:1])
    assert "distribution" not in capsys.readouterr().out
    run_by_name("accuracy", "emt:", paths[:1], paths[1:])
    said = capsys.readouterr().out
    for words in ("in distribution", "out of distribution", "force MAE out of distribution over that in distribution"):
        assert words in said


def test_element_that_a_model_does_not_know_is_named_once_beside_the_results_of_other_sets(tmp_path, capsys):
    """Effective medium theory has no silicon."""
    known, unknown = store(tmp_path / "known", metal(3)), store(tmp_path / "strange", metal(3, z=14))
    with pytest.raises(MlipfmError, match=r"strange: no structure was predicted: .*14.*\(3 structures\)"):
        run_by_name("accuracy", "emt:", [known, unknown])
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "14" not in said
    assert "Cu" in said
    mixed = store(tmp_path / "mixed", [*metal(3), *metal(2, z=14, seed=1)])
    run_by_name("accuracy", "emt:", [mixed])
    said = capsys.readouterr().out
    assert "nan" not in said
    (line,) = (line for line in said.splitlines() if "[14]" in line)
    assert "mixed: 2 of 5 structures without a prediction" in line
