"""A Source that simulates with the potential while it is trained: the loop, the checkpoint and exact resume must bear it without change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.store.store import StoreWriter
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.checkpoint import load_checkpoint, load_potential
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_md.simulation_source import SimulationSource
from mlipfm_train.loop import fit
from mlipfm_train.recipe import Recipe, make_recipe
from mlipfm_train.sources import SourceContext

WATER = np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])


def waters(n: int) -> list[Structure]:
    rng = np.random.default_rng(0)
    label = TbliteLabeler("GFN2-xTB").label
    return [
        label(Structure([8, 1, 1], WATER + rng.normal(size=(3, 3)) * 0.03, total_charge=0, provenance=Provenance(group="water")))
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "water"
    with StoreWriter(path, name="water") as writer:
        for s in waters(6):
            writer.add(s)
    return path


def recipe(store: Path, steps: int = 8) -> Recipe:
    return make_recipe(
        {
            "potential": {"name": "painn", "backbone": {"channels": 8, "layers": 1}},
            "data": {"train": [str(store)], "source": {"name": "simulation", "structures": 2, "steps": 5, "temperature": 300.0}},
            "steps": steps,
            "checkpoint_every": 2,
            "schedule": {"name": "constant"},
        }
    )


def context(store: Path) -> SourceContext:
    return SourceContext(frames=waters(3), budget=100.0, cutoff=5.0, seed=0, rank=0, world_size=1)


def test_batches_are_where_the_current_potential_went_with_the_labels_of_that_place(store, tmp_path):
    fit(recipe(store, 2), tmp_path / "run")
    potential = load_potential(tmp_path / "run" / "last.safetensors")
    source = SimulationSource(context(store), structures=2, steps=5)
    batch = source.next_batch(potential)
    starts = {s.key for s in waters(3)}
    assert len(batch) == 2
    for s in batch:
        assert s.key not in starts
        assert s.provenance.sampling == "on-policy-300K"
        again = TbliteLabeler("GFN2-xTB").label(s.replace(labels={}))
        assert np.array_equal(again.labels["forces"], s.labels["forces"])


def test_state_of_the_source_continues_with_the_next_batch(store, tmp_path):
    fit(recipe(store, 2), tmp_path / "run")
    potential = load_potential(tmp_path / "run" / "last.safetensors")
    first, second = (SimulationSource(context(store), structures=2, steps=5) for _ in range(2))
    first.next_batch(potential)
    second.load_state_dict(first.state_dict())
    assert [s.key for s in first.next_batch(potential)] == [s.key for s in second.next_batch(potential)]


def test_ranks_simulate_other_structures(store, tmp_path):
    fit(recipe(store, 2), tmp_path / "run")
    potential = load_potential(tmp_path / "run" / "last.safetensors")
    visited = [
        SimulationSource(replace(context(store), rank=rank, world_size=2), structures=2, steps=5).next_batch(potential) for rank in (0, 1)
    ]
    assert not {s.key for s in visited[0]} & {s.key for s in visited[1]}


def test_training_on_its_own_simulations_resumes_with_the_same_bits(store, tmp_path):
    class Stop(Exception):
        """Stands for a kill between two steps."""

    def stop(event) -> None:
        if event["kind"] == "step" and event["step"] == 5:
            raise Stop

    fit(recipe(store), tmp_path / "whole")
    with pytest.raises(Stop):
        fit(recipe(store), tmp_path / "parts", listeners=[stop])
    fit(recipe(store), tmp_path / "parts")
    whole, parts = (load_checkpoint(tmp_path / name / "last.safetensors")[0]["digest"] for name in ("whole", "parts"))
    assert whole == parts
