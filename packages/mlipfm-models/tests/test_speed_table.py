"""The table of sizes and speeds: what it counts, what it leaves out. Times themselves decide nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import PluginError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_models.commands import table_app
from mlipfm_models.speed_table import Row, Skipped, speed_rows, table_lines, water_box
from torch import nn
from typer.testing import CliRunner

DENSITY = 1 / 29.9  # molecules of water in an Å³ at room temperature


def test_the_box_is_water_without_contacts() -> None:
    s = water_box(3)
    assert len(s) == 81
    assert len(s) / 3 / np.linalg.det(s.cell) == pytest.approx(DENSITY, rel=0.01)
    i, j, shift = neighbor_pairs(s, 5.0)
    assert np.linalg.norm(s.positions[j] + shift @ s.cell - s.positions[i], axis=1).min() > 0.9


@pytest.mark.ci
def test_rows_count_parameters_and_operations_per_atom() -> None:
    small, large, closed = speed_rows([16, 32], side=2, repeats=1, only=["painn", "morse"])
    assert isinstance(small, Row)
    assert isinstance(large, Row)
    assert isinstance(closed, Skipped)
    potential = build("painn", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": 16}})
    assert small.parameters == sum(p.numel() for p in potential.parameters())
    assert small.call_microseconds > 0 < small.step_microseconds
    (wider,) = speed_rows([16], side=3, repeats=1, only=["painn"])
    assert wider.mflop == pytest.approx(small.mflop, rel=0.1)
    text = "\n".join(table_lines([small, large, closed]))
    assert "| painn | 16 |" in text
    assert "morse: left out" in text


def test_operations_of_a_linear_map_are_two_for_each_weight_and_atom() -> None:
    """What `FlopCounterMode` counts, and the unit of the table's column."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        nn.Linear(30, 20, bias=False)(torch.ones(7, 30))
    assert counter.get_total_flops() == 2 * 7 * 30 * 20


def test_operations_of_painn_are_those_of_its_equations() -> None:
    """Figure 2 of arXiv:2102.03150, counted by hand for each atom and pair; the first message has no vector part."""
    from torch.utils.flop_counter import FlopCounterMode

    c, layers, radial = 24, 3, 10
    options = {"channels": c, "layers": layers, "radial": radial}
    potential = build("painn", {"elements": ["H", "O"], "levels": ["any"], "backbone": options})
    batch = collate([water_box(2)], potential.spec.graphs)
    atoms, pairs = len(batch.atomic_numbers), len(batch.views[potential.spec.graphs[0]].i)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        potential.backbone(torch.ones(atoms, c), batch)
    message, update = (c * c + c * 3 * c) * layers - c * c, (3 * c * 2 * c + 2 * c * c + c * 3 * c) * layers
    filters, shift = (radial + 1) * (3 * layers - 1) * c, 3 * 3  # the shift of a periodic image is its three integers times the cell
    assert counter.get_total_flops() == 2 * (atoms * (message + update) + pairs * (filters + shift))


def test_a_potential_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(PluginError, match="--only: no potential is named 'foo'; known: .*painn"):
        CliRunner().invoke(table_app, ["--only", "painn,foo"], catch_exceptions=False)
