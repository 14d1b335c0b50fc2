"""Versions, records, promotions: what the hub keeps of models. Every operation is one transaction and is in the audit log.

Order of a push: the file, verified, then records and card as files, then one transaction that makes all of them count. Killed before it, a push has
left files that nothing refers to; pushed again, it finds them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlipfm_interfaces.asgi import Refused, absent, bad, conflict, forbidden, too_large
from mlipfm_interfaces.checkpoint_file import verify_checkpoint
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import canonical_json
from mlipfm_interfaces.model_card import manifest_faults, model_card
from mlipfm_interfaces.model_signatures import signed_hash
from mlipfm_interfaces.registry_versions import check_alias, check_name
from mlipfm_interfaces.result_records import Record, parse_record, record_bytes

from .audit import log
from .blobs import Blobs, add_small, read_small
from .database import Database, models, promotions, records, rows, signatures, versions
from .gate import VersionRecords, check_gate
from .json_fields import LINE
from .signatures import Signer
from .users import now

Row = dict[str, Any]
SIGNATURES, LONGEST = 20, 65_536  # of a version, and characters of one
CLOCKS = timedelta(minutes=10)  # by which clocks of clients may be ahead
ROLLBACKS = 10  # kept in what an alias means, as in `registry_promote`


class Registry:
    """Operations on models; `spool` is a folder for files in the making."""

    def __init__(self, database: Database, blobs: Blobs, spool: Path, signer: Signer) -> None:
        self.database, self.blobs, self.spool, self.signer = database, blobs, spool, signer

    def push(self, name: str, file: str, attached: list[Record], by: str, may_attach_records: bool = False) -> tuple[Row, bool]:
        """Register a file that was uploaded, with records; one content is one version under one name.

        Args:
            may_attach_records: whether `by` may give records to versions that others pushed: they decide what is promoted and shown.

        Returns:
            the version, and whether it is new.
        """
        _named(name)
        size = self.blobs.size(_hash(file))
        if size is None:
            raise absent("this file was not uploaded")
        manifest = self._manifest(file)
        if faults := manifest_faults(manifest):
            raise Refused(422, "NOT_A_MODEL", f"the manifest describes no model: {'; '.join(faults)}")
        checked = [_record(record, manifest["digest"]) for record in attached]
        text = model_card(manifest).encode()
        card = add_small(self.blobs, text, self.spool)
        stored = [(record, add_small(self.blobs, record_bytes(record), self.spool)) for record in checked]
        with self.database.writing() as connection:
            if not connection.execute(sa.select(models.c.name).where(models.c.name == name)).first():
                connection.execute(sa.insert(models).values(name=name, created=now(), by=by))
            known = _version_of_digest(connection, name, manifest["digest"])
            number = known["number"] if known else self._next_number(connection, name)
            if known is None:
                run = hashlib.sha256(f"{name}/{number}".encode()).hexdigest()[:32]
                row = {"name": name, "number": number, "digest": manifest["digest"], "file": file, "size": size, "card": card, "run": run}
                row |= {"card_size": len(text), "manifest": canonical_json(manifest).decode(), "created": now(), "by": by}
                connection.execute(sa.insert(versions).values(**row))
                log(connection, by, "push", f"{name}/{number} {manifest['digest']}")
            for record, blob in stored:
                self._attach(connection, name, number, record, blob, by, may_attach_records or known is None or known["by"] == by)
        return self.version(name, number), known is None

    def attach(self, name: str, number: int, attached: list[Record], by: str, may_attach_records: bool = False) -> Row:
        """Add records to a version; those it has change nothing. `may_attach_records`: see `push`."""
        version = self.version(name, number)
        stored = [
            (record, add_small(self.blobs, record_bytes(record), self.spool))
            for record in (_record(record, version["digest"]) for record in attached)
        ]
        with self.database.writing() as connection:
            for record, blob in stored:
                self._attach(connection, name, number, record, blob, by, may_attach_records or version["by"] == by)
        return self.version(name, number)

    def sign(self, name: str, number: int, signature: dict[str, Any], by: str) -> None:
        """Keep a signature of the file of a version; Refused if it is of another file, or there are too many."""
        version = self.version(name, number)
        if signed_hash(signature) != version["file"]:
            raise Refused(422, "NOT_A_SIGNATURE", "this is no signature of the file of this version")
        text = canonical_json(signature).decode()
        row = {"name": name, "number": number, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        with self.database.writing() as connection:
            found = [one["sha256"] for one in rows(connection, self._signatures(name, number))]
            if row["sha256"] in found:
                return
            if len(found) >= SIGNATURES or len(text) > LONGEST:
                raise too_large(f"a version has up to {SIGNATURES} signatures of up to {LONGEST} characters")
            connection.execute(sa.insert(signatures).values(**row, signature=text, created=now(), by=by))
            log(connection, by, "sign", f"{name}/{number} {row['sha256']}")

    def signatures_of(self, name: str, number: int) -> list[dict[str, Any]]:
        """Signatures of a version, oldest first, as they were sent."""
        self.version(name, number)
        with self.database.reading() as connection:
            return [json.loads(one["signature"]) for one in rows(connection, self._signatures(name, number))]

    def _signatures(self, name: str, number: int) -> sa.Select[Any]:
        at = sa.and_(signatures.c.name == name, signatures.c.number == number)
        return sa.select(signatures).where(at).order_by(signatures.c.created, signatures.c.sha256)

    def promote(self, name: str, number: int, alias: str, reason: str, by: str) -> Row:
        """Point an alias to a version by its result records, in one transaction; doing it again changes nothing.

        Args:
            reason: of a rollback, which is refused without one.
        """
        _named(name, alias)
        _reason(reason)
        with self.database.writing() as connection:
            version = _version(connection, name, number)
            current = _current(connection, name, alias)
            if current is not None and current["version"] == number and not reason:
                return json.loads(current["promotion"])  # type: ignore[no-any-return]
            self._direction(version, current, alias, reason)
            incumbent = None if current is None or current["version"] is None or reason else _version(connection, name, current["version"])
            hashes = check_gate(
                self._version_records(connection, version), self._version_records(connection, incumbent) if incumbent else None
            )
            sequence = 1 + _last_sequence(connection, name, alias)
            promotion = self._promotion(number, current, sequence, reason, hashes)
            promotion["signature"] = self.signer.sign(name, alias, promotion, version["digest"])
            row = {"name": name, "alias": alias, "sequence": sequence, "version": number, "by": by, "reason": reason}
            connection.execute(sa.insert(promotions).values(**row, promotion=canonical_json(promotion).decode()))
            log(connection, by, "rollback" if reason else "promote", f"{name}@{alias} -> {number}" + (f": {reason}" if reason else ""))
        return promotion

    def revoke(self, name: str, alias: str, reason: str, by: str) -> None:
        """Take an alias away, with a reason; what it meant stays in the log, and a later promotion counts on from there."""
        _named(name, alias)
        _reason(reason)
        if not reason:
            raise bad("say why: `reason`")
        with self.database.writing() as connection:
            if _current(connection, name, alias) is None:
                raise absent(f"there is no {name}@{alias}")
            sequence = 1 + _last_sequence(connection, name, alias)
            row = {"name": name, "alias": alias, "sequence": sequence, "version": None, "by": by, "reason": reason}
            text = canonical_json({"time": now()}).decode()
            connection.execute(sa.insert(promotions).values(**row, promotion=text))
            log(connection, by, "revoke", f"{name}@{alias}: {reason}")

    def names(self) -> list[str]:
        with self.database.reading() as connection:
            return list(connection.execute(sa.select(models.c.name).order_by(models.c.name)).scalars())

    def versions(self, name: str) -> list[Row]:
        """All versions, oldest first, with records and without manifests' text parsed twice."""
        with self.database.reading() as connection:
            found = rows(connection, sa.select(versions).where(versions.c.name == name).order_by(versions.c.number))
            return [_complete(connection, row) for row in found]

    def version(self, name: str, number: int) -> Row:
        """One version; Refused if there is none."""
        with self.database.reading() as connection:
            return _complete(connection, _version(connection, name, number))

    def size_of(self, file: str) -> int:
        """Bytes of the checkpoint with this SHA-256; Refused if no version has it, or it is gone."""
        with self.database.reading() as connection:
            size = connection.execute(sa.select(versions.c.size).where(versions.c.file == file).limit(1)).scalar()
        if size is None or self.blobs.size(file) != size:
            raise absent("no version here has this file")
        return int(size)

    def version_of_run(self, run: str) -> Row:
        with self.database.reading() as connection:
            found = rows(connection, sa.select(versions).where(versions.c.run == run))
            if not found:
                raise absent("the hub keeps no files of this run")
            return _complete(connection, found[0])

    def aliases(self, name: str) -> dict[str, Row]:
        """Alias -> what it means now, as `Promotion` of the interfaces writes it."""
        with self.database.reading() as connection:
            named = connection.execute(sa.select(promotions.c.alias).where(promotions.c.name == name).distinct()).scalars().all()
            current = {alias: _current(connection, name, alias) for alias in sorted(named)}
        return {alias: json.loads(row["promotion"]) for alias, row in current.items() if row is not None}

    def history(self, name: str) -> list[Row]:
        """All promotions, rollbacks and revocations of a model, newest first."""
        with self.database.reading() as connection:
            query = sa.select(promotions).where(promotions.c.name == name)
            found = rows(connection, query)
        return sorted((row | {"promotion": json.loads(row["promotion"])} for row in found), key=_when, reverse=True)

    def records_of(self, version: Row) -> list[Record]:
        """Records of a version, oldest first, each verified."""
        found = [parse_record(read_small(self.blobs, row["blob"]), f"record {row['sha256'][:12]}") for row in version["records"]]
        return sorted(found, key=lambda record: (record["created"], record["sha256"]))

    def stands_by(self, name: str, alias: str, promotion: Row) -> tuple[bool, str]:
        """Whether a promotion is this hub's and what it speaks of is still there, with the reason if not."""
        try:
            version = self.version(name, int(promotion["version"]))
            given = str(promotion.get("signature", ""))
            plain = {key: value for key, value in promotion.items() if key != "signature"}
        except (Refused, KeyError, TypeError, ValueError) as error:
            return False, error.message if isinstance(error, Refused) else "it is no promotion"
        if not self.signer.is_ours(given, name, alias, plain, version["digest"]):
            return False, "the signature is not this hub's"
        if self.blobs.size(version["file"]) != version["size"]:
            return False, "the file of the model is gone"
        return True, ""

    def _manifest(self, file: str) -> dict[str, Any]:
        """Manifest of a stored file; what was stored was verified then, an S3 object is verified again."""
        from .blobs import LocalBlobs

        if isinstance(self.blobs, LocalBlobs):
            path = self.blobs.root / file[:2] / file
            return verify_checkpoint(path)
        try:
            with tempfile.NamedTemporaryFile(dir=self.spool) as part:  # one of its own: others may push the same file now
                part.writelines(self.blobs.read(file))
                part.flush()
                return verify_checkpoint(Path(part.name))
        except MlipfmError as error:
            raise Refused(415, "NOT_A_CHECKPOINT", error.what) from None

    def _next_number(self, connection: sa.Connection, name: str) -> int:
        return 1 + (connection.execute(sa.select(sa.func.max(versions.c.number)).where(versions.c.name == name)).scalar() or 0)

    def _attach(self, connection: sa.Connection, name: str, number: int, record: Record, blob: str, by: str, allowed: bool) -> None:
        key = {"name": name, "number": number, "sha256": record["sha256"]}
        at = sa.and_(*(records.c[column] == value for column, value in key.items()))
        if connection.execute(sa.select(records.c.sha256).where(at)).first():
            return
        if not allowed:
            raise forbidden(f"{name}/{number} was pushed by somebody else: records of it come from them, or from who may promote")
        row = key | {"blob": blob, "size": len(record_bytes(record)), "kind": record["kind"], "passed": int(record["passed"])}
        connection.execute(sa.insert(records).values(**row, created=record["created"], by=by))
        log(connection, by, "attach", f"{name}/{number} {record['kind']} {record['sha256']}")

    def _version_records(self, connection: sa.Connection, version: Row) -> VersionRecords:
        complete = _complete(connection, version)
        return f"{version['name']}/{version['number']}", self.records_of(complete), json.loads(version["manifest"])

    def _direction(self, version: Row, current: Row | None, alias: str, reason: str) -> None:
        back = current is not None and current["version"] is not None and current["version"] > version["number"]
        if current is not None and back and not reason:
            raise conflict(
                f"this moves {alias!r} back from version {current['version']} to {version['number']}; if that is wanted, say why with "
                "--rollback REASON, which is logged"
            )
        if reason and not back:
            raise conflict(f"{alias!r} is not at a later version than {version['number']}: no rollback; leave --rollback out")

    def _promotion(self, number: int, current: Row | None, sequence: int, reason: str, hashes: dict[str, str]) -> Row:
        before = json.loads(current["promotion"]) if current is not None else {}
        rollbacks, time = list(before.get("rollbacks", ())), now()
        if reason and current is not None:
            entry = {"sequence": sequence, "from": current["version"], "to": number, "reason": reason, "time": time}
            rollbacks = [*rollbacks[1 - ROLLBACKS :], entry]
        replaces = None if current is None else current["version"]
        return {"version": number, "replaces": replaces, "sequence": sequence, **hashes, "time": time, "rollbacks": rollbacks}


