"""The border of the hub: every request passes here first. Who asks, by which name, how much and how often, and from which page.

Nothing is answered without a user except `PUBLIC`. A browser's cookie counts only together with the form key of its session and with an Origin of
this hub (CSRF); programs show a token. Bodies are read whole, up to a limit, before anything looks at them, and are never unpacked.
"""

from __future__ import annotations

import collections
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from mlipfm_interfaces.asgi import App, Message, Receive, Refused, Scope, Send, bad, forbidden, plain_json, read_body, replay_body

from .settings import Settings
from .users import Person, Users

COOKIE = "mlipfm_hub"
#: What is answered without a user: (method, path).
PUBLIC = {("GET", "/health"), ("GET", "/login"), ("POST", "/login")}
STATIC = "/static/"
METHODS = ("GET", "HEAD", "POST", "PUT")
LIMITS = {
    "/api/v1/uploads/": 17 * 2**20,
    "/api/": 34 * 2**20,
    "/mlipfm/": 2**20,
    "/try": 2**21,
    "/": 2**16,
}  # bytes of a body, by the path's beginning
LOGINS = 10  # per minute and address

_PATH = re.compile(r"/[A-Za-z0-9._~@/-]{0,500}")
_log = logging.getLogger("mlipfm.hub")

_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
     b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip


