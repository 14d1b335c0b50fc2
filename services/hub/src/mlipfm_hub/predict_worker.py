"""The process that evaluates one model: `python -m mlipfm_hub.predict_worker MODEL`. Requests come on stdin and answers go to stdout, many at once.

A message is a count, then for each part its length (8 bytes each, little-endian) and its bytes. Each part of a request is the JSON of one task, as it
came from whoever asked; the answer has one part for each: a status of three digits and JSON. Predictions of one message are computed as one batch.
The only module here that needs the packages which build models; ASE and RDKit are used where they are installed.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from mlipfm_interfaces.errors import MlipfmError

MAX_ATOMS = int(os.environ.get("MLIPFM_SERVE_ATOMS", "1000"))
MAX_STEPS = {"relax": 300, "dynamics": 500}
#: First byte of a task that came from the hub itself.
OWN = b"!"
_KEYS = {"numbers", "positions", "cell", "pbc", "charge", "multiplicity", "level", "outputs"}


class Model:
    """A potential with its compiled form, if it has one."""

    def __init__(self, path: str) -> None:
        from mlipfm_interfaces.checkpoint import load_model

        self.potential, self.manifest = load_model(path)
        self.compiled = self.potential.compiled() if self.potential.why_not_compiled() is None else None

    def about(self) -> dict[str, Any]:
        """What the model is and gives."""
        spec = self.manifest["spec"]
        engine = self.compiled.description if self.compiled else f"torch, {spec['dtype']}"
        kept = {key: spec[key] for key in ("elements", "levels", "outputs", "conditions")}
        return {
            "digest": self.manifest["digest"],
            "engine": engine,
            "atoms": MAX_ATOMS,
            "default_level": self.potential.default_level,
            **kept,
        }

    def predict(self, tasks: Sequence[Any]) -> list[tuple[int, Any]]:
        """Answers to tasks: all that can be read are computed together; if that fails, one by one, so that each has its own error."""
        answers: list[tuple[int, Any]] = [(500, None)] * len(tasks)
        read: list[tuple[int, Any, tuple[str, ...]]] = []
        for k, task in enumerate(tasks):
            try:
                read.append((k, *self._structure(task)))
            except (MlipfmError, ValueError, TypeError, OverflowError) as error:
                answers[k] = (422, _said(error))
        for outputs in {out for _, _, out in read}:
            chosen = [(k, structure) for k, structure, out in read if out == outputs]
            for k, answer in zip([k for k, _ in chosen], self._together([s for _, s in chosen], outputs), strict=True):
                answers[k] = answer
        return answers

    def _together(self, structures: list[Any], outputs: tuple[str, ...]) -> list[tuple[int, Any]]:
        try:
            return [(200, row) for row in self._computed(structures, outputs)]
        except (MlipfmError, ValueError) as error:
            if len(structures) == 1:
                return [(422, _said(error))]
            return [answer for structure in structures for answer in self._together([structure], outputs)]

    def _computed(self, structures: list[Any], outputs: tuple[str, ...]) -> list[dict[str, Any]]:
        remarks = [{"warnings": said} if (said := self._remarks(s)) else {} for s in structures]
        if self.compiled is None or not set(outputs) <= {"energy", "forces"}:
            from mlipfm_interfaces.potential import evaluate

            found = evaluate(self.potential, structures, outputs)
            rows = [{key: np.round(value, 10).tolist() for key, value in row.items()} for row in found]
        else:
            rows = self._by_kernel(structures, outputs)
        return [row | said for row, said in zip(rows, remarks, strict=True)]

    def _remarks(self, s: Any) -> list[str]:
        """What is to be known of a prediction: states that training did not show, charges that change nothing, energies that it left open."""
        from mlipfm_interfaces.potential import ignored_conditions
        from mlipfm_interfaces.reference_rank import energy_remarks
        from mlipfm_interfaces.trained_states import state_remarks

        own = ignored_conditions(s, self.potential.spec.conditions)
        return [*state_remarks(self.potential, s), *own, *energy_remarks(self.potential, s.level, s.atomic_numbers)]

    def _by_kernel(self, structures: list[Any], outputs: tuple[str, ...]) -> list[dict[str, Any]]:
        assert self.compiled is not None
        self.potential.check_outputs(outputs)
        found = self.compiled.systems(structures, skin=0.0).compute(np.concatenate([s.positions for s in structures]))
        ends = np.cumsum([len(s.atomic_numbers) for s in structures])
        energies, forces = found.energy.tolist(), np.round(found.forces, 10).tolist()
        rows = []
        for k, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows.append({"energy": energies[k], "forces": forces[start:end]} if "forces" in outputs else {"energy": energies[k]})
        return rows

    def _structure(self, task: Any) -> tuple[Any, tuple[str, ...]]:
        from mlipfm_interfaces.structure import Structure

        if not isinstance(task, dict) or not {"numbers", "positions"} <= task.keys() or task.keys() - _KEYS:
            raise ValueError(f"a structure has numbers and positions, and may have {', '.join(sorted(_KEYS - {'numbers', 'positions'}))}")
        numbers, positions, cell, pbc = task["numbers"], task["positions"], task.get("cell"), task.get("pbc")
        if not isinstance(numbers, list) or not 1 <= len(numbers) <= MAX_ATOMS:
            raise ValueError(f"a structure here has 1 to {MAX_ATOMS} atoms")
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError("`numbers` are atomic numbers")
        if not _is_matrix(positions) or not (cell is None or _is_matrix(cell)):
            raise ValueError("`positions` and `cell` are lists of three numbers each")
        if not (pbc is None or (isinstance(pbc, list) and [type(axis) for axis in pbc] == [bool] * 3)):
            raise ValueError("`pbc` is three times true or false")
        level = task.get("level")
        if not (level is None or isinstance(level, str)):
            raise ValueError("`level` is the name of a level of theory")
        level = level or self.potential.default_level
        structure = Structure(
            np.asarray(numbers),
            np.asarray(positions, dtype=np.float64),
            cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64),
            pbc=np.zeros(3, dtype=bool) if pbc is None else np.asarray(pbc),
            total_charge=_whole(task.get("charge"), "charge", -100),
            spin_multiplicity=_whole(task.get("multiplicity"), "multiplicity", 1),
            level=level or (self.potential.spec.levels[0] if len(self.potential.spec.levels) == 1 else None),
        )
        outputs = task.get("outputs", ["energy", "forces"])
        if not isinstance(outputs, list) or not outputs or not all(isinstance(key, str) for key in outputs):
            raise ValueError("`outputs` is a list of quantities")
        return structure, tuple(dict.fromkeys(outputs))

    def move(self, task: dict[str, Any]) -> dict[str, Any]:
        """Read a structure from text, and predict, relax or move it; a trajectory for the picture."""
        from mlipfm_md.calculator import MlipfmCalculator

        charge = _whole(task.get("charge"), "charge", -100)
        multiplicity = _whole(task.get("multiplicity"), "multiplicity", 1)
        atoms = atoms_from_text(str(task["text"]), str(task["format"]), multiplicity)
        if len(atoms) > min(MAX_ATOMS, 200):
            raise ValueError(f"this page computes up to {min(MAX_ATOMS, 200)} atoms, these are {len(atoms)}")
        _refuse_other_state(atoms, charge, multiplicity)
        atoms.calc = MlipfmCalculator(self.potential, level=task.get("level") or None, charge=charge, multiplicity=multiplicity)
        doing, steps = task["do"], min(int(task.get("steps", 100)), MAX_STEPS.get(task["do"], 1))
        frames, energies, said = [atoms.get_positions().tolist()], [float(atoms.get_potential_energy())], ""
        if doing == "relax":
            said = _relax(atoms, steps, frames, energies)
        elif doing == "dynamics":
            said = _dynamics(atoms, steps, float(task.get("kelvin", 300)), frames, energies)
        said = "; ".join(text for text in (said, *self._remarks(atoms.calc.to_structure(atoms))) if text)
        found = {
            "numbers": atoms.numbers.tolist(),
            "symbols": atoms.get_chemical_symbols(),
            "frames": frames,
            "energies": energies,
            "said": said,
        }
        return found | {"forces": atoms.get_forces().tolist(), "cell": atoms.cell.array.tolist(), "pbc": atoms.pbc.tolist()}


def _refuse_other_state(atoms: Any, charge: int | None, multiplicity: int | None) -> None:
    """The structure and the form may not say two things: what the structure says would be taken without a word."""
    from mlipfm_interfaces.state_keys import charge_and_multiplicity

    there = dict(zip(("charge", "multiplicity"), charge_and_multiplicity(atoms.info), strict=True))
    for name, given in (("charge", charge), ("multiplicity", multiplicity)):
        if given is not None and there[name] is not None and given != there[name]:
            raise ValueError(f"the structure has {name} {there[name]}, and the form says {given}: empty one of them")


def _is_matrix(rows: Any) -> bool:
    """Whether this is a list of lists of three numbers; true and false are none."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 3 for row in rows):
        return False
    return all(type(x) is float or type(x) is int for row in rows for x in row)


