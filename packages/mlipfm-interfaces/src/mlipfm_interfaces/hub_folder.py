"""The folder of a hub on this machine: which process serves it, and the token that lets a client in.

The token is a new one at every start and is readable by the owner of the folder alone. It is given only to the process that the folder names, while
that process lives: nobody who takes the port afterwards gets it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RegistryError, UnreadableFileError

STATE, TOKEN = "hub.json", "token"


@dataclass(frozen=True)
class HubState:
    """What `hub.json` says: the address, and the process (id, and start in clock ticks since boot)."""

    folder: Path
    address: str
    pid: int
    started: int

    def is_alive(self) -> bool:
        return self.pid > 1 and started_at(self.pid) == self.started


def read_state(folder: Path) -> HubState | None:
    """Return the hub that was started last on this folder, alive or not; None if none was.

    Raises:
        UnreadableFileError: the file says something else.
    """
    path = folder / STATE
    try:
        state: Mapping[str, Any] = json.loads(path.read_bytes())
        return HubState(folder, str(state["address"]), int(state["pid"]), int(state["started"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "stop it by hand and delete the file"
        raise UnreadableFileError(f"does not say which process the hub is: {error}", where=str(path), hint=hint) from None


def access(folder: Path) -> tuple[str, str]:
    """Address and token of the hub that runs on this folder.

    Raises:
        RegistryError: none runs, or others could have read or written its token.
    """
    state = read_state(folder)
    if state is None or not state.is_alive():
        raise RegistryError("no hub is running on this folder", where=str(folder), hint=f"start it: mlipfm hub up --dir {folder}")
    return state.address, secret(folder / TOKEN)


def secret(path: Path) -> str:
    """Text of a file that its owner alone can read, and that is no link.

    Raises:
        RegistryError: it is missing, a link, another user's, or open to others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise RegistryError(f"the secret of the hub cannot be read: {error.strerror}", where=str(path), hint="start the hub anew") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise RegistryError("the secret of the hub is open to others", where=str(path), hint="start the hub anew")
        return file.read(1000).decode("ascii", "replace").strip()


def write_secret(path: Path, text: str) -> None:
    """Replace a file by one that its owner alone can read."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(part, path)


def viewer_key(token: str) -> str:
    """Return what a browser gets: derived from the token, of no use for changes."""
    return hmac.new(token.encode(), b"look", hashlib.sha256).hexdigest()


def started_at(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process; None if there is none."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(rest[18])
