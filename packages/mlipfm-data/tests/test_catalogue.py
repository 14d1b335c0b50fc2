"""The catalogue of public data sets: every fact has a source, nothing is there twice, and what a user asks for is what is listed."""

import json
import re
import tomllib
from pathlib import Path

import mlipfm_data.datasets
import pytest
from mlipfm_data.datasets.catalogue import Wish, catalogue, choose, chosen, find, sources
from mlipfm_data.datasets.connect import DownloadError, checked_address
from mlipfm_data.datasets.fetch import Known, file_name
from mlipfm_data.datasets.schema import FACTS, Fact, Source, data_set, plain
from mlipfm_data.datasets.tables import as_json, one_set, overview, short_count
from mlipfm_interfaces import plugins
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import InvalidStructureError, UnknownElementError, UnreadableFileError
from mlipfm_interfaces.quantities import QUANTITIES

FOLDER = Path(mlipfm_data.datasets.__file__).parent
ASKED_FOR = (
    "AIMNet2", "AIMNet-NSE", "nablaDFT", "Transition1x", "ANI-1x", "ANI-1ccx", "ANI-2x", "QM7-X", "SPF", "GEMS", "SPICE1", "SPICE2",
    "OC20", "OMat24", "ODAC23", "Alexandria", "OC22", "MPtrj", "ZINC20", "ZINC22", "Uni-Mol", "Uni-Mol2", "PCQM4Mv2", "PubChemQC-PM6",
    "QM9", "MD17", "rMD17", "MD22", "3BPA", "WBM", "RDB7", "OMol25", "GNoME", "MatterSim",
)  # fmt: skip
#: Labels that are no quantity of the table: they are named as the sources name them.
OTHER_LABELS = {
    "hamiltonian",
    "overlap",
    "dispersion coefficients",
    "logP",
    "solvation energy",
    "barrier heights",
    "zero-point energy",
    "frequencies",
}


