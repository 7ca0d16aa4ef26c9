"""Nash-MTL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, only, positive
from ._registry import register

__all__ = ["NashMTL"]


@register("nash_mtl")
class NashMTL(NativeMethod):
    """Nash-MTL: the bargaining solution, in which each task gains by the same factor.

    The weights are the w > 0 with

        ``(G w)_i = 1 / w_i``,

    found by Newton's method to rounding, in about ten steps and without a memory. The original code
    solves a sequence of convex programs from the last call's weights and stops early: its weights
    depend on the order of the calls, and are wrong where gradients are shorter than 1e-3 or longer
    than 1e3.

    Guarantees: ``w_i (G w)_i = 1`` to rounding, so ``g_i·d > 0`` for every task; d does not change
    if any gradient is multiplied by a positive number; and ``|d| = √T`` *always*. ``max_norm=1`` is
    therefore always active for T > 1, and the update has length 1 whatever the gradients: choose
    the learning rate with that in mind.

    Args:
        max_norm: Shortens the merged gradient to this norm; ``None`` for no limit. All
            implementations have 1.
        reg_eps: Ridge on the matrix of cosines. Without a direction that suits all tasks the
            equation has no solution, and the ridge is what keeps the answer finite. ``None``
            follows from the dtype of the gradients: 1e-10 of float64, and, with k tasks, 1e-6 k of
            float32, 8e-6 k of float16, 5e-4 k of bfloat16.

    LibMTL multiplies the gradients of heads with the weights, too; here each head gets its own
    gradient.

    Degenerate cases: a zero gradient has the weight 0 and changes nothing for the others. Two
    opposite gradients cancel, and the others proceed. If all tasks conflict, ``|d|`` goes to 0 with
    ``√reg_eps``. T = 1: ``w = 1/|g|``.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is not a number.

    Aviv Navon, Aviv Shamsian, Idan Achituve, Haggai Maron, Kenji Kawaguchi, Gal Chechik, Ethan
    Fetaya, "Multi-Task Learning as a Bargaining Game", ICML 2022.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "nash_mtl")
        tensor([0.7071, 0.7071])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(self, *, max_norm: float | None = 1.0, reg_eps: float | None = None) -> None:
        self.max_norm = None if max_norm is None else positive("max_norm", max_norm)
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
        return ops.solve_nash_mtl(
            gram, scale, max_norm=self.max_norm, reg_eps=self.reg_eps, rounding=rounding
        )
