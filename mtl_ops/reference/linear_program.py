"""Linear programs on the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from .qp import EPSILON

__all__ = ["largest_on_simplex"]


def largest_on_simplex(c: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    """The ``x >= 0`` with ``Σx = 1`` and ``A x >= b`` for which ``c·x`` is largest; ``None`` if there is none.

    The simplex method on bases, each solved anew: x, then the slacks of A, then an artificial variable a row.
    """
    rows, count = a.shape
    size = a.abs().amax(dim=1)
    size = torch.where(size > 0, size, 1.0)
    matrix = torch.zeros(rows + 1, count + 2 * rows + 1, dtype=a.dtype)
    matrix[:rows, :count] = a / size.unsqueeze(1)
    matrix[rows, :count] = 1.0
    matrix[:rows, count : count + rows] = -torch.eye(rows, dtype=a.dtype)
    right = torch.cat([b / size, torch.ones(1, dtype=a.dtype)])
    sign = torch.where(right < 0, -1.0, 1.0)
    matrix, right = matrix * sign.unsqueeze(1), right * sign
    artificial = count + rows
    matrix[:, artificial:] = torch.eye(rows + 1, dtype=a.dtype)
    basis = list(range(artificial, matrix.shape[1]))
    gain = torch.zeros(matrix.shape[1], dtype=a.dtype)
    gain[artificial:] = -1.0
    basis = _climb(matrix, right, gain, basis, matrix.shape[1])
    x = _values(matrix, right, basis)
    if float(x[artificial:].sum()) > 1e-9:
        return None
    # What is left of them is rounding. The bounds give way by it: a basis that still carried it could be exchanged at a
    # coefficient as small as it is, and a variable grow to its quotient below zero.
    right = right - x[artificial:]
    gain = torch.zeros_like(gain)
    gain[:count] = c / c.abs().max().clamp(min=1e-300)
    found = _values(matrix, right, _climb(matrix, right, gain, basis, artificial))[:count]
    return found.clamp(min=0) / found.clamp(min=0).sum()


def _values(matrix: Tensor, right: Tensor, basis: list[int]) -> Tensor:
    x = torch.zeros(matrix.shape[1], dtype=matrix.dtype)
    x[basis] = torch.linalg.solve(matrix[:, basis], right)
    return x


def _climb(
    matrix: Tensor, right: Tensor, gain: Tensor, basis: list[int], allowed: int
) -> list[int]:
    """The best basis; only variables before ``allowed`` enter, and those behind must not grow."""
    small_gains = 0
    for step in range(50 * sum(matrix.shape)):
        square = matrix[:, basis]
        prices = torch.linalg.solve(square.T, gain[basis])
        reduced = (gain - matrix.T @ prices)[:allowed]
        reduced[[name for name in basis if name < allowed]] = 0.0
        rounding = 64 * EPSILON * (gain.abs() + matrix.abs().T @ prices.abs())[:allowed]
        better = (reduced > rounding).nonzero().squeeze(1)
        small_gains += not (reduced > 1e-11).any()
        if not len(better) or small_gains > sum(matrix.shape):
            break
        careful = step > 5 * sum(matrix.shape)  # the lowest index: no circle is endless
        entering = int(better[0] if careful else better[reduced[better].argmax()])
        x, pull = torch.linalg.solve(
            square, torch.stack([right, matrix[:, entering]], dim=1)
        ).unbind(1)
        names = torch.tensor(basis)
        kept_at_zero = (names >= allowed) & (pull < -1e-10)
        ratio = torch.where(pull > 1e-10, x.clamp(min=0) / pull, torch.inf)
        ratio = torch.where(kept_at_zero, 0.0, ratio)
        if not ratio.isfinite().any():
            break
        ties = (ratio <= ratio.min() + 1e-13).nonzero().squeeze(1)
        leaving = ties[names[ties].argmin()] if careful else ties[pull[ties].abs().argmax()]
        basis = [entering if place == int(leaving) else name for place, name in enumerate(basis)]
    return basis
