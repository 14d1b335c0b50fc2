"""How large a quickstart is: molecules, structures, steps. `FULL` takes about ten minutes on two cores, `QUICK` about five."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlipfm_interfaces.errors import TrainingError
from mlipfm_interfaces.files import claim_file

#: Molecules that no model saw: they are in no set here, and in none that a released model was trained on.
HELD_OUT = ("ethanol", "malonaldehyde", "glycine", "dimethylformamide", "acetylacetone")

#: Molecules with labels: fine-tuning and training from scratch use these alone; the fine-tuned model labels all but the held-out ones.
FINETUNED = ("methanol", "formaldehyde", "formic acid", "acetonitrile", "formamide", "propene")


@dataclass(frozen=True)
class Plan:
    """Sizes of one quickstart. Structures are counted per molecule.

    Attributes:
        unlabelled, finetune, valid, test: structures of each molecule in each part; `test` of the held-out molecules.
        known: structures of each fine-tuned molecule in each of two more tests: new draws of the same kind, and hotter ones.
        finetune_steps: training steps; training from scratch takes as many.
        student_steps: of the student and of both its controls. rows: of the teacher's Hessian, stored of each structure.
        hessian_weight: beside 100 for forces; of 0, 30, 100 and 400 the best on the validation set after 1,000 steps.
        backbone: of the model from scratch, that of the released model. student: changes of the recipe of the students, beside their steps.
        temperature: K, of the Langevin half of the structures. hot: K, of the hotter test.
        nve_fs, nvt_fs: length of the runs at constant energy and at constant temperature.
        speed_steps: dynamics steps of each of five timings.
    """

    name: str
    unlabelled: int
    finetune: int
    valid: int
    test: int
    known: int
    finetune_steps: int
    student_steps: int
    backbone: str = "{channels: 128, mixed: 32, layers: 2}"
    student: str = "potential.backbone.channels=64 optimizer.lr=5e-3 data.budget=250"
    rows: int = 2
    hessian_weight: float = 30.0
    temperature: float = 500.0
    hot: float = 2000.0
    nve_fs: float = 1000.0
    nvt_fs: float = 1000.0
    speed_steps: int = 100
    seed: int = 0

    @property
    def per_molecule(self) -> int:
        """Geometries made of each training molecule, beside those of the tests."""
        return self.unlabelled + self.valid


FULL = Plan("full", 120, 30, 6, test=80, known=40, finetune_steps=1200, student_steps=3000)
QUICK = replace(
    FULL, name="quick", unlabelled=30, finetune=12, valid=3, test=20, known=12, finetune_steps=150, student_steps=600,
    nve_fs=200.0, nvt_fs=500.0, speed_steps=40,
)  # fmt: skip


def claim(folder: Path, plan: Plan) -> None:
    """Make `folder` the place of this plan.

    Raises:
        TrainingError: if it already holds another plan's work.
    """
    claim_file(folder / "plan.json", asdict(plan), "quickstart", TrainingError)
