"""Bad input, for every potential that is installed: alone, in a batch beside a good structure, and through the ASE calculator.

Numbers in the names are those of the catalogue of faults that the toolkit promises to meet.
"""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from mlipfm_interfaces import neighbors
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import (
    DensityError,
    ImplausibleStructureWarning,
    InvalidStructureError,
    MlipfmError,
    MultiplicityError,
    OverlapError,
    ShapeError,
    UnknownElementError,
)
from mlipfm_interfaces.potential import Potential, evaluate, implausible_geometry_remarks
from mlipfm_interfaces.structure import Structure
from mlipfm_md.calculator import MlipfmCalculator, PropertyNotImplementedError
from mlipfm_models.combinations import own_backbones

POTENTIALS = own_backbones()
ELEMENTS = ["H", "C", "O", "Na", "Al", "Cl", "Ar"]


@pytest.fixture(scope="module", params=POTENTIALS)
def potential(request: pytest.FixtureRequest) -> Potential:
    """Small, in float64, untrained: what is tested here does not depend on weights."""
    return build(request.param, {"elements": ELEMENTS, "levels": ["any"], "dtype": "float64", "backbone": SMALL.get(request.param, {})})


#: Options that keep the widest backbones quick.
SMALL: dict[str, dict[str, object]] = {name: {"channels": 16} for name in ("painn", "density", "mace")}

WATER = Structure(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]))
SALT = Structure(np.array([11, 17]), np.array([[0.0, 0.0, 0.0], [2.82, 0.0, 0.0]]), 2.82 * (np.ones((3, 3)) - np.eye(3)), True)


def three_ways(potential: Potential, atoms: Atoms) -> dict[str, Callable[[], object]]:
    """The same request alone, in a batch behind a good structure, and through the calculator."""

    def structure() -> Structure:
        return Structure(atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc)

    return {
        "alone": lambda: evaluate(potential, [structure()]),
        "batched": lambda: evaluate(potential, [WATER, structure(), SALT]),
        "calculator": lambda: MlipfmCalculator(potential).get_property("energy", atoms),
    }


def refused(potential: Potential, atoms: Atoms, error: type[MlipfmError], match: str) -> None:
    """In all three ways, and in little memory: before anything grows with the number of neighbours."""
    for way, ask in three_ways(potential, atoms).items():
        with memory() as peak, pytest.raises(error, match=match):
            ask()
        assert peak[0] < 20e6, way


@contextlib.contextmanager
def memory() -> Iterator[list[int]]:
    """Bytes that Python and NumPy held at most inside the block."""
    peak = [0]
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_01_position_that_is_not_finite(potential: Potential, value: float) -> None:
    atoms = bulk("Al", cubic=True) * (4, 4, 4)
    atoms.positions[17, 1] = value
    refused(potential, atoms, InvalidStructureError, "atom 17")


def test_01_no_structure_exists_of_which_neighbours_could_be_built() -> None:
    positions = np.random.default_rng(0).uniform(0, 60, (20_000, 3))
    positions[-1, 2] = np.nan
    with pytest.raises(InvalidStructureError, match="atom 19999"):
        Structure(np.full(20_000, 6), positions)


def test_01_no_neighbour_list_is_begun(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    for name in ("batch_pairs", "neighbor_pairs", "NeighborList"):
        monkeypatch.setattr(neighbors, name, lambda *args, name=name, **options: begun.append(name))
    atoms = bulk("Al", cubic=True) * (4, 4, 3)
    atoms.positions[191, 2] = np.nan
    refused(potential, atoms, InvalidStructureError, "atom 191")
    assert not begun
    with pytest.raises(TypeError):  # of a sound structure it is begun, by what was put in its place
        evaluate(potential, [WATER])
    assert begun


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_02_cell_that_is_not_finite(potential: Potential, value: float) -> None:
    atoms = bulk("Al", cubic=True)
    cell = np.asarray(atoms.cell).copy()
    cell[1, 1] = value
    with pytest.raises(InvalidStructureError, match="not finite"):
        Structure(atoms.numbers, atoms.positions, cell, True)


def test_02_charge_that_is_no_number(potential: Potential) -> None:
    water = molecule("H2O")
    for value in (np.nan, np.inf, 0.5, "one"):
        water.info["charge"] = value
        with pytest.raises(InvalidStructureError, match="whole number"):
            MlipfmCalculator(potential).get_property("energy", water)


def test_03_no_atoms(potential: Potential) -> None:
    refused(potential, Atoms(), InvalidStructureError, "at least one atom")
    with pytest.raises(InvalidStructureError, match="at least one structure"):
        evaluate(potential, [])


def test_04_atoms_in_the_same_place_also_across_a_boundary(potential: Potential) -> None:
    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 0.05]])
    refused(potential, pair, OverlapError, r"0\.05")
    image = Atoms("Ar2", [[0, 0, 0.01], [0, 0, 9.99]], cell=np.eye(3) * 10, pbc=True)
    refused(potential, image, OverlapError, "closer")


