"""The commands that run benchmarks: list those that are installed, run one by name, print its tables, write its result record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from mlipfm_interfaces import plugins
from mlipfm_interfaces.benchmark import BenchmarkResult, open_model, options_of, run_benchmark, summary_of
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import MlipfmError, UnwritableFileError
from mlipfm_interfaces.result_records import Record, write_record
from rich.markup import escape
from rich.table import Table

from .data_sets import open_sets


@dataclass(frozen=True)
class InstalledBenchmark:
    """A benchmark: its name, what it measures, and its options with defaults; `fault` says why it cannot be imported."""

    name: str
    summary: str
    options: Mapping[str, Any]
    fault: str = ""


def list_benchmarks() -> list[InstalledBenchmark]:
    """Return every benchmark of all installed packages, in alphabetical order."""
    found = []
    for name in plugins.names("benchmarks"):
        try:
            benchmark = plugins.load("benchmarks", name)
        except MlipfmError as error:
            found.append(InstalledBenchmark(name, "", {}, str(error)))
        else:
            found.append(InstalledBenchmark(name, summary_of(benchmark), options_of(benchmark)))
    return found


def _print_benchmarks() -> None:
    """Print a table of the installed benchmarks."""
    table = Table()
    table.add_column("benchmark", no_wrap=True)
    table.add_column("what it measures")
    table.add_column("options (KEY=VALUE, with their defaults)")
    for one in list_benchmarks():
        options = ", ".join(f"{key}{'' if default in (None, '', ...) else f'={default}'}" for key, default in one.options.items())
        table.add_row(one.name, f"[red]{escape(one.fault)}[/]" if one.fault else escape(one.summary), escape(options))
    open_console().print(table)


def run_by_name(
    name: str,
    address: str,
    data: Sequence[Path | str] = (),
    ood: Sequence[Path | str] = (),
    *,
    record: Path | str | None = None,
    level: str | None = None,
    reading: Mapping[str, Any] | None = None,
    quiet: bool = False,
    options: Mapping[str, Any] | None = None,
) -> tuple[BenchmarkResult, Record]:
    """Run a benchmark on a model, print its tables and write its record.

    Args:
        data, ood: stores or files, see `open_sets`. level: level of theory of the labels and, where the benchmark has that option, of the model.
        reading: options of readers. quiet: print nothing. options: those of the benchmark that are given.

    Raises:
        UnwritableFileError: no folder for the record, before anything is measured; typer.Exit with 1 if the benchmark says that the model failed;
        what the model, the data and the benchmark raise.
    """
    benchmark = plugins.load("benchmarks", name)
    if record is not None and not Path(record).parent.is_dir():
        raise UnwritableFileError("cannot write: no such folder", where=str(record), hint="create the folder first")
    given = dict(options or {})
    if level is not None and "level" in options_of(benchmark):
        given["level"] = level
    sets = open_sets(data, ood, level, **(reading or {}))
    with open_model(address) as model:
        result, found = run_benchmark(name, benchmark, model, sets, given)
    if record is not None:
        write_record(record, found)
    if not quiet:
        _print(result)
        if record is not None:
            open_console().print(f"written: {escape(str(record))}", highlight=False)
    if result.error is not None:
        raise result.error
    if result.failure:
        typer.echo(f"mlipfm: {result.failure}", err=True)
        raise typer.Exit(1)
    return result, found


def _print(result: BenchmarkResult) -> None:
    console = open_console()
    for item in result.printed or ([] if result.error else [_figures_table(result)]):
        console.print(item, highlight=False, soft_wrap=isinstance(item, str))


def _figures_table(result: BenchmarkResult) -> Table:
    """Return a table of figures with their intervals, units and numbers of cases."""
    table = Table()
    for name in ("figure", "value", "95 % interval", "unit", "cases"):
        table.add_column(name, justify="left" if name in ("figure", "unit") else "right")
    for m in result.figures:
        interval = "" if m["ci95"] is None else escape(f"[{m['ci95'][0]:.4g}, {m['ci95'][1]:.4g}]")
        value = "-" if m["value"] is None else f"{m['value']:.4g}"
        place = f", {m['set']}" if "set" in m else ""
        cases = f"{m['n_ok']} of {m['n_total']}" if m["n_ok"] < m["n_total"] else str(m["n_total"])
        table.add_row(escape(m["name"] + place), value, interval, "" if m["unit"] == "1" else escape(m["unit"]), cases)
    return table
