"""What files of other programs say of charge, elements, isotopes and sites, and ASE drops or misreads."""

import gzip
import hashlib
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from mlipfm_interfaces.elements import ISOTOPES
from mlipfm_interfaces.errors import InvalidStructureError, SimulationError, UnreadableFileError
from mlipfm_md.initial_files import read_initial_states

ATOM = "HETATM    {k}  {name:<3}{location}LIG A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}{charge}\n"


def pdb(*rows, head="", location=" "):
    """Rows of (name, x, element, formal charge)."""
    return head + "".join(
        ATOM.format(k=k + 1, name=name, location=location, x=x, y=0.0, z=0.0, element=element, charge=charge)
        for k, (name, x, element, charge) in enumerate(rows)
    )


def one(path):
    [(start, said)] = read_initial_states(path)
    return start, said


def test_formal_charges_of_a_pdb_add_up_in_each_model(tmp_path):
    hydroxide = pdb(("O", 0.0, "O", "1-"), ("H", 0.96, "H", ""))
    (tmp_path / "oh.pdb").write_text(f"MODEL        1\n{hydroxide}ENDMDL\nMODEL        2\n{hydroxide}ENDMDL\nEND\n")
    assert [start.structure.total_charge for start, _ in read_initial_states(tmp_path / "oh.pdb")] == [-1, -1]
    (tmp_path / "neutral.pdb").write_text(pdb(("O", 0.0, "O", ""), ("H", 0.96, "H", "")) + "END\n")
    assert one(tmp_path / "neutral.pdb")[0].structure.total_charge is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pdb(("O", 0.0, "O", ""), location="A"), "alternate locations"),
        (pdb(("CA", 0.0, "", "")), "their names do not tell calcium from alpha carbon"),
    ],
)
def test_a_pdb_that_ase_would_guess_at_is_refused(tmp_path, text, words):
    (tmp_path / "x.pdb").write_text(text + "END\n")
    with pytest.raises(InvalidStructureError, match=words):
        read_initial_states(tmp_path / "x.pdb")


def test_the_cell_that_means_no_crystal_is_none_and_a_space_group_is_named(tmp_path):
    water = pdb(("O", 0.0, "O", ""), ("H", 0.96, "H", "")) + "END\n"
    cell = "CRYST1{:9.3f}{:9.3f}{:9.3f}  90.00  90.00  90.00 {:<11}  1\n"
    (tmp_path / "none.pdb").write_text(cell.format(1, 1, 1, "P 1") + water)
    assert not one(tmp_path / "none.pdb")[0].structure.pbc.any()
    (tmp_path / "group.pdb").write_text(cell.format(20, 20, 20, "P 21 21 21") + water)
    start, said = one(tmp_path / "group.pdb")
    assert start.structure.pbc.all()
    assert said.unused[0] == "the space group P 21 21 21: only the atoms that the file lists are taken"


def test_sites_that_are_occupied_in_part_are_refused(tmp_path):
    ase.io.write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    assert one(tmp_path / "cu.cif")[0].structure.formula == "Cu4"
    text = (tmp_path / "cu.cif").read_text()
    (tmp_path / "half.cif").write_text(text.replace("1.0000", "0.5000", 1))
    with pytest.raises(InvalidStructureError, match=r"occupied in part: Cu 0\.5"):
        read_initial_states(tmp_path / "half.cif")


@pytest.mark.parametrize(("columns", "formula"), [("id element x y z", "CO"), ("id type x y z", None)])
def test_a_dump_of_lammps_needs_elements(tmp_path, columns, formula):
    kinds = ("C", "O") if "element" in columns else ("1", "2")
    rows = "".join(f"{k + 1} {kind} {k * 1.2} 0 0\n" for k, kind in enumerate(kinds))
    box = "0 10\n" * 3
    (tmp_path / "co.lammpstrj").write_text(
        f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n{box}ITEM: ATOMS {columns}\n{rows}"
    )
    if formula:
        assert one(tmp_path / "co.lammpstrj")[0].structure.formula == formula
        return
    with pytest.raises(InvalidStructureError, match="types and no elements"):
        read_initial_states(tmp_path / "co.lammpstrj")
    (tmp_path / "water.data").write_text("LAMMPS\n")
    with pytest.raises(UnreadableFileError, match="Z_of_type"):
        read_initial_states(tmp_path / "water.data")


