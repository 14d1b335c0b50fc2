"""The work behind the commands on one structure: read, compute, print, and write record, plot and structures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase import Atoms
from mlipfm_interfaces.checkpoint import resolve
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.files import atomic_write, sha256
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.units import GPA
from rich.table import Table

from . import _structure_plots as plots
from .atoms_and_models import free_molecule, frozen, largest_force, open_calculator, read_atoms
from .calculator import MlipfmCalculator

if TYPE_CHECKING:
    from .harmonic_vibrations import Vibrations

Row = tuple[str, str]
_FREE = "the periodic images are beyond the reach of the model: treated as a free molecule, without them"


@dataclass
class Job:
    """What a command was asked, and the folder it writes to."""

    command: str
    file: Path
    model: str
    out: Path
    level: str | None
    charge: int | None
    multiplicity: int | None
    frame: int
    free_all: bool
    as_json: bool
    notes: list[str] = field(default_factory=list)
    identity: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a folder with the results of another command, file or model: they would be lost, or taken for those of this one."""
        for path in sorted(self.out.glob("*.json")) if self.out.is_dir() else []:
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
                before = (there["command"], str(Path(there["file"]).resolve()), there["model"])
            except (ValueError, KeyError, TypeError, OSError):
                continue  # no record of such a command
            if before != (self.command, str(self.file.resolve()), self.model):
                raise SimulationError(
                    f"the folder holds the results of `mlipfm {there['command']}` of {there['file']} by {there['model']}",
                    where=str(self.out),
                    hint="choose another folder by --out, or remove it",
                )

    def calculator(self) -> Any:
        """Return the ASE calculator of the model, and note which file and level it is."""
        found = open_calculator(self.model, level=self.level, charge=self.charge, multiplicity=self.multiplicity)
        if isinstance(found, MlipfmCalculator):
            self.identity = {"sha256": sha256(resolve(self.model)), "level": self.level or found.potential.implied_level}
        return found

    def read(self, file: Path | None = None, frame: int | None = None) -> Atoms:
        """Return one frame of the file without a calculator; what was taken and not used is printed and noted."""
        file, frame = file or self.file, self.frame if frame is None else frame
        ((atoms, words),) = read_atoms(file, charge=self.charge, multiplicity=self.multiplicity, frame=frame, free_all=self.free_all)
        self.say(f"{file}, frame {frame}: {atoms.get_chemical_formula()}; " + "; ".join(words or ["nothing but the geometry"]))
        return atoms

    def say(self, text: str) -> None:
        """Print a line on stderr and keep it for the record."""
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)

    def step(self, number: int, energy: float, force: float) -> None:
        """Progress of an optimisation."""
        print(f"step {number}: energy {energy:.6f} eV, largest force {force:.4f} eV/Å", file=sys.stderr, flush=True)

    def part(self, done: int, of: int, what: str) -> None:
        """Progress of a series of calculations."""
        print(f"{done} of {of}: {what}", file=sys.stderr, flush=True)

    def write(self, name: str, atoms: Atoms | Sequence[Atoms]) -> None:
        """Write structures as extended XYZ: energy, forces, constraints, charge and multiplicity with them."""
        self.out.mkdir(parents=True, exist_ok=True)
        frames = [atoms] if isinstance(atoms, Atoms) else atoms
        ase.io.write(self.out / name, [frozen(a) if a.calc is not None else a for a in frames], format="extxyz")

    def csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[float | str]]) -> None:
        """Write a table."""
        lines = [",".join(header), *(",".join(x if isinstance(x, str) else f"{x:.10g}" for x in row) for row in rows)]
        self.out.mkdir(parents=True, exist_ok=True)
        atomic_write(self.out / name, ("\n".join(lines) + "\n").encode())

    def finish(
        self, settings: Mapping[str, Any], units: Mapping[str, str], results: Mapping[str, Any], rows: Sequence[Row], figure: Any
    ) -> None:
        """Write record and plot, and print either the record or a table."""
        import importlib.metadata

        record = {
            "command": self.command,
            "file": str(self.file),
            "model": self.model,
            **({"model_file": self.identity} if self.identity else {}),
            "settings": {"level": self.level, "charge": self.charge, "multiplicity": self.multiplicity, "frame": self.frame, **settings},
            "units": dict(units),
            "results": dict(results),
            "notes": self.notes,
            "versions": {name: importlib.metadata.version(name) for name in ("mlipfm-md", "ase", "torch", "numpy")},
        }
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, default=_plain)
        atomic_write(self.out / f"{self.command}.json", (text + "\n").encode())
        plots.save(figure, self.out / f"{self.command}.png")
        if self.as_json:
            print(text)
            return
        table = Table("", "value", title=f"{self.command} of {self.file.name} by {self.model}")
        for name, value in rows:
            table.add_row(name, value)
        open_console().print(table)
        open_console().print(
            f"written to {self.out}: {', '.join(sorted(p.name for p in self.out.iterdir()))}", highlight=False, soft_wrap=True
        )


