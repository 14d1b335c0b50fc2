"""i-PI with forces of any mlipfm model, over its socket: `export_ipi` writes its input, `serve` answers it (ASE's client speaks the protocol)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.socketio import SocketClient
from mlipfm_interfaces.atomic import folder_in_place
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import SimulationError

from .engine_forces import EngineForces, drawn_temperature, read_one_initial_state, start_for
from .initial_files import FrameOptions, FrameReport
from .initial_state import InitialState

__all__ = ["export_ipi", "serve"]

Array = np.ndarray

#: Å between a molecule and the walls of the box that i-PI wants.
_ROOM = 30.0
#: Å/fs in one atomic unit of velocity (CODATA 2018).
_ATOMIC_VELOCITY = 21.8769126364

INPUT = """<simulation verbosity="medium">
  <!-- Edit it as any input of i-PI: more beads for path integrals, other ensembles, other outputs. -->
  <output prefix="ipi">
    <properties stride="{every}" filename="out">
      [ step, time{{femtosecond}}, conserved{{electronvolt}}, temperature{{kelvin}}, kinetic_md{{electronvolt}}, potential{{electronvolt}}{pressure} ]
    </properties>
    <trajectory filename="pos" stride="{every}" format="xyz" cell_units="angstrom"> positions{{angstrom}} </trajectory>
    <trajectory filename="for" stride="{every}" format="xyz" cell_units="angstrom"> forces{{ev/ang}} </trajectory>
    <checkpoint stride="1000"/>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> {seed} </seed> </prng>
  <ffsocket name="mlipfm" mode="{mode}" pbc="false">
    {address}
  </ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="xyz" units="angstrom"> init.xyz </file>
      <masses mode="manual" units="dalton"> [ {masses} ] </masses>
      {velocities}
    </initialize>
    <forces> <force forcefield="mlipfm"/> </forces>
    <motion mode="dynamics">
      <fixcom> False </fixcom>
      <dynamics mode="nve"> <timestep units="femtosecond"> {dt} </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units="kelvin"> {temperature} </temperature> </ensemble>
  </system>
</simulation>
"""


class _EngineCalculator(Calculator):
    """`EngineForces` as ASE's client wants it."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012  # the name and form are ASE's

    def __init__(self, forces: EngineForces) -> None:
        super().__init__()
        self.engine_forces = forces

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        cell = np.array(atoms.cell)
        energy, forces, virial = self.engine_forces(np.array(atoms.positions), cell)
        self.results = {"energy": energy, "forces": forces, "stress": -virial / abs(np.linalg.det(cell))}


def serve(
    model: str,
    start_file: Path | str,
    address: str,
    *,
    wanted: FrameOptions | None = None,
    patience: float = 60.0,
    on_step: Callable[[int], None] | None = None,
) -> int:
    """Answer i-PI (or another server of its protocol) until it closes the connection; return the number of answers.

    Args:
        start_file: elements, charge and multiplicity; i-PI sends positions and cell.
        address: `HOST:PORT`, or `unix:NAME` for the socket /tmp/ipi_NAME.
        patience: s to wait for the server to appear.

    Raises:
        SimulationError: no server at the address. What reading the structure and opening the model raise.
    """
    from ase import Atoms

    where = parse_address(address)
    start, _ = read_one_initial_state(start_file, wanted)
    s = start.structure
    calculator = _EngineCalculator(EngineForces(model, start))
    atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc, calculator=calculator)
    client = _connected(where, patience, address)
    count = 0
    for _ in client.irun(atoms, use_stress=calculator.engine_forces.virial):
        count += 1
        if on_step is not None:
            on_step(count)
    return count


def parse_address(text: str) -> dict[str, Any]:
    """Return the arguments of ASE's client for `HOST:PORT` or `unix:NAME`.

    Raises:
        SimulationError: anything else.
    """
    kind, _, rest = text.rpartition(":")
    if kind == "unix" and rest:
        return {"unixsocket": rest}
    if kind and rest.isdigit() and 0 < int(rest) < 65536:
        return {"host": kind, "port": int(rest)}
    raise SimulationError(f"{text!r} is no address", where="--address", hint="write localhost:31415, or unix:NAME for /tmp/ipi_NAME")


