"""Where there is no terminal nothing is cut; a terminal keeps its width."""

from __future__ import annotations

import io

import pytest
from mlipfm_interfaces.console import counter, open_console
from rich.table import Table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wide_table() -> Table:
    table = Table()
    for k in range(20):
        table.add_column(f"column {k}", justify="right")
    table.add_row(*(f"{k}.25 [{k}.125, {k}.375]" for k in range(20)))
    return table


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_table_of_twenty_columns_is_whole_in_a_pipe(monkeypatch, stream):
    monkeypatch.setenv("COLUMNS", "80")
    pipe = io.StringIO()
    monkeypatch.setattr(f"sys.{stream}", pipe)
    console = open_console(stderr=stream == "stderr")
    console.print(wide_table())
    console.print("a sentence " * 30)
    text = pipe.getvalue()
    assert all(f"{k}.25 [{k}.125, {k}.375]" in text for k in range(20))
    assert text.splitlines()[-1] == "a sentence " * 30


def test_a_terminal_keeps_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout", Terminal())
    assert open_console().width == 72


def test_colours_that_are_forced_make_no_terminal_of_a_pipe(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    with counter("frames", 3) as advance:
        advance(1)
    assert pipe.getvalue() == ""
    console = open_console(stderr=True)
    assert not console.is_terminal
    console.print("[red]late")
    assert "\x1b[31m" in pipe.getvalue()
