"""The smallest implementation of every kind of plug-in: what the contracts are tried on, and a place to start from when writing one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces import metrics
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.potential import Potential, Prediction, evaluate
from mlipfm_interfaces.protocols import Format, Refusal, Terms
from mlipfm_interfaces.raw_frame import At, RawFrame
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import LennardJones, Morse
from mlipfm_interfaces.testing.data_rules import LabelerCase, ReaderCase, SamplerCase, TeacherCase
from mlipfm_interfaces.testing.structures import rattled, water
from mlipfm_interfaces.testing.training_rules import BenchmarkCase, ObjectiveCase, SourceCase, StrategyCase, WeightRuleCase
from torch import Tensor, nn


class LinesReader:
    """One JSON object per line: `numbers`, `positions` and `energy`."""

    suffixes: tuple[str, ...] = (".lines",)

    def frames(self, path: Path, **options: Any) -> Iterator[At]:
        with path.open() as lines:
            for k, line in enumerate(lines, 1):
                yield At(f"line {k}", self.frame, line)

    def frame(self, line: str) -> RawFrame:
        values = json.loads(line)
        return RawFrame(values.pop("numbers"), values.pop("positions"), info=values)


def read_lines(path: Path, reader: Format, report: Any = None) -> Iterator[Structure | Refusal]:
    """Interpret what a reader like `LinesReader` yields, as `mlipfm_data.read` does for every format and option."""
    if not path.exists():
        raise UnreadableFileError("does not exist", where=str(path))
    for k, item in enumerate(reader.frames(path)):
        try:
            frame = item.make(*item.arguments) if isinstance(item, At) else item
            assert isinstance(frame, RawFrame)
            provenance = Provenance(source=path.name, index=k)
            structure = Structure(frame.numbers, frame.positions, labels={"energy": frame.info["energy"]}, provenance=provenance)
        except MlipfmError as error:
            yield Refusal(k, error)
        except (ValueError, KeyError) as error:
            yield Refusal(k, InvalidStructureError(f"not a frame: {error}"))
        else:
            if report is not None:
                report.unused.update(set(frame.found()) - {"energy"})
            yield structure


def write_lines(path: Path, n: int) -> None:
    """A file of `n` good frames for `LinesReader`."""
    frames = ({"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.7 + 0.001 * k]], "energy": -1.0 * k} for k in range(n))
    path.write_text("".join(json.dumps(frame) + "\n" for frame in frames))


def write_damaged_lines(path: Path) -> tuple[int, tuple[int, ...]]:
    """Five frames, of which frames 1 (no JSON) and 3 (not finite) cannot be used."""
    write_lines(path, 5)
    lines = path.read_text().splitlines()
    lines[1], lines[3] = "{", lines[3].replace("0.703", "NaN")
    path.write_text("\n".join(lines) + "\n")
    return 5, (1, 3)


def write_unknown_lines(path: Path) -> str:
    """Two good frames with a field that `LinesReader` does not know; its name."""
    write_lines(path, 2)
    frames = [json.loads(line) | {"entropy": 0.5} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    return "entropy"


class Rattler:
    """Normal noise of 0.05 Å on every coordinate."""

    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        provenance = Provenance(group=structure.provenance.group, sampling="rattle-0.05A")
        return [
            structure.replace(
                positions=structure.positions + rng.normal(0.0, 0.05, structure.positions.shape),
                labels={},
                label_std={},
                level=None,
                provenance=provenance,
            )
            for _ in range(n)
        ]


class ClosedFormLabeler:
    """Labels by a Lennard-Jones potential."""

    level = "closed-form"

    def label(self, structure: Structure) -> Structure:
        values = evaluate(LennardJones(), [structure], ("energy", "forces"))[0]
        return structure.replace(level=self.level, labels=values)


class PotentialTeacher:
    """A potential in this process as a teacher."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.outputs: tuple[str, ...] = potential.spec.outputs

    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        return evaluate(self.potential, structures, outputs)


class Deck:
    """A Source: the structures in a new order every epoch, two at a time."""

    def __init__(self, structures: Sequence[Structure], seed: int = 0) -> None:
        self.structures, self.seed, self.drawn = list(structures), seed, 0

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        per_epoch = len(self.structures) // 2
        epoch, place = divmod(self.drawn, per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.structures))
        self.drawn += 1
        return [self.structures[k] for k in order[2 * place : 2 * place + 2]]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = int(state["drawn"])


class EnergyForces:
    """An Objective: squared error of the energy per atom and of the force components."""

    outputs: tuple[str, ...] = ("energy", "forces")
    requires: tuple[str, ...] = ("energy", "forces")
    module: nn.Module | None = None
    gather: tuple[str, ...] = ()

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        return [structure]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        if "energy" not in batch.labels:
            zero = 0.0 * prediction["energy"].sum()
            return {"energy": (zero, zero.detach()), "forces": (zero, zero.detach())}
        has_energy = batch.label_mask["energy"].to(torch.float64)
        has_forces = batch.label_mask["forces"][batch.system].to(torch.float64)
        energy = ((prediction["energy"] - batch.labels["energy"]) / batch.n_atoms) ** 2 * has_energy
        forces = ((prediction["forces"] - batch.labels["forces"]) ** 2).sum(dim=1) * has_forces
        return {"energy": (energy.sum(), has_energy.sum()), "forces": (forces.sum(), 3 * has_forces.sum())}

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        return {}


