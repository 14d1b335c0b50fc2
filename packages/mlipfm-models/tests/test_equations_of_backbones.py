"""Every backbone against its equations, written out a second time in numpy: own neighbours, own radial functions, loops over atoms and neighbours.

The weights are all random, biases too, so that no term can be dropped unseen. Neither harmonics nor coupling tables are used: sums over m are
Legendre polynomials of angles (addition theorem), and couplings of three densities are means over the sphere of the densities as functions on it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from math import factorial, pi, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.structure import Structure
from mlipfm_models.backbones.backbone import Backbone
from mlipfm_models.backbones.behler_parrinello import BehlerParrinello, BehlerParrinelloConfig
from mlipfm_models.backbones.deeppot_se import DeepPotSe, DeepPotSeConfig
from mlipfm_models.backbones.density import Density, DensityConfig
from mlipfm_models.backbones.escaip import Escaip, EscaipConfig
from mlipfm_models.backbones.mace import Mace, MaceConfig
from mlipfm_models.backbones.painn import Painn, PainnConfig
from mlipfm_models.backbones.pet import Pet, PetConfig
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = dict[str, Floats]
#: For each atom its neighbours j with the vectors r_j - r_i, Å.
Neighbours = list[tuple[list[int], Floats]]
Answer = tuple[Floats, Floats]


def three_structures() -> list[Structure]:
    """A molecule, a skewed crystal whose atoms see images of themselves, and a slab; as random as their smallest distance (0.8 Å) lets them be."""
    rng = np.random.default_rng(4)

    def spread(n: int, box: Floats, pbc: tuple[bool, bool, bool]) -> Structure:
        points: list[Floats] = []
        images = [np.array(k) @ box for k in product(*(range(-1, 2) if p else (0,) for p in pbc))]
        while len(points) < n:
            new = rng.uniform(size=3) @ box
            if all(np.linalg.norm(new - old + image) > 0.8 for old in points for image in images):
                points.append(new)
        cell = box * np.array(pbc)[:, None]
        return Structure(rng.choice([1, 6, 8], n), np.array(points), cell=cell, pbc=np.array(pbc))

    molecule = spread(5, np.eye(3) * 2.5, (False, False, False))
    crystal = spread(3, np.array([[2.6, 0.0, 0.0], [0.9, 2.4, 0.0], [-0.5, 0.7, 2.9]]), (True, True, True))
    slab = spread(4, np.array([[3.0, 0.2, 0.0], [0.0, 2.8, 0.0], [0.0, 0.0, 2.0]]), (True, True, False))
    return [molecule, crystal, slab]


STRUCTURES = three_structures()
NUMBERS = np.concatenate([s.atomic_numbers for s in STRUCTURES])


def neighbours(cutoff: float) -> Neighbours:
    """By comparing every atom with every image of every atom of its structure."""
    found: Neighbours = []
    for s in STRUCTURES:
        first = len(found)
        images = [np.array(k) @ s.cell for k in product(*(range(-4, 5) if p else (0,) for p in s.pbc))]
        for i in range(len(s)):
            near = [
                (first + j, d)
                for j in range(len(s))
                for t in images
                if 0 < np.linalg.norm(d := s.positions[j] - s.positions[i] + t) < cutoff
            ]
            found.append(([j for j, _ in near], np.array([d for _, d in near])))
    return found


# Functions that papers share


def window(x: Floats) -> Floats:
    """arXiv:2003.03123, equation 8 with p = 6."""
    return np.where(x < 1, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, 0.0)


def bessel(r: Floats, count: int, cutoff: float) -> Floats:
    """[..., count], arXiv:2003.03123, equation 7."""
    return np.stack([sqrt(2 / cutoff) * np.sin(n * pi * r / cutoff) / r for n in range(1, count + 1)], axis=-1)


def filters(r: Floats, weight: Floats, c: Any) -> Floats:
    """[neighbours, channels]: a linear map of Bessel functions with a bias, cut off, over the root of the mean number of neighbours."""
    return (bessel(r, c.radial, c.cutoff) @ weight[:, :-1].T + weight[:, -1]) * (window(r / c.cutoff) / sqrt(c.mean_neighbors))[:, None]


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def rms(x: Floats) -> Floats:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-3)


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def legendre(l: int, x: Floats) -> Floats:
    return np.asarray(np.polynomial.legendre.legval(x, [0] * l + [1]))


class Maps:
    """Linear maps by the names of their weights, of one block."""

    def __init__(self, weights: Weights, prefix: str = "") -> None:
        self.weights, self.prefix = weights, prefix

    def weight(self, name: str) -> Floats:
        return self.weights[f"{self.prefix}{name}.weight"]

    def __call__(self, name: str, x: Floats) -> Floats:
        bias = self.weights.get(f"{self.prefix}{name}.bias")
        return x @ self.weight(name).T + (0.0 if bias is None else bias)

    def network(self, name: str, x: Floats) -> Floats:
        """A feed-forward network with its skip."""
        return x + self(f"{name}.outer", silu(self(f"{name}.inner", rms(x))))


# The equations


def painn(weights: Weights, c: PainnConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:2102.03150, equations 7 to 10."""
    v = np.zeros((len(s), 3, c.channels))
    for layer in range(c.layers):
        m, u = (Maps(weights, f"layers.{layer}.{part}.") for part in ("message", "update"))
        phi = m("outer", silu(m("inner", s)))
        ds, dv = np.zeros_like(s), np.zeros_like(v)
        for i, (js, d) in enumerate(near):
            r = np.linalg.norm(d, axis=1)
            ds[i] = (phi[js, : c.channels] * filters(r, m.weight("filter_scalar"), c)).sum(0)
            along = phi[js, c.channels : 2 * c.channels] * filters(r, m.weight("filter_direction"), c)
            dv[i] = np.einsum("jx,jc->xc", d / r[:, None], along)
            if layer > 0:
                dv[i] += np.einsum("jxc,jc->xc", v[js], phi[js, 2 * c.channels :] * filters(r, m.weight("filter_vector"), c))
        s, v = s + ds, v + dv
        u_v, v_v = np.split(u("mix", v), 2, axis=-1)
        norm = np.sqrt((v_v**2).sum(axis=1) + c.norm_epsilon)
        a_ss, a_sv, a_vv = np.split(u("outer", silu(u("inner", np.concatenate([s, norm], axis=1)))), 3, axis=1)
        s, v = s + a_ss + a_sv * (u_v * v_v).sum(axis=1), v + a_vv[:, None] * u_v
    return s, v