def _connected(where: dict[str, Any], patience: float, address: str) -> SocketClient:
    """ASE's client, as soon as there is a server."""
    end = time.monotonic() + patience
    while True:
        try:
            return SocketClient(**where)
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > end:
                raise SimulationError(
                    f"no server answered within {patience:g} s", where=address, hint="start i-PI first: i-pi input.xml"
                ) from None
            time.sleep(0.2)
        except (socket.gaierror, OSError) as error:
            raise SimulationError(f"cannot be reached: {error.strerror}", where=address, hint="check host and port") from error


def export_ipi(
    model: str,
    start_file: Path | str,
    out: Path | str,
    *,
    wanted: FrameOptions | None = None,
    address: str = "unix:mlipfm",
    dt: float = 0.5,
    steps: int = 1000,
    every: int = 10,
    seed: int = 1,
    temperature: float | None = None,
) -> FrameReport:
    """Write `input.xml` and `init.xyz` for constant-energy dynamics of one bead in i-PI, and return what was taken from the file.

    Args:
        dt: fs. address: as in `serve`.
        temperature: K, of velocities that are drawn, where the file has none or `wanted.new_velocities` asks for them [default: 300].

    Raises:
        SimulationError: a folder with files, several frames, fixed atoms or bonds, a temperature without velocities to draw.
            What reading and opening raise.
    """
    where = parse_address(address)
    start, said = start_for("i-PI", model, start_file, out, wanted, "<fixatoms> in input.xml")
    kelvin = drawn_temperature(start, temperature, start_file)
    s = start.structure
    local = "unixsocket" in where
    cell, turn = _upper_triangular(start)
    fields = {
        "every": every, "steps": steps, "seed": seed, "dt": dt, "temperature": kelvin, "mode": "unix" if local else "inet",
        "pressure": ", pressure_md{megapascal}" if s.pbc.all() else "",
        "address": f"<address> {where['unixsocket'] if local else where['host']} </address>"
        + ("" if local else f" <port> {where['port']} </port>"),
        "masses": ", ".join(map(repr, start.amu.tolist())),
        "velocities": _velocities(start, turn, kelvin),
    }  # fmt: skip
    with folder_in_place(Path(out)) as folder:
        (folder / "input.xml").write_text(INPUT.format(**fields))
        (folder / "init.xyz").write_text(_init_file(start, cell, turn))
    return said


def _upper_triangular(start: InitialState) -> tuple[Array, Array]:
    """(cell [3, 3] with a along x and b in the xy plane, rotation [3, 3] from the given axes to these): what i-PI wants."""
    s = start.structure
    if not s.pbc.any():
        room = float(np.ptp(s.positions, axis=0).max()) + _ROOM
        return np.eye(3) * room, np.eye(3)
    q, r = np.linalg.qr(s.cell.T)
    signs = np.sign(np.diag(r))
    if np.linalg.det(q * signs) < 0:
        raise SimulationError("the cell is left-handed", hint="swap two of its vectors")
    return (r * signs[:, None]).T, q * signs


def _velocities(start: InitialState, turn: Array, temperature: float) -> str:
    if start.velocities is None:
        return f'<velocities mode="thermal" units="kelvin"> {temperature} </velocities>'
    atomic = start.velocities @ turn / _ATOMIC_VELOCITY
    return f'<velocities mode="manual" units="atomic_unit"> [ {", ".join(map(repr, atomic.ravel().tolist()))} ] </velocities>'


def _init_file(start: InitialState, cell: Array, turn: Array) -> str:
    s = start.structure
    lengths = np.linalg.norm(cell, axis=1)
    angles = [float(np.degrees(np.arccos(cell[a] @ cell[b] / (lengths[a] * lengths[b])))) for a, b in ((1, 2), (0, 2), (0, 1))]
    head = "# CELL(abcABC): " + " ".join(map(repr, [*lengths.tolist(), *angles])) + " positions{angstrom} cell{angstrom}"
    rows = [f"{symbol(int(z))} {' '.join(map(repr, x))}" for z, x in zip(s.atomic_numbers, (s.positions @ turn).tolist(), strict=True)]
    return "\n".join([str(len(s)), head, *rows, ""])
