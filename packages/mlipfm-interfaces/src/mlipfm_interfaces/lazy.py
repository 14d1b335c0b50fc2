"""Public names of a package that are imported when they are used: importing the package alone stays light.

An `__init__.py` lists its names once, in the form by which type checkers know that they are public:

    from mlipfm_interfaces.lazy import lazy_imports

    if TYPE_CHECKING:
        from .assembly import AssembledPotential as AssembledPotential

    __getattr__, __dir__, __all__ = lazy_imports(__name__)
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_imports(
    package: str, old: Mapping[str, tuple[str, str]] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for the `__init__` of `package`, which make the imports under its `if TYPE_CHECKING:` on use.

    Args:
        old: names that go: name -> (module that has it under the old name or the new one, what to use instead). Using one warns.

    The functions raise AttributeError for any other name, and what the import of a module raises.
    """
    module = sys.modules[package]
    homes = _imports_for_type_checkers(Path(module.__file__ or "").read_text(encoding="utf-8"))

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name], package), name)
        if old and name in old:
            home, instead = old[name]
            warnings.warn(f"{package}.{name} is an old name: use {instead}", DeprecationWarning, stacklevel=2)
            found = import_module(home, package)
            return getattr(found, name) if hasattr(found, name) else getattr(found, instead.rpartition(".")[2])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(module), *homes}), sorted(homes)


def _imports_for_type_checkers(source: str) -> dict[str, str]:
    """Name -> module, relative, of the imports under `if TYPE_CHECKING:`."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    lines = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom) and line.level]
    return {alias.name: "." * line.level + (line.module or "") for line in lines for alias in line.names}
