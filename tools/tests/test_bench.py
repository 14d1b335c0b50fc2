"""The tool that measures: its figures, files and tables. How fast anything is decides no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench.aselmdb import Reader, write
from bench.figures import KEYS, append, figure, line, read, short, spread
from bench.storage import ATOMS, structure
from bench.table import render

BENCH = Path(__file__).parents[1] / "bench"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True)


def test_a_spread_is_the_median_and_the_quartiles_with_the_ends_included() -> None:
    assert spread([5, 1, 4, 2, 3]) == (3, 2, 4, 5)
    assert spread([7.5]) == (7.5, 7.5, 7.5, 1)
    values = np.random.default_rng(0).normal(size=101)
    found = spread(values.tolist())
    np.testing.assert_allclose([found.q1, found.value, found.q3], np.quantile(values, [0.25, 0.5, 0.75]))


def test_a_figure_is_written_as_one_object_with_the_documented_keys_and_read_again(tmp_path: Path) -> None:
    one = figure("data", "read", "structures/s", [10.0, 30.0, 20.0], 1, "a peer", [5.0, 5.0])
    two = figure("data", "alone", "ms", [1.23456789], 2)
    for item in (one, two):
        append(tmp_path / "new" / "data.json", item)
    first, second = map(json.loads, (tmp_path / "new" / "data.json").read_text().splitlines())
    assert tuple(first) == tuple(second) == KEYS
    assert (first["value"], first["q1"], first["q3"], first["n"], first["peer_value"], first["ratio"]) == (20.0, 15.0, 25.0, 3, 5.0, 4.0)
    assert (second["value"], second["peer"], second["ratio"], second["threads"]) == (1.2346, None, None, 2)
    assert read(tmp_path / "new" / "data.json")[0] == one


def test_documented_keys_are_those_of_the_readme() -> None:
    assert '{"' + '", "'.join(KEYS) + '"}' in (BENCH / "README.md").read_text()


def test_numbers_have_three_digits_that_count() -> None:
    assert [short(v) for v in (151_234.0, 99.96, 12.34, 0.001234, 4.0)] == ["151,000", "100", "12.3", "0.00123", "4"]
    text = line(figure("infer", "ethanol", "ms", [1.0, 2.0, 3.0], 1, "GFN2-xTB", [1.0]))
    assert text == "infer  ethanol: 2 ms [1.5, 2.5] (3 x, 1 thread); GFN2-xTB 1, ratio 2"


def test_the_table_shows_the_last_of_each_figure(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        append(tmp_path / "infer.json", figure("infer", "a|b", "ms", [value], 1, "EMT", [4.0]))
    append(tmp_path / "data.json", figure("data", "size", "bytes", [587.0], 1))
    rows = [row for row in render(tmp_path).splitlines() if row.startswith("| ") and not row.startswith("| what")]
    assert [row.split(" | ")[0] for row in rows] == ["| size", "| a\\|b"]
    assert " | 2 [2, 2] | ms | 1, 1 | EMT | 4 | 0.5 | " in rows[1]


def test_what_is_no_figure_is_refused_with_its_place(tmp_path: Path) -> None:
    append(tmp_path / "data.json", figure("data", "size", "bytes", [587.0], 1))
    with (tmp_path / "data.json").open("a") as file:
        file.write('{"bench": "data"}\n')
    with pytest.raises(ValueError, match="data.json:2: not a figure: the keys are bench"):
        render(tmp_path)
    with pytest.raises(FileNotFoundError, match="no result files.*tools/bench all"):
        render(tmp_path / "nothing")


def test_committed_results_can_be_read() -> None:
    for path in (BENCH / "results").glob("*.json"):
        assert {item.bench for item in read(path)} == {path.stem}


def test_the_peer_gives_back_what_was_written(tmp_path: Path) -> None:
    content = [structure(k) for k in range(7)]
    write(tmp_path / "peer.aselmdb", content)
    reader = Reader(tmp_path / "peer.aselmdb")
    numbers, positions, forces, energies = reader.arrays([6, 0, 3])
    reader.close()
    picked = [content[k] for k in (6, 0, 3)]
    np.testing.assert_array_equal(numbers, np.concatenate([s.atomic_numbers for s in picked]))
    np.testing.assert_array_equal(positions, np.concatenate([s.positions for s in picked]))
    np.testing.assert_array_equal(forces, np.concatenate([s.labels["forces"] for s in picked]))
    np.testing.assert_array_equal(energies, [float(s.labels["energy"]) for s in picked])


def test_measured_structures_have_the_stated_size() -> None:
    one = structure(3)
    distances = np.linalg.norm(one.positions[:, None] - one.positions, axis=-1) + 9 * np.eye(ATOMS)
    assert len(one) == 20
    assert distances.min() > 0.9


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    for arguments in (["all", "--json", "x.json"], ["data", "--json-folder", "x"], ["table", "--quick"]):
        assert "unrecognized arguments" in run(*arguments).stderr
    assert "invalid choice: 'dota'" in run("dota").stderr
    nothing = run("table", "--results", str(tmp_path))
    assert (nothing.returncode, nothing.stderr.startswith("bench: no result files")) == (2, True)


SLOW = [pytest.param(name, marks=pytest.mark.full) for name in ("import", "data", "infer", "train")]


@pytest.mark.parametrize("name", SLOW)
def test_every_measurement_runs(name: str, tmp_path: Path) -> None:
    result = run(name, "--quick", "--json", str(tmp_path / f"{name}.json"))
    assert result.returncode == 0, result.stderr
    found = read(tmp_path / f"{name}.json")
    assert {item.bench for item in found} == {name}
    assert all(item.q1 <= item.value <= item.q3 and item.value > 0 for item in found)
    assert len(result.stdout.splitlines()) == len(found)
