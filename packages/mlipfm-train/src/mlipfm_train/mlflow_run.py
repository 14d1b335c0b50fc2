"""What a run of `mlipfm train` shows in MLflow besides its curves: parameters, data, artefacts and the model, with MLflow's own names for them.

Everything is read from the run folder, so that it can be delivered later, or again. Models are raw safetensors files: nothing is pickled.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlipfm_interfaces.checkpoint import load_model, load_potential
from mlipfm_interfaces.files import lock
from mlipfm_interfaces.model_card import model_card
from mlipfm_interfaces.potential import evaluate

from .events import Event, read_events
from .frames import Frames
from .recipe import Recipe, load_recipe
from .schedules import learning_rate

#: Characters of a parameter, and parameters of one request, that MLflow takes.
LONGEST, AT_ONCE = 6000, 100
#: Characters of a description that every database of a registry takes.
DESCRIBED = 5000
#: Validation structures in a parity plot.
PLOTTED = 200
#: Environment variable with the command line of the training process.
COMMAND = "MLIPFM_TRAIN_COMMAND"


def create(client: Any, folder: Path, uri: str, experiment: str) -> str:
    """Return a new MLflow run, and its experiment if there is none; the id of the run. Artefacts of a database file lie beside it, in `mlartifacts`.

    It has the name of its folder. A folder `seed-0`, `seed-1` ..., and one in the folder of a sweep, becomes a child of a run that has the name of
    the folder above.
    """
    found = client.get_experiment_by_name(experiment)
    beside = str(Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts") if uri.startswith("sqlite:///") else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # its pages open as those of training runs, not of language models
    number = found.experiment_id if found is not None else client.create_experiment(experiment, beside, tags=kind)
    tags = {
        "mlipfm.run": str(folder.resolve()),
        "mlflow.user": getpass.getuser(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "mlipfm train",  # MLflow shows what follows the last slash, which of a command is anything
        "mlipfm.command": os.environ.get(COMMAND, "mlipfm train"),
    }
    commit = _commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    if folder.name.startswith("seed-") or (folder.resolve().parent / "sweep.json").exists():
        tags["mlflow.parentRunId"] = _parent(client, number, folder.resolve().parent)
    return str(client.create_run(number, run_name=folder.name, tags=tags).info.run_id)


def _parent(client: Any, experiment: str, folder: Path) -> str:
    """Return the run that holds the runs of all seeds, or of a sweep, below `folder`. Runs that begin together wait for the one that makes it."""
    with lock(folder / "mlflow-parent.lock", timeout=60.0):
        where = str(folder).replace("'", "")
        found = client.search_runs([experiment], f"tags.`mlipfm.seeds` = '{where}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        parent = client.create_run(experiment, run_name=folder.name, tags={"mlipfm.seeds": where, "mlflow.user": getpass.getuser()})
        for name in ("sweep.json", "plan.json"):
            if (folder / name).exists():
                client.log_artifact(parent.info.run_id, str(folder / name))
        client.set_terminated(parent.info.run_id)
        return str(parent.info.run_id)


def log_point(client: Any, run_id: str, folder: Path) -> str:
    """Deliver the figures of a run of a sweep, where `point.json` says it: parameters, atoms, FLOP and core-seconds, and its final errors under
    `final/`. Returns the reason why it has none, "" if it has."""
    from mlflow.entities import Metric, Param

    file = folder / "point.json"
    if not file.exists():
        return ""
    point, now = json.loads(file.read_text(encoding="utf-8")), round(file.stat().st_mtime * 1000)
    sizes = {f"sweep/{key}": point[key] for key in ("parameters", "atoms", "flops", "core_seconds")}
    figures = sizes | {metric_name(f"final/{name}"): value for name, value in point["losses"].items()}
    metrics = [Metric(name, float(value), now, 0) for name, value in figures.items()]
    client.log_batch(run_id, metrics=metrics, params=[Param("sweep.group", point["group"])])
    if point["failed"]:
        client.set_tag(run_id, "mlipfm.failed", point["failed"][:LONGEST])
    return str(point["failed"])


def metric_name(name: str) -> str:
    """Return `name` with `_` for every character that MLflow does not take in the name of a metric."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


