"""Structures that people type on the page *try it*: what is read, and what is refused by name before anything is computed."""

from __future__ import annotations

import pytest
from mlipfm_hub.predict_worker import _refuse_other_state, atoms_from_text


def test_a_molecule_has_the_state_of_its_smiles_unless_the_form_gives_a_multiplicity():
    ethanol = atoms_from_text("CCO", "smiles")
    assert (len(ethanol), ethanol.info) == (9, {"charge": 0, "spin": 1})
    assert atoms_from_text("O=O", "smiles", 3).info == {"charge": 0}
    _refuse_other_state(ethanol, 0, 1)
    with pytest.raises(ValueError, match="the structure has charge 0, and the form says 1"):
        _refuse_other_state(ethanol, 1, None)
    with pytest.raises(ValueError, match="the structure has multiplicity 1, and the form says 2"):
        _refuse_other_state(ethanol, None, 2)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("999999999\n\nH 0 0 0\n", "extxyz", "says 999999999 atoms and has 1 lines"),  # ASE reads for a minute
        ("1\n\nH 0 0 0\n1\n\nHe 0 0 0\n", "extxyz", "holds several structures"),
        ("garbage", "cif", "this is no cif that can be read|holds no structure"),
        ("data_x", "cif", "it holds no structure|holds no structure"),
        ("*", "smiles", "without '.' and '\\*'"),
        ("CCO.CCO", "smiles", "one molecule"),
        ("C(", "smiles", "no SMILES"),
    ],
)
def test_what_is_no_structure_is_refused_by_name(text, kind, message):
    with pytest.raises(ValueError, match=message):
        atoms_from_text(text, kind)
