"""The results of `3bpa` as figures of a result file and as a picture of learning curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bench import mace_torch
from bench.figures import Figure, figure
from bench.learning import NAMES, VALID, home

ERRORS = ("force_rmse", "force_mae", "energy_rmse", "energy_mae")
#: Okabe and Ito's, which the colour-blind tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#000000")


def results() -> dict[str, dict[str, Any]]:
    """By name, of all runs that are complete."""
    paths = {name: home() / name / "result.json" for name in NAMES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def figures() -> Iterator[Figure]:
    """Errors on the test frames and CPU time of each, beside those of mace-torch if it has run; then its learning curve."""
    found = results()
    peer = found.get(mace_torch.NAME)
    for name, result in found.items():
        beside = None if peer is None or name == mace_torch.NAME else peer
        other = None if beside is None else mace_torch.NAME
        for key in ERRORS:
            metric = result["errors"][key]
            theirs = [] if beside is None else [beside["errors"][key]["value"]]
            yield figure(
                "3bpa", f"{name}, 1,669 test frames at 300 K, {metric['name']}", metric["unit"], [metric["value"]], 1, other, theirs
            )
        minutes = [] if beside is None else [beside["seconds"] / 60]
        steps = f"{name}, CPU time of {result['steps']:,} training steps"
        yield figure("3bpa", steps, "min", [result["seconds"] / 60], 1, other, minutes)
        for point in result["curve"]:
            label = f"{name}, {VALID} validation frames, force MAE at step {point['step']:,}, {point['seconds'] / 60:.1f} min"
            yield figure("3bpa", label, "meV/Å", [point["force MAE"]], 1)


def drawn() -> str:
    """Learning curves as an SVG that stands alone."""
    from mlipfm_eval.svg import HEIGHT, WIDTH, Axis, Series, chart

    found = results()
    lines = [
        Series(name, [p["seconds"] / 60 for p in result["curve"]], [p["force MAE"] for p in result["curve"]], colour=k)
        for k, (name, result) in enumerate(found.items())
    ]
    x, y = Axis("CPU time of one thread, min", log=True), Axis("force MAE, 50 held-out frames, meV/Å", log=True)
    svg = chart(lines, x, y, kind="line", title="3BPA at 300 K: force error against training time")
    names = "".join(f'<text x="{WIDTH + 8}" y="{24 + 17 * k}" fill="{COLOURS[k]}">{name}</text>' for k, name in enumerate(found))
    variables = "".join(f"--c{k}:{colour};" for k, colour in enumerate(COLOURS))
    lines_of_axes = "path.grid{stroke:#ddd}path.axis{stroke:#888}"
    style = f"<style>svg{{{variables}font:12px sans-serif;background:#fff}}{lines_of_axes}</style>"
    inside = svg.partition(">")[2].removesuffix("</svg>")
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 140} {HEIGHT}">{style}{inside}{names}</svg>\n'
