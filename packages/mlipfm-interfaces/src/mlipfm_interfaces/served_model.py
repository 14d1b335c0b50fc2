"""A model behind a prediction service (`mlipfm serve`), by its address: `--model http://127.0.0.1:8700` wherever a model of another
package may stand.

The adapter of the foreign packages `http` and `https`, in this process: it needs no library but the standard one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlipfm_interfaces.errors import UntrainedStateWarning
from mlipfm_interfaces.foreign import ForeignPackage
from mlipfm_interfaces.registry_http import AnswerError, Server, server

Array = NDArray[Any]


class ServedModel:
    """What `load` returns: one request for each structure."""

    def __init__(self, where: Server) -> None:
        self._where, self._said = where, set[str]()
        about = where.call("GET", "/v1/model")
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
        body |= {"charge": charge, "multiplicity": multiplicity}
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
    """Return the model at `//HOST:PORT`, with the token of $MLIPFM_REGISTRY_TOKEN or of the folder of a service that this user started."""
    return ServedModel(server(f"{scheme}:{argument}"))


HTTP = ForeignPackage(requirements=(), adapter=Path(__file__), in_process=True)
HTTPS = ForeignPackage(requirements=(), adapter=Path(__file__).with_name("served_model_https.py"), in_process=True)
