"""GradOPS and DiBS-MTL."""

from __future__ import annotations

import torch
from torch import Tensor

from .qp import unit_diagonal
from .segments import Problem, each_segment

__all__ = ["solve_dibs_mtl", "solve_gradops"]


@each_segment
def solve_gradops(
    problem: Problem, alpha: float, project_all: bool, rank_tol: float | None, rounding: float
) -> Tensor:
    """``Σ_i r_i g_i'``, g_i' what of g_i is orthogonal to all others where it conflicts with one."""
    cosines, s = unit_diagonal(problem.gram)
    k = problem.count
    lambdas, vectors = torch.linalg.eigh(cosines)
    tolerance = 8 * k * rounding if rank_tol is None else rank_tol
    kept = vectors[:, lambdas > tolerance * lambdas[-1].clamp(min=0)]
    inverse = kept / lambdas[lambdas > tolerance * lambdas[-1].clamp(min=0)] @ kept.T
    left = torch.zeros_like(cosines)  # row i: ĝ_i' in terms of the unit gradients
    for i in range(k):
        if cosines[i, i] <= 0:
            continue
        if not (project_all or (cosines[i] < 0).any()):
            left[i, i] = 1.0
        elif 1.0 - float((kept[i] ** 2).sum()) <= 1e-8:
            left[i] = inverse[i] / inverse[i, i]
    lengths = torch.where(cosines.diagonal() > 0, 1 / s, 0.0)
    shares = torch.ones_like(s)
    if alpha != 0:
        gain = cosines @ (lengths @ left)
        gains = gain > 1e-8 * lengths
        logs = torch.where(gains, gain.clamp(min=1e-300).log(), 0.0)
        power = (alpha * (logs - logs.sum() / gains.sum())).exp()
        shares = torch.where(gains, power, 0.0)
        shares = shares / (shares.sum() / gains.sum()) if gains.any() else shares
    return (shares * lengths) @ left * s


@each_segment
def solve_dibs_mtl(problem: Problem, steps: int, step: float) -> Tensor:
    """``y <- y + step |x + ĝ_i|``, ``x = -Σ y_i ĝ_i``, until ``|x| > 1``; ``w_i = y_i / n_i``."""
    cosines, s = unit_diagonal(problem.gram)
    y = torch.zeros_like(s)
    for _ in range(steps):
        inner = cosines @ y
        square = y @ inner
        pull = (square - 2 * inner + 1).clamp(min=0).sqrt()
        y = y + step * torch.where(cosines.diagonal() > 0, pull, 0.0)
        if y @ cosines @ y > 1:
            break
    return y * s
