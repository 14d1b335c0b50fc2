"""Plots of the commands on one structure. Each function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .crystal_elasticity import Elasticity, StateEquation
from .crystal_phonons import Phonons
from .harmonic_vibrations import Vibrations
from .reaction_paths import Path as EnergyPath
from .relaxation import Relaxation


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def relaxation(found: Relaxation) -> Figure:
    """Energy and largest force of each step."""
    figure, (left, right) = _figure(1, 2)
    left.plot(np.array(found.energies) - found.energies[-1], "o-", ms=3)
    left.set(xlabel="step", ylabel="energy above the end / eV")
    right.semilogy(found.largest_forces, "o-", ms=3)
    right.set(xlabel="step", ylabel="largest force / eV/Å")
    return figure


def phonon_bands(found: Phonons) -> Figure:
    """Band structure beside the density of states."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    bands, density = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for distances, frequencies in found.paths:
        bands.plot(distances, frequencies, color="C0", lw=1)
    ends = [found.paths[0][0][0], *(distances[-1] for distances, _ in found.paths)]
    names = [found.labels[0][0]]
    for (_, end), following in zip(found.labels, [*found.labels[1:], None], strict=True):
        jump = following is not None and following[0] != end
        names.append(f"{end}|{following[0]}" if jump and following is not None else end)
    bands.set_xticks(ends, [name.replace("G", "Γ") for name in names])
    for place in ends:
        bands.axvline(place, color="0.8", lw=0.5, zorder=0)
    bands.axhline(0, color="0.5", lw=0.5)
    bands.set(xlim=(ends[0], ends[-1]), ylabel="frequency / THz (imaginary: negative)")
    density.plot(found.dos[1], found.dos[0], color="C0", lw=1)
    density.set(xlabel="density of states")
    return figure


def spectrum(found: Vibrations) -> Figure:
    """Lines at the wavenumbers."""
    figure, axes = _figure(1, 1)
    colors = ["C3" if f < 0 else "C0" for f in found.frequencies]
    axes.vlines(found.frequencies, 0, 1, colors=colors)
    axes.set(xlabel="wavenumber / cm⁻¹ (imaginary: negative, red)", yticks=[], ylim=(0, 1.1))
    return figure


def equation_of_state(found: StateEquation, atoms: int) -> Figure:
    """Energies and the fitted curve."""
    figure, axes = _figure(1, 1)
    curve = found.fit.getplotdata()
    axes.plot(np.array(curve[4]) / atoms, np.array(curve[5]) / atoms, label=found.form)
    axes.plot(found.volumes / atoms, found.energies / atoms, "o", ms=4, label="computed")
    axes.axvline(found.volume / atoms, color="0.7", lw=0.8)
    axes.set(xlabel="volume / Å³ per atom", ylabel="energy / eV per atom", title=f"B = {found.bulk_modulus:.1f} GPa")
    axes.legend()
    return figure


def elastic(found: Elasticity) -> Figure:
    """Return the tensor as a table of colours with its numbers."""
    figure, axes = _figure(1, 1)
    largest = float(np.abs(found.tensor).max())
    axes.imshow(found.tensor, cmap="RdBu_r", vmin=-largest, vmax=largest)
    for (i, j), value in np.ndenumerate(found.tensor):
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8)
    names = ("xx", "yy", "zz", "yz", "xz", "xy")
    axes.set_xticks(range(6), names)
    axes.set_yticks(range(6), names)
    axes.set(title=f"elastic tensor / GPa, {found.space_group}")
    return figure


def energy_profile(found: EnergyPath) -> Figure:
    """Energies along the path and ASE's interpolation."""
    figure, axes = _figure(1, 1)
    axes.plot(found.fit[0], found.fit[1] - found.energies[0], lw=1)
    axes.plot(found.distances, found.energies - found.energies[0], "o", ms=4, color="C0")
    barrier = "no saddle" if found.saddle is None else f"barrier {found.barrier:.3f} eV"
    axes.set(xlabel="path / Å", ylabel="energy / eV", title=f"{barrier}, reaction {found.reaction_energy:+.3f} eV")
    return figure


def energies(values: Sequence[float]) -> Figure:
    """Energy of each step."""
    figure, axes = _figure(1, 1)
    axes.plot(values, "o-", ms=3)
    axes.set(xlabel="step", ylabel="energy / eV")
    return figure


def _figure(rows: int, columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.0 * columns + 1, 3.5 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns)
