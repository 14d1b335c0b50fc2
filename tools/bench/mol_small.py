"""`mol-small`: what a model trained by `mlipfm data generate molecules` is worth on molecules that no generated set contains.

`judges` makes the reference: geometries of the 50 molecules of `generation/judges.smi` from GFN2-xTB dynamics at 300 K, with GFN2-xTB labels, and,
relabelled, those of files that the user names. `measure` prints errors by size, of further stores by level, charge and kind,
runs dynamics at 300 K of every molecule with the model, and times a call at 30 atoms beside GFN2-xTB through ASE.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from mlipfm_data import Store, read_all
from mlipfm_data.conformers import conformers
from mlipfm_data.generation.molecules import held_out
from mlipfm_data.labeling import RECORD, label_all
from mlipfm_data.parallel import InThisProcess
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_md import Langevin, LangevinSampler, MlipfmCalculator, Settings, simulate_frames
from tblite.ase import TBLite

from bench.figures import Figure, figure

FRAMES = 4  # of each molecule
SIZES = ((1, 15), (16, 20), (21, 30), (31, 400))
LEVEL = "gfn2-xtb"


def judges(out: Path, files: Sequence[Path] = ()) -> list[Path]:
    """The stores of the reference in `out`, made where they are missing: `molecules/NN` of each molecule, and one of each file."""
    labeler, stores = TbliteLabeler(), list[Path]()
    for k, (name, smiles) in enumerate(held_out("judges").items()):
        store = out / "molecules" / f"{k:02d}"
        if not (store / RECORD).exists():
            sampler = LangevinSampler(labeler, temperature=300.0, friction=0.05, dt=1.0, equilibrate=100, stride=25)
            frames = sampler.sample(conformers(smiles, n=3, seed=1)[0], FRAMES, np.random.default_rng(k))
            label_all([_named(s, name) for s in frames], labeler, store, executor=InThisProcess(), progress=False)
            print(f"{name}: {len(frames)} frames", flush=True)
        stores.append(store)
    for file in files:
        store = out / file.stem
        if not (store / RECORD).exists():
            label_all([_neutral(s) for s in read_all(file)], labeler, store, executor=InThisProcess())
        stores.append(store)
    return stores


def _named(s: Structure, name: str) -> Structure:
    return s.replace(provenance=replace(s.provenance, source=name))


def _finished(folder: Path) -> list[Path]:
    """Stores of molecules whose labels are complete; what is being labelled has a name that begins with a dot."""
    return sorted(store for store in folder.iterdir() if not store.name.startswith("."))


def _neutral(s: Structure) -> Structure:
    """Without labels and level; a total charge that is not given is 0."""
    charge = 0 if s.total_charge is None else s.total_charge
    return s.replace(labels={}, label_std={}, level=None, total_charge=charge, spin_multiplicity=s.spin_multiplicity or 1)


def measure(model: str, out: Path, further: Sequence[Path] = (), *, picoseconds: float, threads: int = 1) -> Iterator[Figure]:
    """Figures of a model (path or name) on the reference in `out`, and on `further` stores: errors, stable dynamics, speed."""
    potential = load_potential(model)
    folders = [out / "molecules", *sorted(f for f in out.iterdir() if f.name != "molecules" and (f / RECORD).exists())]
    for folder in folders:
        stores = _finished(folder) if folder.name == "molecules" else [folder]
        structures = [s for store in stores for s in Store(store)]
        yield from _errors(
            potential, f"{len(stores)} molecules at 300 K" if folder.name == "molecules" else folder.name, structures, threads
        )
    for store in further:
        yield from _errors(potential, store.name, list(Store(store)), threads)
        yield from _errors_by_kind(potential, store.name, list(Store(store)), threads)
    yield from speed(model, threads)
    starts = [next(iter(Store(store))) for store in _finished(out / "molecules")]
    if picoseconds:
        yield _stable(potential, starts, picoseconds, threads)


def _errors(potential: Potential, what: str, structures: Sequence[Structure], threads: int) -> Iterator[Figure]:
    known = set(potential.spec.elements)
    structures = [s for s in structures if set(s.atomic_numbers.tolist()) <= known]
    forces, energies = _differences(potential, structures)
    sizes = np.array([len(s) for s in structures])
    for low, high in ((1, 400), *SIZES):
        chosen = [value for value, n in zip(forces, sizes, strict=True) if low <= n <= high]
        if chosen:
            label = "all" if high - low == 399 else f"{low} to {high} atoms"
            yield figure("mol-small", f"{what}, {label} ({len(chosen)})", "meV/Å force MAE", _weighted(chosen), threads)
    yield figure(
        "mol-small", f"{what}, total energies", "meV/atom MAE", [abs(e) / n for e, n in zip(energies, sizes, strict=True)], threads
    )
    yield figure("mol-small", f"{what}, energies within a molecule", "meV MAE", _within(structures, energies), threads)


def _errors_by_kind(potential: Potential, what: str, structures: Sequence[Structure], threads: int) -> Iterator[Figure]:
    """Force errors by level, by charge and multiplicity, and by the kind of geometry."""
    forces, _ = _differences(potential, structures)
    groups: dict[str, list[float]] = {}
    for s, error in zip(structures, forces, strict=True):
        state = f"charge {s.total_charge:+d}, multiplicity {s.spin_multiplicity}"
        for name in (str(s.level), state, str(s.provenance.sampling).split("-")[0]):
            groups.setdefault(name, []).append(error)
    for name, errors in sorted(groups.items()):
        yield figure("mol-small", f"{what}, {name} ({len(errors)})", "meV/Å force MAE", _weighted(errors), threads)


def _differences(potential: Potential, structures: Sequence[Structure]) -> tuple[list[float], list[float]]:
    """Mean absolute error of the forces of each structure, meV/Å, and error of its energy, meV, at its own level."""
    forces, energies = list[float](), list[float]()
    for start in range(0, len(structures), 32):
        part = [s if s.level is not None else s.replace(level=LEVEL) for s in structures[start : start + 32]]
        for s, found in zip(part, evaluate(potential, part, ("energy", "forces")), strict=True):
            forces.append(1e3 * float(np.abs(found["forces"] - s.labels["forces"]).mean()))
            energies.append(1e3 * float(found["energy"] - s.labels["energy"]))
    return forces, energies


def _weighted(values: list[float]) -> list[float]:
    """The mean as the one value that is reported, in place of the median."""
    return [float(np.mean(values))]


def _within(structures: Sequence[Structure], errors: Sequence[float]) -> list[float]:
    """Error of energy differences: the mean error of each molecule is taken off."""
    groups: dict[str, list[float]] = {}
    for s, error in zip(structures, errors, strict=True):
        groups.setdefault(f"{s.formula}{s.provenance.group}", []).append(error)
    several = [np.array(g) for g in groups.values() if len(g) > 1]
    return [float(np.abs(np.concatenate([g - g.mean() for g in several])).mean())] if several else [0.0]


def _stable(potential: Potential, starts: Sequence[Structure], picoseconds: float, threads: int) -> Figure:
    """How many molecules keep all their bonds in Langevin dynamics at 300 K."""
    kept = 0
    for s in starts:
        settings = Settings(dt=1.0, steps=int(1000 * picoseconds), temperature=300.0, seed=1, every=1000)
        run, frames = simulate_frames(potential, s.replace(labels={}, label_std={}, level=LEVEL), Langevin(300.0, 0.01), settings)
        broken = run.status != "ok" or any(bonds_broken(s, positions) for _, positions in frames)
        kept += not broken
        print(f"{s.provenance.source}: {'bonds broke or the dynamics exploded' if broken else 'stable'}", flush=True)
    return figure(
        "mol-small", f"molecules stable in {picoseconds:g} ps of NVT at 300 K, of {len(starts)}", "molecules", [float(kept)], threads
    )


def bonds_broken(start: Structure, positions: np.ndarray) -> bool:
    """Whether a bond of `start` (below 1.25 times the sum of covalent radii) is longer than 1.6 times that sum, or a position is not finite."""
    i, j = np.triu_indices(len(start), 1)
    radii = COVALENT_RADII[start.atomic_numbers[i]] + COVALENT_RADII[start.atomic_numbers[j]]
    before, now = (np.linalg.norm(x[i] - x[j], axis=1) for x in (start.positions, positions))
    return not bool((now[before < 1.25 * radii] < 1.6 * radii[before < 1.25 * radii]).all())


def speed(model: str, threads: int, repeats: int = 40) -> Iterator[Figure]:
    """Energy and forces through ASE of DEET (31 atoms), beside GFN2-xTB: CPU time of moved atoms."""
    s = conformers(held_out("judges")["DEET"], n=1, seed=0)[0]
    calculators = (MlipfmCalculator(model, level=LEVEL, charge=0, multiplicity=1), TBLite(method="GFN2-xTB", verbosity=0))
    ours, theirs = (_milliseconds(calculator, s, repeats) for calculator in calculators)
    yield figure(
        "mol-small", f"energy and forces through ASE, {len(s)} atoms", "ms", ours, threads, "GFN2-xTB (tblite) through ASE", theirs
    )


def _milliseconds(calculator: object, s: Structure, repeats: int) -> list[float]:
    """CPU time of each call; atoms move by 0.01 Å before it."""
    rng, atoms = np.random.default_rng(0), Atoms(s.atomic_numbers, s.positions, calculator=calculator)
    atoms.get_forces()
    found = []
    for _ in range(repeats):
        atoms.positions = s.positions + rng.normal(0, 0.01, s.positions.shape)
        begin = time.process_time()
        atoms.get_potential_energy()
        atoms.get_forces()
        found.append(1e3 * (time.process_time() - begin))
    return found
