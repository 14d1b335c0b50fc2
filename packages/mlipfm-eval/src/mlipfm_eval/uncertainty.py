"""The benchmark `uncertainty`: coverage and width of a model's intervals, and calibration of its standard deviations; and their fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_data.store.manifest import is_store
from mlipfm_data.store.store import Store
from mlipfm_interfaces import plugins
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel
from mlipfm_interfaces.calibration import calibration_figures
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.console import progress_bar
from mlipfm_interfaces.errors import LevelError, MissingLabelsError, PropertyNotAvailableError, UnreadableFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain, Uncertainty, errors_and_sigma
from rich.table import Table

from ._training_overlap import refuse_known, trained_paths, trained_stores
from .accuracy import split_line

_METHOD = "llpr"
#: Rows of the table: key of `calibration_figures` -> its name.
_FIGURES = {
    "nll": "negative log likelihood", "miscalibration_area": "miscalibration area (0)",
    "signed_miscalibration": "  signed, over-confident +", "z_variance": "(error/sigma)², mean (1)",
    "ence": "ENCE (0)", "sharpness": "sharpness", "spearman": "rank correlation", "spearman_ideal": "  ideal for these sigma", "crps": "CRPS",
    "auroc": "AUROC, worst tenth (1)", "retention_gain": "retention gain (1)",
}  # fmt: skip
#: Structures of the calibration from which on the scale of the standard deviations is known to 5 %.
FEW = 200
_UNITS = {"energy": "meV/atom", "forces": "meV/Å"}


@dataclass(frozen=True)
class Calibration:
    """One quantity on one set; errors and widths in meV/atom (energy) or meV/Å (forces).

    Attributes:
        level: coverage that was asked. coverage: share of structures inside; for forces, with all atoms inside. ci95: Wilson's interval of it.
        half_width: mean over structures, or over atoms. ideal: of the narrowest constant interval that covers `level` of these errors.
        rmse: of energies per atom, or of force components. figures: see `mlipfm_interfaces.calibration.calibration_figures`.
    """

    quantity: str
    unit: str
    structures: int
    level: float
    coverage: float
    ci95: tuple[float, float]
    half_width: float
    ideal: float
    rmse: float
    figures: dict[str, float]

    @property
    def ratio(self) -> float:
        """Width over the ideal width."""
        return self.half_width / self.ideal if self.ideal > 0 else float("inf")

    def as_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready; figures that are not finite become None."""
        figures = {key: value if np.isfinite(value) else None for key, value in self.figures.items()}
        return asdict(self) | {"ratio": self.ratio if np.isfinite(self.ratio) else None, "figures": figures, "ci95": list(self.ci95)}

    def metrics(self) -> list[dict[str, Any]]:
        """Return coverage with its interval, widths, error and calibration figures, as dictionaries of `Metric`."""
        n = self.structures
        values = {"half width": (self.half_width, self.unit), "ideal half width": (self.ideal, self.unit), "RMSE": (self.rmse, self.unit)}
        values |= {_FIGURES[key].partition("(")[0].strip(): (value, "1") for key, value in self.figures.items() if key in _FIGURES}
        first = Metric(f"{self.quantity}: coverage of {100 * self.level:g} % intervals", "1", self.coverage, self.ci95, n, n)
        rest = [Metric(f"{self.quantity}: {name}", unit, value, None, n, n) for name, (value, unit) in values.items()]
        return [metric.as_dict() for metric in (first, *rest)]


def calibration(fitted: Uncertainty, seen: Iterable[Uncertain], level: float = 0.9) -> list[Calibration]:
    """Compare errors with intervals, for each quantity that was fitted.

    Raises:
        MissingLabelsError: no structure, one without labels, or too few structures of calibration for this level.
    """
    answers = list(seen)
    if not answers:
        raise MissingLabelsError("no structure to compare with", hint="give a store with labels")
    return [_calibration(key, fitted.quantile(key, level), answers, level) for key in fitted.quantities]


