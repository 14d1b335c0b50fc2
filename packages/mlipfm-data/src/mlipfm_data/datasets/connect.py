"""HTTP for downloads with the standard library alone: http and https, nothing else, also not by a redirect."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from mlipfm_interfaces.errors import MlipfmError

SILENCE = 30.0  # seconds without a byte
_LOCAL = ("127.0.0.1", "::1", "localhost")


class DownloadError(MlipfmError):
    """A file cannot be downloaded: no connection, a refusal of the server, or an address that is not followed."""

    code = "download"


class BrokenConnection(DownloadError):
    """The server could not be reached or broke off: another try may succeed, after `wait` seconds if the server asks for it."""

    wait = 0.0


def checked_address(url: str) -> str:
    """`url`, if it is http or https with a host and without a password.

    Raises:
        DownloadError: any other scheme (file, ftp, data, ...), no host, credentials, or characters that no address has.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise DownloadError(f"is no address: {error}", where=shown(url)) from None
    if parts.scheme not in ("http", "https"):
        raise DownloadError(f"addresses of the kind {parts.scheme or 'without a scheme'!r} are not followed", where=shown(url),
                            hint="give an address that begins with https://")  # fmt: skip
    if not parts.hostname or not url.isascii() or any(c.isspace() or ord(c) < 32 for c in url):
        raise DownloadError("is no address of a file", where=shown(url), hint="give an address like https://HOST/PATH")
    if parts.username or parts.password:
        raise DownloadError("has a name or a password in it", where=f"{parts.scheme}://{parts.hostname}", hint="give an address without")
    return url


def shown(url: str) -> str:
    """Return an address for messages: printable, without its query (which may hold a key) and without credentials, at most 200 characters."""
    text = url.partition("?")[0]
    scheme, rest = text.split("://", 1) if "://" in text else ("", text)
    host, slash, path = rest.partition("/")
    return "".join(c if c.isprintable() else "?" for c in (f"{scheme}://" if scheme else "") + host.rpartition("@")[2] + slash + path)[:200]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects from http(s) to http(s), never from https to http."""

    max_redirections = 10

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get("location") or "")
        try:
            _checked_redirect(req.full_url, target)
        except DownloadError:
            fp.close()
            raise
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _checked_redirect(source: str, target: str) -> None:
    try:
        checked_address(target)
    except DownloadError as error:
        raise DownloadError(f"redirects to {shown(target)}, which is not followed: {error.what}", where=shown(source)) from None
    if source.startswith("https:") and not target.startswith("https:"):
        raise DownloadError(f"redirects from https to {shown(target)}", where=shown(source), hint="use the address of another mirror")


def request(url: str, headers: dict[str, str]) -> http.client.HTTPResponse | urllib.error.HTTPError:
    """Return the answer to a GET; statuses of 400 and above come back as `HTTPError`, which is an answer too. The caller closes it.

    Raises:
        BrokenConnection: not reached. DownloadError: the address or a redirect is not followed.
    """
    wanted = urllib.request.Request(checked_address(url), headers={"Accept-Encoding": "identity", "User-Agent": "mlipfm"} | headers)
    try:
        answer: http.client.HTTPResponse = _opener(url).open(wanted, timeout=SILENCE)
        return answer
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400 and error.code != 304:
            with error:
                raise DownloadError(f"redirects without end or nowhere (HTTP {error.code})", where=shown(url)) from None
        return error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        host = urllib.parse.urlsplit(url).hostname
        raise BrokenConnection(f"{host} cannot be reached: {reason or type(error).__name__}", where=shown(url),
                               hint="check the connection and run the same command again: it goes on where it stopped") from error  # fmt: skip


def _opener(url: str) -> urllib.request.OpenerDirector:
    """`build_opener` would add handlers of file, ftp and data addresses; here are those of http(s) only."""
    local = urllib.parse.urlsplit(url).hostname in _LOCAL
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
