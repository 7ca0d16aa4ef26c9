"""Sum and mean: the baselines that look at nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import only
from ._registry import register

__all__ = ["Mean", "Sum"]


@register("sum")
class Sum(NativeMethod):
    """The sum of the task gradients, ``w = 1``: what a backward of the summed losses gives.

    The gradients are still taken task by task, so that they can be measured, clipped and left out
    when they are not finite. Method ``equal`` is the same with one backward and without all that.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "sum")
        tensor([1., 2.])
    """

    segmentwise = True

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_sum(gram, scale)


@register("mean")
class Mean(NativeMethod):
    """The mean of the task gradients, ``w = 1/k`` for the k tasks that take part.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "mean")
        tensor([0.5000, 1.0000])
    """

    segmentwise = True

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_mean(gram, scale)