def _whole(value: Any, name: str, least: int) -> int | None:
    """A whole number from `least` to 100, as JSON writes it (2 and 2.0 are the same), or None."""
    if value is None:
        return None
    if type(value) not in (int, float) or value != int(value) or not least <= value <= 100:
        raise ValueError(f"`{name}` is a whole number from {least} to 100")
    return int(value)


def atoms_from_text(text: str, kind: str, multiplicity: int | None = None) -> Any:
    """ASE's Atoms from SMILES, extended XYZ or CIF. A closed-shell SMILES is a singlet unless `multiplicity` is given. ValueError for text that is
    none."""
    import io

    if kind == "smiles":
        return _from_smiles(text.strip(), multiplicity)
    if kind not in ("extxyz", "cif"):
        raise ValueError("a structure is given as smiles, extxyz or cif")
    from ase.io import read

    lines = text.strip().splitlines()
    if kind == "extxyz" and lines and lines[0].strip().isdecimal() and int(lines[0]) > len(lines) - 2:
        raise ValueError(f"this extxyz says {lines[0].strip()[:20]} atoms and has {max(0, len(lines) - 2)} lines of them")
    try:
        found = read(io.StringIO(text.strip() + "\n"), format=kind, index=slice(0, 2))
    except Exception as error:
        raise ValueError(f"this is no {kind} that can be read: {str(error)[:150] or 'it holds no structure'}") from None
    if len(found) != 1:
        raise ValueError(f"this {kind} holds {'no structure' if not found else 'several structures'}: give one")
    return found[0]


