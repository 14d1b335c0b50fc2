"""Labels of a teacher: energies and forces of unlabelled geometries, and rows of its Hessian as overlays of a store.

The labels speak the teacher's level of theory, which they imitate, so that a student of that level learns from them beside true labels of the
same level. What they are is never hidden: `provenance.source` of a structure is `teacher:<digest>`, and `teacher.json` in the store says it all. They
are under the licences of the geometry and of everything the teacher was trained on, wherever the structures go from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces import plugins
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import LabelingError, LevelError, PropertyNotAvailableError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.licences import UNKNOWN, combined, is_known, stated_licences
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .label_progress import Advance, label_progress
from .teacher_uncertainty import certain, limits_like

#: In the store's folder: whose labels these are and how the rows were chosen.
RECORD = "teacher.json"

#: Atoms that are evaluated together.
BATCH_ATOMS = 256


@dataclass(frozen=True)
class TeacherLabels:
    """What became of the structures.

    Attributes:
        path: the store. teacher: digest of the model. level: of the requested structures.
        total: structures requested = labelled now + present from an earlier run + duplicates, equal in geometry and state to another.
        other_levels: structures of levels the teacher does not support, which were left alone.
        uncertain: structures that were left out because the teacher is not sure enough of them.
        licence: of the teacher, see `licences.combined`.
    """

    path: Path
    teacher: str
    level: str
    total: int
    present: int
    labelled: int
    duplicates: int = 0
    other_levels: int = 0
    uncertain: int = 0
    licence: str = UNKNOWN

    def lines(self) -> list[str]:
        """Return the report for people."""
        out = [f"{self.path}: {self.total} structures at {self.level}: {self.labelled} labelled with Hessian rows, {self.present} had them"]
        if self.duplicates:
            out.append(f"  {self.duplicates} share the labels of an equal structure")
        if self.uncertain:
            out.append(f"  {self.uncertain} structures were left out: the teacher is less sure of them than of its own kind of data")
        if self.other_levels:
            out.append(f"  {self.other_levels} structures of other levels were left alone")
        if not is_known(self.licence):
            out.append(f"  the teacher's licence is not known ({self.licence}): a registry will not promote what learns from these labels")
        return out


class _Teacher(NamedTuple):
    """A model with its digest, and the licence of what it was trained on."""

    model: Potential
    digest: str
    licence: str

    @property
    def source(self) -> str:
        return f"teacher:{self.digest[:12]}"


def label_geometries(
    structures: Sequence[Structure],
    teacher: str | Path,
    out: Path | str,
    *,
    rows: int = 4,
    seed: int = 0,
    level: str | None = None,
    advance: Advance | None = None,
    uncertainty: Path | str | None = None,
    like: Iterable[Structure] = (),
    quantile: float = 0.95,
) -> TeacherLabels:
    """Write the store `out`: each geometry with the teacher's energy, forces and `rows` rows of its Hessian. Call it again to resume.

    Labels and level that the structures have are not used. Group and sampling are kept; the licences of the teacher join that of the geometry.

    Args:
        teacher: checkpoint or address of a model with conservative forces.
        rows: of each structure, drawn without replacement from its 3N; all if it has fewer.
        level: at which the teacher is asked; needed if it supports several.
        advance: called with the number of structures done; without it a bar is shown on a terminal.
        uncertainty: file of `mlipfm uncertainty fit` of the teacher: structures are left out of which the teacher is less sure than of this
            `quantile` of the structures `like` its training data (validation data, those the uncertainty was calibrated with).

    Raises:
        LabelingError: `out` holds something else, or labels of another teacher, seed, number of rows or input. LevelError: of the teacher.
        PropertyNotAvailableError: the teacher's forces are not a gradient. UnknownElementError, OverlapError, ...: see `evaluate`.
    """
    out = Path(out)
    teacher_model = _teacher(teacher)
    level = _chosen_level(teacher_model.model, level)
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).exists():
        raise LabelingError("the folder holds something else", where=str(out), hint="choose a new folder for the teacher's labels")
    out.mkdir(parents=True, exist_ok=True)
    job: dict[str, Any] = {"teacher": teacher_model.digest, "level": level, "rows": rows, "seed": seed}
    to_label = [_asked(s, level, teacher_model, k) for k, s in enumerate(structures)]
    uncertain = 0
    if uncertainty is not None:
        uncertainty_model = plugins.load("uncertainties", "llpr").load(uncertainty, teacher_model.digest)
        limits = limits_like(teacher_model.model, uncertainty_model, (s.replace(level=level) for s in like), quantile)
        kept = certain(teacher_model.model, uncertainty_model, to_label, limits)
        to_label, uncertain = [s for s, keep in zip(to_label, kept, strict=True) if keep], kept.count(False)
        job["largest_sigma"] = limits.as_dict()
        if not to_label:
            raise LabelingError(
                "the teacher is sure of none of the structures", hint="fine-tune it on structures of this kind, or raise the quantile"
            )
    _claim(out, job)
    with StoreWriter(out, name=out.name) as writer:
        unexpected = len(writer.present - {(writer.key(s), s.level) for s in to_label})
        if unexpected:
            raise LabelingError(
                f"{unexpected} of {len(writer.present)} structures there are not among those to be labelled: they are of another input",
                where=str(out),
                hint="choose another folder, or give all structures again",
            )
        todo = [s for s in to_label if not writer.has(s)]
        for group in batches_of(todo, BATCH_ATOMS):
            for s, found in zip(group, evaluate(teacher_model.model, group), strict=True):
                if not writer.has(s):  # equal to one before it
                    writer.add(s.replace(labels=found))
    done = _overlay_rows(out, teacher_model, rows, seed, advance)
    return replace(done, level=level, total=len(to_label), duplicates=len(to_label) - done.total + done.duplicates, uncertain=uncertain)


def label_hessian_rows(
    store: Path | str, teacher: str | Path, *, rows: int = 4, seed: int = 0, advance: Advance | None = None
) -> TeacherLabels:
    """Lay `rows` rows of the teacher's Hessian over every structure of `store` whose level the teacher knows. Call it again to resume.

    Energies and forces of the store stay what they are, so a student learns true labels and the teacher's curvature together. For structures
    without labels, or of another level, see `label_geometries`. Arguments and errors are those of `label_geometries`.
    """
    store = Path(store)
    teacher_model = _teacher(teacher)
    with Store(store) as opened:
        levels = sorted({level for level in opened.levels if level is not None})
    if not set(levels) & set(teacher_model.model.spec.levels):
        known = ", ".join(teacher_model.model.spec.levels)
        raise LevelError(f"no structure has a level that the teacher supports ({known})", where=str(store), hint="make a store with --out")
    _claim(store, {"teacher": teacher_model.digest, "rows": rows, "seed": seed})
    return _overlay_rows(store, teacher_model, rows, seed, advance)


def chosen_rows(structure: Structure, rows: int, seed: int) -> np.ndarray[Any, Any]:
    """[rows, 2] (atom, axis), drawn without replacement; depends on the seed and the structure's key only, and is sorted."""
    n = 3 * len(structure)
    flat = np.sort(stream(seed, "hessian-rows", structure.key).choice(n, min(rows, n), replace=False))
    return np.stack(np.divmod(flat, 3), axis=1).astype(float)


