"""Options of formats: which a format has, and KEY=VALUE of the command line, each value read by the type that is declared for it."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlipfm_interfaces.errors import OptionError
from mlipfm_interfaces.protocols import Format

from .options import ReadOptions, option_names, unknown_option

_TRUE, _FALSE = ("true", "yes", "on", "1", "t"), ("false", "no", "off", "0", "f")


def _own_options(found: Format) -> dict[str, Any]:
    """Return the options that a format takes beside `ReadOptions`, with their types: keyword-only parameters of its `frames`."""
    names = [name for name in _parameters(found) if name not in _common() and name != "report"]
    try:
        hints = get_type_hints(_method(found))
    except NameError:  # a plug-in whose annotations cannot be evaluated
        hints = {}
    return {name: hints.get(name, str) for name in names}


def _method(found: Format) -> Any:
    return getattr(found, "frames", None) or found.read  # type: ignore[attr-defined]  # a plug-in of the old interface


def _parameters(found: Format) -> list[str]:
    return [p.name for p in inspect.signature(_method(found)).parameters.values() if p.kind is p.KEYWORD_ONLY]


@lru_cache(1)
def _common() -> dict[str, Any]:
    hints = get_type_hints(ReadOptions)
    return {name: hints[name] for name in option_names()}


def split_options(found: Format, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into those of the format and `ReadOptions`; a format whose `frames` takes `level` or `keys` gets those, too.

    Raises:
        OptionError: an option that this format does not have, with the nearest that there is, or text where it wants true or false.
    """
    known = _own_options(found)
    own = {name: value for name, value in given.items() if name in known}
    common = {name: value for name, value in given.items() if name not in known}
    for name in common:
        if name not in _common():
            raise unknown_option(name, [*known, *_common()])
    for name, value in own.items():
        if bool in _members(known[name]) and not isinstance(value, bool):
            raise OptionError(f"`{name}` must be True or False, got {value!r}")
    told = {"level": common.get("level"), "keys": _named_keys(common)}
    return own | {name: value for name, value in told.items() if name in _parameters(found)}, common


def _named_keys(options: Mapping[str, Any]) -> dict[str, str]:
    """Quantity, charge, spin or group -> the key that the user names for it."""
    named = {name.removesuffix("_key"): key for name, key in options.items() if name.endswith("_key")}
    return {**dict(options.get("keys", {})), **named}


def _parsed_options(texts: Sequence[str], reader: Format, named: Mapping[str, Any]) -> dict[str, Any]:
    """Options from `KEY=VALUE` texts.

    Args:
        named: options that the command line gives under their own names, which must not be given a second time.

    Raises:
        OptionError: no `=`, an option that this reader does not have, one that is given twice, or a value that is not of its type.
    """
    types_of = _common() | _own_options(reader)
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise OptionError(f"--option needs KEY=VALUE, got {text!r}", hint="for instance --option forces_sign=-1")
        if name not in types_of:
            raise unknown_option(name, list(types_of))
        if named.get(name) is not None or name in found:
            raise OptionError(f"`{name}` is given twice", hint="give it once")
        found[name] = parse_value(name, value.strip(), types_of[name])
    return found


def parse_value(name: str, text: str, hint: Any) -> Any:
    for member in _members(hint):
        try:
            return _as(text, member)
        except (ValueError, TypeError):
            continue
    raise OptionError(f"`{name}` must be {_words(hint)}, got {text!r}", hint=f"for instance --option {name}={_example(hint)}")


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union without None; a single type as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for member in get_args(hint) if member is not type(None))
    return (hint,)


def _as(text: str, kind: Any) -> Any:
    """Return the value that a text stands for. Raises `ValueError` if it is none of this type."""
    origin = get_origin(kind)
    if origin is Literal:
        for value in get_args(kind):
            if (value is False and text.lower() in _FALSE) or str(value) == text.removeprefix("+"):
                return value
        raise ValueError(text)
    if kind is bool:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(text)
        return text.lower() in _TRUE
    if origin is tuple:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(text, get_args(kind)[1])
    return kind(text)


def _mapping(text: str, kind: Any) -> dict[str, Any]:
    """`homo=E_homo,lumo=E_lumo`, or the same as JSON."""
    if text.startswith("{"):
        pairs = list(json.loads(text).items())
    else:
        pairs = [word.split("=", 1) for word in text.split(",") if word.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(text)
    return {str(key).strip(): kind(value) for key, value in pairs}


def _words(hint: Any) -> str:
    (first, *_) = _members(hint)
    if get_origin(first) is Literal:
        return " or ".join(repr(value) for value in get_args(first))
    if get_origin(first) is not None:
        return "names joined by commas" if get_origin(first) is tuple else "NAME=VALUE pairs joined by commas"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(first, "text")


def _example(hint: Any) -> str:
    (first, *_) = _members(hint)
    if get_origin(first) is Literal:
        return str(get_args(first)[-1]).lower() if isinstance(get_args(first)[-1], bool) else str(get_args(first)[-1])
    if get_origin(first) is not None:
        return "a,b" if get_origin(first) is tuple else "homo=E_homo"
    return {bool: "false", int: "1", float: "0.5"}.get(first, "TEXT")


def typed_options(path: Path, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a reader whose values may be text, as a command line has them, by the types that are declared for them: "false" is False.

    Raises:
        OptionError: as `options_for`.
    """
    reader = reading.get("reader")
    texts = [f"{name}={value}" for name, value in reading.items() if isinstance(value, str) and name != "reader"]
    typed = {name: value for name, value in reading.items() if not isinstance(value, str) or name == "reader"}
    return typed | options_for(path, reader, texts, {})


def options_for(path: Path, reader: str | None, texts: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command line for one file: those under their own names that are given, and `KEY=VALUE` texts for the file's reader.

    Raises:
        OptionError: as `_parsed_options`. UnreadableFileError, PluginError: no such file, or no reader for it.
    """
    from .registry import format_of

    stated = {name: value for name, value in named.items() if value is not None}
    return stated | (_parsed_options(texts, format_of(path, reader), stated) if texts else {})
