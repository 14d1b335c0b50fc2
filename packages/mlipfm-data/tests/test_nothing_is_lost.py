"""Every column and field of a file is read, named as unread, or refused; and what a message offers works when it is followed.

The molecule is a harmonic water; crystals are copper with stresses chosen here, so that every right value is known.
"""

import json
import re
import shlex
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, Hookean
from ase.db import connect
from mlipfm_data import Store
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import (
    InvalidStructureError,
    MissingLabelsError,
    MlipfmError,
    ShapeError,
    UnconvergedError,
    UnreadableFileError,
)
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import BAR

VIRIAL = np.array([[2.0, 0.5, 0.0], [0.5, 3.0, -0.25], [0.0, -0.25, 4.0]])
FORCES = np.array([[0.5, 0.0, -0.25], [0.0, 0.25, 0.0], [-0.5, -0.25, 0.25], [0.0, 0.0, 0.0]])
PLACES = np.array([[0.0, 0.0, 0.0], [1.8, 1.8, 0.0], [1.8, 0.0, 1.8], [0.0, 1.8, 1.8]])


def words(values: np.ndarray) -> str:
    return " ".join(f"{x:.8f}" for x in np.asarray(values).reshape(-1))


def crystal(info: str = "", columns: str = "", cells: list[str] | None = None, forces: np.ndarray = FORCES) -> str:
    """A frame of copper in extended XYZ, of volume 64 Å³."""
    head = f'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3{columns} energy=-14.125 {info}\n'
    rows = [f"Cu {words(p)} {words(f)} {cell}\n" for p, f, cell in zip(PLACES, forces, cells or [""] * 4, strict=True)]
    return "4\n" + head + "".join(rows)


