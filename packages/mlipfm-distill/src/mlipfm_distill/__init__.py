"""Post-training that composes training, dynamics and evaluation: labels of a teacher, and distillation into a student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distill_objective import Distill
    from .hessian_rows import HessianRows
    from .recipes import distill_recipe
    from .teacher_labels import TeacherLabels, label_geometries, label_hessian_rows

__all__ = ["Distill", "HessianRows", "TeacherLabels", "distill_recipe", "label_geometries", "label_hessian_rows"]

_HOMES = {
    "Distill": "distill_objective",
    "HessianRows": "hessian_rows",
    "TeacherLabels": "teacher_labels",
    "distill_recipe": "recipes",
    "label_geometries": "teacher_labels",
    "label_hessian_rows": "teacher_labels",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: importing the package does not import torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
