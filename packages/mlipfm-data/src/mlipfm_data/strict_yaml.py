"""YAML as plain data: no aliases, no repeated keys, no code, bounded depth and number of parts; `1e-3` is a number. Needs pyyaml."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml
from mlipfm_interfaces.errors import MlipfmError, RecipeError

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # pyyaml without libyaml: slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

#: Levels of nesting: files of supercells have six.
DEEPEST = 32
#: Events of the parser (a number is one, a list or dictionary two): a file of supercells of 64 MiB has some 5 million, of 400 bytes of memory each.
MOST_EVENTS = 6_000_000


class _StrictLoader(_SafeLoader):
    """Safe loader that refuses repeated keys, of which the last would win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            counts = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
            raise yaml.YAMLError(f"key {counts.most_common(1)[0][0]!r} is given twice (line {node.start_mark.line + 1})")
        return found


# YAML 1.1 reads 1e-3 as text; who writes a learning rate means a number
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(
    text: str | bytes,
    where: str | None = None,
    *,
    invalid: type[MlipfmError] = RecipeError,
    refused: type[MlipfmError] = RecipeError,
) -> Any:
    """Return the numbers, texts, lists and dictionaries of a YAML document.

    Raises:
        invalid: no YAML, or a key that is given twice; names the line. refused: aliases (a small file can then stand for a huge one), too deep, or of
        too many parts; found before anything is built.
    """
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=_StrictLoader), 1):
            kind = type(event).__name__
            depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
            if kind == "AliasEvent":
                raise refused("the file has aliases (*NAME), which can make it huge", where=where, hint="write it without them")
            if count > MOST_EVENTS:
                raise refused(f"the file has more than {MOST_EVENTS} numbers, texts, lists and ends of lists", where=where)
            if depth > DEEPEST:
                raise refused(f"the file is nested deeper than {DEEPEST} levels", where=where)
        return yaml.load(text, _StrictLoader)  # a safe one
    except (yaml.YAMLError, ValueError) as error:
        raise invalid(f"not valid YAML: {' '.join(str(error).split())[:200]}", where=where, hint="is the file complete?") from None
