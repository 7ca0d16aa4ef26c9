"""Adaptive sharing."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Problem, each_segment

__all__ = ["solve_adaptive_sharing"]


@each_segment
def solve_adaptive_sharing(problem: Problem, cosines: Tensor, beta: float) -> Tensor:
    """``w_j = Σ_i r_ij / (Σ_m r_im)²``, r the average cosines in [0, 1] with ``r_ii = 1``."""
    norms = problem.gram.diagonal().clamp(min=0.0).sqrt()
    tasks = problem.tasks.to(cosines.device)
    place = problem.segment, tasks.unsqueeze(1), tasks.unsqueeze(0)
    old = cosines[place].to(norms)
    fresh = problem.gram / norms.unsqueeze(1) / norms.unsqueeze(0)
    mixed = torch.where(old.isnan(), fresh, beta * old + (1.0 - beta) * fresh)
    met = (norms.unsqueeze(1) > 0) & (norms.unsqueeze(0) > 0)
    averages = torch.where(met, mixed, old)
    cosines[place] = averages.to(cosines)
    related = torch.where(averages.isnan(), 0.0, averages.clamp(0.0, 1.0)).fill_diagonal_(1.0)
    return (related / related.sum(dim=1, keepdim=True).square()).sum(dim=0)
