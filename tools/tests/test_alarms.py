"""No alarm in sets whose labels are right: a fixed sample of what `tools/bench alarms` measures on hundreds, and single causes of false alarms."""

import numpy as np
import pytest
from bench.alarms import TRUE, interval
from bench.right_sets import SETS, made
from mlipfm_data.label_checks.checks import inspect

pytest.importorskip("tblite")

#: Kinds whose sets take more than a second to make.
SLOW = {"argon", "crystal dynamics", "crystal relaxations", "liquid water", "mixed", "morse crystals", "slab relaxations", "vacancies",
        "supercells of several sizes", "alloys of many compositions", "carbon tubes"}  # fmt: skip
SAMPLE = [(kind, seed) for seed in (0, 1) for kind in SETS if kind not in SLOW][:40]


def alarms(kind: str, seed: int, frames: int | None = None) -> list[str]:
    """Faults and doubts, but those about forces of held atoms, which some kinds write as zero."""
    return [str(item) for item in inspect(made(kind, seed)[:frames]) if item.severity != "note" and item.code not in TRUE]


@pytest.mark.ci
def test_forty_right_sets_raise_no_fault_and_at_most_one_doubt():
    found = {name: said for name in SAMPLE if (said := alarms(*name, frames=24))}
    assert len(SAMPLE) == 40
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


def test_slopes_of_rattled_metals_are_one():
    """32 atoms, 0.15 Å: the trapezoid alone gives 0.6, because forces of compressed neighbours grow faster than linearly."""
    from mlipfm_data.label_checks.sample import LevelSample
    from mlipfm_data.label_checks.work import _compare, compare

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