def _from_smiles(text: str, multiplicity: int | None) -> Any:
    from ase import Atoms
    from rdkit import Chem, RDLogger
    from rdkit.Chem import AllChem

    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(text) if len(text) <= 500 else None
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise ValueError("this is no SMILES of a molecule")
    if "." in text or any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise ValueError("give the SMILES of one molecule, without '.' and '*'")
    molecule = Chem.AddHs(molecule)
    if molecule.GetNumAtoms() > 200:
        raise ValueError("a molecule here has up to 200 atoms")
    if AllChem.EmbedMolecule(molecule, randomSeed=1, maxAttempts=20) != 0:
        raise ValueError("RDKit finds no geometry for this molecule")
    AllChem.MMFFOptimizeMolecule(molecule)
    charge = Chem.GetFormalCharge(molecule)
    info = {"charge": charge} | ({} if multiplicity or sum(a.GetNumRadicalElectrons() for a in molecule.GetAtoms()) else {"spin": 1})
    return Atoms([a.GetSymbol() for a in molecule.GetAtoms()], molecule.GetConformer().GetPositions(), info=info)


def _relax(atoms: Any, steps: int, frames: list[Any], energies: list[float]) -> str:
    from ase.optimize import BFGS

    optimizer: Any = BFGS(atoms, logfile=None)
    optimizer.attach(lambda: _record(atoms, frames, energies))
    done = optimizer.run(fmax=0.02, steps=steps)
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    return f"{'relaxed' if done else 'not relaxed yet'} after {optimizer.nsteps} steps of BFGS: largest force {largest:.3f} eV/Å"


