import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mlipfm_interfaces.errors import LockedError, UnreadableFileError, UnwritableFileError
from mlipfm_interfaces.files import atomic_write, cache_dir, canonical_json, lock, read_bytes, sha256


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60)


def test_atomic_write_replaces_the_content_and_leaves_no_temporary_file(tmp_path: Path):
    atomic_write(tmp_path / "a", b"old")
    atomic_write(tmp_path / "a", b"new and longer")
    assert (tmp_path / "a").read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["a"]


def test_a_symbolic_link_stays_a_link(tmp_path: Path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old")
    code = """
import resource, sys
from mlipfm_interfaces.errors import UnwritableFileError
from mlipfm_interfaces.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(sys.argv[1], bytes(5000))
except UnwritableFileError as error:
    print(error)
"""
    answer = in_a_process(code, tmp_path / "a").stdout
    assert "cannot write" in answer
    assert "free some space" in answer
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read-only for everybody on Linux")
def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(UnwritableFileError, match=r"/proc/here: cannot write: .*; (create|choose) "):
        atomic_write("/proc/here", b"x")


def test_sha256_is_that_of_the_standard(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UnreadableFileError, match="No such file"):
        sha256(tmp_path / "nothing")


def test_reading_says_what_is_wrong_with_a_path(tmp_path: Path):
    with pytest.raises(UnreadableFileError, match="is a folder"):
        read_bytes(tmp_path)
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_bytes(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFileError, match="not a plain file"):
        read_bytes(tmp_path / "pipe")


def test_canonical_json_has_one_spelling_and_no_nan():
    assert canonical_json({"b": [1.5, None], "a": "ä"}) == b'{"a":"\\u00e4","b":[1.5,null]}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_the_cache_folder_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "deep" / "cache"))
    assert cache_dir() == tmp_path / "deep" / "cache"
    assert cache_dir().is_dir()


def test_a_held_lock_names_its_holder_and_is_free_when_the_holder_dies(tmp_path: Path):
    code = """
import os, sys
from mlipfm_interfaces.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "l")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"in use by process {holder.pid}"), lock(tmp_path / "l", timeout=0.1):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with lock(tmp_path / "l", timeout=5):
        pass


def test_a_lock_holds_against_another_thread_of_the_same_process(tmp_path: Path):
    with lock(tmp_path / "l"), pytest.raises(LockedError, match=f"process {os.getpid()}"), lock(tmp_path / "l"):
        pass


def test_bytes_are_on_the_device_before_the_rename_and_the_name_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The order of calls that a power cut cannot break: write, flush the file, rename, flush the folder."""
    calls = []

    def noted(name):
        real = getattr(os, name)

        def call(*arguments):
            calls.append("fsync of a folder" if name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else name)
            return real(*arguments)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    atomic_write(tmp_path / "a", b"new")
    assert calls == ["write", "fsync", "replace", "fsync of a folder"]


def test_a_device_that_takes_three_bytes_at_a_time_gets_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    atomic_write(tmp_path / "a", b"twenty-one bytes here")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"twenty-one bytes here"
