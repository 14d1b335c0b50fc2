"""Result records: the hash in a record is of all its content, and nothing else is read as one."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlipfm_interfaces.errors import ContractError, DamagedFileError, FormatVersionError, RefusedFileError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record, parse_record, read_record, record_bytes, write_record

DIGEST, DATA = "ab" * 32, {"water.xyz": "cd" * 32}
FORCES = Metric("force MAE", "eV/Å", 0.021, (0.018, 0.025), 99, 100)
WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def record(**changes):
    arguments = {"passed": True, "metrics": [FORCES], "data": DATA, "details": {"rules": ("a", "b")}, "created": WHEN} | changes
    return make_record(arguments.pop("kind", "check"), arguments.pop("model", DIGEST), **arguments)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path):
    written = record()
    write_record(tmp_path / "a.json", written)
    assert read_record(tmp_path / "a.json") == written
    assert written["metrics"] == [FORCES.as_dict()]
    assert written["details"] == {"rules": ["a", "b"]}
    assert written["created"] == "2026-01-31T12:00:00+00:00"


def test_the_same_measurement_is_the_same_bytes():
    assert record_bytes(record()) == record_bytes(record())
    assert record()["sha256"] != record(passed=False)["sha256"]


def test_a_metric_without_a_finite_value_is_null_and_stays_counted():
    failed = record(metrics=[Metric("force MAE", "eV/Å", float("nan"), None, 0, 7)])["metrics"][0]
    assert (failed["value"], failed["n_ok"], failed["n_total"]) == (None, 0, 7)


def test_every_changed_byte_of_a_record_is_noticed():
    data = record_bytes(record())
    for place in range(len(data) - 1):  # the last is the end of the line
        changed = bytearray(data)
        changed[place] = ord("1") if changed[place] != ord("1") else ord("2")
        with pytest.raises((DamagedFileError, RefusedFileError, FormatVersionError)):
            parse_record(bytes(changed), "x")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "opinion"}, "kind must be one of evaluation, check"),
        ({"model": "best"}, "model must be a digest"),
        ({"passed": 1}, "passed must be true or false"),
        ({"data": {"water.xyz": "md5"}}, "must be named with its SHA-256"),
        ({"details": {"drift": float("nan")}}, "must be JSON without NaN"),
        ({"metrics": [{"name": "force MAE"}]}, "must have name, unit, value"),
        ({"metrics": [FORCES.as_dict() | {"n_ok": 101}]}, "0 <= n_ok <= n_total"),
        ({"metrics": [FORCES.as_dict() | {"ci95": [2.0, 1.0]}]}, r"ci95 must be \[low, high\]"),
    ],
)
def test_what_is_no_record_is_not_made(changes, fault):
    with pytest.raises(ContractError, match=fault):
        record(**changes)


def test_a_foreign_model_is_named_by_its_address():
    assert record(model="tblite:GFN2")["model"] == "tblite:GFN2"


def test_a_record_that_was_forged_without_a_key_is_refused_although_its_hash_is_right(tmp_path: Path):
    import hashlib

    from mlipfm_interfaces.files import canonical_json

    forged = {key: value for key, value in record().items() if key not in ("metrics", "sha256")}
    forged["sha256"] = hashlib.sha256(canonical_json(forged)).hexdigest()
    with pytest.raises(DamagedFileError, match="'metrics' is missing"):
        parse_record(json.dumps(forged).encode(), "x")


def test_other_files_and_newer_records_are_refused(tmp_path: Path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(RefusedFileError, match="is no JSON"):
        read_record(tmp_path / "a.json")
    with pytest.raises(RefusedFileError, match="is no result record"):
        parse_record(b'{"energy": 1}', "x")
    with pytest.raises(FormatVersionError, match="upgrade mlipfm-interfaces"):
        parse_record(json.dumps(record() | {"format": 2}).encode(), "x")
