"""Models that come with this package, by name: `MlipfmCalculator()`, `mlipfm md run mlipfm-mol-small FILE`, `released()`.

The files lie in this folder: `NAME.safetensors`, its uncertainty `NAME.uncertainty.safetensors`, its card `NAME.md`, and `index.json` with the
SHA-256 that files are compared with before they are used. They are data (weights and JSON), never code. Weights are under the licence of this
package (MIT). `tools/release_model.py` writes them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlipfm_interfaces.errors import DamagedFileError, MlipfmWarning, UnreadableFileError

__all__ = ["ReleasedModel", "mol_medium", "mol_small", "released"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ReleasedModel:
    """A model of this package.

    Attributes:
        sha256: of its checkpoint. uncertainty: of the file of its uncertainty, None without one. default_level: of theory, predicted where none is
            given. licence: SPDX, of the weights.
        preview: what a user must know before trusting a number; a warning says it once. None for a finished model.
    """

    name: str
    sha256: str
    default_level: str
    licence: str
    preview: str | None
    uncertainty: str | None = None

    @property
    def path(self) -> Path:
        """Of the checkpoint, which is verified, with the uncertainty beside it.

        Raises:
            UnreadableFileError, DamagedFileError: the installation is incomplete, or a file was changed.
        """
        if self.uncertainty is not None:
            _verified(_FOLDER / f"{self.name}.uncertainty.safetensors", self.uncertainty)
        return _verified(_FOLDER / f"{self.name}.safetensors", self.sha256)

    @property
    def card(self) -> str:
        """Data, levels, errors, range, limits and the commands that made it, as Markdown."""
        return (_FOLDER / f"{self.name}.md").read_text(encoding="utf-8")


@cache
def released() -> dict[str, ReleasedModel]:
    """Name -> model; no checkpoint is read until its path is requested."""
    index = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return {name: ReleasedModel(name=name, **entry) for name, entry in index.items()}


@cache
def mol_small() -> Path:
    """Plug-in `mlipfm-mol-small` of the group `mlipfm.released`.

    Warns:
        MlipfmWarning: once, what its preview lacks.
    """
    return _path_of("mlipfm-mol-small")


@cache
def mol_medium() -> Path:
    """Plug-in `mlipfm-mol-medium`, as `mol_small`."""
    return _path_of("mlipfm-mol-medium")


def _path_of(name: str) -> Path:
    model = released()[name]
    path = model.path
    if model.preview:
        warnings.warn(f"{model.name} is a preview: {model.preview}", MlipfmWarning, stacklevel=3)
    return path


@cache
def _verified(path: Path, sha256: str) -> Path:
    hint = "install mlipfm-models again: pip install --force-reinstall mlipfm-models"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"a released model is missing: {error.strerror}", where=str(path), hint=hint) from None
    if found != sha256:
        raise DamagedFileError(f"SHA-256 is {found[:12]}... and not {sha256[:12]}...", where=str(path), hint=hint)
    return path
