"""`inspect`: one pass over structures, then the findings of every level of theory; a finding that another one explains is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from mlipfm_interfaces.structure import Structure

from .comparison import Comparison, compare
from .energies import check_energies, lost_digits
from .findings import Finding, doubt, fault, ordered
from .force_assignment import ForceAssignment, misplaced_in_crystals, misplaced_in_molecules
from .geometry import force_scale, length_fault, neighbors_of, species_fault, stiffness
from .per_frame import check_counts
from .sample import LevelSample, SampleStatistics, subsample
from .stress import BY_SIZE, check_stresses
from .units import ENERGY, LOWEST, PER_ATOM, UNEXPLAINED, Evidence, UnitGuess, absolute_unit, atom_energy, log_deviation, unit_guesses

# From measurements to findings: what is said of one level of theory, and what is left unsaid because another finding explains it.

#: Structures whose bonds are measured; steps of the energies below which work between two frames is not compared with them.
MEASURED, STEPS = 60, 10
#: Cost by which a reading of the units may exceed the cheapest and still be named beside it: labels in Hartree and Hartree/bohr have the ratio of
#: those in Ry and Ry/bohr.
TIE = 1.0
#: Frames of a level below which only what each frame shows on its own is said.
FEW = 6
_ALONE = {"labels-not-finite", "multiplicity-counts-unpaired", "impossible-state", "contradictory-duplicates", "isolated-atom"}
_LIKELY = {
    "length-unit",
    "cell-in-bohr",
    "cell-length-unit",
    "cell-transposed",
    "forces-zero",
    "stress-zero",
    "stress-asymmetric",
    "constrained-forces",
}


#: eV/Å: smaller forces are zero, by symmetry or at rest, and have no sign.
VANISHING = 1e-3


def check_level(level: str | None, sample: LevelSample, passing: SampleStatistics) -> list[Finding]:
    """All findings about one level of theory. Of fewer than `FEW` frames what needs statistics is left out, and what is only likely is a doubt."""
    found = _check_level(level, sample, passing)
    if passing.frames >= FEW:
        return found
    words = f"{passing.frames} frame{'s are' if passing.frames > 1 else ' is'} too few to test units, signs and orders of labels"
    facts = [item for item in found if item.code in _ALONE or item.figures.get("against") == BY_SIZE]
    likely = [replace(item, severity="doubt") for item in found if item.code in _LIKELY]
    return [*facts, *likely, Finding("not-sampled", "note", words, f"test a set of {FEW} frames and more of one system", level=level)]


def _check_level(level: str | None, sample: LevelSample, passing: SampleStatistics) -> list[Finding]:
    found = check_counts(level, sample, passing)
    geometry, sample = _check_geometry(level, sample)
    found += geometry
    if any(item.code.startswith("species") for item in geometry):
        return found  # forces and energies of a wrong geometry say nothing
    codes = {item.code for item in found if item.severity == "fault"}
    comparison = compare(sample)
    lost = lost_digits(passing)
    if lost is not None:
        comparison = comparison.above(STEPS * lost.step)
    placement = None if "forces-zero" in codes else _placement(sample, comparison)
    if placement is not None:
        found.append(_placed(level, placement))
    reading = None if codes & {"forces-zero"} or placement else _units(level, sample, comparison, found)
    slope = 1.0 if reading is None else _explained_slope(reading, comparison)
    stress = [] if placement is not None else check_stresses(level, sample, comparison, slope, reading)
    energies = [] if placement else check_energies(level, sample, passing, comparison, slope, reading, trusted_stress=not stress)
    if any(item.code == "energies-shuffled" for item in energies):  # of frames that are there twice
        found = [item for item in found if item.code not in ("energies-copied", "contradictory-duplicates")]
    elif "energies-copied" in codes:
        energies = []
    if any(item.code == "energy-rounded" for item in energies):
        found = [item for item in found if item.code != "energies-copied"]
    if not {"energy-unit", "energy-per-atom"} & {item.code for item in found}:
        found += _too_low(level, sample)
    return found + energies + stress


def _check_geometry(level: str | None, sample: LevelSample) -> tuple[list[Finding], LevelSample]:
    """Findings about lengths, cells and species; the sample with lengths as they should be."""
    structures = [frame.structure for frame in subsample(sample.frames(), MEASURED)]
    small = [s for s in structures if len(s) <= 400] or structures[:4]
    verdict = length_fault(small)
    if verdict is not None:
        correction = verdict.correction
        lengths = {"at_bond_distances": verdict.given, "at_bond_distances_corrected": verdict.corrected, "structures": verdict.structures}
        words = f"neighbours are at distances of matter only if {correction.words}"
        finding = fault(correction.code, words, correction.hint, level, lengths)
        corrected = LevelSample()
        for frame in sample.frames():
            corrected.add(frame.index, correction(frame.structure))
        return [finding], corrected
    species = species_fault([frame.structure for frame in sample.frames() if len(frame.structure) <= 100])
    if species is not None:
        figures = {"possible_valences": species.given, "possible_valences_corrected": species.corrected, "frames": len(species.frames)}
        frames = [frame for frame in sample.frames() if len(frame.structure) <= 100]
        indices, words = [frames[k].index for k in species.frames], f"valences are possible only if {species.words}"
        return [fault(species.code, words, "correct the atomic numbers", level, figures, indices)], sample
    return [], sample


def _placement(sample: LevelSample, comparison: Comparison) -> ForceAssignment | None:
    return misplaced_in_molecules(sample) or misplaced_in_crystals(sample, comparison)


_REORDER = {
    "forces-atom-order": "put the rows of the forces in the order of the atoms",
    "forces-rotated": "give positions and forces of one orientation",
    "forces-other-frame": "join forces and geometries by frame again",
    "forces-misplaced": "join forces, atoms and geometries again",
}


def _placed(level: str | None, placement: ForceAssignment) -> Finding:
    return fault(placement.code, placement.words, _REORDER[placement.code], level, placement.figures)


def _explained_slope(reading: UnitGuess, comparison: Comparison) -> float:
    """Slope that the sample's numbers really have, so that single frames can be compared with it."""
    found = comparison.energy_forces()
    return found.slope if found.tells else 1.0


