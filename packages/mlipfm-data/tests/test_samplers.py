"""Conformers and normal modes against chemistry and closed forms."""

import numpy as np
import pytest
from mlipfm_data.conformers import conformers, quickstart_molecules
from mlipfm_data.normal_modes import NormalModeSampler, hessian_by_differences, normal_modes, sample_modes, spring_hessian
from mlipfm_data.readers.registry import read_all
from mlipfm_data.sampling import make_sampler
from mlipfm_interfaces import plugins
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import SamplingError
from mlipfm_interfaces.protocols import Sampler
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import ACCELERATION, KB

STIFFNESS = 35.0  # eV/Å²


class Spring:
    """A diatomic molecule with a harmonic bond of length 0.74 Å, as a Teacher."""

    outputs = ("energy", "forces")

    def evaluate(self, structures, outputs):
        return [{key: value for key, value in self._one(s).items() if key in outputs} for s in structures]

    def _one(self, s):
        bond = s.positions[1] - s.positions[0]
        length = np.linalg.norm(bond)
        pull = STIFFNESS * (length - 0.74) * bond / length
        return {"energy": np.array(STIFFNESS * (length - 0.74) ** 2 / 2), "forces": np.array([pull, -pull])}


HYDROGEN = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]], total_charge=0, spin_multiplicity=1, provenance=Provenance("test", "[H][H]"))


def forces(structure):
    return Spring().evaluate([structure], ["forces"])[0]["forces"]


def test_the_sampler_is_a_sampler_and_a_plugin():
    assert isinstance(NormalModeSampler(), Sampler)
    assert plugins.load("samplers", "normal-modes") is NormalModeSampler


def test_diatomic_has_one_mode_with_the_textbook_frequency():
    modes = normal_modes(HYDROGEN, hessian_by_differences(HYDROGEN, forces, 1e-3))
    omega = np.sqrt(STIFFNESS / (MASSES[1] / 2) * ACCELERATION)  # sqrt(k / reduced mass), rad/fs
    assert len(modes.wavenumbers) == 1
    assert modes.wavenumbers[0] == pytest.approx(omega / (2 * np.pi * 2.99792458e-5), rel=1e-6)


def test_hydrogen_at_600_k_has_half_kt_in_its_bond():
    sampler = NormalModeSampler(Spring(), temperature=600.0)
    samples = sampler.sample(HYDROGEN, 5000, np.random.default_rng(0))
    energies = [float(Spring().evaluate([s], ["energy"])[0]["energy"]) for s in samples]
    assert np.mean(energies) == pytest.approx(KB * 600 / 2, rel=0.08)  # standard error of the mean: 2 %


def test_each_mode_of_ethanol_gets_half_kt():
    """Equipartition in the harmonic energy of the same Hessian, mode by mode: 21 modes, no rigid motion."""
    ethanol = conformers("CCO", 1, 0)[0]
    hessian = spring_hessian(ethanol)
    modes = normal_modes(ethanol, hessian)
    samples = sample_modes(ethanol, modes, 300.0, 4000, np.random.default_rng(1), floor=1.0)
    moves = np.array([s.positions - ethanol.positions for s in samples])
    energies = np.einsum("ni,ij,nj->n", moves.reshape(4000, -1), hessian, moves.reshape(4000, -1)) / 2
    assert len(modes.wavenumbers) == 21
    assert energies.mean() == pytest.approx(21 * KB * 300 / 2, rel=0.02)
    masses = MASSES[ethanol.atomic_numbers]
    assert np.abs(np.einsum("a,nai->ni", masses, moves)).max() < 1e-9  # the centre of mass stays
    centred = ethanol.positions - np.average(ethanol.positions, axis=0, weights=masses)
    assert np.abs(np.einsum("a,nai->ni", masses, np.cross(centred, moves))).max() < 1e-9  # and nothing turns, to first order


