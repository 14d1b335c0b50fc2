"""Error against cost of `density`: tables are of the committed lines, and the recipe of a cell is what its name says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import front, front_figures


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(front_figures, "RESULTS", tmp_path)
    return tmp_path


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def cell(options: str, seed: int, force: float, name: str = "ethanol") -> dict[str, Any]:
    errors = {"force_rmse": force, "force_mae": force / 2, "energy_rmse": 1.0, "energy_mae": 0.5}
    return {"set": name, "options": options, "seed": seed, "parameters": 100} | errors


def test_a_table_shows_the_median_of_the_seeds_with_their_range(results: Path) -> None:
    one, two = front.variant(channels=16), front.variant(channels=16, mixed=4)
    write(results / "cells.jsonl", [cell(one, k, force) for k, force in enumerate((90.0, 99.0, 120.0))] + [cell(two, 0, 130.0)])
    rows = list(front_figures.options_table())[2:]
    assert rows[0].startswith("| 16 channels | 99 [90, 120] |")
    assert rows[1].startswith("| 16 channels, mixed 4 | 130 |")


def test_potentials_on_one_split_stand_in_the_order_of_their_force_errors_whoever_fitted_them(results: Path) -> None:
    write(results / "cells.jsonl", [cell(front.variant(channels=16), 0, 40.0, "mlearn-cu")])
    other = {"set": "mlearn-cu", "force_mae": 10, "energy_mae": 0.4, "source": "a paper", "name": "theirs"}
    write(results / "published.jsonl", [other])
    rows = list(front_figures.published_table())[2:]
    assert [row.split(" | ")[1] for row in rows] == ["theirs", "**density**, 16 channels"]
    assert "| (10) | (0.4) |" in rows[0]


def test_the_recipe_of_a_cell_has_its_options_and_one_layer_unless_they_say_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "cache_dir", lambda: tmp_path)
    found = front.recipe(front.Cell("ethanol", front.variant(channels=16, mixed=4), 2))
    assert found.potential.options["backbone"] | {"channels": 16, "mixed": 4, "layers": 1} == found.potential.options["backbone"]
    assert (found.seed, found.steps) == (2, front.STUDIES["ethanol"].steps)


def test_no_cell_is_trained_twice_and_every_committed_cell_is_one_of_the_grid() -> None:
    grid = front.grid()
    assert len(set(grid)) == len(grid)
    committed = [front.Cell(line["set"], line["options"], line["seed"]) for line in front_figures.lines("cells")]
    assert len(set(committed)) == len(committed) > 0
    assert {cell for cell in committed if not any(word in cell.options for word in front.REMOVED)} <= set(grid)
