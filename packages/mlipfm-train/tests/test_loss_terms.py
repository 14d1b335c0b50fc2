"""Terms of the objectives by hand, with every option off its default and no two numbers alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.losses import losses_of
from mlipfm_train.objectives.quantities import Quantities
from mlipfm_train.open_run import open_run
from mlipfm_train.recipe import make_recipe
from mlipfm_train.step_costs import fit_costs

CELL = {"cell": 5.0 * np.eye(3), "pbc": [True] * 3}


def error(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def two_crystals():
    first = Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"energy": 1.0, "stress": 0.1 * np.eye(3)}, **CELL)
    second = Structure([1], [[0, 0, 0]], level="x", labels={"forces": np.ones((1, 3))}, **CELL)
    return collate([first, second], [])


@pytest.mark.parametrize(
    ("delta", "far", "near"), [(0.5, 0.5 * (3 - 0.25), 0.02), (2.0, 2.0 * (3 - 1.0), 0.02), (0.1, 0.1 * (3 - 0.05), 0.1 * (0.2 - 0.05))]
)
def test_huber_is_half_a_square_up_to_delta_and_a_line_beyond(delta, far, near):
    assert losses_of(error([[3.0, -0.2]]), "huber", delta).tolist() == [pytest.approx([far, near])]


def test_losses_of_one_vector():
    vector = error([[2.0, -3.0, 6.0]])
    assert losses_of(vector, "norm", 1.0).tolist() == [7.0]
    assert losses_of(vector, "mae", 1.0).tolist() == [[2.0, 3.0, 6.0]]
    assert losses_of(vector, "mse", 1.0).tolist() == [[4.0, 9.0, 36.0]]


def test_every_quantity_has_its_own_weight_loss_and_count():
    """Energy is off by 3 eV in two atoms: 1.5. Forces of the one labelled atom by (1, 2, 2): 3. Stress by 0.2 in nine components."""
    predicted = {
        "energy": torch.tensor([4.0, 9.0], dtype=torch.float64),
        "forces": torch.tensor([[9.0, 9.0, 9.0], [9.0, 9.0, 9.0], [2.0, 3.0, -1.0]], dtype=torch.float64),
        "stress": torch.stack([0.1 * torch.eye(3, dtype=torch.float64) + 0.2, torch.full((3, 3), 9.0, dtype=torch.float64)]),
    }
    objective = EnergyForce(2.0, 3.0, 5.0, energy_loss="mse", forces_loss="norm", stress_loss="mae")
    found = {
        key: (float(value), float(count))
        for key, (value, count) in objective.terms(Prediction(predicted, "direct"), two_crystals()).items()
    }
    assert found["energy"] == (pytest.approx(2.0 * 1.5**2), 1.0)
    assert found["forces"] == (pytest.approx(3.0 * 3.0), 1.0)
    assert found["stress"] == (pytest.approx(5.0 * 9 * 0.2), 9.0)
    huber = EnergyForce(2.0, 3.0, 5.0, forces_loss="huber", huber_delta=0.5).terms(Prediction(predicted, "direct"), two_crystals())
    assert float(huber["forces"][0]) == pytest.approx(3.0 * 0.5 * (1 + 2 + 2 - 3 * 0.25))


def test_extensive_quantities_are_per_atom_and_scaled_once():
    """A dipole off by (0, 6, 8) in two atoms, scale 2: (0, 1.5, 2). Charges off by 1 and -3, scale 4. A gap is not divided by atoms."""
    labels = {"dipole": np.zeros(3), "charges": np.zeros(2), "band_gap": 1.0}
    batch = collate([Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels=labels)], [])
    predicted = {"dipole": error([[0.0, 6.0, 8.0]]), "charges": error([1.0, -3.0]), "band_gap": error([7.0])}
    objective = Quantities({"dipole": 2.0, "charges": 3.0, "band_gap": 5.0}, {"dipole": 2.0, "charges": 4.0}, loss="huber", huber_delta=1.0)
    found = {key: (float(value), float(count)) for key, (value, count) in objective.terms(Prediction(predicted, "direct"), batch).items()}
    assert found["dipole"] == (pytest.approx(2.0 * ((1.5 - 0.5) + (2.0 - 0.5))), 3.0)
    assert found["charges"] == (pytest.approx(3.0 * (0.25**2 + 0.75**2) / 2), 2.0)
    assert found["band_gap"] == (pytest.approx(5.0 * 5.5), 1.0)


def test_every_step_and_rank_has_random_numbers_of_its_own(tiny, tmp_path):
    """Those of dropout: the same when a step is repeated, others in another step; no state of a generator is kept."""
    with open_run(make_recipe(tiny), tmp_path) as run:
        drawn = []
        for step in (0, 1, 2, 1):
            run.begin(step)
            drawn.append(torch.rand(4).tolist())
        run.strategy.rank = 1
        run.begin(1)
        drawn.append(torch.rand(4).tolist())
        run.strategy.rank = 0
    assert drawn[1] == drawn[3]
    assert len({tuple(row) for row in drawn}) == 4
    torch.manual_seed(int(stream(0, "dropout", 2, 0).integers(2**63)))
    assert torch.rand(4).tolist() == drawn[2]


def test_fitted_costs_are_those_of_the_steps_and_the_budget_buys_the_same_batches(tiny, monkeypatch):
    """Steps take 2 ms + 0.5 ms for an atom + 0.02 ms for an edge, exactly."""
    from mlipfm_interfaces.neighbors import neighbor_pairs
    from mlipfm_train import step_costs

    def milliseconds(run, structures, repeats):
        return 2.0 + sum(0.5 * len(s) + 0.02 * len(neighbor_pairs(s, 3.0)[0]) for s in structures)

    monkeypatch.setattr(step_costs, "_milliseconds", milliseconds)
    data = {**tiny["data"], "cost": {"atom": 0.5, "edge": 0.02, "batch": 5.0}, "budget": 25.0}
    fitted, fit = fit_costs(make_recipe({**tiny, "data": data}), batches=12)
    cost = fitted.data.cost
    assert (cost.atom, cost.edge, cost.batch) == (pytest.approx(0.5, rel=1e-3), pytest.approx(0.02, rel=1e-2), pytest.approx(2.0, rel=1e-2))
    assert fit.error < 1e-6
    assert fitted.data.budget == pytest.approx(25.0 - 5.0 + 2.0, rel=1e-3)  # what is in a batch cost 20 and costs 20
