"""What a registry has: names, aliases and versions, read from an MLflow server and checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .errors import RegistryError
from .registry_http import AnswerError, Json, Server

MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"
MAX_MODEL = 4 * 2**30  # bytes; a checkpoint is read into memory

#: Tag of a registered model; the alias follows.
PROMOTION_TAG = "mlipfm.promotion."

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"mlflow-artifacts:/{1,3}(\d{1,20}/[0-9a-f]{32}/artifacts)/model")
_SPELLING = "an address is mlipfm:NAME@ALIAS or mlipfm:NAME/VERSION, with letters, digits and . _ - in the name"


@dataclass(frozen=True)
class Address:
    """A registered model by its alias or by its version; exactly one of them is set."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


@dataclass(frozen=True)
class File:
    """A file of a version, as it was registered."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        digest: of the model checkpoint, its identity. files: all files of the version. root: folder of the version's run on the server; the files
            are in `root/model`, result records in `root/records`.
        run: run that holds the files. tags: all of them. created: milliseconds since 1970.
    """

    name: str
    number: int
    digest: str
    files: dict[str, File]
    root: str
    run: str
    tags: dict[str, str]
    created: int

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class Promotion:
    """What an alias means: one tag of the model, written at once. The alias of the server follows it.

    Attributes:
        version: what the alias stands for. replaces: the version before, None for the first. sequence: counts the promotions of this alias.
        evaluation, check: hashes of the result records it was promoted by. time: of the promotion, UTC.
        rollbacks: the latest moves to an older version: `sequence`, `from`, `to`, `reason`, `time`.
        signature: of a hub, over all of this, the model and its records; empty from servers that sign nothing.
    """

    version: int
    replaces: int | None
    sequence: int
    evaluation: str
    check: str
    time: str
    rollbacks: tuple[Json, ...] = ()
    signature: str = ""

    def as_json(self) -> Json:
        """Return what the tag holds; without `signature` where there is none."""
        return {key: value for key, value in asdict(self).items() if key != "signature" or value}


def check_signature(where: Server, name: str, alias: str, promotion: Promotion) -> None:
    """A hub stands by its promotions: it signed this one, and what it signed is still there. Servers of another kind are not asked.

    Raises:
        RegistryError: it did not, or model or records have changed since.
    """
    if where.token is None:
        return
    answer = where.hub("verify", {"name": name, "alias": alias, "promotion": promotion.as_json()})
    if answer is not None and answer.get("valid") is not True:
        reason = " ".join(str(answer.get("reason", "")).split())[:300]
        again = f"`mlipfm models promote {name} --version {promotion.version} --alias {alias}` promotes by result records"
        raise where.fault(f"does not stand by {name}@{alias}: {reason}", again)


def parse_address(text: str) -> Address:
    """Return an address by an allow-list: everything else, tricks with paths and encodings included, is refused.

    Raises:
        RegistryError: with the spelling.
    """
    name, mark, rest = text.removeprefix("mlipfm:").partition("@")
    if mark:
        return Address(check_name(name), alias=check_alias(rest))
    name, mark, rest = name.partition("/")
    if mark and _NUMBER.fullmatch(rest):
        return Address(check_name(name), version=int(rest))
    raise RegistryError(f"{text!r} is no address of a registered model", hint=_SPELLING)