def told(path: Path, **options) -> tuple[list[Structure], ReadReport]:
    report = ReadReport()
    return read_all(path, report=report, **options), report


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def command(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out + err


# Extended XYZ


@pytest.mark.parametrize("case", [str, str.lower, str.upper, str.capitalize], ids=["as-written", "lower", "upper", "capitals"])
def test_keys_of_extended_xyz_mean_the_same_in_any_letter_case(tmp_path, case):
    text = crystal(f'virial="{words(VIRIAL)}" pbc="T T T" charge=0')
    for key in ("Lattice", "Properties", "energy", "virial", "pbc", "charge"):
        text = text.replace(f"{key}=", f"{case(key)}=")
    text = text.replace("species:S:1:pos:R:3:forces:R:3", f"{case('species')}:S:1:{case('pos')}:R:3:{case('forces')}:R:3")
    (s,), report = told(write(tmp_path / "a.xyz", text))
    assert s.pbc.all()
    assert float(s.labels["energy"]) == -14.125
    assert np.allclose(s.labels["forces"], FORCES)
    assert np.allclose(s.labels["stress"], -VIRIAL / 64)
    assert s.total_charge == 0
    assert not report.unused


def test_periodicity_that_only_a_cell_implies_is_said(tmp_path):
    (s,), report = told(write(tmp_path / "a.xyz", crystal()))
    assert s.pbc.all()
    assert "periodic: assumed, since a cell is there" in report.notes
    (_,), report = told(write(tmp_path / "b.xyz", crystal('pbc="T T T"')))
    assert not any("periodic" in note for note in report.notes)
    far = crystal().replace("4 0 0 0 4 0 0 0 4", "14 0 0 0 14 0 0 0 14")
    (_,), report = told(write(tmp_path / "c.xyz", far))
    assert any(note.startswith("warning: periodic: assumed") and "--option periodic=False" in note for note in report.notes)


@pytest.mark.parametrize(
    "text",
    [
        crystal().replace("Lattice=", "cell="),
        crystal().replace('Lattice="4 0 0 0 4 0 0 0 4"', 'Box="4 4 4"'),
        crystal().replace('Lattice="4 0 0 0 4 0 0 0 4"', 'unit_cell="4 4 4 90 90 90"'),
    ],
    ids=["cell", "box-of-three", "six"],
)
def test_a_lattice_that_is_not_understood_is_refused_and_the_offer_works(tmp_path, text):
    path = write(tmp_path / "a.xyz", text)
    with pytest.raises(InvalidStructureError, match="no cell is read here, but .* looks like one") as error:
        read_all(path)
    key = re.search(r"ignore=(\w+)", str(error.value))
    assert key is not None
    assert not read_all(path, ignore=(key[1],))[0].pbc.any()
    with pytest.raises(UnreadableFileError, match="6 numbers, nine are needed"):
        read_all(write(tmp_path / "b.xyz", crystal().replace("4 0 0 0 4 0 0 0 4", "4 4 4 90 90 90")))


@pytest.mark.parametrize("comment", ["energy=-14.125", "energy = -14.125 made by hand", "-14.125"])
@pytest.mark.parametrize("width", [5, 7, 8, 10])
def test_columns_of_plain_xyz_are_named_and_their_names_can_be_used(tmp_path, comment, width):
    rows = "".join(f"Cu {words(p)} {words(np.arange(width - 4) + k)}\n" for k, p in enumerate(PLACES))
    path = write(tmp_path / "a.xyz", f"4\n{comment}\n{rows}")
    options = {} if "energy" in comment else {"energy_key": "comment"}
    (s,), report = told(path, **options)
    name = f"columns_5-{width}" if width > 5 else "column_5"
    assert float(s.labels["energy"]) == -14.125
    assert "forces" not in s.labels
    assert name in report.unused
    if width == 5:
        assert read_all(path, charges_key=name, **options)[0].labels["charges"].tolist() == [0, 1, 2, 3]
    else:
        (s,), report = told(path, forces_key="columns_5-7", **options)
        assert s.labels["forces"][2].tolist() == [2, 3, 4]
        assert name not in report.unused


def test_columns_that_only_some_atoms_have_and_columns_named_twice_are_not_passed_over(tmp_path):
    rows = "".join(f"Cu {words(p)}{' surface' * (k % 2)}\n" for k, p in enumerate(PLACES))
    _, report = told(write(tmp_path / "a.xyz", f"4\nenergy=-14\n{rows}"))
    assert "columns behind 4 of some atoms" in report.unused
    with pytest.raises(UnreadableFileError, match="names 'Forces' twice"):
        read_all(write(tmp_path / "b.xyz", crystal(columns=":Forces:R:3", cells=["0 0 0"] * 4)))
    with pytest.raises(UnreadableFileError, match="names elements twice"):
        read_all(write(tmp_path / "c.xyz", crystal(columns=":Z:I:1", cells=["13"] * 4)))
    with pytest.raises(UnreadableFileError, match="'maybe' in column 'move_mask' is neither true nor false"):
        read_all(write(tmp_path / "d.xyz", crystal(columns=":move_mask:L:1", cells=["T", "F", "maybe", "T"])))


def test_every_offer_for_a_stress_that_contradicts_a_virial_works(tmp_path, capsys):
    path = write(tmp_path / "a.xyz", crystal(f'pbc="T T T" virial="{words(VIRIAL)}" stress="{words(VIRIAL / 64)}"'))
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "s")
    assert status == 2
    assert "differ by their sign only" in out
    offers = re.findall(r"--(?:stress|virial)-key \w+", out)
    assert len(set(offers)) == 2
    for k, offer in enumerate(dict.fromkeys(offers)):
        status, out = command(capsys, "data", "import", path, "--out", tmp_path / f"s{k}", *shlex.split(offer))
        assert status == 0, out
        with Store(tmp_path / f"s{k}") as store:
            assert np.allclose(np.abs(store[0].labels["stress"]), np.abs(VIRIAL) / 64)


def test_results_of_a_calculator_are_found_under_the_name_that_messages_use(tmp_path):
    atoms = Atoms("Cu4", PLACES)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.info["REF_energy"] = -2.0
    ase.io.write(tmp_path / "a.traj", atoms)
    with pytest.raises(InvalidStructureError) as error:
        read_all(tmp_path / "a.traj")
    offered = re.search(r"'([^']+)' or '([^']+)'$", str(error.value))
    assert offered is not None
    assert {float(read_all(tmp_path / "a.traj", energy_key=key)[0].labels["energy"]) for key in offered.groups()} == {-1.0, -2.0}


# Atoms that a constraint holds, weights


