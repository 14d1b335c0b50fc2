"""Archives that come from the web: what is good comes out whole, each trick of a hostile one is refused by name and leaves nothing behind."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mlipfm_data.datasets.download import download, file_request, recorded
from mlipfm_data.datasets.unpack import Limits, is_archive, unpack, unpacked_name
from mlipfm_interfaces.errors import DamagedFileError, RefusedFileError, UnwritableFileError

FILES = {"set/a.xyz": b"3\nwater\n" * 100, "set/deep/er/b.json": b"{}", "Co.xyz": b"cobalt", "CO.xyz": b"carbon monoxide", "set/empty": b""}


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz", **options) -> Path:
    with tarfile.open(path, mode, **options) as file:
        for info, data in members:
            if info.isreg():
                info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def plain(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return member(name), data


def zipped(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def zip_of_kind(path: Path, name: str, kind: int, data: bytes) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, data)
    return path


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])
def test_everything_comes_out(tmp_path, ending):
    archive = tmp_path / f"a{ending}"
    if ending == ".zip":
        zipped(archive, FILES)
    else:
        mode = {".tar": "w", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}.get(ending, "w:gz")
        tar(
            archive,
            [(member("./", tarfile.DIRTYPE), b""), (member("set", tarfile.DIRTYPE), b""), *(plain(*item) for item in FILES.items())],
            mode,
        )
    done = unpack(archive, tmp_path / "a")
    assert found(tmp_path / "a") == FILES
    assert (done.files, done.size) == (len(FILES), sum(map(len, FILES.values())))
    assert {path.name for path in tmp_path.iterdir()} == {"a", archive.name}


@pytest.mark.parametrize(("ending", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_single_compressed_files(tmp_path, ending, module):
    (tmp_path / f"a.json{ending}").write_bytes(module.compress(b"[1]") + module.compress(b"[2]"))
    unpack(tmp_path / f"a.json{ending}", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == b"[1][2]"


def test_data_files_that_are_archives_inside_stay_as_they_are():
    assert not any(is_archive(name) for name in ("a.npz", "a.h5", "a.db", "a.aselmdb", "a.xyz", "a.json"))
    assert [unpacked_name(name) for name in ("a.tar.gz", "b.tgz", "c.zip", "d.csv.gz", "1000.xz")] == ["a", "b", "c", "d.csv", "1000"]


def test_modes_and_times_are_not_taken_over(tmp_path):
    unpack(tar(tmp_path / "a.tar", [(member("run.sh", mode=0o4777), b"#!/bin/sh\n")], "w"), tmp_path / "a")
    assert not (tmp_path / "a" / "run.sh").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


OUTSIDE = ["/abs.txt", "../up.txt", "a/../../up.txt", "..", "a\\..\\b", "C:/windows", "//host/share"]
HOSTILE_TAR: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "symlink out": ([(member("link", tarfile.SYMTYPE, "/etc"), b""), plain("link/passwd")], "a link, device or sparse file: 'link'"),
    "symlink in": ([(member("link", tarfile.SYMTYPE, "b"), b"")], "a link, device or sparse file"),
    "hard link out": ([(member("link", tarfile.LNKTYPE, "../../secret"), b"")], "a link, device or sparse file"),
    "character device": ([(member("null", tarfile.CHRTYPE), b"")], "a link, device or sparse file"),
    "block device": ([(member("disk", tarfile.BLKTYPE), b"")], "a link, device or sparse file"),
    "fifo": ([(member("pipe", tarfile.FIFOTYPE), b"")], "a link, device or sparse file"),
    "same name twice": ([plain("a"), plain("a")], "the same name twice: 'a'"),
    "file in a file": ([plain("a"), plain("a/b")], "a folder where a file is"),
    "folder as a file": ([plain("a/b"), plain("a")], "the same name twice"),
    **{f"name {name}": ([plain("good"), plain(name)], "a name that leads out of the folder or nowhere") for name in OUTSIDE},
    "folder outside": ([(member("../up", tarfile.DIRTYPE), b"")], "a name that leads out of the folder or nowhere"),
}


@pytest.mark.parametrize("trick", HOSTILE_TAR)
def test_hostile_tar_archives_are_refused_whole(tmp_path, trick):
    members, message = HOSTILE_TAR[trick]
    home = tmp_path / "deep" / "er"
    home.mkdir(parents=True)
    tar(home / "a.tar.gz", [plain("first"), *members])
    with pytest.raises(RefusedFileError, match=message):
        unpack(home / "a.tar.gz", home / "a")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.tar.gz"]
    assert not (home / "a").exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_hostile_names_in_zip_archives_are_refused(tmp_path, name):
    if "\\" in name:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(info, b"x")
    else:
        zipped(tmp_path / "a.zip", {"good": b"x", name: b"x"})
    with pytest.raises(RefusedFileError, match="a name that leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_zip_archives_are_refused(tmp_path, kind):
    with pytest.raises(RefusedFileError, match="a link or device"):
        unpack(zip_of_kind(tmp_path / "a.zip", "a", kind, b"/etc/passwd"), tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


def test_encrypted_members_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a": b"secret"}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(RefusedFileError, match="an encrypted file"):
        unpack(archive, tmp_path / "a")


SMALL = Limits(size=200_000, ratio=50, harmless=100_000, members=100)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".zip", ".json.gz", ".json.xz"])
def test_bombs_end_before_they_burst(tmp_path, ending):
    zeros, archive = bytes(3_000_000), tmp_path / f"a{ending}"
    if ending == ".zip":
        zipped(archive, {"zeros": zeros})
    elif ending.startswith(".tar"):
        tar(archive, [plain("zeros", zeros)], "w" + ending[4:].replace(".", ":"))
    else:
        archive.write_bytes(gzip.compress(zeros) if ending.endswith("gz") else lzma.compress(zeros))
    with pytest.raises(RefusedFileError, match="more than (50 times its size|the 200000 bytes)"):
        unpack(archive, tmp_path / "a", SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {archive.name}


def test_a_zip_that_lies_about_its_sizes_does_not_grow(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"zeros": bytes(3_000_000)})
    data = bytearray(archive.read_bytes())
    for place in (22, data.index(b"PK\x01\x02") + 24):
        data[place : place + 4] = struct.pack("<I", 10)
    archive.write_bytes(data)
    with pytest.raises((RefusedFileError, DamagedFileError)):
        unpack(archive, tmp_path / "a", SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


def test_too_many_members_are_refused(tmp_path):
    tar(tmp_path / "a.tar.gz", [plain(f"f{k}", b"") for k in range(101)])
    zipped(tmp_path / "b.zip", {f"f{k}": b"" for k in range(101)})
    for name in ("a.tar.gz", "b.zip"):
        with pytest.raises(RefusedFileError, match="more than 100 members"):
            unpack(tmp_path / name, tmp_path / "out", SMALL)


def test_a_header_of_absurd_length_does_not_fill_the_memory(tmp_path):
    """A pax header of 200 MB, zeros that compress to nothing: tarfile would read it whole."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 200_000_000
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(20):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(RefusedFileError, match="a header of absurd length"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7


def test_endless_padding_and_sparse_files_are_refused(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(tarfile.TarInfo("a").tobuf() + bytes(2_000_000))
    with pytest.raises(RefusedFileError, match="more than"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a", SMALL)
    sparse = member("holes", tarfile.GNUTYPE_SPARSE)
    tar(tmp_path / "b.tar", [(sparse, b"")], "w", format=tarfile.GNU_FORMAT)
    with pytest.raises((RefusedFileError, DamagedFileError)):
        unpack(tmp_path / "b.tar", tmp_path / "b")


def cut(data: bytes) -> bytes:
    return data[: 2 * len(data) // 3]


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[2 * len(data) // 3] ^= 0x55
    return bytes(changed)


@pytest.mark.parametrize("damage", [cut, flipped])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".json.gz", ".json.xz"])
def test_damaged_archives_are_errors_and_leave_nothing(tmp_path, damage: Callable[[bytes], bytes], ending):
    archive, content = tmp_path / f"a{ending}", os.urandom(40_000)
    if ending == ".zip":
        zipped(archive, {"a": content, "b": content})
    elif ending.startswith(".tar"):
        tar(archive, [plain("a", content), plain("b", content)], "w" + ending[4:].replace(".", ":"))
        if ending == ".tar":  # no checksums but those of the headers: damage the second one
            data = bytearray(archive.read_bytes())
            data[512 + 40_448 + 3] ^= 0x55
            archive.write_bytes(cut(bytes(data)) if damage is cut else bytes(data))
    else:
        archive.write_bytes(gzip.compress(content) if ending.endswith("gz") else lzma.compress(content))
    if ending != ".tar":
        archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DamagedFileError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {archive.name}


def test_random_bytes_are_no_archive(tmp_path):
    for name in ("a.zip", "b.tar", "c.tar.gz", "d.gz"):
        (tmp_path / name).write_bytes(os.urandom(3000))
        with pytest.raises(DamagedFileError, match="cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")


def test_what_is_there_is_not_overwritten_and_a_link_in_its_place_not_followed(tmp_path):
    zipped(tmp_path / "a.zip", FILES)
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnwritableFileError, match="is there already"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".a.unpacking").mkdir()
    (tmp_path / ".a.unpacking" / "half").write_bytes(b"x")
    unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "a")
    assert found(tmp_path / "a") == FILES


def test_a_downloaded_archive_is_unpacked_once_and_recorded(tmp_path, serve_folder):
    zipped(tmp_path / "a.zip", FILES)
    url = f"{serve_folder(tmp_path)}/a.zip"
    out = tmp_path / "out"
    assert f"{out / 'a'}: {len(FILES)} files" in list(download(file_request(url), out))[1]
    assert list(download(file_request(url), out))[1].endswith("unpacked already")
    assert recorded(out)["a.zip"]["unpacked"] == {"path": "a", "files": len(FILES), "size": sum(map(len, FILES.values()))}


def test_a_hostile_archive_from_a_server_stays_an_archive(tmp_path, serve_folder):
    tar(tmp_path / "a.tar.gz", [plain("../../up.txt")])
    with pytest.raises(RefusedFileError, match="a name that leads out"):
        list(download(file_request(f"{serve_folder(tmp_path)}/a.tar.gz"), tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.tar.gz", "downloads.json", ".downloads.json.lock"}


@pytest.fixture
def serve_folder():
    """Function from a folder to the address of a plain server of its files."""
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args) -> None:
            return

    running = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
