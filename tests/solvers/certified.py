"""Quadratic programs in 60 digits: the active set of a double, and the proof that it is the right one."""

from __future__ import annotations

from mpmath import mp
from torch import Tensor

from .sixty_digits import exact

TINY = mp.mpf(10) ** -40


def products(jacobian: Tensor) -> mp.matrix:
    """``J Jᵀ``."""
    j = exact(jacobian)
    return j * j.T


def least_norm(gram: mp.matrix, support: list[int]) -> mp.matrix:
    """The w on the simplex with ``wᵀGw`` least, positive on ``support`` alone.

    Raises:
        AssertionError: If the support is not that of the answer.
    """
    z = _on_support(gram, [mp.mpf(1)] * len(support), support)
    w = z / sum(z)
    gains = gram * w
    square = (w.T * gains)[0]
    assert min(w[i] for i in support) > 0
    assert min(gains) >= square * (1 - TINY)
    return w


def projection(gram: mp.matrix, u: list[float], support: list[int]) -> mp.matrix:
    """The ``v >= u`` with ``vᵀGv`` least, greater than u on ``support`` alone.

    Raises:
        AssertionError: If the support is not that of the answer.
    """
    h = gram * mp.matrix(u)
    z = _on_support(gram, [-h[i] for i in support], support)
    slope = gram * z + h
    assert min([z[i] for i in support], default=1) > 0
    assert min(slope) >= -TINY * max(gram[i, i] for i in range(gram.rows))
    return mp.matrix(u) + z


def _on_support(gram: mp.matrix, right: list[mp.mpf], support: list[int]) -> mp.matrix:
    z = mp.zeros(gram.rows, 1)
    if support:
        part = mp.matrix([[gram[i, j] for j in support] for i in support])
        for i, value in zip(support, mp.lu_solve(part, mp.matrix(right)), strict=True):
            z[i] = value
    return z
