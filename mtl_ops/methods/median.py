"""Median."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import CoordinateMethod
from ._checks import only
from ._registry import register

__all__ = ["Median"]


@register("median")
class Median(CoordinateMethod):
    """The median of each coordinate; of an even number of tasks the mean of the middle two.

    ``torch.median`` takes the lower of the two, which depends on the sign of the gradients.

    Guarantees: each coordinate lies within the tasks' values; it does not depend on the order of the
    tasks; less than half of the tasks may be anything at all.

    Degenerate cases: a NaN gives NaN.

    Dong Yin, Yudong Chen, Kannan Ramchandran, Peter Bartlett, "Byzantine-Robust Distributed
    Learning: Towards Optimal Statistical Rates", ICML 2018.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 5.0], [2.0, 6.0], [90.0, -7.0]]), "median")
        tensor([2., 5.])
    """

    segmentwise = True

    def merge_(
        self,
        out: Sequence[Tensor],
        rows: Sequence[Tensor | None],
        scale: Tensor,
        segments: Sequence[int],
        clip_value: float | None,
        accumulate: bool,
        **given: Any,
    ) -> Tensor:
        """See :meth:`CoordinateMethod.merge_`."""
        only(given)
        return ops.merge_median_(out, rows, scale, segments, clip_value, accumulate)