def run_relax(job: Job, settings: dict[str, Any]) -> None:
    """`mlipfm relax`; exits with 2, after the results are written, if the limit was not reached."""
    from .relaxation import open_axes, relax

    atoms = job.read()
    atoms.calc = job.calculator()
    if settings["cell"] != "fixed" and open_axes(atoms).sum() == 1:
        job.say(
            f"lattice vector {int(open_axes(atoms).argmax()) + 1} runs across vacuum and is kept: the cell relaxes in the plane of the slab"
        )
    found = relax(atoms, on_step=job.step, **settings)
    frames = list(found.trajectory)
    job.write("trajectory.extxyz", frames)
    job.write("relaxed.extxyz", found.atoms)
    if any("FixBondLength" in type(constraint).__name__ for constraint in atoms.constraints):
        job.say("relaxed.extxyz has no place for bonds of fixed length, and its forces are those without the constraints")
    moved = float(np.linalg.norm(found.atoms.positions - atoms.positions, axis=1).max())
    results = {
        "converged": found.converged, "steps": len(found.energies) - 1, "energy": found.energies[-1], "energy_start": found.energies[0],
        "largest_force": found.largest_forces[-1], "largest_displacement": moved, "cell": found.atoms.cell.array,
        "energies": found.energies, "largest_forces": found.largest_forces,
    }  # fmt: skip
    units = {"energy": "eV", "largest_force": "eV/Å", "largest_displacement": "Å", "cell": "Å", "pressure": "GPa", "fmax": "eV/Å"}
    rows = [
        ("converged", "yes" if found.converged else "no"), ("steps", str(len(found.energies) - 1)),
        ("energy / eV", f"{found.energies[-1]:.6f}"), ("change of energy / eV", f"{found.energies[-1] - found.energies[0]:.6f}"),
        ("largest force / eV/Å", f"{found.largest_forces[-1]:.5f}"), ("largest displacement / Å", f"{moved:.4f}"),
        *_cell_rows(found.atoms),
    ]  # fmt: skip
    if settings["cell"] != "fixed":
        stress = found.atoms.get_stress(voigt=False) / GPA
        volume, reached = float(found.atoms.get_volume()), -float(np.trace(stress)) / 3
        enthalpy = found.energies[-1] + settings["pressure"] * GPA * volume
        results |= {"enthalpy": enthalpy, "stress": stress, "volume": volume, "pressure_reached": reached}
        units |= {"enthalpy": "eV", "stress": "GPa, negative where compressed", "volume": "Å³", "pressure_reached": "GPa"}
        rows += [("enthalpy / eV", f"{enthalpy:.6f}"), ("pressure reached / GPa", f"{reached:.4f}")]
    job.finish(settings, units, results, rows, plots.relaxation(found))
    if not found.converged:
        raise SimulationError(
            f"not relaxed after {settings['steps']} steps: the largest force is {found.largest_forces[-1]:.3g} eV/Å",
            where=str(job.out),
            hint="run again from relaxed.extxyz, raise --steps, or try --optimizer FIRE",
        )