def _when(row: Row) -> tuple[str, int]:
    return str(row["promotion"].get("time", "")), int(row["sequence"])


def _complete(connection: sa.Connection, row: Row) -> Row:
    at = sa.and_(records.c.name == row["name"], records.c.number == row["number"])
    return row | {"records": rows(connection, sa.select(records).where(at).order_by(records.c.created, records.c.sha256))}


def _version(connection: sa.Connection, name: str, number: int) -> Row:
    found = rows(connection, sa.select(versions).where(versions.c.name == name, versions.c.number == number))
    if not found:
        raise absent(f"there is no {name[:100]}/{number}")
    return found[0]


def _version_of_digest(connection: sa.Connection, name: str, digest: str) -> Row | None:
    found = rows(connection, sa.select(versions).where(versions.c.name == name, versions.c.digest == digest))
    return found[0] if found else None


def _last_sequence(connection: sa.Connection, name: str, alias: str) -> int:
    at = sa.and_(promotions.c.name == name, promotions.c.alias == alias)
    return connection.execute(sa.select(sa.func.max(promotions.c.sequence)).where(at)).scalar() or 0


def _current(connection: sa.Connection, name: str, alias: str) -> Row | None:
    """The row that says what an alias means; None if it was revoked or never set."""
    at = sa.and_(promotions.c.name == name, promotions.c.alias == alias)
    found = rows(connection, sa.select(promotions).where(at).order_by(promotions.c.sequence.desc()).limit(1))
    return found[0] if found and found[0]["version"] is not None else None


