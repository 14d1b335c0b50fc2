"""HTTP to a registry with the standard library alone. Every answer has a size limit and a time limit, redirects are not followed, and nothing that
a server sends is believed without a check by the caller."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import MlipfmError, RegistryError
from .files import atomic_write, cache_dir, canonical_json, strict_json
from .hub_folder import access

DEFAULT_ADDRESS = "http://127.0.0.1:5000"
MAX_ANSWER = 16 * 2**20  # bytes of JSON
_CHUNK = 2**20
_SILENCE = 30.0  # seconds without a byte
_SLOWEST = 50_000  # bytes per second, averaged, before a download is given up
_API = "/api/2.0/mlflow/"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

Json = dict[str, Any]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None  # urllib then raises HTTPError with the 3xx status


@dataclass(frozen=True)
class Server:
    """A registry by its address; make one with `server`.

    Attributes:
        address: scheme, host and port. patience: seconds that an answer may take, apart from what its size allows.
        token: that lets us in, sent to this address alone; None where none is known.
    """

    address: str
    patience: float = 60.0
    token: str | None = field(default=None, repr=False)

    def get(self, path: str, **query: str) -> Json:
        """JSON of one GET of the model registry API."""
        return self._json(self._request("GET", f"{_API}{path}?{urllib.parse.urlencode(query)}"))

    def send(self, path: str, body: Mapping[str, Any], method: str = "POST") -> Json:
        """JSON answer to a POST (or PATCH, DELETE) of JSON."""
        data = json.dumps(body).encode()
        return self._json(self._request(method, _API + path, data, "application/json"))

    def hub(self, task: str, body: Mapping[str, Any]) -> Json | None:
        """JSON answer of the hub's own tasks `sign` and `verify`; None if this is another kind of server."""
        try:
            return self._json(self._request("POST", f"/mlipfm/{task}", json.dumps(body).encode(), "application/json"))
        except AnswerError as error:
            if error.answer in ("HTTP 404", "HTTP 405", "HTTP 501"):
                return None
            raise

    def call(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> Json:
        """JSON answer of the hub's own API, to JSON or to plain bytes."""
        if body is None or isinstance(body, bytes):
            return self._json(self._request(method, path, body, "application/octet-stream" if body is not None else None))
        return self._json(self._request(method, path, json.dumps(body).encode(), "application/json"))

    def listing(self, folder: str) -> dict[str, int | None]:
        """Names in a folder of artifacts, with sizes in bytes; None for a folder."""
        answer = self._json(self._request("GET", f"{_ARTIFACTS}?{urllib.parse.urlencode({'path': folder})}"))
        files = answer.get("files", [])
        if not isinstance(files, list) or not all(isinstance(file, dict) and isinstance(file.get("path"), str) for file in files):
            raise self.fault("answers a listing of files that is none")
        return {file["path"]: None if file.get("is_dir") else _size(file.get("file_size", 0)) for file in files}

    def upload(self, path: str, data: bytes) -> None:
        """Store an artifact; the server replaces the file at once or not at all."""
        self._body(self._request("PUT", f"{_ARTIFACTS}/{urllib.parse.quote(path)}", data, "application/octet-stream"))

    def download(self, path: str, size: int) -> Iterator[bytes]:
        """Yield the bytes of an artifact in chunks: never more than `size`.

        Raises:
            RegistryError: it has another length, arrives too slowly, or is not there.
        """
        yield from self.read(f"{_ARTIFACTS}/{urllib.parse.quote(path)}", path, size)

    def read(self, path: str, what: str, size: int, first: int = 0) -> Iterator[bytes]:
        """The bytes from `first` on of a file of `size` bytes. A server that knows no ranges sends all, of which those before are left out.

        Raises:
            RegistryError: as `download`.
        """
        answer = self._request("GET", path, first=first)
        try:
            start = first if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            if length is not None and length != str(size - start):
                raise self.fault(f"sends {length} bytes for {what}, {size} were registered")
            received = start
            for chunk in self._chunks(answer, self.patience + size / _SLOWEST):
                received += len(chunk)
                if received > size:
                    raise self.fault(f"sends more than the {size} bytes that were registered for {what}")
                if received > first:
                    yield chunk[max(0, len(chunk) - (received - first)) :]
            if received < size:
                raise self.fault(f"sent {received} of {size} bytes of {what}", "try again")
        finally:
            answer.close()

    def fault(self, what: str, hint: str | None = None) -> RegistryError:
        """Return an error about this server."""
        return RegistryError(f"the registry {what}", where=self.address, hint=hint)

    def _request(
        self, method: str, path: str, data: bytes | None = None, content: str | None = None, first: int = 0
    ) -> http.client.HTTPResponse:
        headers = ({"Content-Type": content} if content else {}) | ({"Range": f"bytes={first}-"} if first else {})
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.address + path, data=data, method=method, headers=headers)
        try:
            answer: http.client.HTTPResponse = _opener(self.address).open(request, timeout=_SILENCE)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            hint = "start one with `mlipfm hub up`, or set MLIPFM_REGISTRY to its address"
            raise UnreachableError(f"the registry cannot be reached: {reason}", where=self.address, hint=hint) from error

    def _refusal(self, error: urllib.error.HTTPError) -> RegistryError:
        """Return the server's own words for a status that is not 200, if they are JSON as MLflow writes it."""
        try:
            told = json.loads(b"".join(self._chunks(error, 10.0))[:100_000])
            code, text = str(told["error_code"]), str(told.get("message", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RegistryError):
            code, text = f"HTTP {error.code}", str(error.reason)
        return AnswerError(f"the registry refuses: {' '.join(text.split())[:300]} ({code})", where=self.address, answer=code)

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        with answer:
            parts, size = [], 0
            for chunk in self._chunks(answer, self.patience):
                size += len(chunk)
                if size > MAX_ANSWER:
                    raise self.fault(f"answers with more than {MAX_ANSWER} bytes")
                parts.append(chunk)
        return b"".join(parts)

    def _json(self, answer: http.client.HTTPResponse) -> Json:
        try:
            value = strict_json(self._body(answer))
        except (ValueError, RecursionError) as error:
            raise self.fault(f"answers no JSON: {error}", "is this address an MLflow server?") from error
        if not isinstance(value, dict):
            raise self.fault("answers JSON that is no object", "is this address an MLflow server?")
        return value

    def _chunks(self, answer: Any, seconds: float) -> Iterator[bytes]:
        """Yield what arrives, as it arrives: `read1` returns after one packet, so that a trickle cannot hold us for longer than `seconds`."""
        deadline, received = time.monotonic() + seconds, 0
        try:
            while chunk := answer.read1(_CHUNK):
                received += len(chunk)
                yield chunk
                if time.monotonic() > deadline:
                    raise self._broken(f"is too slow: no complete answer in {seconds:.0f} s")
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(f"broke off: {error or type(error).__name__}") from error
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(received):  # read1 does not mind an early end
            raise self._broken(f"broke off after {received} of {length} bytes")

    def _broken(self, what: str) -> UnreachableError:
        return UnreachableError(f"the registry {what}", where=self.address, hint="try again")


class UnreachableError(RegistryError):
    """The registry does not answer, breaks off, or is too slow: what it has may be right."""


class AnswerError(RegistryError):
    """The registry answered with an error of its own; `answer` is its code, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, what: str, *, answer: str = "", where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.answer = answer


def server(address: str | None = None) -> Server:
    """Return the registry at `address`, or at $MLIPFM_REGISTRY, or at $MLFLOW_TRACKING_URI if that is an http(s) address, or on this machine.

    The folder of a hub stands for its address and its token. Otherwise the token is $MLIPFM_REGISTRY_TOKEN, for the address of $MLFLOW_TRACKING_URI
    also $MLFLOW_TRACKING_TOKEN, or that of the hub which was started at this address with the same cache folder. Certificates are checked by those
    of the system ($SSL_CERT_FILE), and by the file of $MLFLOW_TRACKING_SERVER_CERT_PATH or $REQUESTS_CA_BUNDLE; proxies are those of $HTTPS_PROXY.

    Raises:
        RegistryError: no plain http(s) address of a host, a folder on which no hub runs, or a token that would go over the net unencrypted.
    """
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    tracking = tracking.rstrip("/") if tracking.startswith(("http://", "https://")) else ""
    given = address or os.environ.get("MLIPFM_REGISTRY") or tracking or DEFAULT_ADDRESS
    if "://" not in given and Path(given).is_dir():
        found, secret = access(Path(given))
        return Server(found, token=secret)
    variable = "MLIPFM_REGISTRY_TOKEN"
    if not os.environ.get(variable) and given.rstrip("/") == tracking:
        variable = "MLFLOW_TRACKING_TOKEN"
    return server_at(given, variable)


def server_at(address: str, variable: str) -> Server:
    """The server at a plain http(s) address of a host; `variable` of the environment holds its token. Raises RegistryError as `server`."""
    hint = f"an address is like {DEFAULT_ADDRESS}"
    try:
        parts = urllib.parse.urlsplit(address)
        plain = (
            parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password or parts.query or parts.fragment)
        )
        port = parts.port
    except ValueError as error:
        raise RegistryError(f"{address!r} is no address of a registry: {error}", hint=hint) from None
    if not plain or parts.path.strip("/") or not address.isascii() or any(c.isspace() for c in address):
        raise RegistryError(f"{address!r} is no address of a registry", hint=hint)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    plain_address = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
    token = os.environ.get(variable) or _known_token(plain_address)
    if token is not None and not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        raise RegistryError("the token of the registry is no line of plain text", where=variable, hint="give it as it is")
    if token is not None and parts.scheme == "http" and not _is_local(plain_address):
        raise RegistryError(
            "a token is not sent unencrypted over the net", where=plain_address, hint="use https, or forward the port by ssh -L"
        )
    return Server(plain_address, token=token)


def registry_cache() -> Path:
    """Folder of downloaded models and of what is known of registries."""
    folder = cache_dir() / "registry"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def remember_hub(address: str, folder: Path) -> None:
    """Note where the hub at this address has its folder, so that its owner's commands find the token."""
    atomic_write(_hub_note(address), canonical_json({"folder": str(folder)}))


def _hub_note(address: str) -> Path:
    return registry_cache() / f"hub-{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _known_token(address: str) -> str | None:
    """Token of the hub that this address is known to be, if it runs."""
    if not _is_local(address):
        return None
    try:
        found, token = access(Path(json.loads(_hub_note(address).read_bytes())["folder"]))
    except (OSError, ValueError, KeyError, TypeError, MlipfmError):
        return None
    return token if found == address else None


def _is_local(address: str) -> bool:
    return urllib.parse.urlsplit(address).hostname in ("127.0.0.1", "::1", "localhost")


def _opener(address: str) -> urllib.request.OpenerDirector:
    handlers: list[Any] = [urllib.request.ProxyHandler({} if _is_local(address) else None), _NoRedirect]
    bundle = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle and address.startswith("https:"):
        import ssl

        context = ssl.create_default_context()
        try:
            context.load_verify_locations(bundle)
        except (OSError, ssl.SSLError) as error:
            hint = "give a file of certificates in PEM format in MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE"
            raise RegistryError(f"the certificates cannot be read: {error}", where=bundle, hint=hint) from None
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _size(value: Any) -> int:
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()) else -1
