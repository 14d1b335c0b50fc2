"""`reaction-energies`: lines of GMTKN55 and their braces, energies beside another code, what is refused, and what a model cannot predict."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write
from mlipfm_eval.reaction_energies import reaction_energies, read_reactions, read_species
from mlipfm_interfaces.benchmark import open_model
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_models import build_potential

KCAL_MOL = 0.0433641153  # eV, CODATA 2018
LINES = """f=$1
$tmer dimer{,A,B}/$f x 1 -1 -1 $w -12.5
$tmer  {row,dimerA}/$f  x  -1  3  $w  60.0 three atoms # linear
tmer2++ dimer/$f row/$f x 3 -2 $w 7
"""


def emt_set(folder: Path) -> Path:
    """Nickel (28 electrons, so that all are singlets): an atom twice, a dimer, a row of three."""
    atom, far = [[0, 0, 0]], [[0, 0, 0], [0, 0, 2.4]]
    species = {"dimerA": atom, "dimerB": atom, "dimer": far, "row": [*far, [0, 0, 4.8]]}
    for name, positions in species.items():
        (folder / name).mkdir(parents=True)
        write(folder / name / "struc.xyz", Atoms(["Ni"] * len(positions), positions))
    (folder / ".res").write_text(LINES)
    return folder


def test_braces_coefficients_and_references_are_read_and_remarks_are_not(tmp_path: Path) -> None:
    first, second, third = read_reactions(emt_set(tmp_path / "Ni"))
    assert [path.name for path in first.species] == ["dimer", "dimerA", "dimerB"]
    assert (first.coefficients, first.reference) == ((1.0, -1.0, -1.0), -12.5)
    assert second.name == "-1 row +3 dimerA"
    assert (second.reference, third.reference) == (60.0, 7.0)
    assert third.coefficients == (3.0, -2.0)


def test_energies_of_reactions_are_those_of_ase_in_kcal_mol(tmp_path: Path) -> None:
    folder = emt_set(tmp_path / "Ni")
    energy = {}
    for path in folder.glob("*/struc.xyz"):
        atoms = read(path)
        assert isinstance(atoms, Atoms)
        atoms.calc = EMT()
        energy[path.parent.name] = atoms.get_potential_energy() / KCAL_MOL
    expected = [
        energy["dimer"] - energy["dimerA"] - energy["dimerB"],
        3 * energy["dimerA"] - energy["row"],
        3 * energy["dimer"] - 2 * energy["row"],
    ]
    with open_model("emt:") as model:
        result = reaction_energies(model, [], folder=str(tmp_path), peer="emt:")
    values = [one["value"] for one in result.details["reactions"]]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    figures = {figure["name"]: figure for figure in result.figures}
    references = np.array([-12.5, 60.0, 7.0])
    assert figures["reaction energy MAE"]["value"] == pytest.approx(np.abs(np.array(expected) - references).mean(), rel=1e-6)
    assert figures["reaction energy mean signed error"]["value"] == pytest.approx((np.array(expected) - references).mean(), rel=1e-6)
    assert figures["reaction energy MAE to the peer"]["value"] == 0.0
    assert {figure["set"] for figure in result.figures} == {"Ni"}


def test_charge_and_unpaired_electrons_stand_in_files_of_their_own(tmp_path: Path) -> None:
    folder = emt_set(tmp_path / "Ni") / "dimer"
    assert (read_species(folder).total_charge, read_species(folder).spin_multiplicity) == (0, 1)
    (folder / ".CHRG").write_text("1\n")
    (folder / ".UHF").write_text(" 1\n")
    assert (read_species(folder).total_charge, read_species(folder).spin_multiplicity) == (1, 2)
    (folder / ".CHRG").write_text("1.5\n")
    with pytest.raises(UnreadableFileError, match="holds no whole number"):
        read_species(folder)
    (folder / ".CHRG").write_text("\n")
    with pytest.raises(UnreadableFileError, match=r"\.CHRG: holds no whole number"):
        read_species(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no XYZ"),
        ("2\n\nNi 0 0 0\n", "ends after 1 of 2 atoms"),
        ("1\n\nQq 0 0 0\n", "is no XYZ"),
        ("1\n\nNi 0 0 a\n", "is no XYZ"),
    ],
)
def test_a_structure_that_is_none_is_refused_by_its_file(text: str, message: str, tmp_path: Path) -> None:
    folder = emt_set(tmp_path / "Ni") / "dimer"
    (folder / "struc.xyz").write_text(text)
    with pytest.raises(UnreadableFileError, match=rf"struc\.xyz: {message}"):
        read_species(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("$tmer dimer{,A}/$f x 1 -1", r"line 1: no reaction that is understood"),
        ("$tmer dimer{,A}/$f x 1 -a $w 3", r"line 1: no reaction that is understood"),
        ("$tmer dimer{,C}/$f x 1 -1 $w 3", r"line 1: species dimerC is not there"),
        ("nothing", r"\.res: holds no reactions"),
    ],
)
def test_a_line_that_is_not_understood_is_refused_with_its_place(line: str, message: str, tmp_path: Path) -> None:
    folder = emt_set(tmp_path / "Ni")
    (folder / ".res").write_text(line + "\n")
    with pytest.raises(UnreadableFileError, match=message):
        read_reactions(folder)


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    with open_model("emt:") as model, pytest.raises(UnreadableFileError, match="holds no set of reactions"):
        reaction_energies(model, [], folder=str(tmp_path))


def test_data_that_the_benchmark_would_not_use_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data.xyz", read(emt_set(tmp_path / "Ni") / "row" / "struc.xyz"))
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "emt:", str(tmp_path / "data.xyz"), "--benchmark", "reaction-energies", "--option", f"folder={tmp_path / 'Ni'}"])
    assert "reaction-energies takes no data" in capfd.readouterr().err


def test_a_level_that_the_model_does_not_have_fails_every_reaction_by_its_reason(tmp_path: Path) -> None:
    build = build_potential("density", {"elements": ["Ni"], "levels": ["pbe"], "backbone": {"channels": 16}})
    save_potential(tmp_path / "model.safetensors", build)
    folder = str(emt_set(tmp_path / "Ni"))
    with open_model(str(tmp_path / "model.safetensors")) as model:
        known, other = (reaction_energies(model, [], folder=folder, level=level) for level in ("pbe", "r2scan"))
    assert known.figures[0]["n_ok"] == 3
    assert other.figures[0]["n_ok"] == 0
    assert "no reaction was predicted" in str(other.error)
    assert "r2scan" in str(other.error)
    assert known.error is None


def test_a_species_that_the_model_does_not_know_fails_its_reactions_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = emt_set(tmp_path / "Ni")
    write(folder / "row" / "struc.xyz", Atoms("Si", [[0, 0, 0]]))
    with open_model("emt:") as model:
        figure = reaction_energies(model, [], folder=str(folder)).figures[0]
    assert (figure["n_ok"], figure["n_total"]) == (1, 3)


@pytest.mark.ci
def test_sets_of_gmtkn55_are_read_whole_and_gfn2_has_its_published_error(shared_data: Callable[[str], Path]) -> None:
    """The set of 2017 has so many reactions each; GFN2-xTB is some kcal/mol off in six complexes of benzene and a cation."""
    folder = shared_data("gmtkn55_dev")
    counts = {path.parent.name: len(read_reactions(path.parent)) for path in folder.glob("*/.res")}
    published = {"W4-11": 140, "S66": 66, "RSE43": 43, "G21IP": 36, "ISO34": 34, "WATER27": 27, "AHB21": 21, "RG18": 18, "PCONF21": 18,
                 "TAUT15": 15, "PX13": 13, "CHB6": 6}  # fmt: skip
    assert counts == published
    with open_model("tblite:GFN2") as model:
        (mean_error, *_) = reaction_energies(model, [], folder=str(folder / "CHB6")).figures
    assert 3.0 < mean_error["value"] < 8.0
    assert mean_error["n_ok"] == 6


@pytest.mark.ci
def test_the_command_prints_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "emt:", "--benchmark", "reaction-energies", "--option", f"folder={emt_set(tmp_path / 'Ni')}"])
    out = capfd.readouterr().out
    assert "Mean absolute errors of reaction energies, kcal/mol" in out
    assert "Ni" in out