def _calibration(quantity: str, q: float, seen: Sequence[Uncertain], level: float) -> Calibration:
    errors, sigma = errors_and_sigma(seen, quantity)
    errors, sigma = 1000 * errors, 1000 * sigma
    if quantity == "energy":
        widths, largest = q * sigma, np.abs(errors)
    else:
        widths = 1000 * q * np.concatenate([u.atom_sigma for u in seen])
        largest = 1000 * np.array([np.linalg.norm(u.force_errors(), axis=1).max() for u in seen])
    covered = float(np.mean([u.score(quantity) <= q for u in seen]))
    ideal = float(np.sort(largest)[ceil(round(level * len(largest), 9)) - 1])
    return Calibration(
        quantity, _UNITS[quantity], len(seen), level, covered, _wilson(covered, len(seen)), float(widths.mean()), ideal,
        float(np.sqrt(np.mean(errors**2))), calibration_figures(errors, sigma),
    )  # fmt: skip


def _wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share of n (Wilson, J. Am. Stat. Assoc. 22, 209 (1927))."""
    middle, spread = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


def uncertainty(model: OpenModel, data: Sequence[LabelledSet], *, file: str, coverage: float = 0.9) -> BenchmarkResult:
    """Coverage and width of the intervals of a model with a fitted uncertainty, and calibration of its standard deviations.

    Args:
        data: labelled stores with structures that neither the model nor the intervals were fitted to. file: what `fit_uncertainty` wrote for this
            model. coverage: part of the structures that the intervals shall cover.

    Raises:
        RefusedFileError: a store that was trained or calibrated on; LevelError: labels of a level that the model does not have.
        MissingLabelsError: no data, or too few structures of the calibration for this coverage.
    """
    if not isinstance(model.model, Potential):
        raise PropertyNotAvailableError("models of other packages have no fitted uncertainty", where=model.address)
    if not data:
        raise MissingLabelsError("there are no data to compare with", hint="mlipfm uncertainty evaluate MODEL FILE STORES")
    fitted = plugins.load("uncertainties", _METHOD).load(Path(file), model.identity)
    used = fitted.details.get("stores", {})
    hint = "evaluate with structures that nothing was fitted to"
    paths = [one.path for one in data if one.path is not None and is_store(one.path)]
    refuse_known(paths, trained_stores(model.manifest) | set(used.get("train", [])), trained_paths(model.manifest), "was trained on", hint)
    refuse_known(paths, set(used.get("calibrate", [])), [], "was calibrated on", hint)
    found: dict[str, tuple[str, list[Calibration]]] = {}
    for one in data:
        with progress_bar("structures", len(one.structures)) as advance:
            answers = fitted.predict(model.model, _at_known_levels(one.structures, model.model, one.name))
            found[one.name] = one.split, calibration(fitted, _counted(answers, advance), coverage)
    rows = [{"set": name, "split": split, **v.as_dict()} for name, (split, values) in found.items() for v in values]
    metrics = [m | {"set": name, "split": split} for name, (split, values) in found.items() for v in values for m in v.metrics()]
    return BenchmarkResult(metrics, details={**_sizes(fitted), "results": rows}, printed=_tables(found, fitted))


def fit_uncertainty(address: str, train: Sequence[Path | str], calibrate: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Fit the uncertainty of a model in one pass over its training data and one over the calibration data, and write it to `out`.

    Returns:
        file, digest, digest of the model, alpha by quantity, the number of structures of each kind, and a warning (else None) if the calibration
        has fewer than `FEW` or the checkpoint does not list a store of `train`.

    Raises:
        UnreadableFileError: no store. RefusedFileError: a store of the calibration that the model was trained on; LevelError: labels of a level that
            the model does not have.
    """
    potential, manifest = load_model(address)
    trained, held_out = [Path(path) for path in train], [Path(path) for path in calibrate]
    for path in (*trained, *held_out):
        if not (path / "manifest.json").is_file():
            hint = f"`mlipfm data import {path} --out STORE` makes one of a file" if path.is_file() else "there is no manifest.json"
            raise UnreadableFileError("an uncertainty is fitted to stores, and this is none", where=str(path), hint=hint)
    digests = {kind: [sha256(path / "manifest.json") for path in paths] for kind, paths in (("train", trained), ("calibrate", held_out))}
    hint = "calibrate with structures that the model has not seen"
    known = trained_stores(manifest) | set(digests["train"])
    refuse_known(held_out, known, [*trained, *trained_paths(manifest)], "was trained on", hint)
    with ExitStack() as stack:
        sets = [[stack.enter_context(Store(path)) for path in paths] for paths in (trained, held_out)]
        advance = stack.enter_context(progress_bar("structures", sum(len(store) for stores in sets for store in stores)))
        chains = [(s for store in stores for s in _at_known_levels(store, potential, str(store.path))) for stores in sets]
        method = plugins.load("uncertainties", _METHOD)
        fitted = method.fit(potential, str(manifest["digest"]), *chains, details={"stores": digests}, progress=advance)
    digest = fitted.save(out)
    sizes = _sizes(fitted)
    stated = trained_stores(manifest)
    strange = [str(path) for path, digest in zip(trained, digests["train"], strict=True) if stated and digest not in stated]
    unknown = f"the model was not trained on {', '.join(strange)}, by what its checkpoint says" if strange else None
    warning = "; ".join(text for text in (unknown, _few(sizes["calibrate"])) if text) or None
    return {"file": str(out), "digest": digest, "model": manifest["digest"], "alpha": dict(fitted.alpha), **sizes, "warning": warning}


