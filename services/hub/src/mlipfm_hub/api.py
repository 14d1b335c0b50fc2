"""The hub's own API, under /api/v1: uploads, versions, promotions, users. Its description is at /api/v1/openapi.json."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer
from mlipfm_interfaces.asgi import Refused, forbidden
from pydantic import BaseModel, ConfigDict, Field

from . import audit
from .json_fields import LINE, Strict
from .services import Services, services_of
from .sweeps import Sweep
from .uploads import CHUNK
from .users import NAME, Person

#: Name of a model: letters and digits at both ends, no two dots together.
Name = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9]((\.?[A-Za-z0-9_-])*\.?[A-Za-z0-9])?$")]
User = Annotated[str, Path(pattern=NAME)]
Number = Annotated[int, Path(ge=1, le=10**9)]
Alias = Annotated[str, Path(max_length=63, pattern=r"^[a-z][a-z0-9_-]*$")]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Hub = Annotated[Services, Depends(services_of)]
Role = Literal["read", "push", "promote", "admin"]


class Wanted(Strict):
    """What a request may hold, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Upload(Wanted):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=10, le=2**40)


class NewVersion(Wanted):
    file: str = Field(pattern=r"^[0-9a-f]{64}$")
    records: list[dict[str, Any]] = Field(default=[], max_length=50)


class NewRecords(Wanted):
    records: list[dict[str, Any]] = Field(max_length=50)


class NewSignature(Wanted):
    signature: dict[str, Any]


class Move(Wanted):
    version: int = Field(ge=1, le=10**9)
    reason: str = Field(default="", max_length=300, pattern=LINE)


class Reason(Wanted):
    reason: str = Field(min_length=1, max_length=300, pattern=LINE)


class NewUser(Wanted):
    name: str = Field(pattern=NAME)
    role: Role


class Change(Wanted):
    role: Role | None = None
    disabled: bool | None = None


class NewToken(Wanted):
    label: str = Field(default="", max_length=100, pattern=LINE)
    days: Annotated[int, Field(ge=1, le=3650)] | None = None


class Problem(BaseModel):
    """Why a request was refused."""

    error_code: str
    message: str


def who(request: Request) -> Person:
    """Who asks; `border` let nobody else in."""
    person: Person = request.state.person
    return person


def role(wanted: str) -> Any:
    """A dependency: who asks, if they have the role. Refused (403) otherwise."""

    def check(request: Request) -> Person:
        person = who(request)
        if not person.may(wanted):
            raise forbidden(f"this needs the role {wanted}, you have {person.role}")
        return person

    return Depends(check)


Reader = Annotated[Person, role("read")]
Pusher = Annotated[Person, role("push")]
Promoter = Annotated[Person, role("promote")]
Admin = Annotated[Person, role("admin")]

#: What is answered instead; a request that the description forbids gets 400, one that is refused for another reason never does.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": told}
    for status, told in {
        400: "not what this description says", 401: "no token, or one that has ended", 403: "needs another role", 404: "there is none",
        409: "contradicts what is there", 413: "too large", 415: "no model checkpoint, or compressed",
        416: "no such byte in this file",
        422: "wrong hash, no result record, or refused by the gate of promotion; `message` says why", 429: "too many requests or uploads",
    }.items()
}  # fmt: skip
router = APIRouter(prefix="/api/v1", responses=REFUSALS, dependencies=[Depends(HTTPBearer(auto_error=False, description="a token"))])


@router.get("/hub")
def hub(person: Reader) -> dict[str, Any]:
    """What answers here, and who asks."""
    return {"service": "mlipfm-hub", "api": 1, "user": person.name, "role": person.role}


@router.post("/uploads")
def start_upload(wanted: Upload, person: Pusher, hub: Hub) -> dict[str, int | bool]:
    """Announce a file; the answer says how much of it is here."""
    return hub.uploads.start(person.name, wanted.sha256, wanted.size)


