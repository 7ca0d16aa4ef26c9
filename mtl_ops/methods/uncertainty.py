"""Uncertainty weighting."""

from __future__ import annotations

from ._learnable import LogScales
from ._registry import register

__all__ = ["Uncertainty"]


@register("uncertainty")
class Uncertainty(LogScales):
    """Uncertainty weighting (UW): learns the variance of each task's noise.

    With the log-variance ``s_i = log σ_i²``, the loss of all tasks is ``Σ_i ½ e^(-s_i) L_i + ½ s_i``:

        ``w_i = ½ e^(-s_i)``,  ``∂/∂s_i = ½ - ½ e^(-s_i) L_i``.

    At its fixed point, ``s_i = log L_i``.

    Guarantee: ``w > 0``.

    Args:
        init: s at first; the paper and TorchJD have 0, LibMTL -0.5.

    Memory: s, one parameter of the inner optimizer, see
    :class:`~mtl_ops.methods._learnable.LearnableMethod`. An absent task has the weight 0, and the
    gradient of its s is 0.

    Degenerate cases: a loss that is not positive has no fixed point: its weight grows without
    bound.

    Raises:
        ValueError: If ``init`` is not finite, or the number of tasks changes.
        TypeError: If ``init`` is not a number, or there are no losses.

    Alex Kendall, Yarin Gal, Roberto Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses
    for Scene Geometry and Semantics", CVPR 2018.

    Example:
        >>> import torch, mtl_ops
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = mtl_ops.MultiTaskOptimizer(
        ...     torch.optim.SGD(model.parameters(), lr=0.1), "uncertainty", tasks=["a", "b"]
        ... )
        >>> a, b = model(torch.ones(2)).square()
        >>> optimizer.backward({"a": a, "b": b})
        >>> optimizer.report.weights
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
        >>> optimizer.step()
        >>> optimizer.method.learned.shape
        torch.Size([2])
    """

    factor, rate = 0.5, -1.0
