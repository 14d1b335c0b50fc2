"""Results that are kept in a file, with what they are of: a quickstart that is called again takes them from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlipfm_interfaces.files import atomic_write


def kept(path: Path, identity: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """What `compute` returns (JSON-ready), or what it returned for the same `identity` (JSON-ready) before.

    A file that is damaged or of something else is replaced.
    """
    wanted = json.loads(json.dumps(identity))
    try:
        found = json.loads(path.read_bytes())
        if found["of"] == wanted:
            return found["result"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or of no use: it is made again
    path.parent.mkdir(parents=True, exist_ok=True)
    result = json.loads(json.dumps(compute()))  # the same now as when it is read back
    atomic_write(path, json.dumps({"of": wanted, "result": result}, indent=1).encode())
    return result
