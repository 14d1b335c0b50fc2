"""A trajectory on the page: atoms and bonds move by themselves, and what a record says cannot become markup."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
from mlipfm_eval._moving_molecule import moving_molecule
from mlipfm_eval.report import report_html
from mlipfm_eval.report_data import Found
from mlipfm_interfaces.result_records import make_record

WATER = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]


def test_each_atom_and_bond_is_animated_there_and_back():
    frames = [WATER, (1.1 * np.array(WATER)).tolist(), (1.2 * np.array(WATER)).tolist()]
    root = ElementTree.fromstring(moving_molecule(["O", "H", "H"], frames, "water"))
    atoms, bonds = root.findall("circle"), root.findall("line")
    assert (len(atoms), len(bonds)) == (3, 2)
    for part in [*atoms, *bonds]:
        for move in part.findall("animate"):
            values = move.attrib["values"].split(";")
            assert values[0] == values[-1]
            assert values[1] == values[3]
            assert len(values) == 5


def test_one_atom_and_two_atoms_are_drawn():
    for symbols in (["Ar"], ["H", "F"]):
        assert moving_molecule(symbols, [WATER[: len(symbols)]] * 2, "small").count("<circle") == len(symbols)


def test_a_result_stands_first_on_the_page_and_is_escaped():
    frames = {"symbols": ["O", "H", "H"], "positions": [WATER, WATER], "caption": "<script>water</script>"}
    details = {"benchmark": "result", "statements": ["force error <b>1</b>"], "code": "print('<i>')", "frames": frames}
    page = report_html(Found("run", [make_record("evaluation", "0" * 64, passed=True, metrics=[], details=details)]))
    assert "<animate" in page
    for raw in ("<script>", "<b>1", "<i>"):
        assert raw not in page
    assert page.index("force error") < page.index("<pre>") < page.index("&lt;i&gt;")
