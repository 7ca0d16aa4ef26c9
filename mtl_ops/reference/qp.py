"""Least squares with non-negative unknowns, and the nearest point of a polyhedron."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["factor", "least_distance", "nonnegative_least_squares", "unit_diagonal"]

EPSILON = torch.finfo(torch.float64).eps


def unit_diagonal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """``S G S`` with a unit diagonal, and the diagonal s of S.

    A zero row keeps its zeros and gets the largest of the other scales, or 1.
    """
    diagonal = gram.diagonal()
    positive = diagonal > 0
    fallback = diagonal[positive].rsqrt().max() if positive.any() else torch.ones_like(diagonal[0])
    s = torch.where(positive, diagonal.rsqrt(), fallback)
    scaled = gram * s.unsqueeze(1) * s
    scaled.diagonal().copy_(positive)
    return scaled, s


def factor(gram: Tensor) -> Tensor:
    """A matrix R with ``RᵀR = G``: its columns have the lengths and angles of the gradients."""
    values, vectors = torch.linalg.eigh(gram)
    floor = len(gram) * EPSILON * values[-1].clamp(min=0)
    root = torch.where(values > floor, values, 0.0).sqrt().unsqueeze(1) * vectors.T
    return torch.where(gram.diagonal() > 0, root, 0.0)


def nonnegative_least_squares(a: Tensor, b: Tensor) -> Tensor:
    """The ``x >= 0`` with ``|A x - b|`` least.

    Lawson & Hanson, "Solving Least Squares Problems", Prentice-Hall 1974, algorithm NNLS.
    """
    count = a.shape[1]
    passive = a.T @ b > 0
    x = _least_squares(a, b, passive).clamp(min=0.0)
    x, passive = _descend(a, b, x, x > 0)
    refused = torch.zeros(count, dtype=torch.bool)
    lengths = a.norm(dim=0)
    for _ in range(10 * count + 10):
        residual = b - a @ x
        floor = 8 * count * EPSILON * lengths * (b.norm() + (lengths * x).sum())
        slope = torch.where(passive | refused, -torch.inf, a.T @ residual - floor)
        entering = int(slope.argmax())
        if not slope[entering] > 0:
            break
        passive[entering] = True
        x, passive = _descend(a, b, x, passive)
        if passive[entering]:
            refused[:] = False
        else:
            refused[entering] = True  # by rounding: it came out at once
    return x


def _least_squares(a: Tensor, b: Tensor, passive: Tensor) -> Tensor:
    x = torch.zeros(a.shape[1], dtype=a.dtype)
    if not passive.any():
        return x
    columns = a[:, passive]
    normal = columns.T @ columns
    lower, failed = torch.linalg.cholesky_ex(normal)
    left = (lower.diagonal() ** 2 / normal.diagonal()).min()
    if failed == 0 and left > 1e-8:
        x[passive] = torch.cholesky_solve((columns.T @ b).unsqueeze(1), lower).squeeze(1)
    else:  # nearly dependent: slower, and not by the squared condition number
        x[passive] = torch.linalg.lstsq(columns, b, driver="gelsd").solution
    return x


def _descend(a: Tensor, b: Tensor, x: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """To the least squares solution on the passive set, dropping whoever reaches 0 on the way."""
    passive = passive.clone()
    while passive.any():
        target = _least_squares(a, b, passive)
        falling = passive & ~(target > 0)
        if not falling.any():
            return target, passive
        ratio = torch.where(falling & (x > target), x / (x - target), 0.0)
        ratio = torch.where(falling, ratio, torch.inf)
        blocking = int(ratio.argmin())
        x = (x + ratio[blocking] * (target - x)).clamp(min=0.0)
        passive[blocking] = False
        x[~passive] = 0.0
    return torch.zeros_like(x), passive


def least_distance(a: Tensor, bounds: Tensor, tolerance: float = 1e-14) -> Tensor | None:
    """The multipliers z >= 0 of the shortest vector ``δ = A z`` with ``Aᵀδ >= bounds``.

    Lawson & Hanson, algorithm LDP. ``None`` if there is no such vector.
    """
    size = bounds.abs().max()
    if not (bounds > 0).any():
        return torch.zeros_like(bounds)
    stacked = torch.cat([a, (bounds / size).unsqueeze(0)])
    target = torch.zeros(len(stacked), dtype=a.dtype)
    target[-1] = 1.0
    z = nonnegative_least_squares(stacked, target)
    residual = target - stacked @ z
    # |residual|² = residual[-1]: both vanish where the bounds contradict each other.
    if residual[-1] <= tolerance:
        return None
    return z * (size / residual[-1])
