"""`mlipfm md analyse`: what a user reads from a run, from a LAMMPS dump and from extended XYZ; refusals in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_md import NVE, Settings, export_extxyz, simulate
from mlipfm_md.observables import heat_capacity, read_run, read_trajectory
from mlipfm_md.observables.analysis import AnalysisRequest, analyse as analyse_data

CUBE = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight argon atoms in a cell, 60 frames at constant energy."""
    folder = tmp_path_factory.mktemp("analyse") / "argon"
    argon = Structure(np.full(8, 18), CUBE * 3.7 + 0.3, np.eye(3) * 7.6, [True] * 3)
    simulate(noble_gas(cutoff=6.0), [argon], NVE(), Settings(dt=4.0, steps=240, temperature=60, every=4), out=folder)
    return folder


def analyse(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["md", "analyse", *words])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_page_holds_its_plots_and_says_what_was_not_computed(run, capsys):
    code, out, _ = analyse(capsys, str(run))
    assert code == 0
    assert "not computed: pressure: the trajectory has no stress; --model computes it" in out
    page = (run / "analysis" / "analysis.html").read_text()
    assert page.count("<svg") >= 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("Content-Security-Policy", "").replace("http-equiv", "")
    for word in ("g(r) Ar-Ar", "energy drift", "21 degrees of freedom", "Not computed"):
        assert word in page
    with (run / "analysis" / "series.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 61
    assert set(rows[0]) == {"time/fs", "temperature/K", "potential/eV", "kinetic/eV", "conserved/eV", "volume/A^3"}
    assert float(rows[-1]["time/fs"]) == 960


@pytest.mark.ci
def test_record_has_units_and_reasons(run, capsys, tmp_path):
    code, out, _ = analyse(capsys, str(run), "--json", "--out", str(tmp_path / "a"))
    assert code == 0
    record = json.loads(out)
    assert record == json.loads((tmp_path / "a" / "analysis.json").read_text())
    units = {e["name"]: e["unit"] for e in record["estimates"]}
    assert units["temperature"] == "K"
    assert all(item["why"] for item in record["not_computed"])


def test_exported_trajectory_gives_the_same_numbers_as_the_run(run, tmp_path):
    """Through extended XYZ and ASE; positions wrapped into the cell on the way (ASE then drops the energies)."""
    from ase.io import read, write
    from mlipfm_md.observables.analysis import analyse

    export_extxyz(run, tmp_path / "a.xyz")
    written, original = read_trajectory(tmp_path / "a.xyz"), read_run(run)
    assert (written.ensemble, written.degrees_of_freedom) == (original.ensemble, original.degrees_of_freedom)
    with pytest.raises(ObservableError, match="the file gives the ensemble nve"):
        read_trajectory(tmp_path / "a.xyz", ensemble="nvt")
    frames = read(tmp_path / "a.xyz", ":")
    for atoms in frames:
        atoms.wrap()
    write(tmp_path / "wrapped.traj", frames)
    first = analyse(read_run(run))
    numbers = {e.name: e.value for e in first.estimates}
    for name, interval in (("a.xyz", None), ("wrapped.traj", 16.0)):
        other = analyse(read_trajectory(tmp_path / name, interval, ensemble="nve"))
        found = {e.name: e.value for e in other.estimates}
        assert found == pytest.approx({key: numbers[key] for key in found}, rel=1e-6)
        assert {"temperature", "density"} <= found.keys()
        for curves in ("rdfs", "msds", "spectra"):
            assert np.allclose(getattr(other, curves)[0].values, getattr(first, curves)[0].values, rtol=1e-5, atol=1e-9)


@pytest.mark.ci
def test_reference_curve_is_drawn(run, capsys, tmp_path):
    (tmp_path / "g.dat").write_text("# r g\n1 0\n3.8 2.5\n")
    code, _, err = analyse(capsys, str(run), "--reference", f"Ar-Ar={tmp_path / 'g.dat'}", "--out", str(tmp_path / "a"))
    assert code == 0, err
    assert "Ar-Ar, reference" in (tmp_path / "a" / "analysis.html").read_text()


def test_reference_of_a_curve_that_is_not_there_is_refused(run, capsys, tmp_path):
    (tmp_path / "g.dat").write_text("1 0\n")
    code, _, err = analyse(capsys, str(run), "--reference", f"O-O={tmp_path / 'g.dat'}")
    assert code == 2
    assert "there is no curve O-O" in err


DUMP = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 10
0 10
0 10
ITEM: ATOMS id type x y z
1 1 1 1 {z}
2 2 1 1 5
"""


@pytest.mark.ci
def test_lammps_dump_without_elements_is_refused_and_read_with_them(capsys, tmp_path):
    (tmp_path / "dump.lammpstrj").write_text("".join(DUMP.format(step=k, z=(8 + 0.3 * k) % 10) for k in range(12)))
    code, _, err = analyse(capsys, str(tmp_path / "dump.lammpstrj"), "--dt", "1")
    assert code == 2
    assert "types and no column of elements" in err
    code, out, err = analyse(capsys, str(tmp_path / "dump.lammpstrj"), "--dt", "1", "--elements", "O H", "--json")
    assert code == 0, err
    assert {d["name"] for d in json.loads(out)["distributions"]} == {"H-O"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rdf", "ArAr"], "no pair of elements"),
        (["--rdf", "O-O"], "there is no O in"),
        (["--rdf", "Ar-Ar", "--r-max", "9"], "half the shortest lattice vector, 3.8"),
        (["--adf", "H-O-H"], "no angle"),
        (["--structure", "1"], "there is no structure 1"),
        (["--discard", "1000"], "frames are left"),
        (["--dt", "1"], "--dt.*says this itself"),
        (["--model", "nowhere.safetensors"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(run, capsys, words, said):
    import re

    code, out, err = analyse(capsys, str(run), *words)
    assert code == 2
    assert re.search(said, err)
    assert out == ""


def test_structures_of_a_run_are_analysed_one_by_one(tmp_path):
    argon = Structure(np.full(2, 18), [[0, 0, 0], [3.8, 0, 0.0]])
    krypton = Structure(np.full(1, 18), [[1.0, 2, 3]])
    simulate(noble_gas(cutoff=6.0), [argon, krypton], NVE(), Settings(dt=1.0, steps=4, temperature=30, every=2), out=tmp_path / "r")
    first, second = read_run(tmp_path / "r", 0), read_run(tmp_path / "r", 1)
    assert (len(first.atomic_numbers), len(second.atomic_numbers)) == (2, 1)
    assert (first.degrees_of_freedom, second.degrees_of_freedom) == (3, 3)
    assert first.times.tolist() == [0, 2, 4]
    export_extxyz(tmp_path / "r", tmp_path / "r.xyz")
    for k, whole in enumerate((first, second)):
        again = read_trajectory(tmp_path / "r.xyz", structure=k)
        assert again.positions == pytest.approx(whole.positions, abs=1e-9)
        assert again.degrees_of_freedom == whole.degrees_of_freedom
    with pytest.raises(ObservableError, match="no structure 2; the file has 0, 1"):
        read_trajectory(tmp_path / "r.xyz", structure=2)


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(run, tmp_path, capsys):
    """A run that goes on, or was killed, leaves half a frame: the whole ones are used, and the page says so."""
    export_extxyz(run, tmp_path / "a.xyz")
    text = (tmp_path / "a.xyz").read_bytes()
    (tmp_path / "cut.xyz").write_bytes(text[: int(len(text) * 0.7)])
    code, out, err = analyse(capsys, str(tmp_path / "cut.xyz"), "--out", str(tmp_path / "page"))
    assert code == 0, err
    whole = len(read_trajectory(tmp_path / "cut.xyz"))
    assert 35 < whole < len(read_run(run))
    assert f"what follows frame {whole - 1} is incomplete and left out" in " ".join(out.split())


def test_an_interval_that_contradicts_the_file_is_refused(run, tmp_path):
    """Ten times the time of the file, and drift, diffusion and spectra would be off by ten."""
    export_extxyz(run, tmp_path / "a.xyz")
    with pytest.raises(ObservableError, match="its frames are 16 fs apart, not 160"):
        read_trajectory(tmp_path / "a.xyz", 160.0)
    assert read_trajectory(tmp_path / "a.xyz", 16.0).interval == 16.0


def test_words_of_other_programs_under_our_keys_are_left_alone(run, tmp_path):
    """`system=water`, `ensemble=NVT-CSVR` and the like are no statements of ours; `NVE` is, however it is spelled."""
    export_extxyz(run, tmp_path / "a.xyz")
    text = (tmp_path / "a.xyz").read_text()
    other = text.replace("degrees_of_freedom=21", "degrees_of_freedom=many").replace("ensemble=nve", "ensemble=NVT-CSVR system=water")
    (tmp_path / "other.xyz").write_text(other)
    found = read_trajectory(tmp_path / "other.xyz")
    assert (found.ensemble, found.degrees_of_freedom, len(found)) == (None, 3 * 8 - 3, len(read_run(run)))
    (tmp_path / "upper.xyz").write_text(text.replace("ensemble=nve", "ensemble=NVE"))
    assert read_trajectory(tmp_path / "upper.xyz", ensemble="nve").ensemble == "nve"


def test_a_molecule_in_vacuum_turns_and_does_not_diffuse(tmp_path, capsys):
    """A straight line through the mean square displacement of a rotor gave 1.4e-8 m2/s for H of a free molecule."""
    argon = Structure(np.full(2, 18), [[0, 0, 0], [3.8, 0, 0.0]])
    simulate(noble_gas(cutoff=6.0), [argon], NVE(), Settings(dt=1.0, steps=400, temperature=30, every=2), out=tmp_path / "r")
    found = analyse_data(read_run(tmp_path / "r"), AnalysisRequest())
    assert found.msds
    assert not [e for e in found.estimates if "diffusion" in e.name]
    assert "a system that is not periodic has no diffusion coefficient" in dict(found.refused)["diffusion of all atoms"]


def test_an_isolated_molecule_at_constant_energy_has_no_heat_capacity(tmp_path):
    """Twelve copies of one molecule gave 17 to 27 J/mol/K, each with an error of 0.1: what it keeps of rotation decides."""
    argon = Structure(np.full(2, 18), [[0, 0, 0], [3.8, 0, 0.0]])
    simulate(noble_gas(cutoff=6.0), [argon], NVE(), Settings(dt=1.0, steps=40, temperature=30, every=2), out=tmp_path / "r")
    with pytest.raises(ObservableError, match="keeps its angular momentum"):
        heat_capacity(read_run(tmp_path / "r"))
