"""The interfaces of mlipfm as protocols: the methods a plug-in must have. Each has a contract suite in `mlipfm_interfaces.testing`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from .errors import MlipfmError
from .plugins import CONTRACT as CONTRACT
from .raw_frame import At, Note, RawFrame
from .structure import Structure

if TYPE_CHECKING:  # importing torch takes seconds, which readers, labellers and their worker processes need not pay
    import torch
    from torch import Tensor, nn

    from .batch import Batch
    from .benchmark import BenchmarkResult, LabelledSet, OpenModel
    from .metrics import Metric
    from .potential import Potential, Prediction

#: A loss term: sum over its entries and their number; strategies add both over all ranks before they divide.
Terms: TypeAlias = "Mapping[str, tuple[Tensor, Tensor]]"


@dataclass(frozen=True)
class Refusal:
    """A frame that was not imported: its index in the file and the error that says why."""

    index: int
    error: MlipfmError


@runtime_checkable
class Format(Protocol):
    """Reads one file format into raw frames: an object, or a module. `mlipfm_data.read` interprets them, and honours every read option.

    Two attributes are optional: `conventions` (`raw_frame.Conventions`), the units, signs and levels that the format fixes; and a method
    `recognises(path) -> bool`, asked where the file's name fits and for every folder: a format that says no is not used.
    """

    suffixes: tuple[str, ...]

    def frames(self, path: Path, **options: Any) -> Iterator[RawFrame | At | MlipfmError | Note]:
        """Yield the frames in the file's order; memory must not grow with the file.

        An `At` is a frame that may turn out damaged, an error stands for a frame that is there and cannot be used, a `Note` for a remark.

        Keyword-only parameters are options of the format (`--option NAME=VALUE`). Two names are read options that a format may want to know, too:
        `level` (the id that the user chose) and `keys` (quantity -> key that the user named), for files of which not everything is loaded.

        Raises:
            UnreadableFileError: if the rest of the file cannot be read. `read` turns every other exception into one.
        """


@runtime_checkable
class Sampler(Protocol):
    """Makes geometries from a geometry."""

    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        """Return `n` structures without labels, of the same group, `provenance.sampling` set. The same `rng` state gives the same structures."""


@runtime_checkable
class Labeler(Protocol):
    """Computes labels at one level of theory. Picklable; `label` may run in another process and gives the same bits each time."""

    @property
    def level(self) -> str:
        """Canonical id of the level of theory."""

    def label(self, structure: Structure) -> Structure:
        """Return the structure with `level` and labels set. Raises `LabelingError` if the calculation does not converge."""


@runtime_checkable
class Source(Protocol):
    """Yields what to train on. `state_dict` after n batches, loaded into a new Source, continues with batch n+1 exactly.

    Optional are `uses_potential = False`, which spares the loop handing over the current potential; `epoch`, which keys the random numbers of views
    (without it, the step does); and a method `describe()`, whose lines preflight says.
    """

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """Return structures of this rank's next step. A Source that simulates uses `potential`; others ignore it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Objective(Protocol):
    """One set of loss terms.

    Attributes:
        outputs: quantity keys its terms read from the Prediction.
        requires: label keys without which a data set has nothing to teach it (preflight refuses a set with none).
        module: auxiliary parameters (a projector), trained with the potential, kept in the training state, never exported; or None.
        gather: names of the tensors that `terms` returns as `(tensor, count)` to be gathered over all ranks and finished by `finish`; () if additive.

    Three things are optional. `has_views = False`: `views` returns the structure itself and is not called. A method `prepare(potential, elements)`,
    called once before the first step with the potential that trains and the number of training atoms of each atomic number: it makes `module` to the
    potential's measure, or refuses it. A method `node_input(batch)`, called in every step before the potential, returns `Batch.node_input`.
    """

    outputs: tuple[str, ...]
    requires: tuple[str, ...]
    module: nn.Module | None
    gather: tuple[str, ...]

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """Return what the potential gets of one structure: itself, noised or rotated copies. Runs before neighbours are built."""

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Name -> (weighted sum, count) over the systems of this objective's views; with `gather`, name -> (tensor, count) for those names."""

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        """Return terms of tensors gathered over all ranks; called only for objectives with `gather`."""


@runtime_checkable
class Strategy(Protocol):
    """Places a Step on hardware and takes optimisation steps; equal to one process up to rounding.

    Optional is a method `check(step)`, called before `setup`, that refuses a step module which it cannot place.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def share(self) -> tuple[int, int]:
        """Return which of how many batches of each step this rank computes: (rank, world_size), or (0, 1) where ranks share every batch."""

    def setup(self, step: nn.Module, make_optimizer: Any) -> None:
        """Wrap the step module (potential and objectives) and build its optimiser."""

    def step(self, batch: Any, learning_rate: float) -> dict[str, float]:
        """Do forward, global reduction, backward, clip, update. Returns the global terms, the gradient norm and whether the step was skipped.

        `batch` is whatever the step module's forward takes: a Batch and which of its systems belong to which objective.
        """

    def live_parameters(self) -> dict[str, Tensor]:
        """Return what this process holds of each parameter (all of it, or its shard), sharing its memory, by the names of `full_parameters`."""

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole CPU copies of tensors that lie like `live_parameters`. Called by all ranks."""

    def scatter(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what this process holds of whole tensors: the opposite of `gather`."""

    def full_parameters(self) -> dict[str, Tensor]:
        """Return all parameters, gathered, on the CPU, by their names in the unwrapped step module."""

    def collect(self, value: Any) -> list[Any]:
        """Return the `value` of every rank, in the order of ranks. Called by all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Return whole parameters and optimiser state, independent of the number of ranks. Called by all ranks."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None:
        """Leave the process group, if this strategy joined it."""


@runtime_checkable
class WeightRule(Protocol):
    """Acts on the weights after a step: moving averages, Reptile's outer step.

    Optional are `follow(source)`, called with the Source before the first step, and `begin(parameters)`, with the live parameters of a new run.
    """

    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Take the live parameters after every step (may change them in place). They may be shards: rules act element by element."""

    def averaged(self) -> Mapping[str, Tensor] | None:
        """Return parameters to export instead of the live ones, or None."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Teacher(Protocol):
    """Anything that predicts quantities of structures: a potential, or a model of another package in its own process."""

    outputs: tuple[str, ...]

    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Return one dict per structure, as `potential.evaluate` returns."""


@runtime_checkable
class Benchmark(Protocol):
    """Measures one thing of a model; a function will do.

    The first line of its docstring is what `mlipfm evaluate --list` shows. Its keyword-only parameters are its options: text from the command line
    becomes a value of the type of the default, and one without a default must be given. See `mlipfm_interfaces.benchmark`.
    """

    def __call__(self, model: OpenModel, data: Sequence[LabelledSet], /, *args: Any, **options: Any) -> BenchmarkResult | Iterable[Metric]:
        """Return the figures. The same model and data give the same figures; a case whose prediction fails or is not finite is a failed case."""


@runtime_checkable
class Resolver(Protocol):
    """Turns one scheme of model address (`mlipfm:NAME@ALIAS`) into a verified local file."""

    scheme: str

    def resolve(self, address: str) -> Path:
        """Return the path of the checkpoint; verified by digest. Raises `MlipfmError` if it cannot be had."""


def __getattr__(name: str) -> Any:
    """`Reader` is the old name of `Format`."""
    if name != "Reader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("`Reader` is an old name: write a `Format`, whose `frames` yields raw frames", DeprecationWarning, stacklevel=2)
    return Format