def chosen_probes(structure: Structure, number: int, seed: int) -> np.ndarray[Any, Any]:
    """[number, N, 3] of +1 and -1 with equal chances; depends on the seed and the structure's key only."""
    return stream(seed, "hessian-products", structure.key).choice([-1.0, 1.0], (number, len(structure), 3))


def hessian_labels(teacher: Potential, structures: Sequence[Structure], rows: int, seed: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    """`hessian_rows` [rows, N, 3] eV/Å² = +d2E/dr dr with `hessian_rows_index` [rows, 2] of each structure, by vector-Jacobian products."""
    index = [chosen_rows(s, rows, seed) for s in structures]
    probed = [
        s.replace(labels={"hessian_rows": np.zeros((len(k), len(s), 3)), "hessian_rows_index": k})
        for s, k in zip(structures, index, strict=True)
    ]
    found = evaluate(teacher, probed, ("hessian_rows",))
    return [{"hessian_rows": f["hessian_rows"][: len(k)], "hessian_rows_index": k} for f, k in zip(found, index, strict=True)]


def batches_of(structures: Iterable[Structure], atoms: int) -> Iterator[list[Structure]]:
    """Consecutive structures of at most `atoms` atoms together, one at least."""
    group: list[Structure] = []
    for s in structures:
        if group and sum(map(len, group)) + len(s) > atoms:
            yield group
            group = []
        group.append(s)
    if group:
        yield group


def _overlay_rows(path: Path, teacher: _Teacher, rows: int, seed: int, advance: Advance | None) -> TeacherLabels:
    model = teacher.model
    with StoreWriter(path) as writer:
        writer.commit()  # what a killed run left is read below
        with Store(path) as store:
            needed, total, duplicates = _without_rows(store, model.spec.levels)
            distinct = total - duplicates
            with label_progress(distinct, distinct - len(needed), advance) as done:
                for group in batches_of((store[k] for k in needed), BATCH_ATOMS):
                    for s, labels in zip(group, hessian_labels(model, group, rows, seed), strict=True):
                        writer.add_overlay(s.key, str(s.level), labels, source=teacher.source, licence=teacher.licence)
                    done(len(group))
            levels = ", ".join(level for level in model.spec.levels if level in store.levels)
            counts = total, distinct - len(needed), len(needed), duplicates, len(store) - total
            return TeacherLabels(path, teacher.digest, levels, *counts, licence=teacher.licence)


def _without_rows(store: Store, levels: Sequence[str]) -> tuple[list[int], int, int]:
    """Index of one of each geometry at these levels that has no rows yet; the number of structures at these levels, and of repeated ones."""
    seen: set[tuple[str, str | None]] = set()
    needed, total = [], 0
    for k, s in enumerate(store):
        if s.level not in levels:
            continue
        total += 1
        if (s.key, s.level) not in seen and "hessian_rows" not in s.labels:
            needed.append(k)
        seen.add((s.key, s.level))
    return needed, total, total - len(seen)


def _teacher(uri: str | Path) -> _Teacher:
    model, manifest = load_model(uri)
    if model.spec.kind != "conservative":
        raise PropertyNotAvailableError(
            "the Jacobian of direct forces is not symmetric: it is no Hessian, and no gradient student can fit it",
            where=str(uri),
            hint="fine-tune the teacher to conservative forces first",
        )
    model.check_outputs(("energy", "forces", "hessian_rows"))
    return _Teacher(model.requires_grad_(False), str(manifest["digest"]), combined(stated_licences(manifest.get("extra") or {})))


def _chosen_level(model: Potential, level: str | None) -> str:
    known = model.spec.levels
    level = level or model.implied_level
    if level not in known:
        said = "the teacher has several levels" if level is None else f"the teacher does not support the level {level!r}"
        raise LevelError(said, hint=f"choose one of: {', '.join(known)}")
    return str(level)


def _asked(s: Structure, level: str, teacher: _Teacher, index: int) -> Structure:
    """Return the bare geometry at the teacher's level, saying whose labels it will have."""
    licence = combined([s.provenance.licence, teacher.licence])
    origin = replace(s.provenance, source=teacher.source, index=index, licence=licence)
    return s.replace(level=level, labels={}, label_std={}, provenance=origin)


def _claim(folder: Path, job: dict[str, Any]) -> None:
    """A store takes the labels of one teacher, chosen in one way."""
    path = folder / RECORD
    if not path.exists():
        atomic_write(path, json.dumps(job, indent=1).encode())
        return
    found = json.loads(path.read_bytes())
    changed = [f"{key} was {found.get(key)}, now {value}" for key, value in job.items() if found.get(key) != value]
    if changed:
        raise LabelingError(
            f"the store has a teacher's labels of another kind: {'; '.join(changed)}", where=str(folder), hint="choose another folder"
        )
