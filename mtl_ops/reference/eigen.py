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
    n = len(matrix)
    a = torch.nn.functional.pad(matrix, (0, n % 2, 0, n % 2))
    half = len(a) // 2  # place i of the first half meets place i of the second half
    rows = torch.eye(len(a), dtype=a.dtype)  # the eigenvectors
    eps = torch.finfo(a.dtype).eps
    noise = eps**2 * a.diagonal().max()
    for _ in range(MAX_SWEEPS):
        rotated = False
        for _ in range(len(a) - 1):
            app, aqq = a.diagonal()[:half], a.diagonal()[half:]
            apq = a[:half, half:].diagonal().clone()
            chosen = apq.abs() > torch.maximum(4 * eps * (app * aqq).abs().sqrt(), noise)
            if chosen.any():
                rotated = True
                cotangent = (aqq - app) / (2 * torch.where(chosen, apq, 1.0))
                tangent = 1 / (cotangent.abs() + (1 + cotangent**2).sqrt())
                tangent = torch.where(chosen, torch.copysign(tangent, cotangent), 0.0)
                for target in (rows, a, a.T):
                    _rotate(target, tangent.unsqueeze(1))
                for block in (a[:half, half:], a[half:, :half]):
                    block.diagonal().copy_(torch.where(chosen, 0.0, apq))
            a, rows = _seat(_seat(a).T), _seat(rows)
        if not rotated:
            break
    real = rows[:, n:].sum(dim=1) == 0  # not the padding
    values, order = a.diagonal()[real].sort(descending=True, stable=True)
    return values, rows[real][order, :n].T


def _rotate(target: Tensor, tangent: Tensor) -> None:
    """Turns each row of the first half and its partner in the second by an angle."""
    half = len(target) // 2
    cosine = (1 + tangent**2).rsqrt()
    left, right = target[:half].clone(), target[half:].clone()
    target[:half] = cosine * (left - tangent * right)
    target[half:] = cosine * (right + tangent * left)


def _seat(rows: Tensor) -> Tensor:
    """The next round of a tournament: the first row stays where it is, the others move on."""
    half = len(rows) // 2
    if half == 1:
        return rows
    moved = (rows[:1], rows[half : half + 1], rows[1 : half - 1], rows[half + 1 :])
    return torch.cat([*moved, rows[half - 1 : half]])


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