def test_atoms_that_a_file_holds_are_kept_whatever_the_format(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint([FixAtoms([0, 2]), FixCartesian(1, [True, True, True]), FixCartesian(3, [True, False, False])])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((4, 3)))
    ase.io.write(tmp_path / "a.traj", atoms)
    with connect(tmp_path / "a.db", use_lock_file=False) as database:
        database.write(atoms)
    flags = ("F F F", "F F F", "F F F", "F T T")
    rows = "".join(f"{words(p / 4)} {flag}\n" for p, flag in zip(PLACES, flags, strict=True))
    write(tmp_path / "POSCAR", f"Cu\n1.0\n4 0 0\n0 4 0\n0 0 4\nCu\n4\nSelective dynamics\nDirect\n{rows}")
    text = crystal(columns=":move_mask:L:1", cells=["F", "F", "F", "T"])
    for path in (tmp_path / "a.traj", tmp_path / "a.db", tmp_path / "POSCAR", write(tmp_path / "a.xyz", text)):
        (s,), report = told(path, require=())
        assert s.labels["fixed"].tolist() == [1, 1, 1, 0], path
        assert "fixed" in report.used
        assert ("along some axes" in str(report.notes)) == (path.suffix != ".xyz")


def test_constraints_that_cannot_be_kept_are_named(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(Hookean(0, 1, rt=2.0, k=5.0))
    ase.io.write(tmp_path / "a.traj", atoms)
    (s,), report = told(tmp_path / "a.traj")
    assert "fixed" not in s.labels
    assert "constraint Hookean" in report.unused


def test_zero_forces_of_held_atoms_weigh_nothing_and_of_others_on_demand(tmp_path, capsys):
    held = crystal(columns=":move_mask:L:1", cells=["T", "T", "T", "F"])
    (s,), report = told(write(tmp_path / "a.xyz", held))
    assert s.labels["forces_weight"].tolist() == [1, 1, 1, 0]
    assert any("forces of fixed atoms are exactly zero" in note for note in report.notes)
    path = write(tmp_path / "b.xyz", crystal())
    assert "forces_weight" not in read_all(path)[0].labels
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "s", "--mask-zero-forces")
    assert status == 0
    assert "as asked (forces_weight 0)" in out
    with Store(tmp_path / "s") as store:
        assert store[0].labels["forces_weight"].tolist() == [1, 1, 1, 0]
    (rest,) = read_all(write(tmp_path / "c.xyz", crystal(forces=0 * FORCES)), mask_zero_forces=True)
    assert "forces_weight" not in rest.labels  # a crystal at rest


@pytest.mark.parametrize("name", ["forces_weight", "force_mask", "Forces_Mask"])
def test_columns_that_weigh_forces_are_honoured(tmp_path, name):
    (s,), _ = told(write(tmp_path / "a.xyz", crystal(columns=f":{name}:R:1", cells=["1", "0", "0.5", "1"])))
    assert s.labels["forces_weight"].tolist() == [1, 0, 0.5, 1]


@pytest.mark.parametrize(("weight", "wanted"), [("1.0", 1), ("0", 0), ("0.5", 0.5)])
def test_one_weight_of_the_forces_of_a_frame_is_that_of_every_atom(tmp_path, weight, wanted):
    (s,), _ = told(write(tmp_path / "a.xyz", crystal(f"forces_weight={weight}")))
    assert s.labels.get("forces_weight", np.ones(4)).tolist() == [wanted] * 4  # 1 is what forces count without a weight


def test_a_label_of_weight_zero_that_is_needed_is_said_with_both_ways_out(tmp_path):
    path = write(tmp_path / "a.xyz", crystal("config_energy_weight=0"))
    with pytest.raises(MissingLabelsError, match=r"energy left out: config_energy_weight is 0") as caught:
        read_all(path, require=("energy",))
    assert "--require forces" in str(caught.value.hint)
    assert "--option ignore=config_energy_weight" in str(caught.value.hint)
    assert "energy" not in read_all(path, require=("forces",))[0].labels
    assert "energy" in read_all(path, require=("energy",), ignore=("config_energy_weight",))[0].labels


def test_weights_of_mace_are_honoured_or_named(tmp_path):
    def of(info: str) -> tuple[Structure, ReadReport]:
        (s,), report = told(write(tmp_path / "a.xyz", crystal(info)))
        return s, report

    s, _ = of("config_weight=2 config_energy_weight=0.5 config_forces_weight=0.5")
    assert float(s.labels["weight"]) == 1.0
    s, _ = of("config_weight=0.25")
    assert float(s.labels["weight"]) == 0.25
    s, report = of("config_energy_weight=1 config_forces_weight=0")
    assert "forces" not in s.labels
    assert any(note.startswith("forces left out: config_forces_weight is 0") for note in report.notes)
    s, report = of("config_energy_weight=1 config_forces_weight=10")
    assert "weight" not in s.labels
    assert any("weights of the energy, forces and stress of a frame differ" in note for note in report.notes)
    with pytest.raises(ShapeError, match="'config_weight' must be one number"):
        of("config_weight=high")


