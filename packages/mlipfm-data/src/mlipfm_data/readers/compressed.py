"""Opening of plain and compressed files."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any, BinaryIO, cast

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes, through gzip, bzip2 or xz by its name. Raises `OSError`, as all reading of it."""
    return cast(BinaryIO, _OPENERS.get(path.suffix, open)(path, "rb"))
