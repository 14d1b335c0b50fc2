"""Taking over weights: direct to conservative, new elements, new levels, another scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.errors import LevelError, RecipeError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.structures import methane, rattled, water
from mlipfm_models import transfer_weights

SYSTEMS = [rattled(water(), 0.1), rattled(methane(), 0.1)]


def energies(potential: Any, level: str = "gfn2-xtb") -> np.ndarray:
    return np.array([a["energy"] for a in evaluate(potential, SYSTEMS, ("energy",), level=level)])


def test_conservative_model_starts_from_the_energies_of_the_direct_one(small: Any) -> None:
    direct, conservative = small(forces="direct", seed=1), small(seed=2, short_range="none")
    report = conservative.load_from(direct)
    np.testing.assert_array_equal(energies(conservative), energies(direct))
    assert all(name.startswith("heads.forces") for name in report["dropped"])
    assert len(report["dropped"]) == 5
    assert report["fresh"] == []
    names = {name.split("[")[0] for name in report["copied"]}
    assert names == {name for name, _ in conservative.named_parameters()}


def test_rows_follow_elements_and_levels_not_places(small: Any, two_levels: Any) -> None:
    source = two_levels(elements=["H", "C", "O"], conditions=[], seed=1, references={})
    target = two_levels(
        elements=["O", "H", "Li", "C"], conditions=[], seed=2, references={}, levels=["gfn2-xtb", "pbe/def2-svp", "gfn1-xtb"]
    )
    report = transfer_weights(source, target)
    for level in ("gfn1-xtb", "gfn2-xtb"):
        np.testing.assert_array_equal(energies(target, level), energies(source, level))
    assert report.fresh == ("conditioning.element.weight[Li]", "conditioning.level.weight[pbe/def2-svp] from the mean of the known")
    assert "conditioning.level.weight[gfn1-xtb]" in report.copied
    mean = source.conditioning.level.weight.mean(dim=0)
    torch.testing.assert_close(target.conditioning.level.weight[1], mean, rtol=0, atol=0)


def test_new_level_can_start_from_a_stated_one(two_levels: Any, small: Any) -> None:
    source, target = two_levels(conditions=[], references={}), small(levels=["ccsd(t)"], seed=5, scale=1.7)
    report = target.load_from(source, {"ccsd(t)": "gfn1-xtb"})
    np.testing.assert_array_equal(energies(target, "ccsd(t)"), energies(source, "gfn1-xtb"))
    assert report["fresh"] == ["conditioning.level.weight[ccsd(t)] from gfn1-xtb"]
    with pytest.raises(LevelError, match=r"cannot start from 'pbe'; the target has ccsd\(t\); the source has gfn1-xtb, gfn2-xtb"):
        target.load_from(source, {"ccsd(t)": "pbe"})


@pytest.mark.parametrize("levels", [["gfn1-xtb", "gfn2-xtb", "pbe"], ["pbe", "gfn2-xtb"], ["pbe"]])
def test_readouts_of_several_levels_take_more_fewer_and_other_ones(two_levels: Any, levels: list[str]) -> None:
    source = two_levels(seed=1, level_readout="stacked", references={})
    target = two_levels(levels=levels, seed=2, level_readout="stacked", references={}, scale=0.7)
    target.load_from(source)
    for level in levels:
        found = energies(target, level)
        assert np.isfinite(found).all()
        if level in source.spec.levels:
            np.testing.assert_allclose(found, energies(source, level), rtol=1e-6)


def test_another_scale_leaves_energies_and_direct_forces_as_they_were(small: Any) -> None:
    source, target = small(forces="direct", scale=0.5), small(forces="direct", scale=2.0, seed=9)
    target.load_from(source)
    for key in ("energy", "forces"):
        got, want = (np.concatenate([np.atleast_1d(a[key]) for a in evaluate(p, SYSTEMS, (key,))]) for p in (target, source))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def test_references_of_the_source_fill_a_level_without_any(two_levels: Any) -> None:
    source, target = two_levels(), two_levels(references={"gfn1-xtb": {"H": 1.0, "C": 1.0, "O": 1.0}})
    target.load_from(source)
    np.testing.assert_array_equal(energies(target), energies(source))
    shift = energies(target, "gfn1-xtb") - energies(source, "gfn1-xtb")
    np.testing.assert_allclose(shift, [3 + 110 + 22, 5 + 48 + 44], atol=1e-9)


def test_new_condition_starts_without_effect_on_what_the_source_could_see(two_levels: Any, small: Any) -> None:
    source, target = small(scale=1.7), small(scale=1.7, conditions=["total_charge"], seed=4)
    report = target.load_from(source)
    np.testing.assert_array_equal(energies(target), energies(source))
    assert all(name.startswith("conditioning.electronic.total_charge") for name in report["fresh"])


def test_other_backbone_options_are_refused_with_the_difference(small: Any) -> None:
    with pytest.raises(RecipeError, match=r"backbones differ: cutoff is 5.0, the source has 4.0"):
        small(backbone={"channels": 8, "layers": 2, "cutoff": 5.0, "radial": 6}).load_from(small())


def test_only_assembled_potentials_exchange_weights(small: Any) -> None:
    from mlipfm_interfaces.testing import closed_forms

    other = closed_forms.LennardJones()
    with pytest.raises(RecipeError, match="not from or to LennardJones"):
        small().load_from(other)
