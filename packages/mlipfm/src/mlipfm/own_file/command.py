"""What `mlipfm finetune FILE` and `mlipfm train FILE` do, apart from their arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from mlipfm_data.readers.option_text import options_for
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import OptionError, RecipeError

from .request import MINUTES, Request
from .work import train_on_file


def run(
    file: Path,
    out: Path,
    *,
    reading: Sequence[str],
    as_json: bool,
    finetuning: bool,
    minutes: float | None,
    steps: int | None,
    **options: Any,
) -> None:
    """Train on a file and print what became of it.

    Args:
        reading: options of the reader, `KEY=VALUE`. as_json: print the result as JSON on stdout, and everything else on stderr.
        finetuning: a model is needed. options: of `Request`.
    """
    if finetuning and options.get("model") is None:
        options["model"] = plugins.DEFAULT_MODEL if plugins.DEFAULT_MODEL in plugins.names("released") else None
    if finetuning and options.get("model") is None:
        raise RecipeError(
            "name the model to start from", where="--from", hint="--from FILE or NAME@ALIAS; `mlipfm train FILE` starts without one"
        )
    request = Request(file=file, out=out, minutes=minutes, steps=steps, **options)
    request.check()
    texts = [text for text in reading if not text.startswith("reader=")]
    reader = next((text.partition("=")[2] for text in reading if text.startswith("reader=")), None)
    found = options_for(file, reader, texts, {}) | ({"reader": reader} if reader else {})
    if "level" in found:
        raise OptionError("--read has no option 'level'", hint="the level is given by --level")
    if steps is None and options.get("mode") != "heads":
        minutes = MINUTES if minutes is None else minutes
    request = Request(file=file, out=out, minutes=minutes, steps=steps, reading=found, **options)
    document = train_on_file(request, lambda text: typer.echo(text, err=as_json))
    if as_json:
        typer.echo(json.dumps(document))


def train_file(file: Path, out: Path, **options: Any) -> None:
    """Train on a file from random weights: what `mlipfm train FILE` hands over."""
    run(file, out, finetuning=False, **options)
