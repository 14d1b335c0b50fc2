"""The results of `3bpa` as figures of a result file and as a picture of learning curves."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

from bench import mace_torch
from bench.figures import Figure, figure
from bench.learning import CHANGED, NAMES, VALID, home

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
    """Draw learning curves as an SVG that stands alone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Picture

    picture, text = Picture(figsize=(7.5, 4), layout="constrained"), io.StringIO()
    axes = picture.subplots()
    for (name, result), colour in zip(results().items(), itertools.cycle(COLOURS), strict=False):
        style = "--" if name in CHANGED else ":" if name == mace_torch.NAME else "-"
        axes.loglog(
            [p["seconds"] / 60 for p in result["curve"]], [p["force MAE"] for p in result["curve"]], style, color=colour, label=name
        )
    axes.set(xlabel="CPU time of one thread, min", ylabel="force MAE, 50 held-out frames, meV/Å")
    axes.set_title("3BPA at 300 K: force error against training time")
    axes.grid(color="#dddddd")
    picture.legend(loc="outside right upper", frameon=False)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "3bpa"}):
        picture.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
