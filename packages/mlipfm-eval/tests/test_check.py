"""Six mistakes that models have been published with are named; an honest model, EMT and GFN2-xTB pass."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from mlipfm_eval._check_model_input import prepare_model
from mlipfm_eval._model_checks import MODEL_CHECKS
from mlipfm_eval.check import Outcome, broken, check_model, check_record, require_properties
from mlipfm_eval.check_benchmark import _elements_of, _figure, _table, _verdict
from mlipfm_eval.cli import check_app
from mlipfm_eval.data_sets import open_sets
from mlipfm_interfaces.benchmark import OpenModel
from mlipfm_interfaces.checkpoint import build, save_potential
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import ContractError, PropertyNotAvailableError, UnknownElementError
from mlipfm_interfaces.examples import chosen
from mlipfm_interfaces.foreign import open_foreign
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.closed_forms import Morse
from typer.testing import CliRunner


class Honest:
    """A Morse potential seen from outside, as a code of another package would be."""

    outputs = ("energy", "forces", "stress")

    def __init__(self):
        self.inner = Morse()

    def evaluate(self, structures, outputs):
        rows = evaluate(self.inner, structures, [key for key in outputs if key in self.outputs])
        return [self.changed(s, {key: np.array(value) for key, value in row.items()}) for s, row in zip(structures, rows, strict=True)]

    def changed(self, s, row):
        return row


class NotConservative(Honest):
    def changed(self, s, row):
        if "forces" in row:
            row["forces"] = row["forces"] * (1 + 0.05 * s.atomic_numbers[:, None])
        return row


class NotRotationInvariant(Honest):
    """Stretches the x axis before it looks."""

    def evaluate(self, structures, outputs):
        stretch = np.array([1.01, 1.0, 1.0])
        rows = super().evaluate([s.replace(positions=s.positions * stretch, cell=s.cell * stretch) for s in structures], outputs)
        for row in rows:
            if "forces" in row:
                row["forces"] = row["forces"] * stretch
        return rows


class Discontinuous(Honest):
    """Pairs nearer than 5 Å have 3 meV more, without a taper."""

    def changed(self, s, row):
        if "energy" in row and not s.pbc.any():
            r = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=-1)
            row["energy"] = row["energy"] + 0.003 * np.count_nonzero(np.triu(r < 5.0, 1))
        return row


class NotExtensive(Honest):
    def changed(self, s, row):
        if "energy" in row:
            row["energy"] = row["energy"] + 1e-3 * len(s) ** 2
        return row


class WrongStressSign(Honest):
    def changed(self, s, row):
        return {key: -value if key == "stress" else value for key, value in row.items()}


class StaleCache(Honest):
    """Keeps answers by positions that are rounded to 0.001 Å."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def evaluate(self, structures, outputs):
        keys = [(s.atomic_numbers.tobytes(), s.positions.round(3).tobytes(), tuple(outputs)) for s in structures]
        for key, s in zip(keys, structures, strict=True):
            if key not in self.kept:
                self.kept[key] = super().evaluate([s], outputs)[0]
        return [self.kept[key] for key in keys]


MUTANTS = {
    NotConservative: "forces-are-gradient",
    NotRotationInvariant: "rotation",
    Discontinuous: "smooth-path",
    NotExtensive: "extensivity",
    WrongStressSign: "stress-is-strain-derivative",
    StaleCache: "no-stale-state",
}


@pytest.mark.parametrize(("mutant", "rule"), MUTANTS.items(), ids=lambda item: getattr(item, "__name__", item))
@pytest.mark.parametrize("precision", ["float64", *[pytest.param(name, marks=pytest.mark.ci) for name in ("converged", "float32")]])
def test_mutant_is_caught_by_name_from_outside_at_every_precision(mutant, rule, precision):
    subject = prepare_model(mutant(), precision)
    (item,) = [item for item in MODEL_CHECKS if item.name == rule]
    found = item.check(subject)
    assert found.value > found.limit