def test_a_weight_of_unknown_meaning_is_named_and_the_offer_works(tmp_path, capsys):
    path = write(tmp_path / "a.xyz", crystal('pbc="T T T" weight=63.5'))
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "s")
    offer = re.search(r"--option keys=\S+", out)
    assert status == 0
    assert offer is not None, out
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "w", *offer[0].split())
    assert status == 0, out
    with Store(tmp_path / "w") as store:
        assert float(store[0].labels["weight"]) == 63.5
    with pytest.raises(MissingLabelsError, match="no key 'w' for weight"):
        read_all(path, keys={"weight": "w"})


@pytest.mark.parametrize("name", ["weight", "Weight", "sample_weight"])
def test_a_weight_of_zero_leaves_the_frame_out_whatever_it_is_called(tmp_path, name):
    (out,), _ = told(write(tmp_path / "a.xyz", crystal(f"{name}=0")))
    assert float(out.labels["weight"]) == 0.0
    (counts,), report = told(write(tmp_path / "b.xyz", crystal(f"{name}=1.0")))
    assert float(counts.labels["weight"]) == 1.0
    assert not any("not honoured" in note for note in report.notes)
    (both,), _ = told(write(tmp_path / "c.xyz", crystal(f"{name}=0 config_weight=2")))
    assert float(both.labels["weight"]) == 0.0


def test_initial_charges_that_add_up_to_an_ion_are_warned_of_and_not_read(tmp_path):
    atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]], charges=[1, 0], magmoms=[0, 1])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    ase.io.write(tmp_path / "a.traj", atoms)
    (s,), report = told(tmp_path / "a.traj")
    assert (s.total_charge, s.spin_multiplicity) == (None, None)
    assert "charges" not in s.labels
    assert any("'initial_charges' add up to +1, and no total charge is given" in note for note in report.notes)
    assert any("'initial_magmoms' add up to +1" in note for note in report.notes)
    _, report = told(tmp_path / "a.traj", total_charge=1, spin_multiplicity=2)
    assert not any("add up" in note for note in report.notes)
    atoms.set_initial_charges([1, -1])
    ase.io.write(tmp_path / "b.traj", atoms)
    _, report = told(tmp_path / "b.traj", spin_multiplicity=2)
    assert not any("add up" in note for note in report.notes)


# JSON


def pymatgen(**more) -> dict:
    sites = [{"species": [{"element": "Cu", "occu": 1}], "abc": (p / 4).tolist(), "xyz": p.tolist(), "properties": {}} for p in PLACES]
    return {"structure": {"@class": "Structure", "lattice": {"matrix": (4 * np.eye(3)).tolist()}, "sites": sites}} | more


def test_stress_of_matpes_is_kbar_with_the_sign_of_vasp_in_the_order_of_voigt(tmp_path):
    entry = pymatgen(
        matpes_id="m-1", energy=-14.0, forces=FORCES.tolist(), stress=[10, 20, 30, 4, 5, 6], composition={"Cu": 4}, functional="PBE"
    )
    (s,), report = told(write(tmp_path / "a.json", json.dumps([entry])))
    assert np.allclose(s.labels["forces"], FORCES)
    assert np.allclose(s.labels["stress"], -1000 * BAR * np.array([[10, 6, 5], [6, 20, 4], [5, 4, 30]]))
    assert report.unused.keys() == {"functional"}
    del entry["matpes_id"]
    assert np.array_equal(read_all(write(tmp_path / "b.json", json.dumps({"x": entry})))[0].labels["stress"], s.labels["stress"])


@pytest.mark.parametrize(
    "more",
    [
        {"energy": -14.0, "composition": {"Cu": 4}},  # ComputedStructureEntry
        {"uncorrected_total_energy": -14.0, "mp_id": "mp-1"},  # MPtrj
        {"outputs": {"energy": -14.0}, "description": "x"},  # SNAP
        {"energy": -14.0},  # a table
    ],
    ids=["computed-entry", "mptrj", "snap", "table"],
)
def test_every_field_beside_a_structure_is_read_or_named(tmp_path, more):
    fields = {"velocities": FORCES.tolist(), "charge_bader": [0.1] * 4, "elastic": np.eye(6).tolist(), "note": "made", "data": {"hull": 0.1, "x": {}},
              "ragged": [[1], [1, 2]], "cauchy": [1, 2, 3, 4, 5, 6]}  # fmt: skip
    (s,), report = told(write(tmp_path / "a.json", json.dumps([pymatgen(**more, **fields)])))
    assert float(s.labels["energy"]) == -14.0
    assert report.unused.keys() == {"velocities", "charge_bader", "elastic", "note", "data_hull", "ragged", "cauchy"}


