"""Post-training that composes training, dynamics and evaluation: labels of a teacher, and distillation into a student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlipfm_interfaces.lazy import lazy_imports

if TYPE_CHECKING:
    from .distill_objective import Distill as Distill
    from .hessian_objectives import HessianProducts as HessianProducts, HessianRows as HessianRows
    from .recipes import distill_recipe as distill_recipe
    from .teacher_labels import (
        TeacherLabels as TeacherLabels,
        label_geometries as label_geometries,
        label_hessian_rows as label_hessian_rows,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__)
