"""Conditioning, heads and readouts against their equations, written out a second time in numpy around the features of the backbone.

Three systems in one batch: a cation that is a doublet, an anion, and one whose state nobody states; two levels with references; a field. All
weights are random, biases too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import methane, rattled, water
from mlipfm_models import build_potential
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS = ("gfn1-xtb", "gfn2-xtb")
REFERENCES = {"gfn1-xtb": {"H": -11.0, "C": -48.0, "O": -110.0}, "gfn2-xtb": {"H": -10.7, "C": -48.8, "O": -102.6}}
ELEMENTS = (1, 6, 8)
MASS = {1: 1.008, 6: 12.011, 8: 15.999}
HEADS: dict[str, dict[str, Any]] = {
    "dipole": {"scale": 1.3},
    "charges": {"scale": 0.7},
    "spin_charges": {"scale": 0.9},
    "polarizability": {"scale": 1.1},
    "quadrupole": {"scale": 0.8},
    "band_gap": {"shift": 2.5, "scale": 0.6},
    "shieldings": {"shift": {"H": 30.0, "C": 120.0, "O": 300.0}, "scale": 5.0},
    "noise": {"scale": 1.2},
}
SCALE = 1.7
STRUCTURES = [
    rattled(water(), 0.1).replace(total_charge=1, spin_multiplicity=2, level=LEVELS[1], external_field=np.array([0.2, -0.1, 0.3])),
    rattled(methane(), 0.1).replace(total_charge=-2, spin_multiplicity=3, level=LEVELS[0], external_field=np.array([0.0, 0.4, -0.2])),
    Structure([8, 1, 6], [[0.3, 0.1, 0.0], [1.2, 0.0, 0.2], [-0.5, 1.1, 0.1]], level=LEVELS[1]),
]
CONDITIONS = ("total_charge", "spin_multiplicity", "external_field")


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def softplus(x: Floats) -> Floats:
    return np.log1p(np.exp(x))


class Weights:
    def __init__(self, potential: Any) -> None:
        self.all = {key: value.numpy() for key, value in potential.state_dict().items()}

    def __getitem__(self, name: str) -> Floats:
        return self.all[f"{name}.weight"]

    def map(self, name: str, x: Floats) -> Floats:
        return x @ self[name].T + self.all.get(f"{name}.bias", 0.0)


def electrons(w: Weights, name: str, x: Floats, number: int | None) -> Floats:
    """A number of electrons, shared out over the atoms; a token of its own where it is not given (the module's words)."""
    if number is None:
        return np.broadcast_to(w[f"{name}.unknown"], x.shape)
    sign = int(number < 0)
    share = softplus((w.map(f"{name}.query", x) * w[f"{name}.key"][sign]).mean(axis=1))
    e = abs(number) * (share / share.sum())[:, None] * w[f"{name}.value"][sign]
    return e + w.map(f"{name}.outer", silu(w.map(f"{name}.inner", e)))


def first_scalars(w: Weights) -> Floats:
    parts = []
    for s in STRUCTURES:
        x = w["conditioning.element"][[ELEMENTS.index(z) for z in s.atomic_numbers]]
        unpaired = None if s.spin_multiplicity is None else s.spin_multiplicity - 1
        named = {"total_charge": s.total_charge, "spin_multiplicity": unpaired}
        extra = [electrons(w, f"conditioning.electronic.{name}", x, number) for name, number in named.items()]
        parts.append(x + w["conditioning.level"][LEVELS.index(str(s.level))] + np.sum(extra, axis=0))
    return np.concatenate(parts)


def shapes_of(s: Structure, cutoff: float) -> Floats:
    """[atoms, 4, 3, 3]: sum over neighbours of Bessel functions under the envelope times u u^T / 4."""
    found = np.zeros((len(s), 4, 3, 3))
    for i in range(len(s)):
        for j in range(len(s)):
            r = np.linalg.norm(d := s.positions[j] - s.positions[i])
            if 0 < r < cutoff:
                x = r / cutoff
                window = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
                radial = (2 / cutoff) ** 0.5 * np.sin(np.arange(1, 5) * np.pi * x) / r * window / 4
                found[i] += radial[:, None, None] * np.outer(d, d) / r**2
    return found


def tensor_head(w: Weights, name: str, s: Floats, v: Floats, shapes: Floats) -> Floats:
    out = w.map(f"{name}.outer", silu(w.map(f"{name}.inner", s)))
    gate, deviation, trace, alone = np.split(out, [s.shape[1], s.shape[1] + 4, s.shape[1] + 8], axis=1)
    pairs = np.einsum("axc,ac,ayc->axy", w.map(f"{name}.left", v), gate, w.map(f"{name}.right", v))
    isotropic = (trace * np.trace(shapes, axis1=2, axis2=3)).sum(axis=1) + alone[:, 0]
    return (pairs + pairs.swapaxes(1, 2)) / 2 + np.einsum("ak,akxy->axy", deviation, shapes) + isotropic[:, None, None] * np.eye(3)


def vector_head(w: Weights, name: str, s: Floats, v: Floats) -> Floats:
    gate = w.map(f"{name}.outer", silu(w.map(f"{name}.inner", s)))
    return (w.map(f"{name}.mix", v) * gate[:, None]).sum(axis=2)


def equilibrated(w: Weights, key: str, s: Floats, total: int | None) -> Floats:
    """Nat. Commun. 12, 4870 (2021), equation 2."""
    own, soft = w.map(f"heads.parts.{key}.outer", silu(w.map(f"heads.parts.{key}.inner", s))).T
    own, share = HEADS[key]["scale"] * own, softplus(soft) + 1e-6
    return own if total is None else own + share / share.sum() * (total - own.sum())


def answers(w: Weights, structure: Structure, s: Floats, v: Floats, cutoff: float) -> dict[str, Any]:
    """Everything about one system from the features [atoms, channels] and [atoms, 3, channels] of its atoms."""
    numbers, level = structure.atomic_numbers, LEVELS.index(str(structure.level))
    field = np.zeros(3) if structure.external_field is None else structure.external_field
    mass = np.array([MASS[int(z)] for z in numbers])
    centre = mass @ structure.positions / mass.sum()
    away, shapes = structure.positions - centre, shapes_of(structure, cutoff)
    q = equilibrated(w, "charges", s, structure.total_charge)
    unpaired = None if structure.spin_multiplicity is None else structure.spin_multiplicity - 1
    mu = HEADS["dipole"]["scale"] * vector_head(w, "heads.parts.dipole", s, v)
    alpha = HEADS["polarizability"]["scale"] * tensor_head(w, "heads.parts.polarizability", s, v, shapes)
    theta = HEADS["quadrupole"]["scale"] * tensor_head(w, "heads.parts.quadrupole", s, v, shapes)
    induced = mu + alpha @ field
    second = np.einsum("a,ax,ay->xy", q, away, away) + np.einsum("ax,ay->xy", induced, away) + np.einsum("ax,ay->xy", away, induced)
    energy = SCALE * (silu(w.map("heads.energy.inner", s)) @ w["heads.energy.outer"][level] + w.all["heads.energy.outer.bias"][level])
    permanent = (q[:, None] * away + mu).sum(axis=0)
    charge = structure.total_charge or 0
    in_field = -permanent @ field - field @ alpha.sum(axis=0) @ field / 2 - charge * centre @ field
    references = REFERENCES[str(structure.level)]
    own = sum(references[{1: "H", 6: "C", 8: "O"}[int(z)]] for z in numbers)
    value, logit = w.map("heads.parts.band_gap.outer", silu(w.map("heads.parts.band_gap.inner", s))).T
    shielding = w.map("heads.parts.shieldings.outer", silu(w.map("heads.parts.shieldings.inner", s)))[:, 0]
    shift = np.array([HEADS["shieldings"]["shift"][{1: "H", 6: "C", 8: "O"}[int(z)]] for z in numbers])
    return {
        "energy": energy.sum() + in_field + own,
        "charges": q,
        "spin_charges": equilibrated(w, "spin_charges", s, unpaired),
        "dipole": permanent + alpha.sum(axis=0) @ field,
        "polarizability": alpha.sum(axis=0),
        "quadrupole": second + theta.sum(axis=0),
        "band_gap": 2.5 + 0.6 * (value * np.exp(logit)).sum() / np.exp(logit).sum(),
        "shieldings": shift + 5.0 * shielding,
        "noise": 1.2 * vector_head(w, "heads.parts.noise", s, v),
    }


@pytest.fixture(scope="module")
def potential() -> Any:
    built = build_potential("painn",
        {
            "elements": ["H", "C", "O"], "levels": list(LEVELS), "references": REFERENCES, "conditions": list(CONDITIONS), "heads": HEADS,
            "level_readout": "stacked", "scale": SCALE, "dtype": "float64", "short_range": "none",
            "backbone": {"channels": 6, "layers": 2, "cutoff": 4.0, "radial": 5},
        }
    )  # fmt: skip
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return built


def test_conditioning_heads_and_readouts_are_their_equations(potential: Any) -> None:
    w, batch = Weights(potential), collate(STRUCTURES, potential.spec.graphs, torch.float64)
    with torch.no_grad():
        predicted = potential(batch, ("energy", *HEADS))
        s, v = (value.numpy() for value in potential.backbone(torch.from_numpy(first_scalars(w)), batch))
    ends = np.cumsum([len(x) for x in STRUCTURES])[:-1]
    systems = zip(STRUCTURES, np.split(s, ends), np.split(v, ends), strict=True)
    expected = [answers(w, structure, own, vectors, 4.0) for structure, own, vectors in systems]
    for key in ("energy", *HEADS):
        of_atoms = key in ("charges", "spin_charges", "shieldings", "noise")
        whole = np.concatenate([e[key] for e in expected]) if of_atoms else np.stack([e[key] for e in expected])
        np.testing.assert_allclose(predicted[key].numpy(), whole, rtol=1e-10, atol=1e-10, err_msg=key)


def test_forces_are_the_gradient_in_the_field_too(potential: Any) -> None:
    batch = collate(STRUCTURES, potential.spec.graphs, torch.float64)
    forces = potential(batch, ("energy", "forces"))["forces"].numpy()
    for atom, axis in ((0, 0), (4, 1), (9, 2)):
        moved = []
        for h in (1e-4, -1e-4):
            positions = batch.positions.clone()
            positions[atom, axis] += h
            parts = np.split(positions.numpy(), np.cumsum([len(x) for x in STRUCTURES])[:-1])
            there = [x.replace(positions=p) for x, p in zip(STRUCTURES, parts, strict=True)]
            moved.append(potential(collate(there, potential.spec.graphs, torch.float64), ("energy",))["energy"].sum().item())
        assert forces[atom, axis] == pytest.approx(-(moved[0] - moved[1]) / 2e-4, abs=1e-6)
