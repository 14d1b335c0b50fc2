"""The work behind `mlipfm uncertainty fit` and `mlipfm uncertainty judge`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlipfm_data.store.store import Store
from mlipfm_interfaces import plugins
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertain import Uncertain, Uncertainty
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .seen_data import refuse_seen, trained_paths, trained_stores
from .uncertainty import Verdict, judge

METHOD = "llpr"
#: Rows of the table: key of `calibration_figures` -> its name.
FIGURES = {
    "nll": "negative log likelihood", "miscalibration_area": "miscalibration area (0)",
    "signed_miscalibration": "  signed, over-confident +", "z_variance": "(error/sigma)², mean (1)",
    "ence": "ENCE (0)", "sharpness": "sharpness", "spearman": "rank correlation", "spearman_ideal": "  ideal for these sigma", "crps": "CRPS",
    "auroc": "AUROC, worst tenth (1)", "retention_gain": "retention gain (1)",
}  # fmt: skip


def run_fit(address: str, train: Sequence[Path], calibrate: Sequence[Path], out: Path, as_json: bool) -> None:
    """Fit, write the file, say what was found."""
    potential, manifest = load_model(address)
    digests = {"train": _digests(train), "calibrate": _digests(calibrate)}
    mend = "calibrate with structures that the model has not seen"
    refuse_seen(calibrate, trained_stores(manifest) | set(digests["train"]), [*train, *trained_paths(manifest)], "was trained on", mend)
    with ExitStack() as stack:
        sets = [[stack.enter_context(Store(path)) for path in paths] for paths in (train, calibrate)]
        advance = stack.enter_context(_bar(sum(len(store) for stores in sets for store in stores), as_json))
        fitted = plugins.load("uncertainties", METHOD).fit(
            potential,
            str(manifest["digest"]),
            _chain(sets[0], potential),
            _chain(sets[1], potential),
            details={"stores": digests},
            progress=advance,
        )
    digest = fitted.save(out)
    found = {"file": str(out), "digest": digest, "model": manifest["digest"], "alpha": dict(fitted.alpha), **_sizes(fitted)}
    if as_json:
        print(json.dumps(found))
        return
    print(
        f"{out}: {found['train']} structures of the training, {found['calibrate']} of the calibration; for {', '.join(fitted.quantities)}"
    )
    if "forces" not in fitted.quantities:
        print("forces: not fitted, direct forces are no derivative of the last layer")


def run_judge(address: str, file: Path, stores: Sequence[Path], ood: Sequence[Path], level: float, as_json: bool) -> None:
    """Judge every store and print."""
    potential, manifest = load_model(address)
    fitted = plugins.load("uncertainties", METHOD).load(file, str(manifest["digest"]))
    used = fitted.details.get("stores", {})
    mend = "judge with structures that nothing was fitted to"
    refuse_seen([*stores, *ood], trained_stores(manifest) | set(used.get("train", [])), trained_paths(manifest), "was trained on", mend)
    refuse_seen([*stores, *ood], set(used.get("calibrate", [])), [], "was calibrated on", mend)
    results: dict[str, tuple[str, list[Verdict]]] = {}
    for path, split in [*((p, "id") for p in stores), *((p, "ood") for p in ood)]:
        name = path.name if path.name not in results else str(path)
        results[name] = split, judge(fitted, _answers(fitted, potential, path, as_json), level)
    if as_json:
        rows = [{"set": name, "split": split, **v.as_dict()} for name, (split, verdicts) in results.items() for v in verdicts]
        print(json.dumps({"model": manifest["digest"], **_sizes(fitted), "results": rows}))
    else:
        _print(results, fitted)


def _answers(fitted: Uncertainty, potential: Potential, path: Path, quiet: bool) -> Iterator[Uncertain]:
    with Store(path) as store, _bar(len(store), quiet) as advance:
        for n, answer in enumerate(fitted.predict(potential, _chain([store], potential)), 1):
            yield answer
            advance(n)


def _print(results: dict[str, tuple[str, list[Verdict]]], fitted: Uncertainty) -> None:
    console = open_console()
    for k, key in enumerate(fitted.quantities):
        verdicts = [rows[k] for _, rows in results.values()]
        table = Table(title=f"{key}, {verdicts[0].unit}; calibrated with {_sizes(fitted)['calibrate']} structures")
        table.add_column("", no_wrap=True)
        for (name, (split, _)), v in zip(results.items(), verdicts, strict=True):
            table.add_column(f"{name} ({split.upper()})\n{v.structures} structures", justify="right")
        level = f"{verdicts[0].level:.4g}"
        table.add_row(f"coverage ({level})", *(f"{v.coverage:.3f} [{v.ci95[0]:.3f}, {v.ci95[1]:.3f}]" for v in verdicts))
        table.add_row("half width, mean", *(f"{v.half_width:.4g}" for v in verdicts))
        table.add_row("  ideal", *(f"{v.ideal:.4g}" for v in verdicts))
        table.add_row("  over the ideal", *(f"{v.ratio:.2f}" for v in verdicts))
        table.add_row("RMSE", *(f"{v.rmse:.4g}" for v in verdicts))
        for figure, words in FIGURES.items():
            table.add_row(words, *(f"{v.figures[figure]:.3g}" for v in verdicts))
        console.print(table)


def _sizes(fitted: Uncertainty) -> dict[str, int]:
    return {key: int(fitted.details[key]) for key in ("train", "calibrate")}


def _digests(paths: Sequence[Path]) -> list[str]:
    return [sha256(path / "manifest.json") for path in paths]


def _chain(stores: Sequence[Any], potential: Potential) -> Iterator[Structure]:
    """All structures, read one by one; labels of a level that the model does not have are refused."""
    for store in stores:
        for k, s in enumerate(store):
            if s.level is not None and s.level not in potential.spec.levels:
                raise LevelError(
                    f"the labels are of level {s.level!r}, the model predicts {', '.join(potential.spec.levels)}",
                    where=f"{store.path}: structure {k}",
                )
            yield s


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; called with the number of structures done."""
    columns = TextColumn("structures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("structures", total=total)
        yield lambda n: bar.update(task, completed=n)
