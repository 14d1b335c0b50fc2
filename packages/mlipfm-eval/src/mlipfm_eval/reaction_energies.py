"""The benchmark `reaction-energies`: energies of reactions, complexes, isomers and ions beside reference values, of sets in the layout of GMTKN55.

A set is a folder with a file `.res`, one reaction a line (species, their coefficients, the reference in kcal/mol), and a folder for each species with
`struc.xyz`, `.CHRG` (the charge, if it is not zero) and `.UHF` (the unpaired electrons, if there are some). L. Goerigk et al., PCCP 19, 32184 (2017);
https://github.com/grimme-lab/GMTKN55 has 55 of them. Differences of energies show what errors of forces do not: binding, ionisation, isomers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel, open_model
from mlipfm_interfaces.console import progress_bar
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import ContractError, MlipfmError, PropertyNotAvailableError, UnreadableFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.metrics import Metric, mean
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import KCAL_MOL
from rich.markup import escape
from rich.table import Table

UNIT = "kcal/mol"
_BRACES = re.compile(r"^(.*?)\{([^{}]*)\}(.*)$")


@dataclass(frozen=True)
class Reaction:
    """One line of a set: energy = sum of coefficient x energy of the species; `reference` in kcal/mol."""

    set: str
    species: tuple[Path, ...]
    coefficients: tuple[float, ...]
    reference: float

    @property
    def name(self) -> str:
        """Coefficients and species: `+1 AB -1 A -1 B`."""
        return " ".join(f"{c:+g} {path.name}" for c, path in zip(self.coefficients, self.species, strict=True))

    def energy(self, energies: Mapping[Path, float]) -> float:
        """Return the energy in kcal/mol from energies of species in eV; NaN if one is not known."""
        return sum(c * energies[path] for c, path in zip(self.coefficients, self.species, strict=True)) / KCAL_MOL


def reaction_energies(
    model: OpenModel, data: Sequence[LabelledSet], *, folder: str, peer: str | None = None, level: str | None = None
) -> BenchmarkResult:
    """Reaction energies beside reference values, of sets in the layout of GMTKN55.

    Args:
        folder: a set (with the file `.res`), or a folder of such sets. peer: another model (`tblite:GFN2`), for the method that the labels are of.
        level: level of theory to ask a model of several levels for.

    Raises:
        ContractError: data beside the folder. UnreadableFileError: no set, or a file that is not understood. What opening the peer raises.
    """
    if data:
        raise ContractError(
            "reaction-energies takes no data", where=data[0].name, hint="leave DATA out: --option folder=FOLDER names the sets"
        )
    folders = _sets(Path(folder))
    reactions = [reaction for one in folders for reaction in read_reactions(one)]
    files = {one.name: sha256(one / ".res") for one in folders}
    structures = {path: read_species(path) for path in dict.fromkeys(path for r in reactions for path in r.species)}
    energies, reasons = species_energies(model, structures, level)
    others: dict[Path, float] | None = None
    if peer is not None:
        with open_model(peer) as other:
            others, refused = species_energies(other, structures)
            reasons += Counter({f"{peer}: {why}": n for why, n in refused.items()})
    figures, rows = [], []
    for name in dict.fromkeys(r.set for r in reactions):
        metrics, row = _figures_of_set(name, [r for r in reactions if r.set == name], energies, others)
        figures += metrics
        rows.append(row)
    details = [
        {"set": r.set, "reaction": r.name, "reference": r.reference, "value": _finite(r.energy(energies))}
        | ({} if others is None else {"peer": _finite(r.energy(others))})
        for r in reactions
    ]
    printed = [_table(rows, peer), *(f"not predicted: {n} species, {escape(why)}" for why, n in reasons.most_common(8))]
    error = None
    if all(math.isnan(r.energy(energies)) for r in reactions):
        why = "; ".join(reason for reason, _ in reasons.most_common(3))
        error = PropertyNotAvailableError(f"no reaction was predicted: {why}", hint="evaluate another model, or other sets")
    kept = {"unit": UNIT, "peer": peer, "level": level, "files": files, "reactions": details}
    return BenchmarkResult(figures, details=kept, printed=printed, error=error)


def _sets(folder: Path) -> list[Path]:
    found = [folder] if (folder / ".res").is_file() else sorted(path.parent for path in folder.glob("*/.res"))
    if not found:
        raise UnreadableFileError(
            "holds no set of reactions", where=str(folder), hint="name a folder with a file .res, or a folder of such folders (GMTKN55)"
        )
    return found


def read_reactions(folder: Path) -> list[Reaction]:
    """Return the reactions of a set.

    Raises:
        UnreadableFileError: a line whose species and coefficients do not match, or that names a species which is not there.
    """
    found, file = [], folder / ".res"
    for row, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words or words[0] not in ("$tmer", "tmer2++") or "x" not in words:
            continue
        cross = words.index("x")
        species = tuple(folder / path.removesuffix("/$f") for word in words[1:cross] for path in _expanded(word))
        try:
            numbers = [word for word in words[cross + 1 :] if word != "$w"]  # behind the reference some lines have a remark
            *coefficients, reference = (float(word) for word in numbers[: len(species) + 1])
            reaction = Reaction(folder.name, species, tuple(coefficients), reference)
            missing = [path.name for path in species if not (path / "struc.xyz").is_file()]
        except ValueError:
            coefficients, missing = [], []
        if len(species) != len(coefficients) or missing:
            what = f"species {', '.join(missing)} is not there" if missing else f"no reaction that is understood: {line.strip()}"
            raise UnreadableFileError(what, where=f"{file}, line {row}", hint="SPECIES... x COEFFICIENTS... $w REFERENCE, as in GMTKN55")
        found.append(reaction)
    if not found:
        raise UnreadableFileError("holds no reactions", where=str(file))
    return found


def _expanded(word: str) -> list[str]:
    """Return what a shell makes of braces: `20{,A,B}/$f` is 20/$f, 20A/$f and 20B/$f."""
    match = _BRACES.match(word)
    if match is None:
        return [word]
    before, inside, after = match.groups()
    return [one for part in inside.split(",") for one in _expanded(before + part + after)]


def read_species(folder: Path) -> Structure:
    """Return the structure of a species with its charge and multiplicity. Raises `UnreadableFileError`."""
    file = folder / "struc.xyz"
    try:
        count, _, *lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [line.split() for line in lines[: int(count)]]
        numbers, positions = [number(row[0].capitalize()) for row in rows], [[float(x) for x in row[1:4]] for row in rows]
    except (ValueError, IndexError, MlipfmError) as error:
        raise UnreadableFileError(f"is no XYZ: {error}", where=str(file)) from None
    if len(rows) < int(count):
        raise UnreadableFileError(f"ends after {len(rows)} of {count.strip()} atoms", where=str(file))
    charge, unpaired = (_number(folder / name) for name in (".CHRG", ".UHF"))
    return Structure(np.array(numbers), np.array(positions), total_charge=charge, spin_multiplicity=unpaired + 1)


def _number(file: Path) -> int:
    try:
        return int(file.read_text().split()[0]) if file.exists() else 0
    except (ValueError, IndexError):
        raise UnreadableFileError("holds no whole number", where=str(file)) from None


def species_energies(
    model: OpenModel, structures: Mapping[Path, Structure], level: str | None = None
) -> tuple[dict[Path, float], Counter[str]]:
    """Return the energy of each species in eV, NaN where the model refuses it, and how many it refused, by reason."""
    energies, reasons = dict.fromkeys(structures, float("nan")), Counter[str]()
    with progress_bar("species", len(structures)) as advance:
        for k, (path, structure) in enumerate(structures.items(), 1):
            try:
                energies[path] = float(model.evaluate([structure], ["energy"], level)[0]["energy"])
            except MlipfmError as error:
                reasons[error.what] += 1
            advance(k)
    return energies, reasons


def _figures_of_set(
    name: str, reactions: Sequence[Reaction], energies: Mapping[Path, float], others: Mapping[Path, float] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the figures of a set, and its row of the table."""
    values, references = [r.energy(energies) for r in reactions], [r.reference for r in reactions]
    size = float(np.mean(np.abs(references)))
    metrics = [
        _mae(values, references, "reaction energy MAE"),
        mean(np.subtract(values, references), name="reaction energy mean signed error", unit=UNIT),
    ]
    row = [name, str(len(reactions)), f"{size:.3g}", _shown(metrics[0])]
    if others is not None:
        theirs = [r.energy(others) for r in reactions]
        metrics += [
            _mae(theirs, references, "reaction energy MAE of the peer"),
            _mae(values, theirs, "reaction energy MAE to the peer"),
        ]
        row += [_shown(metrics[2]), _shown(metrics[3])]
    row.append(str(metrics[0].failed or ""))
    return [metric.as_dict() | {"set": name} for metric in metrics], row


def _mae(values: Sequence[float], others: Sequence[float], name: str) -> Metric:
    """Return the mean absolute difference; reactions that one of both does not know have failed."""
    return mean(np.abs(np.subtract(values, others)), name=name, unit=UNIT)


def _shown(metric: Metric) -> str:
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
    return f"{metric.value:.3g}{interval}" if np.isfinite(metric.value) else "-"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _table(rows: Sequence[Sequence[str]], peer: str | None) -> Table:
    table = Table(title="Mean absolute errors of reaction energies, kcal/mol, 95 % intervals over reactions")
    heads = ["set", "reactions", "mean |reference|", "MAE"]
    heads += [] if peer is None else [f"MAE of {peer}", f"MAE to {peer}"]
    for head in (*heads, "not predicted"):
        table.add_column(escape(head), justify="left" if head == "set" else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
