"""`mlipfm data get`: a set of the catalogue is downloaded from a server on this machine and imported with what its entry says."""

import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from mlipfm_data.datasets.catalogue import catalogue, described, find
from mlipfm_data.datasets.download import FileRequest
from mlipfm_data.datasets.manifest import FileDescription
from mlipfm_data.datasets.schema import DataFile, DataSet, Fact
from mlipfm_data.store.store import Store
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.theory import canonical_level
from mlipfm_interfaces.units import KCAL_MOL

H2 = '2\nProperties=species:S:1:pos:R:3 energy={} pbc="F F F"\nH 0 0 0\nH 0 0 {}\n'


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format, *args) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A set of three files on a server: an archive of extended XYZ, an npz in kcal/mol, and one that no reader takes; the paths asked for."""
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    with tarfile.open(files / "hydrogen.tar.gz", "w:gz") as archive:
        for name, text in (("hot/a.xyz", H2.format(-31.5, 0.74) + H2.format(-31.4, 0.76)), ("hot/b.xyz", H2.format(-31.3, 0.78))):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    positions = np.array([[[0, 0, 0], [0, 0, 0.8]]], dtype=float)
    np.savez(files / "helium.npz", z=np.array([2, 2]), R=positions * 4, E=np.array([[-3600.0]]), F=np.zeros((1, 2, 3)))
    (files / "readme.txt").write_text("nothing to read")
    handler = type("Asked", (Handler,), {"asked": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(files)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{httpd.server_port}"
    names = ("hydrogen.tar.gz", "helium.npz", "readme.txt")
    entry = DataSet(
        "own", "Own", "molecules", licences=(Fact("CC0-1.0", "x"),), citations=(Fact("nobody", "x"),),
        files=tuple(DataFile(f"{host}/{name}", name, "x") for name in names),
        imports=(
            FileDescription("**/*.xyz", "extxyz", "pbe", {"total_charge": 0}, group="{stem}"),
            FileDescription("*.npz", "npz", "pbe", {"energy_unit": "kcal/mol", "forces_unit": "kcal/mol/Angstrom", "periodic": False}),
        ),
    )  # fmt: skip
    monkeypatch.setitem(catalogue(), "own", entry)
    yield handler.asked
    httpd.shutdown()
    httpd.server_close()


def run(arguments: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", "get", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_set_is_downloaded_and_imported_with_the_options_of_its_entry(server, tmp_path, capsys):
    status, out, err = run(["own", "--all", "--out", "store"], capsys)
    assert (status, err) == (0, "")
    assert "own-readme" in out
    assert "not imported: the catalogue names no reader for readme.txt" in out
    assert "2 of 3 sets, 4 frames = 4 stored + 0 already there + 0 refused" in out
    with Store(tmp_path / "store") as store:
        found = {(s.provenance.source, s.provenance.group, s.level, s.provenance.licence, s.total_charge) for s in store}
        helium = next(s for s in store if 2 in s.atomic_numbers)
    assert {("own-hydrogen/hot/a.xyz", "a", "pbe", "CC0-1.0", 0), ("own-hydrogen/hot/b.xyz", "b", "pbe", "CC0-1.0", 0)} < found
    assert float(helium.labels["energy"]) == pytest.approx(-3600 * KCAL_MOL)
    assert (tmp_path / "cache" / "downloads" / "own" / "downloads.json").exists()


def test_run_again_nothing_is_downloaded_or_imported_twice_and_another_file_is_added(server, tmp_path, capsys):
    run(["own", "--file", "helium*", "--out", "store", "--downloads", "here"], capsys)
    asked = list(server)
    status, out, _ = run(["own", "--file", "helium*", "--out", "store", "--downloads", "here"], capsys)
    assert status == 0
    assert server == asked
    assert "1 frames = 0 stored + 1 already there" in out
    assert "1 sets were imported before, nothing is new" in out
    _, out, _ = run(["own", "--file", "*.tar.gz", "--out", "store", "--downloads", "here"], capsys)
    assert "3 frames = 3 stored" in out
    assert (tmp_path / "here" / "hydrogen" / "hot" / "a.xyz").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["own"], "has 3 files"),
        (["own", "--file", "readme*"], "names no reader for these files; `mlipfm data download`"),
        (["qm9"], "names no reader for these files"),
        (["omol25"], "has no address of a file"),
        (["owl"], "the catalogue has no set 'owl'"),
    ],
)
def test_what_cannot_be_imported_is_not_downloaded(server, capsys, arguments, words):
    status, out, err = run(arguments, capsys)
    assert (status, out, server) == (2, "", [])
    assert words in err


@pytest.mark.ci
def test_every_entry_of_the_catalogue_is_read_by_readers_options_units_and_levels_that_exist():
    """Every set with an address and a reader has `imports`; readers are those of its layouts; levels are canonical."""
    for entry in catalogue().values():
        readers = {fact.reader for fact in entry.layouts} - {"none"}
        for files in entry.imports:
            files.check()
            assert files.reader in readers, entry.id
            assert files.level is None or canonical_level(files.level) == files.level, entry.id
        assert bool(entry.imports) == bool(entry.files and readers - {"cxsmiles"}) or entry.id == "qm9", entry.id


def test_every_file_of_a_set_with_imports_is_read_or_left_out_by_name(tmp_path):
    left_out = []
    for entry in catalogue().values():
        if entry.imports:
            sets = described(entry, [FileRequest(file.url, file.name) for file in entry.files], tmp_path)
            assert len({one.name for one in sets}) == len(sets), entry.id
            left_out += [one.left_out for one in sets if one.left_out]
    assert left_out == ["the catalogue names no reader for DupMols.dat"]
    with pytest.raises(MlipfmError, match="names no reader"):
        described(find("qm9"), [FileRequest("http://x/y", "y")], tmp_path)
