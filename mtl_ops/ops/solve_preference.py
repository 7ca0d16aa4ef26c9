"""Solvers that look at the losses ``(T,)`` float64, too: towards the point that a preference asks for.

``preference`` r is ``(T,)`` float64 and positive, or 1. Losses of tasks that take no part are not looked at; one of
another that is not finite makes the answer NaN.
"""

from __future__ import annotations

from torch import Tensor

from .rounding import EXACT
from .solve import Solver

__all__ = ["solve_epo", "solve_ferero", "solve_pmgda"]

_solve_epo = Solver("solve_epo")
_solve_pmgda = Solver("solve_pmgda")
_solve_ferero = Solver("solve_ferero")


def solve_epo(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    losses: Tensor,
    preference: Tensor | None = None,
    tol: float = 1e-4,
    relax: bool = False,
) -> Tensor:
    """Weights on the simplex that make all ``r_i L_i`` equal, and descend where they are."""
    return _solve_epo(gram, scale, losses, preference, tol, relax)


def solve_pmgda(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    losses: Tensor,
    preference: Tensor | None = None,
    h_tol: float = 1e-2,
    sigma: float = 0.95,
) -> Tensor:
    """Towards the ray of r where L is further than ``h_tol`` from it; MGDA elsewhere."""
    return _solve_pmgda(gram, scale, losses, preference, h_tol, sigma)


def solve_ferero(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    losses: Tensor,
    preference: Tensor | None = None,
    kappa: float = 1.0,
    rounding: float = EXACT,
) -> Tensor:
    """``λ + q``, λ on the simplex and q ⟂ r, with ``½|Jᵀ(λ + q)|² - κ q·L`` least."""
    return _solve_ferero(gram, scale, losses, preference, kappa, rounding)