def run_phonons(job: Job, settings: dict[str, Any], as_is: bool) -> None:
    """`mlipfm phonons`."""
    from .crystal_phonons import phonons

    atoms = _relaxed_start(job, settings["fmax"], as_is)
    found = phonons(atoms, on_step=job.part, **settings)
    found.phonopy.save(str(_made(job.out) / "phonopy_params.yaml"), settings={"force_constants": True})
    rows_csv = [(a, b, d, *f) for (ds, fs), (a, b) in zip(found.paths, found.labels, strict=True) for d, f in zip(ds, fs, strict=True)]
    job.csv("bands.csv", ("from", "to", "distance", *(f"mode_{k + 1}" for k in range(len(rows_csv[0]) - 3))), rows_csv)
    job.csv("dos.csv", ("frequency_THz", "density"), zip(*found.dos, strict=True))
    top = found.highest
    results = {
        "supercell": found.supercell, "highest_frequency": top, "sum_rule_error": found.sum_rule, "stable": not found.imaginary,
        "imaginary": [{"q": q, "frequency": f} for q, f in found.imaginary], "thermal": found.thermal,
    }  # fmt: skip
    units = {"frequency": "THz", "sum_rule_error": "eV/Å²", "free_energy": "kJ/mol", "entropy": "J/K/mol", "heat_capacity": "J/K/mol",
             "q": "fractional, of the primitive cell", "displacement": "Å"}  # fmt: skip
    at_300 = next((row for row in found.thermal if row["temperatures"] == 300.0), None)
    undefined = "not defined: all modes are imaginary"
    words = (
        "none"
        if not found.imaginary
        else f"{len(found.imaginary)} wave vectors, lowest {found.imaginary[0][1]:.2f} THz at {found.imaginary[0][0]}"
    )
    rows = [
        ("supercell", " ".join(str(k) for k in found.supercell)), ("highest frequency / THz", _number(top, undefined, 3)), ("imaginary modes", words),
        ("error of the acoustic sum rule / eV/Å²", f"{found.sum_rule:.2g}"),
        ("heat capacity of the primitive cell at 300 K / J/K/mol", _number(None if at_300 is None else at_300["heat_capacity"], undefined, 3)),
        ("free energy at 300 K / kJ/mol", _number(None if at_300 is None else at_300["free_energy"], undefined, 3)),
    ]  # fmt: skip
    if found.imaginary and at_300:
        job.say("heat capacity and free energy are those of the other modes: imaginary ones have none")
    job.finish(settings, units, results, rows, plots.phonon_bands(found))


def run_vibrations(job: Job, settings: dict[str, Any], as_is: bool) -> None:
    """`mlipfm vibrations`."""
    from .harmonic_vibrations import multiplicity_of, thermochemistry, vibrations

    atoms = _relaxed_start(job, settings["fmax"], as_is)
    found = vibrations(atoms, fmax=max(settings["fmax"], 1e-6) * 1.001, on_step=job.part)
    conditions = {key: settings[key] for key in ("temperature", "pressure", "symmetry_number")}
    if atoms.pbc.any() and not atoms.constraints:
        job.say("treated as a crystal, slab or chain, which cannot turn: its periodic images are within the reach of the model")
    thermal = {} if found.imaginary else thermochemistry(atoms, found, **conditions)
    if thermal.get("model") == "ideal gas" and charge_and_multiplicity(atoms.info)[1] is None:
        name = {1: "singlet", 2: "doublet"}[multiplicity_of(atoms)]
        job.say(f"no multiplicity is given: the entropy is that of a {name}, the lowest for this number of electrons (--multiplicity)")
    if thermal.get("model") == "harmonic" and settings["symmetry_number"] != 1:
        job.say("the symmetry number has no effect: this is no free molecule, which could turn")
    if found.imaginary:
        job.say(f"no thermochemistry: imaginary modes {', '.join(f'{-f:.1f}i' for f in found.imaginary)} cm⁻¹; this is no minimum")
    job.csv("modes.csv", ("mode", "wavenumber_per_cm", "energy_meV"), [(k, f, f / 8.065544) for k, f in enumerate(found.frequencies)])
    with open(_made(job.out) / "modes.xyz", "w", encoding="utf-8") as file:
        _write_modes(file, found)
    results = {
        "frequencies": found.frequencies, "rigid": found.rigid, "imaginary": found.imaginary, "zero_point_energy": found.zero_point_energy,
        "thermochemistry": thermal, "energy": float(atoms.get_potential_energy()),
    }  # fmt: skip
    units = {"frequencies": "cm⁻¹, imaginary ones negative", "zero_point_energy": "eV", "energy": "eV", "entropy": "eV/K", "temperature": "K",
             "pressure": "Pa", "thermochemistry": "eV"}  # fmt: skip
    rows = [
        ("wavenumbers / cm⁻¹", ", ".join(f"{f:.1f}" if f >= 0 else f"{-f:.1f}i" for f in found.frequencies)),
        ("rigid motions / cm⁻¹", ", ".join(f"{f:.1f}" if f >= 0 else f"{-f:.1f}i" for f in found.rigid) or "none"),
        ("imaginary modes", str(len(found.imaginary))),
        ("zero-point energy / eV", f"{found.zero_point_energy:.5f}"),
        *(
            (f"{key.replace('_', ' ')} / {'eV/K' if key == 'entropy' else 'eV'}", f"{value:.6g}")
            for key, value in thermal.items()
            if key != "model"
        ),
    ]
    job.finish(settings, units, results, rows, plots.spectrum(found))


