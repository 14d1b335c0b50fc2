"""A level of theory has one spelling: in the catalogue, the readers, the tables and the documentation; stores with another one still match."""

import re
from pathlib import Path

import pytest
from mlipfm_data.datasets.catalogue import catalogue
from mlipfm_data.store.merge import StoreFilter, filter_store
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import DISPERSIONS, canonical_level

PACKAGES = Path(__file__).parents[2]
OLD, NEW = "wb97m-d3(bj)/def2-tzvppd", "wb97m-d3bj/def2-tzvppd"
#: A level with a dispersion correction, as code and text have it.
LEVEL = re.compile(
    r"(?<![\w./-])(?:wb97[mx]|b3lyp|r?e?vpbe0?|rpbe|pbe0?|r2scan|scan|hse06|bp86|tpss)[-+](?:g?d[234]|mbd|ts|r?vv10)[\w()/*+-]*"
)


def helium(level: str) -> Structure:
    return Structure([2], [[0, 0, 0]], level=level, labels={"energy": -79.0})


@pytest.fixture
def old(tmp_path):
    """A store that was written with another spelling of its level, and one overlay of that level."""
    with StoreWriter(tmp_path / "old", name="old") as writer:
        writer.add(helium(OLD))
        writer.add_overlay(helium(OLD).key, OLD, {"dipole": [0.0, 0.0, 0.0]})
    return tmp_path / "old"


def test_a_store_with_another_spelling_is_read_filtered_and_verified_and_its_bytes_stay(old, tmp_path):
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    assert any(OLD.encode() in data for data in before.values())
    with Store(old) as store:
        assert store.levels == [NEW]
        assert list(store.statistics.levels) == [NEW]
        assert store[0].level == NEW
        assert set(store[0].labels) == {"energy", "dipole"}
        assert set(store.at_level(0, OLD).labels) == {"dipole"}
        assert store.verify() == []
    for k, level in enumerate((OLD, NEW, "wB97M-D3(BJ)/def2-TZVPPD")):
        assert filter_store(old, tmp_path / str(k), StoreFilter(levels=[level])).structures == 1
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_a_structure_of_the_other_spelling_is_already_there(old):
    with StoreWriter(old) as writer:
        assert writer.has(helium(NEW))
        assert writer.has(helium(OLD))


def test_levels_of_the_catalogue_are_canonical():
    levels = {level for entry in catalogue().values() for fact in entry.levels for level in fact.value}
    levels |= {files.level for entry in catalogue().values() for files in entry.imports if files.level}
    assert len(levels) > 30
    assert {level for level in levels if canonical_level(level) != level} == set()


def test_levels_in_code_and_documentation_have_the_one_spelling():
    files = [
        *PACKAGES.glob("*/src/**/*.py"),
        *PACKAGES.glob("*/README.md"),
        *PACKAGES.glob("mlipfm/docs/**/*.md"),
        *PACKAGES.glob("*/src/**/*.toml"),
    ]
    found = {match for file in files for match in LEVEL.findall(file.read_text("utf-8"))}
    assert "wb97m-d3bj/def2-tzvppd" in found
    wrong = {level for level in found if canonical_level(level) != level}
    # examples of spellings that are read, in the documentation of the function that reads them
    assert wrong <= {"wb97m-d3(bj)", "pbe0+mbd"}
    assert {name for name in DISPERSIONS if canonical_level(f"pbe-{name}") != f"pbe-{name}"} == set()
