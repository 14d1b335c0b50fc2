"""The results of `front` as tables and as a picture of error against cost."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "front"
#: Set of the short trainings -> title.
SHORT = {"ethanol": "ethanol, CCSD(T)", "3bpa": "3BPA, ωB97X", "cu": "Cu, PBE", "water": "water, PBE0+TS"}
LONG = {"mlearn-cu": "Cu", "mlearn-si": "Si"}
Line = dict[str, Any]


def lines(name: str) -> list[Line]:
    """The committed lines of `name`; none if there is no such file."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def title(options: str) -> str:
    """Options as people write them: `16 channels, mixed 4`."""
    found = json.loads(options)
    words = [f"{found.pop('channels', 64)} channels"] + [f"{key} {value}" for key, value in found.items()]
    return ", ".join(words)


def costs() -> dict[tuple[str, str], float]:
    """Options and set -> µs for each atom."""
    return {(line["options"], line["set"]): line["us_per_atom"] for line in lines("costs")}


def grouped(cells: list[Line], name: str) -> dict[str, list[float]]:
    """Options -> force RMSE of every seed, on the set `name`."""
    found: dict[str, list[float]] = {}
    for line in cells:
        if line["set"] == name:
            found.setdefault(line["options"], []).append(line["force_rmse"])
    return found


def spread(values: list[float] | None) -> str:
    """Median, with the range where there are several seeds."""
    if not values:
        return ""
    one = f"{median(values):.0f}"
    return one if len(values) == 1 else f"{one} [{min(values):.0f}, {max(values):.0f}]"


def options_table() -> Iterator[str]:
    """Rows of Markdown: force RMSE of each variant on each set, its parameters and what it costs on Cu and water."""
    cells, cost = lines("cells"), costs()
    by_set = {name: grouped(cells, name) for name in SHORT}
    size = {line["options"]: line["parameters"] for line in cells}
    order = [options for options in size if any(options in found for found in by_set.values())]
    yield "| options | " + " | ".join(SHORT.values()) + " | parameters | µs/atom: ethanol, Cu, water |"
    yield "|---" * (len(SHORT) + 3) + "|"
    for options in sorted(order, key=lambda text: size[text]):
        errors = " | ".join(spread(by_set[name].get(options)) for name in SHORT)
        both = ", ".join(f"{cost[options, name]:.2f}" for name in ("ethanol", "cu", "water") if (options, name) in cost)
        yield f"| {title(options)} | {errors} | {size[options]:,} | {both} |"


def published_table() -> Iterator[str]:
    """Rows of Markdown: `density` beside potentials fitted to the same split, by set and force error."""
    yield "| | potential | force RMSE (MAE), meV/Å | energy RMSE (MAE), meV/atom | µs/atom | from |"
    yield "|---|---|---|---|---|---|"
    for name, symbol in LONG.items():
        for line in sorted(long_lines(name), key=lambda line: line["force_mae"]):
            force, energy = (_errors(line, key) for key in ("force", "energy"))
            cost = line.get("us_per_atom")
            yield f"| {symbol} | {line['name']} | {force} | {energy} | {'' if cost is None else f'{cost:.3g}'} | {line['source']} |"


def long_lines(name: str) -> list[Line]:
    """Potentials on the test structures of `mlearn`: ours, those that come with LAMMPS, and published errors."""
    cost = costs()
    ours = [line for line in lines("cells") if line["set"] == name and line["seed"] == 0]
    own = [
        line
        | {"name": f"**density**, {title(line['options'])}", "source": "this repository", "us_per_atom": cost.get((line["options"], name))}
        for line in ours
    ]
    return own + [line for kind in ("lammps", "published") for line in lines(kind) if line["set"] == name]


def _errors(line: Line, key: str) -> str:
    root, mean = line.get(f"{key}_rmse"), line[f"{key}_mae"]
    shown = f"({mean:.3g})" if root is None else f"{root:.3g} ({mean:.3g})"
    return shown if line.get("same_zero", True) else shown + ", zero fitted"


def drawn() -> str:
    """Draw error against cost on each set as an SVG that stands alone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Picture

    picture, text, cells, cost = Picture(figsize=(9, 6.5), layout="constrained"), io.StringIO(), lines("cells"), costs()
    for axes, (name, heading) in zip(picture.subplots(2, 2).flat, SHORT.items(), strict=True):
        found = grouped(cells, name)
        points = sorted((cost[o, name], median(found[o]), o) for o in found if (o, name) in cost)
        best = [point for k, point in enumerate(points) if all(point[1] < other[1] for other in points[:k])]
        axes.plot([p[0] for p in best], [p[1] for p in best], color="#0072b2", linewidth=1)
        axes.scatter([p[0] for p in points], [p[1] for p in points], s=18, color=["#0072b2" if p in best else "#7f7f7f" for p in points])
        for x, y, options in points:
            axes.annotate(title(options).replace(" channels", ""), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7)
        axes.set(xlabel="energy and forces, µs/atom, one core", ylabel="force RMSE, meV/Å", title=heading)
        axes.grid(color="#dddddd")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "front"}):
        picture.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
