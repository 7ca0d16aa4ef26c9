"""GO4Align."""

from __future__ import annotations

import torch
from torch import Tensor

from ._base import LossMethod, check_losses
from ._checks import integer, non_negative
from ._losses import shares
from ._memory import recall
from ._registry import register

__all__ = ["GO4Align"]


@register("go4align")
class GO4Align(LossMethod):
    """Group optimisation for alignment: tasks of similar progress share a weight.

        ``p ← p e^{-η L} / Σ``,  ``v_i = p_i Σ_j L_j / L_i``,  ``w_i`` = the mean of v in the group of task i,

    where the groups are the ``groups`` intervals of the numbers v with the least sum of squares within: a clustering
    on the line, found exactly.

    Guarantees: ``w > 0``, of at most ``groups`` different values; ``Σw = Σv``.

    Args:
        groups: K; with 1 all weights are the same, which is what the official code does by default.
        step_size: η, in units of 1 / loss.

    Memory: log p. p is a running product: after about ``1 / (η ΔL)`` steps nearly all of it is at the task whose losses
    had the least sum; keep η small.

    Degenerate cases: a loss that is not positive makes all weights NaN, and nothing is remembered. A task that takes no
    part has the weight 0 and keeps its p; sums are over the others. T = 1: ``w = 1``.

    Where others differ: official code asks for clusters from a function whose import is commented out, so that 2 groups
    or more raise an error; with its default of one group the weights are equal, times ``mean(v)``.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Jiayi Shen, Qi Wang, Zehao Xiao, Nanne van Noord, Marcel Worring, "GO4Align: Group Optimization for Multi-Task
    Alignment", NeurIPS 2024.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.GO4Align(step_size=0.0)
        >>> method.weights(None, torch.tensor([1.0, 3.0, 4.0]))  # v = 8/3, 8/9, 2/3
        tensor([2.6667, 0.7778, 0.7778], dtype=torch.float64)
    """

    state_names = ("log_shares",)

    def __init__(self, *, groups: int = 2, step_size: float = 1e-4) -> None:
        self.groups = integer("groups", groups, 1)
        self.step_size = non_negative("step_size", step_size)
        self.log_shares: Tensor | None = None

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        part = values.isfinite()
        usable = ((values > 0) | ~part).all()
        log_shares = recall(self, "log_shares", (len(values),), values.device, 0.0)
        known = torch.where(part, values, 0.0)
        log_shares.copy_(torch.where(usable, log_shares - self.step_size * known, log_shares))
        v = torch.where(part, shares(log_shares, part) * known.sum() / values, 0.0)
        return torch.where(
            part, torch.where(usable, group_means(v, part, self.groups), torch.nan), 0.0
        )


def group_means(x: Tensor, part: Tensor, groups: int) -> Tensor:
    """Of T numbers, of which ``part`` count: the mean of each number's group, in the best partition of the line.

    Least squares by dynamic programming over the sorted numbers, without a wait for the device. The cost of an interval
    is the sum of the squares of all differences in it over their number: a sum without a subtraction, which no large
    number drowns.

    Example:
        >>> group_means(torch.tensor([1.0, 9.0, 2.0]), torch.tensor([True, True, True]), 2)
        tensor([1.5000, 9.0000, 1.5000], dtype=torch.float64)
    """
    tasks = len(x)
    order = torch.where(part, x, torch.inf).argsort(stable=True)
    counts = part[order].double()
    values = torch.where(counts > 0, x[order].double(), 0.0)
    both = counts.unsqueeze(1) * counts
    differences = (both * (values.unsqueeze(1) - values).square()).triu()
    # entry (i, j): of the numbers i to j
    inside = differences.cumsum(dim=1).flip(0).cumsum(dim=0).flip(0).triu()
    places = torch.arange(tasks, device=x.device)
    upto = counts.cumsum(0)
    number = (upto.unsqueeze(0) - upto.unsqueeze(1) + counts.unsqueeze(1)).clamp(min=1.0)
    cost = torch.where(places.unsqueeze(1) <= places, inside / number, torch.inf)
    best, starts = cost[0], []
    for _ in range(min(groups, tasks) - 1):
        before = torch.cat([best.new_zeros(1), best[:-1]])  # of all numbers before i
        best, start = (before.unsqueeze(1) + cost).min(dim=0)
        starts.append(start)
    label = torch.zeros(tasks, dtype=torch.int64, device=x.device)
    end = torch.full((1,), tasks - 1, dtype=torch.int64, device=x.device)
    for start in reversed(starts):
        first = start[end.clamp(min=0)]
        label += (places >= first).long()
        end = first - 1
    sums = torch.zeros(tasks, dtype=torch.float64, device=x.device)
    sizes, sums = sums.scatter_add(0, label, counts), sums.scatter_add(0, label, values)
    means = torch.zeros_like(sums)
    means[order] = (sums / sizes.clamp(min=1.0))[label]
    return means
