"""Eigenvalues and eigenvectors of positive semidefinite matrices, the small ones as accurate."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["EXACT", "cosines", "eigh", "noise_of", "rank", "semidefinite_eigh", "tolerance"]

MAX_SWEEPS = 30

#: The rounding of a Gram matrix of float64 gradients, as a share of ``√(G_ii G_jj)``.
EXACT = 4 * torch.finfo(torch.float64).eps


def eigh(matrix: Tensor, definite: bool = False) -> tuple[Tensor, Tensor]:
    """Eigenvalues in descending order and eigenvectors, by cyclic two-sided Jacobi rotations.

    Rotations go on until ``|a_pq| <= 4ε √(a_pp a_qq)`` for all p and q. Because that is relative,
    the error of each eigenvalue of ``D C D`` depends on the condition of C alone, which
    ``torch.linalg.eigh`` does not offer (Demmel and Veselić, "Jacobi's method is more accurate than
    QR", SIAM J. Matrix Anal. Appl. 1992). Unless the matrix is ``definite``, what is below ``ε²`` of
    the largest entry is taken for the rounding of a 0 and left alone.
    """
    n = len(matrix)
    a = torch.nn.functional.pad(matrix, (0, n % 2, 0, n % 2))
    half = len(a) // 2  # place i of the first half meets place i of the second half
    rows = torch.eye(len(a), dtype=a.dtype)  # the eigenvectors
    eps = torch.finfo(a.dtype).eps
    noise = torch.zeros(()) if definite else eps**2 * a.diagonal().max()
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


def semidefinite_eigh(matrix: Tensor, dependent: float) -> tuple[Tensor, Tensor]:
    """The eigenvalues above 0, in descending order, and their eigenvectors.

    The matrix is first factorised, ``A = LLᵀ``, the largest pivots first, and rows of whose diagonal entry the
    others leave no more than the share ``dependent`` end it. What rounding leaves of a long gradient that depends
    on others is thereby not mistaken for a short one that does not.
    """
    n = len(matrix)
    dependent = max(dependent, 2 * n * torch.finfo(matrix.dtype).eps)
    rest = matrix.diagonal().clone()
    columns: list[Tensor] = []
    for _ in range(n):
        open_ = rest > dependent * matrix.diagonal()
        if not open_.any():
            break
        pivot = int(torch.where(open_, rest, -torch.inf).argmax())
        column = matrix[pivot].clone()
        for earlier in columns:
            column -= earlier[pivot] * earlier
        column = torch.where(rest > 0, column / rest[pivot].sqrt(), 0.0)
        rest = (rest - column**2).clamp(min=0)
        rest[pivot] = 0.0
        columns.append(column)
    if not columns:
        return matrix.new_zeros(0), matrix.new_zeros(n, 0)
    if len(columns) == n:
        return eigh(matrix, definite=True)
    return _squares_of_orthogonal(torch.stack(columns))


def _squares_of_orthogonal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``RᵀR``: the rows are turned until they are orthogonal (Hestenes, J. SIAM 1958)."""
    count, n = rows.shape
    rows = torch.nn.functional.pad(rows, (0, 0, 0, count % 2))
    half = len(rows) // 2
    tolerance = n * torch.finfo(rows.dtype).eps
    for _ in range(MAX_SWEEPS):
        rotated = False
        for _ in range(len(rows) - 1):
            left, right = rows[:half], rows[half:]
            inner = (left * right).sum(dim=1)
            squares, others = left.square().sum(dim=1), right.square().sum(dim=1)
            chosen = inner.abs() > tolerance * torch.minimum(squares, others)
            if chosen.any():
                rotated |= bool((inner.abs() > tolerance * (squares * others).sqrt()).any())
                cotangent = (others - squares) / (2 * torch.where(chosen, inner, 1.0))
                tangent = 1 / (cotangent.abs() + (1 + cotangent**2).sqrt())
                tangent = torch.where(chosen, torch.copysign(tangent, cotangent), 0.0)
                _rotate(rows, tangent.unsqueeze(1))
            rows = _seat(rows)
        if not rotated:
            break
    values, order = rows.square().sum(dim=1).sort(descending=True, stable=True)
    values, order = values[:count], order[:count]
    return values, (rows[order] / values.sqrt().unsqueeze(1)).T


def noise_of(rounding: float, count: int) -> float:
    """How far rounding may move an eigenvalue of the cosine matrix of ``count`` gradients."""
    return 8 * count * rounding


def tolerance(rank_tol: float | None, rounding: float, count: int) -> float:
    """The share of the largest eigenvalue that a smaller one has to exceed."""
    return noise_of(rounding, count) if rank_tol is None else rank_tol


def rank(values: Tensor, least: float) -> int:
    """How many eigenvalues of a cosine matrix are more than ``least`` times the largest."""
    return int(((values > least * values[0]) & (values > 0)).sum())
