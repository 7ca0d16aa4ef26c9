"""Krum and Multi-Krum."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Problem, each_segment

__all__ = ["solve_krum"]


@each_segment
def solve_krum(problem: Problem, n_byzantine: int, n_selected: int, squared: bool) -> Tensor:
    """``w = 1/m`` for the m tasks with the least distance to their nearest neighbours."""
    k = problem.count
    square = problem.gram.diagonal()
    distances = (square.unsqueeze(1) + square - 2 * problem.gram).clamp(min=0)
    if not squared:
        distances = distances.sqrt()
    distances.fill_diagonal_(torch.inf)
    neighbours = min(max(k - n_byzantine - 2, 1), k - 1)
    scores = distances.sort(dim=1).values[:, :neighbours].sum(dim=1)
    selected = scores.argsort(stable=True)[:n_selected]
    weights = torch.zeros_like(square)
    weights[selected] = 1.0 / len(selected)
    return weights
