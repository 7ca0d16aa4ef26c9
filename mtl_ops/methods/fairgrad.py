"""FairGrad."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, only
from ._registry import register

__all__ = ["FairGrad"]


@register("fairgrad")
class FairGrad(NativeMethod):
    """FairGrad: α-fair allocation of progress to the tasks.

    The weights are the w > 0 with

        ``(G w)_i = w_i^{-1/α}``,

    where the sum of the α-fair utilities of the tasks' progress ``g_i·d`` is largest. α = 1 is
    :class:`NashMTL` without its limit, and large α approaches the best progress of the worst task.
    They are found by Newton's method, to rounding where the equation has a solution (with α below 0.5
    and more tasks than dimensions to a few percent). Where the tasks conflict and α is small, weights
    become so large that ``w_i^{-1/α}`` is less than the rounding of ``(Gw)_i``, and the equation cannot
    be read off the answer. The w are still those of the largest utility.

    Guarantees: ``g_i·d > 0`` for every task, if there is such a direction. If all gradients are
    multiplied by c, d is multiplied by ``c^{(1-α)/(1+α)}``.

    Args:
        alpha: α; 0 weighs all tasks ``1/k``, whatever the gradients. The original code and LibMTL
            have 1, too; the original code limits the norm to 1 besides
            (``MultiTaskOptimizer(max_norm=1)``).
        reg_eps: Ridge on the matrix of cosines. Without a direction that suits all tasks the
            equation has no solution, and the ridge is what keeps the answer finite. ``None``
            follows from the dtype of the gradients: 1e-10 of float64, and, with k tasks, 1e-6 k of
            float32, 8e-6 k of float16, 5e-4 k of bfloat16.

    LibMTL multiplies the gradients of heads with the weights, too; here each head gets its own
    gradient.

    Degenerate cases: a zero gradient has the weight 0 and changes nothing for the others. T = 1:
    ``w = |g|^{-2α/(1+α)}``. With α far from 1 and norms over 12 decades, sums ``G w`` cancel, and
    the equation holds to 1e-5 only.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is not a number.

    Hao Ban, Kaiyi Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[8.0, 0.0], [0.0, 1.0]]), mtl_ops.methods.FairGrad(alpha=2))
        tensor([0.5000, 1.0000])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(self, *, alpha: float = 1.0, reg_eps: float | None = None) -> None:
        self.alpha = non_negative("alpha", alpha)
        self.reg_eps = None if reg_eps is None else non_negative("reg_eps", reg_eps)

    def solve(
        self,
        gram: Tensor,
        scale: Tensor | None,
        losses: Tensor | None,
        *,
        rounding: float = ops.EXACT,
        **given: Any,
    ) -> Tensor:
        only(given)
        return ops.solve_fairgrad(
            gram, scale, alpha=self.alpha, reg_eps=self.reg_eps, rounding=rounding
        )
