"""Heads: charges that add up, dipoles that turn, averages that do not grow, tensors, the field; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import LevelError, PropertyNotAvailableError, RecipeError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.structures import methane, random_rotation, random_structure, rattled, silicon, supercell, water
from mlipfm_models import AssembledPotential, build_potential
from mlipfm_models.backbones.painn import Painn, PainnConfig
from mlipfm_models.configuration import HEADS, NO_HEAD, parse_assembly

LEVEL = "gfn2-xtb"
FREE = [key for key in HEADS if key != "stress"]
FIELD = {"conditions": ["total_charge", "spin_multiplicity", "external_field"]}


def ask(potential: Any, s: Structure, *keys: str) -> dict[str, np.ndarray]:
    return evaluate(potential, [s], keys, level=LEVEL)[0]


def ion(charge: int = 1, multiplicity: int = 1) -> Structure:
    positions = [[0, 0, 0.1], [0.94, 0, 0], [-0.47, 0.81, 0], [-0.47, -0.81, 0]]
    return rattled(Structure([8, 1, 1, 1], positions), 0.05).replace(total_charge=charge, spin_multiplicity=multiplicity)


def neutral() -> Structure:
    return rattled(methane(), 0.1).replace(total_charge=0, spin_multiplicity=1)


def two_of(s: Structure, distance: float = 60.0) -> Structure:
    """Two copies out of reach of each other, with twice the charge and twice the unpaired electrons."""
    positions = np.concatenate([s.positions, s.positions + [distance, 0, 0]])
    charge = None if s.total_charge is None else 2 * s.total_charge
    multiplicity = None if s.spin_multiplicity is None else 2 * (s.spin_multiplicity - 1) + 1
    return Structure(np.tile(s.atomic_numbers, 2), positions, total_charge=charge, spin_multiplicity=multiplicity)


def turned(value: np.ndarray, shape: tuple[int, ...], turn: np.ndarray) -> np.ndarray:
    if shape == (3,):
        return value @ turn.T
    return turn @ value @ turn.T if shape == (3, 3) else value


# Every head


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_what_heads_say_turns_with_the_molecule(with_heads: Any, improper: bool) -> None:
    potential, turn = with_heads(), random_rotation(5, improper=improper)
    for s in (neutral(), ion(1, 3)):
        before, after = ask(potential, s, *FREE), ask(potential, s.replace(positions=s.positions @ turn.T + [3.0, -1.0, 2.0]), *FREE)
        for key in FREE:
            want = turned(before[key], QUANTITIES[key].shape, turn)
            np.testing.assert_allclose(after[key], want, rtol=0, atol=1e-11 * max(1.0, np.abs(want).max()), err_msg=key)
            assert np.abs(want).max() > 1e-4, key


def test_numbering_atoms_differently_changes_the_order_only(with_heads: Any) -> None:
    potential, s = with_heads(), ion()
    order = np.array([2, 0, 3, 1])
    before = ask(potential, s, *FREE)
    after = ask(potential, s.replace(atomic_numbers=s.atomic_numbers[order], positions=s.positions[order]), *FREE)
    for key in FREE:
        want = before[key][order] if QUANTITIES[key].layout == "atom" else before[key]
        np.testing.assert_allclose(after[key], want, rtol=0, atol=1e-11 * max(1.0, np.abs(want).max()), err_msg=key)


@pytest.mark.parametrize("key", FREE)
def test_two_copies_have_twice_what_is_extensive_and_the_same_of_what_is_not(with_heads: Any, key: str) -> None:
    potential, kind = with_heads(), QUANTITIES[key]
    for s in (neutral(), ion(1, 3), neutral().replace(total_charge=None, spin_multiplicity=None)):
        if (key == "dipole" and s.total_charge) or (key == "quadrupole" and s.total_charge != 0):
            continue  # the centre of mass of both is another origin
        one, two = ask(potential, s, key)[key], ask(potential, two_of(s), key)[key]
        want = np.tile(one, (2,) + (1,) * (one.ndim - 1)) if kind.layout == "atom" else 2 * one if kind.extensive else one
        np.testing.assert_allclose(two, want, rtol=0, atol=1e-10 * max(1.0, np.abs(one).max()))


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("asked", ["nothing", "everything", "energy"])
def test_every_parameter_gets_a_gradient_with_all_heads_on(with_heads: Any, forces: str, asked: str) -> None:
    potential = with_heads(forces, level_readout="stacked")
    outputs = {"nothing": (), "energy": ("energy",), "everything": tuple(k for k in potential.spec.outputs if k in FREE or k == "energy")}[
        asked
    ]
    batch = collate([s.replace(level=LEVEL) for s in (ion(), neutral())], potential.spec.graphs, torch.float64)
    prediction = potential(batch, outputs, create_graph=True)
    loss = sum((value.square().sum() for value in prediction.values.values()), prediction.features["node_scalar"].value.sum())
    loss.backward()
    assert [name for name, p in potential.named_parameters() if p.grad is None] == []
    assert all(bool(p.grad.isfinite().all()) for p in potential.parameters())
    if asked == "everything":
        idle = [n for n, p in potential.named_parameters() if n.startswith("heads.") and not p.grad.abs().max() > 0]
        assert [n for n in idle if not n.startswith(("heads.forces", "heads.parts.stress"))] == []  # not asked: molecules


def test_heads_leave_energies_and_weights_of_the_others_as_they_were(two_levels: Any, with_heads: Any) -> None:
    bare, full = two_levels(), with_heads()
    for name, value in bare.named_parameters():
        assert torch.equal(value, dict(full.named_parameters())[name]), name
    for key, value in ask(bare, ion(), "energy", "forces").items():
        assert np.array_equal(value, ask(full, ion(), "energy", "forces")[key])


# Charges


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_charges_add_up_to_the_total_charge_to_the_last_digit(with_heads: Any, dtype: str) -> None:
    potential = with_heads(dtype=dtype)
    states = [(0, 1), (1, 1), (-2, 3), (3, 2)]
    systems = [random_structure(k, 30, elements=(1, 6, 8), spread=1.5).replace(total_charge=q) for k, (q, _) in enumerate(states)]
    for row, (charge, _) in zip(evaluate(potential, systems, ("charges",), level=LEVEL), states, strict=True):
        assert abs(row["charges"].sum() - charge) < 1e-12
        assert row["charges"].std() > 1e-3
    for multiplicity in (1, 2, 5):
        s = random_structure(9, 30, elements=(1, 6, 8), spread=1.5).replace(spin_multiplicity=multiplicity)
        assert abs(ask(potential, s, "spin_charges")["spin_charges"].sum() - (multiplicity - 1)) < 1e-12


def test_charges_without_a_stated_total_add_up_to_nothing_in_particular(with_heads: Any) -> None:
    """Not stated is not zero: the sum is free, and more charge on one side is not taken from the other."""
    potential = with_heads()
    unstated = neutral().replace(total_charge=None)
    assert abs(ask(potential, unstated, "charges")["charges"].sum()) > 1e-3
    assert abs(ask(potential, neutral(), "charges")["charges"].sum()) < 1e-12


def test_equilibration_is_the_formula_of_its_paper(with_heads: Any) -> None:
    potential = with_heads()
    batch = collate([ion().replace(level=LEVEL)], potential.spec.graphs, torch.float64)
    raw: dict[str, torch.Tensor] = {}
    potential.heads.register_forward_hook(lambda module, given, out: raw.update(out))
    got = potential(batch, ("charges",))["charges"].detach().numpy()
    first, second = raw["charges"].detach().numpy().T
    own, f = 1.3 * first, np.log1p(np.exp(second)) + 1e-6
    np.testing.assert_allclose(got, own + f / f.sum() * (1 - own.sum()), atol=1e-14)


# Dipoles, Born charges, the field


def test_dipole_of_a_neutral_molecule_does_not_depend_on_the_origin(with_heads: Any) -> None:
    potential, s = with_heads(), neutral()
    answer = ask(potential, s, "dipole", "charges")
    shifted = ask(potential, s.replace(positions=s.positions + [100.0, -50.0, 20.0]), "dipole")["dipole"]
    np.testing.assert_allclose(shifted, answer["dipole"], atol=1e-11)
    # and the charges' part of it may be taken about any point
    about = [(answer["charges"][:, None] * (s.positions - point)).sum(axis=0) for point in (np.zeros(3), np.array([5.0, 6.0, 7.0]))]
    np.testing.assert_allclose(*about, atol=1e-12)


def test_dipole_of_an_ion_is_taken_about_its_centre_of_mass(with_heads: Any) -> None:
    """With the atomic dipoles silenced, it is sum q (r - R)."""
    potential, s = with_heads(), ion()
    with torch.no_grad():
        for parameter in potential.heads.parts["dipole"].outer.parameters():
            parameter.zero_()
    answer = ask(potential, s, "dipole", "charges")
    mass = MASSES[s.atomic_numbers][:, None]
    centre = (mass * s.positions).sum(axis=0) / mass.sum()
    want = (answer["charges"][:, None] * (s.positions - centre)).sum(axis=0)
    np.testing.assert_allclose(answer["dipole"], want, atol=1e-13)
    far = ask(potential, s.replace(positions=s.positions + 1000.0), "dipole")["dipole"]
    np.testing.assert_allclose(far, want, atol=1e-10)


def test_quadrupole_of_charges_is_their_second_moment_about_the_centre_of_mass(with_heads: Any) -> None:
    """With the atomic dipoles and quadrupoles silenced, it is sum q (r - R)(r - R)."""
    potential, s = with_heads(), ion()
    with torch.no_grad():
        for key in ("dipole", "quadrupole"):
            for parameter in potential.heads.parts[key].outer.parameters():
                parameter.zero_()
    answer = ask(potential, s, "quadrupole", "charges")
    mass = MASSES[s.atomic_numbers][:, None]
    away = s.positions - (mass * s.positions).sum(axis=0) / mass.sum()
    np.testing.assert_allclose(answer["quadrupole"], np.einsum("a,ax,ay->xy", answer["charges"], away, away), atol=1e-13)
    far = ask(potential, s.replace(positions=s.positions + 1000.0), "quadrupole")["quadrupole"]
    np.testing.assert_allclose(far, answer["quadrupole"], atol=1e-9)


def test_quadrupole_of_two_ions_has_what_their_charges_and_dipoles_give_with_their_places(with_heads: Any) -> None:
    """The parallel axis theorem: Q(2) = sum over both of Q + mu a + a mu + q a a, where a = ±D/2 leads to each; the dipoles cancel."""
    potential, s = with_heads(), ion(1, 3)
    one, two = (ask(potential, x, "quadrupole")["quadrupole"] for x in (s, two_of(s, 60.0)))
    np.testing.assert_allclose(two, 2 * one + 2 * 1.0 * np.diag([30.0**2, 0, 0]), atol=1e-9)
    turn = np.diag([-1.0, -1.0, 1.0])  # the second one upside down: the dipoles add up
    pair = Structure(
        np.tile(s.atomic_numbers, 2), np.concatenate([s.positions, s.positions @ turn + [0, 60.0, 0]]), total_charge=2, spin_multiplicity=5
    )
    mass, first = MASSES[s.atomic_numbers][:, None], ask(potential, s, "dipole")["dipole"]
    centre = (mass * s.positions).sum(axis=0) / mass.sum()
    a = (centre @ turn + [0, 60.0, 0] - centre) / 2
    want = one + turn @ one @ turn + np.outer(a, a) * 2 + sum(np.outer(x, a) + np.outer(a, x) for x in (turn @ first, -first))
    np.testing.assert_allclose(ask(potential, pair, "quadrupole")["quadrupole"], want, atol=1e-9)


def test_born_charges_are_the_slope_of_the_dipole(with_heads: Any) -> None:
    potential, s, h = with_heads(), ion(), 1e-4
    born = ask(potential, s, "born_charges")["born_charges"]
    for atom, axis in ((0, 2), (2, 1)):
        step = np.zeros((4, 3))
        step[atom, axis] = h
        plus, minus = (ask(potential, s.replace(positions=s.positions + d), "dipole")["dipole"] for d in (step, -step))
        np.testing.assert_allclose(born[atom, :, axis], (plus - minus) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(born.sum(axis=0), np.zeros((3, 3)), atol=1e-11)


def test_dipole_and_polarizability_are_the_response_of_the_energy_to_a_field(with_heads: Any) -> None:
    potential = with_heads(**FIELD)
    for strength in (0.0, 0.3):
        s = neutral().replace(external_field=[0.1 * strength, -strength, 0.4 * strength], level=LEVEL)
        batch = collate([s], potential.spec.graphs, torch.float64).with_leaves(field=True)
        found = potential(batch, ("energy", "dipole", "polarizability"), create_graph=True)
        dipole, polarizability = derivatives.field_response(found["energy"], batch)
        torch.testing.assert_close(found["dipole"], dipole, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["polarizability"], polarizability, rtol=0, atol=1e-12)
    h = np.array([1e-4, 0, 0])
    plus, minus = (ask(potential, neutral().replace(external_field=d), "energy")["energy"] for d in (h, -h))
    assert -(plus - minus) / 2e-4 == pytest.approx(ask(potential, neutral(), "dipole")["dipole"][0], abs=1e-8)


def test_a_field_pulls_at_an_ion_with_its_charge_and_at_a_molecule_with_nothing(with_heads: Any) -> None:
    potential, field = with_heads(**FIELD), np.array([0.02, -0.05, 0.03])
    for s in (ion(1), ion(-1), neutral()):
        net = ask(potential, s.replace(external_field=field), "forces")["forces"].sum(axis=0)
        np.testing.assert_allclose(net, s.total_charge * field, atol=1e-11)


def test_forces_in_a_field_are_the_slope_of_the_energy(with_heads: Any) -> None:
    potential, s, h = with_heads(**FIELD), ion().replace(external_field=[0.05, 0.1, -0.2]), 1e-4
    forces = ask(potential, s, "forces")["forces"]
    for atom, axis in ((0, 0), (3, 2)):
        step = np.zeros((4, 3))
        step[atom, axis] = h
        plus, minus = (ask(potential, s.replace(positions=s.positions + d), "energy")["energy"] for d in (step, -step))
        assert -(plus - minus) / (2 * h) == pytest.approx(forces[atom, axis], abs=1e-7)


def test_energies_without_a_field_are_those_of_the_model_without_that_condition(with_heads: Any) -> None:
    np.testing.assert_array_equal(ask(with_heads(**FIELD), ion(), "energy")["energy"], ask(with_heads(), ion(), "energy")["energy"])


def test_crystals_have_no_dipole_and_no_field(with_heads: Any) -> None:
    potential = with_heads(elements=["Si"], references={}, heads={"dipole": {}}, **FIELD)
    for key in ("dipole", "born_charges"):
        with pytest.raises(PropertyNotAvailableError, match="system 0: a periodic system has no dipole"):
            ask(potential, silicon(), key)
    with pytest.raises(PropertyNotAvailableError, match="uniform field has no potential in a periodic system"):
        ask(potential, silicon().replace(external_field=[0.0, 0.0, 0.1]), "energy")
    assert np.isfinite(ask(potential, silicon(), "energy")["energy"])


# Direct stress


def test_direct_stress_is_symmetric_turns_and_does_not_grow_with_the_cell(with_heads: Any) -> None:
    potential = with_heads("direct", elements=["Si"], references={}, heads={"stress": {}})
    s = rattled(silicon(), 0.1)
    stress = ask(potential, s, "stress")["stress"]
    np.testing.assert_allclose(stress, stress.T, atol=1e-15)
    assert np.linalg.norm(stress) > 1e-4
    turn = random_rotation(3)
    moved = s.replace(positions=s.positions @ turn.T, cell=s.cell @ turn.T)
    np.testing.assert_allclose(ask(potential, moved, "stress")["stress"], turn @ stress @ turn.T, atol=1e-13)
    np.testing.assert_allclose(ask(potential, supercell(s, (2, 1, 1)), "stress")["stress"], stress, atol=1e-13)


def test_direct_stress_sees_a_shear_that_leaves_every_atom_at_an_inversion_centre(with_heads: Any) -> None:
    """All vectors of a simple cubic crystal vanish, sheared or not."""
    potential = with_heads("direct", elements=["Si"], references={}, heads={"stress": {}})
    cell = 2.6 * np.eye(3)
    cube, sheared = (Structure([14], np.zeros((1, 3)), cell=cell @ (np.eye(3) + e), pbc=np.ones(3, bool)) for e in (0.0, shear(0.1)))
    plain, tilted = (ask(potential, s, "stress")["stress"] for s in (cube, sheared))
    np.testing.assert_allclose(plain, plain[0, 0] * np.eye(3), atol=1e-14)
    assert abs(plain[0, 0]) > 1e-5
    assert abs(tilted[0, 1]) > 1e-5


def shear(size: float) -> np.ndarray:
    out = np.zeros((3, 3))
    out[0, 1] = out[1, 0] = size
    return out


# Level readouts


def test_stacked_readouts_are_indexed_per_system(two_levels: Any) -> None:
    """What one level is taught does not touch the readout of the other, and both have parameters in one tensor."""
    potential = two_levels(level_readout="stacked", references={})
    assert potential.heads.energy.outer.weight.shape == (2, 8)
    with torch.no_grad():
        potential.conditioning.level.weight.zero_()
    systems = [water().replace(level=level) for level in potential.spec.levels]
    energies = potential(collate(systems, potential.spec.graphs, torch.float64), ("energy",))["energy"]
    assert abs(energies[0] - energies[1]) > 1e-4
    energies[1].backward()
    gradient = potential.heads.energy.outer.weight.grad
    assert gradient[0].abs().max() == 0 < gradient[1].abs().max()


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": {"dipol": {}}}, r"painn.heads: 'dipol' is not known here; did you mean 'dipole'\?"),
        ({"heads": {"dipole": {"size": 1}}}, r"painn.heads.dipole: unknown key 'size'; did you mean 'scale'\?|unknown key 'size'"),
        ({"heads": {"band_gap": {"scale": 0}}}, r"painn.heads.band_gap.scale: .*greater than 0"),
        ({"heads": {"dipole": {}}}, r"'dipole' depends on 'total_charge'; add 'total_charge' to `conditions`"),
        ({"heads": {"spin_charges": {}}}, r"'spin_charges' depends on 'spin_multiplicity'"),
        ({"heads": {"stress": {}}}, r"the stress of a conservative model is a derivative"),
        ({"heads": {"shieldings": {"shift": {"H": 30.0}}}}, r"painn.heads.shieldings: no shift for O; give one for every element"),
        ({"conditions": ["external_field"]}, r"a field acts through the dipole, .*; add the head 'dipole'"),
        (
            {"conditions": ["external_field", "total_charge"], "heads": {"dipole": {}}, "forces": "direct"},
            r"forces of their own do not follow it; use conservative forces",
        ),
        ({"level_readout": "separate"}, r"painn.level_readout: .*'shared' or 'stacked'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        build_potential("painn", {"elements": ["H", "O"], "levels": ["any"]} | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", NO_HEAD)
def test_quantities_without_a_head_say_why(key: str) -> None:
    with pytest.raises(RecipeError, match=f"there is no head '{key}': {NO_HEAD[key]}"):
        build_potential("painn", {"elements": ["H"], "levels": ["any"], "heads": {key: {}}})


def test_every_quantity_has_a_head_or_a_reason() -> None:
    assert set(HEADS) | set(NO_HEAD) == set(QUANTITIES)
    assert not set(HEADS) & set(NO_HEAD)


class ScalarsOnly(Painn):
    """A backbone that gives no vectors."""

    provides = ("scalars",)

    def forward(self, s: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return s, s.new_zeros(len(s), 3, 0)


def test_heads_of_vectors_are_refused_on_a_backbone_of_scalars_with_the_list_of_what_fits() -> None:
    backbone = ScalarsOnly(PainnConfig(channels=8, layers=1))
    options = {"elements": ["H", "C"], "levels": ["any"], "conditions": ["total_charge"]}
    with pytest.raises(RecipeError, match=r"'dipole' needs vectors, .*; with this backbone fit: charges, .*band_gap") as caught:
        AssembledPotential("scalars", backbone, parse_assembly(options | {"heads": {"dipole": {}}}, "scalars"))
    assert "noise" not in str(caught.value)
    with pytest.raises(RecipeError, match="direct forces need vectors"):
        AssembledPotential("scalars", backbone, parse_assembly(options | {"forces": "direct"}, "scalars"))
    potential = AssembledPotential("scalars", backbone, parse_assembly(options | {"heads": {"charges": {}, "band_gap": {}}}, "scalars"))
    assert evaluate(potential, [methane()], ("energy", "charges", "band_gap"))[0]["charges"].shape == (5,)
    assert backbone.graph == GraphSpec(5.0)


# Taking over weights


def test_weights_of_heads_are_taken_over_and_rescaled(with_heads: Any) -> None:
    old, new = with_heads(seed=1), with_heads(seed=2)
    wider = with_heads(seed=3, heads={key: {**options, "scale": 4.0} for key, options in old.config["heads"].items()}, scale=0.6)
    for target in (new, wider):
        assert target.load_from(old)["fresh"] == []
        for key, value in ask(old, ion(), *FREE).items():
            np.testing.assert_allclose(ask(target, ion(), key)[key], value, rtol=1e-10, atol=1e-12, err_msg=key)
    other = with_heads(heads={"band_gap": {"shift": 1.0}})
    with pytest.raises(RecipeError, match="the head 'band_gap' has the shift 1.0, the source has 2.5"):
        other.load_from(old)


def test_one_readout_becomes_that_of_every_level_and_not_the_other_way(two_levels: Any) -> None:
    shared, stacked = two_levels(seed=1), two_levels(seed=2, level_readout="stacked", scale=0.9)
    report = stacked.load_from(shared)
    assert "heads.energy.outer.weight[gfn1-xtb]" in report["copied"]
    for level in shared.spec.levels:
        one, two = (evaluate(p, [water()], ("energy",), level=level)[0]["energy"] for p in (shared, stacked))
        assert one == pytest.approx(two, abs=1e-11)
    with pytest.raises(RecipeError, match="readouts of several levels cannot become one"):
        two_levels().load_from(stacked)


# The contract


@pytest.mark.ci
class TestConservativeWithAllHeads(PotentialContract):
    @pytest.fixture(autouse=True)
    def build(self, with_heads: Any) -> None:
        self.build_potential = with_heads

    def potential(self) -> Potential:
        return self.build_potential(level_readout="stacked", **FIELD)


class TestDirectWithAllHeads(TestConservativeWithAllHeads):
    def potential(self) -> Potential:
        return self.build_potential("direct")


def test_a_property_needs_no_reference_energy_of_its_elements(two_levels: Any) -> None:
    potential = two_levels(heads={"charges": {}}, references={"gfn1-xtb": {"H": -10.0}, "gfn2-xtb": {"H": -10.0, "O": -100.0}})
    found = evaluate(potential, [water()], ("charges",), level="gfn1-xtb")[0]["charges"]
    potential.set_references("gfn1-xtb", {"H": -10.0, "O": -100.0})
    assert found.tolist() == evaluate(potential, [water()], ("charges",), level="gfn1-xtb")[0]["charges"].tolist()
    potential.set_references("gfn1-xtb", {"H": -10.0})
    for outputs in (("energy",), ("charges", "forces")):
        with pytest.raises(LevelError, match="'gfn1-xtb' has no reference energy for O"):
            evaluate(potential, [water()], outputs, level="gfn1-xtb")
