"""The base of objectives whose terms are sums over structures."""

from __future__ import annotations

from collections.abc import Mapping

from mlipfm_interfaces.protocols import Terms
from torch import Tensor, nn


class AdditiveObjective:
    """An Objective that gathers no tensors, and has no module of its own unless a subclass sets one."""

    module: nn.Module | None = None
    gather: tuple[str, ...] = ()

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        """Return nothing: all terms are additive."""
        return {}