def _units(level: str | None, sample: LevelSample, comparison: Comparison, found: list[Finding]) -> UnitGuess | None:
    """Units and signs of energies and forces; adds findings and returns the reading that explains the numbers."""
    size = [
        float(np.sqrt(np.mean(frame.structure.labels["forces"] ** 2))) for _, frames in sample.with_labels("forces") for frame in frames
    ]
    evidence = Evidence(
        comparison.energy_forces(),
        comparison.energy_forces(per_atom=True),
        _bond_scale(sample),
        _absolute(sample),
        len({_ratio(frame.structure.atomic_numbers) for frame in sample.frames() if "energy" in frame.structure.labels}),
        float(np.median(size)) if size else None,
    )
    if not (evidence.slope.tells or evidence.slope_per_atom.tells or evidence.stiffness is not None):
        if evidence.size is not None and evidence.size > VANISHING:  # there are forces, and nothing that they could be held against
            words = "sign and unit of the forces were not tested: no two frames are near enough for energies to tell, no bond of hydrogen stretches"
            found.append(
                Finding("not-sampled", "note", words, "compare a frame with its calculation, or add frames of a trajectory", level=level)
            )
        if not evidence.absolute:
            return None
    ranked = unit_guesses(evidence)
    best = ranked[0]
    figures = _figures(evidence)
    if best.misfit > UNEXPLAINED:
        if evidence.slope.tells and log_deviation(evidence.slope, 1.0) > UNEXPLAINED:
            words = f"energies change by {evidence.slope.slope:.3g} times what forces say, which no pair of known units explains"
            found.append(doubt("energy-force-mismatch", words, "look at how the labels were made", level, figures))
        return None
    if best.clean:
        return best
    ties = [item for item in ranked[1:6] if item.cost < best.cost + TIE and not item.clean]
    found += _said(level, [best, *ties[:2]], figures)
    return best


