"""SDMGrad and MoDo: projected steps on the simplex, from weights that are remembered."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Problem, each_segment

__all__ = ["project_simplex", "solve_modo", "solve_sdmgrad"]


def project_simplex(y: Tensor) -> Tensor:
    """The nearest point to y on ``{x >= 0, Σx = 1}``."""
    shifted = y - y.max()  # where y is large, the 1 would be lost in its sum
    descending = shifted.sort(descending=True).values
    thresholds = (descending.cumsum(0) - 1) / torch.arange(1, len(y) + 1, dtype=y.dtype)
    support = int((descending > thresholds).nonzero().max())
    return (shifted - thresholds[support]).clamp(min=0)


class Iterates:
    """The remembered weights of one problem, as weights that sum to 1.

    Where tasks are left out, the others start from their share, scaled up to 1, and what they end
    with is scaled down again.
    """

    def __init__(self, state: Tensor, problem: Problem) -> None:
        self.state, self.problem = state, problem
        mine = state[problem.segment].to("cpu", torch.float64)[problem.tasks]
        self.share = 1.0 if problem.count == problem.total else float(mine.sum())
        uniform = torch.full_like(mine, 1.0 / problem.count)
        self.weights = mine / self.share if self.share > 0 else uniform

    def store(self, weights: Tensor) -> None:
        row = self.state[self.problem.segment]
        row[self.problem.tasks.to(row.device)] = (weights * self.share).to(row.device, row.dtype)


@each_segment
def solve_sdmgrad(
    problem: Problem,
    state: Tensor,
    preference: Tensor | None,
    lr: float,
    momentum: float,
    n_iter: int,
    lam: float,
) -> Tensor:
    """``(w + λp) / (1 + λ)`` after ``n_iter`` steps ``w <- Π(w - lr v)``, ``v <- m v + A(w + λp)``.

    A is divided by the square of the mean of ``√A_ii``.
    """
    memory = Iterates(state, problem)
    w = memory.weights
    p = problem.preference(preference, 1.0 / problem.count)
    length = problem.gram.diagonal().clamp(min=0).sqrt().mean()
    velocity = torch.zeros_like(w)
    for _ in range(n_iter if length > 0 else 0):
        velocity = momentum * velocity + problem.gram @ (w + lam * p) / length**2
        w = project_simplex(w - lr * velocity)
    memory.store(w)
    return (w + lam * p) / (1 + lam)


@each_segment
def solve_modo(problem: Problem, state: Tensor, gamma: float, rho: float) -> Tensor:
    """``λ <- Π(λ - γ (Aλ + ρλ))``."""
    memory = Iterates(state, problem)
    w = memory.weights
    w = project_simplex(w - gamma * (problem.gram @ w + rho * w))
    memory.store(w)
    return w
