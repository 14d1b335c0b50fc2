"""Old names of this package, kept for two minor versions; the package warns when one is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlipfm_interfaces.benchmark import OpenModel as Opened
from mlipfm_interfaces.benchmark import open_model as opened
from mlipfm_interfaces.files import atomic_write

from .evaluation import Evaluation as Evaluated
from .evaluation import evaluation_record
from .report import report_html
from .report_data import Found

__all__ = ["Evaluated", "Opened", "opened", "write_evaluation_page"]


def write_evaluation_page(path: Path | str, model: Opened, results: Sequence[Evaluated]) -> None:
    """Write the report of an evaluation as one HTML page."""
    found = Found(f"Evaluation of {model.address}", [evaluation_record(model, results)])
    atomic_write(path, report_html(found).encode())
