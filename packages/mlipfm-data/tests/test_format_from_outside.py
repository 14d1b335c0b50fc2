"""A format that somebody else wrote, `packages/mlipfm/examples/plugins/mlipfm-runner`, honours every read option, of which it supports none."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data import ReadReport, read, read_all
from mlipfm_data.readers import registry
from mlipfm_data.readers.options import option_names
from mlipfm_interfaces.errors import MlipfmError, PluginError, UnknownQuantityError
from mlipfm_interfaces.protocols import Format, Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase
from mlipfm_interfaces.units import BOHR, DEBYE, GPA, HARTREE, KCAL_MOL

FILE = Path(__file__).parents[2] / "mlipfm" / "examples" / "plugins" / "mlipfm-runner" / "mlipfm_runner.py"
spec = importlib.util.spec_from_file_location("mlipfm_runner", FILE)
mlipfm_runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mlipfm_runner)
RUNNER = mlipfm_runner

WATER = """begin
lattice 20 0 0
lattice 0 20 0
lattice 0 0 20
atom 0 0 0 O -0.8 0 0.1 0 0.25
atom 1.8 0 0 H 0.4 0 0 0 0
atom 0 1.8 0 H 0.4 0 -0.1 0 -0.25
energy -76.4
{more}
end
"""
OTHERS = """e2 -3
f2 1 2 3 4 5 6 7 8 9
s2 1 2 3 4 5 6
v2 6 5 4 0 0 0
d2 1 0 2
q2 0 0 1
c2 1
m2 2
g2 water
gap 0.5
converged F"""


def written(folder: Path, more: str = "stress 1 2 3 4 5 6\ndipole 0 0 1\ncharge 0") -> Path:
    path = folder / "input.data"
    path.write_text(WATER.format(more=more))
    return path


def test_a_reader_that_cannot_be_loaded_disturbs_no_other_format(tmp_path, monkeypatch):
    """Of another package, broken: other files are read, with a warning that names it; asked for by name, it says why."""
    (tmp_path / "h2.xyz").write_text("2\nenergy=-31.7\nH 0 0 0\nH 0 0 0.74\n")
    names, load = registry.plugins.names, registry.plugins.load

    def broken(group: str, name: str) -> object:
        if name == "broken":
            raise PluginError("'broken' of the package others cannot be loaded: ModuleNotFoundError")
        return load(group, name)

    monkeypatch.setattr(registry.plugins, "names", lambda group: ["broken", *names(group)])
    monkeypatch.setattr(registry.plugins, "load", broken)
    registry._formats.cache_clear()
    try:
        with pytest.warns(UserWarning, match="the reader 'broken' is left out"):
            (s,) = read_all(tmp_path / "h2.xyz", level="pbe")
        assert len(s) == 2
        with pytest.raises(PluginError, match="cannot be loaded"):
            read_all(tmp_path / "h2.xyz", "broken", level="pbe")
    finally:
        registry._formats.cache_clear()


def test_without_options_units_are_those_of_the_format(tmp_path):
    report = ReadReport()
    (s,) = read_all(written(tmp_path), RUNNER, report=report)
    assert isinstance(RUNNER, Format)
    assert s.positions[1, 0] == pytest.approx(1.8 * BOHR)
    assert s.pbc.all()
    assert float(s.labels["energy"]) == pytest.approx(-76.4 * HARTREE)
    assert s.labels["forces"][0, 2] == pytest.approx(0.25 * HARTREE / BOHR)
    assert (s.total_charge, s.provenance.index, s.provenance.source) == (0, 0, "input.data")
    assert any("energy Hartree" in line and "(layout RuNNer)" in line for line in report.lines())


#: Option -> (its value, what else is given, what then is true of the structure).
EFFECTS = {
    "level": ("pbe", {}, lambda s: s.level == "pbe"),
    "energy_key": ("e2", {}, lambda s: np.isclose(s.labels["energy"], -3 * HARTREE)),
    "forces_key": ("f2", {}, lambda s: np.isclose(s.labels["forces"][0, 1], 2 * HARTREE / BOHR)),
    "stress_key": ("s2", {}, lambda s: np.isclose(s.labels["stress"][1, 2], 4)),
    "virial_key": ("v2", {}, lambda s: np.isclose(s.labels["stress"][0, 0], -6 * HARTREE / (20 * BOHR) ** 3)),
    "dipole_key": ("d2", {}, lambda s: np.isclose(s.labels["dipole"][2], 2)),
    "charges_key": ("q2", {}, lambda s: s.labels["charges"][2] == 1),
    "charge_key": ("c2", {"spin_multiplicity": 2}, lambda s: s.total_charge == 1),
    "spin_key": ("m2", {"charge_key": "c2"}, lambda s: s.spin_multiplicity == 2),
    "group_key": ("g2", {}, lambda s: s.provenance.group == "water"),
    "keys": ({"band_gap": "gap"}, {}, lambda s: s.labels["band_gap"] == 0.5),
    "factors": ({"band_gap": 2.0}, {"keys": {"band_gap": "gap"}}, lambda s: s.labels["band_gap"] == 1.0),
    "energy_unit": ("kcal/mol", {}, lambda s: np.isclose(s.labels["energy"], -76.4 * KCAL_MOL)),
    "length_unit": ("Angstrom", {}, lambda s: s.positions[1, 0] == 1.8),
    "forces_unit": ("eV/Angstrom", {}, lambda s: s.labels["forces"][0, 2] == 0.25),
    "stress_unit": ("GPa", {"stress_key": "s2"}, lambda s: np.isclose(s.labels["stress"][0, 0], GPA)),
    "dipole_unit": ("Debye", {"dipole_key": "d2"}, lambda s: np.isclose(s.labels["dipole"][2], 2 * DEBYE)),
    "polarizability_unit": (
        "bohr^3",
        {"keys": {"polarizability": "f2"}},
        lambda s: np.isclose(s.labels["polarizability"][0, 1], 2 * BOHR**2 / HARTREE),
    ),
    "forces_sign": (-1, {}, lambda s: np.isclose(s.labels["forces"][0, 2], -0.25 * HARTREE / BOHR)),
    "stress_sign": (-1, {"stress_key": "s2"}, lambda s: s.labels["stress"][0, 0] == -1),
    "stress_order": ("xx,yy,zz,xy,yz,xz", {"stress_key": "s2"}, lambda s: s.labels["stress"][0, 1] == 4),
    "spin_meaning": ("unpaired", {"spin_key": "m2", "charge_key": "c3"}, lambda s: s.spin_multiplicity == 3),
    "total_charge": (1, {}, lambda s: s.total_charge == 1),
    "spin_multiplicity": (1, {}, lambda s: s.spin_multiplicity == 1),
    "periodic": (False, {}, lambda s: not s.pbc.any() and not s.cell.any()),
    "ignore": (("charges",), {}, lambda s: "charges" not in s.labels),
    "mask_zero_forces": (True, {}, lambda s: s.labels["forces_weight"].tolist() == [1, 0, 1]),
    "accept_unconverged": (True, {}, lambda s: True),
    "require": (("hessian_rows",), {}, None),
    "group": ("mine", {}, lambda s: s.provenance.group == "mine"),
    "source": ("elsewhere", {}, lambda s: s.provenance.source == "elsewhere"),
    "sampling": ("md", {}, lambda s: s.provenance.sampling == "md"),
    "licence": ("MIT", {}, lambda s: s.provenance.licence == "MIT"),
}


def test_every_option_has_an_effect_below():
    assert set(EFFECTS) == set(option_names())


@pytest.mark.parametrize("option", EFFECTS)
def test_a_format_that_knows_no_option_honours(option, tmp_path):
    value, others, effect = EFFECTS[option]
    path = written(tmp_path, OTHERS + "\nc3 0")
    options = {"accept_unconverged": True, **others, option: value}
    if effect is None:
        with pytest.raises(MlipfmError, match="no hessian_rows label"):
            read_all(path, RUNNER, **options)
        return
    (s,) = read_all(path, RUNNER, **options)
    assert effect(s)
    without = next(read(path, RUNNER, **({} if option == "accept_unconverged" else {"accept_unconverged": True}), **others))
    assert isinstance(without, Refusal) or not _holds(effect, without)


def _holds(effect, structure) -> bool:
    try:
        return bool(effect(structure))
    except KeyError:  # the label is not read
        return False


def test_an_option_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(UnknownQuantityError, match="readers have no option 'energy_unitt'; did you mean 'energy_unit'"):
        read(written(tmp_path), RUNNER, energy_unitt="eV")


class OldReader:
    """A plug-in of the interface before `frames`: it interprets its frames itself."""

    suffixes = (".old",)

    def read(self, path, *, report=None, **options):
        yield Structure([2], [[0, 0, 0]], level=options["level"])


def test_a_plugin_with_read_still_works_and_warns(tmp_path):
    (tmp_path / "a.old").write_text("x")
    with pytest.warns(DeprecationWarning, match="OldReader interprets its frames itself: give it `frames`"):
        frames = read(tmp_path / "a.old", OldReader(), level="pbe")
    assert next(frames).level == "pbe"


def _many(path: Path, n: int) -> None:
    path.write_text("".join(WATER.format(more=f"comment {k}") for k in range(n)))


def _damaged(path: Path) -> tuple[int, tuple[int, ...]]:
    path.write_text("".join(WATER.format(more="").replace("1.8", "x" if k == 1 else "1.8") for k in range(3)))
    return 3, (1,)


def _unknown(path: Path) -> str:
    path.write_text(WATER.format(more="entropy 1"))
    return "entropy"


class TestRunner(ReaderContract):
    def reader_case(self):
        return ReaderCase(RUNNER, read, _many, _damaged, _unknown, ReadReport)
