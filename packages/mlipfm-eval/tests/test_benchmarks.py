"""`mlipfm evaluate --benchmark`: every installed benchmark is listed and run, and what it does not have is refused."""

import json

import mlipfm_eval.check
import numpy as np
import pytest
from mlipfm_eval import MODEL_CHECKS, list_benchmarks
from mlipfm_eval.accuracy import accuracy
from mlipfm_eval.benchmarks import InstalledBenchmark
from mlipfm_interfaces import plugins
from mlipfm_interfaces.benchmark import LabelledSet, OpenModel
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import PluginError
from mlipfm_interfaces.testing.contract_suites import BenchmarkContract
from mlipfm_interfaces.testing.training_rules import BenchmarkCase

from .test_prediction_errors import Spring, labelled


class NotANumber(Spring):
    def evaluate(self, structures, outputs):
        rows = super().evaluate(structures, outputs)
        return [{key: value * np.nan for key, value in rows[0].items()}, *rows[1:]]


class TestAccuracy(BenchmarkContract):
    def benchmark_case(self):
        data = [LabelledSet("test", "a" * 64, "id", labelled(8, 4))]
        good, failing = (OpenModel("x:", "x:", model) for model in (Spring(error=0.01), NotANumber()))
        return BenchmarkCase(accuracy, good, failing, data)


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


def test_benchmarks_are_listed_with_their_options_and_one_that_is_broken_with_its_reason(capsys, monkeypatch):
    status, out, _ = run(capsys, "evaluate", "--list")
    assert status == 0
    for name, options in (
        ("accuracy", "level, out, page"),
        ("check", "quick=False"),
        ("reaction-energies", "folder, peer, level"),
        ("uncertainty", "file, coverage=0.9"),
    ):
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {name} ")]
        assert options in line
    known = plugins.load
    monkeypatch.setattr(plugins, "load", lambda group, name: known(group, name) if name != "check" else _broken())
    assert InstalledBenchmark("check", "", {}, str(PluginError("no such module"))) in list_benchmarks()


def _broken():
    raise PluginError("no such module")


def test_check_as_a_benchmark_takes_the_options_of_the_command_and_writes_the_same_record(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(mlipfm_eval.check, "MODEL_CHECKS", MODEL_CHECKS[:4])  # all of them take a minute
    words = [
        "evaluate",
        "emt:",
        "--benchmark",
        "check",
        "--option",
        "elements=Cu",
        "--option",
        "quick=true",
        "--record",
        tmp_path / "r.json",
    ]
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    assert "emt: breaks no rule" in out
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["kind"], record["passed"], record["details"]["benchmark"]) == ("check", True, "check")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["emt:", "--benchmark", "acuracy"], "no benchmark is named 'acuracy'; did you mean 'accuracy'?"),
        (["emt:", "--benchmark", "check", "--page", "p.html"], "benchmark 'check' has no option 'page'"),
        (["emt:", "--benchmark", "check", "--option", "quick=perhaps"], "option 'quick' of benchmark 'check'"),
        (["emt:", "--benchmark", "check", "--option", "quick"], "--option needs KEY=VALUE, got 'quick'"),
        (["emt:", "--benchmark", "check", "--record", "no/such/folder.json"], "no/such/folder.json: cannot write: no such folder"),
        (["emt:"], "there are no data to compare with"),
        ([], "name a model, or see --list"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_status_2(capsys, words, said):
    status, out, err = run(capsys, "evaluate", *words)
    assert (status, out) == (2, "")
    assert said in err
