"""What one objective gets of a step is what it would see alone."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.potential import Feature, Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_train.selection import select
from mlipfm_train.step import Step
from mlipfm_train.views import collate_step, make_views


def systems(seed: int = 0) -> list[Structure]:
    rng = np.random.default_rng(seed)
    made = []
    for k, n in enumerate((3, 5, 2, 4)):
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "hessian_rows": rng.normal(size=(k + 1, n, 3))}
        labels["hessian_rows_index"] = np.stack([rng.integers(n, size=k + 1), rng.integers(3, size=k + 1)], axis=1)
        positions = np.arange(n)[:, None] * np.array([1.1, 0.3, 0.2]) + rng.normal(size=(n, 3)) * 0.1
        options = {"cell": np.eye(3) * 6, "pbc": True} if k % 2 else {}
        made.append(Structure(rng.choice([1, 6, 8], n), positions, level="closed-form", labels=labels, total_charge=k, **options))
    return made


@pytest.mark.parametrize("layout", ["pairs", "dense"])
@pytest.mark.parametrize("chosen", [[1, 2], [3, 0], [2]])
def test_a_selection_is_the_batch_of_those_structures_alone(layout, chosen):
    spec = GraphSpec(3.0, layout=layout, capacity=12 if layout == "dense" else None)
    everything, alone = collate(systems(), [spec]), collate([systems()[k] for k in chosen], [spec])
    _, found = select(Prediction({}, "direct"), everything, torch.tensor(chosen))
    for item in fields(Batch):
        if item.name not in ("labels", "label_mask", "views"):
            a, b = getattr(found, item.name), getattr(alone, item.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, item.name
    for key in ("energy", "forces"):
        assert torch.equal(found.labels[key], alone.labels[key])
    rows = len(alone.labels["hessian_rows"])  # the whole batch may have more blocks of rows than the selection needs
    for key in ("hessian_rows", "hessian_rows_index"):
        mask = alone.label_mask["hessian_rows"] if key.endswith("index") else alone.label_mask["hessian_rows"][:, alone.system]
        assert torch.equal(found.labels[key][:rows][mask], alone.labels[key][mask])
    for item in fields(found.views[spec]):
        assert torch.equal(getattr(found.views[spec], item.name), getattr(alone.views[spec], item.name)), item.name


def test_predictions_and_features_of_a_selection():
    potential = Morse(ClosedFormConfig(cutoff=3.0, switch_on=2.0))
    everything = collate(systems(), potential.spec.graphs, torch.float64)
    prediction = potential(everything, ("energy", "forces", "hessian_rows"))
    view = everything.views[potential.graph]
    features = {"atoms": Feature(everything.atomic_numbers), "pairs": Feature(view.j, layout="pair")}
    chosen = torch.tensor([3, 1])
    found, batch = select(Prediction(prediction.values, "conservative", features), everything, chosen)
    alone = potential(collate([systems()[3], systems()[1]], potential.spec.graphs, torch.float64), ("energy", "forces", "hessian_rows"))
    for key in ("energy", "forces", "hessian_rows"):
        assert torch.allclose(found[key], alone[key], atol=1e-12), key
    assert torch.equal(found.features["atoms"].value, batch.atomic_numbers)
    assert len(found.features["pairs"].value) == len(batch.views[potential.graph].j)


def test_differentiating_a_selection_is_an_error_and_no_silent_zero():
    potential = Morse()
    everything = collate(systems(), potential.spec.graphs, torch.float64).with_leaves()
    found, batch = select(potential(everything, ("energy",)), everything, torch.tensor([0]))
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(found["energy"].sum(), batch.positions)


class Noised:
    """A copy moved by the view's own random numbers, and the structure itself."""

    outputs, requires, gather, module = ("energy",), (), (), None

    def views(self, structure, rng):
        return [structure.replace(positions=structure.positions + rng.normal(size=(len(structure), 3)) * 0.01, labels={}), structure]

    def terms(self, prediction, batch):
        return {"gap": (prediction["energy"].reshape(-1, 2).diff().sum(), torch.tensor(float(batch.n_systems // 2)))}

    def finish(self, gathered):
        return {}


class Plain(Noised):
    def views(self, structure, rng):
        return [structure]

    def terms(self, prediction, batch):
        return {"sum": (prediction["energy"].sum(), torch.tensor(float(batch.n_systems)))}


def test_views_that_two_objectives_share_are_one_system():
    views, groups = make_views({"plain": Plain(), "noised": Noised()}, systems()[:2], seed=0, epoch=0)
    assert len(views) == 4
    assert groups == {"plain": [0, 2], "noised": [1, 0, 3, 2]}


def test_views_do_not_depend_on_batches_but_on_epoch_and_objective():
    make = lambda structures, epoch, name="noised": [v.key for v in make_views({name: Noised()}, structures, 0, epoch)[0]]  # noqa: E731
    one, two, *_ = systems()
    assert make([one, two], 0)[2:] == make([two], 0)
    assert make([two], 0)[0] != make([two], 1)[0]
    assert make([two], 0)[0] != make([two], 0, "other")[0]


def test_a_step_calls_the_potential_once_for_all_views():
    class Counting(Morse):
        calls = 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return super().forward(*args, **kwargs)

    potential = Counting()
    step = Step(potential, {"plain": Plain(), "noised": Noised()})
    batch = collate_step(step.objectives, systems(), potential.spec.graphs, torch.float64, torch.device("cpu"), 0, 0)
    terms = step(batch)
    assert potential.calls == 1
    alone = potential(collate(systems(), potential.spec.graphs, torch.float64), ("energy",))["energy"]
    assert float(terms["plain/sum"][0].detach()) == pytest.approx(float(alone.sum().detach()), rel=1e-12)
    assert float(terms["noised/gap"][1]) == 4
