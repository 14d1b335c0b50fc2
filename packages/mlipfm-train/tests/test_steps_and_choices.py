"""What a step does to the weights, which weights are exported, and which model is the best: against closed forms and the state on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_train.data_statistics import mean_neighbors, shortest_distances
from mlipfm_train.loop import fit
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.optimizers import adamw
from mlipfm_train.recipe import Optimizer, make_recipe
from mlipfm_train.step import Step
from mlipfm_train.strategies.reduction import global_loss
from mlipfm_train.strategies.single import SingleProcess
from mlipfm_train.training_state import load_newest_state
from mlipfm_train.validation import score, validation_errors, validation_metrics
from mlipfm_train.views import collate_step


class Descent:
    """Gradient descent, so that a step is the rate times the gradient."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.param_groups = [{"params": list(module.parameters()), "lr": 0.0}]
        self.state: dict = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(self.param_groups[0]["lr"] * parameter.grad)


def placed(clip: float | None, make_optimizer=Descent, **options) -> SingleProcess:
    strategy = SingleProcess(clip=clip)
    strategy.setup(Step(Morse(), {"energy-force": EnergyForce(**options)}), make_optimizer)
    return strategy


def batch_of(strategy: SingleProcess, structures: list[Structure]):
    return collate_step(strategy.module.objectives, structures, Morse().spec.graphs, torch.float64, strategy.device, 0, 0)


def off(structures: list[Structure]) -> list[Structure]:
    """At the level of the model, with labels that it does not give."""
    return [s.replace(level=None, labels={"energy": s.labels["energy"] + 0.3, "forces": 1.2 * s.labels["forces"]}) for s in structures]


def whole(strategy: SingleProcess) -> torch.Tensor:
    return torch.cat([value.flatten() for value in strategy.full_parameters().values()])


@pytest.mark.parametrize(("loss", "size"), [("mae", 1e308), ("mse", 1e200)])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_the_optimiser(morse_structures, loss, size):
    """Of absolute errors the gradient is finite where their sum overflows: the loss decides too."""
    strategy = placed(None, adamw(Optimizer()), energy_loss=loss, forces_loss=loss)
    good = off(morse_structures(6, 0))
    bad = [s.replace(labels={key: value * 0 + size for key, value in s.labels.items()}) for s in good]
    assert strategy.step(batch_of(strategy, good), 1e-3)["skipped"] == 0.0
    before, moments = whole(strategy), strategy.state_dict()["optimizer"]
    told = strategy.step(batch_of(strategy, bad), 1e-3)
    assert (told["skipped"], np.isfinite(told["loss"])) == (1.0, False)
    assert torch.equal(whole(strategy), before)
    for key, values in strategy.state_dict()["optimizer"].items():
        assert all(torch.equal(value, moments[key][name]) for name, value in values.items())


def test_every_group_of_parameters_has_the_learning_rate_of_the_step_times_its_factor(morse_structures):
    strategy = placed(None)
    params = list(strategy.module.parameters())
    strategy.optimizer.param_groups = [{"params": params, "lr": 0.0, "lr_factor": 0.1}, {"params": [], "lr": 0.0}]
    strategy.optimizer.step = lambda: None
    strategy.step(batch_of(strategy, off(morse_structures(6, 0))), 0.02)
    assert [group["lr"] for group in strategy.optimizer.param_groups] == pytest.approx([0.002, 0.02])


def test_the_gradient_is_clipped_to_its_norm_and_shorter_ones_are_left_alone(morse_structures):
    structures = off(morse_structures(6, 0))
    free, before = placed(None), whole(placed(None))
    norm = free.step(batch_of(free, structures), 1e-3)["gradient_norm"]
    assert float((whole(free) - before).norm()) == pytest.approx(1e-3 * norm, rel=1e-9)
    for clip, length in ((norm / 7, norm / 7), (2 * norm, norm)):
        strategy = placed(clip)
        assert strategy.step(batch_of(strategy, structures), 1e-3)["gradient_norm"] == pytest.approx(norm)
        assert float((whole(strategy) - before).norm()) == pytest.approx(1e-3 * length, rel=1e-5)


def test_the_loss_is_the_sum_of_means_and_gradients_do_not_add_up_over_steps(morse_structures):
    structures = off(morse_structures(6, 0))
    strategy = placed(None)
    batch = batch_of(strategy, structures)
    loss, means = global_loss(strategy.module, strategy.module(batch), 1)
    assert float(loss.detach()) == pytest.approx(sum(float(value) for value in means.values()))
    first, second = (strategy.step(batch, 0.0) for _ in range(2))
    assert first == second
    assert first["loss"] == pytest.approx(float(loss.detach()))


def test_what_is_exported_is_the_average_of_the_weights(tiny, tmp_path):
    result = fit(make_recipe(tiny, ["weight_rule.decay=0.9"]), tmp_path)
    state = load_newest_state(tmp_path / "state")
    assert state is not None
    _, exported = load_checkpoint(result.last)
    average, live = state["weight_rule"]["average"], state["strategy"]["parameters"]
    names = [name for name in exported if f"potential.{name}" in live]
    assert names
    assert all(torch.equal(exported[name], average[f"potential.{name}"]) for name in names)
    assert any(not torch.equal(exported[name], live[f"potential.{name}"]) for name in names)


