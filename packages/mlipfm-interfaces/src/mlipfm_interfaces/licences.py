"""Licences of data, and of what is made from them: SPDX expressions that are joined and never dropped.

What is made from two sources is under the licences of both, `CC-BY-4.0 AND MIT`. A source that gives none adds `NOASSERTION`, SPDX's word for what
nobody has said; no registry promotes a model that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

#: Of what gives no licence, inside an expression. Alone it is written as "" or None.
UNKNOWN = "NOASSERTION"


def canonical(licence: str) -> str | None:
    """An SPDX expression with its identifiers as SPDX spells them (case does not matter there); None if it is none, or one is not in SPDX's list.

    `LicenseRef-NAME` names a licence that the list does not have.
    """
    try:
        return str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression:
        return None


def is_known(licence: Any) -> bool:
    """Return whether it is an SPDX expression of identifiers that SPDX lists, or of `LicenseRef-...`."""
    return isinstance(licence, str) and canonical(licence) is not None


def combined(licences: Iterable[str | None]) -> str:
    """One expression for what is made from sources of these licences: every part once, in order, joined by AND; `NOASSERTION` for None and ""."""
    return " AND ".join(dict.fromkeys(part for licence in licences for part in parts_of(licence))) or UNKNOWN


def stated_licences(entry: Mapping[str, Any]) -> list[str]:
    """`licences` of the `extra` of a manifest or of an ancestor: a list, or a mapping from data set to licence; empty if it gives none.

    Entries that are no text become "", the unknown licence.
    """
    stated = entry.get("licences")
    listed = list(stated.values()) if isinstance(stated, Mapping) else stated
    return [licence if isinstance(licence, str) else "" for licence in listed] if isinstance(listed, list) else []


def ancestors_of(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the models that a model starts from, nearest first, from the `extra` of its manifest.

    Returns:
        Of each its `digest` ("" if it was no checkpoint), its `licences` ([""] if none), and the `data` it was trained on itself.
    """
    found = extra.get("ancestors")
    entries = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
    return [{"digest": str(e.get("digest") or ""), "licences": stated_licences(e) or [""], "data": e.get("data", [])} for e in entries]


def parts_of(licence: str | None) -> list[str]:
    """Return what AND joins outside of parentheses; one part in parentheses if there is an OR outside of them."""
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
