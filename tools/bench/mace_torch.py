"""The peer of `3bpa`: mace-torch in an environment of its own, trained on the same frames and tested on the same others.

64 scalar channels, 2 layers, 5 Å, batches of 5, cosine schedule, EMA, on one thread for a given CPU time. An interrupted training begins again.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from mlipfm_interfaces.foreign import ForeignModel, ForeignPackage
from mlipfm_interfaces.foreign_environment import environment

NAME = "mace-torch 0.3.16"
REQUIREMENTS = ("mace-torch==0.3.16", "torch==2.13.0")
HERE = Path(__file__).resolve().parent
#: Of CPU time.
MINUTES = 40.0


def trained(home: Path, out: Path) -> dict[str, Any]:
    """Errors of its best model, CPU seconds, steps and learning curve."""
    from mlipfm_data.readers.extxyz import export_extxyz
    from mlipfm_data.store.store import Store
    from mlipfm_eval import error_metrics, predict

    out.mkdir(exist_ok=True)
    for part in ("train", "valid"):
        with Store(home / f"3bpa-{part}") as store:
            export_extxyz(store, out / f"{part}.xyz")
    python = environment("mace-torch", REQUIREMENTS)
    subprocess.run([str(python), str(HERE / "mace_torch_trainer.py"), str(out), str(MINUTES)], check=True)
    package, path = ForeignPackage(REQUIREMENTS, HERE / "mace_torch_adapter.py"), out / "model.model"
    with ForeignModel(f"mace-torch:{path.name}", package, str(path)) as model, Store(home / "3bpa-test") as store:
        errors = error_metrics(predict(model, list(store)))
    curve = json.loads((out / "curve.json").read_text())
    return {
        "seconds": curve[-1]["seconds"],
        "steps": curve[-1]["step"],
        "errors": {k: m.as_dict() for k, m in errors.items()},
        "curve": curve,
    }
