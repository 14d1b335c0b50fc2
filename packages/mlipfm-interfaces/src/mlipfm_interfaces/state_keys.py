"""Total charge and spin multiplicity under the names that users write them by.

Codes disagree: `charge` and `spin` (where `spin` is the multiplicity 2S+1), `total_charge`, `spin_multiplicity`, `mult`, `multiplicity`. All are
read, in capitals too, one pair is kept, two names with different values are refused. What is not given stays None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import InvalidStructureError, MultiplicityError

CHARGE_KEYS = ("total_charge", "charge", "tot_charge", "net_charge", "formal_charge", "molecular_charge")
MULTIPLICITY_KEYS = ("spin_multiplicity", "multiplicity", "mult", "spin")


def charge_and_multiplicity(info: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(total charge in e, 2S+1) from a free-form mapping such as `atoms.info`; None where no key gives it.

    Raises:
        InvalidStructureError: two keys with different values, or a value that is no whole number.
        MultiplicityError: a multiplicity below 1 (0 is how some codes write "unpaired electrons" or "unknown").
    """
    charge = _one(info, CHARGE_KEYS, "total charge")
    multiplicity = _one(info, MULTIPLICITY_KEYS, "spin multiplicity")
    if multiplicity is not None and multiplicity < 1:
        raise MultiplicityError(f"spin multiplicity {multiplicity} is impossible", hint="give 2S+1 (1 for a singlet), or leave the key out")
    return charge, multiplicity


def _one(info: Mapping[str, Any], keys: tuple[str, ...], meaning: str) -> int | None:
    there = [key for key, value in info.items() if value is not None and isinstance(key, str) and key.lower() in keys]
    found = {key: _whole(info[key], key) for key in sorted(there, key=lambda key: keys.index(key.lower()))}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{key}={value}" for key, value in found.items())
        raise InvalidStructureError(f"the keys for {meaning} contradict each other: {said}", hint="keep one of them")
    return next(iter(found.values()), None)


def _whole(value: Any, key: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidStructureError(f"`{key}` must be a whole number, got {value!r}") from None
    if not math.isfinite(number) or number != round(number):
        raise InvalidStructureError(f"`{key}` must be a whole number, got {number:g}")
    return int(number)
