"""IMTL-G and ConFIG."""

from __future__ import annotations

import torch
from torch import Tensor

from .eigen import cosines, eigh, rank
from .segments import Problem, each_segment

__all__ = ["solve_config", "solve_imtl_g"]


def pseudo_inverse_times(values: Tensor, vectors: Tensor, count: int, x: Tensor) -> Tensor:
    """``A⁺x``, from the ``count`` largest eigenvalues of A."""
    v = vectors[:, :count]
    return v @ (v.T @ x / values[:count])


def config(gram: Tensor, preference: Tensor, rank_tol: float | None) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n`` with ``x = C⁺p``."""
    lengths, matrix = cosines(gram)
    values, vectors = eigh(matrix)
    x = pseudo_inverse_times(values, vectors, rank(values, rank_tol), preference)
    square = x @ matrix @ x
    if square <= 1e-24 * preference @ preference:
        return torch.zeros_like(x)
    length = lengths @ matrix @ x / square
    return torch.where(lengths > 0, length * x / lengths, 0.0)


@each_segment
def solve_config(problem: Problem, preference: Tensor | None, rank_tol: float | None) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n`` with ``x = C⁺p``, C the cosine matrix and n the lengths."""
    return config(problem.gram, problem.preference(preference, 1.0), rank_tol)


@each_segment
def solve_imtl_g(problem: Problem, avoid_ascent: bool, rank_tol: float | None) -> Tensor:
    """``w = v / Σv`` with ``v = G⁺n``; what ``avoid_ascent`` says where ``Σv`` is negative."""
    gram = problem.gram
    lengths, matrix = cosines(gram)
    values, vectors = eigh(matrix)
    count = rank(values, rank_tol)
    if count == int((lengths > 0).sum()):
        x = pseudo_inverse_times(values, vectors, count, torch.ones_like(lengths))
        v = torch.where(lengths > 0, x / lengths, 0.0)
    else:
        longest = lengths.max()
        values, vectors = eigh(gram / longest**2)
        v = pseudo_inverse_times(values, vectors, count, lengths / longest)
    balanced = v.sum().abs() <= 1e-12 * v.abs().sum()
    if avoid_ascent and (balanced or v.sum() < 0):
        return config(gram, torch.ones_like(lengths), rank_tol)
    return torch.zeros_like(v) if balanced else v / v.sum()
