"""What the page of a sweep shows: the picture that was chosen, laws, held-out runs, and which runs are models of this hub."""

from __future__ import annotations

from typing import Any

from mlipfm_interfaces.asgi import bad

from .registry import Registry
from .scaling_chart import AXES, draw
from .summaries import figure, interval
from .sweeps import GroupFit, Sweep

_QUANTITIES = {"parameters": "exponent of parameters", "atoms": "exponent of atoms"}


def view(registry: Registry, sweep: Sweep, loss: str, axis: str, group: str) -> dict[str, Any]:
    """Return what the template needs for one loss, axis and model (empty: the first, `parameters`, all).

    Refused: a loss, axis or model that the sweep does not have.
    """
    losses = list(dict.fromkeys(name for point in sweep.points for name in point.losses))
    groups = list(dict.fromkeys(point.group for point in sweep.points))
    loss, axis = loss or next((name for name in losses if "force" in name.lower()), losses[0] if losses else ""), axis or "parameters"
    if (losses and loss not in losses) or axis not in AXES or (group and group not in groups):
        raise bad("the sweep has no such error, axis or model")
    known = {row["digest"]: f"/models/{row['name']}/{row['number']}" for name in registry.names() for row in registry.versions(name)}
    addresses = {point.digest: known[point.digest] for point in sweep.points if point.digest in known}
    shown = [group] if group else groups
    points = [point for point in sweep.points if loss in point.losses and point.group in shown]
    fits = {name: found[loss] for name, found in sweep.fit.groups.items() if name in shown and loss in found}
    return {
        "losses": losses, "loss": loss, "axes": AXES, "axis": axis, "groups": groups, "group": group, "count": len(points),
        "chart": draw(sweep, loss, axis, shown, addresses), "linked": bool(addresses), "addresses": addresses,
        "laws": [row for name, fit in fits.items() for row in _laws(name, fit)], "points": points,
        "held_out": [p for fit in fits.values() for p in fit.predictions], "failed": [p for p in sweep.points if p.failed],
    }  # fmt: skip


def _laws(group: str, fit: GroupFit) -> list[dict[str, str]]:
    """Return lines of the table of laws: exponents, floor, or the reason why there is none."""
    if fit.law is None:
        return [{"group": group, "what": "no law", "value": fit.refused, "interval": ""}]
    values = {_QUANTITIES[axis]: value for axis, value in fit.exponents.items()} | ({"floor": fit.floor} if fit.floor else {})
    return [
        {"group": group, "what": what, "value": figure(value.value), "interval": interval(list(value.ci95))}
        for what, value in values.items()
    ]
