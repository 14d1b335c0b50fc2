"""Files of an analysis: one self-contained HTML page, `analysis.json`, a CSV and a PNG for each kind of curve."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.html_page import chart_grid, document, paragraphs, section, table
from mlipfm_interfaces.units import GPA

from ._charts import curves, panels
from .analysis import Analysis, conserved_energy
from .distributions import Distribution
from .thermodynamics import pressures

Array = np.ndarray
Reference = Mapping[str, tuple[Array, Array]]

FORMAT = 1


def write_analysis(found: Analysis, out: Path, references: Reference | None = None) -> list[Path]:
    """Write all files into the folder `out`, which is made, and return them; `analysis.html` is the first.

    Args:
        references: name of a curve (`O-O`, `VDOS`) -> x and y from elsewhere, drawn beside it.

    Raises:
        UnwritableFileError: disk full, no permission ...
    """
    out.mkdir(parents=True, exist_ok=True)
    charts = _series(found, out) + _distributions(found, out, references or {}) + _motion(found, out, references or {})
    _tables(found, out)
    atomic_write(out / "analysis.json", canonical_json(as_dict(found)))
    atomic_write(out / "analysis.html", _page(found, charts).encode())
    return [out / "analysis.html", *sorted(path for path in out.iterdir() if path.suffix in (".json", ".csv", ".png"))]


def as_dict(found: Analysis) -> dict[str, Any]:
    """Return the analysis JSON-ready: numbers with unit, error, interval, correlation time; peaks of curves, whose points are in the CSV files."""
    data, drift = found.data, found.energy_drift
    return {
        "format": FORMAT,
        "source": data.source,
        "frames": len(data),
        "atoms": len(data.atomic_numbers),
        "interval_fs": data.interval,
        "duration_fs": float(data.times[-1] - data.times[0]),
        "ensemble": data.ensemble,
        "degrees_of_freedom": data.degrees_of_freedom,
        "estimates": [estimate.as_dict() for estimate in found.estimates],
        "energy_drift": None if drift is None else drift.as_dict(),
        "distributions": [_peak_of(d) for d in (*found.rdfs, *found.adfs)],
        "spectra": [
            {
                "name": s.name,
                "unit": s.unit,
                "resolution_per_cm": s.resolution,
                "peak_per_cm": s.peak()[0],
                "segments": s.segments,
                "note": s.note,
            }
            for s in found.spectra
        ],
        "not_computed": [{"what": what, "why": why} for what, why in found.refused],
        "notes": found.notes,
    }


def _peak_of(d: Distribution) -> dict[str, Any]:
    x, value = d.peak()
    more = {"n": d.n, "blocks": d.blocks, "correlation_time": d.correlation_time}
    return {"name": d.name, "peak": x, "unit": d.x_unit, "height": value, **more}


def _series(found: Analysis, out: Path) -> list[tuple[str, str]]:
    data = found.data
    n, kelvin, kinetic = len(data.atomic_numbers), data.temperatures, data.kinetic
    rows: list[tuple[str, Array]] = []
    if data.energies is not None:
        rows.append(("U / meV/atom", 1000 * (data.energies - data.energies.mean()) / n))
    if kelvin is not None and kinetic is not None:
        rows.append(("T / K", kelvin))
    conserved = conserved_energy(data)
    if conserved is not None:
        rows.append(("conserved / meV/atom", 1000 * (conserved - conserved[0]) / n))
    if data.volumes is not None and np.ptp(data.volumes) > 0:
        rows.append(("V / Å³", data.volumes))
    if data.stress is not None and kinetic is not None and data.volumes is not None:
        rows.append(("P / GPa", pressures(data) / GPA))
    if not rows:
        return []
    return [
        (
            "Energies are less their mean, conserved energy less its first value.",
            panels(out / "series.png", "time / ps", data.times / 1000, rows),
        )
    ]


def _distributions(found: Analysis, out: Path, references: Reference) -> list[tuple[str, str]]:
    charts = []
    for g in found.rdfs:
        known = {f"{g.name}, reference": references[g.name]} if g.name in references else None
        picture = curves(
            out / f"rdf_{g.name}.png", "r / Å", f"g(r) {g.name}", {g.name: (g.x, g.values, g.error)}, reference=known, level=1.0
        )
        charts.append((_caption(f"g(r) {g.name}: first peak {g.peak()[1]:.3g} at {g.peak()[0]:.3g} Å", g), picture))
    for a in found.adfs:
        picture = curves(out / f"adf_{a.name}.png", "angle / degree", f"{a.name}, 1/degree", {a.name: (a.x, a.values, a.error)})
        charts.append((_caption(f"Angles {a.name}, maximum at {a.peak()[0]:.4g}°", a), picture))
    return charts


def _caption(text: str, d: Distribution) -> str:
    if d.error is None:
        return f"{text}; {d.n} frames, too few for an error."
    return f"{text}; {d.n} frames, band of two standard errors from {d.blocks} blocks."


def _motion(found: Analysis, out: Path, references: Reference) -> list[tuple[str, str]]:
    charts = []
    if found.msds:
        lines = {m.name: (m.lags / 1000, m.values, m.error) for m in found.msds}
        charts.append(("Mean square displacement.", curves(out / "msd.png", "lag / ps", "MSD / Å²", lines)))
    for s in found.spectra:
        lines = {s.name: (s.wavenumbers, s.values, s.error)}
        lines |= {name: (s.wavenumbers, part, None) for name, part in s.parts.items() if len(s.parts) > 1}
        known = {f"{s.name}, reference": references[s.name]} if s.name in references else None
        picture = curves(out / f"{s.file}.png", "wavenumber / cm⁻¹", f"{s.name} / {s.unit}", lines, reference=known)
        charts.append((f"{s.name}: resolution {s.resolution:.3g} cm⁻¹, {s.segments} segments. {s.note}", picture))
    return charts


def _tables(found: Analysis, out: Path) -> None:
    data = found.data
    columns: dict[str, Array | None] = {
        "time/fs": data.times, "temperature/K": data.temperatures, "potential/eV": data.energies, "kinetic/eV": data.kinetic,
        "conserved/eV": conserved_energy(data), "volume/A^3": data.volumes,
    }  # fmt: skip
    if data.stress is not None and data.kinetic is not None and data.volumes is not None:
        columns["pressure/GPa"] = pressures(data) / GPA
    _csv(out / "series.csv", columns)
    for kind, group in (("rdf", found.rdfs), ("adf", found.adfs)):
        for d in group:
            _csv(
                out / f"{kind}_{d.name}.csv",
                {f"x/{d.x_unit}": d.x, f"value/({d.unit})": d.values, "error": d.error, "coordination": d.coordination},
            )
    for m in found.msds:
        _csv(out / f"msd_{m.name.replace(' ', '_')}.csv", {"lag/fs": m.lags, "msd/A^2": m.values, "error/A^2": m.error})
    for s in found.spectra:
        _csv(out / f"{s.file}.csv", {"wavenumber/cm^-1": s.wavenumbers, f"value/({s.unit})": s.values, "error": s.error, **s.parts})


def _csv(path: Path, columns: Mapping[str, Array | None]) -> None:
    known = {name: values for name, values in columns.items() if values is not None}
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(known)
        writer.writerows(zip(*(values.tolist() for values in known.values()), strict=True))


def _page(found: Analysis, charts: Sequence[tuple[str, str]]) -> str:
    data = found.data
    about = (
        f"{len(data.atomic_numbers)} atoms ({' '.join(data.elements)}), {len(data)} frames every {data.interval:g} fs, "
        f"{(data.times[-1] - data.times[0]) / 1000:.4g} ps, ensemble {data.ensemble or 'not given'}, {data.degrees_of_freedom} degrees of freedom"
    )
    sections = [
        f"<h1>Analysis of {escape(data.source)}</h1><p>{escape(about)}</p>",
        paragraphs(found.notes, ""),
        section(
            "Numbers", _numbers(found), "Errors are standard errors from blocks of at least two correlation times; intervals are of 95 %."
        ),
        section("Curves", chart_grid((picture, text) for text, picture in charts)),
        section("Not computed", table((), [[escape(what), escape(why)] for what, why in found.refused], "words") if found.refused else ""),
    ]
    return document(f"Analysis of {data.source}", sections, light_figures=True)


def _numbers(found: Analysis) -> str:
    rows = []
    for e in found.estimates:
        time = "-" if e.correlation_time is None else f"{e.correlation_time:.3g} fs"
        rows.append([e.name, f"{e.value:.6g}", *_spread(e.error, e.ci95), e.unit, time, str(e.n), e.note])
    if found.energy_drift is not None:
        d = found.energy_drift
        rows.append([d.name, f"{d.value:.3g}", *_spread(None, d.ci95), d.unit, "-", str(len(found.data)), ""])
    head = ("quantity", "value", "error", "95 % interval", "unit", "correlation time", "n", "")
    return table(head, [list(map(escape, row)) for row in rows], "words")


def _spread(error: float | None, ci95: tuple[float, float] | None) -> tuple[str, str]:
    return "-" if error is None else f"{error:.2g}", "-" if ci95 is None else f"{ci95[0]:.5g} to {ci95[1]:.5g}"
