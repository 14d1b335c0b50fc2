"""Licences of data, and of what is made from them: SPDX expressions that are joined and never dropped.

What is made from two sources is under the licences of both, `CC-BY-4.0 AND MIT`. A source that states none adds `NOASSERTION`, SPDX's word for what
nobody has said; no registry promotes a model that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Of what states no licence, inside an expression. Alone it is written as "" or None.
UNKNOWN = "NOASSERTION"

#: SPDX identifiers of licences that data sets and software carry. `LicenseRef-...` says that a licence of its own is known.
LICENCES = frozenset((
    "0BSD", "AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0", "EUPL-1.2", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only",
    "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "ODbL-1.0", "ODC-By-1.0", "PDDL-1.0", "Unlicense", "Zlib",
))  # fmt: skip


def is_known(licence: Any) -> bool:
    """Whether every identifier of the SPDX expression is known."""
    if not isinstance(licence, str):
        return False
    names = [word for word in re.split(r"[\s()]+", licence) if word and word not in ("AND", "OR")]
    return bool(names) and all(name in LICENCES or re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", name) for name in names)


def combined(licences: Iterable[str | None]) -> str:
    """One expression for what is made from sources of these licences: every part once, in order, joined by AND; `NOASSERTION` for None and ""."""
    return " AND ".join(dict.fromkeys(part for licence in licences for part in _parts(licence))) or UNKNOWN


def stated_licences(entry: Mapping[str, Any]) -> list[str]:
    """`licences` of the `extra` of a manifest or of an ancestor: a list, or a mapping from data set to licence; empty if it states none.

    Entries that are no text become "", the unknown licence.
    """
    stated = entry.get("licences")
    listed = list(stated.values()) if isinstance(stated, Mapping) else stated
    return [licence if isinstance(licence, str) else "" for licence in listed] if isinstance(listed, list) else []


def ancestors_of(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models that a model starts from, nearest first, from the `extra` of its manifest.

    Returns:
        Of each its `digest` ("" if it was no checkpoint), the `licences` that it states ([""] if none), and the `data` it was trained on itself.
    """
    found = extra.get("ancestors")
    entries = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
    return [{"digest": str(e.get("digest") or ""), "licences": stated_licences(e) or [""], "data": e.get("data", [])} for e in entries]


def _parts(licence: str | None) -> list[str]:
    """What AND joins outside of parentheses; one part in parentheses if there is an OR outside of them."""
    parts, depth, either = [""], 0, False
    for word in (licence or UNKNOWN).replace("(", " ( ").replace(")", " ) ").split():
        depth += (word == "(") - (word == ")")
        either = either or (word == "OR" and depth == 0)
        if word == "AND" and depth == 0:
            parts.append("")
        else:
            parts[-1] += f" {word}"
    tidy = [part.strip().replace("( ", "(").replace(" )", ")") for part in parts]
    return [f"({' AND '.join(tidy)})"] if either else [part for part in tidy if part] or [UNKNOWN]
