"""YAML without surprises: plain data only, no aliases, no repeated keys, and `1e-3` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml
from mlipfm_interfaces.errors import RecipeError


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (they blow up a small file) and repeated keys (the last would win silently)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not used in recipes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise yaml.YAMLError(f"key {repeated[0]!r} is given twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text; who writes a learning rate means a number
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str | None = None) -> Any:
    """Plain data from YAML. Raises `RecipeError` naming the line."""
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"not valid YAML: {' '.join(str(error).split())}", where=where) from None