def _ratio(numbers: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Elements with their parts."""
    elements, counts = np.unique(numbers, return_counts=True)
    return tuple(zip(elements.tolist(), np.round(counts / len(numbers), 3).tolist(), strict=True))


def _bond_scale(sample: LevelSample) -> float | None:
    structures = [frame.structure for frame in subsample([f for f in sample.frames() if "forces" in f.structure.labels], MEASURED)]
    heavy = 0
    kept: list[Structure] = []
    for s in structures:
        heavy += len(s)
        if heavy > 8000 and len(kept) >= 8:
            break
        if (s.atomic_numbers == 1).any():
            kept.append(s)
    return force_scale(stiffness(kept, [neighbors_of(s) for s in kept])) if kept else None


def _too_low(level: str | None, sample: LevelSample) -> list[Finding]:
    """Energies below those of all electrons, which are the lowest that a method can give in eV: whatever the sample, and without neighbours."""
    structures, energies, expected = _energies(sample)
    times = float(np.median(energies / expected)) if structures else 0.0
    if times < LOWEST:
        return []
    units = [name for name, (size, _) in ENERGY.items() if size < 1 and times * size < LOWEST]
    words = f"energies are {times:.3g} times those of all electrons, the lowest that there are: they are not in eV"
    hint = (
        f"import with --energy-unit {' or '.join(units)}, as the source of the file says" if units else "look at how the labels were made"
    )
    return [fault("energy-unit", words, hint, level, {"times_all_electrons": times})]


def _energies(sample: LevelSample) -> tuple[list[Structure], np.ndarray, np.ndarray]:
    """Structures with energies, these, and those of the free atoms with all electrons, eV."""
    structures = [frame.structure for frame in sample.frames() if "energy" in frame.structure.labels]
    energies = np.array([float(s.labels["energy"]) for s in structures])
    return structures, energies, np.array([atom_energy(s.atomic_numbers).sum() for s in structures])


def _absolute(sample: LevelSample) -> str | None:
    structures, energies, expected = _energies(sample)
    if not structures:
        return None
    heavy = max(int(s.atomic_numbers.max()) for s in structures) > 18
    return absolute_unit(energies, np.array([len(s) for s in structures]), expected, heavy)


def _figures(evidence: Evidence) -> dict[str, float | int | str]:
    figures: dict[str, float | int | str] = {}
    if evidence.slope.pairs:
        figures |= {"slope": evidence.slope.slope, "fit": evidence.slope.fit, "pairs": evidence.slope.pairs}
    if evidence.stiffness is not None:
        figures["bond_stiffness_over_expected"] = evidence.stiffness
    if evidence.absolute is not None:
        figures["absolute_energies_in"] = evidence.absolute
    return figures


def _said(level: str | None, found: list[UnitGuess], figures: dict[str, float | int | str]) -> list[Finding]:
    """Findings of the cheapest reading; of others as good, what they say of the same label, and what they say besides."""
    perhaps = "" if len(found) == 1 else "one of several readings that these labels do not tell apart: "
    out: dict[str, Finding] = {}

    def say(code: str, words: str, hint: str, **more: str) -> None:
        out[code] = fault(code, perhaps + words, hint, level, figures | more)

    if any(item.sign < 0 for item in found):
        say("forces-sign", "energies rise along the forces: they are gradients", "import with --forces-sign -1")
    if any(item.energy == PER_ATOM for item in found):
        say("energy-per-atom", "energies are per atom, not of the whole system", "multiply by the number of atoms")
    units = [item for item in found if item.energy not in ("eV", PER_ATOM)]
    if units:
        words = " or ".join(dict.fromkeys(item.energy for item in units))
        say("energy-unit", f"energies are in {words}", _import_as(units, found), unit=units[0].energy)
    units = [item for item in found if item.forces != "eV/Angstrom"]
    if units:
        words = " or ".join(dict.fromkeys(item.forces for item in units))
        say("forces-unit", f"forces are in {words}", _import_as(units, found, forces=True), unit=units[0].forces)
    return list(out.values())


def _import_as(units: list[UnitGuess], found: list[UnitGuess], forces: bool = False) -> str:
    """Return how to import: the unit of one label if one reading is left, else both units of each."""
    if len(found) == 1:
        return f"import with --forces-unit {units[0].forces}" if forces else f"import with --energy-unit {units[0].energy}"
    return "import with " + ", or ".join(
        " ".join(
            [f"--energy-unit {item.energy}"] * (item.energy not in ("eV", PER_ATOM))
            + [f"--forces-unit {item.forces}"] * (item.forces != "eV/Angstrom")
        )
        for item in units
    )


#: Levels of theory that are looked at; more under one name space are a sign of a broken import.
LEVELS = 256


class Inspector:
    """Collects structures one by one; `findings` checks what was collected.

    Memory is bounded for each level: `sampling.FRAMES` structures (`sampling.ATOMS` atoms) for the physics, and for copies and compositions light
    records of the first `passing.REMEMBERED` frames.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._samples: dict[str | None, LevelSample] = {}
        self._passing: dict[str | None, SampleStatistics] = {}
        self._left_out: set[str | None] = set()
        self._unused = 0  # frames of weight 0

    def add(self, structure: Structure, place: int | None = None) -> None:
        """Look at one structure; `place` is its number in the findings, by default one more than that of the structure before."""
        index, level = self.seen if place is None else place, structure.level
        self.seen = index + 1
        if float(structure.labels.get("weight", 1.0)) == 0.0:
            self._unused += 1
            return
        if level not in self._samples:
            if len(self._samples) >= LEVELS:
                self._left_out.add(level)
                return
            self._samples[level], self._passing[level] = LevelSample(), SampleStatistics()
        self._passing[level].add(index, structure)
        self._samples[level].add(index, structure)

    def findings(self) -> list[Finding]:
        """Return what is wrong with what was added, most certain first."""
        found: list[Finding] = []
        for level, sample in self._samples.items():
            passing = self._passing[level]
            labelled = (
                passing.with_energy
                or passing.with_forces
                or passing.with_stress
                or passing.with_multiplicity.count
                or passing.not_finite.count
            )
            found += check_level(level, sample, passing) if labelled else _check_geometry(level, sample)[0]
        if self._left_out:
            words = f"the stream has more than {LEVELS} levels of theory; {len(self._left_out)} were not looked at"
            found.append(Finding("not-sampled", "doubt", words, "give every level one name"))
        if self._unused:
            words = f"{self._unused} frames have the weight 0: they are not used, and were not looked at"
            found.append(Finding("not-sampled", "note", words, "give them another weight to have them checked"))
        return ordered(found)


def inspect(structures: Iterable[Structure]) -> list[Finding]:
    """Likely label errors of `structures`, each with its likely cause, from physics alone; empty if nothing is wrong.

    One pass, bounded memory (see `Inspector`). Structures are not changed. Frames of one trajectory should carry one `provenance.group`.
    """
    inspector = Inspector()
    for structure in structures:
        inspector.add(structure)
    return inspector.findings()
