"""What each reader was tested on, as the tests write it into `evidence.json`: real files, or files that a library wrote in the published layout.

`python tests/test_catalogue_evidence.py` in this package writes the file anew; a test compares the two and looks for every test that is named.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

REAL, WRITTEN, ABSENT = "real file", "written", "absent"


@dataclass(frozen=True)
class Evidence:
    """One layout of one reader.

    Attributes:
        reader: its name, or `none`. layout: a published way of writing. status: `real file`, `written` (by a library, in the published layout) or
            `absent` (no reader takes it). on: the file and where it is from; the library and its version; or the set that has the layout.
        test: the test that reads it, None if absent.
    """

    reader: str
    layout: str
    status: str
    on: str
    test: str | None = None


def evidence() -> list[Evidence]:
    """Every layout of every reader, then the layouts of the catalogue that no reader takes."""
    text = resources.files(__package__ or "mlipfm_data.catalogue").joinpath("evidence.json").read_text("utf-8")
    return [*(Evidence(**claim) for claim in json.loads(text)), *_absent()]


def _absent() -> Iterator[Evidence]:
    from .catalogue import catalogue

    for entry in catalogue().values():
        for fact in entry.layouts:
            if fact.reader == "none" and entry.status == "released" and "not described" not in fact.value:
                yield Evidence("none", fact.value, ABSENT, entry.name)


def lines() -> Iterator[str]:
    """The evidence as text of at most 80 columns."""
    claims = evidence()
    yield f"{'reader':<18}{'layout':<19}tested on"
    for claim in claims:
        if claim.status != ABSENT:
            kind = "real" if claim.status == REAL else "written by"
            yield from textwrap.wrap(f"{claim.reader:<18}{claim.layout:<18} {kind}: {claim.on}".replace("by: ", "by "), 80,
                                     subsequent_indent=" " * 37, drop_whitespace=True, break_on_hyphens=False)  # fmt: skip
    yield "layout absent (no reader takes it):"
    for claim in claims:
        if claim.status == ABSENT:
            yield from textwrap.wrap(
                f"{claim.on}: {claim.layout}", 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    yield "`--json` names the test of each."
