from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import LevelError, MissingLabelsError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.theory import AtomicReferences, LevelOfTheory, canonical_level, fit_references

PLANTED = {"pbe": {1: -13.6, 6: -1029.0, 8: -2042.5}, "gfn2-xtb": {1: -10.7, 6: -48.8, 8: -102.6}}
FORMULAS = ["H H O", "C H H H H", "C O", "C O O", "H H", "C C H H H H H H O"]


def molecule(symbols, level, energy=None, **kwargs):
    numbers = [number(name) for name in symbols.split()]
    positions = np.arange(len(numbers))[:, None] * np.ones(3)
    return Structure(numbers, positions, level=level, labels={} if energy is None else {"energy": energy}, **kwargs)


def labelled(symbols, level):
    return molecule(symbols, level, sum(PLANTED[level][number(name)] for name in symbols.split()))


def test_planted_references_are_recovered_for_every_level():
    fits = fit_references([labelled(f, level) for f in FORMULAS for level in PLANTED])
    for level, planted in PLANTED.items():
        assert fits[level].energies == pytest.approx(planted, rel=1e-10)
        assert (fits[level].rank, fits[level].n_elements) == (3, 3)
        assert fits[level].residual == pytest.approx(0, abs=1e-9)


def test_methane_alone_determines_one_combination_only():
    fit = fit_references([labelled("C H H H H", "pbe")] * 3)["pbe"]
    assert (fit.rank, fit.n_elements) == (1, 2)
    assert fit.energy(np.array([6, 1, 1, 1, 1])) == pytest.approx(-1029.0 - 4 * 13.6)
    # Smallest norm: along the composition (1, 4).
    assert fit.energies[1] == pytest.approx(4 * fit.energies[6])


def test_the_residual_is_per_atom():
    fit = fit_references([molecule("H H", "x", 1.0), molecule("H H", "x", 3.0)])["x"]
    assert fit.energies == pytest.approx({1: 1.0})
    assert fit.residual == pytest.approx(0.5)


def test_references_know_which_element_is_missing():
    with pytest.raises(LevelError, match=r"'pbe' has no reference energy for atomic numbers \[8, 29\]"):
        AtomicReferences("pbe", {1: -13.6}).energy(np.array([1, 8, 29, 8]))


def test_energies_without_level_and_levels_without_energy_are_refused():
    with pytest.raises(LevelError, match=r"structure 5 of qm9\.xyz: states no level of theory; set `level` on import"):
        fit_references([molecule("H H", None, -1.0, provenance=Provenance(source="qm9.xyz", index=5))])
    with pytest.raises(MissingLabelsError, match="no structure of level 'pbe' has an energy label"):
        fit_references([molecule("H H", "pbe")])


def test_unlabelled_structures_do_not_disturb_the_fit():
    fits = fit_references([molecule("C O", None), molecule("C O", "pbe"), *(labelled(f, "pbe") for f in FORMULAS)])
    assert fits["pbe"].energies == pytest.approx(PLANTED["pbe"])


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        (LevelOfTheory(method="ωB97M", dispersion="D3BJ", basis="def2-TZVPPD"), "wb97m-d3bj/def2-tzvppd"),
        (LevelOfTheory(method="PBE", basis="520eV", hubbard_u=(("Fe", 5.3),)), "pbe+u/520ev"),
        (LevelOfTheory(method="GFN2-xTB"), "gfn2-xtb"),
        (LevelOfTheory(method="CCSD(T)", basis="cc-pVDZ", code="pyscf 2.14"), "ccsd(t)/cc-pvdz"),
    ],
)
def test_ids_are_canonical(level, wanted):
    assert level.id == wanted
    assert canonical_level(wanted) == wanted


def test_spellings_of_one_level_agree():
    assert {canonical_level(x) for x in ("wB97M-D3BJ", " ωB97M-D3BJ ", "omegab97m-d3bj")} == {"wb97m-d3bj"}
    with pytest.raises(LevelError, match="needs a name"):
        canonical_level("  ")
