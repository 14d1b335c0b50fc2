"""A model behind a prediction service (`mlipfm serve`), by its address: `--model http://127.0.0.1:8700` wherever a model of another
package may stand. Of a model of several levels of theory the address names one: `http://127.0.0.1:8700?level=pbe`.

The adapter of the foreign packages `http` and `https`, in this process: it needs no library but the standard one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from mlipfm_interfaces.errors import LevelError, UntrainedStateWarning
from mlipfm_interfaces.foreign import ForeignPackage
from mlipfm_interfaces.registry_http import AnswerError, Server, server
from mlipfm_interfaces.theory import find_level

Array = NDArray[Any]


class ServedModel:
    """What `load` returns: one request for each structure.

    Raises:
        RegistryError: no service answers. LevelError: the model knows several levels of theory and none is asked, or not this one.
    """

    def __init__(self, where: Server, level: str | None = None) -> None:
        self._where, self._said = where, set[str]()
        about = where.call("GET", "/v1/model")
        known = tuple(map(str, about.get("levels", ())))
        self._level = level and find_level(level, known)
        if level is not None and self._level is None:
            raise LevelError(f"the model there does not know the level {level!r}", where=where.address, hint=f"it knows {', '.join(known)}")
        if level is None and len(known) > 1 and not about.get("default_level"):
            hint = f"name one in the address: {where.address}?level={known[0]}; there are {', '.join(known)}"
            raise LevelError("the model there predicts several levels of theory", where=where.address, hint=hint)
        self.outputs = tuple(key for key in about.get("outputs", ()) if key in ("energy", "forces", "stress", "dipole", "charges"))
        self.versions = {"model": str(about.get("digest", ""))[:64]}
        if "energy" not in self.outputs:
            raise where.fault("serves no model", "start one with `mlipfm serve MODEL`")

    def evaluate(
        self,
        numbers: Array,
        positions: Array,
        cell: Array,
        pbc: Array,
        charge: int | None,
        multiplicity: int | None,
        outputs: Sequence[str],
    ) -> dict[str, Array]:
        """Quantities of one structure in eV and Å.

        Warns:
            UntrainedStateWarning: of a charge or multiplicity that the model takes for another, or extrapolates to; once.

        Raises:
            ValueError: what the service says of a structure that it does not compute. RegistryError: it does not answer.
        """
        body: dict[str, Any] = {
            "numbers": np.asarray(numbers).tolist(),
            "positions": np.asarray(positions).tolist(),
            "outputs": list(outputs),
        }
        body |= {"charge": charge, "multiplicity": multiplicity, "level": self._level}
        if np.any(pbc):
            body |= {"cell": np.asarray(cell).tolist(), "pbc": np.asarray(pbc, dtype=bool).tolist()}
        try:
            answer = self._where.call("POST", "/v1/predict", body)
        except AnswerError as error:
            raise ValueError(error.what) from None
        for text in answer.get("warnings", ()):
            if text not in self._said:
                self._said.add(text)
                warnings.warn(str(text), UntrainedStateWarning, stacklevel=2)
        return {key: np.asarray(answer[key], dtype=np.float64) for key in outputs}


def load(argument: str, scheme: str = "http") -> ServedModel:
    """Return the model at `//HOST:PORT?level=LEVEL`, with the token of $MLIPFM_REGISTRY_TOKEN, or of a service that this user started."""
    place, _, query = argument.partition("?")
    return ServedModel(server(f"{scheme}:{place}"), dict(parse_qsl(query)).get("level"))


HTTP = ForeignPackage(requirements=(), adapter=Path(__file__), in_process=True)
HTTPS = ForeignPackage(requirements=(), adapter=Path(__file__).with_name("served_model_https.py"), in_process=True)
