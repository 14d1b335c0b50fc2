"""Files by the SHA-256 of their content: in the folder of the hub, or in an S3-compatible store. Nothing is ever replaced or deleted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from mlipfm_interfaces.errors import DamagedFileError, RegistryError
from mlipfm_interfaces.files import fsync_folder

from .settings import Settings

_HASH = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**20


class Blobs(Protocol):
    """A store of files by their SHA-256."""

    def size(self, sha256: str) -> int | None:
        """Bytes of a file; None if it is not there."""

    def add(self, path: Path, sha256: str) -> None:
        """Take a finished local file whose hash the caller has verified; the file is gone afterwards."""

    def read(self, sha256: str, first: int = 0) -> Iterator[bytes]:
        """Bytes from `first` on, in chunks."""


class LocalBlobs:
    """`root/ab/abcdef...`, read-only files of the owner; links are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.root / _checked(sha256)[:2] / sha256

    def size(self, sha256: str) -> int | None:
        try:
            found = os.lstat(self._path(sha256))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else None

    def add(self, path: Path, sha256: str) -> None:
        target = self._path(sha256)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o400)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(path, target)
        fsync_folder(target.parent)
        fsync_folder(self.root)

    def read(self, sha256: str, first: int = 0) -> Iterator[bytes]:
        with os.fdopen(os.open(self._path(sha256), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            file.seek(first)
            while chunk := file.read(_CHUNK):
                yield chunk


class S3Blobs:
    """Objects `prefix/ab/abcdef...` in a bucket; the store's own hash of an upload is asked for."""

    def __init__(self, address: str, endpoint: str) -> None:
        try:
            import boto3
        except ModuleNotFoundError:
            raise RegistryError("boto3 is not installed", where="MLIPFM_HUB_STORE", hint="pip install 'mlipfm-hub[s3]'") from None
        self.bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self.prefix = prefix.strip("/")
        self.client: Any = boto3.client("s3", endpoint_url=endpoint or None)

    def _key(self, sha256: str) -> str:
        return "/".join(part for part in (self.prefix, _checked(sha256)[:2], sha256) if part)

    def size(self, sha256: str) -> int | None:
        try:
            return int(self.client.head_object(Bucket=self.bucket, Key=self._key(sha256))["ContentLength"])
        except self.client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise RegistryError("the store of files does not answer", where=self.bucket) from error

    def add(self, path: Path, sha256: str) -> None:
        with open(path, "rb") as file:
            self.client.upload_fileobj(file, self.bucket, self._key(sha256))
        if self.size(sha256) != path.stat().st_size:
            raise RegistryError("the store of files did not keep a file", where=self.bucket)
        path.unlink()

    def read(self, sha256: str, first: int = 0) -> Iterator[bytes]:
        answer = self.client.get_object(Bucket=self.bucket, Key=self._key(sha256), Range=f"bytes={first}-")
        yield from answer["Body"].iter_chunks(_CHUNK)


def open_blobs(settings: Settings) -> Blobs:
    """The store that the settings name."""
    return S3Blobs(settings.store, settings.s3_endpoint) if settings.store else LocalBlobs(settings.folder / "blobs")


def read_small(blobs: Blobs, sha256: str) -> bytes:
    """A small file, verified.

    Raises:
        DamagedFileError: its content has another hash.
    """
    data = b"".join(blobs.read(sha256))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedFileError("a file of the hub is damaged", where=sha256, hint="restore it from a backup")
    return data


def add_small(blobs: Blobs, data: bytes, folder: Path) -> str:
    """Store bytes and return their hash."""
    sha256 = hashlib.sha256(data).hexdigest()
    if blobs.size(sha256) is None:
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        blobs.add(Path(name), sha256)
    return sha256


def _checked(sha256: str) -> str:
    if not _HASH.fullmatch(sha256):
        raise ValueError("a file is named by 64 hex digits")
    return sha256
