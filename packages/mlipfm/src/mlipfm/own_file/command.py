"""What `mlipfm finetune FILE` and `mlipfm train FILE` do, apart from their arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from mlipfm_data.readers.option_text import options_for
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import OptionError, RecipeError

from .request import MINUTES, Request
from .work import train_on_file


def run(request: Request, as_json: bool) -> None:
    """Train on a file and print what became of it; `as_json`: the result as JSON on stdout, and everything else on stderr."""
    if request.minutes is None and request.steps is None and request.mode != "heads":
        request = replace(request, minutes=MINUTES)
    document = train_on_file(request, lambda text: typer.echo(text, err=as_json))
    if as_json:
        typer.echo(json.dumps(document))


def train_file(file: Path, out: Path, *, reading: Sequence[str], as_json: bool, **options: Any) -> None:
    """Train on a file from random weights: what `mlipfm train FILE` hands over."""
    run(Request(file, out, reading=reading_of(file, reading), **options), as_json)


def reading_of(file: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Return options of the reader from `KEY=VALUE` texts.

    Raises:
        OptionError: an option that the reader of the file does not have, or the level, which has its own option.
    """
    named = dict(text.split("=", 1) for text in texts if text.startswith("reader="))
    found = options_for(file, named.get("reader"), [text for text in texts if not text.startswith("reader=")], {}) | named
    if "level" in found:
        raise OptionError("--read has no option 'level'", hint="the level is given by --level")
    return found


def model_to_start_from(model: str | None) -> str:
    """Return the model that the user gives, else the released one if it is there.

    Raises:
        RecipeError: neither.
    """
    if model is None and plugins.DEFAULT_MODEL in plugins.names("released"):
        return plugins.DEFAULT_MODEL
    if model is None:
        raise RecipeError(
            "name the model to start from", where="--from", hint="--from FILE or NAME@ALIAS; `mlipfm train FILE` starts without one"
        )
    return model