def _few(n: int) -> str | None:
    """Return what is not known after a calibration with n structures: the scale of sigma to 1/sqrt(2n), and intervals of more than n/(n+1)."""
    if n >= FEW:
        return None
    return (
        f"{n} structures of the calibration are few: standard deviations are right to {100 / sqrt(2 * n):.0f} % at best, and intervals that cover "
        f"more than {100 * n / (n + 1):.0f} % cannot be given; calibrate with {FEW} or more"
    )


def _tables(found: Mapping[str, tuple[str, list[Calibration]]], fitted: Uncertainty) -> list[Table]:
    tables = []
    for k, key in enumerate(fitted.quantities):
        values = [rows[k] for _, rows in found.values()]
        table = Table(title=f"{key}, {values[0].unit}; calibrated with {_sizes(fitted)['calibrate']} structures")
        table.add_column("", no_wrap=True)
        splits = [split for split, _ in found.values()]
        for name, split, v in zip(found, splits, values, strict=True):
            table.add_column(f"{name}{split_line(split, splits)}\n{v.structures} structures", justify="right")
        table.add_row(f"coverage ({values[0].level:.4g})", *(f"{v.coverage:.3f} [{v.ci95[0]:.3f}, {v.ci95[1]:.3f}]" for v in values))
        table.add_row("half width, mean", *(f"{v.half_width:.4g}" for v in values))
        table.add_row("  ideal", *(f"{v.ideal:.4g}" for v in values))
        table.add_row("  over the ideal", *(f"{v.ratio:.2f}" for v in values))
        table.add_row("RMSE", *(f"{v.rmse:.4g}" for v in values))
        for figure, words in _FIGURES.items():
            table.add_row(words, *(f"{v.figures[figure]:.3g}" for v in values))
        tables.append(table)
    return tables


def _sizes(fitted: Uncertainty) -> dict[str, int]:
    return {key: int(fitted.details[key]) for key in ("train", "calibrate")}


def _at_known_levels(structures: Iterable[Structure], potential: Potential, where: str) -> Iterator[Structure]:
    """Yield the structures, read one by one; labels of a level that the model does not have are refused."""
    for k, s in enumerate(structures):
        if s.level is not None and s.level not in potential.spec.levels:
            levels = ", ".join(potential.spec.levels)
            raise LevelError(f"the labels are of level {s.level!r}, the model predicts {levels}", where=f"{where}: structure {k}")
        yield s


def _counted(answers: Iterable[Uncertain], advance: Callable[[int], None]) -> Iterator[Uncertain]:
    for n, answer in enumerate(answers, 1):
        yield answer
        advance(n)
