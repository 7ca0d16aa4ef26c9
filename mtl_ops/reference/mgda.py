"""MGDA, exact and by Frank and Wolfe."""

from __future__ import annotations

import torch
from torch import Tensor

from .qp import factor, nonnegative_least_squares, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["least_norm", "solve_mgda", "solve_mgda_frank_wolfe"]


def least_norm(gram: Tensor) -> Tensor:
    """The w on the simplex with ``wᵀGw`` least.

    It is parallel to the ``z >= 0`` with ``zᵀGz + (1ᵀz - 1)²`` least.
    """
    zero = gram.diagonal() <= 0
    if zero.any():
        return zero / zero.sum(dtype=torch.float64)
    scaled, s = unit_diagonal(gram)
    stacked = torch.cat([factor(scaled), (s / s.max()).unsqueeze(0)])
    target = torch.zeros(len(stacked), dtype=torch.float64)
    target[-1] = 1.0
    z = nonnegative_least_squares(stacked, target) * (s / s.max())
    return z / z.sum()


@each_segment
def solve_mgda(problem: Problem, min_weights: Tensor | None = None) -> Tensor:
    """The weights of the point of least norm in the convex hull of the gradients, each at least what is given.

    ``w = c + (1 - Σc) v``, where v is that of the gradients moved together by ``Jᵀc``.
    """
    least = problem.preference(min_weights, 0.0)
    rest = 1.0 - float(least.sum())
    if min_weights is None or rest <= 1e-12 or not problem.gram.any():
        even = torch.full_like(least, rest / problem.count)
        return least_norm(problem.gram) if min_weights is None else least + even.clamp(min=0)
    scaled, s = unit_diagonal(problem.gram)
    rows = factor(scaled).T / s.unsqueeze(1)
    rows = torch.where(problem.gram.diagonal().unsqueeze(1) > 0, rows, 0.0)
    moved = rest * rows + least @ rows
    return least + rest * least_norm(moved @ moved.T)


@each_segment
def solve_mgda_frank_wolfe(problem: Problem, epsilon: float, max_iters: int) -> Tensor:
    """The same by Frank & Wolfe with exact line search, until a step is below ``epsilon``."""
    gram = problem.gram
    w = torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    for _ in range(max_iters):
        v = gram @ w
        worst = int(v.argmin())
        d_d, d_g, g_g = (w @ v).item(), v[worst].item(), gram[worst, worst].item()
        if g_g <= d_g:
            step = 1.0
        elif d_d <= d_g:
            step = 0.0
        else:
            step = (d_d - d_g) / (d_d + g_g - 2 * d_g)
        w = (1 - step) * w
        w[worst] += step
        if step < epsilon:
            break
    return w
