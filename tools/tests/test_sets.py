"""The public data sets that tests and benchmarks read: descriptions that are whole, and archives that are safe to unpack."""

import io
import shutil
import tarfile

import pytest
from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError
from sets import KNOWN
from sets.archives import unpacked


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A folder with a set, and nothing of the user's cache."""
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sets" / "ice").mkdir(parents=True)
    (tmp_path / "sets" / "ice" / "one.xyz").write_text("1\n\nHe 0 0 0\n")
    return tmp_path / "sets"


def test_archives_are_unpacked_once_into_the_cache(sets, tmp_path):
    with tarfile.open(sets / "ice.tar.xz", "w:xz") as archive:
        archive.add(sets / "ice", "ice")
    shutil.rmtree(sets / "ice")
    place = unpacked(sets, "ice")
    assert place.is_relative_to(tmp_path / "cache")
    assert unpacked(sets, "ice") == place
    assert [path.name for path in place.iterdir()] == ["one.xyz"]


@pytest.mark.parametrize("name", ["../escape", "link", "device"])
def test_archives_that_reach_outside_are_refused(sets, tmp_path, name):
    with tarfile.open(sets / "ice.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo(name)
        member.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}.get(name, tarfile.REGTYPE)
        member.linkname, member.size = "../../escape", 0
        archive.addfile(member, io.BytesIO())
    shutil.rmtree(sets / "ice")
    with pytest.raises(RefusedFileError, match=r"outside its folder|no plain file"):
        unpacked(sets, "ice")
    assert not list(tmp_path.rglob("escape"))


def test_cut_archives_are_named(sets):
    with tarfile.open(sets / "ice.tar.xz", "w:xz") as archive:
        archive.add(sets / "ice", "ice")
    data = (sets / "ice.tar.xz").read_bytes()
    (sets / "ice.tar.xz").write_bytes(data[: len(data) // 2])
    shutil.rmtree(sets / "ice")
    with pytest.raises(UnreadableFileError, match="cannot be unpacked"):
        unpacked(sets, "ice")


def test_known_sets_are_whole():
    """60 sets, most of them importable: readers, options, units and levels exist; every set has a citation, and a reason if it has no files."""
    assert len(KNOWN) >= 60
    assert sum(bool(known.files) for known in KNOWN.values()) >= 45
    for known in KNOWN.values():
        assert known.citation, known.name
        for files in known.files:
            files.check()
            assert files.level is not None or not files.options.get("energy_key"), known.name