def test_the_average_is_that_of_the_weights_after_each_step(tiny, tmp_path):
    """Of a run of one step the average is the weights after it."""
    fit(make_recipe(tiny, ["steps=1", "evaluate_every=1", "checkpoint_every=1"]), tmp_path)
    state = load_newest_state(tmp_path / "state")
    assert state is not None
    live = state["strategy"]["parameters"]
    assert all(torch.equal(value, live[name]) for name, value in state["weight_rule"]["average"].items())


def test_the_best_model_is_that_of_the_smallest_force_error_and_of_energies_only_without_forces():
    def figures(energy: float, forces: float | None):
        one = np.ones(())  # its weight
        rows = {"energy": (np.array(energy), one)} | ({} if forces is None else {"forces": (np.full((2, 3), forces), np.ones(2))})
        return score(validation_metrics({0: rows, 1: rows}, ["a", "b"]))

    assert figures(0.2, 0.001) == pytest.approx(1.0)  # meV/Å
    assert figures(0.001, 0.2) > figures(0.2, 0.001)
    assert figures(0.002, None) == pytest.approx(2.0)  # meV/atom
    assert figures(0.001, float("nan")) == float("inf")
    assert score([Metric("force MAE", "meV/A", 1.0, None, 9, 10)]) == float("inf")  # one structure without an answer


def test_validation_errors_are_prediction_minus_label_per_atom(morse_structures):
    structures = morse_structures(4, 3)
    shifted = [s.replace(labels={"energy": s.labels["energy"] - 0.5 * len(s), "forces": s.labels["forces"] - 0.25}) for s in structures]
    shifted[2] = shifted[2].replace(labels={"forces": shifted[2].labels["forces"]})
    alike = [s.replace(level=None) for s in shifted]
    errors = validation_errors(Morse(), alike, [slice(0, 3), slice(3, 4)], ("energy", "forces"))
    assert sorted(errors) == [0, 1, 2, 3]
    assert "energy" not in errors[2]
    for k in (0, 1, 3):
        assert float(errors[k]["energy"][0]) == pytest.approx(0.5)
    assert all(errors[k]["forces"][0] == pytest.approx(np.full((len(structures[k]), 3), 0.25)) for k in errors)


@pytest.mark.parametrize(("cutoff", "neighbours"), [(2.5, 6), (3.0, 18), (3.5, 26)])
def test_neighbours_of_a_simple_cubic_crystal(cutoff, neighbours):
    """Six at a, twelve at a sqrt 2, eight at a sqrt 3; a = 2 Å. Both ends of a pair have the other as a neighbour."""
    crystal = Structure([29], np.zeros((1, 3)), cell=2 * np.eye(3), pbc=[True] * 3)
    assert mean_neighbors([crystal] * 3, cutoff, seed=0) == neighbours


def test_neighbours_are_counted_for_each_atom_and_not_for_each_structure():
    """A pair has one neighbour each, five isolated atoms have none: 2 / 7, and never less than 1; with a crystal of 6 it is (2 + 6) / 8."""
    lone = [Structure([1], np.zeros((1, 3)))] * 5
    pair = Structure([1, 1], [[0.0, 0, 0], [0.8, 0, 0]])
    cubic = Structure([29], np.zeros((1, 3)), cell=2 * np.eye(3), pbc=[True] * 3)
    assert mean_neighbors([*lone, pair], 2.5, seed=0) == 1.0
    assert mean_neighbors([cubic, pair], 2.5, seed=0) == pytest.approx(8 / 3)


def test_shortest_distances_of_each_pair_of_elements_are_those_of_all_structures_and_images():
    """Rock salt of a = 5.6 Å: 2.8 Å between unlike and a/sqrt 2 between like ions; a molecule brings a shorter pair and a new element."""
    salt = Structure([11, 17], [[0.0, 0, 0], [2.8, 0, 0]], cell=2.8 * (np.ones((3, 3)) - np.eye(3)), pbc=[True] * 3)
    molecule = Structure([17, 11, 1], [[0.0, 0, 0], [2.4, 0, 0], [0, 1.3, 0]])
    shortest = {"Na-Na": 2.8 * 2**0.5, "Cl-Na": 2.8, "Cl-Cl": 2.8 * 2**0.5}
    assert shortest_distances([salt], 4.5, seed=0) == pytest.approx(shortest, abs=1e-6)
    new = {"Cl-Na": 2.4, "Cl-H": 1.3, "Na-H": (2.4**2 + 1.3**2) ** 0.5}
    assert shortest_distances([salt, molecule], 4.5, seed=0) == pytest.approx(shortest | new, abs=1e-6)
    assert shortest_distances([Structure([1], np.zeros((1, 3)))], 4.5, seed=0) == {}


def test_every_epoch_has_an_order_of_its_own_and_the_same_one_when_repeated(stores):
    from mlipfm_train.frames import Frames
    from mlipfm_train.sources import SourceContext, StoreSource

    def epochs() -> list[list[str]]:
        source = StoreSource(SourceContext(Frames([stores["train"]]), 30.0, 3.0, 3, 0, 1))
        found: list[list[str]] = [[] for _ in range(3)]
        for _ in range(200):
            batch = source.next_batch(None)
            if source.epoch < 3:
                found[source.epoch] += [s.key for s in batch]
        return found

    first, second, third = epochs()
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second != third != first
    assert epochs() == [first, second, third]
