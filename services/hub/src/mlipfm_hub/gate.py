"""The gate of promotion: an evaluation on data that the model does not know, a check that passed, known licences, and data named by hashes.

The rules are those of `mlipfm_interfaces.promotion_records` and `registry_promote`; here the hub applies them itself, whatever a client says.
"""

from __future__ import annotations

from typing import Any

from mlipfm_interfaces.asgi import Refused
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.promotion_records import require_no_worse, require_test_set
from mlipfm_interfaces.registry_promote import licence_faults
from mlipfm_interfaces.result_records import Record

VersionRecords = tuple[str, list[Record], dict[str, Any]]


def check_gate(new: VersionRecords, old: VersionRecords | None) -> dict[str, str]:
    """Hashes of the evaluation and the check that count, by kind: the latest of each.

    Args:
        new, old: name, records (oldest first) and manifest of the version that is promoted and of the one that has the alias.

    Raises:
        Refused: with the rule and what to do.
    """
    where, found, manifest = new
    latest = {record["kind"]: record for record in found}
    for kind, command in (("evaluation", "mlipfm evaluate"), ("check", "mlipfm check")):
        if kind not in latest:
            raise _refused(f"{where} has no record of kind {kind}; run `{command}` and push the model again with --record FILE")
    if not any(metric["value"] is not None for metric in latest["evaluation"]["metrics"]):
        raise _refused(f"the evaluation of {where} measured nothing; evaluate it on data that it can compute")
    if not latest["evaluation"]["data"]:
        raise _refused(f"the evaluation of {where} does not name its data by their hashes")
    if not latest["check"]["passed"]:
        raise _refused(f"the last check of {where} failed; a model that breaks a rule is not promoted")
    faults = licence_faults(manifest)
    if faults:
        raise _refused(f"data of unknown licence: {'; '.join(faults)}; state the licences when the data are imported, and train again")
    try:
        clean = require_test_set(latest["evaluation"], manifest, where)
        if old is not None and old[0] != where:
            require_no_worse(latest["evaluation"], clean, old[1], old[2], where, old[0])
    except MlipfmError as error:
        raise _refused(str(error)) from None
    return {kind: str(latest[kind]["sha256"]) for kind in ("evaluation", "check")}


def _refused(message: str) -> Refused:
    return Refused(422, "GATE", message)
