"""Licences that users give: SPDX expressions, which a registry checks at a promotion."""

from __future__ import annotations

import difflib
import re

from mlipfm_interfaces.errors import OptionError
from mlipfm_interfaces.licences import UNKNOWN, canonical, combined, parts_of

#: What data sets carry: offered for what is no identifier.
USUAL = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
    "CC-BY-SA-4.0", "CC0-1.0", "GPL-3.0-only", "ISC", "MIT", "ODbL-1.0",
)  # fmt: skip


def checked_licence(text: str) -> str:
    """Return the expression, with its identifiers as SPDX spells them.

    Raises:
        OptionError: it is no SPDX expression, or an identifier is not in SPDX's list; with the nearest that are.
    """
    found = canonical(text)
    if found is not None:
        return found
    near = [name for part in re.split(r"\s(?:AND|OR)\s", text) if canonical(part.strip(" ()")) is None for name in _near(part)]
    offer = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise OptionError(
        f"`licence` must be an SPDX expression, got {text!r}",
        hint=f"{offer or 'for instance CC-BY-4.0 or MIT; '}LicenseRef-NAME names one that SPDX does not list; leave it out if nobody has said it",
    )


def with_licence(stated: str | None, licence: str, replace_licence: str | None = None) -> str | None:
    """Return the licences of data that give `stated`, once `licence` is given to them; None if they keep theirs.

    It is given where nothing is given, also in a part of an expression (`NOASSERTION AND MIT`). What is given is only replaced if it is
    `replace_licence`, word for word.
    """
    if replace_licence is not None:
        return licence if stated == replace_licence else None
    parts = parts_of(stated)
    return combined(licence if part == UNKNOWN else part for part in parts) if UNKNOWN in parts else None


def _near(part: str) -> list[str]:
    """Identifiers that may be meant: other gaps, a version left out, or a letter or two."""
    word = re.sub(r"[\s_]+", "-", part.strip(" ()"))
    same = canonical(word)
    if same is not None:
        return [same]
    spelled = {name.lower(): name for name in USUAL}
    begun = [name for lower, name in spelled.items() if word and lower.startswith(f"{word.lower()}-")]
    return begun[:3] or [spelled[name] for name in difflib.get_close_matches(word.lower(), spelled, 2, 0.8)]