def test_forces_beside_an_entry_are_read_and_a_stress_of_no_unit_waits_for_its_unit(tmp_path):
    entry = pymatgen(energy=-14.0, composition={"Cu": 4}, forces=FORCES.tolist(), stress=[10, 20, 30, 4, 5, 6])
    path = write(tmp_path / "a.json", json.dumps([entry]))
    (s,), report = told(path)
    assert np.allclose(s.labels["forces"], FORCES)
    assert "stress" not in s.labels
    assert "entry_stress" in report.unused
    assert any("no stress is read; a key looks like it: 'entry_stress': --stress-key" in line for line in report.lines())
    assert not any("forces are read" in line for line in report.lines())
    (s,) = read_all(path, stress_key="entry_stress", stress_unit="kbar", stress_sign=-1)
    assert s.labels["stress"][0, 0] == pytest.approx(-10000 * BAR)


def test_forces_under_an_unknown_name_are_warned_of_and_the_offer_works(tmp_path, capsys):
    path = write(tmp_path / "a.json", json.dumps([pymatgen(energy=-14.0, abs_forces=[0.5] * 4, atomic_forces=FORCES.tolist())]))
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "s")
    assert status == 0
    assert "warning: no forces are read; a key looks like it: 'atomic_forces': --forces-key" in out
    assert command(capsys, "data", "import", path, "--out", tmp_path / "t", "--forces-key", "atomic_forces")[0] == 0
    with Store(tmp_path / "t") as store:
        assert np.allclose(store[0].labels["forces"], FORCES)


def test_energies_per_atom_of_jarvis_are_said_to_be_multiplied(tmp_path):
    atoms = {"elements": ["Cu"] * 4, "lattice_mat": (4 * np.eye(3)).tolist(), "coords": PLACES.tolist(), "cartesian": True}
    (s,), report = told(write(tmp_path / "a.json", json.dumps([{"atoms": atoms, "total_energy": -3.5, "jid": "JVASP-1"}])))
    assert float(s.labels["energy"]) == -14.0
    assert any("total_energy is per atom (layout jarvis)" in line for line in report.lines())


def test_rows_that_other_programs_write_like_those_of_ase_lose_nothing(tmp_path):
    row = {"numbers": [29] * 4, "positions": PLACES.tolist(), "cell": (4 * np.eye(3)).tolist(), "pbc": [True] * 3, "energy": -14.0,
           "forces": FORCES.tolist(), "virial": VIRIAL.tolist(), "velocities": FORCES.tolist(), "entropy": 0.5}  # fmt: skip
    (s,), report = told(write(tmp_path / "a.json", json.dumps([row])))
    assert np.allclose(s.labels["stress"], -VIRIAL / 64)
    assert report.unused.keys() == {"velocities", "entropy"}


def test_selective_dynamics_of_sites_are_fixed_atoms(tmp_path):
    entry = pymatgen(energy=-14.0)
    for k, site in enumerate(entry["structure"]["sites"]):
        site["properties"] = {"selective_dynamics": [k > 1] * 3}
    (s,), _ = told(write(tmp_path / "a.json", json.dumps([entry])))
    assert s.labels["fixed"].tolist() == [1, 1, 0, 0]


# Arrays


def test_arrays_of_npz_files_that_are_not_read_are_named(tmp_path):
    x = np.array([PLACES, PLACES + 0.1])
    known = {"pos": x, "energy": np.zeros(2), "atomic_numbers": np.full(4, 29)}
    np.savez(tmp_path / "a.npz", **known, virial=np.zeros((2, 3, 3)), velocities=x, lattice=4 * np.eye(3))
    structures, report = told(tmp_path / "a.npz")
    assert structures[0].pbc.all()
    assert "periodic: assumed, since a cell is there" in report.notes
    assert report.unused.keys() == {"virial", "velocities"}