def run(arguments: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_every_set_that_is_wanted_is_there_once():
    assert sorted(catalogue()) == sorted(plain(name) if plain(name) in catalogue() else name.lower() for name in ASKED_FOR)
    names = [plain(entry.name) for entry in catalogue().values()]
    assert len(set(names)) == len(names)
    assert {entry.id for entry in catalogue().values() if entry.status == "not released"} == {"gnome", "mattersim"}


@pytest.mark.parametrize("entry", catalogue().values(), ids=catalogue())
def test_every_value_of_a_set_has_a_source(entry):
    facts = [fact for name in FACTS for fact in getattr(entry, name)]
    assert facts
    for one in [*facts, *entry.files]:
        assert one.source in sources()
    assert entry.layouts
    assert entry.citations or entry.id == "md22"  # no source that was read cites an article for MD22


def test_every_source_is_used_and_says_where_it_is():
    used = {one.source for entry in catalogue().values() for name in (*FACTS, "files") for one in getattr(entry, name)}
    assert used == set(sources())
    for source in sources().values():
        assert source.kind in ("paper", "readme", "loader", "page", "sample")
        assert re.match(r"https?://\S+$|github\.com/[\w.-]+/[\w.-]+ \S.* @[0-9a-f]{40}$|Foundation Models for", source.where), source.where
    places = [(source.where, source.what) for source in sources().values()]
    assert len(set(places)) == len(places)


def test_readers_are_ours_and_labels_are_quantities_or_named_otherwise():
    readers = {*plugins.names("readers"), "none"}
    for entry in catalogue().values():
        assert {fact.reader for fact in entry.layouts} <= readers
        assert {label for fact in entry.labels for label in fact.value} <= {*QUANTITIES, *OTHER_LABELS}


def test_files_can_be_asked_for_and_names_are_harmless():
    for entry in catalogue().values():
        names = [file.name for file in entry.files]
        assert len(set(names)) == len(names)
        for file in entry.files:
            assert checked_address(file.url) == file.url
            assert file_name(f"https://x/{file.name}") == file.name
        for fact in entry.pages:
            assert checked_address(fact.value) == fact.value


def test_no_address_is_of_a_package_registry_or_of_this_machine():
    text = "".join(path.read_text() for path in FOLDER.rglob("*.toml"))
    hosts = set(re.findall(r"https?://([^/\"\s]+)", text))
    assert not [host for host in hosts if re.search(r"pypi|pythonhosted|conda|npmjs|localhost|127\.|\.local|\.internal", host)]


GOOD = {"id": "x", "name": "X", "kind": "molecules", "layouts": [{"value": "npz", "reader": "none", "source": "s"}]}
SOURCES = {"s": Source("s", "page", "a page", "https://x/")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": [{"value": ["pbe"]}]}, "missing 1 required positional argument: 'source'"),
        ({"levels": [{"value": ["pbe"], "source": "memory"}]}, "unknown source 'memory'"),
        ({"levels": [{"value": ["PBE"], "source": "s"}]}, r"has the value \['PBE'\]"),
        ({"elements": [{"value": "H Xx", "source": "s"}]}, "Xx"),
        ({"elements": [{"value": "H H", "source": "s"}]}, "has the value"),
        ({"structures": [{"value": "2M", "source": "s"}]}, "has the value '2M'"),
        ({"structures": [{"value": True, "source": "s"}]}, "has the value True"),
        ({"charges": [{"value": "yes", "source": "s"}]}, "has the value 'yes'"),
        ({"pages": [{"value": "file:///a", "source": "s"}]}, "has the value"),
        ({"layouts": [{"value": "npz", "source": "s"}]}, "needs the name of a reader"),
        ({"files": [{"url": "ftp://a", "name": "a", "source": "s"}]}, "no address of a file"),
        ({"files": [{"url": "https://a", "name": "a", "source": "s", "md5": "12"}]}, "digest that is none"),
        ({"size": 3}, r"unknown fields \['size'\]"),
        ({"kind": "stars"}, "unknown kind"),
        ({"id": "X Y"}, "an id that is not lower case"),
        ({"name": 3}, "needs `id`, `name` and `kind`"),
        ({"licences": [{"value": "MIT", "source": "s", "sorce": "t"}]}, "sorce"),
    ],
)
def test_an_entry_that_is_wrong_is_named(change, message):
    assert data_set(GOOD, SOURCES, "x.toml").name == "X"
    with pytest.raises(InvalidStructureError, match=message):
        data_set(GOOD | change, SOURCES, "x.toml")


def test_numbers_agree_within_their_rounding_and_texts_as_chemists_read_them():
    assert Fact(2_000_000, "a", step=1_000_000).agrees(Fact(2_008_628, "b"))
    assert not Fact(265_000_000, "a", step=1_000_000).agrees(Fact(133_934_018, "b"))
    assert Fact(8_900_000, "a", of="both").agrees(Fact(5_496_771, "b"))
    assert Fact(("wb97x/6-31g*",), "a").agrees(Fact(("ωB97X/6-31G(d)",), "b"))
    assert not Fact(("rpbe-d3(bj)/def2-tzvp",), "a").agrees(Fact(("revpbe-d3(bj)/def2-tzvp",), "b"))


def test_contradictions_are_kept_and_marked():
    assert "levels" in find("SPF").differing()  # RPBE in one, revPBE in the other
    assert "structures" in find("OC20").differing()
    assert len({fact.source for fact in find("ani-1ccx").labels}) == 2  # coupled-cluster forces in one, of DFT in the other
    assert find("spice2").differing() == []
    text = "\n".join(one_set(find("spf")))
    assert "levels (sources differ):" in text
    assert "rpbe-d3bj/def2-tzvp" in text
    assert "revpbe-d3bj/def2-tzvp" in text


def test_the_table_fits_the_terminal():
    rows = list(overview(list(catalogue().values())))
    assert max(map(len, rows)) <= 80
    assert len(rows) == len(catalogue()) + 4
    assert [short_count(n) for n in (500, 133_885, 2_008_628, 14_669_307_950)] == ["500", "134k", "2.0M", "14.7G"]


def ids(**wish) -> set[str]:
    return {entry.id for entry in choose(Wish(**wish), catalogue().values())[0]}


