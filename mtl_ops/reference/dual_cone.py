"""UPGrad and DualProj."""

from __future__ import annotations

import torch
from torch import Tensor

from .eigen import EXACT, noise_of
from .qp import factor, nonnegative_least_squares, unit_diagonal
from .segments import Problem, each_segment

__all__ = ["solve_dualproj", "solve_upgrad"]

LEAST_RIDGE = 1e-6
ROUNDS = 8
SETTLED = 1e-14


@each_segment
def solve_upgrad(
    problem: Problem,
    preference: Tensor | None,
    scale_rows: bool,
    reg_eps: float | None,
    norm_eps: float,
    rounding: float = EXACT,
) -> Tensor:
    """``w = Σ_i π(p_i e_i)``, ``π(u)`` the v >= u with ``vᵀGv`` least."""
    p = _preferred(problem, preference)
    if _too_small(problem, norm_eps):
        return p
    cone = _Cone(problem, scale_rows, reg_eps, rounding)
    w = p.clone()
    for i, u in enumerate(torch.eye(problem.count, dtype=p.dtype)):
        w += p[i] / cone.s[i] * cone.s * cone.project(u)
    return w


@each_segment
def solve_dualproj(
    problem: Problem,
    preference: Tensor | None,
    scale_rows: bool,
    reg_eps: float | None,
    norm_eps: float,
    rounding: float = EXACT,
) -> Tensor:
    """``w = π(p)``, see :func:`solve_upgrad`."""
    p = _preferred(problem, preference)
    if _too_small(problem, norm_eps):
        return p
    cone = _Cone(problem, scale_rows, reg_eps, rounding)
    return p + cone.s * cone.project(p / cone.s)


def _preferred(problem: Problem, preference: Tensor | None) -> Tensor:
    if preference is None:
        return torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    return preference.to("cpu", torch.float64)[problem.tasks]


def _too_small(problem: Problem, norm_eps: float) -> bool:
    trace = problem.gram.trace().item()
    return trace <= 0 or trace < norm_eps


class _Cone:
    """The Gram matrix with its ridge, scaled to a unit diagonal: ``S (G + ridge) S = RᵀR``.

    A ridge ``reg_eps`` that is given draws v to 0. Else it draws v to the answer before, in several rounds, and
    leaves no trace where the gradients determine v (Rockafellar, "Monotone Operators and the Proximal Point
    Algorithm", SIAM J. Control Optim. 1976).
    """

    def __init__(
        self, problem: Problem, scale_rows: bool, reg_eps: float | None, rounding: float
    ) -> None:
        self.rounds = ROUNDS if reg_eps is None else 1
        if reg_eps is None:
            reg_eps = max(LEAST_RIDGE, noise_of(rounding, problem.count))
        gram = problem.gram.clone()
        diagonal = gram.diagonal()
        ridge = reg_eps * (diagonal if scale_rows else diagonal.sum().expand_as(diagonal))
        diagonal += ridge
        self.scaled, self.s = unit_diagonal(gram)
        self.ridge = ridge * self.s**2
        self.root = factor(self.scaled)

    def project(self, u: Tensor) -> Tensor:
        """``v - u`` of the v >= u with ``vᵀ S G S v`` least."""
        x = nonnegative_least_squares(self.root, -self.root @ u)
        for _ in range(1, self.rounds):
            # Rᵀb = ridge ∘ v - RᵀR u
            drawn = torch.linalg.lstsq(
                self.root.T, (self.ridge * (u + x)).unsqueeze(1), driver="gelsd"
            )
            last, x = (
                x,
                nonnegative_least_squares(self.root, drawn.solution.squeeze(1) - self.root @ u),
            )
            if (self.ridge * (x - last)).abs().max() <= SETTLED * (u + x).max():
                break
        return x