def test_files_of_deepmd_systems_that_are_not_read_are_named_and_prefactors_of_forces_are_weights(tmp_path):
    folder = tmp_path / "a" / "set.000"
    folder.mkdir(parents=True)
    write(tmp_path / "a" / "type.raw", "0 0 0 0")
    write(tmp_path / "a" / "type_map.raw", "Cu")
    arrays = {"coord": PLACES.reshape(1, -1), "box": 4 * np.eye(3).reshape(1, -1), "energy": [-14.0], "force": FORCES.reshape(1, -1),
              "atom_pref": np.repeat([1.0, 1.0, 0.0, 1.0], 3)[None], "fparam": [[300.0]]}  # fmt: skip
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(value))
    (s,), report = told(tmp_path / "a")
    assert s.labels["forces_weight"].tolist() == [1, 1, 0, 1]
    assert report.unused.keys() == {"fparam.npy"}


# Convergence


def vasprun(steps: list[list[float]], nelm: int = 5, ml: str = "F", more: str = "") -> str:
    rows = lambda values: "".join(f"<v>{' '.join(map(str, row))}</v>" for row in values)  # noqa: E731
    parts = "".join(
        "<calculation>"
        + "".join(f"<scstep><energy><i name='e_fr_energy'>{e}</i><i name='e_0_energy'>{e}</i></energy></scstep>" for e in energies)
        + f"<structure><crystal><varray name='basis'>{rows(4 * np.eye(3))}</varray></crystal>"
        f"<varray name='positions'>{rows(PLACES / 4 + 0.001 * k)}</varray></structure><varray name='forces'>{rows(FORCES)}</varray>"
        f"<energy><i name='e_fr_energy'>{energies[-1] if energies else -14.0}</i></energy>{more}</calculation>"
        for k, energies in enumerate(steps)
    )
    atoms = "".join("<rc><c>Cu</c><c>1</c></rc>" for _ in PLACES)
    incar = f"<incar><i type='logical' name='ML_LMLFF'> {ml} </i></incar>"
    settings = f"<parameters><separator name='e'><i type='int' name='NELM'> {nelm}</i><i name='EDIFF'>1e-4</i></separator>"
    settings += "<separator name='response functions'><i type='int' name='NELM'> 1</i></separator></parameters>"
    return f"<?xml version='1.0'?><modeling>{incar}{settings}<atominfo><array name='atoms'><set>{atoms}</set></array></atominfo>{parts}</modeling>"


CONVERGED = [-13.0, -14.0, -14.00001]


def test_ionic_steps_that_used_all_electronic_steps_are_refused_or_taken_on_demand(tmp_path, capsys):
    steps = [CONVERGED, [-10.0, -11.0, -12.0, -13.0, -13.5], [-10.0, -12.0, -13.0, -14.0, -14.00001]]
    path = write(tmp_path / "vasprun.xml", vasprun(steps))
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "s")
    assert status == 2
    assert "2 stored + 0 already there + 1 refused" in out
    assert "frame 1: the electrons did not converge: all 5 electronic steps (NELM) were used, the last changed the energy by 0.5 eV" in out
    status, out = command(capsys, "data", "import", path, "--out", tmp_path / "all", "--accept-unconverged")
    assert status == 0
    assert "3 stored" in out
    assert "not converged, and taken as asked" in out


def test_steps_that_a_force_field_of_vasp_predicted_are_refused(tmp_path):
    path = write(tmp_path / "vasprun.xml", vasprun([CONVERGED, []], ml="T"))
    first, second = read(path)
    assert isinstance(first, Structure)
    assert "predicted by VASP's machine-learned force field" in str(second.error)
    plain, other = read(write(tmp_path / "plain.xml", vasprun([CONVERGED, []])))  # a file without its electronic steps
    assert isinstance(plain, Structure)
    assert isinstance(other, Structure)


def test_other_results_of_a_vasprun_are_named(tmp_path):
    more = "<varray name='born_charges'><v>1 0 0</v></varray><varray name='epsilon'><v>1 0 0</v></varray>"
    _, report = told(write(tmp_path / "vasprun.xml", vasprun([CONVERGED], more=more)))
    assert {"born_charges", "epsilon"} <= report.unused.keys()


