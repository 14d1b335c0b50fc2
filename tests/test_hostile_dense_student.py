"""A client that tries the contracts: a fast student written against them alone, conservative, on the dense layout, with stress.

Descriptor of an atom: moments of the smooth density of its neighbours (Gaussians in r, times 1, r and r r), contracted to invariants, then one
round of messages in which a pair sends what its reverse pair saw: the `reverse` slots of the layout.
"""

import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.derivatives import forces_and_stress
from mlipfm_interfaces.errors import CapacityExceeded
from mlipfm_interfaces.potential import ParameterRole, Potential, PotentialSpec, Prediction
from mlipfm_interfaces.testing import structures as kit
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse, switch
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from torch import nn


class DensityStudent(Potential):
    """Invariants of the neighbour density and an MLP; about as small as a useful student can be."""

    plugin = "density-student-of-a-test"

    def __init__(self, elements=(1, 6, 8), cutoff=4.0, radial=6, width=16, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = {"elements": list(elements), "cutoff": cutoff, "radial": radial, "width": width}
        self.graph = GraphSpec(cutoff, layout="dense")
        self.spec = PotentialSpec(
            elements=tuple(elements), levels=("toy",), outputs=("energy", "forces", "stress"), graphs=(self.graph,), dtype="float64",
            interaction_range=2 * cutoff,
        )  # fmt: skip
        self.register_buffer("kind", torch.full((119,), -1).index_put((torch.tensor(elements),), torch.arange(len(elements))))
        self.register_buffer("centres", torch.linspace(0.6, cutoff, radial, dtype=torch.float64))
        self.mix = nn.Embedding(len(elements), radial, dtype=torch.float64)
        self.message = nn.Linear(radial, radial, bias=False, dtype=torch.float64)
        self.readout = nn.Sequential(nn.Linear(4 * radial, width), nn.SiLU(), nn.Linear(width, 1)).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def features(self, batch):
        """[atoms, 4 radial]: invariants of the density, element, and what the neighbours say."""
        view = batch.views[self.graph]
        vectors = batch.displacements(self.graph)
        r = vectors.norm(dim=-1, keepdim=True)
        element = self.mix(self.kind[batch.atomic_numbers])
        radial = torch.exp(-2.0 * (r - self.centres) ** 2) * switch(r, 2.5, self.graph.cutoff)  # [atoms, K, radial]
        density = radial * element[view.index]
        scalar = density.sum(dim=1)
        vector = torch.einsum("nkr,nka->nra", density, vectors)
        tensor = torch.einsum("nkr,nka,nkb->nrab", density, vectors, vectors)
        invariants = [scalar, (vector**2).sum(dim=-1), (tensor**2).sum(dim=(-1, -2))]
        # A pair reports the density of its atom without the other's share; the atom hears the report of the reverse pair.
        report = self.message(torch.tanh(scalar[:, None] - density)) * radial
        heard = report.reshape(-1, report.shape[-1])[view.reverse] * view.mask[..., None]
        return torch.cat([*(torch.tanh(0.1 * x) + element for x in invariants), heard.sum(dim=1)], dim=-1)

    def forward(self, batch, outputs, create_graph=False):
        self.check_outputs(outputs)
        self.level_index(batch)
        with torch.enable_grad():
            batch = batch.with_leaves(strain="stress" in outputs)
            values = {"energy": batch.sum_per_system(self.readout(self.features(batch))[:, 0])}
            if "forces" in outputs or "stress" in outputs:
                values["forces"], values["stress"] = forces_and_stress(
                    values["energy"], batch, stress="stress" in outputs, create_graph=create_graph
                )
        return Prediction({key: values[key] for key in outputs}, "conservative")

    def blocks(self):
        return [self.mix, self.message, self.readout]

    def parameter_roles(self):
        depth = {"mix": 0, "message": 2, "readout": 4}
        scaling = {"mix": "input", "message": "hidden", "readout": "output"}
        names = [name for name, _ in self.named_parameters()]
        return {
            n: ParameterRole(depth[n.split(".")[0]], "vector" if n.endswith("bias") else scaling[n.split(".")[0]], decay=False)
            for n in names
        }


class TestDensityStudent(PotentialContract):
    def potential(self):
        return DensityStudent()


def labelled_crystals(n):
    """Rattled crystals with energies, forces and stress of a Morse potential."""
    start = kit.random_structure(1, 5, elements=(1, 6, 8), pbc=(True, True, True))
    teacher = Morse(ClosedFormConfig(elements=(1, 6, 8), cutoff=4.0, switch_on=2.5))
    batch = collate([kit.rattled(start, 0.08, seed=k) for k in range(n)], teacher.spec.graphs, torch.float64)
    return [kit.rattled(start, 0.08, seed=k) for k in range(n)], teacher(batch, ("energy", "forces", "stress"))


def test_its_gradients_train_a_loss_of_forces_and_stress():
    student = DensityStudent()
    structures, target = labelled_crystals(3)
    batch = collate(structures, student.spec.graphs, torch.float64)
    weights = list(student.parameters())
    speed = [torch.zeros_like(weight) for weight in weights]
    losses = []
    for _ in range(25):  # gradient descent with momentum
        predicted = student(batch, ("forces", "stress"), create_graph=True)
        loss = ((predicted["forces"] - target["forces"]) ** 2).mean() + 100 * ((predicted["stress"] - target["stress"]) ** 2).mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, v, gradient in zip(weights, speed, gradients, strict=True):
            v.mul_(0.9).sub_(torch.zeros_like(v) if gradient is None else 1e-3 * gradient)
            weight.data.add_(v)
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_reverse_slots_matter_to_its_answer():
    student = DensityStudent()
    structures, _ = labelled_crystals(1)
    batch = collate(structures, student.spec.graphs, torch.float64)
    view = batch.views[student.graph]
    rows = torch.arange(view.index.numel()).reshape(view.index.shape)
    assert torch.equal(view.reverse.flatten()[view.reverse.flatten()], rows.flatten())
    batch.views[student.graph].reverse.copy_(rows)  # every pair hears itself
    fresh = collate(structures, student.spec.graphs, torch.float64)
    assert abs(student(batch, ("energy",))["energy"] - student(fresh, ("energy",))["energy"]).item() > 1e-4


def test_a_capacity_that_is_too_small_says_what_is_needed_and_a_rebuild_gives_the_same_answer():
    student = DensityStudent()
    structures, _ = labelled_crystals(2)
    free = student(collate(structures, student.spec.graphs, torch.float64), ("energy",))["energy"]
    try:
        collate(structures, (GraphSpec(4.0, layout="dense", capacity=3),), torch.float64)
        needed = 0
    except CapacityExceeded as error:
        needed = error.needed
    student.graph = GraphSpec(4.0, layout="dense", capacity=needed + 2)
    padded = student(collate(structures, (student.graph,), torch.float64), ("energy",))["energy"]
    assert torch.allclose(free, padded, rtol=0, atol=1e-12)