def test_05_atoms_pushed_into_each_other_are_finite_and_told(potential: Potential) -> None:
    pushed = Atoms("C2", [[0, 0, 0], [0, 0, 0.5]])
    calculator = MlipfmCalculator(potential)
    with pytest.warns(ImplausibleStructureWarning, match=r"C \(atom 0\) and C \(atom 1\) are 0\.500 Angstrom apart"):
        assert np.isfinite(calculator.get_property("energy", pushed))
    with pytest.raises(InvalidStructureError, match="0.33 of a single bond"):
        MlipfmCalculator(potential, strict=True).get_property("energy", pushed)
    for ordinary in (molecule("H2"), molecule("N2"), molecule("C2H2"), bulk("Al")):
        assert (
            implausible_geometry_remarks(Structure(ordinary.numbers, ordinary.positions, np.asarray(ordinary.cell), ordinary.pbc), 5.0)
            == []
        )


@pytest.mark.parametrize("number", [0, 119, -1])
def test_06_element_that_does_not_exist(number: int) -> None:
    with pytest.raises(UnknownElementError, match=f"atomic number {number} does not exist"):
        Structure(np.array([number]), np.zeros((1, 3)))


@pytest.mark.parametrize("name", ["Po", "Am", "Fe"])
def test_06_element_without_training_data(potential: Potential, name: str) -> None:
    refused(potential, Atoms(name), UnknownElementError, f"not trained on {name}.*it supports H C O Na Al Cl Ar")


def test_07_lone_atom_is_the_same_in_any_box(potential: Potential) -> None:
    boxes = [Structure(np.array([18]), np.zeros((1, 3)))]
    boxes += [Structure(np.array([18]), np.full((1, 3), 3.0), np.eye(3) * a, True) for a in (30.0, 200.0)]
    rows = evaluate(potential, boxes)
    assert np.ptp([row["energy"] for row in rows]) < 1e-10
    assert all((row["forces"] == 0).all() for row in rows)


def test_08_cell_smaller_than_the_cutoff_is_its_supercell(potential: Potential) -> None:
    one = Structure(np.array([13]), np.zeros((1, 3)), np.eye(3) * 2.6, True)
    atoms = Atoms("Al", cell=np.eye(3) * 2.6, pbc=True) * (3, 3, 3)
    many = Structure(atoms.numbers, atoms.positions, np.asarray(atoms.cell), True)
    small, large = evaluate(potential, [one, many])
    assert float(small["energy"]) * 27 == pytest.approx(float(large["energy"]), rel=1e-9, abs=1e-9)


def test_09_nanometres_read_as_angstrom(potential: Potential) -> None:
    aluminium = bulk("Al", cubic=True) * (3, 3, 3)
    aluminium.set_cell(aluminium.cell / 10, scale_atoms=True)
    refused(potential, aluminium, DensityError, "in nm or bohr")
    water = molecule("CH3CH2OH")
    water.positions /= 10
    refused(potential, water, InvalidStructureError, "nm or bohr|closer")
    tiny = Atoms("Na", cell=np.eye(3) * 0.5, pbc=True)
    refused(potential, tiny, DensityError, "in nm or bohr")


def test_10_atoms_all_alone_are_told(potential: Potential) -> None:
    reach = max(graph.cutoff for graph in potential.spec.graphs)
    alone = Atoms("Ar3", np.arange(3)[:, None] * [0.0, 0.0, reach + 1.0])
    with pytest.warns(ImplausibleStructureWarning, match="no two of its 3 atoms .* nm or bohr"):
        MlipfmCalculator(potential).get_property("energy", alone)
    with pytest.raises(InvalidStructureError, match="no two of its 3 atoms"):
        MlipfmCalculator(potential, strict=True).get_property("energy", alone)


@pytest.mark.parametrize(
    ("cell", "words"),
    [(np.zeros((3, 3)), "zero"), (np.diag([4.0, 4.0, 0.0]), "zero"), ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], "no volume")],
)
def test_11_periodic_without_a_cell(potential: Potential, cell: np.ndarray, words: str) -> None:
    refused(potential, Atoms("Al", cell=cell, pbc=True), InvalidStructureError, words)
    (row,) = evaluate(potential, [Structure(np.array([13]), np.zeros((1, 3)), np.asarray(cell, float), False)])
    assert np.isfinite(row["energy"])