def test_filters_list_what_sources_state_and_tell_what_they_do_not():
    iron, silent = choose(Wish(elements=("Fe",), labels=("forces",)), catalogue().values())
    assert {entry.id for entry in iron} == {"mptrj", "alexandria"}
    assert "omat24" in {entry.id for entry in silent}  # it holds iron for certain, but no source that was read says so
    assert "spice2" not in {entry.id for entry in silent}
    assert ids(charged=True, open_licence=True, labels=("forces",)) == {"spice1", "spice2", "omol25"}
    assert ids(open_shell=True) == {"aimnet-nse", "pubchemqc-pm6", "omol25"}
    assert ids(level="6-31G(d)") >= {"ani-1x", "ani-2x", "transition1x", "3bpa"}
    assert {"gnome", "mattersim", "zinc22"}.isdisjoint(ids(open_licence=True))
    assert "gems" in ids(readable=True)
    assert "pubchemqc-pm6" not in ids(readable=True)
    assert "gems" in ids(downloadable=True)
    with pytest.raises(UnknownElementError):
        choose(Wish(elements=("Qq",)), catalogue().values())


def test_names_are_found_in_any_spelling():
    assert find("SPICE 2").id == find("spice-2").id == "spice2"
    with pytest.raises(UnreadableFileError, match="did you mean 'alexandria'"):
        find("alexandra")


def test_json_has_null_where_nothing_is_known(capsys):
    told = as_json(find("gems"))
    assert told["licences"] is None
    assert told["levels"][0] == {"value": ("pbe0-mbd/def2-tzvpp",), "source": "paper-table1"}
    code, out, _ = run(["list", "--element", "Li", "--json"], capsys)
    assert code == 0
    assert {"spice1", "spice2", "mptrj"} <= {entry["id"] for entry in json.loads(out)["sets"]}


def test_one_file_is_taken_and_of_several_one_is_chosen():
    (wanted,) = chosen(find("spice1"), [], False)
    assert wanted.known == Known(16_058_156_944, None, "f27d4c81da0e37d6547276bf6b4ae6a1")
    assert wanted.origin is not None
    assert wanted.origin["licence"] == "CC0-1.0"
    assert [wanted.name for wanted in chosen(find("md17"), ["eth*", "tol*"], False)] == ["ethanol_dft.npz", "toluene_dft.npz"]
    assert len(chosen(find("md22"), [], True)) == 7
    for name, patterns, message in (
        ("oc20", [], "has 9 files: s2ef_train_200K.tar .*; choose some with --file PATTERN, or --all"),
        ("md17", ["water*"], r"no file fits water\*; there are ethanol_dft.npz"),
        ("gnome", [], "was not released"),
        ("omol25", [], "has no address of a file in the catalogue; see https://huggingface.co/facebook/OMol25"),
    ):
        with pytest.raises(DownloadError, match=message):
            chosen(find(name), patterns, False)


@pytest.mark.parametrize("arguments", [["list"], ["list", "spice2"]])
def test_the_command_prints_what_it_is_asked_for(arguments, capsys):
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "spicy"], "the catalogue has no set 'spicy'; did you mean 'spice"),
        (["list", "--element", "Qq"], "no element is named 'Qq'"),
        (["download", "nothing", "--out", "x"], "the catalogue has no set 'nothing'"),
        (["download", "oc20", "--out", "x"], "has 9 files"),
        (["download", "http://127.0.0.1:9/a.h5", "--out", "x"], "127.0.0.1 cannot be reached"),
        (["download", "file:///etc/passwd", "--out", "x"], "addresses of the kind 'file' are not followed"),
        (["download", "http://127.0.0.1:9/", "--out", "x"], "does not end in the name of a file; give one: --as NAME"),
        (["download", "http://127.0.0.1:9/a", "--file", "b", "--out", "x"], "an address is one file"),
        (["download", "spice1", "--file-name", "b", "--out", "x"], "the catalogue knows them"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments, capsys)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert message in err


def test_the_files_of_the_catalogue_are_toml_without_empty_words():
    for path in (FOLDER / "sets").iterdir():
        told = tomllib.loads(path.read_text())
        assert not [value for value in told.values() if value in ("", [], None)], path.name
