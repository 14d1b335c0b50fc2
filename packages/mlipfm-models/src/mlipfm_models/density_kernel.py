"""The compiled kernels of mlipfm-kernels under a potential with the backbone `density`: the same predictions, many times faster.

`compiled_density` makes a `CompiledDensity`, which the calculator and molecular dynamics use. `DensityKernelPotential` is a Potential that computes
with it, so that every rule for potentials can be asked of it. Forces equal those of the potential in float64 within 1e-8 of the largest (float64) and
1e-5 (float32).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.checkpoint import tensor_digest
from mlipfm_interfaces.compiled import Computed, Stopped, lost_shape
from mlipfm_interfaces.elements import COVALENT_RADII, N_ELEMENTS, symbol
from mlipfm_interfaces.errors import DensityError, InvalidStructureError, MlipfmWarning, OverlapError, PropertyNotAvailableError
from mlipfm_interfaces.files import atomic_write, cache_dir
from mlipfm_interfaces.neighbors import CROWD_RADIUS, MAX_DENSITY, MAX_NEIGHBORS, MIN_DISTANCE, UNIT_HINT
from mlipfm_interfaces.potential import Feature, ParameterRole, Potential, Prediction, check_elements
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray
from torch import nn

from .backbones._compiled_products import plain_torch
from .backbones.density import NEAREST, Density, electronic_states

if TYPE_CHECKING:
    from mlipfm_kernels import AtomTypes, DensityKernel, Systems, Trouble

    from .assembly import AssembledPotential

__all__ = ["CompiledDensity", "DensityKernelPotential", "Differences", "compiled_density", "differences", "why_not_compiled"]

Array = NDArray[np.float64]
Dtype = Literal["float32", "float64"]

#: What the kernels compute; anything else is asked of the potential itself.
OUTPUTS = frozenset(("energy", "forces", "stress", "atomic_energies"))
NAMES = {"v4": "AVX-512", "v3": "AVX2", "v2": "SSE4.2", "base": "the baseline"}
#: Places of xx, yy, zz, yz, xz, xy in a symmetric matrix, row by row.
FULL = [0, 5, 4, 5, 1, 3, 4, 3, 2]
#: A kernel in float32 may lose as much of its digits as the potential itself does in float32, times this.
ROUNDING = 3.0
#: Sets of atom types that a compiled potential keeps.
KEPT = 64


def why_not_compiled(potential: Potential) -> str | None:
    """Return why there is no compiled form of `potential`; None if there is one."""
    backbone = getattr(potential, "backbone", None)
    if not isinstance(backbone, Density):
        return f"the kernels compute the backbone density, not {potential.plugin}"
    if potential.spec.kind != "conservative":
        return "its forces are not the gradient of its energy"
    if "external_field" in potential.spec.conditions:
        return "an external field is not in the kernels"
    if next(potential.parameters()).device.type != "cpu":
        return "its weights are on a GPU"
    return kernels_missing()


@lru_cache(maxsize=1)
def kernels_missing() -> str | None:
    """Return why there are no kernels at all; None if they are installed and MLIPFM_INSTRUCTIONS is not `none`."""
    if os.environ.get("MLIPFM_INSTRUCTIONS") == "none":
        return "MLIPFM_INSTRUCTIONS=none asks for none"
    try:
        import mlipfm_kernels  # noqa: F401
    except ImportError as error:
        return f"the package mlipfm-kernels is not installed ({error})"
    return None


def compiled_density(potential: AssembledPotential, *, dtype: Dtype | None = None, instructions: str = "") -> CompiledDensity | None:
    """Return the compiled form of `potential`, or None; `why_not_compiled` says why.

    It is used only after its predictions for seven small systems were compared with those of the potential in float64, once for each set of weights,
    version and instruction set (a file in the cache folder remembers it).

    Args:
        dtype: in which it computes, by default that of the potential. instructions: an instruction set of `mlipfm_kernels.instruction_sets()`.

    Warns:
        MlipfmWarning: it disagrees with the potential, and is not used.
    """
    if why_not_compiled(potential) is not None:
        return None
    compiled = CompiledDensity(potential, dtype=dtype, instructions=instructions)
    mark = cache_dir() / "kernels" / f"{compiled.fingerprint()}.json"
    if not mark.exists():
        found = differences(compiled)
        if not found.agree:
            warnings.warn(f"the {compiled.description} is not used: {found}", MlipfmWarning, stacklevel=3)
            return None
        mark.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(mark, json.dumps(asdict(found)).encode())
    return compiled


@dataclass(frozen=True)
class Differences:
    """Between a kernel and its potential in float64.

    Attributes:
        energy: largest, eV per atom, as a part of the binding energy per atom where that is more than 1 eV: float32 has so many digits and no more.
        forces, stress: largest, as a part of the largest of the system, of forces at least of 1 eV/Å. dtype: of the kernel. systems: compared.
        energy_rounding, forces_rounding, stress_rounding: the same of the potential itself in float32, in plain torch; 0 in float64.
    """

    energy: float
    forces: float
    stress: float
    dtype: str
    systems: int
    energy_rounding: float = 0.0
    forces_rounding: float = 0.0
    stress_rounding: float = 0.0

    @property
    def agree(self) -> bool:
        """Whether they are those of rounding: forces within 1e-5 (float32) or 1e-8 (float64), energies within 2e-6 or 1e-8 eV/atom, or in float32
        within three times what the potential itself loses by rounding."""
        single = self.dtype == "float32"
        energy, forces = (2e-6, 1e-5) if single else (1e-8, 1e-8)
        return (
            self.energy < max(energy, ROUNDING * self.energy_rounding)
            and self.forces < max(forces, ROUNDING * self.forces_rounding)
            and self.stress < max(3 * forces, ROUNDING * self.stress_rounding)
        )

    def __str__(self) -> str:
        return f"energies differ by {self.energy:.1e} eV/atom, forces by {self.forces:.1e} and stresses by {self.stress:.1e} of the largest"


def differences(compiled: CompiledDensity) -> Differences:
    """Compare a kernel with its potential in float64 on an isolated atom, a pair, a far pair, a cluster, two small crystals and a slab, all
    in one batch."""
    systems = _trials(compiled.potential)
    exact = copy.deepcopy(compiled.potential).double().eval()
    batch = collate(systems, exact.spec.graphs, torch.float64)
    made = _plain(exact, systems)
    found = compiled.systems(systems).compute(batch.positions.numpy(), strain=True)
    assert found.strain_derivative is not None
    volumes = np.array([abs(np.linalg.det(s.cell)) if s.pbc.all() else np.inf for s in systems])
    stress = found.strain_derivative / volumes[:, None, None]
    with torch.no_grad():
        free = exact.references(batch.atomic_numbers, exact.level_index(batch)[batch.system])
        binding = (made["energy"] - batch.sum_per_system(free).numpy()) / batch.n_atoms.numpy()
    unit = batch.n_atoms.numpy() * np.maximum(np.abs(binding), 1.0)
    ends, closed = np.cumsum(batch.n_atoms.numpy())[:-1], np.isfinite(volumes)

    def largest(energy: Array, forces: Array, stress: Array) -> tuple[float, float, float]:
        pairs = zip(np.split(forces, ends), np.split(made["forces"], ends), strict=True)
        crystals = zip(stress[closed], made["stress"][closed], strict=True)
        return (
            float((np.abs(energy - made["energy"]) / unit).max()),
            # of at least 1 eV/Å: of a pair near its minimum float32 itself keeps 3e-5
            max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1.0)) for a, b in pairs),
            max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in crystals),
        )

    seen = largest(found.energy, found.forces, stress)
    rounding = (0.0, 0.0, 0.0)
    if compiled.dtype == "float32":
        single = _plain(copy.deepcopy(compiled.potential).float().eval(), systems)
        rounding = largest(single["energy"], single["forces"], single["stress"])
    return Differences(*seen, compiled.dtype, len(systems), *rounding)


def _plain(potential: AssembledPotential, systems: Sequence[Structure]) -> dict[str, Array]:
    """Return what the potential says of systems, in its dtype and in plain torch, as float64."""
    batch = replace(collate(systems, potential.spec.graphs, next(potential.parameters()).dtype), mask_undefined=True)
    with plain_torch():
        values = potential(batch, ("energy", "forces", "stress")).values
    return {key: value.detach().double().numpy() for key, value in values.items()}


def _trials(potential: Potential) -> list[Structure]:
    """Small systems of the model's elements, at its first level that knows them."""
    rng, spec = np.random.default_rng(0), potential.spec
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.3
    box, none, closed = np.eye(3) * 4.6, np.zeros((3, 3)), np.ones(3, dtype=bool)
    geometries = [
        (grid[:1], none, ~closed),
        (grid[:2] * 0.6, none, ~closed),
        (grid[:2] * 1000, none, ~closed),
        (grid, none, ~closed),
        (grid, box, closed),
        (grid[:2] * 0.7, np.array([[3.2, 0, 0], [1.1, 3.3, 0], [0.2, 1.0, 3.1]]), closed),
        (grid, box, np.array([True, True, False])),
    ]
    stated = potential.config.get("references", {}).get(spec.levels[0])
    known = [z for z in spec.elements if not stated or symbol(z) in stated]
    return [
        Structure(rng.choice(known, len(x)), x + rng.normal(0, 0.05, x.shape), cell, pbc, level=spec.levels[0])
        for x, cell, pbc in geometries
    ]