@pytest.mark.parametrize(("smiles", "modes"), [("C#N", 4), ("O", 3), ("C=O", 6)])
def test_linear_molecules_have_one_mode_more(smiles, modes):
    molecule = conformers(smiles, 1, 0)[0]
    assert len(normal_modes(molecule, spring_hessian(molecule)).wavenumbers) == modes


def test_crystal_keeps_its_rotations():
    salt = Structure([11, 17], [[0, 0, 0], [2.8, 0, 0]], np.diag([5.6, 4.0, 4.0]), True)
    assert len(normal_modes(salt, spring_hessian(salt)).wavenumbers) == 3


def test_soft_and_imaginary_modes_are_held_by_the_floor():
    modes = normal_modes(HYDROGEN, -spring_hessian(HYDROGEN))
    assert modes.wavenumbers[-1] < 0
    samples = sample_modes(HYDROGEN, modes, 300.0, 2000, np.random.default_rng(0), floor=1000.0)
    lengths = np.array([np.linalg.norm(s.positions[1] - s.positions[0]) for s in samples])
    width = np.sqrt(KB * 300 / ((2 * np.pi * 2.99792458e-5 * 1000) ** 2 / ACCELERATION) * 2 / MASSES[1])
    assert np.std(lengths) == pytest.approx(width, rel=0.06)


def test_samples_are_reproducible_unlabelled_and_of_one_group():
    labelled = HYDROGEN.replace(labels={"energy": 0.0}, level="x")
    one, two = (NormalModeSampler(temperature=300.0).sample(labelled, 3, np.random.default_rng(5)) for _ in range(2))
    assert [s.key for s in one] == [s.key for s in two]
    assert len({s.key for s in one}) == 3
    assert all(not s.labels and s.provenance == Provenance("test", "[H][H]", None, "normal-modes-300K") for s in one)
    assert all((s.total_charge, s.spin_multiplicity) == (0, 1) for s in one)


def test_nothing_to_vibrate_is_said():
    with pytest.raises(SamplingError, match="H has no vibration"):
        NormalModeSampler().sample(Structure([1], [[0, 0, 0]]), 1, np.random.default_rng(0))
    with pytest.raises(SamplingError, match="must not be negative"):
        NormalModeSampler(temperature=-1.0).sample(HYDROGEN, 1, np.random.default_rng(0))


