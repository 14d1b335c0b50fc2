from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import LevelError, MissingLabelsError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.theory import AtomicReferences, LevelOfTheory, canonical_level, find_level, fit_references, parse_level

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
    with pytest.raises(LevelError, match=r"structure 5 of qm9\.xyz: has no level of theory; set `level` on import"):
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
        (LevelOfTheory(method="PBE", basis="520eV", hubbard_u=(("Fe", 5.3),)), "pbe+u(fe=5.3)/520ev"),
        (LevelOfTheory(method="GFN2-xTB"), "gfn2-xtb"),
        (LevelOfTheory(method="CCSD(T)", basis="cc-pVDZ"), "ccsd(t)/cc-pvdz"),
        (LevelOfTheory(method="CCSD(T)", basis="cc-pVDZ", code="pyscf 2.14"), "ccsd(t)/cc-pvdz:code=pyscf-2.14"),
    ],
)
def test_ids_are_canonical(level, wanted):
    assert level.id == wanted
    assert canonical_level(wanted) == wanted


def test_spellings_of_one_level_agree():
    assert {canonical_level(x) for x in ("wB97M-D3BJ", " ωB97M-D3BJ ", "omegab97m-d3bj")} == {"wb97m-d3bj"}
    with pytest.raises(LevelError, match="needs a name"):
        canonical_level("  ")


VARIANTS = {
    "basis": ["400eV", "520eV"],
    "dispersion": ["D3", "D3BJ", "D4"],
    "pseudopotential": ["PAW PBE 52", "PAW PBE 54", "GTH"],
    "hubbard_u": [(("Fe", 5.3),), (("Fe", 4.0),), (("Co", 5.3),), (("Co", 3.32), ("Fe", 5.3))],
    "k_mesh": ["gamma", "3x3x3"],
    "spin_treatment": ["restricted", "unrestricted"],
    "code": ["VASP 5.4", "VASP 6.3", "CP2K"],
}


@pytest.mark.parametrize("field", VARIANTS)
def test_levels_that_differ_in_what_is_stated_have_different_ids(field):
    levels = [LevelOfTheory(method="PBE"), *(LevelOfTheory(method="PBE", **{field: value}) for value in VARIANTS[field])]
    ids = [level.id for level in levels]
    assert len(set(ids)) == len(ids)
    for level in levels:
        assert parse_level(level.id).id == level.id
        assert canonical_level(level.id) == level.id


def test_the_order_of_elements_and_a_u_of_zero_are_no_difference():
    first = LevelOfTheory(method="PBE", hubbard_u=(("Fe", 5.30), ("Co", 3.32), ("O", 0.0)))
    assert first.id == LevelOfTheory(method="PBE", hubbard_u=(("Co", 3.32), ("Fe", 5.3))).id == "pbe+u(co=3.32+fe=5.3)"


@pytest.mark.parametrize(
    ("text", "method", "dispersion", "basis"),
    [
        ("wB97M-D3(BJ)/def2-TZVPPD", "wb97m", "d3bj", "def2-tzvppd"),
        ("ωB97M-D3BJ/def2-TZVPPD", "wb97m", "d3bj", "def2-tzvppd"),
        ("wb97m-d3-bj/def2-tzvppd", "wb97m", "d3bj", "def2-tzvppd"),
        ("PBE-D3(0)", "pbe", "d3zero", None),
        ("b3lyp-d3/6-31g*", "b3lyp", "d3", "6-31g*"),
        ("wB97X-D/6-31G*", "wb97x-d", None, "6-31g*"),
        ("wB97M-V/def2-TZVPD", "wb97m-v", None, "def2-tzvpd"),
        ("GFN2-xTB", "gfn2-xtb", None, None),
        ("pbe+u/520ev", "pbe+u", None, "520ev"),
        ("CCSD(T)/CBS", "ccsd(t)", None, "cbs"),
    ],
)
def test_a_level_has_one_spelling_and_its_parts(text, method, dispersion, basis):
    level = parse_level(text)
    assert (level.method, level.dispersion, level.basis) == (method, dispersion, basis)
    assert parse_level(level.id) == level


@pytest.mark.parametrize(
    "plain", ["gfn2-xtb", "pbe/520ev", "wb97x-d3/def2-tzvp", "pbe+u/520ev", "wb97m-d3bj/def2-tzvppd", "emt", "a:b/c:d"]
)
def test_ids_that_stores_hold_stay(plain):
    assert canonical_level(plain) == plain == parse_level(plain).id


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("wB97M-D3(BJ)/def2-TZVPPD", "wb97m-d3bj/def2-tzvppd"),
        ("ωB97M-D3BJ/def2-TZVPPD", "wb97m-d3bj/def2-tzvppd"),
        ("PBE+D3(BJ)", "pbe-d3bj"),
        ("pbe-d3/bj", "pbe-d3bj"),
        ("B3LYP-GD3BJ/6-31G(d)", "b3lyp-d3bj/6-31g(d)"),
        ("PBE-D3(0)", "pbe-d3zero"),
        ("PBE0+MBD", "pbe0-mbd"),
        ("r2SCAN+rVV10/520eV", "r2scan-rvv10/520ev"),
        ("pbe+u(fe=5.3)-d3(bj)/520ev", "pbe+u(fe=5.3)-d3bj/520ev"),
        ("pbe(+u)/paw", "pbe(+u)/paw"),
        ("pbe+u/vasp-520ev", "pbe+u/vasp-520ev"),
    ],
)
def test_a_level_has_one_spelling_and_is_found_by_every_other(written, level):
    assert canonical_level(written) == level == canonical_level(level) == parse_level(written).id
    assert find_level(level, ["pbe", written]) == written
    assert find_level(written, ["pbe", level]) == level
    assert find_level(level, ["pbe"]) is None is find_level(None, [written])
