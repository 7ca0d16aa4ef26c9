"""MetaBalance."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ._base import NativeMethod
from ._checks import closed_share, integer, one_of, only, share
from ._memory import recall
from ._registry import register

__all__ = ["MetaBalance"]


@register("metabalance")
class MetaBalance(NativeMethod):
    """MetaBalance: brings the gradients of auxiliary tasks towards the length of the main task's.

    With m_i the moving average of the norm of the gradient of task i, ``m_i ← β m_i + (1 - β) n_i``,

        ``w_i = r m_main / m_i + (1 - r)`` for auxiliary tasks, ``w_main = 1``;

    with the strategy ``"reduce"`` only where ``m_i > m_main``, with ``"enlarge"`` only where ``m_i < m_main``, and 1
    elsewhere. The paper balances every tensor by itself: that is ``MultiTaskOptimizer(..., granularity="tensor")``.

    Guarantees: with ``relax=1`` and constant gradients all weighted norms are that of the main task; ``relax=0`` is
    ``sum``. Weights are at most 1 with ``"reduce"`` and at least 1 with ``"enlarge"``. Multiplying all gradients by a
    number leaves w as it is.

    Args:
        relax: r, in [0, 1].
        beta: β, in [0, 1).
        main: The number of the main task.
        strategy: ``"both"``, ``"reduce"`` or ``"enlarge"``.

    Memory: the averages, ``(S, 2, T)`` for S sets of parameters: not yet corrected for their start at 0, and the total
    weight in them. The correction cancels in the ratio as long as no task is absent. The number of sets has to stay
    the same.

    Degenerate cases: a task that takes no part has the weight 0 and keeps its average; where the main task does not,
    its last average serves. A task whose average is 0 has the weight 1; if that of the main task is 0, the others have
    ``1 - r``. A gradient that is not finite makes the answer NaN, and the averages stay. T = 1: ``w = 1``.

    Where others differ: the official code has ``"both"`` alone (the three strategies are those of the paper, from
    memory); it stops at the first parameter that a loss does not reach, leaves all later ones with that loss's
    gradient, and is NaN for a zero gradient.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks or sets changes.
        TypeError: If a parameter is of the wrong type.

    Yun He, Xue Feng, Cheng Cheng, Geng Ji, Yunsong Guo, James Caverlee, "MetaBalance: Improving Multi-Task
    Recommendations via Adapting Gradient Magnitudes of Auxiliary Tasks", WWW 2022.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.MetaBalance(relax=1.0)
        >>> mtl_ops.merge(torch.tensor([[2.0, 0.0], [0.0, 10.0]]), method)
        tensor([2., 2.])
    """

    state_names = ("averages",)

    def __init__(
        self,
        *,
        relax: float = 0.7,
        beta: float = 0.9,
        main: int = 0,
        strategy: Literal["both", "reduce", "enlarge"] = "both",
    ) -> None:
        self.relax = closed_share("relax", relax)
        self.beta = share("beta", beta)
        self.main = integer("main", main, 0)
        self.strategy = one_of("strategy", strategy, ("both", "reduce", "enlarge"))
        self.averages: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        segments, tasks = gram.shape[:2]
        if self.main >= tasks:
            raise ValueError(
                f"Parameter `main` should be the number of one of {tasks} tasks. "
                f"Found `main = {self.main}`."
            )
        scale = torch.ones_like(gram[..., 0]) if scale is None else scale
        part = scale != 0
        norms = torch.where(part, scale.abs() * gram.diagonal(dim1=1, dim2=2).sqrt(), 0.0)
        usable = norms.isfinite().all()
        shape = segments, 2, tasks
        averages = recall(self, "averages", shape, gram.device, 0.0)
        fresh = torch.stack([norms, torch.ones_like(norms)], dim=1)
        new = self.beta * averages + (1 - self.beta) * fresh
        averages.copy_(torch.where(part.unsqueeze(1) & usable, new, averages))
        answer = torch.where(usable, scale * self._balance(averages), torch.nan)
        return torch.where(part, answer, 0.0)

    def _balance(self, averages: Tensor) -> Tensor:
        """``(S, T)``, of unscaled tasks."""
        total, weight = averages.unbind(dim=1)
        lengths = torch.where(weight > 0, total / weight, 0.0)
        main = lengths[:, self.main : self.main + 1]
        changed = {"both": lengths > 0, "reduce": lengths > main, "enlarge": lengths < main}
        acts = changed[self.strategy] & (lengths > 0)
        acts[:, self.main] = False
        return torch.where(acts, self.relax * (main / lengths) + (1 - self.relax), 1.0)
