"""UPGrad and DualProj."""

from __future__ import annotations

import torch
from torch import Tensor

from .qp import factor, nonnegative_least_squares, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["solve_dualproj", "solve_upgrad"]


@each_segment
def solve_upgrad(
    problem: Problem, preference: Tensor | None, scale_rows: bool, reg_eps: float, norm_eps: float
) -> Tensor:
    """``w = Σ_i π(p_i e_i)``, ``π(u)`` the v >= u with ``vᵀ(G + ridge)v`` least."""
    p = _preferred(problem, preference)
    if _too_small(problem, norm_eps):
        return p
    root, s = _ridged(problem, scale_rows, reg_eps)
    w = p.clone()
    for i in range(problem.count):
        w += p[i] / s[i] * s * nonnegative_least_squares(root, -root[:, i])
    return w


@each_segment
def solve_dualproj(
    problem: Problem, preference: Tensor | None, scale_rows: bool, reg_eps: float, norm_eps: float
) -> Tensor:
    """``w = π(p)``, see :func:`solve_upgrad`."""
    p = _preferred(problem, preference)
    if _too_small(problem, norm_eps):
        return p
    root, s = _ridged(problem, scale_rows, reg_eps)
    return p + s * nonnegative_least_squares(root, -root @ (p / s))


def _preferred(problem: Problem, preference: Tensor | None) -> Tensor:
    if preference is None:
        return torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    return preference.to("cpu", torch.float64)[problem.tasks]


def _too_small(problem: Problem, norm_eps: float) -> bool:
    trace = problem.gram.trace().item()
    return trace <= 0 or trace < norm_eps


def _ridged(problem: Problem, scale_rows: bool, reg_eps: float) -> tuple[Tensor, Tensor]:
    """R and s with ``RᵀR = S (G + ridge) S`` of unit diagonal."""
    gram = problem.gram.clone()
    diagonal = gram.diagonal()
    diagonal += reg_eps * (diagonal if scale_rows else diagonal.sum())
    scaled, s = unit_diagonal(gram)
    return factor(scaled), s
