"""Two gradients at an angle, and what each method makes of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .merged import merge_at

__all__ = ["ANGLES", "ROUNDING", "conflicts", "merged_at_angles", "pair"]

#: Degrees between the two gradients, one column of the picture each.
ANGLES = (60, 120, 160)
#: Length of the second gradient, the first one's being 1: equal ones would hide who is favoured.
SHORT = 0.5
#: Relative to the longest gradient, what a ridge or rounding may leave of nothing.
ROUNDING = 1e-6


def pair(degrees: float) -> Tensor:
    """``(2, 2)`` float64: a gradient of length 1 along x, and a shorter one at the angle to it."""
    angle = math.radians(degrees)
    return torch.tensor(
        [[1.0, 0.0], [SHORT * math.cos(angle), SHORT * math.sin(angle)]], dtype=torch.float64
    )


def merged_at_angles(name: str) -> Tensor:
    """``(angles, 2)``: the merged gradient at each of :data:`ANGLES`, where both losses are 1."""
    gradients = torch.stack([pair(degrees) for degrees in ANGLES])
    losses = torch.ones(len(ANGLES), 2, dtype=torch.float64)
    return merge_at(name, len(ANGLES))(gradients, losses)


def conflicts(gradients: Tensor, merged: Tensor) -> Tensor:
    """Whether a merged gradient ``(..., N)`` lies outside of the dual cone of ``(..., T, N)``.

    A step against it then raises some loss. On the boundary of the cone it does not conflict, and
    there rounding must not decide, nor where opposite gradients cancel each other.
    """
    inner = (gradients @ merged.unsqueeze(-1)).squeeze(-1)
    norms = gradients.norm(dim=-1)
    longest = torch.maximum(norms.amax(dim=-1), merged.norm(dim=-1))
    outside: Tensor = (inner < -ROUNDING * norms * longest.unsqueeze(-1)).any(dim=-1)
    return outside