def test_glycol_has_conformers_and_water_one():
    glycol = conformers("OCCO", 30, 0)
    assert len(glycol) >= 4
    assert len({s.key for s in glycol}) == len(glycol)
    assert {s.provenance.group for s in glycol} == {"OCCO"}
    (water,) = conformers("O", 30, 0)
    o, a, b = water.positions
    angle = np.degrees(np.arccos((a - o) @ (b - o) / np.linalg.norm(a - o) / np.linalg.norm(b - o)))
    assert angle == pytest.approx(104.5, abs=1.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_conformers_depend_on_the_seed_alone(seed):
    one, two = conformers("CCCO", 8, seed), conformers("CCCO", 8, seed)
    assert [s.key for s in one] == [s.key for s in two]
    assert len(one) > 1


@pytest.mark.parametrize(
    ("smiles", "charge", "multiplicity"),
    [("[NH4+]", 1, 1), ("CC(=O)[O-]", -1, 1), ("[CH3]", 0, 2), ("[O][O]", 0, 3), ("[CH3+]", 1, 1), ("O", 0, 1)],
)
def test_charge_and_multiplicity_are_those_of_the_smiles(smiles, charge, multiplicity):
    structure = conformers(smiles, 1, 0)[0]
    assert (structure.total_charge, structure.spin_multiplicity) == (charge, multiplicity)


def test_quickstart_molecules_are_small_and_organic():
    molecules = quickstart_molecules()
    structures = [conformers(smiles, 1, 0)[0] for smiles in molecules.values()]
    assert len(molecules) == 24
    assert max(map(len, structures)) == 15
    assert {int(z) for s in structures for z in s.atomic_numbers} == {1, 6, 7, 8}
    assert {s.total_charge for s in structures} == {-1, 0, 1}
    assert {s.spin_multiplicity for s in structures} == {1, 2}


def test_nonsense_is_refused():
    with pytest.raises(SamplingError, match="'C1CC' is no SMILES"):
        conformers("C1CC", 1, 0)
    with pytest.raises(SamplingError, match="number of conformers must be positive"):
        conformers("C", 0, 0)


WATER = '3\nProperties=species:S:1:pos:R:3 charge=0 pbc="F F F"\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n'


def run(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", "sample", *map(str, words)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_command_samples_by_name_and_the_seed_decides(tmp_path, capsys):
    (tmp_path / "water.xyz").write_text(WATER * 2)
    texts = []
    for seed in (0, 0, 1):
        words = (
            "--sampler",
            "normal-modes",
            "--n",
            3,
            "--option",
            "temperature=600",
            "--seed",
            seed,
            "--out",
            tmp_path / "s.xyz",
            "--force",
        )
        assert run(capsys, tmp_path / "water.xyz", *words)[0] == 0
        texts.append((tmp_path / "s.xyz").read_text())
    assert texts[0] == texts[1] != texts[2]
    found = read_all(tmp_path / "s.xyz", require=())
    assert len(found) == 6
    assert {s.provenance.sampling for s in found} == {"normal-modes-600K"}
    assert len({s.positions.tobytes() for s in found}) == 6  # equal structures have streams of their own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sampler", "normal-mode"), "did you mean 'normal-modes'"),
        (("--sampler", "normal-modes", "--option", "temp=3"), "has no option 'temp'; its options are temperature, floor, step"),
        (("--sampler", "normal-modes", "--option", "temperature=hot"), "`temperature` must be a number, got 'hot'"),
        (("--sampler", "normal-modes", "--option", "temperature"), "--option needs KEY=VALUE"),
        (("--sampler", "normal-modes", "--option", "floor=1", "--option", "floor=2"), "`floor` is given twice"),
        (("--sampler", "normal-modes", "--option", "temperature=-1"), "temperature must not be negative"),
        (("--sampler", "normal-modes", "--model", "no.safetensors"), "there is no such file"),
        ((), "--sampler is missing"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_line(tmp_path, capsys, words, message):
    (tmp_path / "water.xyz").write_text(WATER)
    status, _, err = run(capsys, tmp_path / "water.xyz", "--n", 2, "--out", tmp_path / "s.xyz", *words)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "s.xyz").exists()


@pytest.mark.ci
def test_the_list_names_every_sampler_with_its_options_and_whether_it_takes_a_model(capsys):
    _, out, _ = run(capsys, "--list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert sorted(lines) == plugins.names("samplers")
    assert "--model optional" in lines["normal-modes"]
    assert "temperature=300.0, floor=200.0, step=0.01" in lines["normal-modes"]
    if "langevin" in lines:
        with pytest.raises(SamplingError, match="needs a model"):
            make_sampler("langevin")


@pytest.mark.ci
def test_normal_modes_of_a_labeller_are_those_of_its_hessian(tmp_path, capsys):
    """GFN2-xTB: the O-H stretches of water are stiffer than the generic springs, so the bonds spread less."""
    pytest.importorskip("tblite")
    (tmp_path / "water.xyz").write_text(WATER)
    spread = {}
    for model in ((), ("--model", "gfn2-xtb")):
        words = ("--sampler", "normal-modes", "--n", 200, "--out", tmp_path / "s.xyz", "--force", *model)
        assert run(capsys, tmp_path / "water.xyz", *words)[0] == 0
        bonds = [np.linalg.norm(s.positions[1] - s.positions[0]) for s in read_all(tmp_path / "s.xyz", require=())]
        spread[bool(model)] = np.std(bonds)
    assert spread[True] < 0.9 * spread[False]