def test_honest_model_holds_every_rule_in_float64():
    outcomes = check_model(Honest(), "float64")
    assert broken(outcomes) == []
    other = {o.rule: o.status for o in outcomes if o.status != "held"}
    assert other == {
        "charge-stays-home": "measured",
        "unstated-state": "skipped",
        "arithmetic": "skipped",
        "no-collapse": "skipped",
    }  # no promise, no conditions, no copy, no data of its own
    assert len(outcomes) == len(MODEL_CHECKS)


def test_what_a_far_molecule_gets_of_a_charge_is_measured_and_refusals_are_no_fault():
    class Shared(Honest):
        """A charge is shared out over all atoms, and its energy falls with their number."""

        def evaluate(self, structures, outputs):
            rows = super().evaluate(structures, outputs)
            return [{**r, "energy": r["energy"] + 0.5 * (s.total_charge or 0) / len(s)} for r, s in zip(rows, structures, strict=True)]

    class Neutral(Honest):
        def evaluate(self, structures, outputs):
            if any(s.total_charge for s in structures):
                raise PropertyNotAvailableError("no ions")
            return super().evaluate(structures, outputs)

    (shared,) = check_model(Shared(), "float64", rules=["charge-stays-home"])
    n = len(prepare_model(Honest(), "float64").small)
    assert (shared.status, shared.value) == ("measured", pytest.approx(0.5 / (2 * n), abs=1e-9))
    (neutral,) = check_model(Neutral(), "float64", rules=["charge-stays-home"])
    assert (neutral.status, neutral.value) == ("skipped", None)


def test_wrong_sign_of_the_stress_is_named_as_such():
    outcomes = check_model(WrongStressSign(), "float64", rules=["stress-is-strain-derivative", "net-force"])
    assert broken(outcomes) == ["stress-is-strain-derivative"]
    assert [o.remark for o in outcomes if o.status == "broken"] == ["it has the opposite sign"]


def test_model_that_raises_breaks_the_rule_and_the_others_go_on():
    class Fragile(Honest):
        def evaluate(self, structures, outputs):
            if "stress" in outputs:
                raise RuntimeError("no stress today")
            return super().evaluate(structures, outputs)

    outcomes = check_model(Fragile(), "float64", rules=["stress-is-strain-derivative", "net-force"])
    assert len(outcomes) == 2
    assert broken(outcomes) == ["stress-is-strain-derivative"]
    assert any("no stress today" in o.remark for o in outcomes)


@pytest.mark.ci
class KnowsTheOrigin(Morse):
    def atomic_energies(self, batch):
        return super().atomic_energies(batch) + 1e-3 * torch.sin(batch.positions[:, 0])


def test_potential_that_breaks_a_rule_of_the_contract_is_named():
    potential = KnowsTheOrigin()
    outcomes = check_model(potential, rules=["translation"])
    assert {o.suite for o in outcomes if o.status == "broken"} == {"contract", "behaviour"}
    record = check_record(OpenModel("model.safetensors", "0" * 64, potential), outcomes)
    assert record["passed"] is False
    assert record["details"]["broken"] == ["translation"]


@pytest.mark.full
@pytest.mark.parametrize("address", ["tblite:GFN1", "tblite:GFN2"])
def test_quantum_chemistry_passes(address):
    pytest.importorskip("tblite")
    with open_foreign(address) as model:
        assert broken(check_model(model, quick=True)) == []


