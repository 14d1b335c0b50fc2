"""Promotion: an alias such as `production` moves to a version only with a result record, and never silently back.

The record is that of an evaluation on data that neither the model nor one that it starts from was trained on, no worse there than the
version that has the alias (`promotion_records`), a check whose latest record passed, and known licences of the training data. What an alias means is
one tag of the model, written at once with its records and the log of rollbacks; the alias of the server follows it. Killed in between, the alias
lags behind, which mlipfm knows from the tag, and repeating the command completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from . import registry_hub
from .errors import RegistryError
from .files import canonical_json, lock
from .licences import ancestors_of, is_known, stated_licences
from .promotion_records import require_no_worse, require_test_set
from .registry import fetch
from .registry_http import Server, registry_cache, server
from .registry_push import records_of
from .registry_versions import (
    PROMOTION_TAG,
    Promotion,
    Version,
    check_alias,
    check_name,
    check_signature,
    first_of_digest,
    get_version,
    list_versions,
    promotion_of,
    read_alias,
)
from .result_records import Record

#: Rollbacks that the tag keeps: a tag has a limit.
LOGGED = 10
LONGEST = 300  # characters of a reason


def promote(name: str, number: int, alias: str = "production", rollback: str = "", registry: str | None = None) -> Version:
    """Point an alias to a version; doing it again changes nothing, completes a promotion that was killed, and repairs an alias that others moved.

    Args:
        rollback: the reason for going back to an older version, which is refused without one; it is kept in a tag.

    Raises:
        RegistryError: no result record, an evaluation on training data, a model worse than the one it would replace, unknown licences, a rollback
        without a reason, or somebody else moved the alias meanwhile. And what `fetch` raises: only a model that verifies is promoted.
    """
    check_name(name), check_alias(alias)
    if len(rollback) > LONGEST:
        raise RegistryError(f"the reason for a rollback has {len(rollback)} characters", hint=f"say it in {LONGEST}")
    where = server(registry)
    if registry_hub.is_hub(where):
        registry_hub.promote(where, name, number, alias, rollback)
        fetch(where, version := get_version(where, name, number))
        return version
    with lock(registry_cache() / f"promote-{name}.lock", timeout=600):
        version, current = get_version(where, name, number), read_alias(where, name, alias)[0]
        _check_content_is_new(where, version)
        hashes = _record_hashes(where, version)
        _check_licences(where, version)
        if not _is_done(current, number, rollback):
            _check_direction(version, current, alias, rollback)
            _check_test_sets(where, version, None if current is None or rollback else current.version)
            if current is not None:  # an earlier promotion may have been killed before its alias: it must not lag by two
                _point(where, name, alias, current.version)
            _write_tag(where, name, alias, _next(number, current, rollback, hashes))
        elif current is not None and where.token is not None and not current.signature:
            _write_tag(where, name, alias, current)  # it was promoted before hubs signed
        _point(where, name, alias, number)
        now = promotion_of(where, name, alias)
        if now is not None:
            check_signature(where, name, alias, now)
    if now is None or now.version != number:
        told = f"has {name}@{alias} at version {now and now.version}: somebody else promoted it at the same time"
        raise where.fault(told, "see `mlipfm models show`")
    return version


def licence_faults(manifest: Mapping[str, Any]) -> list[str]:
    """Return what is unknown about the licences of the data that a model and those it starts from were trained on, from `extra` of its manifest."""
    found = manifest.get("extra")
    extra = found if isinstance(found, Mapping) else {}
    listed = stated_licences(extra)
    if not listed:
        return ["the manifest has no licences of the data"]
    return [_what(licence) + _whose(licence, extra) for licence in listed if not is_known(licence)]


def _what(licence: str) -> str:
    return f"licence {licence!r} is not known" if licence else "some data have no licence"


def _whose(licence: str, extra: Mapping[str, Any]) -> str:
    """Return the farthest of the models it starts from that has this licence, or else the validation data if they have it."""
    digests = [entry["digest"] for entry in ancestors_of(extra) if licence in entry["licences"]]
    if digests:
        return f", among them those of {_name(digests[-1])} that it starts from"
    return (
        ", among them the validation data" if _has(extra.get("validation_data"), licence) and not _has(extra.get("data"), licence) else ""
    )


def _has(entries: Any, licence: str) -> bool:
    """Return whether an entry of `data` or `validation_data` of a manifest has the licence."""
    listed = entries if isinstance(entries, list) else []
    return any(isinstance(entry, Mapping) and licence in stated_licences(entry) for entry in listed)


def _name(digest: str) -> str:
    return f"the model {digest[:12]}" if digest else "the potential without a checkpoint"


def _is_done(current: Promotion | None, number: int, rollback: str) -> bool:
    """Return the tag says so already, but perhaps not yet the alias; a rollback is done if it was the last promotion."""
    if current is None or current.version != number:
        return False
    return not rollback or (bool(current.rollbacks) and current.rollbacks[-1]["sequence"] == current.sequence)


def _next(number: int, current: Promotion | None, rollback: str, hashes: Mapping[str, str]) -> Promotion:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    if current is None:
        return Promotion(number, None, 1, hashes["evaluation"], hashes["check"], time)
    sequence, rollbacks = current.sequence + 1, current.rollbacks
    if number < current.version:
        entry = {"sequence": sequence, "from": current.version, "to": number, "reason": rollback, "time": time}
        rollbacks = (*rollbacks[1 - LOGGED :], entry)
    return Promotion(number, current.version, sequence, hashes["evaluation"], hashes["check"], time, rollbacks)


def _check_content_is_new(where: Server, version: Version) -> None:
    original = first_of_digest(list_versions(where, version.name), version.digest)
    if original is not None and original.number < version.number:
        raise where.fault(f"has the content of {version} already as version {original.number}", f"promote version {original.number}")


def _check_direction(version: Version, current: Promotion | None, alias: str, rollback: str) -> None:
    back = current is not None and current.version > version.number
    if current is not None and back and not rollback:
        hint = "if that is wanted, say why with --rollback REASON, which is logged"
        raise RegistryError(f"this moves {alias!r} back from version {current.version} to {version.number}", where=version.name, hint=hint)
    if rollback and not back:
        raise RegistryError(
            f"{alias!r} is not at a later version than {version.number}: no rollback", where=version.name, hint="leave --rollback out"
        )


def _record_hashes(where: Server, version: Version) -> dict[str, str]:
    """Hashes of the evaluation and the check that count: the latest of each."""
    latest: dict[str, Record] = {record["kind"]: record for record in records_of(where, version)}
    what = str(version)
    for kind in ("evaluation", "check"):
        if kind not in latest:
            command = {"evaluation": "mlipfm evaluate", "check": "mlipfm check"}[kind]
            raise RegistryError(
                f"has no record of kind {kind}", where=what, hint=f"run `{command}` and push the model again with --record FILE"
            )
    if not any(metric["value"] is not None for metric in latest["evaluation"]["metrics"]):
        raise RegistryError("its evaluation measured nothing", where=what, hint="evaluate it on data that it can compute")
    if not latest["check"]["passed"]:
        raise RegistryError("its last check failed", where=what, hint="see `mlipfm check`; a model that breaks a rule is not promoted")
    return {kind: record["sha256"] for kind, record in latest.items()}


def _check_test_sets(where: Server, version: Version, incumbent: int | None) -> None:
    """Its latest evaluation is on data that it does not know, and there it is no worse than the version `incumbent`."""
    latest = [record for record in records_of(where, version) if record["kind"] == "evaluation"][-1]
    clean = require_test_set(latest, _manifest(where, version), str(version))
    if incumbent is not None and incumbent != version.number:
        old = get_version(where, version.name, incumbent)
        require_no_worse(latest, clean, records_of(where, old), _manifest(where, old), str(version), str(old))


def _manifest(where: Server, version: Version) -> Mapping[str, Any]:
    from .checkpoint_file import verify_checkpoint

    return verify_checkpoint(fetch(where, version))


def _check_licences(where: Server, version: Version) -> None:
    faults = licence_faults(_manifest(where, version))
    if faults:
        hint = "give the licences when the data are imported (--licence, an SPDX identifier), and train again"
        raise RegistryError(f"data of unknown licence: {'; '.join(faults)}", where=str(version), hint=hint)


def _point(where: Server, name: str, alias: str, number: int) -> None:
    where.send("registered-models/alias", {"name": name, "alias": alias, "version": str(number)})


def _write_tag(where: Server, name: str, alias: str, promotion: Promotion) -> None:
    signed = where.hub("sign", {"name": name, "alias": alias, "promotion": promotion.as_json()}) if where.token is not None else None
    if signed is not None:
        promotion = replace(promotion, signature=str(signed.get("signature", "")))
    value = canonical_json(promotion.as_json()).decode()
    where.send("registered-models/set-tag", {"name": name, "key": PROMOTION_TAG + alias, "value": value})
