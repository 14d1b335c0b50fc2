"""Licences join and never disappear; what a manifest says of ancestors is read whoever wrote it."""

from __future__ import annotations

import pytest
from mlipfm_interfaces.licences import ancestors_of, combined, is_known, stated_licences
from mlipfm_interfaces.registry_promote import licence_faults


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT"], "MIT"),
        (["CC-BY-4.0", "MIT"], "CC-BY-4.0 AND MIT"),
        (["CC-BY-4.0 AND MIT", "MIT", "CC-BY-4.0"], "CC-BY-4.0 AND MIT"),
        (["MIT OR Apache-2.0", "CC0-1.0"], "(MIT OR Apache-2.0) AND CC0-1.0"),
        (["CC0-1.0 AND (MIT OR Apache-2.0)", "(MIT OR Apache-2.0)"], "CC0-1.0 AND (MIT OR Apache-2.0)"),
        (["MIT AND ISC OR Zlib"], "(MIT AND ISC OR Zlib)"),
        (["MIT", None], "MIT AND NOASSERTION"),
        (["", "MIT AND NOASSERTION"], "NOASSERTION AND MIT"),
        ([], "NOASSERTION"),
        (["ask ( Bob"], "ask (Bob"),
    ],
)
def test_what_comes_from_several_sources_is_under_all_their_licences(licences, expected):
    assert combined(licences) == expected
    assert combined([expected, expected]) == expected


def test_joined_licences_are_known_if_each_is():
    assert is_known(combined(["MIT OR Apache-2.0", "CC0-1.0 AND LicenseRef-lab"]))
    assert not is_known(combined(["MIT", None]))
    assert not is_known(combined(["MIT", "ask Bob"]))


def test_manifests_of_others_are_read_without_losing_what_is_unknown():
    assert stated_licences({"licences": {"spice": "MIT", "mine": None}}) == ["MIT", ""]
    assert stated_licences({"licences": ["MIT", 3]}) == ["MIT", ""]
    assert stated_licences({"licences": "MIT"}) == stated_licences({}) == []
    assert ancestors_of({"ancestors": [{"digest": "ab", "licences": ["MIT"]}, {"licences": None}, "nonsense"]}) == [
        {"digest": "ab", "licences": ["MIT"], "data": []},
        {"digest": "", "licences": [""], "data": []},
    ]
    assert ancestors_of({"ancestors": "nonsense"}) == ancestors_of({}) == []


def test_the_fault_names_the_model_that_it_comes_from():
    near, far = {"digest": "a" * 64, "licences": ["", "MIT"]}, {"digest": "b" * 64, "licences": [""]}
    faults = licence_faults({"extra": {"licences": ["", "MIT", "odd"], "ancestors": [near, far]}})
    assert faults == [
        f"some data have no licence, among them those of the model {'b' * 12} that it starts from",
        "licence 'odd' is not known",
    ]
    assert licence_faults({"extra": {"licences": ["MIT"], "ancestors": [{"digest": "a" * 64, "licences": ["MIT"]}]}}) == []
    manifest = {"extra": {"licences": ["", "MIT"], "data": [{"licences": ["MIT"]}], "validation_data": [{"licences": [""]}]}}
    assert licence_faults(manifest) == ["some data have no licence, among them the validation data"]


@pytest.mark.parametrize(("text", "known"), [
    ("MIT", True), ("mit", True), ("CC-BY-SA-2.5", True), ("AGPL-3.0-only", True), ("MIT AND (ISC OR Zlib)", True), ("LicenseRef-lab", True),
    ("GPL-2.0-only WITH Classpath-exception-2.0", True), ("MIT MIT", False), ("(MIT", False), ("MIT AND", False), ("MIT OR AND", False),
    ("MIT) OR (ISC", False), ("NOASSERTION", False), ("CC BY 4.0", False), ("", False), (None, False), (3, False),
])  # fmt: skip
def test_what_is_known_are_expressions_of_identifiers_that_spdx_lists(text, known):
    """https://spdx.org/licenses; annex D of the SPDX specification."""
    assert is_known(text) is known
