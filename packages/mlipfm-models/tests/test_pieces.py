"""Predictions from pieces of a system equal those of the whole: energies, forces and stress, for every backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces import pieces
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.pieces import predict_in_pieces, why_in_one_piece
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import methane, rattled, silicon, water
from mlipfm_models import build_potential

OUTPUTS = ("energy", "forces", "stress", "atomic_energies")


def potential(name: str, **changes: Any) -> Potential:
    options = {"cutoff": 3.0} | ({} if name == "deeppot_se" else {"channels": 16})
    config = {"elements": ["H", "C", "O", "Si"], "levels": ["pbe"], "dtype": "float64", "backbone": options}
    return build_potential(name, config | changes).eval()


def crystal(repeats: int) -> Structure:
    """Rattled silicon, atoms partly outside the cell."""
    cell = silicon()
    shifts = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell.cell
    positions = (cell.positions[None] + shifts[:, None]).reshape(-1, 3)
    numbers = np.tile(cell.atomic_numbers, len(shifts))
    return rattled(Structure(numbers, positions + [2.0, -1.0, 0.5], cell.cell * repeats, cell.pbc), 0.1, seed=1)


def batch_of(model: Potential, structures: list[Structure]) -> Batch:
    return collate(structures, model.spec.graphs, torch.float64)


@pytest.mark.parametrize("name", ["mace", "painn", "density", *(pytest.param(n, marks=pytest.mark.full) for n in ("escaip", "pet"))])
def test_pieces_of_a_crystal_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = potential(name)
    batch = batch_of(model, [crystal(5)])
    sizes: list[int] = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, b, *rest, **more: sizes.append(len(b.positions)) or forward(self, b, *rest, **more)
    )
    whole = predict_in_pieces(model, batch, OUTPUTS)
    parts = predict_in_pieces(model, batch, OUTPUTS, most=200)
    assert sizes[0] == len(batch.positions)
    assert len(sizes) > 2
    assert max(sizes[1:]) < sizes[0]
    for key in OUTPUTS:
        torch.testing.assert_close(parts[key], whole[key].detach(), rtol=1e-12, atol=1e-12)


def test_pieces_of_several_systems_keep_them_apart() -> None:
    model = potential("mace")
    batch = batch_of(model, [water(), crystal(2), methane()])
    whole = model(batch, ("energy", "forces"))
    for most in (1, 4, 11):
        parts = predict_in_pieces(model, batch, ("energy", "forces"), most=most)
        torch.testing.assert_close(parts["energy"], whole["energy"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(parts["forces"], whole["forces"], rtol=1e-12, atol=1e-12)


def test_surroundings_one_step_too_small_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = potential("mace")
    batch = batch_of(model, [crystal(5)])
    whole = model(batch, ("forces",))["forces"]
    monkeypatch.setattr(pieces, "_steps", lambda *_: 1)
    assert float((predict_in_pieces(model, batch, ("forces",), most=200)["forces"] - whole).abs().max()) > 1e-6


def test_models_whose_atoms_depend_on_all_others_are_predicted_as_a_whole() -> None:
    model = potential("mace", conditions=["total_charge"])
    assert why_in_one_piece(model, ("energy",)) == "total_charge acts on all atoms of a system at once"
    batch = batch_of(model, [crystal(2).replace(total_charge=0)])
    assert predict_in_pieces(model, batch, ("energy",), most=3)["energy"].equal(model(batch, ("energy",))["energy"])
    assert why_in_one_piece(potential("mace"), ("hessian_rows",)) == "of hessian_rows there are no parts that add up"
    assert why_in_one_piece(potential("mace", forces="direct"), ("energy",)) == "its forces are no gradient of energies of atoms"