def run_eos(job: Job, settings: dict[str, Any]) -> None:
    """`mlipfm eos`."""
    from .crystal_elasticity import equation_of_state

    atoms = job.read()
    atoms.calc = job.calculator()
    found = equation_of_state(atoms, on_step=job.part, **settings)
    job.csv("eos.csv", ("volume_A3", "energy_eV"), zip(found.volumes, found.energies, strict=True))
    job.write("minimum.extxyz", found.atoms)
    n = len(atoms)
    results = {
        "volume": found.volume, "volume_per_atom": found.volume / n, "energy": found.energy, "energy_per_atom": found.energy / n,
        "bulk_modulus": found.bulk_modulus, "cell": found.atoms.cell.array, "volumes": found.volumes, "energies": found.energies,
    }  # fmt: skip
    units = {"volume": "Å³", "energy": "eV", "bulk_modulus": "GPa", "cell": "Å"}
    rows = [
        ("volume / Å³ per atom", f"{found.volume / n:.4f}"), ("energy / eV per atom", f"{found.energy / n:.6f}"),
        ("bulk modulus / GPa", f"{found.bulk_modulus:.2f}"), *_cell_rows(found.atoms),
    ]  # fmt: skip
    job.finish(settings, units, results, rows, plots.equation_of_state(found, n))


def run_elastic(job: Job, settings: dict[str, Any], as_is: bool) -> None:
    """`mlipfm elastic`."""
    from .crystal_elasticity import elastic_tensor

    atoms = _relaxed_start(job, settings["fmax"], as_is, cell="full")
    found = elastic_tensor(atoms, on_step=job.part, **settings)
    averages = found.averages() if found.stable else {}
    if not found.stable:
        job.say("the crystal is mechanically unstable: its elastic tensor has an eigenvalue that is not positive (Born)")
    job.write("relaxed.extxyz", atoms)
    eigenvalues = np.linalg.eigvalsh(found.tensor)
    results = {
        "tensor": found.tensor, "asymmetry": found.asymmetry, "space_group": found.space_group, "stable": found.stable,
        "eigenvalues": eigenvalues, "averages": averages, "stress": found.stress,
    }  # fmt: skip
    order = "GPa, order xx yy zz yz xz xy of the Cartesian axes of the file, engineering shear"
    units = {"tensor": order, "averages": "GPa (poisson: 1)", "stress": "GPa"}
    rows = [
        *((f"C{k + 1}j / GPa", "  ".join(f"{c:8.2f}" for c in row)) for k, row in enumerate(found.tensor)),
        ("axes", "Cartesian, of the file"), ("space group", found.space_group), ("numerical asymmetry / GPa", f"{found.asymmetry:.3f}"),
        ("mechanically stable (Born)", "yes" if found.stable else f"no: lowest eigenvalue {eigenvalues[0]:.2f} GPa"),
        *((key.replace("_", " ") + ("" if key == "poisson" else " / GPa"), f"{value:.3f}") for key, value in averages.items()),
    ]  # fmt: skip
    job.finish(settings, units, results, rows, plots.elastic(found))


