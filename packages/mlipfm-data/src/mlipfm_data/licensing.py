"""Licences that users state: SPDX expressions whose identifiers a registry will know when it is asked for a promotion."""

from __future__ import annotations

import difflib
import re

from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.licences import LICENCES, combined, is_known


def checked_licence(text: str) -> str:
    """The expression itself.

    Raises:
        MlipfmError: an identifier is not known, with the nearest that are.
    """
    if is_known(text):
        return text
    unknown = [part for part in _identifiers(text) if not is_known(part)]
    near = [name for part in unknown for name in _near(part)]
    offer = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise MlipfmError(
        f"`licence` must be an SPDX identifier that is known here, got {text!r}",
        mend=f"{offer or 'for instance CC-BY-4.0 or MIT; '}LicenseRef-NAME names a licence that SPDX does not; leave it out if nobody has said it",
    )


def with_licence(stated: str | None, licence: str) -> str | None:
    """The licences of what states `stated` once those of it that are not known are `licence`; None if all are known, which are never replaced.

    A licence in words is replaced as a whole, `NOASSERTION AND MIT` in its first part.
    """
    if is_known(stated):
        return None
    whole = combined([stated])
    parts = [whole] if "(" in whole else whole.split(" AND ")
    return combined(part if is_known(part) else licence for part in parts)


def _identifiers(text: str) -> list[str]:
    return [part.strip(" ()") for part in re.split(r"\s(?:AND|OR)\s", text)]


def _near(part: str) -> list[str]:
    """Known identifiers that may be meant, in any case and spelling of the gaps."""
    spelled = {name.lower(): name for name in sorted(LICENCES)}
    word = re.sub(r"[\s_]+", "-", part.strip().lower())
    if word in spelled:
        return [spelled[word]]
    begun = [name for lower, name in spelled.items() if word and lower.startswith(f"{word}-")]
    return begun[:3] or [spelled[lower] for lower in difflib.get_close_matches(word, spelled, 3, 0.7)]
