"""Equal weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.known import known_finite
from ._base import LossMethod, check_losses
from ._registry import register

__all__ = ["Equal"]


@register("equal")
class Equal(LossMethod):
    """The sum of the losses, ``w = 1``, and one backward for all: the baseline of every method.

    Method ``sum`` is the same with a gradient for each task, so that they can be measured and
    clipped.

    Guarantee: what ``sum(losses).backward()`` does.

    Degenerate cases: a task whose loss is not finite has the weight 0.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "equal")
        tensor([1., 2.])
    """

    uses_losses = False

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64; ``gram`` counts the tasks if there are no losses."""
        if losses is None and gram is not None:
            losses = gram.new_zeros(gram.shape[-1])
        values = check_losses(losses, self.name)
        return torch.ones_like(values) if known_finite(values) else values.isfinite().double()

    def numbers(self, losses: Sequence[float]) -> list[float]:
        return [1.0] * len(losses)
