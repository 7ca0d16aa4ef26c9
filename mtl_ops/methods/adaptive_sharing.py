"""Adaptive sharing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import only, share
from ._memory import recall
from ._registry import register

__all__ = ["AdaptiveSharing"]


@register("adaptive_sharing")
class AdaptiveSharing(NativeMethod):
    """Adaptive sharing: tasks whose gradients agree share their updates, others do not.

    C is an exponential average of the cosines of the gradients, ``C <- β C + (1 - β) cos``, and
    ``A_ij = max(C_ij, 0)``, ``A_ii = 1``, says how much of ``g_j`` enters the update of task i.
    With ``n_i = Σ_j A_ij``, the number of tasks that share with i,

        ``u_i = Σ_j A_ij g_j / n_i``,  ``d = Σ_i u_i / n_i``,

    that is ``w_j = Σ_i A_ij / n_i²``: each task's update is a mean over its relatives, and tasks that
    share an update take one step together and not each one of its own.

    Limits: if all tasks are related (A is 1 everywhere), ``d`` is the mean of the gradients. If none
    are (A = I), each task contributes its own gradient, ``w = 1``: the sum of independent updates.
    In between, disjoint groups of related tasks contribute the mean of each group.

    Guarantees: ``w > 0``; ``Σw = Σ_i 1/n_i`` is the effective number of independent groups, between
    1 and T; w depends on the directions of the gradients alone, and permutes with the tasks. It is
    no method against conflict: ``g_i·d`` may be negative.

    Args:
        beta: β, in [0, 1); 0 for the cosines of this step alone.

    Memory: C, ``(S, T, T)``; the cosines themselves the first time that two gradients meet.

    Degenerate cases: a pair with a zero gradient, or with a task that takes no part, leaves its
    ``C_ij`` as it is; two tasks that never met are unrelated. A task that takes no part has the
    weight 0 and does not count as a relative. If a gradient is not finite, w is NaN and C stays.

    Raises:
        ValueError: If ``beta`` is out of range, or the tasks or segments change.
        TypeError: If ``beta`` is not a number.

    The definition is this package's own. Averages of cosines as a measure of how related tasks are:
    Zirui Wang, Yulia Tsvetkov, Orhan Firat, Yuan Cao, "Gradient Vaccine", ICLR 2021; cosines that
    decide whether a task's gradient is used: Yunshu Du, Wojciech M. Czarnecki, Siddhant M. Jayakumar,
    Mehrdad Farajtabar, Razvan Pascanu, Balaji Lakshminarayanan, "Adapting Auxiliary Losses Using
    Gradient Similarity", arXiv 1812.02224, 2018; affinities that decide what is trained together:
    Christopher Fifty, Ehsan Amid, Zhe Zhao, Tianhe Yu, Rohan Anil, Chelsea Finn, "Efficiently
    Identifying Task Groupings for Multi-Task Learning", NeurIPS 2021.

    Example:
        >>> import torch, mtl_ops
        >>> gradients = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # two agree
        >>> mtl_ops.merge(gradients, "adaptive_sharing")
        tensor([1.5000, 1.0000])
    """

    state_names = ("cosines",)

    def __init__(self, *, beta: float = 0.9) -> None:
        self.beta = share("beta", beta)
        self.cosines: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        cosines = recall(self, "cosines", tuple(gram.shape), gram.device, torch.nan)
        return ops.solve_adaptive_sharing(gram, scale, cosines=cosines, beta=self.beta)
