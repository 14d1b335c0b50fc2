"""Downloads against a server on this machine that cuts connections, ignores Range, lies about lengths, changes its file and redirects elsewhere.

The file that arrives must be the file that was sent, byte for byte, or there must be a clear error and no file.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlipfm_data.datasets.connect import BrokenConnection, DownloadError, checked_address, shown
from mlipfm_data.datasets.download import FileRequest, download, file_request, recorded
from mlipfm_data.datasets.fetch import Known, fetch, file_name
from mlipfm_interfaces.errors import DamagedFileError, LockedError, UnwritableFileError
from mlipfm_interfaces.files import lock

BODY = b"".join(hashlib.sha256(b"%d" % k).digest() for k in range(10_000))  # 320 kB that repeat nowhere
OTHER = BODY[::-1]


@dataclass
class Behaviour:
    """How the server treats the requests for one path."""

    body: bytes = BODY
    cuts: list[int] = field(default_factory=list)  # bytes that each of the first answers sends before the connection breaks
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"'})
    length: int | None = None  # Content-Length, if another than the truth
    chunked: bool = False
    statuses: list[int] = field(default_factory=list)  # of the first answers
    location: str | None = None
    after: Callable[["Behaviour"], None] = lambda behaviour: None  # called when an answer is done
    pace: float = 0.0  # seconds between blocks of 16 KiB
    seen: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviours: dict[str, Behaviour]

    def log_message(self, format, *args) -> None:
        """Nothing on the terminal of the tests."""
        return

    def do_GET(self) -> None:
        behaviour = self.behaviours.get(self.path)
        if behaviour is None:
            return self.send_error(404)
        behaviour.seen.append(dict(self.headers))
        try:
            self.answer(behaviour)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        behaviour.after(behaviour)

    def answer(self, b: Behaviour) -> None:
        if b.location is not None:
            self.send_response(302)
            self.send_header("Location", b.location)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if b.statuses:
            return self.send_error(b.statuses.pop(0))
        start = self.first_byte(b)
        if start >= len(b.body) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(b.body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(b.body) - 1}/{len(b.body)}")
        for name, value in b.headers.items():
            self.send_header(name, value)
        if b.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif b.length != -1:
            self.send_header("Content-Length", str(b.length or len(b.body) - start))
        self.end_headers()
        end = start + b.cuts.pop(0) if b.cuts else len(b.body)
        self.send_body(b, b.body[start:end])
        if b.chunked and end == len(b.body):
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def first_byte(self, b: Behaviour) -> int:
        wanted = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if not wanted or not b.ranges or (condition and condition not in b.headers.values()):
            return 0
        return int(wanted.removeprefix("bytes=").partition("-")[0])

    def send_body(self, b: Behaviour, data: bytes) -> None:
        for k in range(0, len(data), 1 << 14):
            block = data[k : k + (1 << 14)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if b.chunked else block)
            time.sleep(b.pace)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Function from a path and its behaviour to its address."""
    behaviours: dict[str, Behaviour] = {}
    handler = type("H", (Handler,), {"behaviours": behaviours, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def address(path: str, behaviour: Behaviour) -> str:
        behaviours[f"/{path}"] = behaviour
        return f"http://127.0.0.1:{server.server_address[1]}/{path}"

    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_comes_as_it_was_sent(serve, tmp_path):
    fetched = fetch(serve("set.h5", Behaviour()), tmp_path / "set.h5")
    assert (tmp_path / "set.h5").read_bytes() == BODY
    assert (fetched.size, fetched.sha256, fetched.verified) == (len(BODY), hashlib.sha256(BODY).hexdigest(), ())
    assert leftovers(tmp_path) == {"set.h5"}


DATED = {"Last-Modified": "Sun, 01 Nov 2026 10:00:00 GMT"}


@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, DATED, {"ETag": 'W/"v1"'} | DATED], ids=["ETag", "date", "weak ETag and date"])
def test_every_break_is_resumed_where_it_happened(serve, tmp_path, headers):
    behaviour = Behaviour(cuts=[100_000, 1, 50_000, 70_000], headers=headers)
    fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert (tmp_path / "a.h5").read_bytes() == BODY
    assert [request.get("Range") for request in behaviour.seen] == [None, *(f"bytes={k}-" for k in (100_000, 100_001, 150_001, 220_001))]
    assert all("If-Range" in request for request in behaviour.seen[1:])


