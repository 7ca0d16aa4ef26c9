"""Sum and mean."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Problem, each_segment

__all__ = ["solve_mean", "solve_sum"]


@each_segment
def solve_sum(problem: Problem) -> Tensor:
    """``w = 1``."""
    return torch.ones(problem.count, dtype=torch.float64)


@each_segment
def solve_mean(problem: Problem) -> Tensor:
    """``w = 1/k``."""
    return torch.full((problem.count,), 1.0 / problem.count, dtype=torch.float64)