@router.put("/uploads/{sha256}")
def add_chunk(
    sha256: Digest,
    person: Pusher,
    hub: Hub,
    offset: Annotated[int, Query(ge=0, le=2**40)],
    size: Annotated[int, Query(ge=10, le=2**40)],
    data: Annotated[bytes, Body(media_type="application/octet-stream", min_length=1, max_length=CHUNK)],
) -> dict[str, int | bool]:
    """A chunk at `offset` of a file of `size` bytes; with the last one the file is verified."""
    return hub.uploads.add(person.name, sha256, offset, size, data)


@router.get("/models")
def list_models(person: Reader, hub: Hub) -> dict[str, Any]:
    """Names with what their aliases mean and how many versions they have."""
    named = [(name, hub.registry.aliases(name), hub.registry.versions(name)) for name in hub.registry.names()]
    return {"models": [{"name": name, "aliases": aliases, "versions": [_short(v) for v in found]} for name, aliases, found in named]}


@router.get("/models/{name}/versions/{number}")
def show_version(name: Name, number: Number, person: Reader, hub: Hub) -> dict[str, Any]:
    """A version with its manifest and the list of its records."""
    version = hub.registry.version(name, number)
    return _short(version) | {"manifest": json.loads(version["manifest"])}


@router.get("/models/{name}/versions/{number}/records")
def show_records(name: Name, number: Number, person: Reader, hub: Hub) -> dict[str, Any]:
    """Records of a version, whole."""
    return {"records": hub.registry.records_of(hub.registry.version(name, number))}


@router.post("/models/{name}/versions")
def push(name: Name, wanted: NewVersion, person: Pusher, hub: Hub) -> dict[str, Any]:
    """Register an uploaded file; pushing one content again returns the version that has it."""
    version, new = hub.registry.push(name, wanted.file, wanted.records, person.name, may_attach_records=person.may("promote"))
    return _short(version) | {"new": new}


@router.post("/models/{name}/versions/{number}/records")
def attach(name: Name, number: Number, wanted: NewRecords, person: Pusher, hub: Hub) -> dict[str, Any]:
    """Add records to a version."""
    return _short(hub.registry.attach(name, number, wanted.records, person.name, may_attach_records=person.may("promote")))


@router.post("/models/{name}/versions/{number}/signatures")
def add_signature(name: Name, number: Number, wanted: NewSignature, person: Pusher, hub: Hub) -> dict[str, str]:
    """Keep a signature of the file of a version (a Sigstore bundle of OpenSSF model signing); who pulls verifies it."""
    hub.registry.sign(name, number, wanted.signature, person.name)
    return {"signed": f"{name}/{number}"}


@router.get("/models/{name}/versions/{number}/signatures")
def show_signatures(name: Name, number: Number, person: Reader, hub: Hub) -> dict[str, Any]:
    """Signatures of a version, oldest first."""
    return {"signatures": hub.registry.signatures_of(name, number)}


@router.post("/models/{name}/aliases/{alias}")
def promote(name: Name, alias: Alias, wanted: Move, person: Promoter, hub: Hub) -> dict[str, Any]:
    """Point an alias to a version, through the gate; with a reason, go back to an older one."""
    return hub.registry.promote(name, wanted.version, alias, wanted.reason, person.name)


@router.post("/models/{name}/aliases/{alias}/revoke")
def revoke(name: Name, alias: Alias, wanted: Reason, person: Promoter, hub: Hub) -> dict[str, str]:
    """Take an alias away; the log keeps what it meant."""
    hub.registry.revoke(name, alias, wanted.reason, person.name)
    return {"revoked": f"{name}@{alias}"}


@router.get("/models/{name}/history")
def history(name: Name, person: Reader, hub: Hub) -> dict[str, Any]:
    """Promotions, rollbacks and revocations, newest first."""
    return {"history": hub.registry.history(name)}