class Border:
    """`inner` behind users.

    Args:
        failed: makes the page (status, line) that a browser gets for a refusal. methods: that a path answers, for the header Allow.
    """

    def __init__(
        self, inner: App, settings: Settings, users: Users, failed: Callable[[int, str], bytes], methods: Callable[[str], set[str]]
    ) -> None:
        self.inner, self.settings, self.users, self.failed, self.methods = inner, settings, users, failed, methods
        self.rates = Rates(settings.rate)
        self.requests: collections.Counter[int] = collections.Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        sent = self._counted(scope, send)
        scope.setdefault("state", {})
        try:
            await self._serve(scope, receive, sent)
        except Refused as refusal:
            await self._refuse(scope, sent, refusal)
        except Exception:
            number = secrets.token_hex(4)
            _log.exception("request %s failed", number)
            if scope["state"].get("started"):
                return  # an answer was on its way
            await self._refuse(scope, sent, Refused(500, "INTERNAL_ERROR", f"this failed in the hub; its log has it under {number}"))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        path = _path(scope)
        self._check_host(headers)
        if scope["method"] not in METHODS:
            raise Refused(405, "METHOD_NOT_ALLOWED", "the hub answers GET, HEAD, POST and PUT; it deletes nothing")
        address = str((scope.get("client") or ("?",))[0])
        if (scope["method"], path) in PUBLIC or (path.startswith(STATIC) and scope["method"] in ("GET", "HEAD")):
            signs_in = path == "/login" and scope["method"] == "POST"
            self.rates.take(f"login {address}" if signs_in else f"open {address}", LOGINS if signs_in else None)
            await self._forward(scope, receive, send, path, headers, self._from_cookie(headers))
            return
        person, by_cookie = self._who(headers)
        if person is None:
            self.rates.take(f"open {address}")
            await self._ask_to_sign_in(scope, send, path, "authorization" in headers)
            return
        self.rates.take(person.name)
        await self._forward(scope, receive, send, path, headers, person, by_cookie)

    async def _forward(
        self, scope: Scope, receive: Receive, send: Send, path: str, headers: dict[str, str], person: Person | None, by_cookie: bool = False
    ) -> None:
        scope["state"]["person"] = person
        if scope["method"] in ("GET", "HEAD"):
            await self.inner(scope, receive, send)
            return
        if headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "COMPRESSED", "a body is sent as it is, not compressed")
        limit = next(bytes_ for start, bytes_ in LIMITS.items() if path.startswith(start))
        data = await read_body(receive, limit, headers.get("content-length", "0").encode())
        content = headers.get("content-type", "").split(";")[0].strip()
        if content == "application/json":
            plain_json(data)
        if by_cookie or content == "application/x-www-form-urlencoded" or path == "/login":
            self._check_origin(headers, person if by_cookie else None, content, data)
        await self.inner(scope, replay_body(data, receive), send)

    def _check_host(self, headers: dict[str, str]) -> None:
        if headers.get("host", "").lower() not in self.settings.allowed_hosts:
            raise Refused(421, "WRONG_HOST", "the hub is not called by this name; MLIPFM_HUB_HOSTS lists further ones")

    def _who(self, headers: dict[str, str]) -> tuple[Person | None, bool]:
        if "authorization" in headers:
            found = re.fullmatch(r"(?i:bearer) ([\x21-\x7e]{1,200})", headers["authorization"])
            return (self.users.of_token(found[1]) if found else None), False
        return self._from_cookie(headers), True

    def _from_cookie(self, headers: dict[str, str]) -> Person | None:
        key = session_key(headers.get("cookie", ""))
        return self.users.of_session(key) if key else None

    def _check_origin(self, headers: dict[str, str], person: Person | None, content: str, data: bytes) -> None:
        """A form comes from a page of this hub, and shows the key of its session."""
        origin = headers.get("origin", "")
        same = origin.partition("://")[2].lower() == headers["host"].lower() and origin.startswith(("http://", "https://"))
        if not same or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise forbidden("this form came from another page")
        if person is None:
            return
        shown = headers.get("x-csrf", "")
        if content == "application/x-www-form-urlencoded":
            shown = form_of(data).get("csrf", shown)
        if not secrets.compare_digest(shown.encode(), person.csrf.encode()):
            raise forbidden("this form is not of your session: load the page again")

    async def _ask_to_sign_in(self, scope: Scope, send: Send, path: str, shown: bool) -> None:
        if is_page(path) and scope["method"] in ("GET", "HEAD") and not shown:
            await send({"type": "http.response.start", "status": 303, "headers": [(b"location", b"/login")]})
            await send({"type": "http.response.body", "body": b""})
            return
        hint = "programs show a token (MLIPFM_REGISTRY_TOKEN, or MLIPFM_REGISTRY set to the folder of a hub of yours), a browser signs in at /login"
        raise Refused(401, "UNAUTHENTICATED", f"the hub does not know you: {hint}")

    async def _refuse(self, scope: Scope, send: Send, refusal: Refused) -> None:
        if is_page(scope["path"]):
            content, body = b"text/html; charset=utf-8", self.failed(refusal.status, refusal.message)
        else:
            content, body = b"application/json", json.dumps({"error_code": refusal.code, "message": refusal.message}).encode()
        headers = [(b"content-type", content), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        if refusal.status == 429:
            headers.append((b"retry-after", b"10"))
        if refusal.status == 405:
            headers.append((b"allow", ", ".join(sorted(self.methods(scope["path"]))).encode()))
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _counted(self, scope: Scope, send: Send) -> Send:
        """`send` with the headers that every answer has."""
        keep = b"max-age=3600" if scope["path"].startswith(STATIC) else b"no-store"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["started"] = True
                self.requests[message["status"]] += 1
                message["headers"] = [*message.get("headers", []), *_HEADERS, (b"cache-control", keep)]
            await send(message)

        return counted


class Rates:
    """So many requests a minute of one name, spent as fast as wished and refilled steadily."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int | None = None) -> None:
        """Refused (429) when none is left."""
        most, time_now = float(per_minute or self.per_minute), time.monotonic()
        if len(self.left) > 10_000:
            self.left.clear()
        left, since = self.left.get(name, (most, time_now))
        left = min(most, left + (time_now - since) * most / 60)
        self.left[name] = (max(0.0, left - 1), time_now)
        if left < 1:
            raise Refused(429, "TOO_MANY_REQUESTS", "too many requests: wait a few seconds")


def is_page(path: str) -> bool:
    """Whether people look at this path; programs get JSON."""
    return not path.startswith(("/api/", "/mlipfm/", "/metrics", "/health", "/ajax-api/"))


def session_key(cookie: str) -> str:
    """The session in a Cookie header; empty if there is none."""
    try:
        found = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None and len(found.value) < 100 else ""


def form_of(data: bytes) -> dict[str, str]:
    """Fields of an urlencoded form; Refused if one stands twice."""
    try:
        pairs = parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise bad("the form cannot be read") from None
    if len(dict(pairs)) < len(pairs):
        raise bad("a field stands twice in the form")
    return dict(pairs)


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    if len(scope["headers"]) > 64 or sum(len(name) + len(value) for name, value in scope["headers"]) > 16384:
        raise Refused(431, "TOO_LARGE", "too many or too long headers")
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "authorization", "content-length", "content-type", "origin", "cookie", "transfer-encoding"):
            raise bad(f"the header {key} stands twice")
        found[key] = value.decode("latin-1")
    return found


def _path(scope: Scope) -> str:
    raw = str((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))
    if not _PATH.fullmatch(raw) or "//" in raw or any(part in (".", "..") for part in raw.split("/")):
        raise bad("a path of the hub has letters, digits and . _ ~ @ - only, no encoded characters and no '..'")
    if len(scope.get("query_string", b"")) > 4000:
        raise Refused(414, "TOO_LARGE", "the query is too long")
    return raw
