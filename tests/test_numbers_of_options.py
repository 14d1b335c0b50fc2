"""Every number that a command takes is bounded: nan, infinities, negative, zero and absurd values are refused in one line that names the option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from mlipfm_interfaces.cli import app, main

BAD = ("nan", "inf", "-inf", "-1", "0", "1e300", str(2**70), "-1e300")

#: Option -> of `BAD`, what has a meaning.
SENSIBLE = {
    "--quantile": {"0"},  # what is surer than the surest
    "--charge": {"-1", "0"},
    "--gap": {"0"},
    "--gfn1-every": {"0"},  # none
    "--clusters": {"0"},
    "--relaxed-clusters": {"0"},
    "--radical-cations": {"0"},
    "--seed": {"0"},
    "--tolerance": {"0"},
    "--gamma": {"0"},
    "--floor": {"0"},
    "--kt": {"inf", "1e300", str(2**70)},
    "--force-cap": {"inf", "1e300", str(2**70)},
    "--max-force": {"0"},
    "--max-unpacked": {"0"},
    "--temperature": {"0"},
    "--steps": {"0"},
    "--latency": {"0"},
    "--frame": {"0", "-1"},
    "--structure": {"0"},
    "--only": {"0"},
    "--discard": {"0"},
    "--forces-sign": {"-1", "0"},  # of 0 the import says what it wants, once it has files
    "--stress-sign": {"-1", "0"},
}

#: A pressure is a number with a unit or without; a tension is one too, but not of the gas of `vibrations`.
PRESSURES = {("relax",): {"-1", "0"}, ("md", "analyse"): {"-1", "0"}, ("vibrations",): set()}

#: What errors call an option that the engine checks, and not the command line.
WORDS = {
    "--dt": "time step",
    "--friction": "friction",
    "--temperature": "temperature",
    "--steps": "steps",
    "--every": "every",
    "--seed": "seed",
}


def numbers() -> Iterator[tuple[tuple[str, ...], str]]:
    """Path of a command and name of an option that takes a number."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if hasattr(command, "list_commands"):
            for name in command.list_commands(None):
                yield from walk(command.get_command(None, name), (*path, name))
            return
        for parameter in command.params:
            kind = str(getattr(parameter, "type_descriptor", None) and parameter.type_descriptor.annotation)
            if ("int" in kind or "float" in kind) and parameter.opts[0].startswith("--"):
                yield path, parameter.opts[0]

    yield from walk(typer.main.get_group(app), ())


ALL = [*numbers(), *((path, "--pressure") for path in PRESSURES)]


def test_the_walk_finds_the_options():
    assert {(("md", "run"), "--dt"), (("data", "split"), "--gap"), (("uncertainty", "judge"), "--coverage")} <= set(ALL)
    assert set(SENSIBLE) <= {option for _, option in ALL}


@pytest.mark.ci
@pytest.mark.parametrize(("path", "option"), ALL, ids=lambda part: " ".join(part) if isinstance(part, tuple) else part)
def test_a_number_that_cannot_be_is_refused_by_name(path, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in BAD:
        if value in SENSIBLE.get(option, set()) | (PRESSURES[path] if option == "--pressure" else set()):
            continue
        # the words for arguments that are wanted are files that do not exist: an accepted number is followed by another error
        with pytest.raises(SystemExit) as end:
            main([*path, f"{option}={value}", *_wanted(path, option)])
        error = capsys.readouterr().err
        named = option in error or WORDS.get(option, option) in error
        assert (end.value.code, len(error.splitlines()), named) == (2, 1, True), (value, error)
    assert not list(tmp_path.iterdir())


def _wanted(path: tuple[str, ...], option: str) -> list[str]:
    """Words for arguments and options that the command needs, as far as the number is checked by its engine."""
    two = ["no.safetensors", "no.xyz"]
    words = {
        ("md", "run"): two,
        ("md", "exchange"): [*two, "--temperatures=300,400"],
        ("md", "analyse"): ["no.xyz"],
        ("md", "serve-ipi"): two,
        ("neb",): ["no.xyz", "no.xyz", "--model=emt:"],
    }
    structure = [(name,) for name in ("relax", "phonons", "vibrations", "eos", "elastic", "ts")]
    return words.get(path, ["no.xyz", "--model=emt:"] if path in structure else [])
