"""ASE calculator for every mlipfm potential.

Charge and multiplicity are read from `atoms.info` under all usual names (see `state_keys`); results are cached on everything that was used,
`info` included, and the user's Atoms are never written to. It is a plain class with ASE's mixin instead of `ase.calculators.calculator.Calculator`:
for small molecules that base class costs more time than the model (copies and comparisons).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress
from mlipfm_interfaces.batch import SKIN, Batch, MovingBatch
from mlipfm_interfaces.compiled import CompiledPotential, CompiledSystems
from mlipfm_interfaces.errors import PropertyNotAvailableError, RecipeError, RefusedFileError
from mlipfm_interfaces.neighbors import Pairs
from mlipfm_interfaces.pieces import MOST_ATOMS, predict_in_pieces
from mlipfm_interfaces.plugins import DEFAULT_MODEL
from mlipfm_interfaces.potential import Potential, Prediction, check_elements, device_of, warn_if_implausible
from mlipfm_interfaces.reference_rank import warn_if_undetermined
from mlipfm_interfaces.state_keys import charge_and_multiplicity
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.trained_states import check_states
from mlipfm_interfaces.uncertainty import Uncertainty

from .memory import keep_freed_memory

__all__ = ["MlipfmCalculator"]

#: ASE's names of the outputs of a model, and which of these belong to the system and not to its atoms.
_ASE_NAMES = {"energy": "energy", "free_energy": "energy", "forces": "forces", "stress": "stress", "energies": "atomic_energies",
              "dipole": "dipole", "charges": "charges", "magmoms": "magnetic_moments"}  # fmt: skip
_OF_THE_SYSTEM = ("energy", "stress", "dipole")
#: Atoms; no array of fewer is as large as those that the C library gives back at once (32 MiB).
_SMALL = 100
#: What compiled code computes.
_COMPILED = frozenset(("energy", "forces", "stress", "atomic_energies"))

#: What a prediction depends on, in the order of `MlipfmCalculator._state`, and which of these make it another system.
_STATE = ("numbers", "positions", "cell", "pbc", "info", "parameters")
_OTHER_SYSTEM = frozenset(_STATE) - {"positions", "cell"}


@dataclass(frozen=True)
class _Answer:
    """Results (never changed once made), what they are the results of, and what the next calculation can use again.

    Attributes:
        state: see `_STATE`. used: numbers, positions, cell and pbc. info: of the Atoms.
        moving: gives the batch of the same system at other positions and cells. kernel: a compiled potential
            and the same system in it; one of the two is there.
        outputs: that were computed; the next calculation gives them again, so that a stress that is asked after the forces in each step of a
            simulation costs no second calculation.
    """

    state: tuple[Any, ...]
    used: tuple[np.ndarray, ...]
    info: dict[str, Any]
    results: dict[str, Any]
    moving: MovingBatch | None
    outputs: frozenset[str]
    kernel: tuple[CompiledPotential, CompiledSystems] | None = None


class MlipfmCalculator(GetPropertiesMixin):
    """Energy, forces and stress of Atoms from a potential.

    Args:
        model: a Potential, the path or address of a model checkpoint, or the name of a released model; by default the one that comes with
            mlipfm-models, for molecules.
        level: level of theory to predict; needed if the model has several and no default.
        charge, multiplicity: used where `atoms.info` gives none.
        uncertainty: what `mlipfm uncertainty fit` wrote for this model, opened or as a path. Without it, the file `NAME.uncertainty.safetensors`
            beside a checkpoint `NAME.safetensors` is taken, if there is one.
        skin: Å, see `MovingBatch`; the results do not depend on it.
        engine: `kernel` computes with compiled code, `torch` with the model itself; `auto` with the kernel where the model has one and it gives what
            is asked. threads: of the kernel.
        strict: refuse structures that look like a mistake (atoms pushed into each other or all alone, a charge that the model does not support)
            instead of warning.

    Results: `energy` and `free_energy` eV, `forces` eV/Å, `stress` eV/Å³ in Voigt order xx, yy, zz, yz, xz, xy (ASE's sign), and `energies`
    (per atom), `dipole`, `charges`, `magmoms` where the model has them; with an uncertainty `energy_uncertainty` (eV, of the whole system) and
    `forces_uncertainty` (eV/Å, of every component), standard deviations. `get_hessian` gives the second derivatives.
    """

    name = "mlipfm"

    def __init__(
        self,
        model: Potential | str | Path = DEFAULT_MODEL,
        *,
        level: str | None = None,
        charge: int | None = None,
        multiplicity: int | None = None,
        strict: bool = False,
        uncertainty: Uncertainty | str | Path | None = None,
        skin: float = SKIN,
        engine: Literal["auto", "kernel", "torch"] = "auto",
        threads: int = 1,
    ) -> None:
        model, self.uncertainty = _opened(model, uncertainty)
        self.potential, self.skin = model.eval(), skin
        self.level, self.charge, self.multiplicity, self.strict = level, charge, multiplicity, strict
        self.implemented_properties = [ase for ase, key in _ASE_NAMES.items() if key in model.spec.outputs]
        if self.uncertainty is not None:
            self.implemented_properties += [f"{key}_uncertainty" for key in self.uncertainty.quantities]
        self.engine, self.threads = engine, threads
        if engine not in ("auto", "kernel", "torch"):
            raise RecipeError(f"there is no engine {engine!r}", where="engine", hint="auto, kernel or torch")
        if not 0 <= skin <= 10:
            raise RecipeError(f"the skin of the neighbour list must be 0 to 10 Angstrom, got {skin}", where="skin", hint=f"{SKIN} is usual")
        if not 1 <= threads <= 1024:
            raise RecipeError(f"threads must be 1 to 1024, got {threads}", where="threads")
        if engine == "torch" and threads != 1:
            raise RecipeError(
                "threads are those of the compiled kernel", where="threads", hint="with the engine torch: torch.set_num_threads(N)"
            )
        if engine == "kernel" and (reason := self.potential.why_not_compiled()) is not None:
            raise RecipeError(f"this model has no compiled kernel: {reason}", where="engine", hint="use the engine auto or torch")
        self._answer: _Answer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last answer out of copies, which compute anew."""
        return {**self.__dict__, "_answer": None}

    @property
    def results(self) -> dict[str, Any]:
        """Of the last calculation, under ASE's names."""
        return {} if self._answer is None else self._answer.results

    @property
    def atoms(self) -> Atoms | None:
        """The Atoms of the last calculation: geometry and info."""
        if self._answer is None:
            return None
        numbers, positions, cell, pbc = self._answer.used
        return Atoms(numbers, positions, cell=cell, pbc=pbc, info=self._answer.info)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return one property of `atoms`, computed if something it depends on has changed. Threads may share a calculator.

        Raises:
            PropertyNotImplementedError: as ASE expects, for a property this model or this system does not have.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"{name} is not predicted by this model; it predicts {', '.join(self.implemented_properties)}"
            )
        answer = self._answer  # read once: another thread may replace it, but never changes it
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise PropertyNotImplementedError("no atoms were given")
        state = self._state(atoms)
        changed = _STATE if answer is None else _differences(answer.state, state)
        if answer is None or changed or name not in answer.results:
            if not allow_calculation:
                return None
            answer = self._answer = self._calculated(atoms, [name], answer, changed, state)
        value = answer.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculation_required(self, atoms: Atoms, properties: list[str], system_changes: list[str] | None = None) -> bool:
        """Say whether `atoms`, or the charge or multiplicity in its info, differ from those of the cached results."""
        return bool(self.check_state(atoms)) or any(name not in self.results for name in properties)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Return the names of what changed since the last calculation; every value the model reads is compared exactly, `info` included.

        `tol` is accepted because ASE passes it, and not used.
        """
        return list(_STATE) if self._answer is None else _differences(self._answer.state, self._state(atoms))

    def calculate(self, atoms: Atoms, properties: list[str] | None = None, system_changes: list[str] | None = None) -> None:
        """Compute what is asked and what was asked of the same system before, with energy and forces always."""
        self._answer = self._calculated(atoms, properties or [], self._answer, self.check_state(atoms), self._state(atoms))

    def _calculated(
        self, atoms: Atoms, properties: list[str], before: _Answer | None, changed: Sequence[str], state: tuple[Any, ...]
    ) -> _Answer:
        same = None if before is None or _OTHER_SYSTEM.intersection(changed) else before
        if same is not None and same.moving is not None and same.moving.device != device_of(self.potential):
            same = None
        outputs = self._outputs(atoms, properties, same)
        compiled = self.potential.compiled() if self.engine != "torch" and not self.potential.training and outputs <= _COMPILED else None
        asked = {name for name in properties if name.endswith("_uncertainty")}
        if compiled is not None and asked == {"energy_uncertainty"} and hasattr(self.uncertainty, "energy_sigma"):
            return self._by_kernel(atoms, state, compiled, outputs, None if same is None else same.kernel, energy_sigma=True)
        uncertain = self._uncertain(atoms) if asked else {}
        if compiled is not None:
            answer = self._by_kernel(atoms, state, compiled, outputs, None if same is None else same.kernel)
            return replace(answer, results=answer.results | uncertain) if uncertain else answer
        moving = self._new_system(self.to_structure(atoms)) if same is None or same.moving is None else same.moving
        used = _copies(atoms)
        results = self._predicted(moving.at(used[1], used[2][None]), outputs)
        return _Answer(state, used, dict(atoms.info), results | uncertain, moving, outputs)

    def _by_kernel(
        self,
        atoms: Atoms,
        state: tuple[Any, ...],
        compiled: CompiledPotential,
        outputs: frozenset[str],
        before: tuple[CompiledPotential, CompiledSystems] | None,
        *,
        energy_sigma: bool = False,
    ) -> _Answer:
        """Return a prediction of compiled code, energies of the atoms included; with `energy_sigma` their uncertainty, from its last layer."""
        used = _copies(atoms)
        if before is None or before[0] is not compiled:
            structure = self.to_structure(atoms)
            systems = compiled.systems([structure], skin=self.skin, threads=self.threads)
            self._warn(structure)
        else:
            systems = before[1]
        found = systems.compute(used[1], used[2][None], strain="stress" in outputs, features=energy_sigma)
        energy = float(found.energy[0])
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": found.forces, "energies": found.atomic_energies}
        if found.strain_derivative is not None:
            results |= _named({"stress": found.strain_derivative[0] / abs(float(np.linalg.det(used[2])))})
        if found.features is not None:
            sigma: Any = self.uncertainty
            results["energy_uncertainty"] = float(sigma.energy_sigma(found.features.mean(axis=0)[None])[0]) * len(atoms)
        return _Answer(state, used, dict(atoms.info), results, None, outputs, (compiled, systems))

    def _warn(self, structure: Structure, pairs: Pairs | None = None) -> None:
        """The warnings that a simulation gives once."""
        spec = self.potential.spec
        cutoff = max(graph.cutoff for graph in spec.graphs)
        if self.potential.trained_states or self.potential.examples:
            check_states(self.potential, [structure], stacklevel=6)
        warn_if_implausible(structure, cutoff, spec.conditions, pairs=pairs, strict=self.strict, stacklevel=6)
        if self.potential.config.get("undetermined"):
            warn_if_undetermined(self.potential, [structure], stacklevel=6)

    def _outputs(self, atoms: Atoms, properties: list[str], same: _Answer | None) -> frozenset[str]:
        """Return what to compute: what is asked, and what was asked of the same system before."""
        if "stress" in properties and not atoms.pbc.all():
            raise PropertyNotImplementedError("the stress needs three periodic directions")
        named = {_ASE_NAMES[name] for name in properties if name in _ASE_NAMES}
        if same is not None and named <= same.outputs:
            return same.outputs
        wanted = {"energy", "forces"} | named | (same.outputs if same is not None else frozenset())
        return frozenset(wanted & set(self.potential.spec.outputs))

    def _new_system(self, structure: Structure) -> MovingBatch:
        """Return the batch of a system that is new to the calculator, with the warnings that a simulation gives once."""
        spec = self.potential.spec
        check_elements(spec, [structure])
        if len(structure) > _SMALL:
            keep_freed_memory()
        moving = MovingBatch([structure], spec.graphs, spec.torch_dtype, device_of(self.potential), skin=self.skin)
        widest = max(spec.graphs, key=lambda graph: graph.cutoff)
        self._warn(structure, moving.at(structure.positions).views[widest].pairs())
        return moving

    def _predicted(self, batch: Batch, outputs: frozenset[str]) -> dict[str, Any]:
        """Results under ASE's names."""
        try:
            prediction = self._evaluated(batch, sorted(outputs))
        except PropertyNotAvailableError as error:
            raise PropertyNotImplementedError(str(error)) from error
        row = {key: prediction[key].detach().to("cpu", torch.float64).numpy() for key in outputs}
        row |= {key: row[key][0] for key in _OF_THE_SYSTEM if key in row}
        return _named(row)

    def _evaluated(self, batch: Batch, outputs: list[str]) -> Prediction:
        """In evaluation mode; a model that is being trained goes back to its training."""
        training = self.potential.training
        model = self.potential.eval() if training else self.potential
        try:
            if len(batch.positions) > MOST_ATOMS:
                return predict_in_pieces(model, batch, outputs)
            whole: Prediction = model(batch, outputs)
            return whole
        finally:
            if training:
                model.train()

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return second derivatives of the energy, [3 atoms, 3 atoms] eV/Å², by automatic differentiation; constraints do not count. Not cached.

        Raises:
            PropertyNotImplementedError: direct forces, which are no derivative of an energy, and models without Hessian rows.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None or self.potential.spec.kind != "conservative" or "hessian_rows" not in self.potential.spec.outputs:
            raise PropertyNotImplementedError("the Hessian needs atoms and a model with conservative forces and Hessian rows")
        n = len(atoms)
        batch = self._new_system(self.to_structure(atoms)).at(atoms.positions)
        index = torch.stack([torch.arange(n).repeat_interleave(3), torch.arange(3).repeat(n)], dim=1)[:, None]
        batch = replace(batch, labels={"hessian_rows_index": index.to(batch.positions.device)})
        rows = self._evaluated(batch, ["hessian_rows"])["hessian_rows"].detach().to("cpu", torch.float64).numpy().reshape(3 * n, 3 * n)
        return (rows + rows.T) / 2

    def _uncertain(self, atoms: Atoms) -> dict[str, Any]:
        """Standard deviations under the names of the results."""
        assert self.uncertainty is not None
        (found,) = self.uncertainty.predict(self.potential, [self.to_structure(atoms)])
        energy = {"energy_uncertainty": found.energy_sigma * len(atoms)}
        return energy if found.force_sigma is None else energy | {"forces_uncertainty": np.array(found.force_sigma)}

    def to_structure(self, atoms: Atoms) -> Structure:
        """Return the Structure the model gets: charge and multiplicity from `atoms.info`, else those given to the calculator."""
        charge, multiplicity = charge_and_multiplicity(atoms.info) if atoms.info else (None, None)
        return Structure(
            atoms.numbers,
            atoms.positions,
            np.asarray(atoms.cell),
            atoms.pbc,
            self.charge if charge is None else charge,
            self.multiplicity if multiplicity is None else multiplicity,
            level=self.level,
        )

    def reset(self) -> None:
        """Forget cached results."""
        self._answer = None

    def todict(self) -> dict[str, Any]:
        """Return what ASE databases write beside the results."""
        return {"level": self.level, "charge": self.charge, "multiplicity": self.multiplicity}

    @property
    def parameters(self) -> dict[str, Any]:
        """ASE's name for the settings of a calculator."""
        return self.todict()

    def _state(self, atoms: Atoms) -> tuple[Any, ...]:
        """See `_STATE`; the bytes of small arrays are compared in a fraction of the time of the arrays."""
        info = charge_and_multiplicity(atoms.info) if atoms.info else (None, None)
        arrays = atoms.arrays
        return (
            arrays["numbers"].tobytes(),
            arrays["positions"].tobytes(),
            atoms.cell.array.tobytes(),
            atoms.pbc.tobytes(),
            info,
            (self.level, self.charge, self.multiplicity),
        )


