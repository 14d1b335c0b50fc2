"""Backup and restore: one tar with the tables (as JSON, of either database), the files and the key. Verified when written and when read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from mlipfm_interfaces.errors import DamagedFileError, RegistryError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.hub_folder import secret, write_secret

from .blobs import open_blobs
from .database import VERSION, Database, meta, records, rows, versions
from .services import KEY
from .settings import Settings, from_environment


def backup(settings: Settings, path: Path) -> str:
    """Write everything to `path`; the hub may run meanwhile. Returns a line that tells what it holds."""
    database, blobs = Database(settings), open_blobs(settings)
    with database.reading() as connection:
        tables = {table.name: rows(connection, sa.select(table)) for table in meta.sorted_tables if table.name != "sessions"}
    wanted = sorted(
        {row["file"] for row in tables["versions"]}
        | {row["card"] for row in tables["versions"]}
        | {row["blob"] for row in (*tables["records"], *tables["sweeps"])}
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            _add(tar, "tables.json", canonical_json({"version": VERSION, "tables": tables}))
            _add(tar, KEY, secret(settings.folder / KEY).encode())
            for sha256 in wanted:
                with tempfile.TemporaryFile() as part:
                    hasher = hashlib.sha256()
                    for chunk in blobs.read(sha256):
                        hasher.update(chunk)
                        part.write(chunk)
                    if hasher.hexdigest() != sha256:
                        raise DamagedFileError("a file of the hub is damaged", where=sha256)
                    entry = tarfile.TarInfo(f"blobs/{sha256}")
                    entry.size = part.tell()
                    part.seek(0)
                    tar.addfile(entry, part)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return f"{path}: {len(tables['versions'])} versions, {len(wanted)} files, {path.stat().st_size} bytes; it holds the hub's key: keep it safe"


def restore(folder: Path, path: Path) -> str:
    """Make a hub in an empty folder from a backup; its database and store are those of the settings.

    Raises:
        RegistryError: the folder or the database is not empty. UnreadableFileError: there is no backup. DamagedFileError: the backup is not whole.
    """
    if not path.is_file():
        raise UnreadableFileError("there is no such file", where=str(path), hint="give a backup (.tar) that `mlipfm hub backup` wrote")
    if folder.exists() and any(folder.iterdir()):
        raise RegistryError("the folder is not empty", where=str(folder), hint="restore into a new folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    settings = from_environment(folder)
    database = Database(settings)
    if database.migrate()[0]:
        raise RegistryError("the database is not empty", where="MLIPFM_HUB_DATABASE", hint="restore into a new one")
    blobs = open_blobs(settings)
    tables: dict[str, list[dict[str, object]]] = {}
    present = set()
    for name, data in _entries(path):
        if name == "tables.json":
            told = json.loads(data)
            if told["version"] != VERSION:
                raise RegistryError(
                    f"a backup of tables of version {told['version']}",
                    where=str(path),
                    hint="restore it with the hub that wrote it, then upgrade",
                )
            tables = told["tables"]
        elif name == KEY:
            write_secret(folder / KEY, data.decode())
        else:
            sha256 = name.removeprefix("blobs/")
            if hashlib.sha256(data).hexdigest() != sha256:
                raise DamagedFileError("a file in the backup is damaged", where=f"{path}: {sha256}")
            part = folder / "restoring"
            atomic_write(part, data)
            blobs.add(part, sha256)
            present.add(sha256)
    lacking = {str(row[key]) for row in tables.get("versions", []) for key in ("file", "card")} - present
    if not tables or lacking:
        raise DamagedFileError("the backup is not whole", where=str(path), hint="take another one")
    with database.writing() as connection:
        for table in meta.sorted_tables:
            if table.name in tables and table.name != "facts" and tables[table.name]:
                connection.execute(sa.insert(table), tables[table.name])
    return f"{folder}: {len(tables[versions.name])} versions, {len(tables[records.name])} records, {len(present)} files"


def _entries(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                name = entry.name
                if not entry.isfile() or not (name in ("tables.json", KEY) or (name.startswith("blobs/") and len(name) == 70)):
                    raise DamagedFileError("is no backup of a hub", where=str(path))
                file = tar.extractfile(entry)
                yield name, file.read() if file else b""
    except (tarfile.TarError, OSError) as error:
        raise DamagedFileError(
            f"is no whole backup of a hub: {error}", where=str(path), hint="give a file that `mlipfm hub backup` wrote"
        ) from None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
