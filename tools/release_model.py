"""Put a trained checkpoint into the wheel of mlipfm-models under a name: `python tools/release_model.py CHECKPOINT --name NAME --level LEVEL`.

Writes `released/NAME.safetensors` (the checkpoint with the level that is predicted by default), with --calibrate its uncertainty, and its entry in
`released/index.json`.
The card `released/NAME.md` is written by hand from what `tools/bench mol-small measure` prints.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mlipfm_eval import fit_uncertainty
from mlipfm_interfaces.checkpoint import load_model, save_potential
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.potential import Potential
from mlipfm_train.frames import Frames
from mlipfm_train.provenance import trained_states

FOLDER = Path(__file__).resolve().parents[1] / "packages/mlipfm-models/src/mlipfm_models/released"
LARGEST = 3 * 2**20  # bytes: git keeps every release


def _neutral_where_unstated(potential: Potential) -> None:
    """A structure that gives no charge or multiplicity is a neutral singlet, whose embedding is zero: where all training data give both, the
    embedding of unstated ones is random (0.5 to 0.8 eV/Å off on molecules without `charge` and `spin`)."""
    with torch.no_grad():
        for key, weight in potential.named_parameters():
            if key.startswith("conditioning.electronic.") and key.endswith(".unknown.weight"):
                weight.zero_()


def release(
    checkpoint: Path,
    name: str,
    level: str,
    preview: str | None,
    folder: Path = FOLDER,
    trained_on: Sequence[Path] = (),
    calibrate: Sequence[Path] = (),
) -> str:
    """Return the SHA-256 of what was written.

    Args:
        trained_on: stores that it was trained on. Charges and multiplicities are counted in them where the checkpoint, of an earlier version, does
            not list them, and the uncertainty is made of their structures.
        calibrate: labelled stores that it has not seen, for the uncertainty; without them there is none.

    Raises:
        ValueError: the level is not one of the model, a licence of its data is not known, or the file is too large.
    """
    potential, manifest = load_model(checkpoint)
    if level not in potential.spec.levels:
        raise ValueError(f"{level} is no level of this model; it has {', '.join(potential.spec.levels)}")
    licences = manifest["extra"].get("licences", [])
    if licences != ["MIT"]:
        raise ValueError(
            f"its data are under {licences}; what is generated here is under MIT: mlipfm data filter STORE --out COPY --licence MIT"
        )
    _neutral_where_unstated(potential)
    target = folder / f"{name}.safetensors"
    extra = {**manifest["extra"], "default_level": level}
    if trained_on and "trained_states" not in extra:
        extra["trained_states"] = trained_states(Frames([str(store) for store in trained_on]).structure_table(), None)
    save_potential(target, potential, extra)
    if target.stat().st_size > LARGEST:
        raise ValueError(f"{target.stat().st_size} bytes are more than {LARGEST}")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    sure = target.with_suffix(".uncertainty.safetensors")
    sure.unlink(missing_ok=True)
    if calibrate:
        fit_uncertainty(str(target), trained_on, calibrate, sure)
    uncertainty = hashlib.sha256(sure.read_bytes()).hexdigest() if calibrate else None
    index = folder / "index.json"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    entries[name] = {"sha256": digest, "default_level": level, "licence": "MIT", "preview": preview, "uncertainty": uncertainty}
    atomic_write(index, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return digest


def main(arguments: list[str] | None = None) -> int:
    """Exit status 2 for what cannot be released."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--level", required=True, help="predicted where none is stated")
    parser.add_argument("--preview", help="what a user must know before trusting a number; a warning says it once")
    parser.add_argument(
        "--trained-on",
        type=Path,
        nargs="*",
        default=[],
        help="stores that it was trained on: charges and multiplicities that the checkpoint does not list, and the uncertainty, are made of them",
    )
    parser.add_argument("--calibrate", type=Path, nargs="*", default=[], help="labelled stores that it has not seen, for the uncertainty")
    options = parser.parse_args(arguments)
    try:
        print(
            release(
                options.checkpoint, options.name, options.level, options.preview, trained_on=options.trained_on, calibrate=options.calibrate
            )
        )
    except (ValueError, MlipfmError) as error:
        print(f"release_model: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