@router.get("/files/{sha256}", response_class=StreamingResponse, responses={206: {"description": "the bytes from that of the range on"}})
def get_file(sha256: Digest, person: Reader, hub: Hub, span: Annotated[str, Header(alias="Range")] = "") -> Response:
    """The bytes of a checkpoint by its SHA-256: what a client of another hub gets from here as a mirror. A range `bytes=N-` begins at byte N."""
    size, asked = hub.registry.size_of(sha256), re.fullmatch(r"bytes=([0-9]{1,13})-", span)
    first = int(asked[1]) if asked else 0
    if first >= size:
        raise Refused(416, "RANGE", f"the file has {size} bytes")
    headers = {"content-length": str(size - first), "etag": f'"{sha256}"', "content-disposition": "attachment"}
    headers |= {"content-range": f"bytes {first}-{size - 1}/{size}"} if first else {}
    data = hub.blobs.read(sha256, first)
    return StreamingResponse(data, 206 if first else 200, headers, media_type="application/octet-stream")


@router.get("/sweeps")
def list_sweeps(person: Reader, hub: Hub) -> dict[str, Any]:
    """Sweeps of training runs by name, the latest of each."""
    return {"sweeps": [{key: row[key] for key in ("name", "number", "created", "by")} for row in hub.sweeps.list()]}


@router.get("/sweeps/{name}")
def show_sweep(name: Name, person: Reader, hub: Hub) -> dict[str, Any]:
    """Points and laws of the latest sweep of a name, as they were pushed."""
    return hub.sweeps.latest(name)[1].model_dump(mode="json", exclude_unset=True)


@router.post("/sweeps/{name}")
def push_sweep(name: Name, wanted: Sweep, person: Pusher, hub: Hub) -> dict[str, Any]:
    """Keep the points and laws of a sweep; pushing one content again returns the number that has it."""
    number, new = hub.sweeps.push(name, wanted, person.name)
    return {"name": name, "number": number, "new": new}


@router.get("/users")
def list_users(person: Admin, hub: Hub) -> dict[str, Any]:
    return {"users": hub.users.list()}


@router.post("/users")
def add_user(wanted: NewUser, person: Admin, hub: Hub) -> dict[str, str]:
    hub.users.add(wanted.name, wanted.role, person.name)
    return {"name": wanted.name, "role": wanted.role}


@router.post("/users/{user}")
def change_user(user: User, wanted: Change, person: Admin, hub: Hub) -> dict[str, str]:
    hub.users.change(user, person.name, wanted.role, wanted.disabled)
    return {"name": user}


@router.post("/users/{user}/tokens")
def give_token(user: User, wanted: NewToken, person: Reader, hub: Hub) -> dict[str, str]:
    """A token, shown this once: of your own, or, as admin, of anybody. It does not outlive the token that asks for it."""
    if user != person.name and not person.may("admin"):
        raise forbidden("this needs the role admin")
    return {"token": hub.users.give_token(user, wanted.label, person.name, wanted.days, person.expires)}


@router.post("/tokens/{start}/revoke")
def revoke_token(start: Annotated[str, Path(pattern=r"^[0-9a-f]{12,64}$")], person: Admin, hub: Hub) -> dict[str, str]:
    hub.users.revoke_token(start, person.name)
    return {"revoked": start}


@router.get("/audit")
def show_audit(person: Admin, hub: Hub, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> dict[str, Any]:
    """The latest entries, and the first that does not follow from the one before, if any."""
    with hub.database.reading() as connection:
        return {"entries": audit.entries(connection, limit), "broken_at": audit.verify(connection)}


def _short(version: dict[str, Any]) -> dict[str, Any]:
    kept = {key: version[key] for key in ("name", "number", "digest", "file", "size", "created", "by")}
    return kept | {"records": [{key: row[key] for key in ("sha256", "kind", "passed", "created")} for row in version["records"]]}
