"""Functions of the distance that backbones share: the envelope that ends every interaction smoothly, and a radial basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def envelope(x: Tensor) -> Tensor:
    """(1 - x)³ (1 + 3x + 6x² + 10x³ + 15x⁴ + 21x⁵) for x < 1, exactly 0 beyond: twice continuously differentiable at x = 1, flat at 0.

    This is the polynomial of arXiv:2003.03123 (DimeNet, p = 6), factored so that nothing cancels near the cutoff.
    """
    rest = (1.0 - x).clamp_min(0.0)
    series = 1.0 + x * (3.0 + x * (6.0 + x * (10.0 + x * (15.0 + x * 21.0))))
    return rest * rest * rest * series


def bessel(r: Tensor, count: int, cutoff: float) -> Tensor:
    """sqrt(2/r_c) sin(n pi r/r_c)/r for n = 1..count, [..., count], of distances r [..., 1] in Å (arXiv:2003.03123, eq. 7). No envelope."""
    n = torch.arange(1, count + 1, dtype=r.dtype, device=r.device)
    return torch.sin(r / cutoff * (n * math.pi)) * (math.sqrt(2.0 / cutoff) / r)