@pytest.mark.full
def test_limits_of_exact_codes_are_too_narrow_for_one_that_iterates_to_a_threshold(tmp_path):
    # GFN2-xTB iterates to a threshold: held to the limits of exact float64 codes, two molecules have not quite the forces of each alone
    pytest.importorskip("tblite")
    options = ["--precision", "float64", "--quick", "--record", str(tmp_path / "check.json")]
    result = CliRunner().invoke(check_app, ["tblite:GFN2", *options])
    assert result.exit_code == 1
    assert "mlipfm: tblite:GFN2 breaks" in result.output
    record = json.loads((tmp_path / "check.json").read_text())
    assert (record["kind"], record["model"], record["passed"]) == ("check", "tblite:GFN2", False)
    assert "size-consistency" in record["details"]["broken"]
    assert "rotation" not in record["details"]["broken"]


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """Checkpoint of an untrained model with direct forces, and a cutoff so short that no atom of the water crystal sees an image."""
    path = tmp_path_factory.mktemp("direct") / "direct.safetensors"
    options = {"forces": "direct", "seed": 0, "backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}}
    save_potential(path, build("painn", {"elements": ["H", "C", "O"], "levels": ["any"], "dtype": "float64", **options}))
    return path


def test_what_direct_forces_do_not_promise_is_judged_where_it_is_required():
    outcomes = [
        Outcome("behaviour", "forces-are-gradient", "measured", 0.2, 0.005, "eV/Å"),
        Outcome("behaviour", "jacobian-symmetric", "measured", 0.002, 0.01),
        Outcome("behaviour", "nve-drift", "measured", float("nan"), 10.0, "meV/atom/ps", "exploded"),
        Outcome("behaviour", "rotation", "measured", 1.0, 0.1),
        Outcome("contract", "net-force", "measured"),
    ]
    assert broken(outcomes) == []
    required = require_properties(outcomes, "conservative")
    assert broken(required) == ["forces-are-gradient", "nve-drift"]
    assert [o.status for o in required] == ["broken", "held", "broken", "measured", "measured"]
    assert required[2].remark == "exploded; not declared by the model, but required"
    assert broken(require_properties(outcomes, "conservative", "invariant")) == ["forces-are-gradient", "nve-drift", "rotation"]


def test_verdict_on_a_conservative_model_has_no_reservation():
    held = [Outcome("behaviour", "nve-drift", "held", 0.1, 10.0, "meV/atom/ps")]
    assert _verdict("model", held) == "model breaks no rule: 1 passed"


@pytest.mark.ci
def test_direct_checkpoint_passes_with_a_reservation_and_fails_where_conservation_is_required(direct, tmp_path):
    plain = CliRunner().invoke(check_app, [str(direct), "--quick"])
    line = plain.output.splitlines()[-1]
    assert plain.exit_code == 0, plain.output
    assert "breaks no rule" in line
    assert "It is NOT CONSERVATIVE" in line
    assert "energy conservation was measured, not required: nve-drift" in line
    assert "forces-are-gradient" in line
    assert line.endswith("--require conservative does")
    required = CliRunner().invoke(
        check_app, [str(direct), "--quick", "--require", "conservative", "--record", str(tmp_path / "check.json")]
    )
    assert required.exit_code == 1
    assert "breaks" in required.output.splitlines()[-1]
    assert "forces-are-gradient" in required.output.splitlines()[-1]
    record = json.loads((tmp_path / "check.json").read_text())
    assert (record["kind"], record["passed"], record["details"]["required"]) == ("check", False, ["conservative"])
    assert "jacobian-symmetric" in record["details"]["broken"]


def test_a_promise_that_no_rule_is_about_is_refused_with_those_that_are(direct):
    with pytest.raises(
        ContractError, match="no rule is about the property 'conservativ'; choose of: invariant, local-charge, conservative"
    ):
        CliRunner().invoke(check_app, [str(direct), "--require", "conservativ"], catch_exceptions=False)


def test_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ContractError, match="float64, converged, float32"):
        CliRunner().invoke(check_app, ["emt:", "--precision", "half"], catch_exceptions=False)


@pytest.fixture
def poisoned():
    """A model with direct forces, one of whose weight tensors is NaN."""
    model = build("painn", {"elements": ["H", "C", "O"], "levels": ["any"], "forces": "direct", "backbone": {"channels": 8, "layers": 1}})
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


def test_first_cause_named_of_a_model_with_nan_weights_is_that_and_how_many(poisoned):
    bad = next(poisoned.parameters()).numel()
    with pytest.raises(ContractError, match=f"its predictions are not finite: {bad} of its .* weights are not finite") as found:
        check_model(poisoned)
    assert "elements" not in str(found.value)