def check_name(name: str) -> str:
    """Return the name, if a model may have it; RegistryError otherwise."""
    if not _is_name(name):
        raise RegistryError(
            f"{name!r} is no name for a model", hint="use up to 100 letters, digits and . _ - between letters or digits, no '..'"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias, if there may be one of this name; RegistryError otherwise."""
    if not _ALIAS.fullmatch(alias) or alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise RegistryError(f"{alias!r} is no alias", hint="use small letters, digits and _ -, not 'latest' and not 'v' with a number")
    return alias


def promotion_of(where: Server, name: str, alias: str) -> Promotion | None:
    """Return what an alias means by `promote`; None if there is no such alias.

    Raises:
        RegistryError: no such model, or the alias of the server was moved past `promote`. It may lag behind by a promotion that was killed.
    """
    promotion, pointer = read_alias(where, name, alias)
    again = f"`mlipfm models promote {name} --version N --alias {alias}` sets an alias; or ask for mlipfm:{name}/N"
    if promotion is None and pointer is not None:
        raise where.fault(f"points {name}@{alias} to version {pointer}, which was never promoted to it", again)
    if promotion is not None and pointer not in (promotion.version, promotion.replaces):
        was = f"points {name}@{alias} to version {pointer}, but {promotion.version} was promoted"
        raise where.fault(f"{was}: the alias was moved past `promote`", again)
    return promotion


def read_alias(where: Server, name: str, alias: str) -> tuple[Promotion | None, int | None]:
    """Return the last promotion to an alias, and the version to which the server's own alias points, which may be another."""
    try:
        row = where.get("registered-models/get", name=check_name(name)).get("registered_model")
    except AnswerError as error:
        raise _absent(where, f"{name}@{alias}", error) from error
    if not isinstance(row, dict) or row.get("name") != name:
        raise where.fault(f"answers another model than {name!r}")
    return _promotions(where, row).get(check_alias(alias)), _aliases(row).get(alias)


def get_version(where: Server, name: str, number: int) -> Version:
    """Return one version of a model."""
    try:
        answer = where.get("model-versions/get", name=check_name(name), version=str(number))
    except AnswerError as error:
        raise _absent(where, f"{name}/{number}", error) from error
    version = _parse_version(where, answer.get("model_version"), name)
    if version.number != number:
        raise where.fault(f"answers version {version.number} when requested {number}")
    return version


def list_versions(where: Server, name: str) -> list[Version]:
    """Return all versions of a model that mlipfm registered, oldest first; empty if there is no such model."""
    rows = _pages(where, "model-versions/search", "model_versions", filter=f"name='{check_name(name)}'")
    return sorted((_parse_version(where, row, name) for row in rows if _is_ours(row)), key=lambda version: version.number)


def list_models(where: Server) -> list[tuple[str, dict[str, Promotion]]]:
    """Name and promotions by alias of every model on the server whose name an address can have."""
    rows = _pages(where, "registered-models/search", "registered_models")
    return sorted((row["name"], _promotions(where, row)) for row in rows if isinstance(row.get("name"), str) and _is_name(row["name"]))


def _parse_version(where: Server, row: Any, name: str) -> Version:
    """Return a version from the server's JSON, every field checked.

    Raises:
        RegistryError: it was not registered by mlipfm, or its fields contradict what mlipfm registers.
    """
    if not isinstance(row, dict) or row.get("name") != name or not _NUMBER.fullmatch(str(row.get("version"))):
        raise where.fault(f"answers another version than one of {name!r}")
    number, tags = int(row["version"]), _tags(row)
    what = f"registers {name}/{number} "
    if not _is_ours(row):
        raise where.fault(what + "without digest and files: not by `mlipfm push`", "push the checkpoint with `mlipfm push`")
    source = _SOURCE.fullmatch(str(row.get("source")))
    if source is None or source[1].split("/")[1] != row.get("run_id"):
        raise where.fault(what + f"with files at {row.get('source')!r}, which are not those of its run")
    if row.get("status", "READY") != "READY" or not _HASH.fullmatch(tags["mlipfm.digest"]):
        raise where.fault(what + "in no usable state")
    files = _files(where, tags["mlipfm.files"], what)
    if files[MODEL_FILE].size > MAX_MODEL:
        raise where.fault(what + f"with {files[MODEL_FILE].size} bytes, more than the {MAX_MODEL} that are read")
    return Version(name, number, tags["mlipfm.digest"], files, source[1], str(row["run_id"]), tags, int(row.get("creation_timestamp", 0)))


def first_of_digest(versions: list[Version], digest: str) -> Version | None:
    """Return the oldest of these versions with this content."""
    return min((version for version in versions if version.digest == digest), key=lambda version: version.number, default=None)


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def _absent(where: Server, what: str, error: AnswerError) -> RegistryError:
    # an unknown alias is INVALID_PARAMETER_VALUE in MLflow 3
    if error.answer in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return where.fault(f"has no {what}", "see `mlipfm models list`")
    return error


def _promotions(where: Server, row: Json) -> dict[str, Promotion]:
    """Promotions by alias from the tags of a registered model."""
    found = {}
    for key, text in _tags(row).items():
        if key.startswith(PROMOTION_TAG):
            try:
                value = json.loads(text)
                found[key.removeprefix(PROMOTION_TAG)] = promotion = Promotion(**value | {"rollbacks": tuple(value["rollbacks"])})
                numbers = (promotion.version, promotion.sequence, promotion.version if promotion.replaces is None else promotion.replaces)
                good = (
                    isinstance(promotion.signature, str)
                    and all(type(n) is int and n > 0 for n in numbers)
                    and all(_is_rollback(entry) for entry in promotion.rollbacks)
                )
            except (ValueError, KeyError, TypeError, RecursionError):
                good = False
            if not good:
                raise where.fault(f"has a tag {key!r} that `promote` does not write, on {row.get('name')!r}")
    return found


def _is_rollback(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(type(entry.get(key)) is int for key in ("sequence", "from", "to"))
        and isinstance(entry.get("reason"), str)
    )


def _aliases(row: Json) -> dict[str, int]:
    entries = row.get("aliases", [])
    pairs = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {str(entry.get("alias")): int(entry["version"]) for entry in pairs if _NUMBER.fullmatch(str(entry.get("version")))}


def _pages(where: Server, path: str, key: str, **query: str) -> Iterator[Json]:
    token = ""
    for _ in range(100):
        answer = where.get(path, max_results="1000", **query, **({"page_token": token} if token else {}))
        rows = answer.get(key, [])
        if not isinstance(rows, list):
            raise where.fault(f"answers {key} that are no list")
        yield from (row for row in rows if isinstance(row, dict))
        token = str(answer.get("next_page_token") or "")
        if not token:
            return
    raise where.fault(f"has more than 100 pages of {key}")


def _is_ours(row: Json) -> bool:
    return _tags(row).keys() >= {"mlipfm.digest", "mlipfm.files"}


def _tags(row: Json) -> dict[str, str]:
    tags = row.get("tags", [])
    pairs = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return {tag["key"]: tag["value"] for tag in pairs if isinstance(tag.get("key"), str) and isinstance(tag.get("value"), str)}


def _files(where: Server, text: str, what: str) -> dict[str, File]:
    try:
        files = {name: File(entry["sha256"], entry["size"]) for name, entry in json.loads(text).items()}
        good = all(_HASH.fullmatch(file.sha256) and type(file.size) is int and file.size >= 0 for file in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        files, good = {}, False
    if not good or files.keys() != {MODEL_FILE, CARD_FILE}:
        raise where.fault(what + "with a list of files that mlipfm does not write")
    return files
