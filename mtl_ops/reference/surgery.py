"""PCGrad, GradVac and online PCGrad."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .qp import EPSILON
from .segments import Problem, each_segment

__all__ = ["solve_gradvac", "solve_online_pcgrad", "solve_pcgrad"]


def _others(problem: Problem, orders: Tensor, place: int) -> Iterator[int]:
    """Places of the other tasks that take part, in the order given for the task in ``place``."""
    tasks = problem.tasks.tolist()
    for task in orders[problem.segment, tasks[place]].tolist():
        if task in tasks and task != tasks[place]:
            yield tasks.index(task)


@each_segment
def solve_pcgrad(problem: Problem, orders: Tensor, mean: bool) -> Tensor:
    """``w = Σ_i c_i``; from ``c_i = e_i``, a negative ``p = <g_j, Jᵀc_i>`` lowers c_ij by p/G_jj."""
    gram = problem.gram
    total = torch.zeros(problem.count, dtype=torch.float64)
    for i in range(problem.count):
        c = torch.zeros_like(total)
        c[i] = 1.0
        for j in _others(problem, orders, i):
            inner = gram[j] @ c
            if inner < 0 and gram[j, j] > 0:
                c[j] -= inner / gram[j, j]
        total += c
    return total / problem.count if mean else total


@each_segment
def solve_gradvac(
    problem: Problem, orders: Tensor, rho: Tensor, beta: float, eps: float, tol: float
) -> Tensor:
    """``w = Σ_i c_i``; a cosine φ below ρ_ij - tol is raised to ρ_ij, then ρ_ij moves towards φ."""
    gram = problem.gram
    norms = gram.diagonal().sqrt()
    total = torch.zeros(problem.count, dtype=torch.float64)
    for i in range(problem.count):
        c = torch.zeros_like(total)
        c[i] = 1.0
        for j in _others(problem, orders, i):
            pair = problem.segment, int(problem.tasks[i]), int(problem.tasks[j])
            goal, norm, other = rho[pair].item(), _norm(gram, c, norms), norms[j].item()
            found = 0.0
            if norm > 0 and other > 0:
                found = (gram[j] @ c).item() / (norm * other + eps)
                found = max(-1.0, min(1.0, found))
            sine, goal_sine = _sine(found), _sine(goal)
            if found < goal - tol and other > 0 and other * goal_sine + eps > 0:
                c[j] += norm * (goal * sine - found * goal_sine) / (other * goal_sine + eps)
            rho[pair] = (1 - beta) * goal + beta * found
        total += c
    return total


def _sine(cosine: float) -> float:
    return math.sqrt(max(1.0 - cosine**2, 0.0))


def _norm(gram: Tensor, c: Tensor, norms: Tensor) -> float:
    """``|Jᵀc|``, or 0 where nothing but rounding is left of it."""
    square = (c @ gram @ c).item()
    floor = 4 * len(c) * EPSILON * (c.abs() @ norms).item() ** 2
    return math.sqrt(square) if square > floor else 0.0


@each_segment
def solve_online_pcgrad(problem: Problem, order: Tensor) -> Tensor:
    """``a <- a + g_i - min(0, <g_i, a>) / |a|² a``, from ``a = 0``, for the tasks in the order given."""
    c = torch.zeros(problem.count, dtype=torch.float64)
    tasks = problem.tasks.tolist()
    for task in order[problem.segment].tolist():
        if task not in tasks:
            continue
        i = tasks.index(task)
        inner, square = problem.gram[i] @ c, c @ problem.gram @ c
        if inner < 0 and square > 0:
            c = (1 - inner / square) * c
        c[i] += 1.0
    return c
