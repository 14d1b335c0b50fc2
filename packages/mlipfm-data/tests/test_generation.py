"""Generated sets: what is held out, that geometries are where the force field says, that a set resumes to the same bytes."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from mlipfm_data import Store
from mlipfm_data.conformers import conformers
from mlipfm_data.generation import molecules as module
from mlipfm_data.generation.generate import Settings, generate_molecules, shard_geometries
from mlipfm_data.generation.geometries import (
    Shares,
    _behind,
    cluster_geometries,
    electron_removed,
    embedded,
    molecule_geometries,
)
from mlipfm_data.generation.molecules import connectivity, held_out, random_molecules
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.errors import RefusedFileError, SamplingError
from mlipfm_interfaces.structure import Structure

FEW = Shares(relaxed=1, embedded=1, vibrations=2, dynamics=1, displaced=1, stretched=1, compressed=1, clusters=1)


def test_benchmark_molecules_and_judges_are_on_the_list_and_all_different() -> None:
    found = held_out()
    assert {"3BPA", "acetylacetone", "acetylacetone, enol", "ethanol"} <= set(found)
    assert len(held_out("judges")) == 50
    assert len({connectivity(smiles) for smiles in found.values()}) == len(found)


def test_stereoisomers_and_protonation_states_have_one_connectivity() -> None:
    assert connectivity("C[C@H](N)C(=O)O") == connectivity("C[C@@H](N)C(=O)O") == connectivity("CC(N)C(=O)O")
    assert connectivity("CC(=O)O") == connectivity("CC(=O)[O-]")
    assert connectivity("CCO") != connectivity("COC")


def test_no_held_out_molecule_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CCO` is one of the seeds, so that a list without ethanol would show at once: it does when nothing is held out."""
    monkeypatch.setattr(module, "SEEDS", ["CCO", "CC", "C"])

    def drawn() -> set[str]:
        return {identity[:14] for _, identity in random_molecules(12, 3, heavy=3)}

    assert connectivity("CCO") not in drawn()
    monkeypatch.setattr(module, "held_out_connectivities", frozenset)
    assert connectivity("CCO") in drawn()


def test_excluded_molecules_do_not_occur() -> None:
    first = [identity[:14] for _, identity in random_molecules(5, 0, heavy=4)]
    assert first[2] not in {identity[:14] for _, identity in random_molecules(20, 0, heavy=4, exclude=[first[2]])}


def test_molecules_depend_on_the_seed_alone_and_are_different() -> None:
    many = list(random_molecules(30, 7, heavy=6))
    assert many[:10] == list(random_molecules(10, 7, heavy=6))
    assert many[:10] != list(random_molecules(10, 8, heavy=6))
    assert len({identity for _, identity in many}) == 30


def test_too_many_small_molecules_are_refused() -> None:
    with pytest.raises(SamplingError, match="were not found"):
        list(random_molecules(30, 0, heavy=1))


@pytest.mark.parametrize("geometry", [lambda smiles: embedded(smiles, 1, 0), lambda smiles: conformers(smiles, 1, 0)])
def test_a_molecule_without_a_force_field_is_refused_by_name(geometry: Callable[[str], object]) -> None:
    """It was grown by `mlipfm data generate molecules`, and RDKit ends in a RuntimeError."""
    with pytest.raises(SamplingError, match=r"neither MMFF94 nor UFF has parameters for 'O=C\(O\)\[S\]123OC1=C2C3=O'"):
        geometry("O=C(O)[S]123OC1=C2C3=O")


def test_forces_of_the_force_field_are_minus_its_gradient() -> None:
    """At positions the force field has not seen: RDKit's CalcGrad alone takes distances of the last energy, and is wrong by a factor there."""
    found = embedded("CC(=O)N", 1, 0)
    x = found.relaxed[0] + np.random.default_rng(0).normal(0, 0.05, found.relaxed[0].shape)
    work = 0.0
    for t in (0.25, 0.75):  # midpoint rule along the straight way from the minimum
        work -= float((found.forces(found.relaxed[0] + t * (x - found.relaxed[0])) * (x - found.relaxed[0])).sum()) / 2
    hessian_like = -float((found.forces(x) * (x - found.relaxed[0])).sum()) / 2  # of a parabola
    assert work == pytest.approx(hessian_like, rel=0.15)
    assert np.abs(found.forces(found.relaxed[0])).max() < 0.01


def test_a_cut_bond_moves_what_hangs_on_it_and_a_ring_bond_moves_one_atom() -> None:
    chain, ring = np.array([[0, 1], [1, 2], [2, 3]]), np.array([[0, 1], [1, 2], [2, 0]])
    assert _behind(chain, 1, 2, 4).tolist() == [False, False, True, True]
    assert _behind(ring, 1, 2, 3).tolist() == [False, False, True]


