"""Constants of a module that stay exact under every change of dtype."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ExactConstants(nn.Module):
    """Module whose constants are kept in float64 and rounded anew by every change of dtype or device.

    A plain buffer keeps the rounding of the narrowest dtype that it ever had: `model.float().double()` then computes in float64 with tables of
    seven digits, and its energies turn with the system by 1e-7. Constants are not part of the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        """Add the constant `name`; a floating `value` must be float64, and the module's own dtype decides what `self.name` is."""
        self._exact[name] = value.clone()
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactConstants:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            setattr(self, name, exact.to(getattr(self, name)))
        return self