def test_a_data_file_of_lammps_with_masses_has_elements(tmp_path):
    """Velocities are in units that the file does not say, and are not taken for those of `units metal`."""
    ase.io.write(
        tmp_path / "alloy.data", Atoms("CuAu", [[0, 0, 0], [2.6, 0, 0]], cell=[6, 7, 8], pbc=True), format="lammps-data", masses=True
    )
    start, _ = one(tmp_path / "alloy.data")
    assert start.structure.formula == "AuCu"
    assert start.structure.cell.diagonal().tolist() == [6, 7, 8]
    text = (tmp_path / "alloy.data").read_text()
    (tmp_path / "moving.data").write_text(f"{text}\nVelocities\n\n1 0.1 0 0\n2 0 0 0\n")
    with pytest.raises(UnreadableFileError, match="does not say their units"):
        read_initial_states(tmp_path / "moving.data")


def test_ions_of_a_gro_file_are_no_carbon_and_nitrogen(tmp_path):
    rows = "".join(
        f"{k + 1:5d}{residue:<5}{atom:>5}{k + 1:5d}{0.3 * k:8.3f}{0.0:8.3f}{0.0:8.3f}\n"
        for k, (residue, atom) in enumerate([("NA", "NA"), ("CL", "CL"), ("ALA", "CA")])
    )
    (tmp_path / "ions.gro").write_text(f"ions\n3\n{rows}   3.0   3.0   3.0\n")
    assert one(tmp_path / "ions.gro")[0].structure.atomic_numbers.tolist() == [11, 17, 6]


def test_charge_and_masses_of_inputs_of_quantum_espresso_and_gaussian(tmp_path):
    ase.io.write(
        tmp_path / "oh.pwi", Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], cell=8 * np.eye(3), pbc=True),
        input_data={"system": {"tot_charge": -1}}, pseudopotentials={"O": "O.upf", "H": "H.upf"},
    )  # fmt: skip
    assert one(tmp_path / "oh.pwi")[0].structure.total_charge == -1
    (tmp_path / "d2o.gjf").write_text("#p HF/6-31G*\n\nheavy\n\n0 1\nO 0.0 0.0 0.1\nH(iso=2) 0.0 0.76 -0.48\nH(iso=2) 0.0 -0.76 -0.48\n\n")
    assert one(tmp_path / "d2o.gjf")[0].amu[1:].tolist() == [ISOTOPES["D"][1]] * 2


@pytest.mark.parametrize("name", ["water.XYZ", "water.xyz.gz", "WATER.extxyz"])
def test_suffixes_in_capitals_and_compressed_files_are_read_alike(tmp_path, name):
    text = b"3\nProperties=species:S:1:pos:R:3:move_mask:S:1 net_charge=-1\nO 0 0 0 F\nD 0.96 0 0 T\nH -0.24 0.93 0 T\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else b"\xef\xbb\xbf" + text)
    start, _ = one(tmp_path / name)
    assert start.structure.total_charge == -1
    assert start.amu[1] == ISOTOPES["D"][1]
    assert start.axes_fixed.tolist() == [[True] * 3, [False] * 3, [False] * 3]


def test_a_molfile_without_its_hydrogen_is_refused(tmp_path):
    head = "\n  x                   3D\n\n  2  1  0  0  0  0            999 V2000\n"
    row = "{:10.4f}    0.0000    0.0000 {:<3} 0  0\n"
    (tmp_path / "no.mol").write_text(head + row.format(0, "C") + row.format(1.4, "O") + "  1  2  1  0\nM  END\n")
    with pytest.raises(InvalidStructureError, match="hydrogen atoms are left out"):
        read_initial_states(tmp_path / "no.mol")


def test_the_trajectory_does_not_replace_the_start_nor_results_those_of_another_file(tmp_path, capsys):
    from mlipfm_interfaces.cli import main
    from mlipfm_md._structure_work import Job

    ase.io.write(tmp_path / "cu.xyz", bulk("Cu", cubic=True))
    before = (tmp_path / "cu.xyz").read_bytes()
    with pytest.raises(SystemExit):
        main(["md", "run", "emt:", str(tmp_path / "cu.xyz"), "--export", str(tmp_path / "cu.xyz"), "--out", str(tmp_path / "run")])
    assert "would replace the starting structure" in capsys.readouterr().err
    assert (tmp_path / "cu.xyz").read_bytes() == before
    (tmp_path / "relax").mkdir()
    (tmp_path / "relax" / "relax.json").write_text(f'{{"command": "relax", "file": "{tmp_path / "cu.xyz"}", "model": "emt:"}}')
    asked = {"level": None, "charge": None, "multiplicity": None, "frame": -1, "free_all": False, "as_json": False}
    Job("relax", tmp_path / "cu.xyz", "emt:", tmp_path / "relax", **asked)
    with pytest.raises(SimulationError, match="holds the results of `mlipfm relax` of .*cu.xyz by emt:"):
        Job("relax", tmp_path / "au.xyz", "emt:", tmp_path / "relax", **asked)


