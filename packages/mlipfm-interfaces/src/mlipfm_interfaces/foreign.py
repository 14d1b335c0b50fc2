"""Models of other packages, each in a worker process in an environment of its own: `open_foreign("sevennet:7net-0")`.

A plug-in of the group `mlipfm.foreign` is a `ForeignPackage`: the requirements of its environment and an adapter, one Python file that is run in
it. Nothing of the other package is imported here, so pins that contradict ours do no harm, and a crash there is an error here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import foreign_worker, plugins
from .errors import ForeignModelError
from .foreign_environment import environment
from .quantities import quantity
from .structure import Structure

Array = NDArray[Any]


@dataclass(frozen=True)
class ForeignPackage:
    """How to reach another package.

    Attributes:
        requirements: what pip installs into the environment, numpy apart, which is always there. Empty: the environment of this process.
        adapter: Python file with `load(argument)`, which returns an object with `outputs` (quantity keys) and `evaluate(numbers, positions,
            cell, pbc, charge, multiplicity, outputs) -> {key: array}`, in the units, signs and shapes of `quantities`. charge and multiplicity
            may be None: not given. It may also have `versions` ({package: version}).
        in_process: call the adapter here, without a process (for packages that ours depends on anyway).
        electronic: it solves for electrons, at one k-point: the energy per atom of a small cell is not that of its supercell, and open shells may
            have several answers or none.
        file: the argument is a file, which is looked for before anything is installed.
    """

    requirements: tuple[str, ...]
    adapter: Path
    in_process: bool = False
    electronic: bool = False
    file: bool = False


class _Adapter(Protocol):
    outputs: Sequence[str]

    def evaluate(
        self,
        numbers: Array,
        positions: Array,
        cell: Array,
        pbc: Array,
        charge: int | None,
        multiplicity: int | None,
        outputs: tuple[str, ...],
    ) -> dict[str, Array]: ...


def is_foreign(uri: str | Path) -> bool:
    """Return whether this is the address of a model of another package: `package:argument` of an installed plug-in, and no file."""
    scheme, colon, _ = str(uri).partition(":")
    return bool(colon) and scheme in plugins.names("foreign") and not Path(uri).exists()


def open_foreign(uri: str, *, call_timeout: float = 600.0, start_timeout: float = 600.0) -> ForeignModel:
    """Return the model `package:argument`, for instance `tblite:GFN2`. It is a Teacher; use it as a context manager, or call `close`.

    Args:
        call_timeout: seconds for one structure. start_timeout: seconds to load the model (its environment, made on first use, is extra).

    Raises:
        PluginError: no package of that name is known. ForeignModelError: it could not be installed or started, or its file is not there.
    """
    name, _, argument = uri.partition(":")
    package = plugins.load("foreign", name)
    if package.file and not Path(argument).is_file():
        raise ForeignModelError("there is no such file", where=uri, hint=f"give the path of a model: {name}:FILE")
    return ForeignModel(uri, package, argument, call_timeout, start_timeout)


class ForeignModel:
    """A model of another package as a Teacher.

    Attributes:
        outputs: quantity keys it can give.
        versions: of the packages that answer. electronic: see `ForeignPackage`.
    """

    electronic: bool
    outputs: tuple[str, ...]
    versions: dict[str, str]

    def __init__(self, uri: str, package: ForeignPackage, argument: str, call_timeout: float = 600.0, start_timeout: float = 600.0) -> None:
        self.uri, self._package, self._argument = uri, package, argument
        self.electronic = package.electronic
        self._call_timeout, self._start_timeout = call_timeout, start_timeout
        self._model: _Adapter | _Worker | None = None
        self._connect()

    def evaluate(self, structures: Sequence[Structure], outputs: Sequence[str] = ("energy", "forces")) -> list[dict[str, Array]]:
        """Return one dict per structure: float64 arrays by quantity key, checked for shape and finiteness.

        A worker that dies or exceeds its time is killed, the error is raised, and the next call starts a new one.

        Raises:
            ForeignModelError: an output it does not have, an external field (adapters know none), time-out, death, an error of the package,
                or an answer that is missing, of a wrong shape, or not finite. It names the structure.
        """
        wrong = [key for key in outputs if key not in self.outputs]
        if wrong:
            raise ForeignModelError(f"{self.uri} does not give {', '.join(wrong)}", hint=f"it gives {', '.join(self.outputs)}")
        return [self._one(structure, k, tuple(outputs)) for k, structure in enumerate(structures)]

    def close(self) -> None:
        """End the worker. A later `evaluate` starts it again."""
        if isinstance(self._model, _Worker):
            self._model.end()
        self._model = None

    def __enter__(self) -> ForeignModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self) -> _Adapter | _Worker:
        if isinstance(self._model, _Worker) and self._model.dead:
            self.close()
        if self._model is None:
            self._model = (
                self._load_here() if self._package.in_process else _Worker(self.uri, self._package, self._argument, self._start_timeout)
            )
            self.outputs = tuple(quantity(key).key for key in self._model.outputs)
            self.versions = dict(getattr(self._model, "versions", {}))
        return self._model

    def _load_here(self) -> _Adapter:
        try:
            model: _Adapter = foreign_worker.load_adapter(str(self._package.adapter), self._argument)
            return model
        except Exception as error:
            raise ForeignModelError(f"{self.uri} could not be loaded: {error}") from error

    def _one(self, s: Structure, k: int, outputs: tuple[str, ...]) -> dict[str, Array]:
        if s.external_field is not None:
            raise ForeignModelError(f"{self.uri} supports no external field", where=f"structure {k}", hint="remove `external_field`")
        model = self._connect()
        arrays = {"numbers": s.atomic_numbers, "positions": s.positions, "cell": s.cell, "pbc": s.pbc}
        try:
            if isinstance(model, _Worker):
                values = model.ask(arrays, s.total_charge, s.spin_multiplicity, outputs, self._call_timeout)
            else:
                values = model.evaluate(s.atomic_numbers, s.positions, s.cell, s.pbc, s.total_charge, s.spin_multiplicity, outputs)
        except ForeignModelError as error:
            raise ForeignModelError(error.what, where=f"structure {k} ({s.formula})", hint=error.hint) from None
        except Exception as error:  # an adapter in this process may fail in any way
            raise ForeignModelError(f"{self.uri}: {type(error).__name__}: {error}", where=f"structure {k} ({s.formula})") from error
        return {key: self._checked(key, values, len(s), k) for key in outputs}

    def _checked(self, key: str, values: dict[str, Array], n: int, k: int) -> Array:
        place = f"structure {k}"
        if key not in values:
            raise ForeignModelError(f"{self.uri} answered without {key!r}", where=place)
        value, kind = np.asarray(values[key]), quantity(key)
        if value.dtype.kind not in "fiu":
            raise ForeignModelError(f"{self.uri} answered {key!r} with dtype {value.dtype}", where=place)
        wanted = kind.shape if kind.layout == "system" else (n, *kind.shape)
        if value.shape != wanted:
            raise ForeignModelError(f"{self.uri} answered {key!r} with shape {list(value.shape)}, wanted {list(wanted)}", where=place)
        if not np.isfinite(value).all():
            raise ForeignModelError(f"{self.uri} answered {key!r} with NaN or infinity", where=place, hint="drop this structure")
        return value.astype(np.float64)


class _Worker:
    """One worker process and the channel to it."""

    def __init__(self, uri: str, package: ForeignPackage, argument: str, timeout: float) -> None:
        python = environment(uri.partition(":")[0], package.requirements) if package.requirements else Path(sys.executable)
        self.uri, self.dead = uri, False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        self._channel, far = socket.socketpair()
        line = [str(python), "-I", foreign_worker.__file__, str(package.adapter), argument, str(far.fileno())]
        with far:
            # a session of its own: Ctrl-C reaches us alone, and the worker can be killed with its children
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=(far.fileno(),), start_new_session=True
            )
        try:
            head, _ = self._receive(timeout, "start")
            if head.get("protocol") != foreign_worker.PROTOCOL:
                raise self._failed(f"speaks protocol {head.get('protocol')}, wanted {foreign_worker.PROTOCOL}")
            if "error" in head:
                raise self._failed(f"could not be loaded: {head['error']}")
            self.outputs: tuple[str, ...] = tuple(str(key) for key in head["outputs"])
            self.versions: dict[str, str] = {str(key): str(value) for key, value in head["versions"].items()}
        except BaseException:
            self.end()
            raise

    def ask(
        self, arrays: dict[str, Array], charge: int | None, multiplicity: int | None, outputs: tuple[str, ...], timeout: float
    ) -> dict[str, Array]:
        """Return the answer for one structure."""
        try:
            self._channel.settimeout(timeout)
            foreign_worker.send(self._channel, {"outputs": outputs, "charge": charge, "multiplicity": multiplicity}, arrays)
        except TimeoutError:
            raise self._failed(f"took no question within {timeout:g} s") from None
        except OSError:
            raise self._failed("died") from None
        try:
            head, values = self._receive(timeout, "answer")
        except KeyboardInterrupt:
            self.end()  # its late answer would be taken for the next one
            raise
        if "error" in head:
            raise ForeignModelError(f"{self.uri}: {head['error']}")
        return values

    def end(self) -> None:
        """Kill the process and its children; nothing is left behind."""
        self.dead = True
        self._channel.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _receive(self, timeout: float, what: str) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            return foreign_worker.receive(self._channel, time.monotonic() + timeout)
        except TimeoutError:
            raise self._failed(f"did not {what} within {timeout:g} s", "raise the time limit or use smaller structures") from None
        except (EOFError, ConnectionError):
            raise self._failed("died") from None
        except foreign_worker.ProtocolError as error:
            raise self._failed(f"sent {error}") from None

    def _failed(self, what: str, hint: str | None = None) -> ForeignModelError:
        """End the worker; the error quotes the last lines of its log."""
        try:
            code = self._process.wait(0.5 if what == "died" else 0)
            status = f" (exit status {code})"
        except subprocess.TimeoutExpired:
            status = ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()][-5:]
        self.end()
        said = f"; its last words: {' | '.join(lines)}" if lines else ""
        return ForeignModelError(f"the worker of {self.uri} {what}{status}{said}", hint=hint)
