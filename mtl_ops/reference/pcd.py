"""PCD."""

from __future__ import annotations

import torch
from torch import Tensor

from .qp import EPSILON, factor, least_distance, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["solve_pcd"]


@each_segment
def solve_pcd(problem: Problem, state: Tensor, tau: float, beta: float, eps: float) -> Tensor:
    """``w`` of the d nearest to ĝ_0 with ``<ĝ_j, d> >= τ|ĝ_j|²``, at the length of g_0.

    ``ĝ_t = g_t / √(mean of |g_t|² + eps)``; the means are kept in ``state`` ``(S, 2, T)``, beside the
    total weight that is in them.
    """
    gram = problem.gram
    squares = gram.diagonal()
    memory = state[problem.segment].to("cpu", torch.float64)
    part = torch.stack([squares, torch.ones_like(squares)])
    memory[:, problem.tasks] = beta * memory[:, problem.tasks] + (1 - beta) * part
    state[problem.segment] = memory
    means, totals = memory[:, problem.tasks]
    scale = (means / totals + eps).rsqrt()
    scale = torch.where(scale.isfinite(), scale, 0.0)
    if problem.tasks[0] != 0 or not gram[0, 0] > 0:
        return torch.zeros_like(squares)

    x = torch.ones_like(squares)
    x[1:] = _multipliers(gram * scale.outer(scale), tau)
    x *= scale
    square, size = x @ gram @ x, x @ squares.sqrt()
    if square <= 10 * EPSILON * size**2:
        return torch.zeros_like(x)
    return x * (squares[0] / square).sqrt()


def _multipliers(gram: Tensor, tau: float) -> Tensor:
    """Of the constraints, or 0 where they contradict each other."""
    if len(gram) == 1:
        return gram.new_zeros(0)
    others = gram[1:, 1:]
    scaled, s = unit_diagonal(others)
    z = least_distance(factor(scaled), (tau * others.diagonal() - gram[1:, 0]) * s, 1e-9)
    return torch.zeros_like(s) if z is None else z * s
