"""Structures that a fine-tuned model must not forget: chosen from a store, labelled by the model before training, trained on again.

Their labels are predictions, of a level of theory of the model ("pseudo-labels"): what is kept is what the model says, whatever it was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.metrics import Metric, mae
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level
from mlipfm_models.uncertainty._features import in_batches, observe

#: Structures where nothing else is asked; those among which the farthest are looked for; those on which forgetting is measured.
REPLAYED, CANDIDATES, MEASURED = 500, 5000, 200


def make_replay(model: str, source: Path, out: Path, level: str, count: int, choice: str, seed: int) -> Path:
    """Write a store of `count` structures of `source` with energies and forces that the model predicts at `level`, and return its folder.

    Args:
        choice: `random`, or `farthest`: points far from each other in the mean last layer of the model (farthest-point sampling).

    Raises:
        MissingLabelsError: no structure of elements that the model supports.
    """
    potential, _ = load_model(model)
    with Store(source) as store:
        places = np.sort(stream(seed, "replay").permutation(len(store))[:CANDIDATES])
        known = [s for s in (store[int(k)] for k in places) if set(s.atomic_numbers.tolist()) <= set(potential.spec.elements)]
        if not known:
            raise MissingLabelsError(
                "no structure has only elements that the model supports", where=str(source), hint="give another store by --replay"
            )
        picks = farthest(_features(potential, known), count) if choice == "farthest" else range(min(count, len(known)))
        if choice != "farthest" and len(known) > count:
            picks = np.sort(stream(seed, "replay", 1).permutation(len(known))[:count]).tolist()
        chosen = [known[k].replace(level=level, labels={}, label_std={}) for k in picks]
        with StoreWriter(out, name=f"{store.name} replayed") as writer:
            for chunk in in_batches(chosen):
                for s, labels in zip(chunk, evaluate(potential, chunk, ("energy", "forces"), level=level), strict=True):
                    writer.add(s.replace(labels=labels))
    return out


def farthest(points: np.ndarray, count: int) -> list[int]:
    """Return places of up to `count` of `points` [n, d]: the first, then always the one farthest from all before (Gonzalez 1985)."""
    chosen, distance = [0], np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(count, len(points)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def _features(potential: Potential, structures: list[Structure]) -> np.ndarray:
    """Mean last layer [structures, channels]."""
    asked = [s.replace(level=potential.spec.levels[0], labels={}, label_std={}) for s in structures]
    return np.concatenate([observe(potential, chunk, forces=False).energy_features.numpy() for chunk in in_batches(asked)])


def forgetting(before: str, after: Path, store: Path | None, level: str) -> list[str]:
    """Return lines that say how the forces on structures of before have changed by fine-tuning.

    Args:
        store: labelled structures; None: those that the checkpoint of before keeps of its own data, compared with its predictions.
        level: of the model before, at which it is asked.
    """
    old, new = load_model(before)[0], load_model(after)[0]
    name = find_level(level, new.spec.levels) or new.spec.levels[-1]
    if store is not None:
        with Store(store) as opened:
            structures = [opened[k] for k in sorted({int(k) for k in np.linspace(0, len(opened) - 1, MEASURED)})]
    else:
        structures = list(old.examples)
    structures = [s for s in structures if set(s.atomic_numbers.tolist()) <= set(old.spec.elements)]
    labelled = [s for s in structures if store is None or "forces" in s.labels]
    if not labelled:
        return ["forgetting: not measured: no structure of before to compare on (--forgetting STORE)"]
    was, now = ([evaluate(m, [s], ("forces",), level=one)[0]["forces"] for s in labelled] for m, one in ((old, level), (new, name)))
    if store is None:
        return [f"forgetting: forces on {len(labelled)} structures of the data of before have changed by {_words(_force_mae(now, was))}"]
    labels = [s.labels["forces"] for s in labelled]
    return [f"forgetting: force MAE on {len(labelled)} structures of {store.name} {_words(_force_mae(now, labels))}, before training "
            f"{_words(_force_mae(was, labels))}"]  # fmt: skip


def _force_mae(predicted: list[np.ndarray], reference: list[np.ndarray]) -> Metric:
    errors, labels = ([1000 * f for f in forces] for forces in (predicted, reference))
    return mae(errors, labels, list(range(len(predicted))), name="force MAE", unit="meV/Å")


def _words(metric: Metric) -> str:
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
    return f"{metric.value:.3g}{interval} {metric.unit}"