def test_every_kind_of_geometry_is_there_and_no_atoms_are_in_each_other() -> None:
    found = molecule_geometries("CC(=O)[O-]", 0)
    kinds = {str(s.provenance.sampling).split("-")[0] for s in found}
    assert kinds >= {"relaxed", "embedded", "normal", "langevin", "displaced", "stretched", "compressed"}
    assert {(s.total_charge, s.spin_multiplicity) for s in found} == {(-1, 1)}
    for s in found:
        i, j = np.triu_indices(len(s), 1)
        d = np.linalg.norm(s.positions[i] - s.positions[j], axis=1)
        assert (d > 0.6 * (COVALENT_RADII[s.atomic_numbers[i]] + COVALENT_RADII[s.atomic_numbers[j]])).all()


def test_clusters_touch_and_their_charges_add_up() -> None:
    rng = np.random.default_rng(0)
    parts = [molecule_geometries(s, 0, FEW)[0] for s in ("[NH4+]", "O", "C[CH2]")]
    found = cluster_geometries(parts, 40, rng)
    assert {s.total_charge for s in found} == {0, 1}
    assert {s.spin_multiplicity for s in found} == {1, 2}
    assert {str(s.provenance.sampling) for s in found} == {"cluster-2", "cluster-3"}
    for s in found:
        distances = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2) + 99 * np.eye(len(s))
        assert distances.min(axis=1).max() < 8


def hydrogen_bonds(s: Structure) -> int:
    """Of water: pairs of an oxygen and a hydrogen that is not its own, nearer than 2.3 Å."""
    distances = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2)[np.ix_(s.atomic_numbers == 8, s.atomic_numbers == 1)]
    return int(((distances > 1.4) & (distances < 2.3)).sum())