def test_answer_that_is_not_finite_breaks_a_rule_and_is_never_within_a_limit():
    class Hole(Honest):
        """Two molecules of water in a crystal are too much for it."""

        def changed(self, s, row):
            return {key: value * np.nan if len(s) == 6 else value for key, value in row.items()}

    (outcome,) = check_model(Hole(), "float64", rules=["extensivity"])
    assert outcome.status == "broken"
    assert "is not finite" in outcome.remark


def test_rule_of_both_suites_is_listed_once_unless_the_contract_alone_is_broken():
    outcomes = [
        Outcome("contract", "net-force", "measured"),
        Outcome("contract", "rotation", "broken", remark="off by 1 eV"),
        Outcome("contract", "net-torque", "measured"),
        Outcome("behaviour", "net-force", "broken", 0.5, 0.1, "eV/Å", "required"),
        Outcome("behaviour", "rotation", "held", 0.01, 0.1),
    ]
    brief = _table(outcomes, verbose=False)
    cells = {str(column.header): list(column.cells) for column in brief.columns}
    assert cells["rule"] == ["rotation", "net-torque", "net-force", "rotation"]
    assert cells["figure"] == ["-", "-", "0.5", "0.01"]
    assert ["failed" in outcome for outcome in cells["outcome"]] == [True, False, True, False]
    assert cells["remark"] == ["contract: off by 1 eV", "", "required", ""]
    whole = _table(outcomes)
    assert list(whole.columns[0].cells) == [o.suite for o in outcomes]
    assert list(whole.columns[1].cells) == [o.rule for o in outcomes]


def test_remarks_of_a_table_in_a_pipe_are_whole(monkeypatch):
    pipe, remark = io.StringIO(), "a remark of many words " * 20
    monkeypatch.setattr("sys.stdout", pipe)
    open_console().print(_table([Outcome("behaviour", "rotation", "broken", 1.0, 0.1, "eV", remark.strip())]))
    assert remark.strip() in pipe.getvalue()


def test_brackets_of_a_remark_are_printed_and_no_markup(monkeypatch):
    pipe, remark = io.StringIO(), "forces must have shape [atoms, 3], got [/systems]"
    monkeypatch.setattr("sys.stdout", pipe)
    open_console().print(_table([Outcome("behaviour", "rotation", "broken", 1.0, 0.1, "eV", remark)]))
    assert remark in pipe.getvalue()


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [(1.0, 0.1, ("1", "0.1")), (0.10004, 0.1, ("0.10004", "0.1")), (0.1, 0.1, ("0.1", "0.1")), (4.96, 5.04, ("5", "5")),
     (5.04, 4.96, ("5.04", "4.96")), (np.nan, 5.0, ("nan", "5")), (np.inf, 0.0, ("inf", "0"))],
)  # fmt: skip
def test_figure_above_its_limit_is_shown_above_it_and_no_other(value, limit, shown):
    assert _figure(value, limit) == shown


def test_elements_are_named_by_symbols_and_unknown_ones_refused():
    assert _elements_of("Si, O,H") == [1, 8, 14]
    with pytest.raises(UnknownElementError, match="Xx"):
        _elements_of("Xx")


def test_structures_of_a_file_are_those_that_the_model_is_tested_on(tmp_path):
    (tmp_path / "two.xyz").write_text("1\n\nAr 0 0 0\n3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n")
    (data,) = open_sets([tmp_path / "two.xyz"])
    found = chosen(data.structures)
    assert sorted(s.formula for s in found) == ["Ar", "H2O"]
    with pytest.raises(ContractError, match="it predicts none of the structures"):
        check_model(Honest(), data=[s for s in found if s.formula == "Ar"])  # a lone atom has no force to look at


def test_rule_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ContractError, match="no rule has the name 'rotations'; choose of: rotation"):
        check_model(Honest(), rules=["rotations"])
