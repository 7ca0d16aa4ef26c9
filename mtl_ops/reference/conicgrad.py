"""ConicGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from .cagrad import at_value, norm
from .mgda import least_norm
from .qp import EPSILON, factor, least_distance, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["solve_conicgrad"]


@each_segment
def solve_conicgrad(problem: Problem, c: float) -> Tensor:
    """The d, ``|d| = |g0|``, with ``<g0, d> >= c|g0||d|`` whose least inner product with a gradient is largest.

    MGDA's direction if it is in the cone. If not, ``d = |g0| (c ĝ0 + s e)`` with ``e ⟂ g0``, ``|e| <= 1``: for a
    number t, the shortest ``s e`` with ``c p_i + <g_i, s e> >= t`` is longer the larger t is; the answer is that of
    the length s.
    """
    gram = problem.gram
    uniform = torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    lengths = gram.diagonal().clamp(min=0).sqrt()
    mean = norm(gram, uniform)
    if lengths.max() <= 0 or mean <= 64 * EPSILON * lengths.max():
        return torch.zeros_like(uniform)
    if c >= 1:
        return uniform
    w = least_norm(gram)
    shortest = norm(gram, w)
    stationary = shortest <= 1e-7 * (w @ lengths)
    if not stationary and uniform @ gram @ w / mean >= c * shortest * (1 - 1e-12):
        return w * mean / shortest
    p = gram @ uniform / mean
    z = _on_border(gram, p, c, bool(stationary))
    if z is None:
        return uniform
    w = (c - p @ z) * uniform + mean * z
    return w * mean / norm(gram, w)


def _on_border(gram: Tensor, p: Tensor, c: float, stationary: bool) -> Tensor | None:
    """Z with ``s e = Σ z_i a_i``, a_i the parts orthogonal to g0; ``None`` if nothing leaves all tasks unharmed."""
    across = gram - p.outer(p)
    parallel = across.diagonal() <= 64 * EPSILON * gram.diagonal()
    across[parallel] = 0.0
    across[:, parallel] = 0.0
    if not across.diagonal().any():
        return None
    scaled, unit = unit_diagonal(across)
    root, sine = factor(scaled), (1 - c * c) ** 0.5

    def shortest(t: Tensor) -> Tensor | None:
        z = least_distance(root, (t - c * p) * unit)
        return None if z is None else z * unit

    if stationary:
        z = shortest(torch.zeros_like(p[0]))
        return z if z is not None and norm(across, z) <= sine else None
    high = (c * p + sine * across.diagonal().clamp(min=0).sqrt()).min()
    return at_value(across, shortest, c * p.min(), high, torch.tensor(sine, dtype=torch.float64))
