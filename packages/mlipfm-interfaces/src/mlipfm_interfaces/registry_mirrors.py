"""Mirrors: further addresses of model files, tried when the registry does not answer or breaks off in the middle.

`MLIPFM_REGISTRY_MIRRORS` lists them, separated by commas. A mirror has files under names that are their SHA-256: the folder of any web server, or
another hub, `https://HUB/api/v1/files`. It needs no trust: what a name means is said by the registry alone, and by the SHA-256 that the registry
gives, bytes of a mirror are accepted or not. The token of the registry is not sent to mirrors; `MLIPFM_MIRROR_TOKEN` is, for those that ask for one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import RegistryError
from .registry_http import Server, server_at

__all__ = ["Mirror", "mirrors"]

VARIABLE = "MLIPFM_REGISTRY_MIRRORS"
_ADDRESS = re.compile(r"(https?://[^/\s?#@]+)((?:/[A-Za-z0-9._~-]+)*)/?")


@dataclass(frozen=True)
class Mirror:
    """A folder of files under names that are their SHA-256."""

    where: Server
    folder: str

    def read(self, sha256: str, size: int, first: int) -> Iterator[bytes]:
        """Bytes from `first` on of the file with this hash, `size` bytes long."""
        yield from self.where.read(f"{self.folder}/{sha256}", sha256, size, first)

    def __str__(self) -> str:
        return self.where.address + self.folder


def mirrors() -> list[Mirror]:
    """The mirrors of the environment, in their order.

    Raises:
        RegistryError: an address that is none, or a token that would go over the net unencrypted.
    """
    listed = [text.strip() for text in os.environ.get(VARIABLE, "").split(",") if text.strip()]
    return [_mirror(text) for text in listed]


def _mirror(text: str) -> Mirror:
    found = _ADDRESS.fullmatch(text)
    if found is None or any(part in (".", "..") for part in found[2].split("/")):
        raise RegistryError(f"{text!r} is no address of a mirror", where=VARIABLE, hint="give addresses like https://HOST/FOLDER")
    return Mirror(server_at(found[1], "MLIPFM_MIRROR_TOKEN"), found[2])
