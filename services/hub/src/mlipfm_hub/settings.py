"""Settings of a hub: its folder, and environment variables for what differs from one machine to the next. Secrets may be in files."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.registry_versions import MAX_MODEL

PREFIX = "MLIPFM_HUB_"


@dataclass(frozen=True)
class Settings:
    """Every field but `folder` is read from `MLIPFM_HUB_<NAME>`, or from the file that `MLIPFM_HUB_<NAME>_FILE` names.

    Attributes:
        folder: of the database, the files and the secrets; readable by its owner alone.
        host, port: where it listens. An address that others can reach needs `public` or a list of `hosts`, because then users sign in over a net.
        database: SQLAlchemy address; empty: sqlite in the folder. store: `s3://BUCKET/PREFIX`; empty: files in the folder.
        s3_endpoint: address of an S3-compatible store; its keys are those of boto3 (AWS_ACCESS_KEY_ID, ...).
        public: address that users type, such as https://hub.example.org, if a reverse proxy stands in front.
        hosts: further names, comma-separated, by which requests may call it.
        mlflow: address of an MLflow server that keeps the runs; pages link to it.
        largest: bytes of a checkpoint. rate: requests per minute of one token or address, in all; logins are slower.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 5000
    database: str = ""
    store: str = ""
    s3_endpoint: str = ""
    public: str = ""
    hosts: str = ""
    mlflow: str = ""
    largest: int = 4 * 2**30
    rate: int = 6000

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.folder / 'hub.sqlite'}"

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    @property
    def is_encrypted(self) -> bool:
        return self.public.startswith("https://")

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Values of the Host header that are answered: nobody reaches a hub by a name that another server points to it (DNS rebinding)."""
        named = [name.strip().lower() for name in self.hosts.split(",") if name.strip()]
        local = [
            f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]", self.host if ":" not in self.host else f"[{self.host}]")
        ]
        return frozenset([*named, *local, *([self.public.split("://", 1)[1].rstrip("/").lower()] if self.public else [])])


def from_environment(folder: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings of the hub on this folder.

    Raises:
        RegistryError: a value that is none, or an address that others reach without users' names for it.
    """
    given: dict[str, str | int] = {}
    for field in fields(Settings):
        name = PREFIX + field.name.upper()
        if field.name == "folder" or not (name in environment or f"{name}_FILE" in environment):
            continue
        text = environment[name] if name in environment else _file(environment[f"{name}_FILE"], name)
        try:
            given[field.name] = int(text) if field.type == "int" else text.strip()
        except ValueError:
            raise RegistryError(f"{text!r} is no whole number", where=name) from None
    settings = Settings(folder, **given)  # type: ignore[arg-type]  # str or int as the field says
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Refuse what cannot be meant.

    Raises:
        RegistryError: with the setting.
    """
    if not settings.is_local and not (settings.public or settings.hosts):
        raise RegistryError(
            f"{settings.host} can be reached by others",
            where=f"{PREFIX}HOST",
            hint="say by which address users reach it: MLIPFM_HUB_PUBLIC=https://NAME (a reverse proxy encrypts; deploy/Caddyfile is one)",
        )
    if settings.public and not settings.public.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise RegistryError("users would send tokens unencrypted", where=f"{PREFIX}PUBLIC", hint="give an https:// address")
    if not 1 <= settings.port <= 65535 or settings.largest < 1 or settings.rate < 1:
        raise RegistryError("port, largest and rate are positive numbers, a port at most 65535", where=PREFIX)
    if settings.largest > MAX_MODEL:
        raise RegistryError(f"clients read no checkpoint of more than {MAX_MODEL} bytes", where=f"{PREFIX}LARGEST")
    if settings.store and not settings.store.startswith("s3://"):
        raise RegistryError(f"{settings.store!r} is no store", where=f"{PREFIX}STORE", hint="s3://BUCKET/PREFIX, or nothing for the folder")


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _file(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"the file cannot be read: {error}", where=f"{name}_FILE") from None
