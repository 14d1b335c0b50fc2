"""No alarm in sets whose labels are right: a fixed sample of what `tools/bench alarms` measures on hundreds, and single causes of false alarms."""

import numpy as np
import pytest
from bench.alarms import TRUE, interval
from bench.right_sets import SETS, made
from mlipfm_data.label_checks.checks import inspect
from mlipfm_data.label_checks.pair_potential import fitted_potential
from mlipfm_interfaces.units import KCAL_MOL
from sets.planted_labels import FAULTS, named

pytest.importorskip("tblite")

#: Kinds whose sets take more than a second to make.
SLOW = {"argon", "crystal dynamics", "crystal relaxations", "liquid water", "mixed", "morse crystals", "slab relaxations", "vacancies",
        "supercells of several sizes", "alloys of many compositions", "carbon tubes"}  # fmt: skip
SAMPLE = [(kind, seed) for seed in (0, 1) for kind in SETS if kind not in SLOW][:20]


def alarms(kind: str, seed: int, frames: int | None = None) -> list[str]:
    """Faults and doubts, but those about forces of fixed atoms, which some kinds write as zero."""
    return [str(item) for item in inspect(made(kind, seed)[:frames]) if item.severity != "note" and item.code not in TRUE]


@pytest.mark.ci
def test_twenty_right_sets_raise_no_fault_and_at_most_one_doubt():
    found = {name: said for name in SAMPLE if (said := alarms(*name, frames=24))}
    assert len(SAMPLE) == 20
    assert not any(line.startswith("fault") for lines in found.values() for line in lines), found
    assert len(found) <= 1, found


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("alloys of one order", 2), ("slabs with displaced held atoms", 2), ("molecules with held atoms", 0), ("elastic deformations", 0),
     ("phonon displacements", 2), ("argon", 0), ("methyl rotation", 0)],
)  # fmt: skip
def test_no_other_cause_is_blamed(kind, seed):
    """Large displacements of crystals, forces written as zero, forces of zero by symmetry, one lattice with small displacements, atoms without
    bonds, valence energies that would be totals in another unit."""
    assert alarms(kind, seed) == []


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "seed", "name"),
    [("slabs with resting atoms", 0, "atomic units"), ("rattled crystals", 3, "forces in kcal/mol/Angstrom"),
     ("slabs", 1, "forces permuted among frames"), ("slabs", 2, "energies permuted among frames"), ("slabs", 2, "unconverged energies")],
)  # fmt: skip
def test_planted_fault_that_was_missed_is_named(kind, seed, name):
    """Forces too small or too large for a fit in eV/Å, mean forces that all frames share, energies that chance lets follow the forces, and
    energies 5 eV too high and too low, which no second level gives."""
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    assert named(fault, inspect(fault.plant(made(kind, seed), np.random.default_rng(0))))


def test_a_fitted_potential_is_the_same_in_every_unit_of_the_forces():
    frames = made("rattled crystals", 1)[:20]
    quality = []
    for size in (0.02, 1.0, 1 / KCAL_MOL):
        scaled = [s.replace(labels={**s.labels, "forces": s.labels["forces"] * size}) for s in frames]
        quality.append(fitted_potential(scaled).quality)
    assert quality == pytest.approx([quality[1]] * 3, abs=0.01)
    assert quality[1] > 0.9


def test_readings_that_one_ratio_does_not_tell_apart_are_all_named():
    """dE over work is 1 bohr/Å in atomic units, in Rydberg units and for forces in eV/bohr; rms 7.9 eV/Å makes none of them likely."""
    plant = next(fault.plant for fault in FAULTS if fault.name == "atomic units")
    found = {item.code: item for item in inspect(plant(made("slabs", 0), np.random.default_rng(0)))}
    assert found["energy-unit"].hint == (
        "import with --energy-unit Ry --forces-unit Ry/bohr, or --energy-unit Hartree --forces-unit Hartree/bohr"
    )
    assert found["forces-unit"].hint.startswith("import with --forces-unit eV/bohr, or --energy-unit Ry")


def test_slopes_of_rattled_metals_are_one():
    """32 atoms, 0.15 Å: the trapezoid alone gives 0.6, because forces of compressed neighbours grow faster than linearly."""
    from mlipfm_data.label_checks.comparison import _compare, compare
    from mlipfm_data.label_checks.sample import LevelSample

    sample = LevelSample()
    for index, structure in enumerate(made("rattled crystals", 1)[:30]):
        sample.add(index, structure)
    plain, found = _compare(sample, None).energy_forces(), compare(sample).energy_forces()
    assert plain.slope < 0.85
    assert found.slope == pytest.approx(1.0, abs=0.05)
    assert found.fit > 0.9


def test_interval_of_no_event_in_five_hundred():
    """1 - 0.025^(1/n), Clopper and Pearson, 1934."""
    assert interval(0, 500) == pytest.approx((0.0, 1 - 0.025 ** (1 / 500)))
    assert np.isclose(interval(500, 500)[0], 0.025 ** (1 / 500))