def test_a_record_names_the_file_of_the_model_and_the_level_that_it_predicts(tmp_path, capsys):
    from mlipfm_interfaces.checkpoint import resolve
    from mlipfm_interfaces.cli import main

    (tmp_path / "two.xyz").write_text("2\ncharge=0 spin=1\nH 0 0 0\nF 0 0 0.92\n" * 2)
    with pytest.raises(SystemExit):
        main(["relax", str(tmp_path / "two.xyz"), "--out", str(tmp_path / "out"), "--steps", "3"])
    assert "not used: 1 other frame of the file" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "relax.json").read_text())
    digest = hashlib.sha256(resolve("mlipfm-mol-medium").read_bytes()).hexdigest()
    assert record["model_file"] == {"sha256": digest, "level": "gfn2-xtb"}


AMMONIUM = """
  made by hand      3D

  5  4  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 N   0{code}
    0.5900    0.5900    0.5900 H   0  0
   -0.5900   -0.5900    0.5900 H   0  0
   -0.5900    0.5900   -0.5900 H   0  0
    0.5900   -0.5900   -0.5900 D   0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
  1  5  1  0
{lines}M  END
"""


@pytest.mark.parametrize(
    ("code", "lines", "state"),
    [
        pytest.param("  3", "", (1, None), id="code"),
        pytest.param("  0", "M  CHG  1   1   1\n", (1, None), id="line"),
        pytest.param("  4", "", (0, 2), id="radical-code"),
        pytest.param("  0", "M  RAD  1   1   2\n", (None, 2), id="radical-line"),
        pytest.param("  3", "M  CHG  1   2  -1\n", (-1, None), id="line-replaces-code"),
        pytest.param("  0", "", (None, None), id="neither"),
    ],
)
def test_charges_radicals_and_isotopes_of_mdl_files_are_those_of_the_format(tmp_path, code, lines, state):
    (tmp_path / "nh4.mol").write_text(AMMONIUM.format(code=code, lines=lines))
    [(start, _)] = read_initial_states(tmp_path / "nh4.mol")
    assert (start.structure.total_charge, start.structure.spin_multiplicity) == state
    assert start.structure.atomic_numbers.tolist() == [7, 1, 1, 1, 1]
    assert start.amu[4] == ISOTOPES["D"][1]


def test_all_molecules_of_an_sdf_file_are_read(tmp_path):
    text = AMMONIUM.format(code="  0", lines="M  CHG  1   1   1\nM  ISO  1   1  15\n")
    both = AMMONIUM.format(code="  0", lines="M  RAD  2   1   2   2   2\n") + "> <name>\nradicals\n\n$$$$\n"
    (tmp_path / "two.sdf").write_text(text + "$$$$\n" + both)
    (first, of_first), (second, of_second) = read_initial_states(tmp_path / "two.sdf")
    assert (first.structure.total_charge, second.structure.total_charge) == (1, None)
    assert of_first.unused == ["the isotope 15N"]
    assert of_second.unused == ["radicals at 2 atoms, whose spins may be parallel or not (--multiplicity says it)"]


@pytest.mark.parametrize(("old", "new", "words"), [("3D", "2D", "drawing"), ("V2000", "V3000", "V3000 are not read")])
def test_mdl_files_without_a_geometry_that_can_be_read_are_refused(tmp_path, old, new, words):
    (tmp_path / "flat.sdf").write_text(AMMONIUM.format(code="  0", lines="").replace(old, new))
    with pytest.raises(InvalidStructureError, match=words):
        read_initial_states(tmp_path / "flat.sdf")


def test_charge_and_multiplicity_of_a_gaussian_input_are_read(tmp_path):
    (tmp_path / "oh.gjf").write_text("#p HF/6-31G* opt\n\nhydroxide\n\n-1 1\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n\n")
    [(start, _)] = read_initial_states(tmp_path / "oh.gjf")
    assert (start.structure.total_charge, start.structure.spin_multiplicity) == (-1, 1)
