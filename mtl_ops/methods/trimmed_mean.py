"""Trimmed mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import CoordinateMethod
from ._checks import integer, only
from ._registry import register

__all__ = ["TrimmedMean"]


@register("trimmed_mean")
class TrimmedMean(CoordinateMethod):
    """The mean of each coordinate without its ``trim`` largest and ``trim`` smallest values.

    Guarantees: each coordinate lies within the tasks' values; it does not depend on the order of the
    tasks; up to ``trim`` tasks may be anything at all.

    Args:
        trim: Values dropped at either end; there should be more than ``2 trim`` tasks.

    Degenerate cases: where no more than ``2 trim`` tasks take part, because others are absent or do
    not reach a parameter, it is the median of those that do. A NaN gives NaN.

    Raises:
        ValueError: If ``trim`` is negative, or there are no more than ``2 trim`` tasks.
        TypeError: If ``trim`` is not an integer.

    Dong Yin, Yudong Chen, Kannan Ramchandran, Peter Bartlett, "Byzantine-Robust Distributed
    Learning: Towards Optimal Statistical Rates", ICML 2018.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 5.0], [2.0, 6.0], [90.0, -7.0]]), "trimmed_mean")
        tensor([2., 5.])
    """

    segmentwise = True

    def __init__(self, *, trim: int = 1) -> None:
        self.trim = integer("trim", trim, 0)

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
        tasks = scale.shape[1]
        if tasks <= 2 * self.trim:
            raise ValueError(
                f"Parameter `trim` should be less than half the number of tasks, which is {tasks}. "
                f"Found `trim = {self.trim}`."
            )
        return ops.merge_trimmed_mean_(
            out, rows, scale, segments, clip_value, accumulate, trim=self.trim
        )
