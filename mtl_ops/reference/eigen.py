"""Eigenvalues and eigenvectors of positive semidefinite matrices, the small ones as accurate."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["cosines", "eigh", "rank"]

MAX_SWEEPS = 30


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in descending order and eigenvectors, by cyclic two-sided Jacobi rotations.

    Rotations go on until ``|a_pq| <= 4ε √(a_pp a_qq)`` for all p and q. Because that is relative,
    the error of each eigenvalue of ``D C D`` depends on the condition of C alone, which
    ``torch.linalg.eigh`` does not offer (Demmel and Veselić, "Jacobi's method is more accurate than
    QR", SIAM J. Matrix Anal. Appl. 1992).
    """
    a, n = matrix.clone(), len(matrix)
    eps = torch.finfo(a.dtype).eps
    rows = torch.eye(n, dtype=a.dtype)  # the eigenvectors
    noise = eps**2 * a.diagonal().max()
    for _ in range(MAX_SWEEPS):
        rotated = False
        for p, q in _rounds(n):
            app, aqq, apq = a[p, p], a[q, q], a[p, q]
            chosen = apq.abs() > torch.maximum(4 * eps * (app * aqq).abs().sqrt(), noise)
            if not chosen.any():
                continue
            rotated = True
            cotangent = (aqq - app) / (2 * torch.where(chosen, apq, 1.0))
            tangent = torch.copysign(1 / (cotangent.abs() + (1 + cotangent**2).sqrt()), cotangent)
            tangent = torch.where(chosen, tangent, 0.0).unsqueeze(1)
            cosine = (1 + tangent**2).rsqrt()
            for matrix in (rows, a, a.T):
                left, right = matrix[p], matrix[q]
                matrix[p] = cosine * (left - tangent * right)
                matrix[q] = cosine * (right + tangent * left)
            a[p, q] = a[q, p] = torch.where(chosen, 0.0, apq)
        if not rotated:
            break
    values, order = a.diagonal().sort(descending=True, stable=True)
    return values, rows[order].T


@functools.lru_cache
def _rounds(n: int) -> list[tuple[Tensor, Tensor]]:
    """All pairs of n, in rounds in which each takes part once at most, as in a tournament."""
    last = n - 1 + n % 2
    rounds = []
    for turn in range(last):
        pairs = [(turn, last)]
        pairs += [((turn + k) % last, (turn - k) % last) for k in range(1, (last + 1) // 2)]
        present = [(p, q) for p, q in pairs if p < n and q < n]
        if present:
            first, second = zip(*present, strict=True)
            rounds.append((torch.tensor(first), torch.tensor(second)))
    return rounds


def cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The lengths n of the gradients, and the matrix C of their cosines; 0 for a zero gradient."""
    lengths = gram.diagonal().sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    matrix = gram * inverse.outer(inverse)
    matrix.diagonal().copy_(lengths > 0)
    return lengths, matrix


def rank(values: Tensor, rank_tol: float | None) -> int:
    """How many eigenvalues of a cosine matrix are more than ``rank_tol`` times the largest.

    ``None`` stands for ``32 k ε``, which the rounding of an exact Gram matrix calls for.
    """
    if rank_tol is None:
        rank_tol = 32 * len(values) * torch.finfo(values.dtype).eps
    return int(((values > rank_tol * values[0]) & (values > 0)).sum())