class CompiledDensity:
    """See `mlipfm_interfaces.compiled.CompiledPotential`. It keeps a copy of the weights as they are when it is made."""

    def __init__(self, potential: AssembledPotential, *, dtype: Dtype | None = None, instructions: str = "") -> None:
        from mlipfm_kernels import DensityShape

        self.potential = potential
        self.dtype = dtype or potential.spec.dtype
        self.wanted = instructions
        config: Any = potential.backbone.config
        self.shape = DensityShape(config.layers, config.degree, config.cutoff, config.mean_neighbors, potential.scale, NEAREST)
        state = {name: value.detach().double().cpu().numpy() for name, value in potential.state_dict().items()}
        self.parameters = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        self.parameters |= {f"head.inner.{part}": state[f"heads.energy.inner.{part}"] for part in ("weight", "bias")}
        self.readout = state["heads.energy.outer.weight"], state["heads.energy.outer.bias"]
        self.conditioning = copy.deepcopy(potential.conditioning).double()
        self._kept: dict[tuple[bytes, int], AtomTypes] = {}

    @property
    def description(self) -> str:
        """`density kernel, float32, AVX2`."""
        from mlipfm_kernels import instruction_sets

        used = self.wanted or instruction_sets()[0]
        return f"density kernel, {self.dtype}, {NAMES.get(used, used)}"

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits of the weights, the kernels and how they compute."""
        import mlipfm_kernels

        said = [tensor_digest(self.potential.state_dict()), self.potential.config, mlipfm_kernels.build_id(), self.description]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    def systems(self, structures: Sequence[Structure], *, skin: float = 0.5, threads: int = 1) -> DensitySystems:
        """Lay out systems; see `CompiledPotential.systems`."""
        check_elements(self.potential.spec, structures)
        return DensitySystems(self, collate(structures, (), torch.float64), skin, threads)

    def kernel(self, batch: Batch) -> tuple[DensityKernel, NDArray[np.int64]]:
        """Return the kernel for the atoms of `batch`, and the type [atoms] of each.

        A type is an element at a level in an electronic state, see `electronic_states`. Types of neutral closed shells are kept for the next
        batch that has the same ones.
        """
        from mlipfm_kernels import DensityKernel

        with torch.no_grad():
            level = self.potential.level_index(batch)
            self.potential.references.element_rows(batch.atomic_numbers)  # refuses elements that the model does not have
            states, own = electronic_states(batch, tuple(self.conditioning.electronic))
            of_system = states.numpy() * len(self.potential.spec.levels) + level.numpy()
            key = of_system[batch.system.numpy()] * (N_ELEMENTS + 1) + batch.atomic_numbers.numpy()
            present, where, types = np.unique(key, return_index=True, return_inverse=True)
            name = present.tobytes(), self.potential.references.energies._version
            found = self._kept.get(name)
            if found is None:
                found = self._atom_types(batch, level, where)
                if not own.any():
                    self._keep(name, found)
        kernel = DensityKernel(self.parameters, self.shape, found, dtype=self.dtype, instructions=self.wanted)
        return kernel, types.reshape(-1)

    def _atom_types(self, batch: Batch, level: torch.Tensor, where: NDArray[np.int64]) -> AtomTypes:
        """Return the types of the atoms at `where`, one of each."""
        from mlipfm_kernels import AtomTypes

        at, z = level[batch.system].numpy()[where], batch.atomic_numbers.numpy()[where]
        rows = self.potential.references.element_rows(batch.atomic_numbers)
        scalars = self.conditioning(rows, level, batch).numpy()[where]
        reference = self.potential.references(batch.atomic_numbers, level[batch.system]).numpy()[where]
        weight, bias = self.readout
        pick = at if self.potential.config["level_readout"] == "stacked" else np.zeros(len(at), dtype=int)
        repels = self.potential.short_range is not None
        distances = cast(Density, self.potential.backbone).trained_distances
        return AtomTypes(
            scalars=scalars,
            constant=reference + self.potential.scale * bias[pick],
            readout=weight[pick],
            repulsion=np.stack([z.astype(float), np.array(COVALENT_RADII)[z]], axis=1) if repels else None,
            shortest=distances.of_pairs(torch.from_numpy(z)).numpy() if distances.active else None,
        )

    def _keep(self, key: tuple[bytes, int], types: AtomTypes) -> None:
        while len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = types


class DensitySystems:
    """See `mlipfm_interfaces.compiled.CompiledSystems`."""

    def __init__(self, model: CompiledDensity, batch: Batch, skin: float, threads: int) -> None:
        from mlipfm_kernels import Systems, Trouble

        self._trouble, self._one_at_a_time = Trouble, threading.Lock()

        kernel, types = model.kernel(batch)
        self.first = np.concatenate([[0], np.cumsum(batch.n_atoms.numpy())])
        self._begins = self.first[:-1]
        self.numbers, self.cells = batch.atomic_numbers.numpy(), batch.cell.numpy().copy()
        self.instructions = kernel.instructions
        self._systems: Systems = Systems(kernel, self.first, types, self.cells, batch.pbc.numpy(), skin=skin, threads=threads)

    def compute(self, positions: Array, cells: Array | None = None, *, strain: bool = False, features: bool = False) -> Computed:
        """See `CompiledSystems.compute`."""
        with self._one_at_a_time:
            if cells is not None:
                self._systems.set_cells(cells)
            found = self._systems.compute(positions, virial=strain, features=features)
        if isinstance(found, self._trouble):
            self._refuse(found)
        atomic, forces, virial, last = found
        energy = np.add.reduceat(atomic, self._begins)
        derivative = None if virial is None else np.add.reduceat(virial, self._begins)[:, FULL].reshape(-1, 3, 3)
        return Computed(energy, forces, atomic, derivative, last)

    def restore(self, reference: Array, cells: Array) -> None:
        """See `CompiledSystems.restore`."""
        trouble = self._systems.restore(reference, cells)
        if trouble is not None:
            self._refuse(trouble)

    def advance(self, state: dict[str, NDArray[Any]], ensemble: dict[str, Any], step: int, until: int) -> tuple[int, Stopped | None]:
        """See `CompiledSystems.advance`."""
        reached, trouble = self._systems.advance(state, ensemble, step, until)
        return reached, None if trouble is None else self._stopped(trouble, reached + 1, ensemble)

    @property
    def reference(self) -> Array:
        """[N, 3] Å."""
        return self._systems.reference

    @property
    def reference_cells(self) -> Array:
        """[S, 3, 3] Å."""
        return self._systems.reference_cells

    @property
    def rebuilds(self) -> int:
        """How often the neighbours were collected."""
        return self._systems.builds

    def _stopped(self, trouble: Trouble, step: int, ensemble: dict[str, Any]) -> Stopped:
        if trouble.kind == "hot":
            limit = ensemble["hottest"]
            return Stopped(f"temperature {trouble.value:.0f} K passed {limit:.0f} K at step {step}", trouble.first)
        if trouble.kind in ("collapsed", "burst"):
            what = f"the cell of system {trouble.first} {trouble.kind} at step {step}: its volume is {trouble.value:.3g} times that of the start"
            return Stopped(what, trouble.first)
        if trouble.kind == "sheared":
            return Stopped(lost_shape(trouble.first, step, trouble.value), trouble.first)
        if trouble.kind == "not-finite":
            return Stopped(f"energy, forces or positions are not finite at step {step}")
        try:
            self._refuse(trouble)
        except InvalidStructureError as error:
            return Stopped(f"atoms met at step {step}: {error}")

    def _refuse(self, trouble: Trouble) -> NoReturn:
        """Raise the error that the neighbour list of a Potential raises for this geometry."""
        many = len(self.first) > 2
        system = int(np.searchsorted(self.first, trouble.first, side="right")) - 1
        where, start = f"system {system}, " if many else "", int(self.first[system])
        a, b = trouble.first - start, trouble.second - start
        if trouble.kind == "overlap":
            names = f"{symbol(int(self.numbers[trouble.first]))} and {symbol(int(self.numbers[trouble.second]))}"
            subject = "an atom and its periodic image" if a == b else names
            what = f"{subject} are {trouble.value:.3g} Angstrom apart, closer than {MIN_DISTANCE}"
            raise OverlapError(what, where=f"{where}atoms {a} and {b}", hint=UNIT_HINT)
        if trouble.kind == "crowd":
            raise DensityError(
                f"{trouble.second} atoms are within {CROWD_RADIUS} Angstrom of this one", where=f"{where}atom {a}", hint=UNIT_HINT
            )
        if trouble.kind == "crowded-cell":
            what = f"{trouble.value:.3g} atoms per Angstrom^3, more than {MAX_DENSITY:g}"
            raise DensityError(what, where=f"system {trouble.first}, cell" if many else "cell", hint=UNIT_HINT)
        if trouble.kind == "too-many":
            raise DensityError(f"more than {MAX_NEIGHBORS} neighbours per atom", where=f"{where}geometry", hint=UNIT_HINT)
        raise InvalidStructureError("a position is not finite", where=f"{where}atom {a}")


class DensityKernelPotential(Potential):
    """A `density` potential whose energies, forces and stress come from the kernel; all else (training, second derivatives, other heads, gradients by
    given leaves) is asked of the potential itself, whose modules it shares."""

    eager: AssembledPotential

    def __init__(self, potential: AssembledPotential, *, instructions: str = "", threads: int = 1) -> None:
        super().__init__()
        reason = why_not_compiled(potential)
        if reason is not None:
            raise PropertyNotAvailableError(f"this potential has no compiled form: {reason}")
        self.__dict__["eager"] = potential  # no module of this one: parameters keep their names
        for name, module in potential.named_children():
            self.add_module(name, module)
        self.plugin, self.config, self.spec, self.examples = potential.plugin, potential.config, potential.spec, potential.examples
        self.instructions, self.threads = instructions, threads
        self._made: tuple[tuple[int, ...], CompiledDensity] | None = None

    def forward(self, batch: Batch, outputs: Sequence[str], create_graph: bool = False) -> Prediction:
        """See `Potential.forward`."""
        self.check_outputs(outputs)
        leaves = batch.positions.requires_grad or batch.strain.requires_grad
        watched = any(
            module._forward_hooks or module._forward_pre_hooks for module in self.modules()
        )  # somebody wants to see modules called
        if self.training or create_graph or leaves or watched or not set(outputs) <= OUTPUTS:
            return self.eager(batch, outputs, create_graph)
        volume = batch.volume if "stress" in outputs else None
        systems = DensitySystems(self._compiled(), batch, 0.0, self.threads)
        found = systems.compute(batch.positions.detach().numpy(), strain=volume is not None, features=True)
        made = {"energy": found.energy, "forces": found.forces, "atomic_energies": found.atomic_energies}
        values = {key: torch.from_numpy(made[key]) for key in outputs if key in made}
        if volume is not None and found.strain_derivative is not None:
            values["stress"] = torch.from_numpy(found.strain_derivative) / volume[:, None, None]
        last = torch.from_numpy(found.features).to(self.spec.torch_dtype)
        return Prediction(values, self.spec.kind, {"last_layer": Feature(last)})

    def blocks(self) -> list[nn.Module]:
        """Return those of the potential itself."""
        return self.eager.blocks()

    def parameter_roles(self) -> dict[str, ParameterRole]:
        """Return those of the potential itself."""
        return self.eager.parameter_roles()

    def _compiled(self) -> CompiledDensity:
        """Return the compiled form of the weights as they are now."""
        now = tuple(part for value in self.eager.parameters() for part in (value.data_ptr(), value._version))
        if self._made is None or self._made[0] != now:
            self._made = now, CompiledDensity(self.eager, instructions=self.instructions)
        return self._made[1]
