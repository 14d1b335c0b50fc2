"""The work behind `mlipfm md analyse`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import ObservableError, UnreadableFileError
from mlipfm_interfaces.files import canonical_json
from rich.table import Table

from .observables._page import as_dict, write_analysis
from .observables.analysis import Analysis, AnalysisRequest, analyse, with_predictions
from .observables.trajectory_data import TrajectoryData, read_run, read_trajectory

Array = np.ndarray


def open_trajectory(
    source: Path,
    interval: float | None,
    structure: int,
    ensemble: str | None,
    pressure: float | None,
    elements: Sequence[str],
    velocity_unit: str | None = None,
) -> TrajectoryData:
    """Return the trajectory of a run's folder or of a file.

    Args:
        interval: fs between the frames of a file. ensemble, pressure (eV/Å³), elements, velocity_unit: of a file, which does not give them.

    Raises:
        ObservableError: an option that the source answers itself. What the readers raise.
    """
    if source.is_dir():
        given = {"--dt": interval, "--ensemble": ensemble, "--pressure": pressure, "--elements": list(elements) or None}
        given["--velocity-unit"] = velocity_unit
        for option, value in given.items():
            if value is not None:
                raise ObservableError("the folder of a run says this itself", where=option, hint="leave it out")
        return read_run(source, structure)
    data = read_trajectory(source, interval, ensemble=ensemble, elements=elements, structure=structure, velocity_unit=velocity_unit)
    if pressure is not None and data.ensemble != "npt":
        raise ObservableError("only constant pressure has a pressure", where="--pressure", hint="--ensemble npt, or leave it out")
    return data if pressure is None else replace(data, pressure=pressure)


def parse_pair(text: str) -> tuple[str, str]:
    """Return the elements of `O-H`.

    Raises:
        ObservableError: anything else.
    """
    found = re.fullmatch(r"([A-Z][a-z]?)-([A-Z][a-z]?)", text)
    if found is None:
        raise ObservableError(f"{text!r} is no pair of elements", where="--rdf", hint="write it as O-H")
    return found[1], found[2]


def parse_angle(text: str) -> tuple[str, str, str, float]:
    """Return elements and largest bond length of `H-O-H:1.2`.

    Raises:
        ObservableError: anything else.
    """
    found = re.fullmatch(r"([A-Z][a-z]?)-([A-Z][a-z]?)-([A-Z][a-z]?):([0-9.]+)", text)
    if found is None:
        raise ObservableError(
            f"{text!r} is no angle", where="--adf", hint="write it as H-O-H:1.2, with the largest bond length in Angstrom"
        )
    return found[1], found[2], found[3], float(found[4])


def read_reference(text: str) -> tuple[str, tuple[Array, Array]]:
    """Return name and curve of `O-O=FILE`: the first two columns of a text file with numbers; lines that begin with #, \" or @ are comments.

    Raises:
        ObservableError, UnreadableFileError: no such form, no such file, no numbers.
    """
    name, _, path = text.partition("=")
    if not path:
        raise ObservableError(f"{text!r} names no curve and file", where="--reference", hint="write it as O-O=experiment.dat")
    if not Path(path).is_file():
        raise UnreadableFileError("there is no such file", where=path, hint="check the path")
    rows = []
    for number, line in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        words = re.split(r"[\s,;]+", line.strip())
        if words[0] == "" or words[0][0] in '#"@':
            continue
        try:
            rows.append((float(words[0]), float(words[1])))
        except (ValueError, IndexError) as error:
            raise UnreadableFileError(
                f"line {number} does not begin with two numbers: {line.strip()[:40]!r}", where=path, hint="comments begin with #"
            ) from error
    if not rows:
        raise UnreadableFileError("holds no numbers", where=path)
    x, y = np.array(rows).T
    return name, (x, y)


def analyse_trajectory(
    data: TrajectoryData,
    wanted: AnalysisRequest,
    out: Path,
    references: Sequence[str] = (),
    model: str | None = None,
    as_json: bool = False,
) -> None:
    """Analyse, write the files, and print the numbers or the JSON record.

    Raises:
        ObservableError: a reference for a curve that was not computed. What `analyse` and `with_predictions` raise.
    """
    curves = dict(read_reference(text) for text in references)
    if model is not None:
        data = with_predictions(data, model)
    found = analyse(data, wanted)
    names = [d.name for d in found.rdfs] + [s.name for s in found.spectra]
    for name in curves:
        if name not in names:
            raise ObservableError(f"there is no curve {name}", where="--reference", hint=f"computed were {', '.join(names) or 'none'}")
    files = write_analysis(found, out, curves)
    if as_json:
        print(canonical_json(as_dict(found)).decode())
        return
    _print(found, files)


def _print(found: Analysis, files: Sequence[Path]) -> None:
    console = open_console()
    data = found.data
    table = Table(title=f"{data.source}: {len(data)} frames, {(data.times[-1] - data.times[0]) / 1000:.4g} ps")
    for column in ("quantity", "value", "error", "unit", "n", "correlation time / fs"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for e in found.estimates:
        error = "-" if e.error is None else f"{e.error:.2g}"
        time = "-" if e.correlation_time is None else f"{e.correlation_time:.3g}"
        table.add_row(e.name, f"{e.value:.6g}", error, e.unit, str(e.n), time)
    if found.energy_drift is not None:
        d = found.energy_drift
        half = "-" if d.ci95 is None else f"{(d.ci95[1] - d.ci95[0]) / 4:.2g}"
        table.add_row(d.name, f"{d.value:.3g}", half, d.unit, str(len(data)), "-")
    console.print(table)
    for note in [*found.notes, *(f"{e.name}: {e.note}" for e in found.estimates if e.note)]:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    for what, why in found.refused:
        console.print(f"not computed: {what}: {why}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"{len(files)} files in {files[0].parent}; open {files[0]}", highlight=False, soft_wrap=True, markup=False)
