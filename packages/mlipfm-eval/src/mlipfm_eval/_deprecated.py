"""A function that is kept for two minor versions; the package warns when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlipfm_interfaces.benchmark import OpenModel
from mlipfm_interfaces.files import atomic_write

from .evaluation import Evaluation, evaluation_record
from .report import report_html
from .report_data import Found


def write_evaluation_page(path: Path | str, model: OpenModel, results: Sequence[Evaluation]) -> None:
    """Write the report of an evaluation as one HTML page."""
    found = Found(f"Evaluation of {model.address}", [evaluation_record(model, results)])
    atomic_write(path, report_html(found).encode())
