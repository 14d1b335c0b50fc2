"""Did the electrons converge? What the outputs of codes say of each frame, in the words that they use; None where nothing speaks against it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .compressed import opened

#: ASE's name of a format -> (what says that a calculation converged, what says that it did not).
_SAID = {
    "espresso-out": (r"convergence has been achieved in", r"convergence NOT achieved"),
    "aims-output": (r"Self-consistency cycle converged\.", r"Self-consistency cycle not converged"),
    "castep-castep": (r"Final energy", r"SCF cycles performed but system has not reached the groundstate"),
    "gaussian-out": (r"SCF Done:", r"Convergence failure|>>>>>>>>>> Convergence criterion not met"),
    "orca-output": (r"SCF CONVERGED AFTER", r"SCF NOT CONVERGED AFTER|Wavefunction not fully converged"),
}
PREDICTED = "this step was predicted by VASP's machine-learned force field (ML_LMLFF), not computed"
_CP2K_STEP = re.compile(r"^\s*(?:MD\|\s*Step number|STEP NUMBER\s*=|OPTIMIZATION STEP:)\s*(\d+)", re.IGNORECASE)


def flags(path: Path, format: str) -> list[str | None]:
    """For each frame of an output file that ASE reads: words for why it is not converged, or None. Empty for formats that say nothing."""
    if format == "vasp-out":
        return list(_outcar(_lines(path)))
    if format not in _SAID:
        return []
    good, bad = (re.compile(pattern) for pattern in _SAID[format])
    return [line.strip()[:100] if bad.search(line) else None for line in _lines(path) if good.search(line) or bad.search(line)]


def _lines(path: Path) -> Iterator[str]:
    with opened(path) as stream:
        for line in stream:
            yield line.decode(errors="replace")


def _outcar(lines: Iterable[str]) -> Iterator[str | None]:
    """For each ionic step of an OUTCAR. VASP 5 writes no line where it stops at NELM: then the number of the last iteration tells."""
    limit, iteration, reached, step = 0, 0, None, 0
    ended = False
    for line in lines:
        if ended and "ML TOTEN" in line:
            yield PREDICTED
            ended = False
        elif ended and "energy  without entropy" in line:
            if reached is not None or not limit or iteration < limit:
                yield reached or None
            else:
                yield f"the electrons did not converge: all {limit} electronic steps (NELM) were used"
            ended = False
        if "NELM   =" in line:
            limit = int(line.split("=")[1].split(";")[0].split()[0])
        elif "Iteration" in line and "(" in line and line.lstrip().startswith("-"):
            iteration, reached = int(line.split("(")[1].split(")")[0]), None
        elif "aborting loop" in line:
            reached = "" if "is reached" in line else f"the electrons did not converge: {line.strip(' -' + chr(10))}"
        elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            ended, step = True, step + 1


def of_vasp_step(energies: list[float], steps: int, settings: Mapping[str, str]) -> str | None:
    """Of an ionic step in vasprun.xml.

    Args:
        energies: free energies of the last electronic steps, eV. steps: number of electronic steps. settings: NELM, EDIFF, ML_LMLFF by name.
    """
    if not steps:
        return PREDICTED if settings.get("ML_LMLFF", "F").upper().startswith(("T", ".T")) else None
    try:
        limit, wanted = int(settings["NELM"]), float(settings["EDIFF"])
    except (KeyError, ValueError):
        return None
    if steps < limit:
        return None
    change = abs(energies[-1] - energies[-2]) if len(energies) > 1 else None
    if change is not None and change <= abs(wanted) + 1.5e-8:  # energies are printed with eight decimals
        return None
    last = "" if change is None else f", the last changed the energy by {change:.2g} eV (EDIFF {wanted:g})"
    return f"the electrons did not converge: all {limit} electronic steps (NELM) were used{last}"


def cp2k_steps(path: Path) -> tuple[set[int], str | None]:
    """Steps of a run of CP2K whose log beside the trajectory says that the SCF run did not converge, and the name of that log.

    The log is `NAME.out` or `NAME.log` for `NAME-pos-1.xyz`, or the only file of these kinds in the folder that has such a line.
    """
    project = path.name.split("-pos-")[0]
    named = [path.with_name(project + end) for end in (".out", ".log")]
    logs = [file for file in named if file.is_file()] or sorted([*path.parent.glob("*.out"), *path.parent.glob("*.log")])
    for log in logs:
        bad: set[int] = set()
        failed, last = False, None
        for line in _lines(log):
            found = _CP2K_STEP.match(line)
            if "SCF run NOT converged" in line:
                failed = True
            elif found:
                last = int(found[1])
                if failed:
                    bad.add(last)
                failed = False
        if failed:
            bad.add(0 if last is None else last + 1)
        if bad:
            return bad, log.name
    return set(), None


def settings_of(element: Any) -> dict[str, str]:
    """NELM, EDIFF, PSTRESS and whether a force field is at work, from `incar` or `parameters` of a vasprun.xml.

    The first NELM counts: linear response has another one.
    """
    found: dict[str, str] = {}
    for item in element.iter("i"):
        if item.get("name") in ("NELM", "EDIFF", "ML_LMLFF", "PSTRESS"):
            found.setdefault(item.get("name"), str(item.text).strip())
    return found
