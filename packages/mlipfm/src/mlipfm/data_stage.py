"""The quickstart's data: geometries labelled at two levels of theory, GFN1-xTB for pre-training and GFN2-xTB for everything after."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from mlipfm_interfaces.structure import Structure
from rich.console import Console

from .geometries import Draws, make_geometries, molecules
from .plan import FINETUNED, HELD_OUT, Plan
from .stages import Stages

PRETRAIN_LEVEL, TARGET_LEVEL = "gfn1-xtb", "gfn2-xtb"


@dataclass(frozen=True)
class Stores:
    """Folders of the labelled sets: `pretrain` and `pretrain_valid` at GFN1-xTB, all others at GFN2-xTB.

    Attributes:
        known: new conformations of the molecules of `finetune`. test: held-out molecules. hot: those of `finetune`, hotter than any training.
    """

    pretrain: Path
    pretrain_valid: Path
    finetune: Path
    valid: Path
    known: Path
    test: Path
    hot: Path


def make_data(out: Path, plan: Plan, stages: Stages, pool: Executor) -> Stores:
    """Make and label all structures; what an earlier run finished is taken from there."""
    names = molecules()
    with stages.stage("geometries of molecules", len(names)) as advance:
        draws = make_geometries(out / "geometries", plan, pool, lambda name: advance(1))
    sets = _sets(draws, plan)
    with stages.stage("labels (GFN1-xTB, GFN2-xTB)", sum(len(group) for _, group in sets.values())) as advance:
        for name, (level, group) in sets.items():
            _label(out / "data" / name, level, group, pool, stages.console)
            advance(len(group))
    return Stores(**{name.replace("-", "_"): out / "data" / name for name in sets})


def _sets(draws: Draws, plan: Plan) -> dict[str, tuple[str, list[Structure]]]:
    """Name of the store -> (level, structures). Few molecules, and few geometries of each, have labels of the target level."""
    train = {name: group for name, group in draws["main"].items() if name not in HELD_OUT}

    def part(names: Iterable[str], start: int, count: int) -> list[Structure]:
        return [s for name in names for s in train[name][start : start + count]]

    def every(draw: str, names: Iterable[str]) -> list[Structure]:
        return [s for name in names for s in draws[draw][name]]

    return {
        "pretrain": (PRETRAIN_LEVEL, part(train, 0, plan.pretrain)),
        "pretrain-valid": (PRETRAIN_LEVEL, part(train, plan.pretrain, plan.valid)),
        "finetune": (TARGET_LEVEL, part(FINETUNED, 0, plan.finetune)),
        "valid": (TARGET_LEVEL, part(FINETUNED, plan.pretrain + plan.valid, plan.valid)),
        "known": (TARGET_LEVEL, every("known", FINETUNED)),
        "test": (TARGET_LEVEL, every("main", HELD_OUT)),
        "hot": (TARGET_LEVEL, every("hot", FINETUNED)),
    }


def _label(folder: Path, level: str, structures: list[Structure], pool: Executor, console: Console) -> None:
    from mlipfm_data.labeling import label_all
    from mlipfm_interfaces import plugins

    folder.parent.mkdir(parents=True, exist_ok=True)
    report = label_all(structures, plugins.load("labelers", level)(), folder, executor=pool, progress=False)
    if report.refused:
        console.print(
            f"{folder.name}: {len(report.refused)} of {report.total} structures have no label: {report.refused[0].text}", style="yellow"
        )
