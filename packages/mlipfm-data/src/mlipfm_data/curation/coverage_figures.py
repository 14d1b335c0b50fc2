"""The coverage report as figures and as one HTML page without scripts or outside files. The only module of this package that imports matplotlib."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import PluginError
from mlipfm_interfaces.html_page import chart_grid, document, paragraphs, section, table

from .coverage import CONTACT_EDGES, FORCE_EDGES, Coverage, gaps

# Pictures of the coverage report.

#: Inches; dots per inch. Panels are drawn at the width of a telephone, so that their text is readable there.
WIDTH, DPI = 4.3, 220
BLUE, ORANGE, GREY, INK = "#2b6cb0", "#c05621", "#e2e8f0", "#1a202c"

Panel = Callable[[Any, Coverage], None]


def _panel(found: Coverage, name: str) -> bytes:
    """Return one panel, by its name in `PANELS`, as PNG."""
    draw, height = PANELS[name]
    figure = _figure(WIDTH, height)
    draw(figure.add_subplot(), found)
    return _png(figure)


def overview(found: Coverage, title: str) -> bytes:
    """Return all panels in one PNG."""
    figure = _figure(2 * WIDTH, 8.6)
    figure.suptitle(f"{title}: {found.structures:,} structures, {found.atoms:,} atoms", fontsize=12, color=INK)
    grid = figure.add_gridspec(3, 2, height_ratios=(1.15, 1, 1))
    PANELS["elements"][0](figure.add_subplot(grid[0, :]), found)
    for place, name in zip((grid[1, 0], grid[1, 1], grid[2, 0], grid[2, 1]), ("forces", "equilibrium", "states", "contacts"), strict=True):
        PANELS[name][0](figure.add_subplot(place), found)
    return _png(figure)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PluginError("pictures need matplotlib", hint="pip install 'mlipfm-data[plots]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def place(z: int) -> tuple[int, int]:
    """(row, column) of an element in the periodic table of 18 columns; lanthanides and actinides in rows 8 and 9."""
    if 57 <= z <= 71:
        return 8, z - 57 + 2
    if 89 <= z <= 103:
        return 9, z - 89 + 2
    noble = (0, 2, 10, 18, 36, 54, 86, 118)
    row = next(k for k, end in enumerate(noble) if z <= end)
    column, left = z - noble[row - 1] - 1, noble[row] - z
    if row == 1:
        return 0, 0 if z == 1 else 17
    blocks = {2: 2, 3: 2}.get(row, 3)
    return row - 1, column if column < blocks and z <= noble[row - 1] + blocks else 17 - left


def _elements(axes: Any, found: Coverage) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    most = max(found.elements.values())
    norm, colors = LogNorm(1, max(10, most)), _colormap()
    for z in range(1, 119):
        row, column = place(z)
        count = found.elements[z]
        shade = colors(norm(count)) if count else "#f7fafc"
        axes.add_patch(Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, facecolor=shade, edgecolor=GREY, linewidth=0.4))
        dark = count and norm(count) > 0.55
        axes.text(
            column + 0.5,
            row + 0.52,
            symbol(z),
            ha="center",
            va="center",
            fontsize=6.2,
            color="white" if dark else INK if count else "#a0aec0",
        )
    axes.set(xlim=(0, 18), ylim=(10, 0), aspect="equal")
    axes.axis("off")
    axes.set_title(f"Elements: {len(found.elements)} of 118, by structures", fontsize=9.5, color=INK, loc="left")
    from matplotlib.cm import ScalarMappable

    bar = axes.figure.colorbar(ScalarMappable(norm, colors), ax=axes, orientation="horizontal", fraction=0.045, pad=0.02, aspect=40)
    bar.ax.tick_params(labelsize=7)


def _colormap() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue", ["#dbeafe", "#60a5fa", "#1e40af", "#172554"])


def _forces(axes: Any, found: Coverage) -> None:
    if not found.forces.sum():
        _nothing(axes, "Forces", "no forces")
        return
    colors = [BLUE if high <= 10 else "#a0aec0" if high <= 50 else ORANGE for high in FORCE_EDGES[1:]]
    axes.bar(range(len(found.forces)), np.maximum(found.forces, 0.5), color=colors, width=0.9, bottom=0)
    axes.set_yscale("log")
    axes.set_ylim(0.5, None)
    axes.set_xticks(np.arange(len(FORCE_EDGES)) - 0.5, [f"{edge:g}" if np.isfinite(edge) else "" for edge in FORCE_EDGES], rotation=60)
    axes.set_xlabel("|F| of an atom, eV/Å", fontsize=8)
    axes.set_ylabel("atoms", fontsize=8)
    shares = [found.force_share(0, 10), found.force_share(10, 50), found.force_share(50, np.inf)]
    _titled(
        axes, "Forces: " + ", ".join(f"{name} {_percent(share)}" for name, share in zip(("to 10", "10-50", "over 50"), shares, strict=True))
    )


def _equilibrium(axes: Any, found: Coverage) -> None:
    names = ["at equilibrium", "near", "far", "no forces"]
    words = ["at equilibrium\n(below 0.05)", "near\n(0.05 to 1)", "far\n(over 1)", "no forces"]
    values = [found.largest[name] for name in names]
    _bars(axes, words, values, [BLUE, "#4299e1", ORANGE, "#a0aec0"])
    axes.set_xlabel("structures", fontsize=8)
    _titled(axes, "Largest force of a structure, eV/Å")


def _states(axes: Any, found: Coverage) -> None:
    common = found.states.most_common(8)
    _bars(
        axes,
        [_state(*state) for state, _ in common],
        [count for _, count in common],
        [BLUE if q is not None else "#a0aec0" for (q, _), _ in common],
    )
    axes.set_xlabel("structures", fontsize=8)
    more = len(found.states) - len(common)
    _titled(axes, "Charge and multiplicity 2S+1" + (f" ({more} more)" if more > 0 else ""))


def _state(charge: int | None, multiplicity: int | None) -> str:
    if charge is None and multiplicity is None:
        return "not given"
    return f"{'?' if charge is None else f'{charge:+d}' if charge else '0'}, {'2S+1 = ?' if multiplicity is None else f'2S+1 = {multiplicity}'}"


def _contacts(axes: Any, found: Coverage) -> None:
    if not found.several:
        _nothing(axes, "Contacts between molecules", f"none in {found.sampled:,} structures looked at")
        return
    axes.bar(CONTACT_EDGES + 0.125, found.contacts, width=0.23, color=BLUE)
    axes.set_xlabel("nearest contact of two molecules, Å (last: 6 and more)", fontsize=8)
    axes.set_ylabel("structures", fontsize=8)
    _titled(axes, f"Several molecules: {found.several:,} of {found.sampled:,} looked at")


def _bars(axes: Any, names: list[str], values: list[int], colors: list[str]) -> None:
    axes.barh(range(len(names)), values, color=colors, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * max([1, *values]))
    for k, value in enumerate(values):
        axes.text(value + 0.02 * max([1, *values]), k, f"{value:,}", va="center", fontsize=7.5, color=INK)
    axes.xaxis.set_major_locator(_few_ticks())


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, integer=True)


def _titled(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=9, color=INK, loc="left")
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)


def _nothing(axes: Any, title: str, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color="#718096", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    _titled(axes, title)
    axes.spines[:].set_visible(False)


def _percent(share: float) -> str:
    return "0 %" if share == 0 else f"{100 * share:.3g} %"


PANELS: dict[str, tuple[Panel, float]] = {
    "elements": (_elements, 2.9),
    "forces": (_forces, 3.0),
    "equilibrium": (_equilibrium, 2.2),
    "states": (_states, 2.7),
    "contacts": (_contacts, 2.7),
}


_ALT = {
    "elements": "periodic table shaded by the number of structures",
    "forces": "histogram of forces",
    "equilibrium": "structures at, near and far from equilibrium",
    "states": "structures by charge and multiplicity",
    "contacts": "histogram of contacts between molecules",
}


def page(found: Coverage, name: str) -> str:
    """Return the whole page; every number in it is also in `found`."""
    sections = [
        f"<h1>Coverage of {escape(name)}</h1>{table((), _facts(found), 'words')}",
        section("Pictures", chart_grid((_image(found, key), "") for key in PANELS)),
        section("Gaps of the field (figure 2 of the perspective)", _gaps(found)),
        section("Levels of theory", _counts(found.levels.most_common(), "level", found.structures)),
        section("Labels", _counts(found.labels.most_common(), "label", found.structures)),
        section("Elements", paragraphs([", ".join(f"{symbol(z)} {n:,}" for z, n in sorted(found.elements.items()))], "")),
    ]
    return document(f"Coverage of {name}", sections, light_figures=True)


def _facts(found: Coverage) -> list[tuple[str, str]]:
    sizes = sorted(found.sizes)
    return [
        ("structures", f"{found.structures:,}, {found.structures - found.periodic[0]:,} of them periodic"),
        ("atoms", f"{found.atoms:,}, {sizes[0]} to {sizes[-1]} a structure"),
        ("elements", str(len(found.elements))),
        ("forces up to 10 eV/Å", _share(found.force_share(0, 10))),
        ("forces over 50 eV/Å", _share(found.force_share(50, float("inf")))),
    ]


def _share(value: float) -> str:
    return "no forces" if value != value else _percent(value)


def _image(found: Coverage, key: str) -> str:
    data = base64.b64encode(_panel(found, key)).decode()
    return f'<img alt="{_ALT[key]}" src="data:image/png;base64,{data}">'


def _gaps(found: Coverage) -> str:
    rows = []
    for gap in gaps(found):
        style = "soft" if not gap.told else "bad" if not gap.count else ""
        rows.append([f'<span class="{style}">{escape(cell)}</span>' for cell in (gap.letter, gap.name, gap.seen, f"{gap.count:,}")])
    note = paragraphs([f"Bonds and contacts: of {found.sampled:,} structures spread over the set."])
    return table(("", "area", "found here", "count"), rows, "words") + note


def _counts(counts: Iterable[tuple[str, int]], what: str, total: int) -> str:
    rows = [(escape(name), f"{n:,}", f"{100 * n / total:.3g} %") for name, n in counts]
    return table((what, "structures", "share"), rows) if rows else "<p>none</p>"