def test_12_a_slab_does_not_feel_its_vacuum(potential: Potential) -> None:
    energies = []
    for vacuum in (12.0, 40.0):
        slab = fcc111("Al", (1, 1, 3), vacuum=vacuum, periodic=False)
        rows = evaluate(potential, [Structure(slab.numbers, slab.positions, np.asarray(slab.cell), [True, True, False])])
        energies.append(float(rows[0]["energy"]))
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)
    slab.calc = MlipfmCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match=r"three periodic directions|not predicted"):
        slab.get_stress()


def test_13_where_the_origin_is_does_not_matter(potential: Potential) -> None:
    base = float(evaluate(potential, [SALT])[0]["energy"])
    far = [SALT.replace(positions=SALT.positions + offset) for offset in (1e5, -1e6)]
    far.append(SALT.replace(positions=SALT.positions + np.array([[1000, -700, 3], [0, 0, 0]]) @ SALT.cell))
    for row in evaluate(potential, far):
        assert float(row["energy"]) == pytest.approx(base, abs=1e-7)


def test_14_empty_space_costs_nothing(potential: Potential) -> None:
    peaks = []
    for size in (20.0, 20.0, 1e6):  # the first warms caches up
        structure = Structure(np.array([18, 18]), np.array([[0.0, 0, 0], [3.8, 0, 0]]), np.eye(3) * size, True)
        with memory() as peak:
            evaluate(potential, [structure])
        peaks.append(peak[0])
    assert peaks[2] < 2 * peaks[1] + 100_000


def test_15_stress_of_a_molecule(potential: Potential) -> None:
    water = molecule("H2O")
    water.calc = MlipfmCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match=r"three periodic directions|not predicted"):
        water.get_stress()


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (np.zeros((3, 2)), "shape"),
        (np.zeros(9), "shape"),
        ([["0", "0", "0"]] * 3, "numeric"),
        (np.ma.masked_less(np.arange(9.0).reshape(3, 3), 1.0), "masked"),
        (np.zeros((3, 3), dtype=np.float16), "float16"),
        (np.zeros((3, 3), dtype=complex), "numeric"),
        ([[0, 0, 0], [0, 0], [0, 0, 0]], "numeric"),
    ],
)
def test_17_positions_of_the_wrong_kind(positions: object, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        Structure(np.array([8, 1, 1]), positions)  # type: ignore[arg-type]  # that is the point


def test_17_contradictions_in_info_are_refused_and_nothing_is_written_to_the_atoms(potential: Potential) -> None:
    water = molecule("H2O")
    water.info |= {"charge": 0, "total_charge": 1}
    with pytest.raises(InvalidStructureError, match="contradict"):
        MlipfmCalculator(potential).get_property("energy", water)
    water.info = {"charge": 1, "spin": 1}
    with pytest.raises(MultiplicityError, match="must be even"):
        MlipfmCalculator(potential).get_property("energy", water)
    water.info = {"name": "water"}
    before = (water.positions.copy(), np.asarray(water.cell).copy(), dict(water.info), set(water.arrays))
    MlipfmCalculator(potential).get_property("forces", water)
    assert (water.positions == before[0]).all()
    assert (np.asarray(water.cell) == before[1]).all()
    assert (water.info, set(water.arrays)) == before[2:]


def test_18_threads_that_share_a_calculator_get_the_answers_to_their_own_questions(potential: Potential) -> None:
    shared = MlipfmCalculator(potential)
    molecules = [molecule(name) for name in ("H2O", "CH4", "CO2", "C2H6")]
    alone = [MlipfmCalculator(potential).get_property("forces", m) for m in molecules]
    wrong: list[str] = []

    def ask(k: int) -> None:
        for _ in range(10):
            if not np.allclose(shared.get_property("forces", molecules[k]), alone[k], atol=1e-10, rtol=0):
                wrong.append(f"molecule {k}")

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(molecules))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_18_an_answer_follows_every_change_of_the_atoms(potential: Potential) -> None:
    calculator, water = MlipfmCalculator(potential), molecule("H2O")
    first = calculator.get_property("energy", water)
    water.positions[0, 0] += 1e-6
    assert calculator.calculation_required(water, ["energy"])
    moved = calculator.get_property("energy", water)
    assert moved == MlipfmCalculator(potential).get_property("energy", water)
    water.positions[0, 0] -= 1e-6
    assert calculator.get_property("energy", water) == pytest.approx(first, abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplausibleStructureWarning)
        water.numbers[0] = 6
        assert calculator.get_property("energy", water) != first
