"""YAML files of others: a safe loader, no aliases, bounded depth, size and number of parts. The module of this package that imports yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import PluginError, RefusedFileError, UnreadableFileError

from .framed import BROKEN, opened

#: Bytes of a file after unpacking, and levels of nesting: files of supercells have some megabytes and six levels.
LARGEST, DEEPEST = 1 << 26, 32
#: Events of the parser (a number is one, a list or dictionary two): a file of supercells of `LARGEST` bytes has some 5 million.
#: Each needs some 400 bytes of memory.
MOST_EVENTS = 6_000_000


def load_yaml(path: Path) -> Any:
    """The content of a file, also compressed, as plain numbers, texts, lists and dictionaries.

    Raises:
        UnreadableFileError: missing, cut, or no YAML. RefusedFileError: aliases (a small file can then stand for a huge one), too deep, too large,
            of too many parts.
        PluginError: pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise PluginError("pyyaml is not installed", mend="pip install 'mlipfm-data[yaml]'") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = _text(path)
    try:
        _check(yaml.parse(text, Loader=loader), path)
        return yaml.load(text, Loader=loader)  # a safe one
    except (yaml.YAMLError, ValueError) as error:
        raise UnreadableFileError(f"no YAML: {' '.join(str(error).split())[:200]}", where=str(path), mend="is the file complete?") from None


def _text(path: Path) -> bytes:
    with opened(path) as stream:
        try:
            text = stream.read(LARGEST + 1)
        except BROKEN as error:
            raise UnreadableFileError(f"cannot be unpacked: {error}", where=str(path), mend="is the file complete?") from None
    if len(text) > LARGEST:
        raise RefusedFileError(f"the file has more than {LARGEST} bytes", where=str(path))
    return text


def _check(events: Any, path: Path) -> None:
    """Refuse what cannot be loaded safely, before anything is built."""
    depth = 0
    for count, event in enumerate(events, 1):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if kind == "AliasEvent":
            raise RefusedFileError("the file has aliases (*NAME), which can make it huge", where=str(path), mend="write it without them")
        if count > MOST_EVENTS:
            raise RefusedFileError(f"the file has more than {MOST_EVENTS} numbers, texts, lists and ends of lists", where=str(path))
        if depth > DEEPEST:
            raise RefusedFileError(f"the file is nested deeper than {DEEPEST} levels", where=str(path))
