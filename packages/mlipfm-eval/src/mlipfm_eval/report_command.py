"""The work behind `mlipfm report`."""

from __future__ import annotations

from pathlib import Path

from mlipfm_interfaces.console import open_console

from .report import write_report


def run(folder: Path, out: Path | None) -> None:
    """Write the report and say where it is."""
    console = open_console()
    with console.status("reading") as status:
        path = write_report(folder, out, status.update)
    console.print(f"Report: {path} ({path.stat().st_size / 1024:.0f} KiB)", highlight=False)