def _named(name: str, alias: str | None = None) -> None:
    try:
        check_name(name)
        if alias is not None:
            check_alias(alias)
    except MlipfmError as error:
        raise bad(f"{error.what}; {error.hint}") from None


def _reason(reason: str) -> None:
    if not isinstance(reason, str) or len(reason) > 300 or not re.fullmatch(LINE, reason):
        raise bad("a reason is one line of up to 300 characters")


def _hash(text: str) -> str:
    if not isinstance(text, str) or len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise bad("`file` is the SHA-256 of an uploaded file, 64 hex digits")
    return text


def _record(record: Any, digest: str) -> Record:
    try:
        parsed = parse_record(canonical_json(record), "record")
    except MlipfmError as error:
        raise Refused(422, "NOT_A_RECORD", error.what) from None
    except (ValueError, TypeError) as error:
        raise bad(f"a record is JSON: {error}") from None
    if parsed["model"] != digest:
        raise Refused(422, "NOT_A_RECORD", f"is a record of {parsed['model'][:64]}, not of this model")
    if datetime.fromisoformat(parsed["created"]) > datetime.now(UTC) + CLOCKS:
        raise Refused(422, "NOT_A_RECORD", f"says that it was made at {parsed['created'][:40]}, which is in the future")
    return parsed