def sphere() -> tuple[Floats, Floats]:
    """Directions [n, 3] and weights that average polynomials up to degree 11 over the sphere exactly."""
    z, w = np.polynomial.legendre.leggauss(6)
    angle = np.arange(12) * pi / 6
    flat = np.sqrt(1 - z**2)
    points = [[f * np.cos(a), f * np.sin(a), height] for f, height in zip(flat, z, strict=True) for a in angle]
    return np.array(points), np.repeat(w / 24, 12)


def three_j(a: int, b: int, c: int) -> float:
    """Wigner's (a b c; 0 0 0) without sign: Edmonds, Angular Momentum in Quantum Mechanics, equation 3.7.17."""
    g = (a + b + c) // 2
    ratio = factorial(2 * g - 2 * a) * factorial(2 * g - 2 * b) * factorial(2 * g - 2 * c) / factorial(2 * g + 1)
    return sqrt(ratio) * factorial(g) / (factorial(g - a) * factorial(g - b) * factorial(g - c))


def mace(weights: Weights, c: MaceConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:2206.07697, equations 8 to 13, with densities as functions on the sphere: f_l(n) = sum_m A_lm Y_lm(n), Y normalised to mean square 1."""
    s = first = s / np.sqrt((s**2).mean(axis=1, keepdims=True) + 1e-6)
    points, average = sphere()
    orders = [(l,) for l in range(1)] + ([(l, l) for l in range(c.degree + 1)] if c.correlation > 1 else [])
    if c.correlation > 2:
        orders += [(0, l, l) for l in range(c.degree + 1)]
        orders += [t for t in ((1, 1, 2), (1, 2, 3), (2, 2, 2), (2, 3, 3)) if max(t) <= c.degree]
    total, v = np.zeros_like(s), np.zeros((len(s), 3, c.channels))
    for layer in range(c.layers):
        m = Maps(weights, f"layers.{layer}.")
        mix, invariants = weights[f"layers.{layer}.mix"], np.zeros((len(s), len(orders), c.channels))
        sent, takes = m("neighbor", s), c.hidden_degree > 0 and layer > 0
        previous, v = v, np.zeros_like(v)
        for i, (js, d) in enumerate(near):
            r = np.linalg.norm(d, axis=1)
            amplitude = sent[js] * filters(r, m.weight("filter"), c)
            angles = points @ (d / r[:, None]).T
            f = [sqrt(2 * l + 1) * (legendre(l, angles) @ amplitude) @ mix[l].T for l in range(c.degree + 1)]
            if takes:
                f = [sqrt(0.5) * (a + b) for a, b in zip(f, of_vectors(m, c, previous[js], d, points, average), strict=True)]
            v[i] = 3 * (average * points.T) @ f[1]
            for n, ls in enumerate(orders):  # sum of the products of A_lm with the coupling of norm one
                norm = three_j(*(ls if len(ls) == 3 else (0, *ls))) if len(ls) > 1 else 1.0
                values = np.prod([f[l] for l in ls], axis=0)
                invariants[i, n] = average @ values / norm
        weighed = invariants.reshape(len(s), -1) * m("weights", first)
        s = sqrt(0.5) * (m("message", weighed) + m("skip", s) * m("skip_weights", first))
        total = total + m("readout", s)
        if c.hidden_degree > 0 and layer < c.layers - 1:
            v = m("vector", v * m("gate", weighed)[:, None])
    return total, v


def of_vectors(m: Maps, c: MaceConfig, v: Floats, d: Floats, points: Floats, average: Floats) -> list[Floats]:
    """What vectors v [j, 3, C] of the neighbours add to each f_L: the part of degree L of the function f_l(n) (v n), with f_l of one neighbour.

    That part is filtered out by averages with P_L; couplings of norm sqrt(2 L + 1) instead of Wigner's 3j make it as large as its factors.
    """
    u, r = d / np.linalg.norm(d, axis=1)[:, None], np.linalg.norm(d, axis=1)
    sent = filters(r, m.weight("vector_messages.filter"), c)[:, None] * m("vector_messages.neighbor", v)
    paths = [(l, total) for total in range(c.degree + 1) for l in (total - 1, total + 1) if 0 <= l <= min(c.degree, 2)]
    found = [np.zeros((len(points), c.channels)) for _ in range(c.degree + 1)]
    for mix, (l, total) in zip(m.weights[f"{m.prefix}vector_messages.mix"], paths, strict=True):
        values = np.einsum("nj,nx,jxc->nc", sqrt(2 * l + 1) * legendre(l, points @ u.T), points, sent)
        part = legendre(total, points @ points.T) @ (average[:, None] * values) / three_j(l, 1, total)
        found[total] += sqrt((2 * total + 1) / sum(end == total for _, end in paths)) * part @ mix.T
    return found


def density(weights: Weights, c: DensityConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:1209.3140, equation 28: sum_m A_lm A'_lm = sum over pairs of neighbours of w_j w'_k P_l(cos)."""
    v = np.zeros((len(s), 3, c.channels))
    for layer in range(c.layers):
        m = Maps(weights, f"layers.{layer}.")
        sent, new = m("species", s), np.zeros_like(s)
        for i, (js, d) in enumerate(near):
            r = np.linalg.norm(d, axis=1)
            amplitude = sent[js] * filters(r, m.weight("filter"), c)
            one, two = np.split(m("mix", amplitude), 2, axis=1)
            cosine = (d / r[:, None]) @ (d / r[:, None]).T
            spectrum = [np.einsum("jc,jk,kc->c", one, legendre(l, cosine), two) for l in range(c.degree + 1)]
            new[i] = m("outer", silu(m("inner", np.concatenate([s[i], amplitude.sum(0), *spectrum]))))
            v[i] = (d / r[:, None]).T @ (two if c.mixed is None else amplitude)
        s = s + new
    return s, v


def escaip(weights: Weights, c: EscaipConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:2410.24169, figure 3, with the envelope and the products that the module states."""
    m, width = Maps(weights, "input."), c.channels // c.heads // (c.degree + 1)
    geometry = []
    h = np.zeros_like(s)
    for i, (_, d) in enumerate(near):
        r = np.linalg.norm(d, axis=1)
        u, f = d / r[:, None], window(r / c.cutoff)
        cosine = np.ones((len(r) + 1,) * 2)
        cosine[1:, 1:] = u @ u.T
        share = f / (1 + f.sum())
        order = [np.einsum("j,jk,k", share, legendre(l, u @ u.T), share) for l in range(c.degree + 1)]
        geometry.append((r, u, np.log(np.concatenate([[1.0], f])), [legendre(l, cosine) for l in range(c.degree + 1)]))
        h[i] = s[i] + m("order", np.sqrt(np.array(order) + 0.01))
    edges = []
    for i, (js, _) in enumerate(near):
        product_of_pairs = m("radial", bessel(geometry[i][0], c.radial, c.cutoff)) * (m("source", h[js]) + m("target", h[i]))
        edges.append(m("outer", silu(product_of_pairs)))
    total, v = np.zeros_like(s), np.zeros((len(s), 3, c.channels))
    for layer in range(c.layers):
        m = Maps(weights, f"layers.{layer}.")
        n, new_h = rms(h), np.zeros_like(h)
        for i, (js, _) in enumerate(near):
            _, u, bias, polynomials = geometry[i]
            x = np.concatenate([m("own", n[i : i + 1]), m("edge", rms(edges[i])) * (m("source", n[js]) + m("target", n[i]))])
            query = m("attention.query", x)
            key, value = np.split(m("attention.key_value", x), 2, axis=-1)
            out = np.zeros_like(x)
            for head in range(c.heads):
                own = slice(head * width * (c.degree + 1), (head + 1) * width * (c.degree + 1))
                logits = np.zeros((len(x),) * 2)
                for l in range(c.degree + 1):  # channels by degree, then head
                    block = slice((l * c.heads + head) * width, (l * c.heads + head + 1) * width)
                    logits += query[:, block] @ key[:, block].T * polynomials[l]
                if layer == c.layers - 1:  # only slot 0 is read, where every polynomial is 1: channels by head
                    logits = query[:, own] @ key[:, own].T
                attention = softmax(logits / (2 * sqrt(c.channels / c.heads)) + bias)
                out[:, own] = attention @ value[:, own]
                v[i][:, own] = (attention[0, 1:, None] * u).T @ value[1:, own]
            out = m("attention.outer", out)
            new_h[i] = m.network("node_network", h[i] + out[0])
            if layer < c.layers - 1:
                edges[i] = m.network("edge_network", edges[i] + out[1:])
        h = new_h
        total = total + m("readout", rms(h))
    return total, v


def pet(weights: Weights, c: PetConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:2305.19302, section 3: tokens, attention, and messages exchanged between the two atoms of a pair."""
    back = [
        [
            next(k for k, (b, t) in enumerate(zip(*near[j], strict=True)) if b == i and np.allclose(t, -d))
            for j, d in zip(*near[i], strict=True)
        ]
        for i in range(len(s))
    ]
    h, messages = s, None
    nodes, edges = np.zeros_like(s), [np.zeros((len(js), c.channels)) for js, _ in near]
    width = c.channels // c.heads
    for layer in range(c.layers):
        m = Maps(weights, f"layers.{layer}.")
        new_h, said = np.zeros_like(h), []
        for i, (js, d) in enumerate(near):
            r = np.linalg.norm(d, axis=1)
            token = m("edge", np.concatenate([d, bessel(r, c.radial, c.cutoff)], axis=1)) + m("neighbor", s[js])
            if messages is not None:
                token = token + m("message", rms(messages[i]))
            x = np.concatenate([m("center", rms(h[i : i + 1])), m("outer", silu(token))])
            bias = np.log(np.concatenate([[1.0], window(r / c.cutoff)]))
            for n in range(c.attention_layers):
                q, k, value = np.split(m(f"attention.{n}.mix", rms(x)), 3, axis=1)
                heads = [slice(a * width, (a + 1) * width) for a in range(c.heads)]
                seen = [softmax(q[:, a] @ k[:, a].T / sqrt(width) + bias) @ value[:, a] for a in heads]
                x = m.network(f"attention.{n}.network", x + m(f"attention.{n}.outer", np.concatenate(seen, axis=1)))
            new_h[i] = x[0]
            said.append(x[1:])
            nodes[i] += m("node_readout", rms(x[0]))
            edges[i] += m("edge_readout", rms(x[1:]))
        swapped = [np.array([said[j][back[i][k]] for k, j in enumerate(js)]) for i, (js, _) in enumerate(near)]
        messages = swapped if messages is None else [old + new for old, new in zip(messages, swapped, strict=True)]
        h = new_h
    v = np.zeros((len(s), 3, c.channels))
    for i, (_, d) in enumerate(near):
        r = np.linalg.norm(d, axis=1)
        edges[i] *= (window(r / c.cutoff) / sqrt(c.mean_neighbors))[:, None]
        v[i] = (d / r[:, None]).T @ edges[i]
    return nodes + np.array([e.sum(0) for e in edges]), v


def deeppot_se(weights: Weights, c: DeepPotSeConfig, s: Floats, near: Neighbours) -> Answer:
    """arXiv:1805.09003, equations 5 to 9, with type embedding."""
    m = Maps(weights, "descriptor.")
    scalars, vectors = np.zeros_like(s), np.zeros((len(s), 3, c.channels))
    for i, (js, d) in enumerate(near):
        r = np.linalg.norm(d, axis=1)
        x = (r - c.switch) / (c.cutoff - c.switch)
        inverse = np.where(r < c.switch, 1 / r, (x**3 * (-6 * x**2 + 15 * x - 10) + 1) / r)
        mean, spread = weights["descriptor.mean"], weights["descriptor.spread"]  # of 1/r in a ball of uniform density, rounded
        assert np.allclose([mean, spread], [1.5 / c.cutoff, sqrt(0.75) / c.cutoff], rtol=1e-7)
        standard = (inverse - mean) / spread
        g = np.tanh(m("embedding.0", standard[:, None]) + m("centre", s[i]) + m("neighbour", s[js]))
        for n in range(1, len(c.embedding)):
            new = np.tanh(m(f"embedding.{n}", g))
            same, twice = new.shape[1] == g.shape[1], new.shape[1] == 2 * g.shape[1]
            g = new + (g if same else np.concatenate([g, g], axis=1) if twice else 0.0)
        environment = inverse[:, None] * np.concatenate([np.ones((len(r), 1)), d / r[:, None]], axis=1)
        left, right = g.T @ environment, environment.T @ g[:, : c.axis]
        hidden = s[i] + silu(m("fit", (left @ right).ravel() / c.mean_neighbors) + s[i])
        scalars[i] = hidden + silu(m("inner", hidden))
        vectors[i] = m("vectors", left[:, 1:].T / c.mean_neighbors)
    return scalars, vectors


def behler_parrinello(weights: Weights, c: BehlerParrinelloConfig, s: Floats, near: Neighbours) -> Answer:
    """J. Chem. Phys. 134, 074106 (2011), equations 6 and 8; unordered pairs of neighbours. Scaled by a uniform gas, as the module states."""
    elements = [1, 6, 8]
    m = Maps(weights, "network.")

    def cut(r: Any) -> Any:
        cosine = np.where(r < c.cutoff, (np.cos(pi * r / c.cutoff) + 1) / 2, 0.0)
        return window(r / c.cutoff) if c.cutoff_function == "polynomial" else cosine

    centres = np.linspace(c.first_shell, c.cutoff, c.shells)
    step = centres[1] - centres[0]
    grid = np.arange(1, 401) * c.cutoff / 400  # the integrals over the gas are sums over these shells
    gas = c.mean_neighbors * 3 * grid**2 / c.cutoff**3 * c.cutoff / 400
    kinds = [(eta, zeta, sign) for eta in c.widths for zeta in c.zetas for sign in (1, -1)]
    scale2 = [max(1.0, (np.exp(-(((grid - a) / step) ** 2)) * cut(grid) * gas).sum()) for a in centres]
    scale4 = [max(1.0, (np.exp(-eta * grid**2) * cut(grid) * gas).sum() ** 2 / (zeta + 1)) for eta, zeta, _ in kinds]
    unordered = [(a, b) for n, a in enumerate(elements) for b in elements[n:]]
    scalars = np.zeros_like(s)
    for i, (js, d) in enumerate(near):
        r, z = np.linalg.norm(d, axis=1), NUMBERS[js]
        g2 = [
            (np.exp(-(((r - a) / step) ** 2)) * cut(r))[z == e].sum() / size
            for e in elements
            for a, size in zip(centres, scale2, strict=True)
        ]
        g4 = np.zeros((len(unordered), len(kinds)))
        for k, j in combinations(range(len(r)), 2):
            r_jk, cosine = np.linalg.norm(d[j] - d[k]), d[j] @ d[k] / r[j] / r[k]
            cuts = cut(r[j]) * cut(r[k]) * cut(r_jk)
            row = unordered.index((min(z[j], z[k]), max(z[j], z[k])))
            for n, (eta, zeta, sign) in enumerate(kinds):
                gauss = np.exp(-eta * (r[j] ** 2 + r[k] ** 2 + r_jk**2))
                g4[row, n] += 2.0 ** (1 - zeta) * (1 + sign * cosine) ** zeta * gauss * cuts / scale4[n]
        own = elements.index(NUMBERS[i])
        (w1, b1), (w2, b2) = (
            (weights[f"network.{name}.weight"][own], weights[f"network.{name}.bias"][own]) for name in ("first", "second")
        )
        hidden = silu(w1 @ np.concatenate([g2, g4.ravel()]) + b1 + m("state", s[i]))
        scalars[i] = silu(w2 @ hidden + b2)
    return scalars, np.zeros((len(s), 3, 0))


Equations = Callable[[Weights, Any, Floats, Neighbours], Answer]
CASES: dict[str, tuple[Equations, Any, Callable[[Any], Backbone]]] = {
    "painn": (painn, PainnConfig(channels=6, layers=3, cutoff=3.1, radial=5, mean_neighbors=7.0, norm_epsilon=0.03), Painn),
    "mace": (mace, MaceConfig(channels=5, layers=2, cutoff=3.1, radial=4, mean_neighbors=7.0), Mace),
    "mace of three layers": (mace, MaceConfig(channels=4, layers=3, cutoff=3.1, radial=4, correlation=2, mean_neighbors=7.0), Mace),
    "mace of scalars": (mace, MaceConfig(channels=5, layers=2, hidden_degree=0, cutoff=3.1, radial=4, mean_neighbors=7.0), Mace),
    "mace of degree 2 and vectors": (mace, MaceConfig(channels=5, layers=2, cutoff=3.1, radial=4, degree=2, mean_neighbors=7.0), Mace),
    "mace of degree 1 and vectors": (mace, MaceConfig(channels=5, layers=2, cutoff=3.1, radial=4, degree=1, mean_neighbors=7.0), Mace),
    "mace of degree 2": (mace, MaceConfig(channels=5, layers=1, cutoff=3.1, radial=4, degree=2, mean_neighbors=7.0), Mace),
    "mace of correlation 2": (mace, MaceConfig(channels=5, layers=2, cutoff=3.1, radial=4, correlation=2, mean_neighbors=7.0), Mace),
    "density": (density, DensityConfig(channels=6, layers=2, cutoff=3.1, radial=5, mean_neighbors=7.0), Density),
    "density of few mixtures": (
        density,
        DensityConfig(channels=6, layers=2, cutoff=3.1, radial=5, degree=2, mean_neighbors=7.0, mixed=2),
        Density,
    ),
    "escaip": (escaip, EscaipConfig(channels=24, layers=3, cutoff=3.1, radial=5, degree=2, heads=2), Escaip),
    "pet": (pet, PetConfig(channels=8, layers=3, attention_layers=2, cutoff=3.1, radial=5, heads=2, mean_neighbors=7.0), Pet),
    "deeppot_se": (deeppot_se, DeepPotSeConfig(channels=6, embedding=(4, 8, 8, 11), axis=3, cutoff=3.1, switch=1.2, mean_neighbors=7.0), DeepPotSe),
    "behler_parrinello": (
        behler_parrinello,
        BehlerParrinelloConfig(channels=6, cutoff=3.1, shells=5, zetas=(1, 4), widths=(0.05, 0.3), mean_neighbors=7.0),
        lambda config: BehlerParrinello(config, (1, 6, 8)),
    ),
    "behler_parrinello with a cosine": (
        behler_parrinello,
        BehlerParrinelloConfig(channels=6, cutoff=3.1, cutoff_function="cosine", shells=5, zetas=(1, 4), widths=(0.05, 0.3), mean_neighbors=7.0),
        lambda config: BehlerParrinello(config, (1, 6, 8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_backbone_is_its_equations(name: str) -> None:
    equations, config, make = CASES[name]
    backbone = make(config).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter.shape[-1] ** 0.5)
    s = np.random.default_rng(6).normal(size=(len(NUMBERS), config.channels))
    with torch.no_grad():
        scalars, vectors = backbone(torch.from_numpy(s), collate(STRUCTURES, [backbone.graph], torch.float64))
    weights = {key: value.numpy() for key, value in backbone.state_dict().items()}
    expected, turning = equations(weights, config, s, neighbours(config.cutoff))
    assert np.abs(expected).min() > 1e-6
    np.testing.assert_allclose(scalars.numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(vectors.numpy(), turning, rtol=1e-10, atol=1e-10)