def run_neb(job: Job, product: Path | None, settings: dict[str, Any], as_is: bool) -> None:
    """`mlipfm neb`; exits with 2, after the results are written, if the path did not converge."""
    from .reaction_paths import minimum_energy_path, share_constraints
    from .relaxation import relax

    ends = [job.read(job.file, 0), job.read(product or job.file, -1)]
    if len(ends[0]) == len(ends[1]) and (said := share_constraints(*ends)) is not None:
        job.say(said)
    calculator = job.calculator()
    for k in range(2):
        ends[k].calc = calculator
    free = [end for end in map(free_molecule, ends) if end is not None]
    if len(free) == 2:
        job.say(_FREE)
        ends = free
    for k, name in enumerate(("first", "last")):
        if not as_is and largest_force(ends[k]) > settings["fmax"]:
            job.say(f"the {name} end has forces of {largest_force(ends[k]):.3g} eV/Å: it is relaxed first (--as-is: not)")
            ends[k] = relax(ends[k], fmax=settings["fmax"] / 2, on_step=job.step).atoms
    found = minimum_energy_path(*ends, on_step=job.step, **settings)
    job.write("path.extxyz", found.images)
    (job.out / "saddle.extxyz").unlink(missing_ok=True)  # of an earlier run
    if found.saddle is None:
        job.say("the highest image is an end of the path: no saddle was found, and the path has no barrier to give")
    else:
        job.write("saddle.extxyz", found.images[found.saddle])
    for k in found.jumps:
        job.say(
            f"the geometry jumps from image {k} to {k + 1}, {found.distances[k + 1] - found.distances[k]:.2f} Å apart (median "
            f"{np.median(np.diff(found.distances)):.2f} Å): the path between them is not known; raise --images, and let an image --climb"
        )
    barrier = None if found.saddle is None else found.barrier
    reverse = None if barrier is None else barrier - found.reaction_energy
    job.csv("path.csv", ("distance_A", "energy_eV"), zip(found.distances, found.energies, strict=True))
    results = {
        "converged": found.converged, "barrier": barrier, "reverse_barrier": reverse,
        "reaction_energy": found.reaction_energy, "largest_force": found.largest_force, "saddle_image": found.saddle, "jumps": found.jumps,
        "distances": found.distances, "energies": found.energies,
    }  # fmt: skip
    units = {"barrier": "eV", "reaction_energy": "eV", "distances": "Å", "energies": "eV", "largest_force": "eV/Å"}
    rows = [
        ("converged", "yes" if found.converged else "no"), ("barrier / eV", _number(barrier, "not found")),
        ("reverse barrier / eV", _number(reverse, "not found")), ("reaction energy / eV", f"{found.reaction_energy:.4f}"),
        ("highest image", f"{int(found.energies.argmax())} of {len(found.images) - 1}"),
        ("largest force across the path / eV/Å", f"{found.largest_force:.4f}"),
    ]  # fmt: skip
    job.finish(settings, units, results, rows, plots.energy_profile(found))
    if found.saddle is None:
        hint = "raise --images; start from a structure between them: `mlipfm ts` takes a guess of the saddle"
        raise SimulationError("no saddle: the highest image of the path is an end", where=str(job.out), hint=hint)
    if not found.converged:
        raise SimulationError(
            f"the path did not converge in {settings['steps']} steps", where=str(job.out), hint="raise --steps or --images"
        )