class MovingAverage:
    """A WeightRule: exponential moving average with decay 0.9."""

    def __init__(self) -> None:
        self.shadow: dict[str, Tensor] | None = None

    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        if self.shadow is None:
            self.shadow = {name: value.detach().clone() for name, value in parameters.items()}
        for name, value in parameters.items():
            self.shadow[name] = self.shadow[name] + 0.1 * (value.detach() - self.shadow[name])

    def averaged(self) -> Mapping[str, Tensor] | None:
        return self.shadow

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.shadow = state["shadow"]


class ForceBenchmark:
    """Force error against a fixed Lennard-Jones potential on rattled water."""

    def __call__(self, model: OpenModel, data: Sequence[LabelledSet]) -> BenchmarkResult:
        return BenchmarkResult([self.figure(model)])

    def figure(self, model: OpenModel) -> metrics.Metric:
        cases = waters(6)
        predicted = [answer["forces"] for answer in model.evaluate(cases, ("forces",))]
        return metrics.mae(predicted, [case.labels["forces"] for case in cases], name="force MAE", unit="eV/Å")


class NotANumber(PotentialTeacher):
    """A teacher that fails on its first structure."""

    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        answers = super().evaluate(structures, outputs)
        return [{key: value * np.nan for key, value in answers[0].items()}, *answers[1:]]


def waters(n: int) -> list[Structure]:
    """Rattled and labelled water."""
    labeler = ClosedFormLabeler()
    start = water().replace(provenance=Provenance(group="water"))
    return [labeler.label(rattled(start, 0.05, seed=k)) for k in range(n)]


def trained(variation: str, parts: int, stop_at: int | None = None, steps: int = 4, loss: LossOfParts | None = None) -> dict[str, Any]:
    """Some steps of plain gradient descent on five structures, which `parts` workers share.

    Args:
        variation: `energy` or `energy-forces`.
        stop_at: pass the parameters through a copy after this step, as a resume does.
        loss: how the parts are put together; `added_loss` if None.
    """
    potential, data = Morse(), waters(5)
    losses = []
    for step in range(steps):
        if step == stop_at:
            saved = {name: value.clone() for name, value in potential.state_dict().items()}
            potential = Morse()
            potential.load_state_dict(saved)
        value = (loss or added_loss)(potential, [data[k::parts] for k in range(parts)], variation)
        grads = torch.autograd.grad(value, list(potential.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, grad in zip(potential.parameters(), grads, strict=True):
                parameter.sub_(1e-3 * (torch.zeros_like(parameter) if grad is None else grad))
        losses.append(float(value.detach()))
    return {"losses": np.array(losses)} | {name: p.detach().numpy().copy() for name, p in potential.named_parameters()}


LossOfParts = Callable[[Potential, list[list[Structure]], str], Tensor]


def added_loss(potential: Potential, parts: list[list[Structure]], variation: str) -> Tensor:
    """Sums and counts of all parts are added first and divided last."""
    objective = EnergyForces()
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, list[Tensor]] = {}
    for part in parts:
        batch = collate(part, potential.spec.graphs, potential.spec.torch_dtype)
        for name, (value, count) in objective.terms(potential(batch, objective.outputs, create_graph=True), batch).items():
            if name in variation:
                sums.setdefault(name, []).append(value)
                counts.setdefault(name, []).append(count)
    return torch.stack([torch.stack(sums[name]).sum() / torch.stack(counts[name]).sum() for name in sums]).sum()


def cases() -> dict[str, Any]:
    """One honest case of every seam, by the name of its contract."""
    data = waters(5)
    stretched = water().replace(positions=2 * water().positions)
    return {
        "reader": ReaderCase(LinesReader(), read_lines, write_lines, write_damaged_lines, write_unknown_lines),
        "sampler": SamplerCase(Rattler(), data[0]),
        "labeler": LabelerCase(ClosedFormLabeler(), data[:2]),
        "teacher": TeacherCase(PotentialTeacher(LennardJones()), [*data[:2], stretched]),
        "source": SourceCase(lambda: Deck(data)),
        "objective": ObjectiveCase(EnergyForces, Morse(), data),
        "weight-rule": WeightRuleCase(MovingAverage),
        "strategy": StrategyCase(
            ("energy-forces", "energy"), lambda v: trained(v, 2), lambda v: trained(v, 1), lambda v: trained(v, 2, stop_at=2)
        ),
        "benchmark": BenchmarkCase(
            ForceBenchmark(), OpenModel("x:", "x:", PotentialTeacher(LennardJones())), OpenModel("x:", "x:", NotANumber(LennardJones()))
        ),
    }