def _commit() -> str:
    """Return the commit of the repository that the command was started in, "" outside of one."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def describe(client: Any, run_id: str, folder: Path) -> None:
    """Parameters (the flat recipe, sizes of data and model), data sets, recipe and preflight report of a run that has begun."""
    from mlflow.entities import Param

    _, manifest = load_model(folder / "initial.safetensors")
    recipe = load_recipe(folder / "recipe.yaml")
    report = next((e for e in read_events(folder / "events.jsonl") if e["kind"] == "preflight"), None)
    params = dict(flat(recipe.model_dump(mode="json"))) | sizes(folder, manifest["extra"]) | _found_before(report)
    listed = [Param(key, value[:LONGEST]) for key, value in params.items()]
    for k in range(0, len(listed), AT_ONCE):
        client.log_batch(run_id, params=listed[k : k + AT_ONCE])
    client.log_inputs(run_id, datasets=_datasets(recipe, manifest["extra"]))
    client.log_artifact(run_id, str(folder / "recipe.yaml"))
    if report is not None:
        client.log_text(run_id, "\n".join(report["values"]["lines"]) + "\n", "preflight.txt")


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting by its dotted key, as `mlipfm train` takes it: `optimizer.lr`, `objectives.0.name`; what is not set is left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from flat(item, f"{key}.{k}")
    elif value is not None:
        yield key, str(value)


def sizes(folder: Path, extra: Mapping[str, Any]) -> dict[str, str]:
    """Numbers that runs are compared by: structures for training and validation, and parameters of the model."""
    potential = load_potential(folder / "initial.safetensors")
    return {
        "n_parameters": str(sum(p.numel() for p in potential.parameters())),
        "n_train": str(sum(entry["structures"] for entry in extra.get("data", []))),
        "n_valid": str(sum(entry["structures"] for entry in extra.get("validation_data", []))),
    }


def _found_before(report: Event | None) -> dict[str, str]:
    """Return figures of preflight as parameters: as metrics, one bar of each would stand before the curves."""
    values = report["values"] if report is not None else {}
    return {f"preflight.{key}": f"{value:.6g}" for key, value in values.items() if isinstance(value, int | float)}


def _datasets(recipe: Recipe, extra: Mapping[str, Any]) -> list[Any]:
    """Stores as MLflow's data sets: digest of the manifest, path, and what the manifest of the model says of them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for key, paths, context in (("data", recipe.data.train, "training"), ("validation_data", recipe.data.valid, "validation")):
        for entry, path in zip(extra.get(key, []), paths, strict=True):
            profile = {"structures": entry["structures"], "licences": entry["licences"], "sources": entry["sources"]}
            source = json.dumps({"uri": str(Path(path).resolve())})
            dataset = Dataset(entry["name"], entry["manifest"][:36], "local", source, profile=json.dumps(profile))
            found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def more_metrics(event: Event, recipe: Recipe) -> list[tuple[str, float]]:
    """Learning rate and throughput of a step of rank 0."""
    if event["kind"] != "step":
        return []
    values = event["values"]
    speed = values["systems"] / values["seconds"] if values.get("seconds") and "systems" in values else None
    return [("step/learning_rate", learning_rate(recipe, event["step"])), *([("step/structures_per_s", speed)] if speed else [])]


def finish(client: Any, run_id: str, folder: Path, register: str | None) -> None:
    """The best model (the last one without validation) as artefact, logged model and, if asked, as a version of the registered model `register`."""
    best = next((folder / name for name in ("best.safetensors", "last.safetensors") if (folder / name).exists()), None)
    if best is None:
        return
    manifest = load_model(best)[1]
    card = model_card(manifest)
    client.set_tag(run_id, "mlflow.note.content", card)
    with TemporaryDirectory() as scratch:
        shown = Path(scratch)
        (shown / "model_card.md").write_text(card, encoding="utf-8")
        (shown / "model.safetensors").write_bytes(best.read_bytes())
        client.log_artifacts(run_id, str(shown), "model")
        model_id = _logged_model(client, run_id, shown, manifest)
    if register is not None:
        _register(client, run_id, register, model_id, manifest["digest"], card)
    picture = parity_plot(folder, best)
    if picture is not None:
        client.log_figure(run_id, picture, "parity.png")


def _logged_model(client: Any, run_id: str, files: Path, manifest: Mapping[str, Any]) -> str:
    """Return a logged model of the run with these files; its id. One that has this digest already is used again."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    where = [run.info.experiment_id]
    found = client.search_logged_models(where, filter_string=f"tags.`mlipfm.digest` = '{manifest['digest']}'")
    mine = [model for model in found if model.source_run_id == run_id and str(model.status) == "READY"]
    if mine:
        return str(mine[0].model_id)
    model = client.create_logged_model(
        where[0], run.info.run_name, run_id, {"mlipfm.digest": manifest["digest"]}, {"plugin": manifest["plugin"]}, "mlipfm"
    )
    client.log_model_artifacts(model.model_id, str(files))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=manifest["extra"].get("step", 0))])
    return str(model.model_id)


def _register(client: Any, run_id: str, name: str, model_id: str, digest: str, card: str) -> None:
    """A version of a registered model, described by its card; none if there is one of this model."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not any(version.tags.get("mlipfm.digest") == digest for version in client.search_model_versions(f"name = '{name}'")):
        tags = {"mlipfm.digest": digest}
        client.create_model_version(name, f"models:/{model_id}", run_id, tags, description=card[:DESCRIBED], model_id=model_id)


def parity_plot(folder: Path, model: Path) -> Any:
    """Predicted against reference energies (relative to the atoms, per atom) and forces of up to `PLOTTED` validation structures: a matplotlib
    figure, or None without validation data."""
    from matplotlib.figure import Figure

    recipe = load_recipe(folder / "recipe.yaml")
    frames = Frames(recipe.data.valid, recipe.data.levels)
    chosen = [frames[k] for k in range(0, len(frames), max(1, -(-len(frames) // PLOTTED)))]
    potential = load_potential(model)
    keys = [key for key in ("energy", "forces") if any(key in s.labels for s in chosen)]
    if not chosen or not keys:
        return None
    predicted = evaluate(potential, chosen, keys)
    figure = Figure(figsize=(4.2 * len(keys), 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        pairs = [(s.labels[key], p[key], len(s)) for s, p in zip(chosen, predicted, strict=True) if key in s.labels]
        _parity(axes, key, pairs)
    return figure


def _parity(axes: Any, key: str, pairs: Sequence[tuple[Any, Any, int]]) -> None:
    import numpy as np

    per_atom = key == "energy"
    reference = np.concatenate([np.ravel(label) / (n if per_atom else 1) for label, _, n in pairs])
    prediction = np.concatenate([np.ravel(value) / (n if per_atom else 1) for _, value, n in pairs])
    unit = "eV/atom" if per_atom else "eV/Å"
    ends = [min(reference.min(), prediction.min()), max(reference.max(), prediction.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1)
    axes.plot(reference, prediction, ".", markersize=3)
    error = 1000 * np.abs(prediction - reference).mean()
    axes.set(
        xlabel=f"{key}, reference ({unit})", ylabel=f"{key}, predicted ({unit})", title=f"MAE {error:.3g} m{unit}, {len(pairs)} structures"
    )