def _differences(old: tuple[Any, ...], new: tuple[Any, ...]) -> list[str]:
    """Names of what differs between two states, see `_STATE`."""
    return [] if old == new else [name for name, a, b in zip(_STATE, old, new, strict=True) if a != b]


def _copies(atoms: Atoms) -> tuple[np.ndarray, ...]:
    """Numbers, positions, cell and pbc."""
    arrays = atoms.arrays
    return arrays["numbers"].copy(), arrays["positions"].copy(), atoms.cell.array.copy(), atoms.pbc.copy()


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Results under ASE's names."""
    results: dict[str, Any] = {name: row[key] if row[key].ndim else float(row[key]) for name, key in _ASE_NAMES.items() if key in row}
    return results | ({"stress": full_3x3_to_voigt_6_stress(row["stress"])} if "stress" in row else {})


def _opened(model: Potential | str | Path, uncertainty: Uncertainty | str | Path | None) -> tuple[Potential, Uncertainty | None]:
    """Return the model and its uncertainty, which is refused if it belongs to another model."""
    if isinstance(model, Potential):
        if isinstance(uncertainty, str | Path):
            raise RefusedFileError(
                "the file of an uncertainty belongs to a checkpoint",
                where=str(uncertainty),
                hint="give the model as a path, or open it first",
            )
        return model, uncertainty
    from mlipfm_interfaces.checkpoint import load_model, resolve
    from mlipfm_interfaces.plugins import load

    path = resolve(model)
    potential, manifest = load_model(path)
    beside = path.with_suffix(".uncertainty.safetensors")
    file = beside if uncertainty is None and beside.is_file() else uncertainty
    return potential, load("uncertainties", "llpr").load(file, str(manifest["digest"])) if isinstance(file, str | Path) else file
