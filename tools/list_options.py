"""List every command of `mlipfm` with its arguments and options as JSON, or compare two such lists.

    python tools/list_options.py > now.json
    python tools/list_options.py --packages OLD/packages > before.json    # another checkout, with the libraries of this environment
    python tools/list_options.py --compare before.json now.json

A hidden command or option (an old name that still works) is marked.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer.main

PACKAGES = Path(__file__).resolve().parents[1] / "packages"


def options(packages: Path = PACKAGES) -> dict[str, dict[str, Any]]:
    """Return the parameters of every command, by `command subcommand`: parameter -> flags, type, default and whether it is required or hidden."""
    sys.path[:0] = [str(path) for path in sorted(packages.glob("*/src"))]
    found: dict[str, dict[str, Any]] = {}
    for project in sorted(packages.glob("*/pyproject.toml")):
        entries = tomllib.loads(project.read_text("utf-8"))["project"].get("entry-points", {}).get("mlipfm.commands", {})
        for name, target in entries.items():
            module, _, attribute = target.partition(":")
            command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
            found |= _walk(command, name.replace(".", " "))
    return dict(sorted(found.items()))


def _walk(command: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a command, or of all commands of a group."""
    if not hasattr(command, "commands"):
        hidden = {"(hidden)": True} if command.hidden else {}
        return {name: hidden | {param.name: _parameter(param) for param in command.params if param.name not in _ADDED}}
    inner = command.commands
    if list(inner) == [name.rpartition(" ")[2]]:  # mounted as that command
        return _walk(inner[name.rpartition(" ")[2]], name)
    return {key: value for part in inner for key, value in _walk(inner[part], f"{name} {part}").items()}


_ADDED = ("help", "install_completion", "show_completion")


def _parameter(param: Any) -> dict[str, Any]:
    default = param.default() if callable(param.default) else param.default
    told = {
        "flags": sorted([*param.opts, *param.secondary_opts]) if param.param_type_name == "option" else "argument",
        "type": _type(param.type_descriptor.annotation),
        "default": None if default is None or "Sentinel" in type(default).__name__ else str(default),
        "required": param.required,
        "several": param.multiple or param.nargs == -1,
    }
    return told | ({"hidden": True} if getattr(param, "hidden", False) else {})


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each command, and each parameter of a command, that only one of the lists has or that differs."""
    lines = [f"- {name}" for name in before if name not in now] + [f"+ {name}" for name in now if name not in before]
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        lines += [f"- {name}: {_named(key, old)}" for key in old if key not in new]
        lines += [f"+ {name}: {_named(key, new)}" for key in new if key not in old]
        lines += [f"~ {name}: {_named(key, new)}: {old[key]} -> {new[key]}" for key in old if key in new and old[key] != new[key]]
    return sorted(lines, key=lambda line: (line[2:], line))


def _named(key: str, params: dict[str, Any]) -> str:
    flags = params[key]["flags"] if isinstance(params[key], dict) else key
    return key if isinstance(flags, str) else " ".join(flags)


def main() -> None:
    parser = argparse.ArgumentParser(description="List every command of mlipfm with its options as JSON, or compare two lists.")
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="folder of the packages [default: of this repository]")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "NOW"), help="two lists: print the differences")
    given = parser.parse_args()
    if given.compare:
        before, now = (json.loads(path.read_text("utf-8")) for path in given.compare)
        print("\n".join(differences(before, now)) or "no difference")
    else:
        print(json.dumps(options(given.packages), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