def run_ts(job: Job, settings: dict[str, Any]) -> None:
    """`mlipfm ts`; exits with 2, after the results are written, if no transition state was found."""
    from .reaction_paths import saddle_point

    atoms = job.read()
    atoms.calc = job.calculator()
    energies: list[float] = []

    def step(number: int, energy: float, force: float) -> None:
        energies.append(energy)
        job.step(number, energy, force)

    start = atoms.positions.copy()
    print("second derivatives of the start, whose softest mode is followed", file=sys.stderr, flush=True)
    found = saddle_point(atoms, on_step=step, **settings)
    moved = float(np.linalg.norm(found.atoms.positions - start, axis=1).max())
    job.write("saddle.extxyz", found.atoms)
    if found.mode is not None:
        swing = [found.atoms.copy() for _ in range(16)]
        for k, frame in enumerate(swing):
            frame.positions += np.sin(2 * np.pi * k / 16) * found.mode
        job.write("mode.xyz", swing)
    results = {
        "converged": found.converged, "energy": found.energy, "largest_force": found.largest_force,
        "negative_eigenvalues": found.negative, "is_transition_state": found.converged and len(found.negative) == 1, "energies": energies,
        "largest_displacement": moved,
    }  # fmt: skip
    units = {"energy": "eV", "largest_force": "eV/Å", "negative_eigenvalues": "eV/Å²", "largest_displacement": "Å"}
    rows = [
        ("converged", "yes" if found.converged else "no"), ("energy / eV", f"{found.energy:.6f}"),
        ("largest force / eV/Å", f"{found.largest_force:.4f}"),
        ("negative eigenvalues / eV/Å²", ", ".join(f"{v:.3f}" for v in found.negative) or ("none: this is a minimum" if found.converged else "none")),
        ("largest displacement from the start / Å", f"{moved:.3f}"),
    ]  # fmt: skip
    job.finish(settings, units, results, rows, plots.energies(energies))
    if not results["is_transition_state"]:
        reason = (
            f"the largest force is {found.largest_force:.3g} eV/Å"
            if not found.converged
            else f"the Hessian has {len(found.negative)} negative eigenvalues"
        )
        raise SimulationError(f"no transition state: {reason}", where=str(job.out), hint="start nearer to it: `mlipfm neb` gives a guess")


def _relaxed_start(job: Job, fmax: float, as_is: bool, cell: str = "fixed") -> Atoms:
    """Return the frame, relaxed with a word where it has forces (or a moving cell has stress)."""
    from .relaxation import relax

    atoms = job.read()
    if cell != "fixed" and not atoms.pbc.all():
        kind = "a molecule" if not atoms.pbc.any() else "a slab or chain"
        raise SimulationError(
            f"`mlipfm {job.command}` needs a crystal that is periodic in three directions; this is {kind}", where=str(job.file)
        )
    atoms.calc = job.calculator()
    if job.command == "vibrations" and (free := free_molecule(atoms)) is not None:
        job.say(_FREE)
        atoms = free
    force = largest_force(atoms)
    if as_is or (force <= fmax and cell == "fixed"):
        return atoms
    job.say(
        f"the largest force of the file is {force:.3g} eV/Å: {'cell and positions are' if cell != 'fixed' else 'it is'} relaxed first (--as-is: not)"
    )
    found = relax(atoms, fmax=fmax, cell=cell, on_step=job.step)
    if not found.converged:
        raise SimulationError(
            f"could not be relaxed: the largest force is still {found.largest_forces[-1]:.3g} eV/Å",
            where=str(job.file),
            hint="mlipfm relax --steps",
        )
    job.write("relaxed.extxyz", found.atoms)
    return found.atoms


def _number(value: float | None, otherwise: str, digits: int = 4) -> str:
    return otherwise if value is None else f"{value:.{digits}f}"


def _cell_rows(atoms: Atoms) -> list[Row]:
    if not atoms.pbc.any():
        return []
    lengths = atoms.cell.cellpar()
    return [("cell / Å", " ".join(f"{x:.5f}" for x in lengths[:3])), ("angles / °", " ".join(f"{x:.3f}" for x in lengths[3:]))]


def _write_modes(file: Any, found: Vibrations) -> None:
    """All modes as XYZ with a vector on each atom, which Jmol and Avogadro show: in the order of modes.csv, then the rigid motions."""
    atoms, vectors = found.data.get_atoms(), found.data.get_modes(all_atoms=True)[found.order]
    kinds = (("mode", found.frequencies), ("rigid motion", found.rigid))
    names = [f"{kind} {k} f = {abs(f):.1f}{'i' if f < 0 else ''} cm^-1" for kind, values in kinds for k, f in enumerate(values)]
    for name, mode in zip(names, vectors, strict=True):
        file.write(f"{len(atoms)}\n{name}\n")
        for symbol, p, v in zip(atoms.get_chemical_symbols(), atoms.positions, mode, strict=True):
            file.write(f"{symbol:2s} " + " ".join(f"{x:12.6f}" for x in (*p, *v)) + "\n")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plain(value: Any) -> Any:
    """JSON of arrays and numbers of numpy."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
