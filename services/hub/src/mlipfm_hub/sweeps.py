"""Sweeps of `mlipfm scaling`: points and fitted laws, kept by name and number as `mlipfm scaling push` sends them, and never changed.

A sweep is what `points.jsonl` and `fit.json` of its folder hold. Pages show it; nothing is fitted here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from mlipfm_interfaces.asgi import absent
from mlipfm_interfaces.files import canonical_json
from pydantic import ConfigDict, Field

from .audit import log
from .blobs import Blobs, add_small, read_small
from .database import Database, rows, sweeps
from .json_fields import Strict
from .users import now

Row = dict[str, Any]
Axis = Literal["parameters", "atoms"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(ge=0, le=1e300, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
Interval = Annotated[list[Finite], Field(min_length=2, max_length=2)]


class Part(Strict):
    """Part of a document; entries that pages do not show are kept as they came."""

    model_config = ConfigDict(extra="allow", strict=True)


class Point(Part):
    """One run: `losses` by name with the unit; `digest` of its model; `failed` says why there are none."""

    run: Name
    group: Name
    parameters: Annotated[int, Field(ge=1, le=10**15)]
    atoms: Annotated[int, Field(ge=0, le=10**15)]
    flops: Positive = 0.0
    core_seconds: Positive = 0.0
    losses: dict[Name, Positive] = Field(default={}, max_length=50)
    digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    failed: Annotated[str, Field(max_length=2000)] = ""


class Value(Part):
    value: Finite
    ci95: Interval


class Law(Part):
    """L = floor + sum_k coefficients[k] x_k^-exponents[k]."""

    axes: Annotated[list[Axis], Field(min_length=1, max_length=2)]
    floor: Finite
    coefficients: Annotated[list[Finite], Field(min_length=1, max_length=2)]
    exponents: Annotated[list[Finite], Field(min_length=1, max_length=2)]


class Prediction(Part):
    """A run that was held out: what the law said of it before, and what it gave, if it was made."""

    run: Name
    parameters: Positive
    atoms: Positive
    flops: Positive = 0.0
    predicted: Finite
    ci95: Interval
    observed: Finite | None = None
    inside: bool | None = None


class GroupFit(Part):
    """The law of one group and loss, or the reason why there is none."""

    law: Law | None = None
    refused: Annotated[str, Field(max_length=2000)] = ""
    exponents: dict[Axis, Value] = Field(default_factory=dict)
    floor: Value | None = None
    predictions: list[Prediction] = Field(default_factory=list, max_length=100)


class Fit(Part):
    """`fit.json`; its formats differ in what pages do not show (`gamma_differences`)."""

    format: Literal[1, 2]
    groups: dict[Name, dict[Name, GroupFit]] = Field(max_length=100)


class Sweep(Part):
    """What is pushed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    points: Annotated[list[Point], Field(min_length=1, max_length=10_000)]
    fit: Fit


class Sweeps:
    """Operations on sweeps; `spool` is a folder for files in the making."""

    def __init__(self, database: Database, blobs: Blobs, spool: Path) -> None:
        self.database, self.blobs, self.spool = database, blobs, spool

    def push(self, name: str, sweep: Sweep, by: str) -> tuple[int, bool]:
        """Keep a sweep under a name; returns its number, and whether it is new: one content is one number."""
        data = canonical_json(sweep.model_dump(mode="json", exclude_unset=True))
        blob = add_small(self.blobs, data, self.spool)
        with self.database.writing() as connection:
            found = rows(connection, sa.select(sweeps).where(sweeps.c.name == name).order_by(sweeps.c.number))
            known = next((row["number"] for row in found if row["blob"] == blob), None)
            if known is not None:
                return int(known), False
            number = len(found) + 1
            row = {"name": name, "number": number, "blob": blob, "size": len(data), "created": now(), "by": by}
            connection.execute(sa.insert(sweeps).values(**row))
            log(connection, by, "push-sweep", f"{name}/{number} {blob}")
        return number, True

    def list(self) -> list[Row]:
        """The latest of every name: name, number, created, by."""
        with self.database.reading() as connection:
            found = rows(connection, sa.select(sweeps).order_by(sweeps.c.name, sweeps.c.number))
        return list({row["name"]: row for row in found}.values())

    def latest(self, name: str) -> tuple[Row, Sweep]:
        """Row and content of the latest sweep of a name; Refused (404) if there is none."""
        row = next((row for row in self.list() if row["name"] == name), None)
        if row is None:
            raise absent(f"there is no sweep {name[:100]}")
        return row, Sweep.model_validate(json.loads(read_small(self.blobs, row["blob"])))
