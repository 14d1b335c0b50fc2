"""Every backbone, trained as its shipped recipe says, passes `mlipfm check`: in float32, on what its checkpoint knows of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlipfm_data.store.writer import StoreWriter
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_eval import broken, check_model
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.testing.structures import ethanol, methane, rattled, water
from mlipfm_train import fit, load_recipe, shipped_recipes

NAMES = [recipe.name for recipe in shipped_recipes() if recipe.name == recipe.backbone]
#: Those of the ci tier; all of them are in the full tier.
QUICK = ("density", "mace")
#: The rules that a trained model may break where an untrained one does not; the others its contract suite asks of every backbone.
TRAINED = (
    "arithmetic", "elements-matter", "energy-noise", "forces-are-gradient", "jacobian-symmetric", "no-collapse", "nve-drift", "repulsive-core",
    "smooth-cutoff", "smooth-path", "stress-is-strain-derivative", "trainable-forces", "extensivity", "no-stale-state", "small-cells",
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Distorted small molecules with GFN2-xTB labels: 30 to train on, 6 to choose by."""
    pytest.importorskip("tblite")
    labeler = TbliteLabeler("GFN2-xTB")
    root = tmp_path_factory.mktemp("stores")
    kinds = [s.replace(total_charge=0, spin_multiplicity=1) for s in (ethanol(), methane(), water())]
    for name, count, seed in (("train", 30, 0), ("valid", 6, 100)):
        with StoreWriter(root / name, name=name) as writer:
            for k in range(count):
                writer.add(labeler.label(rattled(kinds[k % 3], 0.05, seed=seed + k)))
    return root


def trained(name: str, stores: Path, steps: int) -> Path:
    """The model of a shipped recipe with fewer steps; the cosine ends with the last."""
    changes = [f"steps={steps}", f"schedule.warmup={steps // 10}", f"evaluate_every={steps}", f"checkpoint_every={steps}"]
    recipe = load_recipe(name, changes, train=[stores / "train"], valid=[stores / "valid"])
    return fit(recipe, stores / f"{name}-{steps}").last


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.ci if name in QUICK else pytest.mark.full) for name in NAMES])
def test_backbone_trained_shortly_keeps_the_rules_that_training_may_break(name, stores):
    potential = load_potential(trained(name, stores, 40))
    assert potential.spec.dtype == "float32"
    assert {s.formula for s in potential.examples} == {"C2H6O", "CH4", "H2O"}
    outcomes = check_model(potential, rules=TRAINED, quick=True)
    assert broken(outcomes) == [], [o for o in outcomes if o.status == "broken"]


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_backbone_trained_for_longer_keeps_every_rule(name, stores):
    outcomes = check_model(load_potential(trained(name, stores, 400)))
    assert broken(outcomes) == [], [o for o in outcomes if o.status == "broken"]
