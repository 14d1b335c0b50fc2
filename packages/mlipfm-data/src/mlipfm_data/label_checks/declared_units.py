"""Labels that contradict the units, signs or orders by which they were read: such an import stops before anything is stored."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnitError
from mlipfm_interfaces.units import factor, known_units

from ..readers.options import ASSUMED, VOIGT_ASE, option_words
from ..readers.report import ReadReport
from .findings import Finding

#: Code of a finding -> the convention that is wrong if it is right.
CONVENTION_OF = {
    "length-unit": "length_unit", "cell-in-bohr": "length_unit", "cell-length-unit": "length_unit", "energy-unit": "energy_unit",
    "energy-per-atom": "energy_unit", "energy-force-mismatch": "forces_unit", "forces-unit": "forces_unit", "forces-sign": "forces_sign",
    "stress-unit": "stress_unit", "stress-mismatch": "stress_unit", "stress-is-virial": "stress_unit", "stress-sign": "stress_sign",
    "stress-order": "stress_order",
}  # fmt: skip


#: Logarithm of the ratio of two units below which a slope does not tell them apart.
_SAME_UNIT = 0.2


def label_error(finding: Finding, where: Path | str, hint: str) -> MlipfmError:
    """Return a finding as an error: of units and signs, or of structures."""
    kind = UnitError if finding.code in CONVENTION_OF else InvalidStructureError
    return kind(f"{finding.code}: {finding.words} ({finding.numbers})", where=str(where), hint=hint)


def read_option(hint: str) -> str:
    """Return a hint with options of `mlipfm data import` as those of commands that read files: `--read energy_unit=Hartree`."""
    return re.sub(r"--([a-z]+(?:-[a-z]+)+)[ =]([^\s,;()]+)", lambda m: f"--read {m[1].replace('-', '_')}={m[2]}", hint)


def contradiction(findings: Iterable[Finding], decisions: ReadReport, path: Path) -> UnitError | None:
    """Return the error for all faults of conventions, whoever gives them: the user, the file or its layout, or nobody; None if there are none."""
    said: dict[str, str] = {}
    for item in findings:
        option = CONVENTION_OF.get(item.code, "") if item.severity == "fault" else ""
        for value, who in decisions.applied(option).items():
            if who.startswith(("layout", "given", "assumed")):
                convention = f"{option.replace('_', ' ')} {value}"
                says = f"the file gives {convention}" if who.startswith("given in") else f"its {who} says {convention}"
                if who.startswith("given by you"):
                    says = f"you give {convention}" + (f" ({who.partition('; ')[2]})" if "; " in who else "")
                elif who == "assumed":
                    says = f"{convention} is assumed"
                said.setdefault(option, f"{says}, and so read the labels contradict it: {item}")
    if not said:
        return None
    options = " and ".join(option_words(option) for option in said)
    hint = f"give what the file has with {options}, or import it as it says with --accept-label-errors"
    return UnitError("; besides, ".join(said.values()), where=str(path), hint=hint)


def with_advice_for_store(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings of a store, which does not say how its files were read: the option that a finding advises is right for one that had none."""
    return [
        replace(item, hint=f"{item.hint} if it was imported without this option, else with the value that puts this right")
        if "import with --" in item.hint
        else item
        for item in findings
    ]


def with_advice_for(findings: Iterable[Finding], decisions: ReadReport) -> list[Finding]:
    """Return the same findings, each advising the option to state for this file.

    A finding names what the labels look like after they were read; where a unit, sign or order other than the assumed one was applied, the option
    that puts them right is another.
    """
    return [_advised(item, decisions) for item in findings]


def _advised(item: Finding, decisions: ReadReport) -> Finding:
    words = re.search(r"--(forces|stress)-(sign) (-?1)|--(energy|length|forces|stress)-(unit) (\S+)|--stress-(order) (\S+)", item.hint)
    if words is None:
        return item
    dimension, kind, wanted = ([part for part in words.groups() if part] + [""])[:3] if words[7] is None else ("stress", "order", words[8])
    option = f"{dimension}_{kind}"
    applied = next(iter(decisions.applied(option)), ASSUMED[option])
    if applied == ASSUMED[option]:
        return item
    value = _composed(dimension, kind, applied, wanted.rstrip(".,;"))
    advice = f"--{dimension}-{kind} {value}" if value else f"the right --{dimension}-{kind}: {applied}, which was applied, is not it"
    told = item.words.replace(wanted, value) if kind == "order" and value else item.words
    return replace(item, words=told, hint=item.hint.replace(words[0], advice))


def _composed(dimension: str, kind: str, applied: str | int, wanted: str) -> str | None:
    """Return the convention of the file, of which `applied` was taken and the result then looks like `wanted`; None if no known one is that."""
    if kind == "sign":
        return str(int(applied) * int(wanted))
    if kind == "order":
        true_name = dict(zip(VOIGT_ASE.split(","), wanted.split(","), strict=False))
        ordered = ["".join(sorted(name)) for name in str(applied).split(",")]
        return ",".join(true_name.get(name, name) for name in ordered)
    if wanted not in known_units(dimension):
        return None
    size = factor(str(applied), dimension) * factor(wanted, dimension)
    distance = {name: abs(math.log(factor(name, dimension) / size)) for name in known_units(dimension)}
    nearest = min(distance, key=distance.__getitem__)
    return nearest if distance[nearest] < _SAME_UNIT else None