def outcar(*endings: str) -> str:
    step = "   NELM   =      3;   NELMIN=  2\n"
    for k, ending in enumerate(endings, 1):
        step += "".join(f"----------- Iteration {k:6d}({j:4d})  ---------\n" for j in (1, 2, 3))
        step += ending and f"------------------------ aborting loop {ending} ----------------\n"
        step += "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  free  energy   TOTEN  = -14.0 eV\n  energy  without entropy= -14.0\n"
    return step


def test_what_outputs_say_of_convergence_is_heard(tmp_path):
    from mlipfm_data.readers.convergence import PREDICTED, flags

    text = outcar("because EDIFF is reached", "EDIFF was not reached (unconverged)", "")
    predicted = "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  free  energy ML TOTEN  = -14.0 eV\n  ML energy  without entropy= -14.0\n"
    good, bad, silent, ml = flags(write(tmp_path / "OUTCAR", text + predicted), "vasp-out")
    assert good is None
    assert "EDIFF was not reached" in str(bad)
    assert "all 3 electronic steps (NELM) were used" in str(silent)  # VASP 5 ends without a word
    assert ml == PREDICTED
    lines = "     convergence has been achieved in   9 iterations\n     convergence NOT achieved after 100 iterations: stopping\n"
    assert [flag is None for flag in flags(write(tmp_path / "a.pwo", lines), "espresso-out")] == [True, False]


def test_a_log_of_cp2k_says_which_steps_did_not_converge(tmp_path):
    frame = "4\n i = {0}, time = 0.5, E = -17.0\n" + "".join(f"Cu {words(p)}\n" for p in PLACES)
    path = write(tmp_path / "run-pos-1.xyz", "".join(frame.format(k).replace(" 0.00000000\n", f" 0.0{k}\n") for k in range(3)))
    write(tmp_path / "run.out", " SCF run converged\n MD| Step number  1\n SCF run NOT converged\n MD| Step number  2\n")
    write(tmp_path / "run-vel-1.xyz", "")
    report = ReadReport()
    frames = list(read(path, cell="none", report=report))
    assert [isinstance(item, Structure) for item in frames] == [True, True, False]
    assert "run.out says of step 2: SCF run NOT converged" in str(frames[2].error)
    assert "run-vel-1.xyz" in report.unused


@pytest.mark.parametrize("said", ["converged=F", "scf_converged=False", "Converged=0"])
def test_frames_that_say_that_they_did_not_converge_are_refused(tmp_path, said):
    path = write(tmp_path / "a.xyz", crystal(said))
    with pytest.raises(UnconvergedError, match=re.escape(f"the file says {said}")):
        read_all(path)
    assert len(read_all(path, accept_unconverged=True)) == 1
    assert len(read_all(write(tmp_path / "b.xyz", crystal("converged=T")))) == 1


def test_partly_occupied_sites_of_a_cif_are_refused(tmp_path):
    sites = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
    head = (
        "data_x\n"
        + "".join(f"_cell_length_{a} 4.0\n" for a in "abc")
        + "".join(f"_cell_angle_{a} 90\n" for a in ("alpha", "beta", "gamma"))
    )
    for name, first in (("full", "1.0"), ("part", "0.5")):
        write(tmp_path / f"{name}.cif", head + sites + f"Cu1 Cu 0 0 0 {first}\nAu1 Au 0.5 0.5 0.5 1.0\n")
    assert len(read_all(tmp_path / "full.cif")) == 1
    with pytest.raises(MlipfmError, match="a site is partly occupied"):
        read_all(tmp_path / "part.cif")


# A look at a store


def test_show_says_labels_periodicity_constraints_weights_and_precision(tmp_path, capsys):
    held = crystal('pbc="T T F" REF_weight=0', columns=":move_mask:L:1", cells=["T", "T", "T", "F"])
    path = write(tmp_path / "a.xyz", held + crystal('pbc="T T T"').replace("0.00000000 0.00000000 0.00000000 0.5", "0.0 0.0 0.01 0.5"))
    assert command(capsys, "data", "import", path, "--out", tmp_path / "s")[0] == 0
    status, out = command(capsys, "data", "show", tmp_path / "s")
    assert status == 0
    for line in (
        "labels: ",
        "forces 2",
        "energy 2",
        "1 periodic",
        "1 partly periodic",
        "weights: 1 structures of weight 0",
        "fixed atoms: 1 atoms in 1 structures",
        "forces left out (forces_weight 0): 1 atoms in 1 structures",
        "precision of energies: whole multiples of",
    ):
        assert line in out, out
