"""`mlipfm relax`, `phonons`, `vibrations`, `eos`, `elastic`, `neb`, `ts` as a user types them, on files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from ase.calculators.emt import EMT
from mlipfm_interfaces.cli import main
from mlipfm_md import crystal_phonons
from mlipfm_md.crystal_elasticity import equation_of_state
from mlipfm_md.harmonic_vibrations import thermochemistry, vibrations
from mlipfm_md.reaction_paths import Path as EnergyPath
from mlipfm_md.relaxation import relax

#: As VASP writes it: copper, two atoms fixed.
POSCAR = """Cu slab
1.0
2.5456 0.0 0.0
0.0 2.5456 0.0
0.0 0.0 14.0
Cu
3
Selective dynamics
Cartesian
0.0 0.0 5.0 F F F
1.2728 1.2728 6.8 F F F
0.0 0.0 8.7 T T T
"""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_relaxing_a_poscar_keeps_its_fixed_atoms_and_writes_what_other_tools_open(tmp_path, capfd):
    (tmp_path / "POSCAR").write_text(POSCAR)
    assert run("relax", tmp_path / "POSCAR", "--model", "emt:", "--out", tmp_path / "out") == 0
    said = capfd.readouterr()
    assert "fixed: atoms 0-1" in said.err
    assert "step 0: energy" in said.err
    assert "largest force" in said.out
    relaxed = ase.io.read(tmp_path / "out" / "relaxed.extxyz")
    assert relaxed.positions[:2] == pytest.approx(ase.io.read(tmp_path / "POSCAR").positions[:2])
    energies = [frame.get_potential_energy() for frame in ase.io.read(tmp_path / "out" / "trajectory.extxyz", ":")]
    found = record(tmp_path / "out", "relax")
    assert energies == pytest.approx(found["results"]["energies"])
    assert found["units"]["energy"] == "eV"
    assert found["notes"]
    assert (tmp_path / "out" / "relax.png").read_bytes().startswith(b"\x89PNG")


def test_under_pressure_the_enthalpy_is_lowest_and_the_pressure_that_was_reached_is_said(tmp_path, capsys):
    bulk("Cu", cubic=True).write(tmp_path / "cu.xyz")
    assert run("relax", tmp_path / "cu.xyz", "--model", "emt:", "--cell", "full", "--pressure", "5", "--out", tmp_path / "out") == 0
    found = record(tmp_path / "out", "relax")["results"]
    atoms = ase.io.read(tmp_path / "out" / "relaxed.extxyz")
    pressure = 5.0 / 160.21766208  # eV/Å³
    assert found["pressure_reached"] == pytest.approx(5.0, abs=0.05)  # it ends where --fmax is met: 4.98 here
    assert found["enthalpy"] == pytest.approx(atoms.get_potential_energy() + pressure * atoms.get_volume(), abs=1e-6)
    for scale in (0.995, 1.005):
        other = atoms.copy()
        other.calc = EMT()
        other.set_cell(scale * other.cell, scale_atoms=True)
        assert other.get_potential_energy() + pressure * other.get_volume() > found["enthalpy"]
    assert "enthalpy / eV" in capsys.readouterr().out


@pytest.mark.filterwarnings("default:structures that give no")
def test_without_a_model_the_released_one_relaxes_molecules_and_refuses_copper(tmp_path, capfd):
    pytest.importorskip("mlipfm_models")
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    assert run("relax", tmp_path / "water.xyz", "--out", tmp_path / "out") == 0
    assert "site-packages" not in (said := capfd.readouterr().err)
    assert ".py" not in said
    assert ase.io.read(tmp_path / "out" / "relaxed.extxyz").get_angle(1, 0, 2) == pytest.approx(105, abs=4)  # experiment: 104.5
    (tmp_path / "POSCAR").write_text(POSCAR)
    assert run("relax", tmp_path / "POSCAR", "--out", tmp_path / "other") == 2
    assert "Cu" in capfd.readouterr().err


def test_an_open_shell_without_its_multiplicity_is_refused_in_float64_too(tmp_path, capfd):
    ase.io.write(tmp_path / "OH.xyz", molecule("OH"))
    assert run("relax", tmp_path / "OH.xyz", "--out", tmp_path / "out") == 2
    assert "gives no spin multiplicity; its number of electrons is odd" in capfd.readouterr().err
    assert run("relax", tmp_path / "OH.xyz", "--multiplicity", 3, "--out", tmp_path / "other") == 2
    assert "taken as neutral: its number of electrons is then odd" in capfd.readouterr().err


def test_a_relaxation_that_does_not_end_is_an_error_that_leaves_what_it_has(tmp_path, capfd):
    (tmp_path / "POSCAR").write_text(POSCAR)
    assert run("relax", tmp_path / "POSCAR", "--model", "emt:", "--steps", 1, "--out", tmp_path / "out") == 2
    assert "not relaxed after 1 steps" in capfd.readouterr().err
    assert not record(tmp_path / "out", "relax")["results"]["converged"]


def test_the_command_gives_the_number_of_the_function(tmp_path, capfd):
    ase.io.write(tmp_path / "Cu.cif", bulk("Cu", "fcc", 3.6, cubic=True))
    assert run("eos", tmp_path / "Cu.cif", "--model", "emt:", "--out", tmp_path / "out", "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    atoms = ase.io.read(tmp_path / "Cu.cif")
    atoms.calc = EMT()
    assert printed["results"]["bulk_modulus"] == pytest.approx(equation_of_state(atoms).bulk_modulus, rel=1e-6)
    assert printed == record(tmp_path / "out", "eos")
    assert len((tmp_path / "out" / "eos.csv").read_text().splitlines()) == 10


def test_a_structure_that_is_not_relaxed_is_relaxed_with_a_word_or_refused(tmp_path, capfd):
    pytest.importorskip("phonopy")
    atoms = bulk("Cu", "fcc", 3.6, cubic=True)
    atoms.positions[0] += 0.05
    ase.io.write(tmp_path / "Cu.xyz", atoms)
    words = ("phonons", tmp_path / "Cu.xyz", "--model", "emt:", "--supercell", 3, 3, 3, "--out", tmp_path / "out")
    assert run(*words, "--as-is") == 2
    assert "phonons need a relaxed structure" in capfd.readouterr().err
    assert run(*words) == 0
    assert "it is relaxed first" in capfd.readouterr().err
    found = record(tmp_path / "out", "phonons")["results"]
    assert found["stable"]
    assert 7 < found["highest_frequency"] < 9  # measured: 7.3 THz (Svensson, Brockhouse and Rowe, Phys. Rev. 155, 619)
    assert (tmp_path / "out" / "phonopy_params.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eos", "slab.xyz"), "needs a crystal that is periodic in three directions; this is periodic along 2 of 3"),
        (("elastic", "slab.xyz"), "needs a crystal that is periodic in three directions; this is a slab"),
        (("phonons", "Cu.xyz", "--supercell", 1, 1, 1, "--as-is"), "--supercell 6 6 6 is 12"),
        (("neb", "Cu.xyz"), "the two ends are the same structure"),
        (("relax", "Cu.xyz", "--frame", 3), "there is no frame 3"),
        (("relax", "Cu.xyz", "--charge", 1), "neutral metals only"),
        (("relax", "nowhere.xyz"), "no such file"),
        (("relax", "Cu.xyz", "--pressure", 3), "whose volume may change"),
        (("relax", "field.xyz"), "an external field, [0.0, 0.0, 0.5] V/Å, acts in dynamics only"),
        (("phonons", "Cu.xyz", "--charge", 1), "neutral metals only"),
        (("eos", "Cu.xyz", "--charge", 1), "neutral metals only"),
        (("elastic", "Cu.xyz", "--charge", 1), "neutral metals only"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_reason_and_status_2(tmp_path, capfd, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    ase.io.write("Cu.xyz", bulk("Cu", "fcc", 3.59))
    slab = fcc100("Cu", (1, 1, 3), vacuum=5.0)
    slab.info.clear()
    ase.io.write("slab.xyz", slab)
    field = bulk("Cu", "fcc", 3.59)
    field.info["external_field"] = [0.0, 0.0, 0.5]
    ase.io.write("field.xyz", field)
    assert run(*words, "--model", "emt:") == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mlipfm: error[")
    assert said in last


@pytest.mark.ci
def test_the_symmetry_of_a_molecule_is_not_that_of_a_crystal(tmp_path, capfd):
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    assert run("relax", tmp_path / "water.xyz", "--model", "emt:", "--symmetry", "--out", tmp_path / "out") == 2
    assert "that of a crystal" in capfd.readouterr().err


def test_a_molecule_with_a_charge_vibrates_as_the_ion_that_it_is(tmp_path, capfd):
    """GFN2-xTB knows charges: H3O+ has other frequencies than water has, and the record says which ion it was."""
    pytest.importorskip("tblite")
    (tmp_path / "ion.xyz").write_text("4\ncharge=1 spin=1\nO 0 0 0.1\nH 0.95 0 -0.15\nH -0.475 0.823 -0.15\nH -0.475 -0.823 -0.15\n")
    assert run("vibrations", tmp_path / "ion.xyz", "--model", "tblite:GFN2", "--out", tmp_path / "out", "--symmetry-number", 3) == 0
    assert "charge 1, multiplicity 1" in capfd.readouterr().err
    found = record(tmp_path / "out", "vibrations")["results"]
    assert len(found["frequencies"]) == 6
    assert 3000 < max(found["frequencies"]) < 4000
    assert found["thermochemistry"]["gibbs_energy"] < found["thermochemistry"]["enthalpy"]
    assert np.abs(found["rigid"]).max() < 60


@pytest.mark.full
def test_hydrogen_of_hydrogen_cyanide_goes_around_to_nitrogen(tmp_path):
    """GFN2-xTB: 3.175 eV, which `mlipfm ts` finds from a bent guess; a straight line leads through both other atoms."""
    pytest.importorskip("tblite")
    (tmp_path / "r.xyz").write_text("3\n\nC 0 0 0\nN 0 0 1.15\nH 0.05 0 -1.07\n")
    (tmp_path / "p.xyz").write_text("3\n\nC 0 0 0\nN 0 0 1.17\nH 0.05 0 2.17\n")
    words = ("--product", tmp_path / "p.xyz", "--model", "tblite:GFN2", "--charge", 0, "--multiplicity", 1, "--out", tmp_path / "out")
    assert run("neb", tmp_path / "r.xyz", *words) == 0
    assert record(tmp_path / "out", "neb")["results"]["barrier"] == pytest.approx(3.175, abs=0.01)


def test_a_path_without_a_saddle_is_no_result_and_writes_none(tmp_path, capfd, monkeypatch):
    ase.io.write(tmp_path / "ends.xyz", [frame := bulk("Cu", "fcc", 3.59), frame])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "saddle.extxyz").write_text("of an earlier run")
    images = [bulk("Cu", "fcc", 3.59) for _ in range(4)]
    for image in images:
        image.calc = EMT()
    distances, energies = np.array([0.0, 0.4, 0.8, 3.0]), np.array([0.0, 0.1, 0.2, 0.8])
    path = EnergyPath(images, distances, energies, False, 0.01, (distances, energies))
    monkeypatch.setattr("mlipfm_md.reaction_paths.minimum_energy_path", lambda *_, **__: path)
    assert run("neb", tmp_path / "ends.xyz", "--model", "emt:", "--out", tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert "no saddle: the highest image of the path is an end" in said
    assert "the geometry jumps from image 2 to 3, 2.20 Å apart" in said
    assert not (tmp_path / "out" / "saddle.extxyz").exists()
    found = record(tmp_path / "out", "neb")["results"]
    assert found["barrier"] is None
    assert not found["converged"]


def test_a_model_before_the_file_is_told_where_it_belongs(tmp_path, capfd):
    assert run("relax", "emt:", tmp_path / "POSCAR") == 2
    assert "the model is given by --model MODEL" in capfd.readouterr().err


def test_a_molecule_in_a_wide_box_has_the_entropy_of_a_gas_and_in_a_narrow_one_of_a_crystal(tmp_path, capfd):
    """A box of a program of plane waves, the molecule across its border: same frequencies and entropy as without a box."""
    free = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]])
    ase.io.write(tmp_path / "free.xyz", free)
    boxed = free.copy()
    boxed.set_cell([12.0, 13.0, 12.5])
    boxed.pbc = True
    boxed.positions -= [0, 0, 1.1]
    boxed.wrap()
    assert np.ptp(boxed.positions[:, 2]) > 6.0
    ase.io.write(tmp_path / "boxed.xyz", boxed)
    found = {}
    for name in ("free", "boxed"):
        assert run("vibrations", tmp_path / f"{name}.xyz", "--model", "emt:", "--symmetry-number", 2, "--out", tmp_path / name) == 0
        found[name] = record(tmp_path / name, "vibrations")["results"]
    assert "treated as a free molecule" in capfd.readouterr().err
    assert len(found["boxed"]["rigid"]) == 5
    assert found["boxed"]["thermochemistry"]["entropy"] == pytest.approx(found["free"]["thermochemistry"]["entropy"], rel=1e-4)
    relaxed = ase.io.read(tmp_path / "boxed" / "relaxed.extxyz")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.005
    boxed.set_cell([7.0, 7.0, 7.0])
    ase.io.write(tmp_path / "narrow.xyz", boxed)
    assert run("vibrations", tmp_path / "narrow.xyz", "--model", "emt:", "--out", tmp_path / "narrow") == 0
    assert "treated as a crystal, slab or chain" in capfd.readouterr().err


def test_a_radical_without_a_multiplicity_has_the_entropy_of_a_doublet(tmp_path, capfd):
    """NiCu has 57 electrons: k ln 2 more than a singlet, which it cannot be."""
    entropy = {}
    for multiplicity in (None, 1, 2):
        radical = Atoms("NiCu", [[0, 0, 0], [0, 0, 2.2]], calculator=EMT(), info={} if multiplicity is None else {"spin": multiplicity})
        relaxed = relax(radical).atoms
        entropy[multiplicity] = thermochemistry(relaxed, vibrations(relaxed))["entropy"]
    assert entropy[None] == entropy[2] == pytest.approx(entropy[1] + 8.617333262e-5 * np.log(2))
    ase.io.write(tmp_path / "radical.xyz", Atoms("NiCu", [[0, 0, 0], [0, 0, 2.2]]))
    assert run("vibrations", tmp_path / "radical.xyz", "--model", "emt:", "--out", tmp_path / "out") == 0
    assert "the entropy is that of a doublet" in capfd.readouterr().err


def test_modes_have_one_number_in_the_table_and_in_the_file_of_vectors(tmp_path):
    """The stretch of a diatomic molecule moves its atoms against each other, and no rigid motion does."""
    ase.io.write(tmp_path / "pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]))
    assert run("vibrations", tmp_path / "pair.xyz", "--model", "emt:", "--out", tmp_path / "out") == 0
    ((number, wavenumber, _),) = [row.split(",") for row in (tmp_path / "out" / "modes.csv").read_text().splitlines()[1:]]
    lines = (tmp_path / "out" / "modes.xyz").read_text().splitlines()
    assert lines[1] == f"mode {number} f = {float(wavenumber):.1f} cm^-1"
    assert [line.split(" f = ")[0] for line in lines[5::4]] == [f"rigid motion {k}" for k in range(5)]
    stretches = [float(a.split()[6]) * float(b.split()[6]) for a, b in zip(lines[2::4], lines[3::4], strict=True)]
    assert stretches[0] < 0
    assert min(stretches[1:]) > -1e-6


@pytest.mark.parametrize(("same", "as_it"), [("1atm", "101325"), ("1bar", "100000"), ("0.0001GPa", "1e5Pa")])
def test_a_pressure_with_its_unit_is_the_same_for_every_command(tmp_path, same, as_it):
    ase.io.write(tmp_path / "pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]))
    found = []
    for text in (same, as_it):
        out = tmp_path / f"of-{text}"
        assert run("vibrations", tmp_path / "pair.xyz", "--model", "emt:", "--pressure", text, "--out", out) == 0
        found.append(record(out, "vibrations")["results"]["thermochemistry"]["entropy"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_relax_takes_a_pressure_in_bar_and_a_bare_number_is_gpa(tmp_path):
    bulk("Cu", cubic=True).write(tmp_path / "cu.xyz")
    volumes = []
    for text in ("50kbar", "5"):
        out = tmp_path / text
        assert run("relax", tmp_path / "cu.xyz", "--model", "emt:", "--cell", "full", "--pressure", text, "--out", out) == 0
        volumes.append(record(out, "relax")["results"]["volume"])
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-9)


def test_a_crystal_with_imaginary_modes_alone_has_no_highest_frequency_and_no_heat_capacity(tmp_path, capfd, monkeypatch):
    pytest.importorskip("phonopy")
    ase.io.write(tmp_path / "Cu.xyz", bulk("Cu", "fcc", 3.59))
    forces = crystal_phonons._forces  # with the other sign every minimum is a maximum
    monkeypatch.setattr(crystal_phonons, "_forces", lambda *a: -forces(*a))
    assert run("phonons", tmp_path / "Cu.xyz", "--model", "emt:", "--supercell", 4, 4, 4, "--fmax", 0.01, "--out", tmp_path / "out") == 0
    assert capfd.readouterr().out.count("not defined: all modes are") == 3
    found = record(tmp_path / "out", "phonons")["results"]
    assert found["highest_frequency"] is None
    assert found["thermal"] == []


def test_the_cell_of_a_slab_relaxes_in_its_plane_and_keeps_its_vacuum(tmp_path, capfd):
    """A slab in a box that is periodic in three directions, as VASP has it: lengths along the vacuum mean nothing."""
    slab = fcc100("Cu", (1, 1, 4), vacuum=6.0, a=3.7)
    slab.pbc = True
    slab.info.clear()
    ase.io.write(tmp_path / "slab.xyz", slab, columns=["symbols", "positions"])
    assert run("relax", tmp_path / "slab.xyz", "--model", "emt:", "--cell", "full", "--out", tmp_path / "out") == 0
    assert "lattice vector 3 runs across vacuum and is kept" in capfd.readouterr().err
    relaxed = ase.io.read(tmp_path / "out" / "relaxed.extxyz")
    assert relaxed.cell[2] == pytest.approx(slab.cell[2], abs=1e-9)
    assert relaxed.cell[0, 0] < 0.99 * slab.cell[0, 0]
    words = ("relax", tmp_path / "slab.xyz", "--model", "emt:", "--cell", "full", "--pressure", 1, "--out", tmp_path / "pressed")
    assert run(*words) == 2
    assert "would act on the vacuum of the slab" in capfd.readouterr().err
