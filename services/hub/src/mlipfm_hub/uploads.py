"""Uploads in chunks that go on where they broke off. A file counts when it has the length and SHA-256 that were announced
and is a model checkpoint."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from mlipfm_interfaces.asgi import Refused, bad, too_large
from mlipfm_interfaces.checkpoint_file import refuse_other_files, verify_checkpoint
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import lock, sha256

from .blobs import Blobs

CHUNK = 16 * 2**20  # bytes of one request, at most
OPEN = 8  # unfinished uploads of one user
_HASH = re.compile(r"[0-9a-f]{64}")
_DAY = 86_400.0


class Uploads:
    """Unfinished files in `folder`, one per user and hash."""

    def __init__(self, folder: Path, blobs: Blobs, largest: int) -> None:
        self.folder, self.blobs, self.largest = folder, blobs, largest
        folder.mkdir(mode=0o700, exist_ok=True)

    def start(self, user: str, sha256: str, size: int) -> dict[str, int | bool]:
        """How many bytes are here already; `complete` if the hub has the file."""
        part = self._part(user, sha256)
        if type(size) is not int or size < 10:
            raise bad("`size` is the length of the file in bytes")
        if size > self.largest:
            raise too_large(f"a checkpoint has up to {self.largest} bytes, this one {size}")
        if self.blobs.size(sha256) == size:
            return {"offset": size, "complete": True}
        self._forget_old()
        if not part.exists():
            if len(list(self.folder.glob(f"{user}~*.part"))) >= OPEN:
                raise Refused(429, "TOO_MANY_UPLOADS", f"you have {OPEN} unfinished uploads; finish them, or wait for a day")
            part.touch(0o600)
        with lock(part.with_suffix(".lock"), timeout=60):
            here = part.stat().st_size if part.exists() else 0
            if here >= size:  # the hub was ended between the last byte and its verification
                self._finish(part, sha256)
                return {"offset": size, "complete": True}
        return {"offset": here, "complete": False}

    def add(self, user: str, sha256_wanted: str, offset: int, size: int, data: bytes) -> dict[str, int | bool]:
        """Append a chunk at `offset`; with the last one the file is verified and stored.

        Raises:
            Refused: another offset than the end of what is here (409, with the right one), more than was announced, a pickle or another file
            (by its first bytes), or another hash; then what is here is forgotten.
        """
        part = self._part(user, sha256_wanted)
        if self.blobs.size(sha256_wanted) == size:
            return {"offset": size, "complete": True}
        if not data or len(data) > CHUNK:
            raise too_large(f"a chunk has 1 to {CHUNK} bytes")
        with lock(part.with_suffix(".lock"), timeout=60):
            here = part.stat().st_size if part.exists() else 0
            if offset != here:
                if self.blobs.size(sha256_wanted) == size:  # somebody else sent the last byte while this waited
                    return {"offset": size, "complete": True}
                raise Refused(409, "WRONG_OFFSET", f"the next byte is {here}")
            if offset + len(data) > min(size, self.largest):
                raise too_large("more bytes than were announced")
            if offset == 0:
                self._look(data, part)
            with open(part, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if offset + len(data) < size:
                return {"offset": offset + len(data), "complete": False}
            self._finish(part, sha256_wanted)
        return {"offset": size, "complete": True}

    def _look(self, data: bytes, part: Path) -> None:
        try:
            refuse_other_files(data, "upload")
        except MlipfmError as error:
            part.unlink(missing_ok=True)
            raise Refused(415, "NOT_A_CHECKPOINT", error.what) from None

    def _finish(self, part: Path, wanted: str) -> None:
        try:
            if sha256(part) != wanted:
                raise Refused(422, "WRONG_HASH", "the bytes have another SHA-256 than was announced")
            verify_checkpoint(part)
            self.blobs.add(part, wanted)
        except MlipfmError as error:
            raise Refused(415, "NOT_A_CHECKPOINT", error.what) from None
        finally:
            part.unlink(missing_ok=True)

    def _part(self, user: str, sha256: str) -> Path:
        if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
            raise bad("`sha256` is 64 hex digits")
        return self.folder / f"{user}~{sha256}.part"

    def _forget_old(self) -> None:
        for path in self.folder.iterdir():
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink(missing_ok=True)
