"""Nash-MTL and FairGrad."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eigen import EXACT, cosines, noise_of
from .segments import Problem, each_segment

__all__ = ["solve_fairgrad", "solve_nash_mtl"]

MAX_ITERATIONS = 300
MAX_STALLED = 100
LEAST_RIDGE = 1e-10


class Potential:
    """``½ xᵀAx - Σ k ψ(x)``, ``ψ'(x) = x^{-1/α}``: strictly convex, least at the answer."""

    def __init__(self, a: Tensor, k: Tensor, alpha: float) -> None:
        self.a, self.k, self.alpha = a, k, alpha

    def value(self, x: Tensor) -> float:
        power = 1 - 1 / self.alpha
        psi = x**power / power if power else x.log()
        return float(0.5 * x @ self.a @ x - self.k @ psi)

    def gradient(self, x: Tensor) -> Tensor:
        return self.a @ x - self.k * x ** (-1 / self.alpha)

    def hessian(self, x: Tensor) -> Tensor:
        return self.a + torch.diag(self.k * x ** (-1 / self.alpha - 1) / self.alpha)

    def distance(self, x: Tensor) -> float:
        """The largest relative step that Newton's method in a single x would take.

        Not ``|1 - (Ax)_i x_i^{1/α} / k_i|``: of a large x and a small α, that is rounding.
        """
        return float((self.gradient(x) / (x * self.hessian(x).diagonal())).abs().max())


def minimise(potential: Potential, x: Tensor) -> Tensor:
    """Newton's method, with step halving until the potential falls."""
    best, answer, stalled = math.inf, x, 0
    for _ in range(MAX_ITERATIONS):
        distance = potential.distance(x)
        stalled += 1
        if distance < best:
            best, answer, stalled = distance, x, 0
        if best <= 1e-14 or stalled > MAX_STALLED:
            break
        gradient = potential.gradient(x)
        step = -torch.linalg.solve(potential.hessian(x), gradient)
        decrease = -float(gradient @ step)
        if not decrease > 0:
            break
        length = min(1.0, 0.99 / max(float((-step / x).max()), 1e-300))
        value = potential.value(x)
        noise = 1e-14 * abs(value)
        while potential.value(x + length * step) > value - 0.1 * length * decrease + noise:
            length /= 2
            if length < 1e-12:
                return answer
        x = x + length * step
    return answer


def fair_weights(gram: Tensor, alpha: float, reg_eps: float | None, rounding: float) -> Tensor:
    """The w > 0 with ``(Gw)_i = w_i^{-1/α}``; 0 for a zero gradient."""
    if reg_eps is None:
        reg_eps = max(LEAST_RIDGE, noise_of(rounding, len(gram)))
    lengths, matrix = cosines(gram)
    weights = torch.zeros_like(lengths)
    present = lengths > 0
    if not present.any():
        return weights
    logs = lengths[present].log()
    k = torch.exp(2 * (1 - alpha) / (1 + alpha) * (logs - logs.mean()))
    ridge = reg_eps * torch.eye(len(k), dtype=k.dtype)
    a = (matrix[present][:, present] + ridge) * k.sqrt().outer(k.sqrt())
    x = minimise(Potential(a, k, alpha), torch.ones_like(k))
    weights[present] = x * torch.exp(-2 * alpha / (1 + alpha) * logs)
    return weights


@each_segment
def solve_fairgrad(
    problem: Problem, alpha: float, reg_eps: float | None, rounding: float = EXACT
) -> Tensor:
    """The w > 0 with ``(Gw)_i = w_i^{-1/α}``, G with a ridge of ``reg_eps`` on its cosines."""
    if alpha == 0.0:
        return torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
    return fair_weights(problem.gram, alpha, reg_eps, rounding)


@each_segment
def solve_nash_mtl(
    problem: Problem, max_norm: float | None, reg_eps: float | None, rounding: float = EXACT
) -> Tensor:
    """The w > 0 with ``(Gw)_i = 1 / w_i``, shortened to ``√(wᵀGw) <= max_norm``."""
    w = fair_weights(problem.gram, 1.0, reg_eps, rounding)
    lengths, matrix = cosines(problem.gram)
    x = w * lengths
    norm = float((x @ matrix @ x).clamp(min=0).sqrt())
    return w if max_norm is None or norm <= max_norm else w * (max_norm / norm)
