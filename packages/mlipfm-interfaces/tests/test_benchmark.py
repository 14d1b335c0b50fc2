"""Benchmarks: options arrive with the type of their defaults, nothing is ignored, and a result becomes a record."""

from pathlib import Path

import pytest
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel, options_of, run_benchmark, summary_of
from mlipfm_interfaces.errors import ContractError, PluginError
from mlipfm_interfaces.metrics import mean
from mlipfm_interfaces.result_records import faults_of

MODEL = OpenModel("x:", "x:", model=None)  # type: ignore[arg-type]  # these benchmarks ask it nothing


def twice(model, data, *, value: float = 2.0, count: int = 1, quick: bool = False, name=None, folder: Path = Path()):
    """Twice a number.

    Args: are not shown.
    """
    assert (type(value), type(count), type(quick)) == (float, int, bool)
    assert isinstance(folder, Path)
    return [mean([2 * value] * count, name=str(name or "figure"), unit="1")]


def needs_a_file(model, data, *, file: str):
    return BenchmarkResult([mean([1.0], name=file, unit="1")], details={"file": file})


def test_options_are_keyword_parameters_and_text_becomes_the_type_of_the_default():
    assert options_of(twice) == {"value": 2.0, "count": 1, "quick": False, "name": None, "folder": Path()}
    assert options_of(needs_a_file) == {"file": ...}
    assert summary_of(twice) == "Twice a number."
    result, _ = run_benchmark("twice", twice, MODEL, options={"value": "1.5", "count": "3", "quick": "true", "name": "v", "folder": "a/b"})
    assert [(m["name"], m["value"], m["n_total"]) for m in result.figures] == [("v", 3.0, 3)]


@pytest.mark.parametrize(
    ("benchmark", "options", "words"),
    [
        (twice, {"valu": "1"}, "benchmark 'b' has no option 'valu'.*value, count, quick, name, folder"),
        (twice, {"value": "much"}, "option 'value' of benchmark 'b'.*number, got 'much'"),
        (twice, {"count": "1.5"}, "option 'count' of benchmark 'b'.*integer.*got '1.5'"),
        (needs_a_file, {}, "benchmark 'b' needs the option 'file'.*--option file=VALUE"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(benchmark, options, words):
    with pytest.raises(PluginError, match=words):
        run_benchmark("b", benchmark, MODEL, options=options)


def test_a_record_names_benchmark_model_and_data_and_is_not_passed_where_a_case_failed():
    data = [LabelledSet("test", "a" * 64, "id", [])]
    _, record = run_benchmark("file", needs_a_file, MODEL, data, {"file": "f"})
    assert faults_of(record) == []
    assert (record["kind"], record["passed"], record["data"]) == ("evaluation", True, {"test": "a" * 64})
    assert record["details"] == {"benchmark": "file", "address": "x:", "file": "f"}
    _, failed = run_benchmark("nan", lambda model, data: [mean([1.0, float("nan")], name="f", unit="1")], MODEL)
    assert failed["passed"] is False


def test_a_benchmark_without_a_figure_or_with_one_that_no_record_holds_is_refused():
    with pytest.raises(ContractError, match="benchmark 'b' returned no figure"):
        run_benchmark("b", lambda model, data: [], MODEL)
    with pytest.raises(ContractError, match="a metric must have name, unit, value"):
        run_benchmark("b", lambda model, data: [{"name": "f", "value": 1.0}], MODEL)
