"""Weights against weighted least squares, and reference energies against energies that were put in."""

import json

import numpy as np
import pytest
from mlipfm_data.curation.references import report_references
from mlipfm_data.curation.weights import boltzmann, effective_size, weigh
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import LevelError, MissingLabelsError, MlipfmError
from mlipfm_interfaces.structure import Structure

E0 = {1: -13.6, 6: -1029.0, 8: -2041.0, 11: -4420.0, 17: -12500.0}


def made(numbers, energy, largest=0.0, **more) -> Structure:
    n = len(numbers)
    positions = np.arange(3.0 * n).reshape(n, 3) + 0.01 * abs(energy) % 1
    forces = np.zeros((n, 3))
    forces[0, 0] = largest
    return Structure(numbers, positions, **{"level": "pbe", "labels": {"energy": energy, "forces": forces}} | more)


def ladder(offset=0.0):
    """Two molecules with energies in steps of 0.3 eV."""
    return [made([8, 1, 1], offset - 10 + 0.3 * k) for k in range(10)] + [
        made([6, 1, 1, 1, 1], 3 * offset - 20 + 0.3 * k) for k in range(10)
    ]


def test_weights_follow_boltzmann_above_the_lowest_of_each_composition():
    found = weigh(ladder(), kT=0.2, floor=0.0)
    expected = np.exp(-0.3 * np.arange(10) / (3 * 0.2))
    np.testing.assert_allclose(found.values[:10] / found.values[0], expected, rtol=1e-12)
    assert found.values.mean() == pytest.approx(1.0)


def test_offsets_of_the_energies_change_no_weight():
    np.testing.assert_allclose(weigh(ladder()).values, weigh(ladder(offset=1000.0)).values, rtol=1e-9)


def test_infinite_temperature_gives_ones_to_the_last_bit():
    assert (weigh(ladder(), kT=np.inf).values == np.ones(20)).all()


def test_the_floor_holds():
    found = weigh(ladder(), kT=0.01, floor=0.05)
    assert found.floored == 18
    assert found.values.min() / found.values.max() == pytest.approx(0.05)


def test_beyond_the_force_cap_nothing_counts():
    found = weigh([made([1, 1], -30.0), made([1, 1], -29.9, largest=60.0), made([1, 1], -29.8, largest=40.0)], kT=None)
    assert found.values.tolist() == [1.0, 0.0, 1.0]
    assert (found.capped, found.effective) == (1, 2.0)


def test_effective_size_of_equal_weights_is_their_number():
    assert effective_size(np.full(7, 0.3)) == pytest.approx(7.0)
    assert effective_size(np.array([1.0, 0.0, 0.0])) == 1.0


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(MissingLabelsError, match="no structure has an energy"):
        weigh([Structure([1], [[0.0, 0, 0]])])
    with pytest.raises(MlipfmError, match="kT must be positive"):
        boltzmann(np.zeros(1), np.ones(1, dtype=np.int64), -1.0)
    with pytest.raises(MlipfmError, match="all are beyond the force cap"):
        weigh([made([1, 1], -30.0, largest=60.0)])


def molecules(level="pbe"):
    rows = [[1, 1], [8, 1, 1], [6, 1, 1, 1, 1], [6, 8], [6, 8, 8]]
    return [made(row, sum(E0[z] for z in row), level=level) for row in rows]


def test_references_that_were_put_in_come_out():
    report = report_references(molecules())["pbe"]
    assert {z: pytest.approx(E0[z]) for z in (1, 6, 8)} == dict(report.references.energies)
    assert (report.references.rank, report.references.n_elements, report.compositions) == (3, 3, 5)
    assert report.references.residual == pytest.approx(0.0, abs=1e-6)
    assert report.together == []


def test_elements_that_always_come_together_are_named():
    salts = [made([11, 17], E0[11] + E0[17]), made([11, 17, 11, 17], 2 * (E0[11] + E0[17]))]
    report = report_references([*molecules(), *salts])["pbe"]
    assert report.together == [[11, 17]]
    assert (report.references.rank, report.references.n_elements) == (4, 5)
    assert report.references.energies[11] + report.references.energies[17] == pytest.approx(E0[11] + E0[17])
    assert any("cannot be separated: Na Cl" in line for line in report.lines())


def test_a_given_energy_or_a_lone_atom_separates_them():
    salt = made([11, 17], E0[11] + E0[17])
    report = report_references([salt], given={"Na": E0[11]})["pbe"]
    assert report.references.energies[17] == pytest.approx(E0[17])
    assert (report.together, dict(report.given), report.references.rank) == ([], {11: "given"}, 2)
    lone = report_references([salt, made([17], E0[17]), made([17], E0[17] + 3.0)])["pbe"]
    assert lone.references.energies[11] == pytest.approx(E0[11])
    assert dict(lone.given) == {17: "isolated atom"}


def test_the_residual_is_the_scatter_that_was_put_in():
    rng = np.random.default_rng(0)
    noisy = [made([8, 1, 1], -2068.2 + 0.3 * rng.normal()) for _ in range(4000)]
    assert report_references(noisy)["pbe"].references.residual == pytest.approx(0.1, rel=0.05)


def test_levels_are_fitted_apart():
    reports = report_references([*molecules("pbe"), *(s.replace(level="r2scan") for s in ladder())])
    assert list(reports) == ["pbe", "r2scan"]
    with pytest.raises(LevelError, match="no level of theory"):
        report_references([made([1, 1], -30.0, level=None)])


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["data", *words])
    return int(stopped.value.code or 0)


def test_commands(tmp_path, capsys):
    with StoreWriter(tmp_path / "store", name="set") as writer:
        for s in [*molecules(), *ladder()]:
            writer.add(s)
    assert run("references", str(tmp_path / "store"), "--json", "--given", "H=-13.6") == 0
    assert json.loads(capsys.readouterr().out)[0]["references_eV"]["H"] == -13.6
    assert run("weights", str(tmp_path / "store"), "--dry-run") == 0
    assert "effective sample size" in capsys.readouterr().out
    assert "weight" not in Store(tmp_path / "store")[5].labels
    for kt in ("0.2", "0.1"):
        assert run("weights", str(tmp_path / "store"), "--kt", kt) == 0
    opened = Store(tmp_path / "store")
    expected = weigh(list(opened), kT=0.1).values
    np.testing.assert_allclose([float(s.labels["weight"]) for s in opened], expected, rtol=1e-12)
