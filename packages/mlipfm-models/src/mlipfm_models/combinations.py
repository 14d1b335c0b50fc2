"""What goes together: backbones and everything a model may have, each pair with the test that shows it or the reason why it is refused.

The reasons are those that building such a model gives; the tests are run by the CI, and one of them asserts that every test named here exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import RecipeError

from .backbones.backbone import Backbone
from .configuration import HEADS, NO_HEAD, check_heads, parse_assembly

__all__ = ["Cell", "Column", "columns", "matrix", "own_backbones", "refusal"]

#: File of the tests, from the root of the repository.
TESTS = "packages/mlipfm-models/tests/test_matrix.py"
PLAIN = {"elements": ["H", "C", "O"], "levels": ["gfn1-xtb", "gfn2-xtb"]}


@dataclass(frozen=True)
class Column:
    """One thing a model may have.

    Attributes:
        name: in the table. changes: of the configuration that asks for it. reason: why nothing has it, if nothing does.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Cell:
    """Either the id of a test, or why the pair is refused; a backbone of another package has neither where nothing refuses it."""

    test: str | None
    refused: str | None

    def as_dict(self) -> dict[str, str]:
        """Return `{"test": id}`, `{"refused": reason}`, or `{}` for what another package has to test."""
        return {name: value for name, value in (("test", self.test), ("refused", self.refused)) if value is not None}


def columns() -> list[Column]:
    """Return all columns, in order."""
    return [
        Column("conservative", {"forces": "conservative"}),
        Column("direct", {"forces": "direct"}),
        Column("stress", {"forces": "conservative"}),
        Column("direct stress", {"forces": "direct", "heads": {"stress": {}}}),
        Column("total charge", {"conditions": ["total_charge"]}),
        Column("spin multiplicity", {"conditions": ["spin_multiplicity"]}),
        Column("level embedding", {}),
        Column("level heads", {"level_readout": "stacked"}),
        Column("external field", {"conditions": ["total_charge", "external_field"], "heads": {"dipole": {}, "polarizability": {}}}),
        Column("short-range repulsion", {"short_range": "zbl"}),
        *(_head(key) for key in HEADS if key != "stress"),
        Column("head born_charges", {"conditions": ["total_charge"], "heads": {"dipole": {}}}),
        Column("head bond_orders", reason=NO_HEAD["bond_orders"]),
        *(Column(f"uncertainty {name}", {"forces": "conservative"}) for name in ("LLPR", "shallow ensemble", "conformal")),
    ]


def _head(key: str) -> Column:
    conditions = [HEADS[key].condition] if HEADS[key].condition else []
    return Column(f"head {key}", {"conditions": conditions, "heads": {key: {}}})


def refusal(backbone: str, column: Column) -> str | None:
    """Say why a model of this backbone cannot have it; None if it can. Nothing is built."""
    if column.reason is not None:
        return column.reason
    made = _loaded(backbone)
    try:
        config = parse_assembly({**PLAIN, **column.changes}, backbone)
        check_heads(config.heads, config.conditions, config.forces, made.provides, config.atomic_numbers, backbone)
    except RecipeError as error:
        return f"{error.what}; {error.hint}" if error.hint else error.what
    return None


@lru_cache(maxsize=64)  # a look at all installed packages takes 15 ms
def _loaded(backbone: str) -> type[Backbone]:
    made: type[Backbone] = plugins.load("backbones", backbone)
    return made


def own_backbones() -> list[str]:
    """Return the names of the backbones of this package: the CI tests them."""
    return [name for name in plugins.names("backbones") if plugins.owner("backbones", name) == "mlipfm-models"]


def matrix() -> dict[str, dict[str, Cell]]:
    """Return backbone -> column -> cell, for every installed backbone."""
    ours = own_backbones()
    return {
        backbone: {column.name: _cell(backbone, column, tested=backbone in ours) for column in columns()}
        for backbone in plugins.names("backbones")
    }


def _cell(backbone: str, column: Column, tested: bool) -> Cell:
    reason = refusal(backbone, column)
    return Cell(f"{TESTS}::test_combination[{cell_id(backbone, column)}]" if tested and reason is None else None, reason)


def cell_id(backbone: str, column: Column) -> str:
    """`painn-external-field`."""
    return f"{backbone}-{column.name.replace(' ', '-')}"


def lines(table: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """Return the table in Markdown, one row for each column of the matrix, and the reasons below: `yes` is a test that passes, a letter a reason.

    `fits` is said of a backbone of another package: nothing refuses it, and that package has to test it.
    """
    reasons: dict[str, str] = {}
    names = list(table)
    rows = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for column in next(iter(table.values())):
        words = []
        for backbone in names:
            test, reason = table[backbone][column].test, table[backbone][column].refused
            fits = "yes" if test is not None else "fits"
            words.append(fits if reason is None else reasons.setdefault(reason, chr(ord("a") + len(reasons))))
        rows.append(f"| {column} | " + " | ".join(words) + " |")
    return [*rows, "", *(f"{letter}: {reason}" for reason, letter in reasons.items())]
