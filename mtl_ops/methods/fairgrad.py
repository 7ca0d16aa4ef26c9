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
    They are found by Newton's method to rounding.

    Guarantees: ``g_i·d > 0`` for every task. If all gradients are multiplied by c, d is multiplied
    by ``c^{(1-α)/(1+α)}``.

    Args:
        alpha: α; 0 weighs all tasks ``1/k``, whatever the gradients. The original code and LibMTL
            have 1, too; the original code limits the norm to 1 besides
            (``MultiTaskOptimizer(max_norm=1)``).
        reg_eps: Ridge on the matrix of cosines. Without a direction that suits all tasks the
            equation has no solution, and the ridge is what keeps the answer finite. Take 1e-6 or
            more for gradients that are measured with noise.

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

    def __init__(self, *, alpha: float = 1.0, reg_eps: float = 1e-10) -> None:
        self.alpha = non_negative("alpha", alpha)
        self.reg_eps = non_negative("reg_eps", reg_eps)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_fairgrad(gram, scale, alpha=self.alpha, reg_eps=self.reg_eps)
