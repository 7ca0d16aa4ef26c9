"""IMTL-G and ConFIG."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eigen import EXACT, cosines, eigh, noise_of, rank, semidefinite_eigh, tolerance
from .segments import Problem, each_segment

__all__ = ["solve_config", "solve_imtl_g"]


def pseudo_inverse_times(values: Tensor, vectors: Tensor, count: int, x: Tensor) -> Tensor:
    """``A⁺x``, from the ``count`` largest eigenvalues of A."""
    v = vectors[:, :count]
    return v @ (v.T @ x / values[:count])


def config(gram: Tensor, preference: Tensor, least: float, noise: float) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n`` with ``x = C⁺p``."""
    lengths, matrix = cosines(gram)
    values, vectors = eigh(matrix)
    x = pseudo_inverse_times(values, vectors, rank(values, least), preference)
    square = x @ matrix @ x
    if square <= max(1e-24, noise**2) * preference @ preference:
        return torch.zeros_like(x)
    length = lengths @ matrix @ x / square
    return torch.where(lengths > 0, length * x / lengths, 0.0)


@each_segment
def solve_config(
    problem: Problem, preference: Tensor | None, rank_tol: float | None, rounding: float = EXACT
) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n`` with ``x = C⁺p``, C the cosine matrix and n the lengths."""
    least = tolerance(rank_tol, rounding, problem.count)
    return config(
        problem.gram, problem.preference(preference, 1.0), least, noise_of(rounding, problem.count)
    )


@each_segment
def solve_imtl_g(
    problem: Problem, avoid_ascent: bool, rank_tol: float | None, rounding: float = EXACT
) -> Tensor:
    """``w = v / Σv`` with ``v = G⁺n``; what ``avoid_ascent`` says where ``Σv`` is negative."""
    gram, noise = problem.gram, noise_of(rounding, problem.count)
    least = tolerance(rank_tol, rounding, problem.count)
    lengths, matrix = cosines(gram)
    values, vectors = eigh(matrix)
    count = rank(values, least)
    zero = max(1e-12, noise)  # what a sum of v may be and yet be rounding, as a share of its terms
    if count == int((lengths > 0).sum()):
        x = pseudo_inverse_times(values, vectors, count, torch.ones_like(lengths))
        v = torch.where(lengths > 0, x / lengths, 0.0)
    else:
        # Where G 1 = 0 the sum is 0; what the null space is off in C counts n_i⁻¹ there.
        longest = lengths.max()
        shortest = lengths[lengths > 0].min() if (lengths > 0).any() else longest
        zero = max(zero, min(1e-3, noise * float(longest / shortest)))
        if (
            rounding > 2.0**-22
        ):  # rows of 16 bits: a null vector moves by the root of what its value does
            zero = max(zero, math.sqrt(noise))
        values, vectors = semidefinite_eigh(gram / longest**2, least)
        count = min(count, len(values))
        v = pseudo_inverse_times(values, vectors, count, lengths / longest)
    balanced = v.sum().abs() <= zero * v.abs().sum()
    if avoid_ascent and (balanced or v.sum() < 0):
        return config(gram, torch.ones_like(lengths), least, noise)
    return torch.zeros_like(v) if balanced else v / v.sum()
