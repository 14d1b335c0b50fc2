"""What a quickstart found, from its result records: the model to use, the comparison of all models, and what is printed of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.result_records import Record, make_record, read_record, write_record
from rich.console import Console
from rich.table import Table

from .measure import lowest

Figure = Mapping[str, Any]

#: Set -> what it is. The first decides which model is the best.
SETS = {"known": "new geometries of known molecules", "test": "molecules no model saw", "hot": "known molecules at 2000 K"}

USE = """\
from ase.build import molecule
from mlipfm_md import MlipfmCalculator

atoms = molecule("CH3OH", calculator=MlipfmCalculator("{model}"))
print(atoms.get_potential_energy(), atoms.get_forces())
"""


@dataclass(frozen=True)
class Results:
    """Result records of a quickstart, by the names of their files without `.json`."""

    records: dict[str, Record]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read all records of a run."""
        return cls({path.stem: read_record(path) for path in sorted((folder / "records").glob("*.json"))})

    def of(self, kind: str) -> dict[str, Record]:
        """Return the records `KIND-NAME` by NAME."""
        return {name.removeprefix(f"{kind}-"): record for name, record in self.records.items() if name.startswith(f"{kind}-")}

    def error(self, model: str, name: str, key: str) -> Figure | None:
        """Return a figure of a model on a set, such as `force_mae`; None if it was not measured."""
        rows = [
            m for m in self.records[f"evaluation-{model}"]["metrics"] if m.get("key") == key and m.get("set") == name and "element" not in m
        ]
        return rows[0] if rows and rows[0]["value"] is not None else None

    @property
    def digests(self) -> dict[str, str]:
        """Model -> digest of its checkpoint."""
        return {name: str(record["model"]) for name, record in self.of("check").items()}

    @property
    def best(self) -> str:
        """The model of lowest force MAE on new geometries of known molecules, among those whose check passed.

        Raises:
            RegistryError: none did.
        """
        errors = {name: self.error(name, "known", "force_mae") for name, record in self.of("check").items() if record["passed"]}
        good = {name: float(error["value"]) for name, error in errors.items() if error is not None}
        if not good:
            raise RegistryError("no model has passed its check", hint="see log/check-NAME.log")
        return min(good, key=lambda name: good[name])

    @property
    def conclusions(self) -> list[str]:
        """Sentences on what helped, by intervals of the ratio of force errors on each set; then models that fail their check."""
        said, unclear = [], []
        for record in self.of("comparison").values():
            question, title = record["details"]["question"], record["details"]["title"]
            clear = []
            for ratio in record["metrics"]:
                low, high = ratio["ci95"] or (0.0, float("inf"))
                if ratio["n_ok"] == ratio["n_total"] and not low <= 1 <= high:
                    clear.append(f"{'lower' if high < 1 else 'higher'} on {SETS[ratio['set']]} ({figure(ratio)})")
            if clear:
                said.append(f"Force error with {question}, {title}: {', '.join(clear)}.")
            else:
                unclear.append(str(question))
        if unclear:
            said.append(f"No difference beyond the noise of so few molecules: {', '.join(unclear)}.")
        for name, record in self.of("check").items():
            if not record["passed"]:
                said.append(f"{name} is not for dynamics: it breaks {', '.join(record['details']['broken'])}.")
        return said


def write_start() -> None:
    """Write `start.xyz`: the molecule that the best model moves, at rest."""
    from mlipfm_data import export_extxyz

    export_extxyz([lowest(Path("data/known"))[0]], Path("start.xyz"))


def write_result(model: str, folder: Path) -> None:
    """Write `records/result.json`: the model to use, how to use it, and the frames of a trajectory, which the report shows moving."""
    results = Results.read(Path())
    frames = [s for s, _ in FrameLog(folder / "trajectory.frames")]
    known, unseen = (results.error(model, name, "force_mae") for name in ("known", "test"))
    energy = results.error(model, "known", "energy_mae")
    details = {
        "benchmark": "result",
        "title": model,
        "statements": [f"{model}/best.safetensors: force error {figure(known)} meV/Å and energy error {figure(energy)} meV/atom on {SETS['known']}, "
                       f"{figure(unseen)} meV/Å on {SETS['test']} (mean absolute errors, 95 % intervals over molecules). It passes `mlipfm check`."],
        "code": USE.format(model=f"{model}/best.safetensors"),
        "frames": {
            "caption": f"{frames[0].formula} at 300 K, moved by {model}; {folder}.xyz opens in ASE, OVITO and VMD",
            "symbols": [symbol(z) for z in frames[0].atomic_numbers.tolist()],
            "positions": [frame.positions.round(3).tolist() for frame in frames],
        },
    }  # fmt: skip
    write_record("records/result.json", make_record("evaluation", results.digests[model], passed=True, metrics=[], details=details))


def print_model(console: Console, out: Path, results: Results, page: Path) -> None:
    """Print what the user has now: a model, how to use it, where to look."""
    details = results.records["result"]["details"]
    console.print("\nYour model\n", style="bold")
    for line in [*details["statements"], "", *details["code"].replace(results.best, str(out / results.best), 1).splitlines(), ""]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    registry = results.records.get("registry")
    for line in [*(registry["details"]["statements"] if registry else []), f"Look at it: {page.as_uri()}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_comparison(console: Console, results: Results) -> None:
    """Print errors, dynamics and checks of all models, and what they allow to conclude."""
    console.print("\nHow it compares with other ways\n", style="bold")
    errors = Table(
        "model", *SETS.values(), "energy, known, meV/atom", "check", title="Force MAE in meV/Å at GFN2-xTB, 95 % intervals over molecules"
    )
    for name, check in results.of("check").items():
        row = [results.error(name, part, "force_mae") for part in SETS] + [results.error(name, "known", "energy_mae")]
        if any(row):
            errors.add_row(name, *map(figure, row), "passed" if check["passed"] else "failed")
    dynamics = Table(
        "model",
        "energy drift, meV/atom/ps",
        "temperature with thermostat, K",
        "broke off",
        "steps/s",
        title="Dynamics of molecules no model saw, 300 K",
    )
    speeds = results.of("speed")
    for name in [*results.of("dynamics"), "reference"]:
        metrics = {m["name"]: m for m in results.of("dynamics").get(name, {"metrics": []})["metrics"]}
        drift = metrics.get("energy drift")
        broken = f"{drift['n_total'] - drift['n_ok']} of {drift['n_total']}" if drift else "-"
        rate = f"{speeds[name]['metrics'][0]['value']:.0f}" if name in speeds else "-"
        title = "GFN2-xTB itself" if name == "reference" else name
        dynamics.add_row(title, figure(drift), figure(metrics.get("temperature with thermostat")), broken, rate)
    for shown in (errors, dynamics, *results.conclusions):
        console.print(shown, highlight=False)


def figure(metric: Figure | None) -> str:
    """Return `46 [24, 64]`, or `-` where there is none."""
    if metric is None or metric["value"] is None:
        return "-"
    value, *ends = (f"{x:.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.3g}" for x in (metric["value"], *(metric["ci95"] or ())))
    return f"{value} [{', '.join(ends)}]" if ends else value
