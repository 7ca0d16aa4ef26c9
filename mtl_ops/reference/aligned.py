"""Aligned-MTL."""

from __future__ import annotations

from torch import Tensor

from .eigen import EXACT, cosines, eigh, rank, semidefinite_eigh, tolerance
from .segments import Problem, each_segment

__all__ = ["solve_aligned_mtl"]


@each_segment
def solve_aligned_mtl(
    problem: Problem,
    preference: Tensor | None,
    scale_mode: int,
    rank_tol: float | None,
    rounding: float = EXACT,
) -> Tensor:
    """``w = √σ V Λ^{-1/2} Vᵀ p`` over the eigenvalues of G that count.

    σ is the least of them (``scale_mode`` 0), the lower median (1) or their mean (2).
    """
    gram = problem.gram
    p = problem.preference(preference, 1.0 / problem.count)
    least = tolerance(rank_tol, rounding, problem.count)
    count = rank(eigh(cosines(gram)[1])[0], least)
    if count == 0:
        return p
    values, vectors = semidefinite_eigh(gram / gram.diagonal().max(), least)
    count = min(count, len(values))
    kept, v = values[:count], vectors[:, :count]
    square = (kept.min(), kept.median(), kept.mean())[scale_mode]
    return v @ ((square / kept).sqrt() * (v.T @ p))
