"""What a benchmark gets and returns: an open model, data sets of labelled structures, and a result with its figures.

    def bond_energy(model: OpenModel, data: Sequence[LabelledSet], *, distance: float = 1.1) -> list[Metric]:
        \"\"\"Energy of N2 at one distance.\"\"\"
        n2 = Structure([7, 7], [[0, 0, 0], [0, 0, distance]])
        (row,) = model.evaluate([n2], ["energy"])
        return [Metric("energy of N2", "eV", float(row["energy"]), None, 1, 1)]

Declared as an entry point of the group `mlipfm.benchmarks`, `mlipfm evaluate MODEL --benchmark NAME --option distance=1.2` runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from .errors import ContractError, MlipfmError, PluginError
from .frame_hashes import Hashes, frame_hashes
from .metrics import Metric
from .result_records import Record, make_record
from .structure import Structure

if TYPE_CHECKING:  # torch takes seconds to import
    from .potential import Potential
    from .protocols import Benchmark, Teacher

Split = Literal["id", "ood"]
Figure = Metric | Mapping[str, Any]


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to predict.

    Attributes:
        address: as it was given. identity: digest of a checkpoint, or the address of a model of another package.
        model: a potential, or a model of another package. manifest: of a checkpoint; empty for a model of another package.
    """

    address: str
    identity: str
    model: Potential | Teacher
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def evaluate(
        self, structures: Sequence[Structure], outputs: Sequence[str] = ("energy", "forces"), level: str | None = None
    ) -> list[dict[str, Any]]:
        """Predict quantities of structures: for each a dict of arrays in internal units, energies in eV, forces [atoms, 3] in eV/Å.

        Args:
            level: level of theory of a model that has several.

        Raises:
            what `mlipfm_interfaces.potential.evaluate` and models of other packages raise.
        """
        from .potential import Potential, evaluate

        if isinstance(self.model, Potential):
            return list(evaluate(self.model, structures, outputs, level=level))
        return self.model.evaluate(structures, outputs)


@contextmanager
def open_model(address: str) -> Iterator[OpenModel]:
    """Open `MODEL`, `NAME@ALIAS`, `SCHEME:...` or `tblite:GFN2`; end its worker process afterwards.

    Raises:
        what `load_model` and `open_foreign` raise.
    """
    from .checkpoint import load_model
    from .foreign import is_foreign, open_foreign

    if is_foreign(address):
        with open_foreign(address) as model:
            yield OpenModel(address, address, model)
        return
    potential, manifest = load_model(address)
    yield OpenModel(address, str(manifest["digest"]), potential, manifest)


@dataclass(frozen=True)
class LabelledSet:
    """A data set with labels.

    Attributes:
        digest: SHA-256 of the file, or of the manifest of the store, which holds the hashes of its files.
        split: in distribution (`id`) or out of distribution (`ood`).
        structures: a list, or an open store that reads them one by one. notes: how a file was read. path: of the file or the store.
        label_errors: labels of a file that contradict physics, such as forces in another unit, with the option that reads them right.
    """

    name: str
    digest: str
    split: Split
    structures: Sequence[Structure]
    notes: tuple[str, ...] = ()
    path: Path | None = None
    label_errors: tuple[str, ...] = ()

    @cached_property
    def hashes(self) -> Hashes:
        """[structures] hashes of the geometries, see `frame_hashes`."""
        return frame_hashes(self.structures)


@dataclass(frozen=True)
class BenchmarkResult:
    """Figures of one benchmark on one model.

    Attributes:
        metrics: the figures; a mapping has the keys of `Metric.as_dict` and may have more (`set`, `split`, `key`, `element`).
        passed: None: if no case failed. details: what else the record keeps, JSON-ready. kind: of the record.
        printed: what the command prints instead of a table of the figures: text, or anything that rich prints.
        failure: one sentence for stderr, with which the command exits with 1. error: raised after everything is written, exit status 2.
    """

    metrics: Sequence[Figure]
    passed: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["evaluation", "check"] = "evaluation"
    printed: Sequence[Any] = ()
    failure: str = ""
    error: MlipfmError | None = None

    @property
    def figures(self) -> list[dict[str, Any]]:
        """The metrics as dictionaries."""
        return [metric.as_dict() if isinstance(metric, Metric) else dict(metric) for metric in self.metrics]


def run_benchmark(
    name: str, benchmark: Benchmark, model: OpenModel, data: Sequence[LabelledSet] = (), options: Mapping[str, Any] | None = None
) -> tuple[BenchmarkResult, Record]:
    """Run a benchmark on a model; return its result and the result record of it.

    Args:
        options: of the benchmark (`options_of`), as text or as values.

    Raises:
        PluginError: an option that it does not have, text that is no value of it, or none where one is needed.
        ContractError: it returned no figure, or none that a record can hold; and what the benchmark raises.
    """
    found = benchmark(model, data, **_parsed(name, options_of(benchmark), options or {}))
    result = found if isinstance(found, BenchmarkResult) else BenchmarkResult(list(found))
    if not result.figures:
        raise ContractError(f"benchmark {name!r} returned no figure")
    return result, benchmark_record(name, result, model, data)


def benchmark_record(name: str, result: BenchmarkResult, model: OpenModel, data: Sequence[LabelledSet] = ()) -> Record:
    """Return the result record of a benchmark: its figures and details with the model's digest and the hashes of the data.

    Raises:
        ContractError: a figure that a record cannot hold.
    """
    failed = any(figure["n_ok"] < figure["n_total"] for figure in result.figures if {"n_ok", "n_total"} <= figure.keys())
    return make_record(
        result.kind,
        model.identity,
        passed=not failed if result.passed is None else result.passed,
        metrics=result.figures,
        data={one.name: one.digest for one in data},
        details={"benchmark": name, "address": model.address, **result.details},
    )


def options_of(benchmark: Benchmark) -> dict[str, Any]:
    """Return the options of a benchmark, its keyword-only parameters, with their defaults; `...` for one that must be given."""
    parameters = inspect.signature(benchmark).parameters.values()
    return {p.name: ... if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def summary_of(benchmark: Benchmark) -> str:
    """Return the first line of the docstring of a benchmark, which says what it measures; empty without one."""
    return inspect.cleandoc(benchmark.__doc__ or "").partition("\n")[0]


def _parsed(name: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as values of the types of their defaults; text stays text where the default is None or text."""
    for key in options:
        if key not in known:
            raise PluginError(f"benchmark {name!r} has no option {key!r}", hint=f"its options: {', '.join(known) or 'none'}")
    for key, default in known.items():
        if default is ... and key not in options:
            raise PluginError(f"benchmark {name!r} needs the option {key!r}", hint=f"--option {key}=VALUE")
    return {key: _value(name, key, known[key], value) for key, value in options.items()}


def _value(name: str, key: str, default: Any, value: Any) -> Any:
    if not isinstance(value, str) or default is None or default is ...:
        return value
    try:
        return TypeAdapter(type(default)).validate_strings(value)
    except ValidationError as error:
        raise PluginError(f"option {key!r} of benchmark {name!r}: {error.errors()[0]['msg']}, got {value!r}") from None
