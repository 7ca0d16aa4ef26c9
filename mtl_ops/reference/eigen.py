"""Eigenvalues and eigenvectors of positive semidefinite matrices, the small ones as accurate."""

from __future__ import annotations

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
    a = matrix.clone()
    n = len(a)
    eps = torch.finfo(a.dtype).eps
    vectors = torch.eye(n, dtype=a.dtype)
    for _ in range(MAX_SWEEPS):
        rotated = False
        for p, q in _rounds(n):
            app, aqq, apq = a[p, p], a[q, q], a[p, q]
            size = (4 * eps * (app * aqq).abs().sqrt()).clamp(
                min=eps**2 * float(a.diagonal().max())
            )
            chosen = apq.abs() > size
            if not chosen.any():
                continue
            rotated = True
            p, q, app, aqq, apq = p[chosen], q[chosen], app[chosen], aqq[chosen], apq[chosen]
            cotangent = (aqq - app) / (2 * apq)
            tangent = torch.copysign(1 / (cotangent.abs() + (1 + cotangent**2).sqrt()), cotangent)
            cosine = (1 + tangent**2).rsqrt()
            sine = cosine * tangent
            _rotate_columns(vectors, p, q, cosine, sine)
            _rotate_columns(a, p, q, cosine, sine)
            _rotate_columns(a.T, p, q, cosine, sine)
            a[p, q] = a[q, p] = 0.0
        if not rotated:
            break
    values, order = a.diagonal().sort(descending=True, stable=True)
    return values, vectors[:, order]


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


def _rotate_columns(a: Tensor, p: Tensor, q: Tensor, cosine: Tensor, sine: Tensor) -> None:
    left, right = a[:, p], a[:, q]
    a[:, p], a[:, q] = cosine * left - sine * right, sine * left + cosine * right


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