def test_chunked_answers_are_resumed_too(serve, tmp_path):
    behaviour = Behaviour(cuts=[100_000], chunked=True)
    fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert (tmp_path / "a.h5").read_bytes() == BODY
    assert len(behaviour.seen) == 2


def test_a_server_that_ignores_ranges_sends_the_file_from_its_beginning(serve, tmp_path):
    behaviour = Behaviour(cuts=[200_000, 250_000], ranges=False)
    fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert (tmp_path / "a.h5").read_bytes() == BODY


def test_without_a_version_a_part_is_begun_anew_unless_a_digest_is_known(serve, tmp_path):
    bare, known = Behaviour(cuts=[200_000], headers={}), Behaviour(cuts=[200_000], headers={})
    fetch(serve("a", bare), tmp_path / "a", pause=0.0)
    fetch(serve("b", known), tmp_path / "b", Known(sha256=hashlib.sha256(BODY).hexdigest()), pause=0.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == BODY
    assert [request.get("Range") for request in bare.seen] == [None, None]
    assert [request.get("Range") for request in known.seen] == [None, "bytes=200000-"]


@pytest.mark.parametrize("if_range", [True, False], ids=["heeds If-Range", "ignores If-Range"])
@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_file_that_changes_between_two_tries_is_never_a_mixture(serve, tmp_path, name, if_range):
    def change(behaviour: Behaviour) -> None:
        if len(behaviour.seen) == 1:
            behaviour.body = OTHER
            dates = {"ETag": '"v2"', "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
            behaviour.headers = {name: dates[name]} | ({} if if_range else {"X-Old": '"v1"', "X-Date": "Sun, 01 Nov 2026 10:00:00 GMT"})

    first = {"ETag": '"v1"', "Last-Modified": "Sun, 01 Nov 2026 10:00:00 GMT"}
    behaviour = Behaviour(cuts=[150_000], headers={name: first[name]}, after=change)
    fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert (tmp_path / "a.h5").read_bytes() == OTHER
    assert leftovers(tmp_path) == {"a.h5"}


def test_a_file_that_changes_all_the_time_is_given_up(serve, tmp_path):
    def change(behaviour: Behaviour) -> None:
        behaviour.headers = {"ETag": f'"v{len(behaviour.seen) + 1}"', "X-Old": f'"v{len(behaviour.seen)}"'}

    behaviour = Behaviour(cuts=[1000, 0] * 50, after=change)
    with pytest.raises(DownloadError, match=r"changes while it is downloaded \(4 times\)"):
        fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert not (tmp_path / "a.h5").exists()


def test_a_length_that_is_too_long_is_a_break_and_one_that_is_not_the_published_one_another_file(serve, tmp_path):
    with pytest.raises(BrokenConnection, match=f"broke off after {len(BODY)} of {len(BODY) + 9} bytes"):
        fetch(serve("long", Behaviour(length=len(BODY) + 9, ranges=False)), tmp_path / "long", patience=2, pause=0.0)
    with pytest.raises(DamagedFileError, match=f"the server has 1000 bytes, {len(BODY)} are known"):
        fetch(serve("short", Behaviour(length=1000)), tmp_path / "short", Known(size=len(BODY)), pause=0.0)
    assert not {"long", "short"} & leftovers(tmp_path)


def test_an_end_that_could_be_a_break_needs_a_digest(serve, tmp_path):
    with pytest.raises(DownloadError, match="gives no length"):
        fetch(serve("a", Behaviour(length=-1)), tmp_path / "a")
    fetch(serve("b", Behaviour(length=-1)), tmp_path / "b", Known(sha256=hashlib.sha256(BODY).hexdigest()))
    assert (tmp_path / "b").read_bytes() == BODY


@pytest.mark.parametrize("known", [Known(sha256="0" * 64), Known(md5="0" * 32)])
def test_other_bytes_than_published_leave_nothing_behind(serve, tmp_path, known):
    with pytest.raises(DamagedFileError, match=r"(sha256|md5) [0-9a-f]+, 0+ is known.*nothing was kept"):
        fetch(serve("a.h5", Behaviour()), tmp_path / "a.h5", known)
    assert leftovers(tmp_path) <= {".a.h5.lock"}


def test_passing_refusals_are_tried_again_and_others_are_not(serve, tmp_path):
    behaviour = Behaviour(statuses=[503, 500, 429])
    fetch(serve("a.h5", behaviour), tmp_path / "a.h5", pause=0.0)
    assert len(behaviour.seen) == 4
    forbidden = Behaviour(statuses=[403] * 9)
    with pytest.raises(DownloadError, match=r"HTTP 403 Forbidden; it asks for a login"):
        fetch(serve("b.h5", forbidden), tmp_path / "b.h5", pause=0.0)
    assert len(forbidden.seen) == 1


def test_a_web_page_in_place_of_a_file_is_refused(serve, tmp_path):
    with pytest.raises(DownloadError, match="answers with a web page"):
        fetch(serve("a.h5", Behaviour(b"<html>Log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})), tmp_path / "a.h5")


def test_a_compressed_transfer_is_not_the_file(serve, tmp_path):
    with pytest.raises(DownloadError, match="is sent as gzip"):
        fetch(serve("a.h5", Behaviour(headers={"Content-Encoding": "gzip"})), tmp_path / "a.h5")


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:text/plain,hello", "gopher://127.0.0.1/", "http://user:word@127.0.0.1/a"]
)
def test_redirects_to_other_schemes_are_refused(serve, tmp_path, target):
    with pytest.raises(DownloadError, match="redirects to"):
        fetch(serve("a.h5", Behaviour(location=target)), tmp_path / "a.h5", pause=0.0)
    assert not (tmp_path / "a.h5").exists()


def test_redirects_are_followed_but_not_in_circles(serve, tmp_path):
    there = serve("real.h5", Behaviour(cuts=[1000]))
    fetch(serve("a.h5", Behaviour(location=there)), tmp_path / "a.h5", pause=0.0)
    assert (tmp_path / "a.h5").read_bytes() == BODY
    with pytest.raises(DownloadError, match="redirects without end"):
        fetch(serve("b.h5", Behaviour(location="/b.h5")), tmp_path / "b.h5", pause=0.0)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a", "a.h5", "https://", "https://u:p@host/a", "http://host/a b", "http://[::1"]
)
def test_only_plain_http_addresses_are_asked(url):
    with pytest.raises(DownloadError):
        checked_address(url)


def test_messages_show_no_keys_and_no_control_characters():
    assert shown("https://u:p@host/a.h5?token=secret") == "https://host/a.h5"
    assert shown("https://host/\x1b[31m") == "https://host/?[31m"


def test_names_come_from_addresses_only_if_they_are_harmless():
    assert file_name("https://host/files/SPICE-2.0.1.hdf5?download=1") == "SPICE-2.0.1.hdf5"
    for url in (
        "https://host/",
        "https://host/..",
        "https://host/%2e%2e%2fa",
        "https://host/.bashrc",
        "https://host/a%00b",
        "https://host/a.part",
    ):
        with pytest.raises(DownloadError, match="does not end in the name of a file"):
            file_name(url)


def test_a_closed_port_is_one_clear_error_at_once(tmp_path):
    begin = time.monotonic()
    with pytest.raises(BrokenConnection, match=r"127\.0\.0\.1 cannot be reached: .*refused.*run the same command again"):
        fetch("http://127.0.0.1:9/a.h5", tmp_path / "a.h5")
    assert time.monotonic() - begin < 5


def test_two_downloads_of_one_file_do_not_mix(serve, tmp_path):
    with lock(tmp_path / ".a.h5.lock"), pytest.raises(LockedError, match="is in use by process"):
        fetch(serve("a.h5", Behaviour()), tmp_path / "a.h5")


def test_a_part_of_another_address_or_a_spoiled_note_is_not_continued(serve, tmp_path):
    for note in (b'{"url": "http://elsewhere/", "etag": "\\"v1\\"", "modified": null, "total": 320000}', b"{", b'{"url": 1}', b"[]"):
        (tmp_path / "a.h5.part").write_bytes(OTHER[:1000])
        (tmp_path / "a.h5.part.json").write_bytes(note)
        fetch(serve("a.h5", Behaviour()), tmp_path / "a.h5")
        assert (tmp_path / "a.h5").read_bytes() == BODY
        (tmp_path / "a.h5").unlink()


def test_a_part_that_was_complete_when_the_process_died_is_taken(serve, tmp_path):
    behaviour = Behaviour()
    url = serve("a.h5", behaviour)
    (tmp_path / "a.h5.part").write_bytes(BODY)
    (tmp_path / "a.h5.part.json").write_text(json.dumps({"url": url, "etag": '"v1"', "modified": None, "total": len(BODY)}))
    fetch(url, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == BODY
    assert len(behaviour.seen) == 1


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(serve, tmp_path):
    """kill -9 three times; each run continues what the one before left."""
    behaviour = Behaviour(BODY * 4, pace=0.02)
    url = serve("big.h5", behaviour)
    code = f"from pathlib import Path; from mlipfm_data.datasets.fetch import fetch; fetch({url!r}, Path({str(tmp_path / 'big.h5')!r}))"
    sizes = [0]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 30
        while (size := (tmp_path / "big.h5.part").stat().st_size if (tmp_path / "big.h5.part").exists() else 0) <= sizes[-1] + 50_000:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sizes.append(size)
    behaviour.pace = 0.0
    fetch(url, tmp_path / "big.h5")
    assert (tmp_path / "big.h5").read_bytes() == BODY * 4
    first = [int(request.get("Range", "bytes=0-")[6:-1]) for request in behaviour.seen]
    assert all(later >= size for later, size in zip(first, sizes, strict=True))


def test_the_first_use_is_trusted_and_said_so_and_the_second_is_verified(serve, tmp_path):
    url = serve("a.dat", Behaviour())
    (said,) = download(file_request(url), tmp_path)
    assert "no digest is published: accepted at first use, sha256" in said
    assert recorded(tmp_path)["a.dat"]["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert recorded(tmp_path)["a.dat"]["verified"] == []
    (again,) = download(file_request(url), tmp_path)
    assert "was there already; sha256 as when it first came" in again
    (tmp_path / "a.dat").write_bytes(OTHER)
    with pytest.raises(DamagedFileError, match="another or a damaged file"):
        list(download(file_request(url), tmp_path))
    (tmp_path / "a.dat").unlink()
    changed = serve("a.dat", Behaviour(OTHER, headers={"ETag": '"v2"'}))
    with pytest.raises(DamagedFileError, match="sha256"):
        list(download(file_request(changed), tmp_path))


def test_a_published_digest_is_said_and_recorded_with_licence_and_citation(serve, tmp_path):
    known = Known(len(BODY), None, hashlib.md5(BODY).hexdigest())
    wanted = FileRequest(serve("a.h5", Behaviour()), "b.h5", known, {"set": "water", "licence": "CC0-1.0"})
    (said,) = download(wanted, tmp_path)
    assert "md5 as published" in said
    entry = recorded(tmp_path)["b.h5"]
    assert (entry["verified"], entry["licence"], entry["set"]) == (["size", "md5"], "CC0-1.0", "water")


def test_one_name_for_two_addresses_is_refused(serve, tmp_path):
    list(download(file_request(serve("x/a.dat", Behaviour())), tmp_path))
    with pytest.raises(UnwritableFileError, match="a.dat came from .*x/a.dat before"):
        list(download(file_request(serve("y/a.dat", Behaviour(OTHER))), tmp_path))
    with pytest.raises(DownloadError, match="is the name of the record"):
        list(download(file_request(serve("z", Behaviour()), "downloads.json"), tmp_path))


def test_a_spoiled_record_is_named(serve, tmp_path):
    for text in ("{", "[]", '{"format": 1}', '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": 1}}'):
        (tmp_path / "downloads.json").write_text(text)
        with pytest.raises(DamagedFileError, match="is no record of downloads"):
            recorded(tmp_path)


def test_the_command_downloads_and_says_what_it_trusts(serve, tmp_path, capsys):
    from mlipfm_interfaces.cli import main

    url = serve("set.h5", Behaviour(cuts=[1000]))
    with pytest.raises(SystemExit) as stop:
        main(["data", "download", url, "--out", str(tmp_path / "new" / "folder"), "--file-name", "water.h5"])
    out, err = capsys.readouterr()
    assert (stop.value.code or 0, err) == (0, "")
    assert "accepted at first use" in out
    assert (tmp_path / "new" / "folder" / "water.h5").read_bytes() == BODY