def test_relaxed_clusters_of_water_have_hydrogen_bonds_and_those_packed_at_random_few() -> None:
    """Of n molecules in a chain n - 1 bonds are the least that hold together; what falls apart in 0.1 ps at 300 K has fewer."""
    parts = molecule_geometries("O", 0, FEW)[:2]
    bonds = {}
    for relaxed in (0.0, 1.0):
        found = cluster_geometries(parts, 30, np.random.default_rng(1), largest=6, relaxed=relaxed)
        assert max(len(s) for s in found) == 18
        kinds = {str(s.provenance.sampling).rpartition("cluster")[0] for s in found}
        assert kinds == ({""} if relaxed == 0 else {"relaxed-", "langevin-300K-"})
        bonds[relaxed] = sum(hydrogen_bonds(s) for s in found) / sum(len(s) // 3 - 1 for s in found)
    assert bonds[1.0] > 0.7
    assert bonds[0.0] < 0.35


def test_what_the_force_field_does_not_know_stays_as_it_was_packed() -> None:
    parts = [molecule_geometries(smiles, 0, FEW)[0] for smiles in ("F", "C[CH2]", "O")]  # MMFF94 has no hydrogen fluoride and no radicals
    found = cluster_geometries(parts[:2], 10, np.random.default_rng(1), largest=4, relaxed=1.0)
    assert {str(s.provenance.sampling).partition("-")[0] for s in found} == {"cluster"}


def test_an_electron_less_makes_doublets_of_neutral_singlets_at_their_geometries() -> None:
    parts = [molecule_geometries(s, 0, FEW)[0] for s in ("[NH4+]", "O", "C[CH2]")]
    (found,) = electron_removed(parts)
    assert (found.formula, found.total_charge, found.spin_multiplicity) == (parts[1].formula, 1, 2)
    np.testing.assert_array_equal(found.positions, parts[1].positions)


def test_settings_say_how_many_clusters_and_radical_cations_there_are() -> None:
    settings = Settings(geometries=8, clusters=7, cluster_size=5, relaxed_clusters=0.5, radical_cations=2)
    found, refused = shard_geometries(["O", "N"], 4, settings)
    clusters = [s for s in found if "cluster" in str(s.provenance.sampling) and s.total_charge == 0]
    assert not refused
    assert 12 <= len(clusters) <= 14  # of 14 some may have atoms in each other
    neutral = sum(s.total_charge == 0 for s in found)
    assert len(found) - neutral == -(-neutral // 2)


def test_all_held_out_molecules_of_a_file_are_named_at_once() -> None:
    with pytest.raises(SamplingError, match=r"held out, because models are measured on them: CCO, c1ccccc1") as refused:
        list(generate_molecules("unused", 3, labelers=(), given=["CCO", "O", "c1ccccc1"]))
    assert "take them out of the file" in str(refused.value)


@pytest.mark.ci
def test_a_set_goes_on_where_it_stopped_and_comes_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    settings, labelers = Settings(heavy=3, per_shard=2, every=5), (TbliteLabeler("GFN2-xTB"), TbliteLabeler("GFN1-xTB"))
    whole = list(generate_molecules(tmp_path / "whole", 4, settings, labelers=labelers))
    part = generate_molecules(tmp_path / "part", 2, settings, labelers=labelers)
    assert [shard.index for shard in part] == [0]
    assert list(generate_molecules(tmp_path / "part", 4, settings, labelers=labelers)) == whole
    for level in ("gfn2-xtb", "gfn1-xtb"):
        one, two = (Store(tmp_path / name / level / "0001") for name in ("whole", "part"))
        assert [s.key for s in one] == [s.key for s in two]
        assert [float(s.labels["energy"]) for s in one] == [float(s.labels["energy"]) for s in two]
    groups = [{s.provenance.group for s in Store(tmp_path / "whole/gfn2-xtb" / shard)} for shard in ("0000", "0001")]
    assert not groups[0] & groups[1]
    with pytest.raises(RefusedFileError, match="heavy 3, now 4"):
        next(iter(generate_molecules(tmp_path / "whole", 4, Settings(heavy=4, per_shard=2, every=5), labelers=labelers)))


@pytest.mark.ci
def test_a_set_of_given_molecules_has_these_alone_and_so_many_geometries_of_each(tmp_path, capsys) -> None:
    """An older folder, whose settings do not name the molecules, is one of random molecules."""
    (tmp_path / "my.smi").write_text("# mine\nO water\n[C-]#[O+] carbon monoxide\n[OH] hydroxyl\n")
    command = ["data", "generate", "molecules", "--smiles", str(tmp_path / "my.smi"), "--gfn1-every", "0", "--workers", "1"]
    assert _run([*command, "--geometries", "99", "--out", str(tmp_path / "set")]) == 0
    found = list(Store(tmp_path / "set/gfn2-xtb/0000"))
    alone = [s for s in found if not str(s.provenance.sampling).startswith("cluster")]
    assert {(s.formula, s.spin_multiplicity) for s in alone} == {("H2O", 1), ("CO", 1), ("HO", 2)}
    assert 2.5 * 33 < len(found) / 3 < 3 * 33 + 1
    assert _run([*command[:3], "--gfn1-every", "0", "--out", str(tmp_path / "set")]) == 2
    assert "other molecules given" in capsys.readouterr().err
    assert _run([*command, "--heavy", "3", "--out", str(tmp_path / "other")]) == 2
    assert "--heavy has no effect with --smiles" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("O\nCCO", "held out, because models are measured on it: CCO;"),
        ("O\n[2H]O", "'\\[2H\\]O' and 'O' are one molecule"),
        ("CC(C", "no SMILES"),
        ("# none", "has no SMILES"),
    ],
)
def test_given_molecules_are_refused_by_name_before_anything_is_written(smiles, message, tmp_path, capfd) -> None:
    (tmp_path / "my.smi").write_text(smiles)
    assert _run(["data", "generate", "molecules", "--smiles", str(tmp_path / "my.smi"), "--out", str(tmp_path / "set")]) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not (tmp_path / "set").exists()


@pytest.mark.ci
def test_command_says_what_it_made_and_refuses_what_it_cannot_read(tmp_path, capsys) -> None:
    few = ["--count", "1", "--per-shard", "1", "--heavy", "2", "--gfn1-every", "0", "--workers", "1"]
    assert _run(["data", "generate", "molecules", *few, "--out", str(tmp_path / "set")]) == 0
    assert "shard 0000:" in capsys.readouterr().out
    assert json.loads((tmp_path / "set/settings.json").read_text())["heavy"] == 2
    assert _run(["data", "generate", "molecules", "--exclude", str(tmp_path / "none.smi"), "--out", str(tmp_path / "set")]) == 2
    assert "cannot read the SMILES" in capsys.readouterr().err


def _run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize("words", [("--cluster-size", "5"), ("--relaxed-clusters", "0.5")])
def test_options_of_clusters_without_clusters_are_refused(words: tuple[str, str], tmp_path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", "generate", "molecules", "--count", "1", "--clusters", "0", *words, "--out", str(tmp_path / "set")])
    assert "have no effect with --clusters 0" in capfd.readouterr().err
    assert not (tmp_path / "set").exists()
