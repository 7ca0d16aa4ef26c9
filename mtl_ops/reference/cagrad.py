"""CAGrad."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .mgda import least_norm
from .qp import EPSILON, factor, least_distance, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["at_value", "norm", "solve_cagrad"]


@each_segment
def solve_cagrad(problem: Problem, c: float, rescale: int, norm_eps: float) -> Tensor:
    """``w = 1/k + z`` of the d with ``min_i <g_i, d>`` largest in ``|d - g0| <= c|g0|``.

    For a number t, the d nearest to g0 with ``<g_i, d> >= t`` for all i is ``g0 + Jᵀz``; the further
    up t is, the further away is d. The answer is d at the distance c|g0|.
    """
    gram = problem.gram
    uniform = torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    mean = norm(gram, uniform)
    trace = gram.trace()
    longest = gram.diagonal().max().sqrt()
    if trace <= 0 or trace < norm_eps or mean <= 64 * EPSILON * longest:
        return torch.zeros_like(uniform)
    factor_ = {0: 1.0, 1: 1.0 / (1.0 + c * c), 2: 1.0 / (1.0 + c)}[rescale]
    if c == 0:
        return factor_ * uniform
    z, stopped = _at_distance(gram, uniform, c * mean)
    pull = norm(gram, z)
    if (stopped and norm_eps > 0) or pull < norm_eps * trace.sqrt() * z.sum():
        return torch.zeros_like(uniform)
    return factor_ * (uniform + (z if stopped else (c * mean / pull) * z))


def _at_distance(gram: Tensor, uniform: Tensor, r: Tensor) -> tuple[Tensor, bool]:
    """The z with ``|Jᵀz| = r``; that of t = 0 and True if 0 is in the hull and it is shorter."""
    scaled, s = unit_diagonal(gram)
    root = factor(scaled)
    inner = gram @ uniform
    ones = torch.ones_like(uniform)

    def nearest(t: Tensor) -> Tensor | None:
        z = least_distance(root, (t * ones - inner) * s)
        return None if z is None else z * s

    low = inner.min()
    high = (gram.diagonal().sqrt() * (r + norm(gram, uniform))).min()
    w = least_norm(gram)
    if norm(gram, w) <= 1e-7 * (w @ gram.diagonal().sqrt()):
        high = torch.zeros_like(low)
        z = nearest(high)
        if z is not None and norm(gram, z) < r * (1 - 1e-12):
            return z, True
    return at_value(gram, nearest, low, high, r), False


def at_value(
    gram: Tensor, nearest: Callable[[Tensor], Tensor | None], low: Tensor, high: Tensor, r: Tensor
) -> Tensor:
    """Newton's method on t for ``|Jᵀz(t)| = r``, which is convex; kept within ``[low, high]``."""
    t = (low + high) / 2
    z = torch.zeros(len(gram), dtype=torch.float64)
    for _ in range(100):
        found = nearest(t)
        if found is None:
            high = t
            t = (low + high) / 2
            continue
        z = found
        distance = norm(gram, z)
        if abs(distance - r) <= 1e-14 * r:
            break
        low, high = (low, t) if distance > r else (t, high)
        step = (distance - r) * distance / z.sum()
        t = t - step if z.sum() > 0 and low < t - step < high else (low + high) / 2
        if high - low <= 4 * EPSILON * high.abs().maximum(low.abs()):
            break
    return z


def norm(gram: Tensor, w: Tensor) -> Tensor:
    """``|Jᵀw|``."""
    return (w @ gram @ w).clamp(min=0).sqrt()
