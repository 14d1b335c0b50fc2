"""Models by address: a checkpoint, a name in a registry, or a model of another package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.foreign import is_foreign, open_foreign
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be asked.

    Attributes:
        address: as it was given. identity: digest of a checkpoint, or the address of a model of another package.
        manifest: of a checkpoint; empty for a model of another package.
    """

    address: str
    identity: str
    model: Potential | Teacher
    manifest: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def opened(address: str) -> Iterator[Opened]:
    """Open `MODEL`, `NAME@ALIAS`, `SCHEME:...` or `tblite:GFN2`; a worker process is ended afterwards.

    Raises:
        what `load_model` and `open_foreign` raise.
    """
    if is_foreign(address):
        with open_foreign(address) as model:
            yield Opened(address, address, model)
        return
    potential, manifest = load_model(address)
    yield Opened(address, str(manifest["digest"]), potential, manifest)