def _dynamics(atoms: Any, steps: int, kelvin: float, frames: list[Any], energies: list[float]) -> str:
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    if not 0 < kelvin <= 3000:
        raise ValueError("the temperature is between 0 and 3000 K")
    rng = np.random.default_rng(1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics: Any = Langevin(atoms, 0.5 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, rng=rng)
    dynamics.attach(lambda: _record(atoms, frames, energies), interval=5)
    dynamics.run(steps)
    return f"{steps} steps of 0.5 fs, Langevin at {kelvin:g} K; now {atoms.get_temperature():.0f} K"


def _record(atoms: Any, frames: list[Any], energies: list[float]) -> None:
    """Append positions and energy."""
    frames.append(atoms.get_positions().tolist())
    energies.append(float(atoms.get_potential_energy()))


def _said(error: Exception) -> dict[str, str]:
    if isinstance(error, MlipfmError):
        hint = f"; {error.hint}" if error.hint else ""
        return {"error_code": error.code, "message": f"{error.where + ': ' if error.where else ''}{error.what}{hint}"[:500]}
    return {"error_code": "not-a-task", "message": str(error)[:500]}


def answers_to(model: Model, parts: list[bytes]) -> list[bytes]:
    """One answer for each part; those that begin with `!` are tasks of the hub's own pages."""
    tasks: list[Any] = []
    found: dict[int, tuple[int, Any]] = {}
    for k, part in enumerate(parts):
        try:
            tasks.append(json.loads(part.removeprefix(OWN)))
        except (ValueError, RecursionError):
            tasks.append(None)
            found[k] = (400, {"error_code": "not-json", "message": "the body is no JSON"})
    plain = [k for k, part in enumerate(parts) if k not in found and not part.startswith(OWN)]
    found |= dict(zip(plain, model.predict([tasks[k] for k in plain]), strict=True))
    for k, task in enumerate(tasks):
        if k not in found:
            try:
                found[k] = (200, model.move(task))
            except (MlipfmError, ValueError, TypeError, KeyError) as error:
                found[k] = (422, _said(error))
            except ModuleNotFoundError as error:
                found[k] = (
                    501,
                    {"error_code": "not-installed", "message": f"{error.name} is not installed where the hub evaluates models"},
                )
    return [b"%03d" % found[k][0] + json.dumps(found[k][1]).encode() for k in range(len(parts))]


def read_message(stream: BinaryIO) -> list[bytes] | None:
    """Parts of the next message; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return [stream.read(struct.unpack("<q", stream.read(8))[0]) for _ in range(struct.unpack("<q", head)[0])]


def as_message(parts: Sequence[bytes]) -> bytes:
    """The bytes of a message."""
    return b"".join([struct.pack("<q", len(parts)), *(piece for part in parts for piece in (struct.pack("<q", len(part)), part))])


def main() -> None:
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the log
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    model = Model(sys.argv[1])
    stdout.write(as_message([b"200" + json.dumps(model.about()).encode()]))
    stdout.flush()
    while (parts := read_message(stdin)) is not None:
        stdout.write(as_message(answers_to(model, parts)))
        stdout.flush()


if __name__ == "__main__":
    main()
